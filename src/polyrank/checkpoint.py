"""safetensors + config.json <-> named arrays in one canonical naming.

The only door to `safetensors`, and the only room with weight names in quotes. Weights are
memory-mapped: an array is read from disk when, and in the dtype in which, it is used.

Canonical names (D width, F intermediate width, V vocabulary):

    embeddings.word.weight [V, D]   embeddings.position.weight   embeddings.token_type.weight
    embeddings.norm.{weight,bias} [D]
    layers.N.qkv.{weight [3D, D], bias [3D]}            query, key, value in that order
    layers.N.attn_out.{weight,bias}                     layers.N.attn_norm.{weight,bias}
    layers.N.mlp_in.{weight,bias}                       gated: [2F, D], up then gate, no bias
    layers.N.mlp_out.{weight,bias}                      layers.N.mlp_norm.{weight,bias}
    head.dense.{weight [D, D], bias}                    head.out.{weight [1, D], bias [1]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from polyrank.config import EncoderConfig, parse_config
from polyrank.errors import CheckpointError

__all__ = ["Array", "Checkpoint", "canonical_shapes", "load_checkpoint", "save_checkpoint"]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SHARD_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Array:
    """A stored tensor. bf16, which NumPy lacks, is kept as its 16 bits in uint16."""

    data: npt.NDArray[Any]
    bf16: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(self.data.shape)

    def float32(self) -> npt.NDArray[np.float32]:
        """The values in fp32; not copied where they are fp32 already."""
        if self.bf16:
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32, copy=False)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's configuration and its arrays by canonical name."""

    config: EncoderConfig
    arrays: Mapping[str, Array]
    source: dict[str, Any]
    """config.json as it was found."""

    @property
    def has_head(self) -> bool:
        """Whether it can score pairs; an encoder alone cannot."""
        return "head.out.weight" in self.arrays


