"""`polyrank mine`: pairs in, groups with hard negatives out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import note
from polyrank.cli.runs import alone, bad_lines_note, count_bar, require_torch
from polyrank.cli.searches import Models, check_search, content_hash
from polyrank.errors import InputError

if TYPE_CHECKING:
    from polyrank.training.groups import Group
    from polyrank.training.mining import Judge, MiningConfig

__all__ = ["mine"]

_SHOWN = 3  # groups of a dry run
_TIMED = 16  # groups that a dry run mines
_SAMPLE = 512  # texts whose vectors a dry run makes
_WIDTH = 100  # characters of a text that a dry run shows


def mine(
    pairs: Annotated[
        str,
        typer.Argument(
            metavar="PAIRS",
            help="JSON lines with `query` and `positive`, or groups; NAME.tsv with query, positive "
            "and negative; or a folder in the layout of BEIR. Also .gz and .xz.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="GROUPS", help="The groups file to write."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="What negatives are taken from: JSON lines with `text` and, if you like, `title`, "
            "where the name says .jsonl, else a text a line; without it, the positives.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="SEARCH",
            help="bm25, or e5:FOLDER, a bi-encoder of E5's kind; repeat it, and they take turns. "
            "Without it, bm25.",
        ),
    ] = None,
    hard: Annotated[
        int, typer.Option(min=0, help="Negatives of a group that the searches found.")
    ] = 6,
    easy: Annotated[int, typer.Option(min=0, help="Negatives of a group drawn at random.")] = 4,
    depth: Annotated[int, typer.Option(min=1, help="Texts that each search finds.")] = 50,
    skip_best: Annotated[
        int,
        typer.Option(
            "--skip-best",
            min=0,
            metavar="N",
            help="Leave out the N best found, for data with many unlabelled answers.",
        ),
    ] = 0,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="Leave out what this model takes for an answer too: e5:FOLDER judges by cosine, a "
            "reranker (folder, hub id or short name) by its logits.",
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            help="How far below the positive a negative must be judged, in the judge's units."
        ),
    ] = 0.0,
    relative: Annotated[
        bool,
        typer.Option("--relative", help="The margin is a share of the positive's: .05 for 5 %."),
    ] = False,
    split: Annotated[str, typer.Option(help="Of a BEIR folder's qrels.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the first groups and the duration; write nothing."),
    ] = False,
    device: o.Device = "auto",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Find hard negatives for pairs: texts that look like an answer and are not.

    A line of GROUPS is a query with its positive, its own negatives, and then those found. A known
    answer of a query is never its negative. Bad lines are left out, counted and named.

    The same command goes on where an interrupted one, even a killed one, stopped. Vectors of texts
    are kept beside GROUPS, and used again by the next run over the same texts.

    Examples:

      polyrank mine pairs.jsonl --out groups.jsonl

      polyrank mine pairs.jsonl --texts corpus.jsonl --search bm25 --search e5:multilingual-e5-small
      --judge e5:multilingual-e5-small --margin .05 --relative --out groups.jsonl
    """
    if out is None and not dry_run:
        raise typer.BadParameter("expected --out GROUPS, or --dry-run to only look, got neither")
    if judge is None and (margin or relative):
        raise typer.BadParameter("expected --judge MODEL with --margin or --relative, got none")
    names = search or ["bm25"]
    for name in names:
        check_search(name)
    if any(name.startswith("e5:") for name in (*names, judge or "")):
        require_torch()
    from polyrank.training.mining import MiningConfig
    from polyrank.training.mining import mine as mine_groups

    if out is not None:
        _check_out(out, pairs, texts)
    groups = _read_groups(pairs, split)
    corpus = _read_texts(texts, groups)
    config = MiningConfig(
        hard=hard, easy=easy, depth=depth, skip_best=skip_best, margin=margin, relative=relative,
        seed=seed,
    )  # fmt: skip
    with ExitStack() as stack:
        models = Models(device, offline, threads, stack)
        judged = None if judge is None else models.judge(judge)
        if out is None or dry_run:
            _show(groups, corpus, names, models, config, judged)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone(out))
        try:
            found = models.searches(names, corpus, beside=out)
            identity = {
                "pairs_hash": content_hash(g.to_json() for g in groups),
                "texts_hash": content_hash(corpus),
                "searches": [models.identity(n) for n in names],
                "judge": None if judge is None else models.identity(judge),
            }
            with count_bar("mining") as advance:
                count = mine_groups(
                    groups, corpus, found, config, out,
                    judge=judged, progress=advance, identity=identity,
                )  # fmt: skip
        except KeyboardInterrupt:
            note(f"stopped; the same command goes on with {out}")
            raise
    note(f"wrote {count:,} {'group' if count == 1 else 'groups'} to {out}")
    if alone_left := _without_negatives(out):
        have = "has" if alone_left == 1 else "have"
        note(f"{alone_left:,} of them {have} no negative: give more --texts, or --hard and --easy")


