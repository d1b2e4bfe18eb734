"""`polyrank bench`: what a model costs on this machine in each setting, and which one to use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import cut_note, json_line, note
from polyrank.cli.reading import lines_of, open_bytes, parse_pair, place, read_documents
from polyrank.errors import BackendError

if TYPE_CHECKING:
    from polyrank.bench import Workload

__all__ = ["bench"]

_SYNTHETIC = 64  # pairs
_OF_A_FILE = 256


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder, a hub id (owner/name) or a short name; none: the embedded model.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs",
            metavar="FILE",
            help="Measure with your own pairs, `query TAB text` a line; several texts a query.",
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", help="A query of your own, with --documents.")
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option("--documents", metavar="FILE", help="Documents for --query, one a line."),
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A line of these files is a JSON object with `text`, `title` if you like, and "
            "`query` in those of --pairs.",
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            metavar="PAIRS",
            help="Take the first so many pairs of your file (256 unless given), or make up so many "
            "(64).",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="SETTINGS",
            help="onnx:int8,torch:bf16, ...: engine onnx, torch, cuda or mps, and dtype. All that "
            "run here unless given; fp32 is always there to compare with.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Turns of every setting; the median counts.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    revision: o.Revision = None,
    max_length: o.MaxLength = None,
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Measure a model in every setting that runs here, and say which one to use.

    Speed, memory, cold start, the share of what this machine's matrix products can do, and how far
    each setting orders documents as fp32 does. The settings take turns, each turn in a process of
    its own. Recommended is the fastest whose Kendall tau with fp32 is at least 0.98, or whose
    top-10 overlap is at least 0.95.

    Without pairs of your own the text is made of random tokens: good for speed, but it says
    nothing of how well a setting ranks.

    Examples:

      polyrank bench bge-reranker-v2-m3 --pairs pairs.tsv

      polyrank bench ./my-model --query "solar power" --documents notes.txt --only onnx:int8
    """
    if (query is None) != (documents is None):
        raise typer.BadParameter("expected --query and --documents, got one of them")
    if pairs is not None and query is not None:
        raise typer.BadParameter("expected --pairs, or --query and --documents, got both")
    if jsonl and pairs is None and query is None:
        raise typer.BadParameter("expected --pairs or --documents with --jsonl, got neither")
    from polyrank import bench as b
    from polyrank.checkpoint import read_config
    from polyrank.cli import bench_printing as printing
    from polyrank.models import find_model
    from polyrank.tokenization import PairTokenizer

    settings = b.parse_settings(only) if only is not None else None
    own = _own_pairs(pairs, query, documents, jsonl=jsonl, count=count or _OF_A_FILE)
    folder = find_model(model, revision=revision, offline=offline or None)
    config = read_config(folder.path)
    tokenizer = PairTokenizer.from_folder(folder.path)
    limit = max_length or tokenizer.limit_of(None, config.max_positions)
    workload = own or b.synthesise(tokenizer, count=count or _SYNTHETIC, max_length=limit)
    with printing.step_bar() as on_step:
        report = b.measure(
            b.ModelOptions(model=model, revision=revision, max_length=max_length, threads=threads),
            config,
            settings or b.possible_settings(folder.path),
            workload,
            rounds=rounds,
            on_step=on_step,
            say=note,
        )
    advice = b.recommend(report.rows, synthetic=workload.synthetic, model=model)
    if as_json:
        run = {"model": folder.name, "revision": folder.revision, "rounds": rounds}
        print(json_line(run | printing.as_fields(report, advice, workload, threads)))
    else:
        note(printing.heading(folder.name, report, workload, threads))
        printing.print_report(report, advice)
        cut_note(report.cut, len(report.lengths), "pairs", limit)
    if advice.setting is None:
        raise BackendError(
            f"expected at least one setting to run here, and none did: {report.rows[0].error}"
        )


def _own_pairs(
    pairs: str | None, query: str | None, documents: str | None, *, jsonl: bool, count: int
) -> Workload | None:
    """The pairs that the user gave; None: there are none."""
    from polyrank.bench import workload_of

    if pairs is not None:
        return workload_of(_first(_pairs_of(pairs, jsonl=jsonl), count, place(pairs)))
    if query is None or documents is None:
        return None
    # The argument's bytes as UTF-8, whatever the locale made of them.
    text = os.fsencode(query).decode("utf-8", "surrogateescape")
    found = _documents_of(documents, text, jsonl=jsonl)
    return workload_of(_first(found, count, place(documents)))


def _pairs_of(file: str, *, jsonl: bool) -> Iterator[tuple[str, str]]:
    from polyrank.tokenization import document_text

    with open_bytes(file) as stream:
        for number, line in enumerate(lines_of(stream), start=1):
            here = f"{place(file)}:{number}"
            fields = parse_pair(line, here, jsonl=jsonl)
            yield fields["query"], document_text(fields, here)


def _documents_of(file: str, query: str, *, jsonl: bool) -> Iterator[tuple[str, str]]:
    from polyrank.tokenization import check_text, document_text

    check_text(query, "--query")
    for document in read_documents([file], "jsonl" if jsonl else "lines")[0]:
        yield query, document_text(document, file)


def _first(pairs: Iterable[tuple[str, str]], count: int, where: str) -> list[tuple[str, str]]:
    taken = list(islice(pairs, count + 1))
    if len(taken) > count:
        note(f"took the first {count} pairs of {where}; --count takes more")
    return taken[:count]
