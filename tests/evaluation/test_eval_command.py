from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyrank.cli.app import app

from .conftest import write_collection


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["polyrank", "eval", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        app(["eval", *map(str, args)], prog_name="polyrank")
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    return lambda *args: run(capsys, monkeypatch, *args)


def test_one_command_prints_tables_and_leaves_results(
    command, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code, out, _ = command(folder, "--model", tiny_model, "--scorer", "bm25")
    assert code == 0
    assert "ndcg@10" in out
    assert "bm25 → tiny" in out
    left = tmp_path / "polyrank-eval"
    results = json.loads((left / "results.json").read_text())
    names = [s["name"] for s in results["collections"][0]["systems"]]
    assert names == ["bm25", "tiny", "bm25 (2)"]
    assert "eval" in results["collections"][0]["settings"]["command"]
    assert (left / "report.html").exists()
    assert (left / "runs" / "small" / "tiny.trec").exists()


def test_a_run_file_gives_the_candidates(command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.tsv").write_text("q1\td1\t1\nq2\td3\t1\nq3\td5\t1\nq3\tlost\t0.5\n")
    code, out, err = command(folder, "--run", "run.tsv", "--metric", "success@1")
    assert code == 0
    assert "1.0000" in out
    assert "1 documents of the run have no text" in err


def test_a_second_run_scores_only_what_is_new(command, folder: Path, tiny_model: Path) -> None:
    command(folder, "-m", tiny_model)
    _, _, _ = command(folder, "-m", tiny_model)
    results = json.loads(Path("polyrank-eval/results.json").read_text())
    system = results["collections"][0]["systems"][1]
    assert system["pairs_cached"] == system["pairs"] > 0


def test_a_suite_goes_through_every_pool(command, tmp_path: Path) -> None:
    for name in ("qa-a.de", "qa-b.ja", "cross"):
        write_collection(tmp_path / "pools" / name)
    (tmp_path / "pools" / "notes").mkdir()
    code, out, _ = command("--suite", "dev", "--data", "pools", "--scorer", "bm25", "-o", "here")
    assert code == 0
    assert all(name in out for name in ("qa-a.de", "qa-b.ja", "cross", "average"))
    assert len(json.loads(Path("here/results.json").read_text())["collections"]) == 3


def test_the_papers_suite_takes_data_and_runs_that_are_at_hand(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyrank.evaluation.suites.PAPER", {"miracl:sw": "ndcg@10"})
    write_collection(tmp_path / "data" / "miracl.sw")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "miracl.sw.tsv").write_text("q1\td1\t1\nq2\td3\t1\nq3\td5\t1\n")
    code, out, _ = command("--suite", "paper", "--data", "data", "--run", "runs")
    assert code == 0
    assert "first stage" in out


def test_what_the_papers_suite_lacks_offline_is_named(command, tmp_path: Path) -> None:
    for name in ("miracl.sw", "miracl.te", "mldr.de"):
        write_collection(tmp_path / "data" / name)
    code, out, err = command("--suite", "paper", "--data", "data", "--offline")
    assert code == 0
    assert "68 of the paper's sets are not in data: mldr.ar, mldr.en" in err
    assert "average of 2 miracl" in out
    code, _, err = command("--suite", "paper", "--data", "data/mldr.de", "--offline")
    assert (code, "found none of them" in err) == (1, True)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "DIR or --suite"),
        (("nowhere",), 1, "expected a collection's folder"),
        (("--suite", "all"), 1, "expected the suite dev or paper"),
        (("--suite", "dev"), 1, "expected --data"),
        (("small", "--scorer", "best"), 1, "expected a scorer"),
        (("small", "--metric", "ndgc"), 1, "expected a metric"),
        (("small", "--metric", "p@99999999999999999999"), 1, "expected a metric"),
        (("small", "--seed", "-1"), 2, "'--seed'"),
        (("small", "--run", "none.tsv"), 1, "none.tsv"),
    ],
)
def test_a_mistake_is_named(
    command, folder: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = command(*args)
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())


def test_the_key_of_a_server_is_in_no_file(command, folder: Path, tmp_path: Path) -> None:
    command(folder, "--scorer", "bm25", "--api-key", "s3cr3t")
    for path in (tmp_path / "polyrank-eval").rglob("*"):
        assert path.is_dir() or b"s3cr3t" not in path.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on Windows")
def test_ctrl_c_keeps_what_is_done(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"_id": f"q{n}", "text": f"w{n} w10"} for n in range(400)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "qrels.tsv").write_text("".join(f"q{n}\td1\t1\n" for n in range(400)))
    args = [sys.executable, "-m", "polyrank", "eval", str(folder), "-m", str(tiny_model)]
    process = subprocess.Popen(
        [*args, "-o", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while process.poll() is None:
        done = sum(p.stat().st_size for p in (tmp_path / "out" / "scores").glob("*.scores"))
        if done:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert b"goes on from there" in err
    assert b"Traceback" not in err
