"""The commands put together, and what the process answers: streams in UTF-8, exit codes.

0 done; 1 an error, said on stderr; 2 wrong usage; 130 Ctrl-C; 141 the reader of our output left;
143 SIGTERM.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from polyrank.cli.bench import bench
from polyrank.cli.cache import cache
from polyrank.cli.calibrate import calibrate
from polyrank.cli.convert import convert
from polyrank.cli.eval import evaluate
from polyrank.cli.info import info
from polyrank.cli.interrupts import exit_code, sigterm_heeded
from polyrank.cli.mine import mine
from polyrank.cli.options import Debug, wants_debug
from polyrank.cli.pretrain import pretrain
from polyrank.cli.rank import rank
from polyrank.cli.score import score
from polyrank.cli.serve import serve
from polyrank.cli.train import train
from polyrank.errors import InputError, PolyrankError

__all__ = ["app", "run"]

_HELP = """
Rank documents by their relevance to a query, in any language, on this machine.

A document is a line, a JSON object or a whole file. A score is a number from 0 to 1, higher is
more relevant; it is the sigmoid of the logit, the network's raw answer.
"""

_EXAMPLES = """
Examples:

  polyrank rank "how do plants eat?" notes.txt -m bge-reranker-v2-m3

  grep -rh plant notes/ | polyrank rank "how do plants eat?" --top-n 5 --json

  polyrank rank "wie essen Pflanzen?" --whole notes/*.md

  polyrank score pairs.tsv --output scores.txt --resume

Output is a table on a terminal and tab-separated lines elsewhere. Messages go to stderr. Exit
codes: 0 done, 1 an error, 2 wrong usage, 130 Ctrl-C, 141 the reader of a pipe left, 143 SIGTERM.
`polyrank COMMAND --help` says the rest.
"""


class _Group(TyperGroup):
    """Commands whose ends are all turned into exit codes."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _exit_codes(ctx), sigterm_heeded():
            return super().invoke(ctx)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with _exit_codes(ctx):
            super().format_help(ctx, formatter)


def _unwrapped(text: str) -> str:
    """One line a paragraph: some versions of typer keep our line ends, and add their own."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p.replace("\n", " ") for p in paragraphs)


app = typer.Typer(
    cls=_Group,
    help=_unwrapped(_HELP),
    epilog=_unwrapped(_EXAMPLES),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for _command in (
    rank, score, serve, evaluate, calibrate, bench, info, convert, mine, train, pretrain,
):  # fmt: skip
    _name = "eval" if _command is evaluate else None  # `eval` is a name of Python's own
    app.command(_name, help=_unwrapped(_command.__doc__ or ""))(_command)
app.add_typer(cache)


def run() -> None:
    """Run the command that argv asks for; ends the process."""
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A lone surrogate, of a JSON field or of a file's name, leaves as \udXXX.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app(prog_name="polyrank")


def _open_missing() -> None:
    """Discard what goes to a stream that we were started without.

    Its descriptor is taken too: the next file that is opened would get it, and with it our output.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w", encoding="utf-8"))  # noqa: SIM115  to the end


def _print_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        with _exit_codes(ctx):
            print(version("polyrank"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    pass


@contextmanager
def _exit_codes(ctx: typer.Context) -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        raise typer.Exit(exit_code(error)) from None
    except (BrokenPipeError, SystemExit) as end:
        # Rich makes SystemExit(1) of a broken pipe.
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        _drop_stdout()
        raise typer.Exit(141) from None
    except (PolyrankError, OSError) as error:
        if wants_debug(ctx):
            traceback.print_exc()
        if isinstance(error, FileExistsError):  # of making a folder
            error = InputError(f"expected a folder at {error.filename}, got a file")
        room = "; make room" if getattr(error, "errno", None) == errno.ENOSPC else ""
        print(f"error: {error}{room}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_stdout()
        raise typer.Exit(1) from None
    except MemoryError:
        print("error: memory ran out; see docs/cpu.md for what takes how much", file=sys.stderr)
        raise typer.Exit(1) from None
    except Exception as error:
        if (behind := _interrupt_behind(error)) is not None:
            raise typer.Exit(exit_code(behind)) from None
        raise


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt behind an error: a module that it met in its import says ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _drop_stdout() -> None:
    """Python flushes stdout once more at its end; let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
