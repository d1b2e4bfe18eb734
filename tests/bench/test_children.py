"""Processes of one job: what they send, how they end, and that none is left."""

from __future__ import annotations

import os
import sys

import pytest

from polyrank.bench.children import child
from polyrank.errors import BackendError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


ECHO = "import sys, json; print(json.dumps({'got': json.loads(sys.stdin.readline())}), flush=True)"
WAIT = "import os, time; print('{\"pid\": %d}' % os.getpid(), flush=True); time.sleep(600)"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_gets_its_job_and_answers() -> None:
    with child(python(ECHO), {"text": "grün 植物"}) as messages:
        assert list(messages) == [{"got": {"text": "grün 植物"}}]


def test_a_job_larger_than_a_pipe_goes_through() -> None:
    job = {"text": "x" * 1_000_000}
    with child(python(ECHO), job) as messages:
        assert list(messages) == [{"got": job}]


def test_an_error_that_a_child_explains_is_raised_in_its_words() -> None:
    with (
        child(python('print(\'{"error": "expected a GPU"}\')'), {}) as messages,
        pytest.raises(BackendError, match=r"^expected a GPU$"),
    ):
        list(messages)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os._exit(3)", "^the process ended with exit code 3$"),
        ("1 / 0", "^the process ended with exit code 1: ZeroDivisionError: division by zero$"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "was ended by SIGKILL, as the system does where memory runs out",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
        ),
    ],
)
def test_a_child_that_dies_is_told_how(code: str, told: str) -> None:
    job = {"text": "x" * 1_000_000}  # more than it will ever read
    with child(python(code), job) as messages, pytest.raises(BackendError, match=told):
        list(messages)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_leaves_no_child_behind() -> None:
    pid = 0
    with pytest.raises(KeyboardInterrupt), child(python(WAIT), {}) as messages:  # noqa: PT012
        pid = next(messages)["pid"]
        assert is_alive(pid)
        raise KeyboardInterrupt
    assert not is_alive(pid)


def test_a_child_that_nobody_waits_for_is_ended_too() -> None:
    with child(python(WAIT), {}) as messages:
        pid = next(messages)["pid"]
    assert not is_alive(pid)
