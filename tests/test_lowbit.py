"""Weights in 8 and 4 bits: how near they stay, and what stays exact."""

from __future__ import annotations

import numpy as np
import pytest

from polyrank.checkpoint.lowbit import (
    BLOCK,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)


def random(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_int8_is_within_half_a_step_of_each_channel() -> None:
    weight = random(5, 96) * np.array([[0.01], [1], [30], [1e-6], [2]], np.float32)
    values, scale = quantize_int8(weight)
    assert np.abs(values).max(axis=1).tolist() == [127] * 5
    error = np.abs(dequantize_int8(values, scale) - weight)
    assert (error <= scale[:, None] * 0.501).all()


def test_int4_is_within_one_step_of_each_block() -> None:
    table = random(7, 4 * BLOCK)
    packed, scale = quantize_int4(table)
    assert packed.shape == (7, 2 * BLOCK)
    error = np.abs(dequantize_int4(packed, scale) - table).reshape(7, 4, BLOCK)
    # Half a step, and a whole one where -8 has no counterpart: 8 is cut to 7.
    assert (error <= np.abs(scale.astype(np.float32))[..., None] * 1.01).all()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
def test_zeros_stay_zeros(quantize: object) -> None:
    zeros = np.zeros((2, BLOCK), np.float32)
    if quantize is quantize_int8:
        assert (dequantize_int8(*quantize_int8(zeros)) == 0).all()
    else:
        assert (dequantize_int4(*quantize_int4(zeros)) == 0).all()


def test_a_table_that_came_from_4_bit_blocks_comes_back_exactly() -> None:
    rng = np.random.default_rng(1)
    scale = rng.standard_normal((300, 3)).astype(np.float16)
    nibbles = rng.integers(0, 16, (300, 3, BLOCK))
    nibbles[..., 5] = 0  # the value of largest magnitude is -8 of its scale
    table = ((nibbles - 8) * scale.astype(np.float32)[..., None]).reshape(300, -1)
    packed, found = quantize_int4(table.astype(np.float32))
    assert (found == scale).all()
    assert (dequantize_int4(packed, found) == table).all()
