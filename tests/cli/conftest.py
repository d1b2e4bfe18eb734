"""Two ways to run the command line: in this process, and as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyrank.cli.app import app

COMMAND = [sys.executable, "-m", "polyrank"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture
def model(tiny_model: Path) -> str:
    """The value of --model in these tests."""
    return str(tiny_model)


@pytest.fixture
def polyrank(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run a command in this process: fast, but without a real pipe, signal or locale."""

    def run(*args: object, stdin: str | bytes = b"") -> Ran:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(SystemExit) as end:
            app([str(a) for a in args], prog_name="polyrank")
        out, err = capsysbinary.readouterr()
        return Ran(int(end.value.code or 0), out.decode(), err.decode())

    return run


def run_process(*args: object, env: Mapping[str, str] | None = None) -> Ran:
    """Run a command as its own process."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
