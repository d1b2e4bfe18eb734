"""Which products of a network 8 bits would spoil, measured on sample pairs."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint import Checkpoint, dequantize_int8, products, quantize_int8
from polyrank.onnx_backend.reference import reference_logits, sample_encodings

__all__ = ["rounding_errors", "spoiled"]

Floats = npt.NDArray[np.float32]
_SAMPLES = 4
_WORST = 0.1
"""A product that is off by more stays fp32. Most are off by .01 (mGTE shape) to .04."""


def spoiled(checkpoint: Checkpoint) -> list[str]:
    """The products that int8 would get wrong by more than a tenth, such as `layers.1.up`."""
    return [name for name, error in rounding_errors(checkpoint).items() if error > _WORST]


def rounding_errors(checkpoint: Checkpoint) -> dict[str, float]:
    """Each product of the layers -> ||int8 - exact|| / ||exact|| over the samples' tokens."""
    seen: dict[str, list[Floats]] = defaultdict(list)
    for encoding in sample_encodings(checkpoint.config, _SAMPLES):
        reference_logits(checkpoint, encoding, lambda name, x: seen[name].append(x))
    errors = {}
    for name, inputs in seen.items():
        x = np.concatenate(inputs)
        near = dequantize_int8(*quantize_int8(x))  # rows of x, as channels of a weight
        weight = checkpoint.arrays[f"{name}.weight"].float32()
        owners = products(name, checkpoint.config)
        for owner, w in zip(owners, np.split(weight, len(owners)), strict=True):
            exact = x @ w.T
            off = near @ dequantize_int8(*quantize_int8(w)).T - exact
            errors[owner] = float(np.linalg.norm(off)) / max(float(np.linalg.norm(exact)), 1e-30)
    return errors
