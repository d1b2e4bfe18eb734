"""An interrupted run, continued, leaves the bytes that one run would have left."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ran

Run = Callable[..., Ran]
CHUNK = 64
COMMAND = [
    sys.executable,
    "-c",
    "import functools, polyrank.cli.chunks as c, polyrank.__main__ as m;"
    f"c.read_chunks = functools.partial(c.read_chunks, max_pairs={CHUNK});"
    "m.main()",
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chunks of pairs and some more, all different."""
    draw = random.Random(7)

    def words() -> str:
        return " ".join(f"w{draw.randrange(5, 512)}" for _ in range(draw.randrange(1, 9)))

    file = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    file.write_text("".join(f"{words()}\t{words()}\n" for _ in range(2 * CHUNK + 20)))
    return file


@pytest.fixture(scope="module")
def uninterrupted(pairs: Path, tiny_model: Path) -> bytes:
    """The output of one run."""
    out = pairs.with_name("whole.txt")
    run_score(pairs, str(tiny_model), out)
    assert out.read_bytes().count(b"\n") == 2 * CHUNK + 20
    return out.read_bytes()


def run_score(pairs: Path, model: str, out: Path, *options: str) -> None:
    args = ["score", str(pairs), "-m", model, "--output", str(out), *options]
    done = subprocess.run([*COMMAND, *args], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr


def stop_after_one_chunk(pairs: Path, model: str, out: Path, how: signal.Signals) -> Ran:
    """Feed a run a little more than two chunks, and stop it when one is written."""
    process = subprocess.Popen(
        [*COMMAND, "score", "-", "-m", model, "--output", str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin
        lines = pairs.read_bytes().splitlines(keepends=True)
        process.stdin.write(b"".join(lines[: 2 * CHUNK + 5]))
        process.stdin.flush()
        patience = time.monotonic() + 120
        while not (out.exists() and out.read_bytes().count(b"\n") >= CHUNK):
            assert time.monotonic() < patience
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(how)
        code = process.wait(60)
        assert process.stdout
        assert process.stderr
        return Ran(code, process.stdout.read().decode(), process.stderr.read().decode())


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_a_stopped_run_continues_to_the_same_bytes(
    pairs: Path, uninterrupted: bytes, model: str, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out.txt"
    stopped = stop_after_one_chunk(pairs, model, out, signal.Signals[how])
    if how == "SIGKILL":
        assert stopped.code == -signal.SIGKILL
    else:
        assert stopped.code == 128 + signal.Signals[how]
        assert stopped.err == f"stopped; the same command with --resume continues {out}\n"
    assert out.read_bytes() == b"".join(uninterrupted.splitlines(keepends=True)[:CHUNK])
    with out.open("ab") as file:  # as if the next chunk had been cut off amid its write
        file.write(b"0.5\n" * 7 + b"0.123")

    run_score(pairs, model, out, "--resume")

    assert out.read_bytes() == uninterrupted


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_second_run_into_one_file_is_refused(polyrank: Run, model: str, tmp_path: Path) -> None:
    import fcntl

    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\n")
    with out.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for options in ([], ["--resume"]):
            ran = polyrank("score", source, "-m", model, "-o", out, *options)
            assert (ran.code, out.read_bytes()) == (1, b"")
            assert f"expected to be the only run that writes {out}" in ran.err
    assert polyrank("score", source, "-m", model, "-o", out).code == 0
    assert polyrank("score", source, "-m", model, "-o", "/dev/null").code == 0


def test_a_file_that_is_finished_stays_as_it_is(
    polyrank: Run, pairs: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.txt"
    out.write_bytes(uninterrupted)
    ran = polyrank("score", pairs, "-m", "no-model-needed", "-o", out, "--resume")
    assert ran == Ran(0, "", f"nothing to score after {2 * CHUNK + 20} lines\n")
    assert out.read_bytes() == uninterrupted


def test_a_run_that_met_a_bad_line_continues_when_it_is_mended(
    polyrank: Run, model: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\nw3 w4\nw5\tw6\n")
    assert polyrank("score", source, "-m", model, "-o", out).code == 1
    assert out.read_text().count("\n") == 1
    source.write_text("w1\tw2\nw3\tw4\nw5\tw6\n")
    assert polyrank("score", source, "-m", model, "-o", out, "--resume").code == 0
    assert out.read_text() == polyrank("score", source, "-m", model).out


def test_resume_starts_a_file_that_is_not_there(polyrank: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\n")
    assert polyrank("score", source, "-m", model, "-o", out, "--resume").code == 0
    assert out.read_text().count("\n") == 1


def test_an_output_with_content_is_never_lost(polyrank: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\nw3\tw4\n")
    scores = "0.500000000000\n"
    for content, options, words in (
        (scores, [], "--resume"),
        (3 * scores, ["--resume"], "at most 2 lines"),
        (scores, ["--resume", "--json"], "expected lines of JSON"),
        (scores, ["--resume", "--logits"], "expected lines of logits"),
        ("1.5510788\n", ["--resume"], "expected lines of scores"),
        ('{"score": 1}\n', ["--resume"], "expected lines of scores"),
    ):
        out.write_text(content)
        ran = polyrank("score", source, "-m", model, "-o", out, *options)
        assert ran.code == 1
        assert words in ran.err
        assert out.read_text() == content
    same = polyrank("score", source, "-m", model, "-o", source, "--resume")
    assert same.code == 1
    assert "other than the input" in same.err
    assert source.read_text() == "w1\tw2\nw3\tw4\n"


def test_an_output_that_cannot_be_written_is_an_error(polyrank: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("w1\tw2\n")
    ran = polyrank("score", tmp_path / "in", "-o", tmp_path / "none" / "out")
    assert ran.code == 1
    assert "No such file" in ran.err
