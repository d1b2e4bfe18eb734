"""Configs from JSON: what comes back whole, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyrank.errors import InputError
from polyrank.training.config import (
    LoopConfig,
    LossConfig,
    MixtureConfig,
    PartConfig,
    RerankConfig,
    read_config,
    to_mapping,
)
from polyrank.training.typed import from_mapping


def test_a_config_comes_back_from_json(tmp_path: Path) -> None:
    config = RerankConfig(
        model="m",
        data=MixtureConfig(parts=(PartConfig(path="g", max_length=32),), buckets=((500, 3),)),
        loop=LoopConfig(steps=6, learning_rate=2e-3, dtype="fp32"),
        loss=LossConfig(margin=0.3),
    )
    (tmp_path / "c.json").write_text(json.dumps(to_mapping(config)))
    assert read_config(tmp_path / "c.json") == config


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"stepz": 3}, "got 'stepz' in here; did you mean 'steps'"),
        ({}, "expected every key of LoopConfig"),
        ([], "expected an object at here, got list"),
    ],
)
def test_a_wrong_config_names_the_nearest_key(row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(LoopConfig, row, where="here")


NAN, HUGE = float("nan"), 10**400
WRONG = {
    "model": [5],
    "teachers": ["m", 5, [1]],
    "loss": [None],
    "loss.temperature": [0],
    "loss.contrastive": [-1, "x"],
    "data.parts": [5, "abc", None, {}, []],
    "data.parts.0.path": [5],
    "data.parts.0.weight": ["2", None, 0, -1, NAN, HUGE],
    "data.parts.0.group_size": [0, 1.5, True],
    "data.parts.0.max_length": [0, "64"],
    "data.groups_per_step": [0, -1, "8"],
    "data.max_batch_tokens": [0],
    "data.language_exponent": ["a", NAN],
    "data.seed": [-1],
    "data.buckets": [5, [[1]], [[500, 0]], [[0, 3]], [[500, 3], [500, 3]], [["a", 3]]],
    "loop": [None],
    "loop.steps": ["20", 0, -3, 1.5, True, None],
    "loop.learning_rate": ["2e-5", 0, -1, NAN, float("inf"), True],
    "loop.head_learning_rate": [NAN, -1],
    "loop.warmup_share": [2, -1],
    "loop.weight_decay": ["x", -1],
    "loop.betas": [5, [0.9], ["a", "b"], [0.9, 1], [-0.1, 0.9]],
    "loop.clip_norm": [0],
    "loop.dtype": ["fp16", 5, []],
    "loop.train_embeddings": [1, "yes"],
    "loop.lora_rank": [0, -2],
    "loop.ema_decay": [0, 1, 2],
    "loop.loader_processes": [-1],
    "loop.seed": [-1],
    "loop.checkpoint_every": [0],
    "loop.keep_models": [0, -1],
    "loop.evaluate_every": [0],
    "loop.log_every": [0],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, wrong in WRONG.items() for value in wrong],
    ids=lambda value: f"{value!r:.30}",
)
def test_a_wrong_value_names_its_key(key: str, value: Any) -> None:
    row = {"model": "m", "data": {"parts": [{"path": "g"}]}, "loop": {"steps": 1}, "loss": {}}
    inside: Any = row
    *outer, last = (int(k) if k.isdigit() else k for k in key.split("."))
    for name in outer:
        inside = inside[name]
    inside[last] = value
    with pytest.raises(InputError, match=f"^expected .* at c.json: .*{last}.*, got "):
        from_mapping(RerankConfig, row, where="c.json")


def test_values_at_their_limits_are_right_and_numbers_may_be_integers() -> None:
    loop = {"steps": 1, "learning_rate": 1, "warmup_share": 0, "betas": [0, 0.5]}
    loop |= {"keep_models": None, "evaluate_every": None, "ema_decay": None, "clip_norm": None}
    data = {"parts": [{"path": "g", "weight": 2}], "buckets": [[500, 3], [501, 1]], "seed": 0}
    run = from_mapping(RerankConfig, {"model": "m", "data": data, "loop": loop}, where="here")
    assert run.loop.betas == (0, 0.5)
    assert run.data.buckets == ((500, 3), (501, 1))
    assert from_mapping(RerankConfig, to_mapping(run), where="here") == run
