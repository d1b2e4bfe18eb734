"""What keeps rounding to 8 bits harmless, measured on the inputs that a network's products meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint import Array, Checkpoint, dequantize_int8, products, quantize_int8

__all__ = ["Inputs", "centred", "rounding_errors", "spoiled"]

Floats = npt.NDArray[np.float32]
Inputs = dict[str, Floats]
"""A product of the layers, such as `layers.0.qkv` -> [tokens, in] what it met"""
_WORST = 0.05
"""A product that is off by more stays fp32. Most are off by .01 (mGTE shape) to .04."""


def centred(checkpoint: Checkpoint, inputs: Inputs) -> tuple[Checkpoint, Inputs]:
    """The same function, the inputs of its products around zero where a bias can take the rest.

    Channels that are far from zero for every token set the step that a whole row is rounded to.
    Their means move from the norm before a product into its bias, and around it into the bias that
    is added to its norm's output next (the shifts of Outlier Suppression+, arXiv 2304.09145).
    """
    arrays, moved = dict(checkpoint.arrays), dict(inputs)

    def add(name: str, value: Floats) -> None:
        arrays[name] = Array(arrays[name].float32() + value)

    norm = "embeddings.norm"
    for n in range(checkpoint.config.num_layers):
        for first, last, after in (
            ("qkv", "attn_out", "attn_norm"),
            ("mlp_in", "mlp_out", "mlp_norm"),
        ):
            name = f"layers.{n}.{first}"
            if f"{name}.bias" in arrays:  # gated MLPs have none
                mean = inputs[name].mean(axis=0)
                add(f"{norm}.bias", -mean)
                add(f"{name}.bias", arrays[f"{name}.weight"].float32() @ mean)
                add(f"layers.{n}.{last}.bias", mean)
                moved[name] = inputs[name] - mean
            norm = f"layers.{n}.{after}"
    return replace(checkpoint, arrays=arrays), moved


def spoiled(checkpoint: Checkpoint, inputs: Inputs) -> list[str]:
    """The products that int8 would get wrong by more than a twentieth, such as `layers.1.up`."""
    errors = rounding_errors(checkpoint, inputs)
    return [name for name, error in errors.items() if error > _WORST]


def rounding_errors(checkpoint: Checkpoint, inputs: Inputs) -> dict[str, float]:
    """Each product of the layers -> ||int8 - exact|| / ||exact|| over its inputs."""
    errors = {}
    for name, x in inputs.items():
        near = dequantize_int8(*quantize_int8(x))  # rows of x, as channels of a weight
        weight = checkpoint.arrays[f"{name}.weight"].float32()
        owners = products(name, checkpoint.config)
        for owner, w in zip(owners, np.split(weight, len(owners)), strict=True):
            exact = x @ w.T
            off = near @ dequantize_int8(*quantize_int8(w)).T - exact
            errors[owner] = float(np.linalg.norm(off)) / max(float(np.linalg.norm(exact)), 1e-30)
    return errors