def canonical_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every array that a network of this configuration has, head included."""
    D, F = config.hidden_size, config.intermediate_size
    norm = lambda name: {f"{name}.weight": (D,), f"{name}.bias": (D,)}  # noqa: E731
    linear = lambda name, o, i: {f"{name}.weight": (o, i), f"{name}.bias": (o,)}  # noqa: E731
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word.weight": (config.vocab_size, D)}
    if config.rope_theta is None:
        rows = config.max_positions + config.position_offset
        shapes["embeddings.position.weight"] = (rows, D)
    if config.type_vocab_size:
        shapes["embeddings.token_type.weight"] = (config.type_vocab_size, D)
    shapes |= norm("embeddings.norm")
    for n in range(config.num_layers):
        shapes |= linear(f"layers.{n}.qkv", 3 * D, D) | linear(f"layers.{n}.attn_out", D, D)
        shapes |= norm(f"layers.{n}.attn_norm")
        if config.gated:
            shapes[f"layers.{n}.mlp_in.weight"] = (2 * F, D)
        else:
            shapes |= linear(f"layers.{n}.mlp_in", F, D)
        shapes |= linear(f"layers.{n}.mlp_out", D, F) | norm(f"layers.{n}.mlp_norm")
    return shapes | linear("head.dense", D, D) | linear("head.out", 1, D)


# ---------------------------------------------------------------- foreign layouts

_OFFICIAL_LAYER = {
    "qkv": ("attention.qkv_proj",),
    "attn_out": ("attention.o_proj",),
    "attn_norm": ("attn_ln",),
    "mlp_in": ("mlp.up_gate_proj",),
    "mlp_out": ("mlp.down_proj",),
    "mlp_norm": ("mlp_ln",),
}
_NATIVE_LAYER = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "attn_norm": ("post_attention_layernorm",),
    "mlp_in": ("mlp.up_proj", "mlp.gate_proj"),
    "mlp_out": ("mlp.down_proj",),
    "mlp_norm": ("post_mlp_layernorm",),
}
_BERT_LAYER = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attn_out": ("attention.output.dense",),
    "attn_norm": ("attention.output.LayerNorm",),
    "mlp_in": ("intermediate.dense",),
    "mlp_out": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}
_EMBEDDINGS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
# model_type -> (prefix of the encoder's tensors, prefix of a layer, layer table, head.dense)
_LAYOUTS: dict[str, tuple[str, str, dict[str, tuple[str, ...]], str]] = {
    "new": ("new.", "encoder.layer", _OFFICIAL_LAYER, "{p}pooler.dense"),
    "gte": ("gte.", "layers", _NATIVE_LAYER, "{p}pooler.dense"),
    "bert": ("bert.", "encoder.layer", _BERT_LAYER, "{p}pooler.dense"),
    "xlm-roberta": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
    "roberta": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
    "camembert": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
}
# Constant buffers that some versions of transformers wrote beside the weights.
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq", "original_inv_freq")


def _name_map(
    config: EncoderConfig, model_type: str, prefix: str, *, packed: bool = True
) -> dict[str, tuple[str, ...]]:
    """Canonical name -> the foreign tensors that, stacked on axis 0, make it."""
    _, layer_prefix, layer_table, dense = _LAYOUTS[model_type]
    if model_type == "new" and not packed:
        split = tuple(f"attention.{c}_proj" for c in "qkv")
        layer_table = {**layer_table, "qkv": split}
    out = "classifier.out_proj" if config.family == "xlm-roberta" else "classifier"
    head = {"head.dense": dense.format(p=prefix), "head.out": out}
    names = {}
    for canonical in canonical_shapes(config):
        owner, _, kind = canonical.rpartition(".")
        if owner.startswith("layers."):
            _, n, part = owner.split(".")
            foreign = tuple(f"{prefix}{layer_prefix}.{n}.{f}" for f in layer_table[part])
        elif owner in head:
            foreign = (head[owner],)
        else:
            foreign = (prefix + _EMBEDDINGS[owner],)
        names[canonical] = tuple(f"{f}.{kind}" for f in foreign)
    return names


# ---------------------------------------------------------------- reading


def load_checkpoint(folder: str | Path, *, require_head: bool = True) -> Checkpoint:
    """Map a folder's weights. Any layout of the gte, bert and xlm-roberta families.

    Raises CheckpointError that names any file or tensor missing, unexpected or misshapen. With
    `require_head=False` an encoder without a classification head is accepted as it is, and
    tensors of another head (masked language model, pooler) are left out.
    """
    folder = Path(folder)
    source = read_json(folder / "config.json")
    where = str(folder / "config.json")
    config = parse_config(source, where=where)
    stored = _map_files(folder)
    prefix = _LAYOUTS[source["model_type"]][0]
    if prefix + "embeddings.word_embeddings.weight" not in stored:
        prefix = ""
    packed = any("qkv_proj" in name for name in stored)
    names = _name_map(config, source["model_type"], prefix, packed=packed)
    head = {n: f for n, f in names.items() if n.startswith("head.")}
    head_found = [n for n, foreign in head.items() if all(f in stored for f in foreign)]
    with_head = require_head or len(head_found) == len(head)
    if not with_head:
        names = {n: f for n, f in names.items() if n not in head}
    if require_head and not head_found:
        raise CheckpointError(
            f"expected a classification head ({', '.join(f[0] for f in head.values())}) in "
            f"{folder}, found none: this is an encoder, not a reranker; polyrank never invents a "
            "head. Give a cross-encoder checkpoint, or train a head first"
        )
    arrays = _assemble(config, names, stored, folder)
    used = {foreign for group in names.values() for foreign in group}
    extra = sorted(n for n in stored if n not in used and not n.endswith(_BUFFERS))
    if extra and require_head:
        raise CheckpointError(
            f"expected only the tensors of a {source['model_type']} cross-encoder with "
            f"{config.num_layers} layers, got {len(extra)} more in {folder}: {_some(extra)}"
        )
    return Checkpoint(config=config, arrays=arrays, source=source)


def _assemble(
    config: EncoderConfig,
    names: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, Array],
    folder: Path,
) -> dict[str, Array]:
    missing = sorted(f for group in names.values() for f in group if f not in stored)
    if missing:
        raise CheckpointError(
            f"expected {sum(map(len, names.values()))} tensors in {folder}, {len(missing)} are "
            f"missing: {_some(missing)}; the download may be incomplete, or config.json may "
            "belong to another checkpoint"
        )
    arrays = {}
    for canonical, shape in canonical_shapes(config).items():
        if canonical not in names:
            continue
        parts = [stored[f] for f in names[canonical]]
        rows = shape[0] // len(parts)
        for foreign, part in zip(names[canonical], parts, strict=True):
            if part.shape != (rows, *shape[1:]):
                raise CheckpointError(
                    f"expected shape {[rows, *shape[1:]]} for {foreign}, got "
                    f"{list(part.shape)} in {folder}"
                )
        if len({p.bf16 for p in parts}) > 1:
            raise CheckpointError(f"expected one dtype for {', '.join(names[canonical])}")
        data = parts[0].data if len(parts) == 1 else np.concatenate([p.data for p in parts])
        arrays[canonical] = Array(data, parts[0].bf16)
    return arrays


def _map_files(folder: Path) -> dict[str, Array]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.exists():
        return _map_file(single)
    if not index.exists():
        other = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.safetensors")
        )
        raise CheckpointError(
            f"expected model.safetensors (or model.safetensors.index.json) in {folder}, found "
            f"{', '.join(other) if other else 'no weights'}; other weight files are not read: "
            "save the model with safetensors first"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"expected a weight_map in {index}")
    stored: dict[str, Array] = {}
    for shard in sorted(set(weight_map.values())):
        if os.path.basename(shard) != shard or not (folder / shard).exists():
            raise CheckpointError(f"expected the shard {shard} named by {index}; it is missing")
        for name, array in _map_file(folder / shard).items():
            if weight_map.get(name) == shard:
                stored[name] = array
    absent = sorted(set(weight_map) - set(stored))
    if absent:
        raise CheckpointError(f"expected tensors of {index} are in no shard: {_some(absent)}")
    return stored


def _map_file(path: Path) -> dict[str, Array]:
    """Views into the mapped file. The library checks the header; we read where data lies."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"expected a safetensors file at {path}: {error}") from error
    # Copy-on-write: nothing is ever written back, and tensors may share the pages as they are.
    mapped = np.memmap(path, np.uint8, mode="c", offset=8 + header_bytes)
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            if name.endswith(_BUFFERS):
                continue
            raise CheckpointError(
                f"expected {name} to be one of {', '.join(_DTYPES)}, got {entry['dtype']} in {path}"
            )
        start, end = entry["data_offsets"]
        data = mapped[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        data = data if data.flags.aligned else data.copy()
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        arrays[name] = Array(data, entry["dtype"] == "BF16")
    return arrays


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError that says what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"expected a file at {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"expected JSON in {path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# ---------------------------------------------------------------- writing


def save_checkpoint(
    folder: str | Path, checkpoint: Checkpoint, *, layout: str = "official"
) -> None:
    """Write config.json and model.safetensors that other tools load.

    `layout`: "official" is the model_type `new` of the mGTE release, "native" what transformers
    itself writes for the family (`gte`, `bert`, `xlm-roberta`). bert and xlm-roberta have one
    layout, the native one.
    """
    config = checkpoint.config
    if layout not in ("official", "native"):
        raise CheckpointError(f"expected layout to be official or native, got {layout!r}")
    if layout == "official" and config.family != "gte":
        raise CheckpointError(
            f"expected a gte checkpoint for the official layout, got {config.family}; its one "
            "layout is native"
        )
    model_type = {"official": "new", "native": _native_type(checkpoint)}[layout]
    prefix = _LAYOUTS[model_type][0] if checkpoint.has_head else ""
    tensors: dict[str, npt.NDArray[Any]] = {}
    bf16 = any(a.bf16 for a in checkpoint.arrays.values())
    for canonical, foreign in _name_map(config, model_type, prefix).items():
        if canonical not in checkpoint.arrays:
            if canonical.startswith("head.") and not checkpoint.has_head:
                continue
            raise CheckpointError(f"expected the array {canonical} to save {folder}")
        array = checkpoint.arrays[canonical]
        # safetensors' NumPy writer has no bf16: widen, exactly, to fp32.
        data = array.float32() if bf16 else array.data
        parts = np.split(data, len(foreign))
        tensors |= {f: np.ascontiguousarray(p) for f, p in zip(foreign, parts, strict=True)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "model.safetensors.part"
    save_file(tensors, written, metadata={"format": "pt"})
    os.replace(written, folder / "model.safetensors")
    text = json.dumps(_foreign_config(checkpoint, model_type, tensors), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _native_type(checkpoint: Checkpoint) -> str:
    model_type = checkpoint.source.get("model_type", checkpoint.config.family)
    return "gte" if checkpoint.config.family == "gte" else str(model_type)


def _foreign_config(
    checkpoint: Checkpoint, model_type: str, tensors: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    config, source = checkpoint.config, dict(checkpoint.source)
    names = {"new": "New", "gte": "Gte", "bert": "Bert", "xlm-roberta": "XLMRoberta"}
    class_name = names.get(model_type, model_type.capitalize())
    kind = "ForSequenceClassification" if checkpoint.has_head else "Model"
    for key in ("auto_map", "rope_theta", "rope_scaling", "rope_parameters", "default_theta"):
        source.pop(key, None)
    dtype = str(tensors[next(iter(tensors))].dtype)
    foreign = {
        **source,
        "architectures": [class_name + kind],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "hidden_dropout_prob": config.dropout,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
    }
    if checkpoint.has_head:
        foreign |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if model_type == "gte":
        rope = {"rope_type": "linear", "rope_theta": config.rope_theta}
        foreign["rope_parameters"] = {**rope, "factor": config.rope_factor}
    if model_type == "new":
        assert config.rope_theta is not None
        factor = config.rope_factor ** (config.head_size / 2)
        foreign |= {
            "layer_norm_type": "layer_norm",
            "pack_qkv": True,
            "position_embedding_type": "rope",
            "num_labels": 1,
            "rope_theta": config.rope_theta / factor,
            "rope_scaling": {"type": "ntk", "factor": factor} if factor != 1.0 else None,
        }
    return foreign