def _without_negatives(groups: Path) -> int:
    from polyrank.training.readers import read_groups

    return sum(len(group.texts) == 1 for group in read_groups(groups))


def _check_out(out: Path, *inputs: str | None) -> None:
    """Raise InputError for an output that would destroy an input or cannot be a groups file."""
    from polyrank.training.groups import check_plain

    if any(out.exists() and name and Path(name).exists() and out.samefile(name) for name in inputs):
        raise InputError(f"expected an --out other than the input, got {out} for both")
    if out.is_dir():
        raise InputError(f"expected --out with a file of groups, got the folder {out}; add a name")
    check_plain(out)


def _read_groups(path: str, split: str) -> list[Group]:
    from polyrank.training.groups import BadLines
    from polyrank.training.readers import read_labelled

    bad = BadLines()
    groups = list(read_labelled(path, split=split, bad=bad))
    bad_lines_note(path, bad)
    if not groups:
        raise InputError(f"expected at least one pair in {path}, found none")
    return groups


def _read_texts(path: str | None, groups: Sequence[Group]) -> list[str]:
    """What negatives are taken from, each text once."""
    if path is None:
        return list(dict.fromkeys(g.texts[0] for g in groups))
    from polyrank.training.groups import BadLines
    from polyrank.training.readers import read_texts

    bad = BadLines()
    texts = list(dict.fromkeys(read_texts(path, bad)))
    bad_lines_note(path, bad)
    if not texts:
        raise InputError(f"expected at least one text in {path}, found none")
    return texts


def _show(
    groups: Sequence[Group],
    texts: Sequence[str],
    names: Sequence[str],
    models: Models,
    config: MiningConfig,
    judge: Judge | None,
) -> None:
    """Mine the first groups and print them, and how long the run would take."""
    from polyrank.training.logs import duration_text
    from polyrank.training.mining import mine as mine_groups
    from polyrank.training.readers import read_groups

    lexical = all(n == "bm25" for n in names)
    # A bi-encoder takes its time: a sample of the texts tells how long.
    few = texts if lexical else texts[:_SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "groups.jsonl"
        started = time.perf_counter()
        found = models.searches(names, few, beside=out)
        indexed = time.perf_counter()
        first = groups[:_TIMED]
        mine_groups(first, few, found, config, out, judge=judge)
        seconds = (time.perf_counter() - indexed) * len(groups) / len(first)
        seconds += (indexed - started) * len(texts) / len(few)
        mined = list(read_groups(out))[:_SHOWN]
    for before, group in zip(groups, mined, strict=False):
        print(f"query: {_short(group.query)}")
        print(f"  positive: {_short(group.texts[0])}")
        for n, text in enumerate(group.texts[1:], 1):
            print(f"  {'given' if n < len(before.texts) else 'found'} negative: {_short(text)}")
    if len(few) < len(texts):
        print(f"found in the first {len(few):,} of {len(texts):,} texts; the run searches them all")
    print(f"the run: {len(groups):,} groups from {len(texts):,} texts, {duration_text(seconds)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
