"""`polyrank train`: groups in, a reranker out, and a run that stops and goes on anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank import Reranker
from polyrank.checkpoint import load_checkpoint, save_checkpoint
from polyrank.cli.runs import alone
from polyrank.evaluation import evaluate, read_collection
from polyrank.training import loop
from polyrank.training.groups import Group, write_groups
from polyrank.training.recipe import recipe_names, recipe_run

from .conftest import Ran
from .test_mine import WITHOUT_TORCH, files_of
from .test_process import on_a_terminal, posix

Run = Callable[..., Ran]


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Ten groups: the positive repeats the query's word."""
    path = tmp_path / "groups.jsonl"
    rows = [
        Group(query=f"w{100 + i}", texts=(f"w{100 + i} w9", f"w{130 + i}", f"w{160 + i} w8 w7"))
        for i in range(10)
    ]
    write_groups(path, rows)
    return path


@pytest.fixture
def config(tmp_path: Path, groups: Path, model: str) -> Path:
    """A run of six steps."""
    run = {
        "model": model,
        "data": {"parts": [{"path": str(groups), "max_length": 32}], "groups_per_step": 4},
        "loop": {"steps": 6, "learning_rate": 1e-3, "dtype": "fp32", "log_every": 1},
    }
    return write(tmp_path / "config.json", run)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A test collection of five queries and ten documents."""
    folder = tmp_path / "my-collection"
    folder.mkdir()
    ids = range(10)
    documents = [{"_id": f"d{i}", "text": f"w{100 + i} w{200 + i // 2}"} for i in ids]
    queries = [{"_id": f"q{i}", "text": f"w{200 + i} w{100 + 2 * i}"} for i in range(5)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{2 * i + 1}\t1\n" for i in range(5)))
    return folder


def write(path: Path, value: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(value))
    return path


def logged(folder: Path, kind: str, key: str) -> dict[int, float]:
    """Step -> a number of a run's log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if row["kind"] == kind}


def interrupt(
    monkeypatch: pytest.MonkeyPatch, *, step: int, times: int = 1, how: int = signal.SIGINT
) -> None:
    """Have Ctrl-C pressed, or SIGTERM sent, when a step (1 is the first) is half way through."""
    taken = loop.run_step

    def run_step(*args: Any) -> Any:
        report = taken(*args)
        if args[-1] == step - 1:
            for _ in range(times):
                signal.raise_signal(how)
        return report

    monkeypatch.setattr(loop, "run_step", run_step)


