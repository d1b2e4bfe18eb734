"""Weights in 8 and 4 bits, and back. Pure functions of NumPy arrays; knows no file and no name.

8 bits, for linear layers: each output channel has a scale, and its largest magnitude is 127.
4 bits, for tables: blocks of 32 values along a row share an fp16 scale; the value of largest
magnitude is -8 of it. A table that came from such blocks comes back without any loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "dequantize_int4", "dequantize_int8", "quantize_int4", "quantize_int8"]

BLOCK = 32
"""Values of a row that share a scale in 4 bits."""
Floats = npt.NDArray[np.float32]


def quantize_int8(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """[out, in] -> [out, in] int8 in -127..127, and [out] what one step is worth."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-30) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def dequantize_int8(values: npt.NDArray[np.int8], scale: Floats) -> Floats:
    """The inverse of `quantize_int8`, as near as 8 bits are."""
    return values.astype(np.float32) * scale[:, None]


def quantize_int4(
    table: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """[V, D] -> [V, D / 2] bytes, and [V, D / 32] scales. D is a multiple of 32.

    A block's 16 bytes hold its first half in their low four bits, its second half in the high.
    """
    V, D = table.shape
    blocks = table.astype(np.float32).reshape(V, D // BLOCK, BLOCK)
    at = np.abs(blocks).argmax(axis=2)[..., None]
    scale = (np.take_along_axis(blocks, at, 2) / -8).astype(np.float16)
    step = np.where(scale == 0, 1, scale).astype(np.float32)
    nibbles = (np.clip(np.rint(blocks / step), -8, 7) + 8).astype(np.uint8)
    half = BLOCK // 2
    packed = nibbles[..., :half] | nibbles[..., half:] << np.uint8(4)
    return packed.reshape(V, D // 2), scale[..., 0]


def dequantize_int4(packed: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> Floats:
    """The inverse of `quantize_int4`, as near as 4 bits are."""
    V, blocks = scale.shape
    halves = packed.reshape(V, blocks, BLOCK // 2)
    values = np.concatenate([halves & 15, halves >> 4], axis=2).astype(np.float32) - 8
    return np.asarray(values * scale.astype(np.float32)[..., None], np.float32).reshape(V, -1)
