"""Which products of a network 8 bits would spoil, measured on the inputs that they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint import Checkpoint, dequantize_int8, products, quantize_int8

__all__ = ["rounding_errors", "spoiled"]

Floats = npt.NDArray[np.float32]
_WORST = 0.1
"""A product that is off by more stays fp32. Most are off by .01 (mGTE shape) to .04."""


def spoiled(checkpoint: Checkpoint, inputs: Mapping[str, Sequence[Floats]]) -> list[str]:
    """The products that int8 would get wrong by more than a tenth, such as `layers.1.up`."""
    errors = rounding_errors(checkpoint, inputs)
    return [name for name, error in errors.items() if error > _WORST]


def rounding_errors(
    checkpoint: Checkpoint, inputs: Mapping[str, Sequence[Floats]]
) -> dict[str, float]:
    """Each product of the layers -> ||int8 - exact|| / ||exact|| over its [tokens, in] inputs."""
    errors = {}
    for name, seen in inputs.items():
        x = np.concatenate(seen)
        near = dequantize_int8(*quantize_int8(x))  # rows of x, as channels of a weight
        weight = checkpoint.arrays[f"{name}.weight"].float32()
        owners = products(name, checkpoint.config)
        for owner, w in zip(owners, np.split(weight, len(owners)), strict=True):
            exact = x @ w.T
            off = near @ dequantize_int8(*quantize_int8(w)).T - exact
            errors[owner] = float(np.linalg.norm(off)) / max(float(np.linalg.norm(exact)), 1e-30)
    return errors
