"""Processes that do one job each, from the parent's side. However we leave, none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from polyrank.errors import BackendError

__all__ = ["child", "python_module"]

Messages = Iterator[dict[str, Any]]
_TOLD = 300  # characters of an error


def python_module(name: str) -> list[str]:
    """The command that runs a module of ours with this Python."""
    return [sys.executable, "-m", name]


@contextmanager
def child(command: Sequence[str], job: dict[str, Any]) -> Generator[Messages, None, None]:
    """Start a process, hand it a job, and give its messages as they come.

    Reading them raises BackendError where the child sends an error, or ends without having sent
    what it was to send: the message says how it ended.
    """
    # Modules of ours only, whatever lies in the folder that the user is in.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            env=environment,
        )
        try:
            yield _messages(process, job, stderr)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what was left to write has no reader
                        stream.close()


def _messages(process: subprocess.Popen[str], job: dict[str, Any], stderr: IO[bytes]) -> Messages:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):  # it ended already; how, is read below
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    for line in process.stdout:
        message = json.loads(line)
        if "error" in message:
            raise BackendError(message["error"])
        yield message
    if code := process.wait():
        raise BackendError(f"the process {_ended(code)}{_last_line(stderr)}")


def _ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{memory}"


def _last_line(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:_TOLD]}" if last else ""
