"""The loop learns, stops anywhere, and goes on as if it had not stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyrank import Reranker
from polyrank.checkpoint import load_checkpoint
from polyrank.errors import BackendError, InputError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.ahead import made_ahead
from polyrank.training.config import (
    LoopConfig,
    MixtureConfig,
    PartConfig,
    RerankConfig,
    to_mapping,
)
from polyrank.training.groups import write_groups
from polyrank.training.optimizer import learning_rate_factor
from polyrank.training.preview import preview_reranker
from polyrank.training.rerank import train_reranker
from training.matching import matching_groups

LOOP = LoopConfig(
    steps=6, learning_rate=2e-3, dtype="fp32", checkpoint_every=2, log_every=1, seed=1
)


def config_for(encoder: Path, groups: Path, loop: LoopConfig = LOOP, **data: Any) -> RerankConfig:
    """A run of the matching task."""
    parts = (PartConfig(path=str(groups), max_length=32),)
    mixture = MixtureConfig(parts=parts, groups_per_step=8, **{"max_batch_tokens": 200, **data})
    return RerankConfig(model=str(encoder), data=mixture, loop=loop)


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss, from a run's log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def test_a_new_task_is_learned_from_chance_to_above_90_percent(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, steps=250, learning_rate=3e-3, checkpoint_every=250, log_every=50)
    config = config_for(encoder_folder, matching_file, replace(loop, train_embeddings=True))
    config = replace(config, data=replace(config.data, groups_per_step=16, max_batch_tokens=2048))
    train_reranker(config, tmp_path / "run")
    held_out = matching_groups(100, seed=99)
    with Reranker(tmp_path / "run/step-000250") as reranker:
        best = [reranker.rank(g.query, list(g.texts))[0].index for g in held_out]
    assert best.count(0) > 90


def test_a_run_resumed_after_any_checkpoint_repeats_the_uninterrupted_one(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    config = config_for(encoder_folder, matching_file, replace(LOOP, ema_decay=0.9))
    whole = train_reranker(config, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop_at_step_5(line: str) -> None:
        if "step 5" in line:
            raise StopError

    with pytest.raises(StopError):
        train_reranker(config, tmp_path / "cut", say=stop_at_step_5)
    resumed = train_reranker(config, tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_batches_made_in_other_processes_are_the_same(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    for name, processes in (("here", 0), ("there", 2)):
        loop = replace(LOOP, loader_processes=processes)
        train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path / name)
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("processes", [0, 1])
def test_what_a_step_s_batches_raise_is_raised_at_that_step(processes: int) -> None:
    def make(step: int) -> int:
        if step == 5:
            raise InputError("expected less")
        return 10 * step

    made = made_ahead(make, range(2, 9), processes=processes)
    assert [next(made) for _ in range(3)] == [(2, 20), (3, 30), (4, 40)]
    with pytest.raises(InputError, match="expected less"):
        next(made)


def test_a_run_killed_at_any_moment_goes_on_with_the_same_losses(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, steps=400, checkpoint_every=1, keep_models=1)
    config = config_for(encoder_folder, matching_file, loop)
    path, cut = tmp_path / "config.json", tmp_path / "cut"
    path.write_text(json.dumps(to_mapping(config)))
    code = (
        "import sys, torch; torch.set_num_threads(1); "
        "from polyrank.training.config import read_config; "
        "from polyrank.training.rerank import train_reranker; "
        "train_reranker(read_config(sys.argv[1]), sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(cut)])
    deadline = time.monotonic() + 60
    while not (cut / "log.jsonl").exists() or len(losses_so_far(cut)) < 5:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it logged nothing in a minute"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(torch.load(cut / "state.pt", weights_only=True)["step"])
    # The schedule knows the run's full length: stop both a little after the kill.
    train_up_to(config, cut, reached + 3)
    train_up_to(config, tmp_path / "whole", reached + 3)
    assert losses(cut) == losses(tmp_path / "whole")


def losses_so_far(folder: Path) -> list[str]:
    """Lines of a log that may be cut."""
    return (folder / "log.jsonl").read_text().splitlines()


def train_up_to(config: RerankConfig, folder: Path, step: int) -> None:
    """Run until a step is logged, then leave."""

    class StopError(Exception):
        pass

    def say(line: str) -> None:
        if f"step {step} " in line:
            raise StopError

    with pytest.raises(StopError):
        train_reranker(config, folder, say=say)


def test_how_a_step_is_cut_into_batches_does_not_change_it(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    for name, budget in (("one", 10_000), ("many", 60)):
        config = config_for(encoder_folder, matching_file, max_batch_tokens=budget)
        train_reranker(config, tmp_path / name)
    one, many = losses(tmp_path / "one"), losses(tmp_path / "many")
    assert list(one.values()) == pytest.approx(list(many.values()), rel=1e-4)


def test_recomputing_layers_does_not_change_a_step(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    for name, recompute in (("kept", False), ("recomputed", True)):
        loop = replace(LOOP, recompute=recompute)
        train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path / name)
    kept = list(losses(tmp_path / "kept").values())
    assert list(losses(tmp_path / "recomputed").values()) == pytest.approx(kept, rel=1e-5)


def test_frozen_embeddings_stay_and_the_rest_moves(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    model = train_reranker(config_for(encoder_folder, matching_file), tmp_path)
    start = load_checkpoint(encoder_folder, require_head=False)
    for name, array in start.arrays.items():
        same = np.array_equal(model.arrays()[name].float32(), array.float32())
        assert same == name.startswith("embeddings."), name


def test_lora_changes_the_layers_and_exports_plain_weights(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, lora_rank=2, steps=4, checkpoint_every=2)
    trained = train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path)
    learning = [n for n, p in trained.named_parameters() if p.requires_grad]
    assert all(n.startswith("head.") or n.endswith((".up", ".down")) for n in learning)
    exported = load_checkpoint(tmp_path / "step-000004")
    start = load_checkpoint(encoder_folder, require_head=False)
    name = "layers.0.qkv.weight"
    difference = exported.arrays[name].float32() - start.arrays[name].float32()
    assert 0 < np.linalg.matrix_rank(difference, tol=1e-5) <= 2


def test_the_mean_of_the_weights_is_what_is_exported(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, ema_decay=0.5)
    seen = {}

    def evaluate(model: CrossEncoder, step: int) -> dict[str, float]:
        seen[step] = model.arrays()["head.out.weight"].float32().copy()
        return {"accuracy": 0.5}

    train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path, evaluate=evaluate)
    exported = load_checkpoint(tmp_path / "step-000006").arrays["head.out.weight"].float32()
    raw = torch.load(tmp_path / "state.pt", weights_only=True)["weights"]["head.out.weight"]
    assert np.array_equal(seen[6], exported)
    assert not np.array_equal(raw.numpy(), exported)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last == {"kind": "evaluation", "step": 6, "accuracy": 0.5}


def test_bf16_learns_as_fp32_does(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    for dtype in ("bf16", "fp32"):
        loop = replace(LOOP, dtype=dtype)
        train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path / dtype)
    exact = list(losses(tmp_path / "fp32").values())
    assert list(losses(tmp_path / "bf16").values()) == pytest.approx(exact, rel=0.05)


def test_only_the_last_models_are_kept(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, keep_models=2)
    train_reranker(config_for(encoder_folder, matching_file, loop), tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000004", "step-000006"]


def test_a_loss_that_is_not_a_number_stops_the_run_by_name(
    encoder_folder: Path, tmp_path: Path
) -> None:
    group = replace(matching_groups(1, seed=0)[0], scores=(2e38, -2e38, 0.0, 0.0))
    write_groups(tmp_path / "g.jsonl", [group])
    config = config_for(encoder_folder, tmp_path / "g.jsonl")
    with pytest.raises(BackendError, match=r"expected a finite loss, got (nan|inf) at step 1; be"):
        train_reranker(config, tmp_path / "run")


def test_running_out_of_memory_says_what_to_lower(
    encoder_folder: Path, matching_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CrossEncoder, "forward", forward)
    with pytest.raises(BackendError, match=r"training batch of \d+ tokens; lower max_batch_tokens"):
        train_reranker(config_for(encoder_folder, matching_file), tmp_path)


def test_any_other_failure_is_not_taken_for_memory(
    encoder_folder: Path, matching_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object) -> torch.Tensor:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(CrossEncoder, "forward", forward)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        train_reranker(config_for(encoder_folder, matching_file), tmp_path)


def test_a_run_does_not_resume_what_trained_other_tensors(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    config = config_for(encoder_folder, matching_file, replace(LOOP, steps=2))
    train_reranker(config, tmp_path)
    other = replace(config, loop=replace(config.loop, steps=4, train_embeddings=True))
    with pytest.raises(InputError, match="resume with the config it began with"):
        train_reranker(other, tmp_path)


def test_a_run_that_goes_on_with_other_settings_says_so_and_follows_them(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    config = config_for(encoder_folder, matching_file, replace(LOOP, steps=2))
    begun = train_reranker(config, tmp_path)
    still = replace(config.loop, steps=4, learning_rate=0.0, head_learning_rate=0.0)
    lines: list[str] = []
    ended = train_reranker(replace(config, loop=still), tmp_path, say=lines.append)
    assert lines[0].startswith(
        "goes on from step 2 with other settings than it began with: steps 2"
    )
    assert f"learning_rate {config.loop.learning_rate} then and 0.0 now" in lines[0]
    for (name, a), b in zip(begun.state_dict().items(), ended.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    loop = LoopConfig(steps=100, warmup_share=0.1)
    factors = [learning_rate_factor(s, loop) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_a_preview_shows_the_first_pairs_and_the_cost_and_writes_nothing(
    encoder_folder: Path, matching_file: Path
) -> None:
    before = sorted(matching_file.parent.iterdir())
    preview = preview_reranker(config_for(encoder_folder, matching_file))
    assert preview.pairs[0].split()[1].startswith("w1")
    assert preview.pairs_per_step == 8 * 4
    assert preview.tokens == int(preview.tokens_per_step * LOOP.steps)
    assert preview.seconds is not None
    assert preview.seconds > 0
    assert any(line.startswith("the run: ") for line in preview.lines())
    assert sorted(matching_file.parent.iterdir()) == before


def test_a_run_may_draw_each_step_from_one_bucket_of_lengths(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    config = config_for(encoder_folder, matching_file, buckets=((8, 4), (64, 2)))
    train_reranker(config, tmp_path)
    assert len(losses(tmp_path)) == LOOP.steps


def test_numbers_go_to_tensorboard_where_it_is_installed(
    encoder_folder: Path, matching_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            assert folder == str(tmp_path / "tensorboard")
            assert purge_step is None

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def flush(self) -> None:
            pass

        close = flush

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    train_reranker(config_for(encoder_folder, matching_file), tmp_path)
    assert ("train/loss", 1) in written
    assert ("train/nce", LOOP.steps) in written
