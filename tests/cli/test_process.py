"""What only a real process shows: cold start, pipes, signals, terminals and locales."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import polyrank

from .conftest import COMMAND, Ran, run_process

HEAVY = ("torch", "tokenizers", "huggingface_hub", "safetensors", "numpy", "transformers")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of POSIX")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["rank", "--help"], ["no-command"]])
def test_what_needs_no_model_imports_no_engine(args: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "polyrank", *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "typer" in imported
    assert not imported.intersection(HEAVY)


def test_the_version_is_the_package_s() -> None:
    assert run_process("--version") == Ran(0, f"{polyrank.__version__}\n", "")


def test_ctrl_c_within_an_import_is_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "try:\n    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('failed') from error\n"
    )
    (tmp_path / "in").write_text("w1\tw2\n")
    ran = run_process("score", tmp_path / "in", env={"PYTHONPATH": str(tmp_path)})
    assert (ran.code, ran.err) == (130, "")


@posix
def test_sigterm_clears_away_what_is_half_written(tiny_model: Path, tmp_path: Path) -> None:
    program = (
        "import signal, polyrank.checkpoint as checkpoint, polyrank.cli.app as app\n"
        "write = checkpoint.save_checkpoint\n"
        "def killed(*a, **k): write(*a, **k); signal.raise_signal(signal.SIGTERM)\n"
        "checkpoint.save_checkpoint = killed\n"
        "app.run()\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, "convert", tiny_model, out, "--layout", "official"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (143, b"")
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("form", [["--layout", "native"], ["--onnx", "int8"]])
def test_a_full_disk_is_an_error_that_says_so(
    tiny_model: Path, tmp_path: Path, form: list[str]
) -> None:
    program = (  # files of 100 kB at most, as if there were no room for more
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import polyrank.cli.app as app\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "app.run()\n"
    )
    command = [sys.executable, "-c", program, "convert", tiny_model, tmp_path / "out", *form]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert "error: [Errno 27] File too large: " in done.stderr
    assert ".safetensors" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_told_to_the_makers_of_the_runtime(tiny_model: Path, tmp_path: Path) -> None:
    caches = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "ORT_DISABLE_TELEMETRY": ""}
    environment = {k: v for k, v in (os.environ | caches).items() if v}
    command = [sys.executable, "-m", "polyrank", "rank", "w1", "-m", str(tiny_model)]
    done = subprocess.run(command, input=b"w2\n", env=environment, capture_output=True, check=True)
    assert done.stdout
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_help_teaches_by_example() -> None:
    ran = run_process("--help")
    assert ran.code == 0
    for word in ("rank", "score", "info", "convert", "Examples", "Exit codes"):
        assert word in ran.out
    assert "\x1b" not in ran.out


def test_utf8_goes_through_whatever_the_locale_says(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "grün.txt"
    file.write_text("植物吃什么\n", encoding="utf-8")
    ran = run_process("rank", "wie groß?", "--json", "-m", tiny_model, file, file, env=ASCII)
    assert ran.code == 0
    assert '"text": "植物吃什么"' in ran.out
    assert "grün.txt:1" in ran.out
    shutil.copytree(tiny_model, tmp_path / "mödel")
    again = run_process("rank", "wie groß?", "--json", "-m", tmp_path / "mödel", file, env=ASCII)
    assert again.code == 0
    missing = run_process("rank", "wie groß?", tmp_path / "weiß.txt", env=ASCII)
    assert missing.code == 1
    assert "weiß.txt" in missing.err


@posix
def test_a_query_that_is_not_utf8_is_wrong_usage() -> None:
    done = subprocess.run([*COMMAND, "rank", b"gr\xfcn"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


@posix
def test_a_reader_that_leaves_ends_us_silently(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "pairs.tsv"
    source.write_text("w1\tw2\n" * 4200)
    process = subprocess.Popen(
        [*COMMAND, "score", str(source), "-m", str(tiny_model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@posix
@pytest.mark.parametrize("args", [["--help"], ["--version"], ["score", "--help"]])
def test_a_reader_that_left_before_the_first_word_too(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *args], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_an_error_without_a_traceback(unbuffered: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, check=False, env=env
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def run_without(streams: str, *args: object) -> Ran:
    """Run a command that was started without some of its streams: `>&-`, `2>&-`."""
    script = ["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND, *map(str, args)]
    done = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@posix
def test_what_goes_to_a_closed_stream_goes_nowhere(tiny_model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\nw1\t" + "w3 " * 20)
    score = ["score", source, "-m", tiny_model, "--max-length", 9]
    cut = "1 of 2 pairs was cut to 9 tokens\n"
    wanted = run_process(*score)
    assert (wanted.code, wanted.err) == (0, cut)
    assert run_without("2>&-", *score) == Ran(0, wanted.out, "")
    assert run_without(">&-", *score) == Ran(0, "", cut)
    assert run_without(">&- 2>&-", *score, "-o", out) == Ran(0, "", "")
    assert out.read_text() == wanted.out
    assert run_without("2>&-", "score", "nowhere") == Ran(1, "", "")
    assert run_without("2>&-", "no-command") == Ran(2, "", "")


def on_a_terminal(*args: object, stdin: bytes = b"") -> tuple[int, str]:
    """Run a command whose stdout and stderr are one terminal of 100 columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env={**env, "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    with process, os.fdopen(ours, "rb", buffering=0) as terminal:
        assert process.stdin
        process.stdin.write(stdin)
        process.stdin.close()
        while True:
            try:
                block = terminal.read(4096)
            except OSError:  # how Linux says that nobody has the other end
                break
            if not block:
                break
            seen += block
    return process.returncode, seen.decode()


@posix
def test_a_terminal_gets_a_table(tiny_model: Path) -> None:
    stdin = b"w1 [bold]w2\nw3 \x1b[31mw4 w5 w6 w7 w8\n"
    code, seen = on_a_terminal("rank", "w1", "-m", tiny_model, "--max-length", 8, stdin=stdin)
    assert code == 0
    assert "rank" in seen
    assert "\t" not in seen
    assert "[bold]w2" in seen  # no markup
    assert "\x1b[31m" not in seen  # and no document speaks to the terminal
    assert "8 of 1" in seen
    assert "1 of 2 documents was cut to 8 tokens" in seen


@posix
def test_progress_is_for_terminals_only(tiny_model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("w1\tw2\n" * 10)
    code, seen = on_a_terminal("score", source, "-m", tiny_model, "-o", out)
    assert code == 0
    assert "10 pairs" in seen
    assert out.read_text().count("\n") == 10
