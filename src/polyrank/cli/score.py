"""`polyrank score`: a stream of pairs in, a stream of scores out, in the same order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import cut_note, json_line, logit_text, note, progress, score_text
from polyrank.cli.reading import lines_of, open_bytes, parse_pair, place

if TYPE_CHECKING:
    from polyrank.calibration import Calibration
    from polyrank.cli.chunks import Cuts, Scored

__all__ = ["score"]


def score(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Pairs, one a line; - or none: standard input.",
            show_default=False,
        ),
    ] = "-",
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A line is a JSON object with `query`, `text` and, if you like, `title`; other "
            "fields pass through to --json.",
        ),
    ] = False,
    as_json: o.AsJson = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="Print logits instead of scores.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write there; it must be new or empty."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what an earlier run wrote to --output.")
    ] = False,
    model: o.Model = None,
    revision: o.Revision = None,
    backend: o.Backend = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    max_length: o.MaxLength = None,
    on_overflow: o.OnOverflow = "truncate",
    offline: o.Offline = False,
    threads: o.Threads = None,
    calibration: o.CalibrationFile = None,
    debug: o.Debug = False,
) -> None:
    """Score `query TAB text` lines: line N of the output is the score of line N of the input.

    Any number of lines, in constant memory. A score has 12 decimals, and `sort -n` orders it; a
    logit has the digits that tell it from every other fp32 number. A bad line ends the run with
    an error that names it, after everything before it is written.

    The same command with --resume goes on where an interrupted one, even a killed one, stopped,
    and leaves the file that one run would have made.

    Examples:

      polyrank score pairs.tsv > scores.txt

      polyrank score --jsonl pairs.jsonl --json --output scored.jsonl --resume
    """
    if resume and output is None:
        raise typer.BadParameter("expected --output FILE with --resume, got none")
    if output == "-":
        raise typer.BadParameter("expected --output FILE; without it, scores go to standard output")
    if logits and as_json:
        raise typer.BadParameter("expected --logits or --json, got both; --json has the logits")
    from polyrank.cli.chunks import read_chunks, score_chunks
    from polyrank.cli.resume import Kind, continue_output, open_output

    with ExitStack() as stack:
        source = stack.enter_context(open_bytes(file))
        chunks = read_chunks(lines_of(source))
        sink, done = sys.stdout.buffer, 0
        if output is not None:
            sink = stack.enter_context(open_output(output, source, resume=resume))
            kind: Kind = "JSON" if as_json else "logits" if logits else "scores"
            done, chunks = continue_output(sink, chunks, kind=kind, where=place(output))
        first = next(chunks, None)
        if first is None:  # the model is not loaded for nothing
            note(f"nothing to score after {done} lines" if done else "nothing to score")
            return
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
                calibration=calibration,
            )
        )
        name = place(file)
        parts = score_chunks(
            reranker,
            itertools.chain([first], chunks),
            lambda line, number: parse_pair(line, f"{name}:{number}", jsonl=jsonl),
        )
        to_terminal = output is None and sys.stdout.isatty()
        advance = stack.enter_context(progress(source, show=not to_terminal))
        try:
            cuts = _write(
                parts, sink, advance, reranker.calibration, as_json=as_json, logits=logits
            )
        except KeyboardInterrupt:
            if output is not None:
                note(f"stopped; the same command with --resume continues {place(output)}")
            raise
        cut_note(cuts.cut, cuts.pairs, "pairs", reranker.max_length, query_cut=cuts.query_cut)


def _write(
    parts: Iterable[Scored],
    sink: BinaryIO,
    advance: Callable[[int], None],
    calibration: Calibration,
    *,
    as_json: bool,
    logits: bool,
) -> Cuts:
    """Write what is scored as soon as it is, and count what was cut."""
    from polyrank.cli.chunks import Cuts

    cuts = Cuts()
    for part in parts:
        sink.write(_lines(part, calibration, as_json=as_json, logits=logits))
        sink.flush()  # what is scored outlives us, however we end
        cuts.add(part.encodings)
        advance(cuts.pairs)
    return cuts


def _lines(part: Scored, calibration: Calibration, *, as_json: bool, logits: bool) -> bytes:
    if logits:
        lines = [logit_text(x) for x in part.logits]
    elif not as_json:
        lines = [score_text(x) for x in calibration.scores(part.logits)]
    else:
        from polyrank.values import with_fields

        scores = calibration.scores(part.logits)
        rows = zip(part.pairs, scores, part.logits, part.encodings, strict=True)
        lines = [
            json_line(
                with_fields(
                    fields,
                    {
                        "score": float(score),
                        "logit": float(logit),
                        "tokens": len(encoding),
                        "tokens_given": encoding.tokens_given,
                        "query_cut": encoding.query_cut,
                        "truncated": encoding.truncated,
                    },
                )
            )
            for fields, score, logit, encoding in rows
        ]
    # A lone surrogate of a JSON field leaves as \udXXX, which is JSON again.
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