def test_a_config_makes_a_model_that_learned_its_groups(
    polyrank: Run, config: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ran = polyrank("train", config, "--out", out)
    assert (ran.code, ran.err) == (0, f"wrote {out}/step-000006\n")
    assert [line.split("  ")[0] for line in ran.lines] == [f"train step {n}" for n in range(1, 7)]
    losses = logged(out, "train", "loss")
    assert losses[6] < losses[1]
    pair = [("w100", "w100 w9")]
    with Reranker(out / "step-000006") as after, Reranker(model) as before:
        assert abs(after.logits(pair) - before.logits(pair)) > 0.01


def test_teachers_are_named_as_models_are(
    polyrank: Run, config: Path, model: str, tmp_path: Path
) -> None:
    run = json.loads(config.read_text())
    write(config, run | {"teachers": [model], "loss": {"contrastive": 0}})
    assert polyrank("train", config, "--steps", 1, "--out", tmp_path / "run").code == 0
    # Its groups have no scores; but for dropout a model is already what it learns from here.
    assert 0 < logged(tmp_path / "run", "train", "kl")[1] < 0.1
    write(config, run | {"teachers": ["no-such-model"]})
    ran = polyrank("train", config, "--offline", "--dry-run")
    assert (ran.code, "no-such-model" in ran.err) == (1, True)


def test_a_recipe_is_filled_with_model_and_groups(
    polyrank: Run, groups: Path, model: str, tmp_path: Path
) -> None:
    recipe = ["--recipe", "fine-tune", "--model", model, "--data", groups, "--data", groups]
    ran = polyrank("train", *recipe, "--steps", 3, "--out", tmp_path / "run")
    assert ran.code == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [part["path"] for part in written["data"]["parts"]] == [str(groups)] * 2
    assert (written["loop"]["steps"], written["loop"]["learning_rate"]) == (3, 2e-5)
    # What a run was told is a config for the next one.
    again = polyrank("train", tmp_path / "run" / "config.json", "--out", tmp_path / "again")
    assert again.code == 0
    first, second = (logged(tmp_path / name, "train", "loss") for name in ("run", "again"))
    assert first == second


@pytest.mark.parametrize("name", ["encoder", "fine-tune"])
def test_every_recipe_is_whole_and_told_of(polyrank: Run, name: str) -> None:
    assert sorted(recipe_names()) == ["encoder", "fine-tune"]
    run = recipe_run(name, model="m", groups=["g"])
    assert run.data.parts[0].path == "g"
    assert f"{name}:" in polyrank("train", "--help").out


def test_the_encoder_recipe_gives_a_head_to_an_encoder(
    polyrank: Run, groups: Path, tiny_model: Path, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    start = load_checkpoint(tiny_model)
    arrays = {n: a for n, a in start.arrays.items() if not n.startswith("head.")}
    save_checkpoint(encoder, type(start)(config=start.config, arrays=arrays, source=start.source))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (encoder / name).write_bytes((tiny_model / name).read_bytes())
    out = tmp_path / "run"
    recipe = ["--recipe", "encoder", "--data", groups]
    assert "a model to start from" in polyrank("train", *recipe, "--out", out).err
    assert polyrank("train", *recipe, "-m", encoder, "--steps", 1, "--out", out).code == 0
    assert load_checkpoint(out / "step-000001").has_head


def test_a_packed_model_is_a_start_as_good_as_any(
    polyrank: Run, groups: Path, model: str, tmp_path: Path
) -> None:
    packed, out = tmp_path / "packed", tmp_path / "run"
    assert polyrank("convert", model, packed, "--onnx", "int8").code == 0
    recipe = ["--recipe", "fine-tune", "--model", packed, "--data", groups]
    assert polyrank("train", *recipe, "--steps", 1, "--out", out).code == 0
    pair = [("w100", "w100 w9")]
    with Reranker(out / "step-000001") as after, Reranker(packed) as before:
        assert after.logits(pair) == pytest.approx(before.logits(pair), abs=0.5)


def test_a_dry_run_shows_pairs_tokens_and_duration_and_writes_nothing(
    polyrank: Run, config: Path, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    ran = polyrank("train", config, "--dry-run", "--out", tmp_path / "run")
    assert (ran.code, ran.err) == (0, "")
    assert files_of(tmp_path) == before
    assert ran.lines[0].startswith("pair: <s> w1")
    assert "share: 100.0%  groups.jsonl" in ran.lines
    assert any(line.startswith("a step: 12 pairs, ") for line in ran.lines)
    assert ran.lines[-1].startswith("the run: ")
    assert " tokens, about " in ran.lines[-1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_step_and_the_same_command_goes_on(
    polyrank: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    assert polyrank("train", config, "--out", tmp_path / "whole").code == 0
    cut = tmp_path / "cut"
    with monkeypatch.context() as patched:
        interrupt(patched, step=3, how=how)
        stopped = polyrank("train", config, "--out", cut)
    assert stopped.code == 128 + how
    assert stopped.err == "stopped after step 3 of 6; the same command goes on from there\n"
    assert (cut / "step-000003" / "model.safetensors").exists()
    assert torch.load(cut / "state.pt", weights_only=True)["step"] == 3
    assert polyrank("train", config, "--out", cut).code == 0
    assert logged(cut, "train", "loss") == logged(tmp_path / "whole", "train", "loss")
    assert "has taken all its steps" in polyrank("train", config, "--out", cut).err


def test_a_second_ctrl_c_does_not_wait(
    polyrank: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt(patched, step=3, times=2)
        stopped = polyrank("train", config, "--out", out)
    assert stopped.code == 130
    assert stopped.err == "stopped before the first checkpoint; the same command starts anew\n"
    assert not (out / "state.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_log_has_what_an_evaluation_of_the_model_says(
    polyrank: Run, config: Path, collection: Path, model: str, tmp_path: Path
) -> None:
    run = json.loads(config.read_text())
    run["loop"] |= {"evaluate_every": 4, "learning_rate": 5e-3}
    out = tmp_path / "run"
    ran = polyrank("train", write(config, run), "--out", out, "--evaluate", collection)
    assert ran.code == 0
    measured = logged(out, "evaluation", "ndcg@10")
    assert list(measured) == [0, 4, 6]
    assert len(set(measured.values())) > 1
    for step, folder in ((0, model), (4, out / "step-000004"), (6, out / "step-000006")):
        with Reranker(folder) as reranker:
            result = evaluate(read_collection(collection), [reranker], metrics=["ndcg@10"])
        first, last = (system.mean("ndcg@10") for system in result.systems)
        assert measured[step] == pytest.approx(last, abs=1e-5)
        assert logged(out, "evaluation", "candidates")[step] == pytest.approx(first, abs=1e-5)


def test_ctrl_c_in_an_evaluation_stops_there_and_loses_no_step(
    polyrank: Run, config: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyrank.training.scoring import ModelScorer

    scored = ModelScorer.score

    def score(self: ModelScorer, pairs: Any) -> Any:
        if (out / "state.pt").exists():
            signal.raise_signal(signal.SIGINT)
        return scored(self, pairs)

    run, out = json.loads(config.read_text()), tmp_path / "run"
    run["data"]["groups_per_step"] = 1
    with monkeypatch.context() as patched:
        patched.setattr(ModelScorer, "score", score)
        ran = polyrank("train", write(config, run), "--out", out, "--evaluate", collection)
    assert ran.code == 130
    assert ran.err == "stopped; the same command goes on from the last checkpoint\n"
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loop": {"stepz": 3}}, "'stepz' in {}: loop; did you mean 'steps'?"),
        ({"modell": "m"}, "'modell' in {}; did you mean 'model'?"),
        ({"data": {"parts": [{"path": "g", "wait": 2}]}}, "did you mean 'weight'?"),
        ({"loop": {}}, "expected every key of LoopConfig in {}: loop"),
        ({"model": "no/such/model"}, "expected a folder, a hub id"),
        ({"loop": {"steps": "3"}}, "expected an integer at {}: loop: steps, got '3'"),
        ({"loop": {"steps": 3, "dtype": "fp16"}}, "expected one of auto, bf16, fp32 at {}: loop:"),
    ],
)
def test_a_wrong_config_names_the_place_and_the_nearest_key(
    polyrank: Run, config: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write(config, json.loads(config.read_text()) | change)
    ran = polyrank("train", config, "--out", tmp_path / "run")
    assert ran.code == 1
    assert words.format(config) in ran.err
    assert not (tmp_path / "run").exists()


def test_a_second_run_into_one_folder_is_refused(
    polyrank: Run, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with alone(out):
        ran = polyrank("train", config, "--out", out)
    assert ran.code == 1
    assert f"expected to be the only run that writes {out}, found another one" in ran.err
    assert files_of(out) == [".lock"]


def test_bad_lines_of_groups_are_counted_and_named(
    polyrank: Run, config: Path, groups: Path, tmp_path: Path
) -> None:
    with groups.open("a") as file:
        file.write('{"query": "w1", "positive": "w2"}\n')
    ran = polyrank("train", config, "--out", tmp_path / "run")
    assert ran.code == 0
    assert ran.lines[0].startswith(f"{groups}: left out 1 bad line: expected `texts`")
    assert f"{groups}:11" in ran.lines[0]
    shown = polyrank("train", config, "--dry-run")
    assert "left out: 1 lines of groups.jsonl" in shown.lines


def test_a_run_goes_on_only_with_the_config_it_began_with(
    polyrank: Run, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert polyrank("train", config, "--out", out).code == 0
    run = json.loads(config.read_text())
    run["loop"]["learning_rate"] = 0.5
    run["data"]["parts"][0]["group_size"] = 2
    other = polyrank("train", write(tmp_path / "other.json", run), "--out", out)
    assert other.code == 1
    assert "loop.learning_rate 0.001 then and 0.5 now" in other.err
    assert "data.parts.0.group_size 8 then and 2 now" in other.err
    longer = polyrank("train", config, "--out", out, "--steps", 8)
    assert longer.code == 0
    assert list(logged(out, "train", "loss")) == list(range(1, 9))


@pytest.mark.parametrize(("length", "words"), [(8193, "at most 8192"), (5, "at least 6")])
def test_pairs_longer_than_the_model_reads_or_without_room_are_refused(
    polyrank: Run, config: Path, tmp_path: Path, length: int, words: str
) -> None:
    run = json.loads(config.read_text())
    run["data"]["parts"][0]["max_length"] = length
    ran = polyrank("train", write(config, run), "--out", tmp_path / "run")
    assert ran.code == 1
    assert f"expected a max_length of {words} tokens" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "CONFIG or --recipe"),
        (["c.json", "--recipe", "fine-tune"], "CONFIG or --recipe"),
        (["c.json", "--model", "m", "--out", "o"], "with --recipe only"),
        (["c.json"], "--out FOLDER, or --dry-run"),
        (["c.json", "--out", "o", "--queries", "3"], "--evaluate DIR with --queries"),
    ],
)
def test_wrong_usage_says_what_was_expected(polyrank: Run, options: list[str], words: str) -> None:
    ran = polyrank("train", *options)
    assert ran.code == 2
    assert words in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--recipe", "fine-tune", "--data", "g.jsonl", "--out", "o"],
        ["pretrain", "--model", "m", "--text", "t", "--out", "o"],
    ],
)
def test_without_torch_the_error_says_what_to_install(command: list[str]) -> None:
    done = subprocess.run([*WITHOUT_TORCH, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        'error: expected PyTorch for this command; install it with: pip install "polyrank[train]"\n'
    )


def test_torchrun_makes_one_run_of_two_processes(
    polyrank: Run, config: Path, tmp_path: Path
) -> None:
    run = json.loads(config.read_text())
    # Several batches a step. The tiny model has dropout: a batch's is the same in any process.
    run["data"]["max_batch_tokens"] = 60
    run["loop"]["steps"] = 2
    write(config, run)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train = ["-m", "polyrank", "train", str(config), "--out", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, *torchrun, *train],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train step 2") == 1
    assert done.stderr.count("wrote ") == 1
    assert polyrank("train", config, "--out", tmp_path / "one").code == 0
    two, one = (logged(tmp_path / name, "train", "loss") for name in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-4)


@posix
def test_a_terminal_sees_a_bar_and_the_log(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_THREADS", "1")
    code, seen = on_a_terminal("train", config, "--out", tmp_path / "run")
    assert code == 0
    assert "6/6" in seen
    assert "train step 6  loss" in seen
