"""A BERT-shaped encoder in the mGTE architecture: the MLP exactly, positions to be adapted.

GTE's MLP is `down(gelu(gate h) * (up h))` without biases, BERT's is `out(gelu(in h + b))`. Its
input is a LayerNorm's output h = gamma * xhat + beta, and xhat sums to 0 over the width. So with

    w_j = (1 / gamma_j) / C,   C = sum_j beta_j / gamma_j

w . h = (sum_j xhat_j + sum_j beta_j / gamma_j) / C = 1 for every token. A constant 1 replaces the
bias: `gate = in + b (outer) w`, and every row of `up` is w.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint import Array, Checkpoint
from polyrank.errors import CheckpointError

__all__ = ["bert_to_gte", "constant_one"]

Floats = npt.NDArray[np.float64]


def constant_one(gamma: Floats, beta: Floats) -> Floats:
    """[D] w, with w . h = 1 for every output h of a LayerNorm with this gain and bias.

    Raises CheckpointError where there is none: a gain of 0, or biases that cancel out.
    """
    if np.any(gamma == 0):
        raise CheckpointError("expected a LayerNorm with gains other than 0 to convert, got a 0")
    total = float((beta / gamma).sum())
    if abs(total) < 1e-6 * float(np.abs(beta / gamma).sum()) or total == 0.0:
        raise CheckpointError(
            f"expected LayerNorm biases whose ratio to the gains does not cancel out, got {total}"
        )
    return np.asarray(1.0 / gamma / total, np.float64)


def bert_to_gte(
    checkpoint: Checkpoint, *, rope_theta: float = 10_000.0, max_positions: int = 8192
) -> Checkpoint:
    """The encoder (and head) as gte: same MLPs and attention weights, RoPE for position rows.

    The mean position row goes into the token type row. Folded in fp64, stored in fp32. What it
    computes differs until it is distilled: see `polyrank.training.distill`. Raises CheckpointError
    for another family or activation, and for norms that cannot make a constant.
    """
    config = checkpoint.config
    if config.family == "gte" or config.activation == "relu":
        raise CheckpointError(
            f"expected a bert or xlm-roberta encoder with gelu to convert, got {config.family} "
            f"with {config.activation}"
        )
    read = {name: array.float32().astype(np.float64) for name, array in checkpoint.arrays.items()}
    position = read.pop("embeddings.position.weight")[config.position_offset :]
    types = read.pop("embeddings.token_type.weight", np.zeros((1, config.hidden_size)))
    read["embeddings.token_type.weight"] = types[:1] + position.mean(0)
    for n in range(config.num_layers):
        norm, mlp = f"layers.{n}.attn_norm", f"layers.{n}.mlp_in"
        w = constant_one(read[f"{norm}.weight"], read[f"{norm}.bias"])
        gate = read[f"{mlp}.weight"] + np.outer(read.pop(f"{mlp}.bias"), w)
        up = np.broadcast_to(w, gate.shape)
        read[f"{mlp}.weight"] = np.concatenate([up, gate])
    gte = replace(
        config,
        family="gte",
        max_positions=max_positions,
        type_vocab_size=1,
        position_offset=0,
        rope_theta=rope_theta,
        rope_factor=1.0,
    )
    arrays = {name: Array(value.astype(np.float32)) for name, value in read.items()}
    return Checkpoint(config=gte, arrays=arrays, source={"model_type": "gte"})
