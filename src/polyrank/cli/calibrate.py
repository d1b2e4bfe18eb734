"""`polyrank calibrate`: judged pairs in, a curve from logits to probabilities out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import cut_note, note, progress
from polyrank.cli.reading import lines_of, open_bytes, parse_pair, place
from polyrank.errors import InputError

if TYPE_CHECKING:
    from polyrank.evaluation.calibrate import Fit

__all__ = ["calibrate"]


def calibrate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Judged pairs, one a line; - : standard input.", show_default=False
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Where the calibration goes."),
    ] = "calibration.json",
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A line is a JSON object with `query`, `text`, `label` and maybe `title`.",
        ),
    ] = False,
    relevant_from: Annotated[
        float, typer.Option("--relevant-from", help="Least label of a relevant pair.")
    ] = 1.0,
    model: o.Model = None,
    revision: o.Revision = None,
    backend: o.Backend = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    max_length: o.MaxLength = None,
    on_overflow: o.OnOverflow = "truncate",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Make scores probabilities, from `query TAB text TAB label` lines (label 1: relevant, 0: not).

    Fits sigmoid(scale x logit + shift) to your judgements of pairs like those you will score, and
    says what each threshold then keeps. The order of documents does not change. Some hundred
    judgements do; take them from what your search returns, right and wrong ones, not from random
    pairs. Give the file to --calibration of rank, score and serve, or to Reranker(calibration=...).

    Examples:

      polyrank calibrate judged.tsv

      polyrank rank "solar power" notes.txt --calibration calibration.json --threshold 0.5
    """
    import numpy as np

    from polyrank.cli.chunks import Cuts, read_chunks, score_chunks
    from polyrank.cli.resume import cannot_write, check_output
    from polyrank.evaluation.calibrate import fit_calibration
    from polyrank.models import find_model, fingerprint

    name = place(file)

    def judged(line: bytes, number: int) -> dict[str, Any]:
        return _judged(line, f"{name}:{number}", jsonl=jsonl)

    with ExitStack() as stack:
        source = stack.enter_context(open_bytes(file))
        check_output(output, source)
        reranker = stack.enter_context(
            o.open_reranker(
                model,
                revision=revision,
                backend=backend,
                device=device,
                dtype=dtype,
                max_length=max_length,
                on_overflow=on_overflow,
                offline=offline,
                threads=threads,
            )
        )
        advance = stack.enter_context(progress(source, show=True))
        logits, labels, queries, cuts = [], [], [], Cuts()
        for part in score_chunks(reranker, read_chunks(_lines(source)), judged):
            logits.append(part.logits)
            labels += [pair["label"] for pair in part.pairs]
            queries += [pair["query"] for pair in part.pairs]
            cuts.add(part.encodings)
            advance(cuts.pairs)
        cut_note(cuts.cut, cuts.pairs, "pairs", reranker.max_length, query_cut=cuts.query_cut)
        folder = find_model(model, revision=reranker.revision, offline=offline or None)
    fit = fit_calibration(
        np.concatenate([*logits, np.empty(0, np.float32)]),
        np.array(labels, np.float64) >= relevant_from,
        queries,
        fingerprint=fingerprint(folder.path),
    )
    try:
        fit.calibration.write(output)
    except OSError as error:
        raise cannot_write(output, error) from error
    _print(fit)
    note(f"written: {output}")


def _lines(source: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, without blank ones at the end."""
    blank: list[bytes] = []
    for line in lines_of(source):
        blank.append(line)
        if line.strip():
            yield from blank
            blank.clear()


def _judged(line: bytes, here: str, *, jsonl: bool) -> dict[str, Any]:
    """A line as `query`, `text` and a `label` that is a number."""
    if jsonl:
        fields = parse_pair(line, here, jsonl=True)
        label = fields.get("label", "none")
    else:
        rest, tab, last = line.rstrip(b"\r\n").rpartition(b"\t")
        if not tab or b"\t" not in rest:
            raise InputError(f"expected `query TAB text TAB label` at {here}, got fewer TABs")
        fields = parse_pair(rest, here, jsonl=False)
        label = last.decode("utf-8", "replace")
    try:
        number = float(label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"expected a number as label at {here}, got {label!r}")
    return {**fields, "label": number}


def _print(fit: Fit) -> None:
    print(f"pairs\t{fit.pairs}\nrelevant\t{fit.relevant}")
    print(f"scale\t{fit.calibration.scale:.6g}\nshift\t{fit.calibration.shift:.6g}")
    for what, (before, after) in (("log loss", fit.log_loss), ("calibration error", fit.error)):
        print(f"{what}\t{before:.4f} -> {'not measured' if after is None else f'{after:.4f}'}")
    if not fit.cuts:
        note(
            "not measured: too few queries to hold some out and fit the curve to the others; judge "
            "more of them"
        )
        return
    print("threshold\tkept\tprecision\trecall")
    for cut in fit.cuts:
        print(f"{cut.threshold:.1f}\t{cut.kept}\t{cut.precision:.3f}\t{cut.recall:.3f}")
