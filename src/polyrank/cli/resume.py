"""The output file of a long run: where it stands, and how it goes on. One line for each pair."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO, Literal

from polyrank.cli.chunks import Chunk
from polyrank.cli.reading import place
from polyrank.cli.runs import not_alone
from polyrank.errors import InputError

__all__ = ["Kind", "cannot_write", "check_output", "continue_output", "open_output"]

Kind = Literal["JSON", "scores", "logits"]

_BLOCK = 1 << 20
_SCORE = re.compile(rb"[01]\.[0-9]{12}\n")  # as `score_text` writes it


def open_output(path: str, source: BinaryIO, *, resume: bool) -> BinaryIO:
    """Open the output of pairs from `source`; with `resume`, one that has lines already.

    Raises InputError where writing would destroy something.
    """
    _check_apart(path, source)
    try:
        file = open(path, "a+b")  # noqa: SIM115  the caller's
    except OSError as error:
        raise cannot_write(path, error) from error
    _take(file, path)
    if file.tell() and not resume:
        file.close()
        raise InputError(
            f"expected a new or empty file at {place(path)}, got one with content; pass --resume "
            "to continue it, or delete it"
        )
    return file


def _take(file: BinaryIO, path: str) -> None:
    """Keep other runs from writing to the file. Raises InputError where one does."""
    try:
        import fcntl
    except ImportError:  # no POSIX
        return
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise not_alone(place(path), "--output") from None
        except OSError:  # a file system without locks
            pass


def check_output(path: str, source: BinaryIO) -> None:
    """Raise InputError where an output that is written at the end would destroy `source`, or
    cannot be written."""
    _check_apart(path, source)
    new = not os.path.lexists(path)
    try:
        open(path, "ab").close()
    except OSError as error:
        raise cannot_write(path, error) from error
    if new:
        os.remove(path)


def cannot_write(path: str, error: OSError) -> InputError:
    """The error of an output that the system refuses."""
    return InputError(
        f"expected to write {place(path)}: {error.strerror or error}; give --output a file in a "
        "folder that exists, where there is room"
    )


def _check_apart(path: str, source: BinaryIO) -> None:
    if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(source.fileno())):
        raise InputError(f"expected an --output other than the input, got {place(path)} for both")


def continue_output(
    file: BinaryIO, chunks: Iterator[Chunk], *, kind: Kind, where: str
) -> tuple[int, Iterator[Chunk]]:
    """Find the first chunk that is not written in full, and drop what is written of it.

    Gives the lines that stay and the chunks that are left; the file stands at its end.
    Raises InputError where the output cannot belong to this input and format.
    """
    if not file.seek(0, os.SEEK_END):
        return 0, chunks
    file.seek(0)
    got = _kind(file.readline())
    if got not in (None, kind):
        raise InputError(
            f"expected lines of {kind} in {where} to continue, got {got}; give the options of the "
            "first run"
        )
    written = _count_lines(file)
    kept, left = _skip(chunks, written, where)
    _keep_lines(file, kept)
    return kept, left


def _kind(line: bytes) -> Kind | None:
    """What a line holds; None for one that is cut."""
    if line.startswith(b"{"):
        return "JSON"
    if not line.endswith(b"\n"):
        return None
    return "scores" if _SCORE.fullmatch(line) else "logits"


def _skip(chunks: Iterator[Chunk], written: int, where: str) -> tuple[int, Iterator[Chunk]]:
    end = 0
    for chunk in chunks:
        if chunk.end > written:
            return chunk.start, itertools.chain([chunk], chunks)
        end = chunk.end
    if written > end:
        raise InputError(
            f"expected at most {end} lines in {where}, as in the input, got {written}; it is the "
            "output of another input"
        )
    return end, iter(())


def _count_lines(file: BinaryIO) -> int:
    file.seek(0)
    return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def _keep_lines(file: BinaryIO, lines: int) -> None:
    """Cut the file after so many lines, each of which ends with LF, and stand there."""
    file.seek(0)
    size = sum(len(line) for line in itertools.islice(file, lines))
    file.seek(size)
    file.truncate()
