"""The weights of an ONNX graph as a safetensors file, and back to a network's arrays.

A graph of `onnx_backend` keeps its large constants here, ready for its operators: linear layers
as [in, out], query, key and value apart, in 8 bits with a scale for each output channel or in
fp32; the word table in 4 bits, fp16 or fp32. The same file gives back a checkpoint, so that one
set of weights serves every backend, and training.

Names: `layers.N.{q,k,v,attn_out,up,gate | mlp_in,mlp_out}` with `.int8` and `.scale`, or
`.transposed`; all else by its canonical name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from polyrank.checkpoint.files import Array, read_header, some, write_tensors
from polyrank.checkpoint.layouts import canonical_shapes
from polyrank.checkpoint.lowbit import dequantize_int4, dequantize_int8
from polyrank.config import EncoderConfig
from polyrank.errors import CheckpointError

__all__ = [
    "PACKED_FILE",
    "packed_dtypes",
    "packed_metadata",
    "products",
    "save_packed",
    "unpack_arrays",
]

PACKED_FILE = "polyrank.safetensors"
_DTYPES = {"U8": "int4", "I8": "int8", "F16": "fp16", "F32": "fp32"}
_Stored = Mapping[str, npt.NDArray[Any]]


def save_packed(
    path: Path, tensors: _Stored, metadata: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    """Write the file; return (offset, length) in bytes of each tensor in it."""
    write_tensors(path, tensors, metadata)
    with path.open("rb") as file:
        begin, header = read_header(file)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (begin + start, end - start) for name, (start, end) in places.items()}


def packed_metadata(folder: Path) -> dict[str, str] | None:
    """What was said of a packed model when it was written; None where the folder holds none."""
    path = folder / PACKED_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"expected a safetensors file at {path}: {error}") from error


def packed_dtypes(folder: Path) -> list[str] | None:
    """What the tensors of a packed model are stored in; None where the folder holds none."""
    path = folder / PACKED_FILE
    if not path.exists():
        return None
    with path.open("rb") as file:
        _, header = read_header(file)
    return sorted({_DTYPES[entry["dtype"]] for entry in header.values()})


def unpack_arrays(
    config: EncoderConfig, stored: Mapping[str, Array], where: str
) -> dict[str, Array]:
    """Canonical arrays, low-bit ones widened. Raises CheckpointError where any is missing."""
    given = {name: array.data for name, array in stored.items()}
    arrays = {}
    missing = []
    for name, shape in canonical_shapes(config).items():
        try:
            value = _unpack(name, config, given)
        except KeyError as error:
            missing.append(str(error.args[0]))
            continue
        if value.shape != shape:
            raise CheckpointError(
                f"expected shape {list(shape)} for {name}, got {list(value.shape)} in {where}"
            )
        arrays[name] = Array(value)
    if missing:
        raise CheckpointError(
            f"expected the tensors of a packed model in {where}, {len(missing)} are missing: "
            f"{some(missing)}; the file is incomplete, or config.json belongs to another model"
        )
    return arrays


def products(name: str, config: EncoderConfig) -> list[str]:
    """The linear layers of equal height that a canonical one, such as `layers.0.qkv`, is cut to."""
    layer, _, last = name.rpartition(".")
    parts = {"qkv": ("q", "k", "v"), "mlp_in": ("up", "gate") if config.gated else ("mlp_in",)}
    return [f"{layer}.{part}" for part in parts.get(last, (last,))]


def _unpack(name: str, config: EncoderConfig, stored: _Stored) -> npt.NDArray[Any]:
    if name in stored:
        return stored[name]
    if f"{name}.int4" in stored:
        return dequantize_int4(stored[f"{name}.int4"], stored[f"{name}.scales"])
    owner, _, kind = name.rpartition(".")
    layer, _, last = owner.rpartition(".")
    owners = products(owner, config)
    if kind == "bias" and last == "qkv" and f"{layer}.v.bias" not in stored:
        # Rotated positions: v's bias went into attn_out's.
        zeros = np.zeros(config.hidden_size, np.float32)
        return np.concatenate([stored[f"{layer}.q.bias"], stored[f"{layer}.k.bias"], zeros])
    if kind == "bias":
        return np.concatenate([stored[f"{o}.bias"] for o in owners])
    return np.concatenate([_linear(o, stored) for o in owners])


def _linear(owner: str, stored: _Stored) -> npt.NDArray[np.float32]:
    if f"{owner}.int8" in stored:
        return dequantize_int8(stored[f"{owner}.int8"].T, stored[f"{owner}.scale"])
    values: npt.NDArray[np.float32] = np.ascontiguousarray(stored[f"{owner}.transposed"].T)
    return values
