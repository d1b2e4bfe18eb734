"""Files of a checkpoint, mapped into memory. Knows no weight's meaning."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from polyrank.checkpoint.layouts import BUFFERS
from polyrank.errors import CheckpointError
from polyrank.stated import SHARD_INDEX, pointer_hint, weight_map_of

__all__ = [
    "Array",
    "map_file",
    "map_files",
    "read_header",
    "some",
    "write_tensors",
]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LOW_BIT = {"I8": "<i1", "U8": "<u1"}


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


def map_files(folder: Path, files: list[mmap.mmap]) -> dict[str, Array]:
    index = folder / SHARD_INDEX
    single = folder / "model.safetensors"
    if single.exists():
        return map_file(single, files)
    if not index.exists():
        other = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.safetensors")
        )
        raise CheckpointError(
            f"expected model.safetensors (or model.safetensors.index.json) in {folder}, found "
            f"{', '.join(other) if other else 'no weights'}; other files of weights, "
            "pytorch_model.bin for one, are neither read nor downloaded: load the model with "
            "transformers, write it to a folder with save_pretrained, and give that folder"
        )
    stored: dict[str, Array] = {}
    weight_map = weight_map_of(folder)
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).exists():
            raise CheckpointError(f"expected the shard {shard} named by {index}; it is missing")
        found = map_file(folder / shard, files)
        stored |= {name: array for name, array in found.items() if weight_map.get(name) == shard}
    absent = sorted(set(weight_map) - set(stored))
    if absent:
        raise CheckpointError(f"expected tensors of {index} are in no shard: {some(absent)}")
    return stored


def map_file(path: Path, files: list[mmap.mmap], *, low_bit: bool = False) -> dict[str, Array]:
    """Views into the mapped file, which is added to `files`.

    The library checks the header; we read from it where the data lie. `low_bit` allows integers.
    """
    dtypes = _DTYPES | _LOW_BIT if low_bit else _DTYPES
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            begin, header = read_header(file)
            # Copy-on-write: nothing is ever written back, and tensors may share the pages.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (SafetensorError, ValueError) as error:
        hint = pointer_hint(path)
        raise CheckpointError(f"expected a safetensors file at {path}: {error}{hint}") from error
    except OSError as error:
        raise CheckpointError(f"expected a safetensors file at {path}: {error}") from error
    files.append(mapped)
    bytes_ = np.frombuffer(mapped, np.uint8, offset=begin)
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in dtypes:
            if name.endswith(BUFFERS):
                continue
            raise CheckpointError(
                f"expected {name} to be one of {', '.join(dtypes)}, got {entry['dtype']} in {path}"
            )
        start, end = entry["data_offsets"]
        data = bytes_[start:end].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
        data = data if data.flags.aligned else data.copy()
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        arrays[name] = Array(data, entry["dtype"] == "BF16")
    return arrays


def read_header(file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begin, and the entry of each tensor in them."""
    header_bytes = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    return 8 + header_bytes, header


def write_tensors(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file that those may read who may read other new files here.

    Raises OSError where there is no room, say.
    """
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # the library writes files that only their owner can read


def some(names: list[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
