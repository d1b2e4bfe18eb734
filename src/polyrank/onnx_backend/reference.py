"""The network as it is written in the papers, in NumPy: one pair, fp32, nothing fused.

What a converted graph is tested against, on machines without PyTorch too. Slow.

L tokens of the pair, D width, H heads, K head width
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint import Checkpoint
from polyrank.config import EncoderConfig
from polyrank.values import Encoding

__all__ = ["reference_logits", "sample_encodings"]

Floats = npt.NDArray[np.float32]
_erf = np.vectorize(math.erf, otypes=[np.float32])


def sample_encodings(config: EncoderConfig, count: int) -> list[Encoding]:
    """Random pairs of 5 to 24 tokens, the same ones each time."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, min(24, config.max_positions), count, endpoint=True)
    return [
        Encoding(
            ids=rng.integers(0, config.vocab_size, n, dtype=np.int32),
            type_split=n // 2 if config.type_vocab_size > 1 else int(n),
            tokens_given=int(n),
        )
        for n in lengths
    ]


def reference_logits(
    checkpoint: Checkpoint, encoding: Encoding, watch: Callable[[str, Floats], None] | None = None
) -> float:
    """The raw logit of one pair. `watch` is shown the layers' products: name, [L, in] input,
    [1, in] in the last layer after attention."""
    config = checkpoint.config

    def get(name: str) -> Floats:
        return checkpoint.arrays[name].float32()

    def linear(x: Floats, name: str) -> Floats:
        if watch is not None and name.startswith("layers."):
            watch(name, x)
        y: Floats = x @ get(f"{name}.weight").T
        if f"{name}.bias" in checkpoint.arrays:
            y += get(f"{name}.bias")
        return y

    def norm(x: Floats, name: str) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return np.asarray(centred / spread * get(f"{name}.weight") + get(f"{name}.bias"))

    x = norm(_embeddings(checkpoint, encoding), "embeddings.norm")
    for n in range(config.num_layers):
        layer = f"layers.{n}"
        q, k, v = np.split(linear(x, f"{layer}.qkv"), 3, axis=-1)
        a = _attention(_rotate(q, config), _rotate(k, config), v, config.num_heads)
        if n == config.num_layers - 1:  # only the first token is read from here on
            x, a = x[:1], a[:1]
        x = norm(x + linear(a, f"{layer}.attn_out"), f"{layer}.attn_norm")
        h = linear(x, f"{layer}.mlp_in")
        if config.gated:
            up, gate = np.split(h, 2, axis=-1)
            h = up * _activate(gate, config.activation)
        else:
            h = _activate(h, config.activation)
        x = norm(x + linear(h, f"{layer}.mlp_out"), f"{layer}.mlp_norm")
    logit = linear(np.tanh(linear(x, "head.dense")), "head.out")
    return float(logit[0, 0])


def _embeddings(checkpoint: Checkpoint, encoding: Encoding) -> Floats:
    def rows(name: str, at: npt.NDArray[Any]) -> Any:
        array = checkpoint.arrays.get(f"embeddings.{name}.weight")
        return 0 if array is None else type(array)(array.data[at], array.bf16).float32()

    places = np.arange(len(encoding))
    counted, offset = places, checkpoint.config.position_offset
    if offset:  # RoBERTa counts without the padding tokens that a text spells out
        padding = encoding.ids == offset - 1
        counted = np.where(padding, -1, np.cumsum(~padding) - 1)
    x: Floats = rows("word", encoding.ids)
    x = x + rows("position", counted + offset)
    return np.asarray(x + rows("token_type", (places >= encoding.type_split).astype(int)))


def _rotate(x_LD: Floats, config: EncoderConfig) -> Floats:
    """RoPE in the rotate-half layout, each head for itself."""
    if config.rope_theta is None:
        return x_LD
    x_LHK = x_LD.reshape(len(x_LD), config.num_heads, config.head_size)
    angles = np.outer(np.arange(len(x_LD)), config.inv_freq()).astype(np.float32)
    angles_L1K = np.concatenate([angles, angles], axis=1)[:, None, :]
    left, right = np.split(x_LHK, 2, axis=-1)
    turned = x_LHK * np.cos(angles_L1K) + np.concatenate([-right, left], -1) * np.sin(angles_L1K)
    return np.asarray(turned.reshape(x_LD.shape))


def _attention(q_LD: Floats, k_LD: Floats, v_LD: Floats, heads: int) -> Floats:
    L, D = q_LD.shape
    q, k, v = (x.reshape(L, heads, D // heads).transpose(1, 0, 2) for x in (q_LD, k_LD, v_LD))
    scores_HLL = q @ k.transpose(0, 2, 1) / math.sqrt(D // heads)
    shares_HLL = np.exp(scores_HLL - scores_HLL.max(-1, keepdims=True))
    shares_HLL /= shares_HLL.sum(-1, keepdims=True)
    return np.asarray((shares_HLL @ v).transpose(1, 0, 2).reshape(L, D))


def _activate(x: Floats, kind: str) -> Floats:
    if kind == "relu":
        return np.asarray(np.maximum(x, 0))
    if kind == "gelu_tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))
