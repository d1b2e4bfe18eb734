"""A Checkpoint -> a folder that other tools load."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyrank.checkpoint.files import write_tensors
from polyrank.checkpoint.layouts import LAYOUTS, name_map
from polyrank.checkpoint.reading import Checkpoint
from polyrank.errors import CheckpointError

__all__ = ["save_checkpoint"]


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
    prefix = LAYOUTS[model_type][0] if checkpoint.has_head else ""
    tensors: dict[str, npt.NDArray[Any]] = {}
    bf16 = any(a.bf16 for a in checkpoint.arrays.values())
    for canonical, foreign in name_map(config, model_type, prefix).items():
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
    write_tensors(written, tensors, {"format": "pt"})
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
    stale = ("auto_map", "dtype", "rope_theta", "rope_scaling", "rope_parameters", "default_theta")
    for key in stale:
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
