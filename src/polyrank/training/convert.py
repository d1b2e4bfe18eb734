"""A BERT-shaped encoder in the mGTE architecture: the MLP exactly, positions to be adapted.

L layers, D width, F intermediate width, H heads, K head width

GTE's MLP is `down(gelu(gate h) * (up h))` without biases, BERT's is `out(gelu(in h + b))`. Its
input is a LayerNorm's output h = gamma * xhat + beta, and xhat sums to 0 over the width. So with

    w_j = (1 / gamma_j) / C,   C = sum_j beta_j / gamma_j

w . h = (sum_j xhat_j + sum_j beta_j / gamma_j) / C = 1 for every token. A constant 1 replaces the
bias: `gate = in + b (outer) w`, and every row of `up` is w.

What each head and neuron does on sample text (`Activity`) makes two things better. RoPE turns
pairs of a head's places, the first ones fast and the last ones hardly at all; since q . k stays
the same under any A q . A^-T k, what a head compares most is put where it is turned least. And the
least active neurons can be left out, their mean going into the bias after them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from polyrank.checkpoint import Array, Checkpoint
from polyrank.errors import CheckpointError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.objective import forward_inputs
from polyrank.values import Batch

__all__ = ["Activity", "bert_to_gte", "constant_one", "measure_activity"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the heads and neurons of a network do, on average over tokens."""

    queries: Floats
    """[L, H, K, K] second moments of each head's queries."""
    keys: Floats
    """[L, H, K, K]"""
    means: Floats
    """[L, F] of each neuron after its activation."""
    sizes: Floats
    """[L, F] mean magnitude of each neuron."""


@torch.no_grad()
def measure_activity(model: CrossEncoder, batches: Iterable[Batch]) -> Activity:
    """Run packed texts through the network; some ten thousand tokens are plenty."""
    D, H = model.config.hidden_size, model.config.num_heads
    L, F, K = model.config.num_layers, model.config.intermediate_size, D // H
    device = next(model.parameters()).device
    moments = torch.zeros(2, L, H, K, K, dtype=torch.float64, device=device)
    neurons = torch.zeros(2, L, F, dtype=torch.float64, device=device)
    tokens = 0

    def see_heads(n: int, qkv_TD: torch.Tensor) -> None:
        qk = qkv_TD.double().view(-1, 3, H, K)[:, :2]
        moments[:, n] += torch.einsum("tshi,tshj->shij", qk, qk)

    def see_neurons(n: int, h_TF: torch.Tensor) -> None:
        neurons[0, n] += h_TF.double().sum(0)
        neurons[1, n] += h_TF.double().abs().sum(0)

    hooks = []
    for n, layer in enumerate(model.layers):
        qkv, out = layer.get_submodule("qkv"), layer.get_submodule("mlp_out")
        hooks.append(qkv.register_forward_hook(lambda _m, _in, y, n=n: see_heads(n, y)))
        hooks.append(out.register_forward_hook(lambda _m, x, _out, n=n: see_neurons(n, x[0])))
    try:
        for batch in batches:
            model.hidden_states(*forward_inputs(batch, device))
            tokens += len(batch.ids)
    finally:
        for hook in hooks:
            hook.remove()
    (queries, keys), (means, sizes) = moments / tokens, neurons / tokens
    return Activity(
        queries=queries.cpu().numpy(),
        keys=keys.cpu().numpy(),
        means=means.cpu().numpy(),
        sizes=sizes.cpu().numpy(),
    )


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
    checkpoint: Checkpoint,
    *,
    activity: Activity | None = None,
    intermediate_size: int | None = None,
    rope_theta: float = 10_000.0,
    max_positions: int = 8192,
) -> Checkpoint:
    """The encoder (and head) as gte: same MLPs and attention weights, RoPE for position rows.

    With `activity` the heads are turned as the module says, and `intermediate_size` keeps that
    many neurons a layer (None: all). The mean position row goes into the token type row. Folded in
    fp64, stored in fp32. What it computes differs until it is distilled: see
    `polyrank.training.distill`. Raises CheckpointError for another family or activation, for norms
    that cannot make a constant, and for neurons to be left out that were not measured.
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
    width = intermediate_size or config.intermediate_size
    if width > config.intermediate_size or (width < config.intermediate_size and activity is None):
        raise CheckpointError(
            f"expected an intermediate_size of at most {config.intermediate_size}, and `activity` "
            f"where it is less, got {width}"
        )
    for n in range(config.num_layers):
        if activity is not None:
            _turn_heads(read, n, activity)
            _keep_neurons(read, n, activity, width)
        norm, mlp = f"layers.{n}.attn_norm", f"layers.{n}.mlp_in"
        w = constant_one(read[f"{norm}.weight"], read[f"{norm}.bias"])
        gate = read[f"{mlp}.weight"] + np.outer(read.pop(f"{mlp}.bias"), w)
        up = np.broadcast_to(w, gate.shape)
        read[f"{mlp}.weight"] = np.concatenate([up, gate])
    gte = replace(
        config,
        family="gte",
        intermediate_size=width,
        max_positions=max_positions,
        type_vocab_size=1,
        position_offset=0,
        rope_theta=rope_theta,
        rope_factor=1.0,
    )
    arrays = {name: Array(value.astype(np.float32)) for name, value in read.items()}
    return Checkpoint(config=gte, arrays=arrays, source={"model_type": "gte"})


def _turn_heads(read: dict[str, Floats], n: int, activity: Activity) -> None:
    """Give each head's queries and keys the basis in which RoPE disturbs them least."""
    H, K, _ = activity.keys[n].shape
    # The largest two to the slowest pair (K/2 - 1, K - 1), and so on.
    order = np.concatenate([np.arange(K - 2, -1, -2), np.arange(K - 1, -1, -2)])
    for h in range(H):
        q_root, k_root = _root(activity.queries[n, h]), _root(activity.keys[n, h])
        # Balanced: both get the moments diag(s), so s is how much each place gives to q . k.
        u, s, vt = np.linalg.svd(k_root.T @ q_root)
        turns = (u / np.sqrt(s)).T @ k_root.T, (vt.T / np.sqrt(s)).T @ q_root.T
        for part, turn in enumerate(turns):
            start = (part * H + h) * K
            for kind in ("weight", "bias"):
                rows = read[f"layers.{n}.qkv.{kind}"][start : start + K]
                rows[...] = (turn @ rows)[order]


def _root(moments_KK: Floats) -> Floats:
    """[K, K] a Cholesky factor, of moments that hold every direction a little."""
    K = len(moments_KK)
    ridge = 1e-4 * float(np.trace(moments_KK)) / K
    return np.asarray(np.linalg.cholesky(moments_KK + ridge * np.eye(K)), np.float64)


def _keep_neurons(read: dict[str, Floats], n: int, activity: Activity, width: int) -> None:
    """Keep the neurons that move the output most; the others' mean goes into its bias."""
    out = read[f"layers.{n}.mlp_out.weight"]
    worth_F = activity.sizes[n] * np.linalg.norm(out, axis=0)
    kept = np.sort(np.argsort(-worth_F, kind="stable")[:width])
    gone = np.setdiff1d(np.arange(len(worth_F)), kept)
    read[f"layers.{n}.mlp_out.bias"] += out[:, gone] @ activity.means[n][gone]
    read[f"layers.{n}.mlp_out.weight"] = out[:, kept]
    for kind in ("weight", "bias"):
        read[f"layers.{n}.mlp_in.{kind}"] = read[f"layers.{n}.mlp_in.{kind}"][kept]
