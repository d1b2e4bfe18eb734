"""What a run that was stopped, or that finds other things than it left, does when it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank.errors import CheckpointError, InputError
from polyrank.training import loop as training_loop
from polyrank.training.config import LossConfig, PartConfig, RerankConfig
from polyrank.training.groups import Group, write_groups
from polyrank.training.rerank import train_reranker
from polyrank.training.state import prune_models, save_state
from training.matching import matching_groups
from training.test_loop import LOOP as SIX_STEPS
from training.test_loop import config_for

LOOP = replace(SIX_STEPS, steps=4, evaluate_every=2)


@pytest.fixture
def config(encoder_folder: Path, tmp_path: Path) -> RerankConfig:
    """A run over a groups file that a test may change."""
    groups = tmp_path / "groups.jsonl"
    write_groups(groups, matching_groups(60, seed=1))
    return config_for(encoder_folder, groups, LOOP)


def evaluated(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "evaluation"]


@pytest.mark.parametrize("stopped_at", [0, 2, 4])
def test_an_evaluation_that_was_interrupted_is_made_up_for(
    config: RerankConfig, tmp_path: Path, stopped_at: int
) -> None:
    def interrupted(model: Any, step: int) -> Mapping[str, float]:
        if step == stopped_at:
            raise KeyboardInterrupt
        return {"x": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train_reranker(config, tmp_path / "run", evaluate=interrupted)
    train_reranker(config, tmp_path / "run", evaluate=lambda model, step: {"x": 1.0})
    assert evaluated(tmp_path / "run") == [0, 2, 4]
    train_reranker(config, tmp_path / "run", evaluate=lambda model, step: {"x": 1.0})
    assert evaluated(tmp_path / "run") == [0, 2, 4]


def test_what_another_model_was_before_its_first_step_is_not_kept(
    config: RerankConfig, tmp_path: Path
) -> None:
    def told(value: float) -> Any:
        return lambda model, step: {"x": value}

    with pytest.raises(RuntimeError):
        train_reranker(config, tmp_path / "run", evaluate=told(1.0), progress=_failing)
    (tmp_path / "run/state.pt").unlink(missing_ok=True)
    train_reranker(config, tmp_path / "run", evaluate=told(2.0))
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {row["x"] for row in rows if row["kind"] == "evaluation"} == {2.0}


def _failing(done: int, total: int) -> None:
    raise RuntimeError("at the first step")


def test_without_an_interval_it_is_before_the_first_step_and_at_the_end(
    config: RerankConfig, tmp_path: Path
) -> None:
    config = replace(config, loop=replace(LOOP, evaluate_every=None))
    train_reranker(config, tmp_path / "run", evaluate=lambda model, step: {"x": 1.0})
    assert evaluated(tmp_path / "run") == [0, 4]


def test_a_model_that_could_not_be_written_is_written_by_the_next_run(
    config: RerankConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("polyrank.training.rerank.export_model", no_room)
        with pytest.raises(OSError, match="No space left"):
            train_reranker(replace(config, loop=replace(LOOP, checkpoint_every=4)), tmp_path / "r")
    train_reranker(config, tmp_path / "r")
    assert (tmp_path / "r/step-000004/model.safetensors").exists()


def test_a_state_without_room_is_an_error_of_the_system(tmp_path: Path) -> None:
    class Full:
        def write(self, data: object) -> int:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "save", lambda state, file: Full().write(state))
        with pytest.raises(OSError, match=r"could not be written.*state\.pt\.part"):
            save_state(tmp_path, {"step": 1})


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00."])
def test_a_broken_state_is_named(config: RerankConfig, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt.* remove the file to start over"):
        train_reranker(config, tmp_path / "run")
    torch.save({"another": 1}, tmp_path / "run/state.pt")
    with pytest.raises(CheckpointError, match="found no config, ema, optimizer, step, weights"):
        train_reranker(config, tmp_path / "run")


def test_a_run_goes_on_only_with_its_own_groups(config: RerankConfig, tmp_path: Path) -> None:
    groups = Path(config.data.parts[0].path)
    half = replace(config, loop=replace(LOOP, steps=2))
    train_reranker(half, tmp_path / "run")
    moved = groups.rename(tmp_path / "elsewhere.jsonl")
    there = replace(config.data, parts=(PartConfig(path=str(moved), max_length=32),))
    train_reranker(replace(half, data=there), tmp_path / "run")
    write_groups(groups, matching_groups(60, seed=2))
    with pytest.raises(InputError, match=rf"began with, got others in {groups}; give a new --out"):
        train_reranker(config, tmp_path / "run")


def test_only_models_of_the_run_are_pruned(tmp_path: Path) -> None:
    names = ["step-000002", "step-000004", "step-1000000", "step-000002-kept", "step-2"]
    for name in names:
        (tmp_path / name).mkdir()
    prune_models(tmp_path, 1)
    assert {p.name for p in tmp_path.iterdir()} == set(names[2:])


def test_any_seed_will_do(config: RerankConfig, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=1, seed=1_717_171_717_171_000)
    train_reranker(replace(config, loop=loop), tmp_path / "run")


def test_lora_and_embeddings_are_not_trained_together(config: RerankConfig, tmp_path: Path) -> None:
    loop = replace(LOOP, lora_rank=2, train_embeddings=True)
    with pytest.raises(InputError, match="lora_rank or train_embeddings, got both"):
        train_reranker(replace(config, loop=loop), tmp_path / "run")


def test_groups_that_teach_nothing_are_left_out_and_named(
    config: RerankConfig, tmp_path: Path
) -> None:
    good, *others = matching_groups(3, seed=1)
    alone = Group(query="w100", texts=("w200",))
    unlabelled = replace(others[0], labelled=False)
    write_groups(config.data.parts[0].path, [good, alone, unlabelled])
    said: list[str] = []
    train_reranker(config, tmp_path / "run", say=said.append)
    assert "left out 2 bad lines" in said[0]
    assert "mine negatives first" in said[0]
    assert "where no teachers are" in said[0]
    write_groups(config.data.parts[0].path, [alone, alone])
    pointwise = replace(config, loss=LossConfig(contrastive=0.0, pointwise=1.0))
    train_reranker(pointwise, tmp_path / "pointwise")
    with pytest.raises(InputError, match="mine negatives first"):
        train_reranker(config, tmp_path / "other")


def test_pairs_that_are_cut_are_said_to_be(config: RerankConfig, tmp_path: Path) -> None:
    part = replace(config.data.parts[0], max_length=8)
    said: list[str] = []
    train_reranker(
        replace(config, data=replace(config.data, parts=(part,))), tmp_path / "run", say=said.append
    )
    assert said[0].startswith("cut: ")
    assert "of the pairs of the first step" in said[0]


def test_a_signal_to_the_whole_group_keeps_the_step(config: RerankConfig, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from polyrank.training import loop\n"
        "from polyrank.cli.app import run\n"
        "taken = loop.run_step\n"
        "def step(*given):\n"
        "    report = taken(*given)\n"
        "    if given[-1] == 2: os.killpg(0, signal.SIGTERM)\n"
        "    return report\n"
        "loop.run_step = step\n"
        "run()\n"
    )
    written = tmp_path / "config.json"
    loop = replace(config.loop, loader_processes=1, evaluate_every=None)
    written.write_text(json.dumps(training_loop.to_mapping(replace(config, loop=loop))))
    command = [sys.executable, "-c", program, "train", written, "--out", tmp_path / "run"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", start_new_session=True, check=False
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("stopped after step 3 of 4; the same command goes on from there\n")
