"""From turns to rows: medians, shares, the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyrank.bench.costs import layer_shapes, operations
from polyrank.bench.rows import Outcome, rows_of
from polyrank.config import EncoderConfig

from .conftest import setting, turn

CONFIG = EncoderConfig(
    family="gte",
    vocab_size=512,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    intermediate_size=32,
    max_positions=64,
    type_vocab_size=1,
    layer_norm_eps=1e-12,
)


def test_operations_are_those_of_the_products() -> None:
    # Two pairs of 2 and 3 tokens: q, k, v, out; gate, up, down; then scores and sums of attention.
    linear = 2 * 5 * (4 * 8 * 8 + 3 * 8 * 32)
    attention = 2 * 2 * (2 * 2 + 3 * 3) * 8
    assert operations(CONFIG, [2, 3]) == 3 * (linear + attention)
    assert layer_shapes(CONFIG) == [(8, 8), (8, 32), (32, 8)]


def test_a_plain_mlp_has_one_product_less() -> None:
    gated, plain = operations(CONFIG, [5]), operations(replace(CONFIG, family="bert"), [5])
    assert gated - plain == 3 * 2 * 5 * 8 * 32


def test_a_row_has_the_median_round_and_the_largest_memory() -> None:
    o = Outcome(
        setting=setting("onnx:fp32"),
        turns=[turn(s, [0.5, 1.0], [20, 30]) for s in (4.0, 1.0, 2.0)],
        cold_starts=[9.0, 3.0, 4.0],
    )
    (row,) = rows_of([o], config=CONFIG, queries=[[0, 1]], limits={"cpu fp32": 2e-4})
    assert row.reference
    assert row.speed is not None
    assert row.speed.pairs_per_second == 2 / 2.0
    assert row.speed.tokens_per_second == 50 / 2.0
    assert row.speed.cold_start_seconds == 4.0
    assert row.speed.peak_bytes == 4_000_000
    assert row.speed.query_seconds_p50 == pytest.approx(1.5)  # of 0.5 1 1 2 2 4
    gops = operations(CONFIG, [20, 30]) / 2.0 / 1e9
    assert row.speed.gops == pytest.approx(gops)
    assert row.speed.share == pytest.approx(gops / 2e-4)


def test_a_limit_that_was_not_measured_is_no_share() -> None:
    o = Outcome(setting=setting("onnx:int8"), turns=[turn(1.0, [0.5])], cold_starts=[1.0])
    (row,) = rows_of([o], config=CONFIG, queries=[[0]], limits={"cpu fp32": 1.0})
    assert row.speed is not None
    assert row.speed.share is None
    assert row.agreement is None  # nothing in fp32 to compare it with


def test_the_reference_is_the_first_fp32_that_ran() -> None:
    failed = Outcome(setting=setting("onnx:fp32"), turns=[turn(1.0, [9, 9])], error="died")
    torch = Outcome(setting=setting("torch:fp32"), turns=[turn(1.0, [1, 2])], cold_starts=[1.0])
    int8 = Outcome(setting=setting("onnx:int8"), turns=[turn(1.0, [2, 1])], cold_starts=[1.0])
    rows = rows_of([failed, torch, int8], config=CONFIG, queries=[[0, 1]], limits={})
    assert [r.reference for r in rows] == [False, True, False]
    assert (rows[0].error, rows[0].speed, rows[0].agreement) == ("died", None, None)
    assert rows[2].agreement is not None
    assert rows[2].agreement.tau == -1.0
    assert rows[2].agreement.largest_difference == 1.0
