"""What a checkpoint's config.json says of its network, in one form for all families.

Knows the keys of foreign configs. Knows no tensor, no file and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from polyrank.errors import CheckpointError

__all__ = ["EncoderConfig", "Family", "parse_config"]

Family = Literal["gte", "bert", "xlm-roberta"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
N = TypeVar("N", int, float)

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_MODEL_TYPES: dict[str, Family] = {
    "new": "gte",
    "gte": "gte",
    "bert": "bert",
    "xlm-roberta": "xlm-roberta",
    "roberta": "xlm-roberta",
    "camembert": "xlm-roberta",
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The shape of one cross-encoder. Lengths are in tokens."""

    family: Family
    """gte: RoPE and a gated MLP. bert, xlm-roberta: learned absolute positions and a plain MLP."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    """Longest pair the network can read, in tokens."""
    type_vocab_size: int
    """Rows of the token type table; 0: there is none."""
    layer_norm_eps: float
    activation: Activation = "gelu"
    position_offset: int = 0
    """Row of the position table that the first token reads (RoBERTa: padding id + 1)."""
    rope_theta: float | None = None
    """Base of RoPE's angles after scaling; None: absolute positions."""
    rope_factor: float = 1.0
    """Every RoPE frequency is divided by this."""
    dropout: float = 0.0
    """Dropout after the embeddings and each sub-layer while training."""
    pad_token_id: int = 1

    @property
    def gated(self) -> bool:
        """Whether the MLP is `down(act(gate(x)) * up(x))`."""
        return self.family == "gte"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    def inv_freq(self) -> list[float]:
        """RoPE's angle per position, one for each pair of a head's channels, in radians."""
        assert self.rope_theta is not None, "inv_freq of a family without RoPE"
        K = self.head_size
        return [1.0 / (self.rope_theta ** (i / K) * self.rope_factor) for i in range(0, K, 2)]

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise CheckpointError(
                f"expected a hidden_size divisible by num_attention_heads, got {self.hidden_size} "
                f"and {self.num_heads} in config.json"
            )
        if self.rope_theta is not None and self.head_size % 2:
            raise CheckpointError(
                f"expected heads of an even width for RoPE, got {self.head_size} in config.json"
            )


def parse_config(config: Mapping[str, Any], *, where: str = "config.json") -> EncoderConfig:
    """Read a config.json of any known layout.

    Raises CheckpointError that names the key where the network would not be the one meant.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
        raise CheckpointError(
            f"expected model_type to be one of {', '.join(sorted(_MODEL_TYPES))}, got "
            f"{model_type!r} in {where}; polyrank runs cross-encoders of these families only"
        )
    family = _MODEL_TYPES[model_type]
    _refuse_unsupported(config, where)
    rope_theta, rope_factor = (None, 1.0)
    position_offset = 0
    max_positions = _integer(config, "max_position_embeddings", where)
    pad = config.get("pad_token_id")
    pad = pad if isinstance(pad, int) else (0 if family == "bert" else 1)
    if family == "gte":
        rope_theta, rope_factor = _rope(config, where)
    elif family == "xlm-roberta":
        position_offset = pad + 1
        max_positions -= position_offset
    return EncoderConfig(
        family=family,
        vocab_size=_integer(config, "vocab_size", where),
        hidden_size=_integer(config, "hidden_size", where),
        num_layers=_integer(config, "num_hidden_layers", where),
        num_heads=_integer(config, "num_attention_heads", where),
        intermediate_size=_integer(config, "intermediate_size", where),
        max_positions=max_positions,
        type_vocab_size=_number(config, "type_vocab_size", 1 if family == "gte" else 2, where, int),
        layer_norm_eps=_number(config, "layer_norm_eps", 1e-12, where, float),
        activation=_ACTIVATIONS[config.get("hidden_act", "gelu")],
        position_offset=position_offset,
        rope_theta=rope_theta,
        rope_factor=rope_factor,
        dropout=_number(config, "hidden_dropout_prob", 0.0, where, float),
        pad_token_id=pad,
    )


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    labels = config.get("num_labels")
    if labels is None and isinstance(config.get("id2label"), Mapping):
        labels = len(config["id2label"])
    expected = {
        "hidden_act": (config.get("hidden_act", "gelu"), tuple(_ACTIVATIONS)),
        "num_labels": (labels, (None, 1)),
        "layer_norm_type": (config.get("layer_norm_type", "layer_norm"), ("layer_norm",)),
        "logn_attention_scale": (config.get("logn_attention_scale", False), (False, None)),
        "position_embedding_type": (
            config.get("position_embedding_type"),
            (None, "rope") if config["model_type"] == "new" else (None, "absolute", "rope"),
        ),
        "is_decoder": (config.get("is_decoder", False), (False, None)),
    }
    for key, (value, allowed) in expected.items():
        if value not in allowed:
            names = ", ".join(repr(a) for a in allowed if a is not None)
            raise CheckpointError(f"expected {key} to be {names}, got {value!r} in {where}")


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, float]:
    """(base, frequency divisor) from the official `ntk` form or transformers' native form."""
    native = config.get("rope_parameters")
    scaling = native or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise CheckpointError(f"expected rope scaling as an object, got {scaling!r} in {where}")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    usual = 160_000.0 if config["model_type"] == "gte" else 10_000.0  # what the two types imply
    own = scaling if scaling.get("rope_theta") else config
    theta = _number(own, "rope_theta", usual, where, float)
    if kind == "default":
        return theta, 1.0
    factor = _number(scaling, "factor", 1.0, where, float)
    if theta <= 0 or factor <= 0:
        raise CheckpointError(
            f"expected rope_theta and factor above 0, got {theta} and {factor} in {where}"
        )
    if kind == "linear":
        return theta, factor
    if kind == "ntk" and scaling.get("mixed_b") is None:
        # Static NTK, on at every length: the base grows by the factor, and every frequency
        # falls by factor^(2/K) (mGTE reference code; arXiv 2407.19669, section 2.1).
        K = config["hidden_size"] // config["num_attention_heads"]
        return theta * factor, float(factor ** (2 / K))
    raise CheckpointError(
        f"expected rope scaling of type ntk (without mixed_b), linear or default, got "
        f"{dict(scaling)!r} in {where}"
    )


def _integer(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"expected a positive integer for {key}, got {value!r} in {where}")
    return value


def _number(
    config: Mapping[str, Any], key: str, usual: N, where: str, kind: Callable[[Any], N]
) -> N:
    value = usual if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise CheckpointError(f"expected a number from 0 for {key}, got {value!r} in {where}")
    return kind(value)
