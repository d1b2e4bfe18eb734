"""A folder in any known layout -> a Checkpoint, or an error that names what is wrong."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.checkpoint.files import Array, map_file, map_files, some
from polyrank.checkpoint.layouts import BUFFERS, LAYOUTS, canonical_shapes, name_map
from polyrank.checkpoint.packed import PACKED_FILE, unpack_arrays
from polyrank.config import EncoderConfig, parse_config
from polyrank.errors import CheckpointError
from polyrank.stated import read_json, stages_of

__all__ = ["Checkpoint", "load_checkpoint", "read_config"]

_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, compile and others


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's configuration and its arrays by canonical name."""

    config: EncoderConfig
    arrays: Mapping[str, Array]
    source: dict[str, Any]
    """config.json as it was found."""
    files: tuple[mmap.mmap, ...] = ()
    """The mapped files, where the arrays come from files."""

    def release(self) -> None:
        """Give back the memory of pages that were read; they are read again when needed."""
        for mapped in self.files:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def has_head(self) -> bool:
        """Whether it can score pairs; an encoder alone cannot."""
        return "head.out.weight" in self.arrays


def read_config(folder: str | Path) -> EncoderConfig:
    """What a folder's config.json says of its network; weights are not touched."""
    path = Path(folder) / "config.json"
    return parse_config(read_json(path), where=str(path))


def load_checkpoint(folder: str | Path, *, require_head: bool = True) -> Checkpoint:
    """Map a folder's weights. Any layout of the gte, bert and xlm-roberta families.

    The weights of a packed model (`polyrank.safetensors`) are widened to fp32 in memory.

    Raises CheckpointError that names any file or tensor missing, unexpected or misshapen. With
    `require_head=False` an encoder without a classification head is accepted as it is, and
    tensors of another head (masked language model, pooler) are left out.
    """
    folder = Path(folder)
    source = read_json(folder / "config.json")
    where = str(folder / "config.json")
    config = parse_config(source, where=where)
    files: list[mmap.mmap] = []
    if (folder / PACKED_FILE).exists():
        packed = map_file(folder / PACKED_FILE, files, low_bit=True)
        arrays = unpack_arrays(config, packed, str(folder))
        return Checkpoint(config=config, arrays=arrays, source=source, files=tuple(files))
    stored = _unwrapped(map_files(folder, files))
    layout, prefix = source["model_type"], LAYOUTS[source["model_type"]][0]
    if config.family == "gte":
        stored, layout, prefix = _find_gte_layout(stored)
    elif not any(name.startswith(prefix) for name in stored):
        prefix = ""
    stacked = any("qkv_proj" in name for name in stored)
    names = name_map(config, layout, prefix, packed=stacked)
    head = {n: f for n, f in names.items() if n.startswith("head.")}
    lacking = [f for foreign in head.values() for f in foreign if f not in stored]
    encoder = {n: f for n, f in names.items() if n not in head}
    if lacking and not require_head:
        names = encoder
    elif lacking and all(f in stored for foreign in encoder.values() for f in foreign):
        raise CheckpointError(
            f"expected a classification head in {folder}, {len(lacking)} of its tensors are "
            f"missing: {some(lacking)}; this is an encoder (an embedding model, say) or has "
            "another head, and is no reranker; polyrank never invents a head. Give a "
            "cross-encoder checkpoint, or train a head first"
        )
    if require_head and (more := [stage for stage in stages_of(folder) if stage]):
        raise CheckpointError(
            f"expected a network alone in {folder}, got one whose modules.json has {some(more)} "
            "beside it, which would change the scores"
        )
    arrays = _assemble(config, names, stored, folder)
    used = {foreign for group in names.values() for foreign in group}
    extra = sorted(n for n in stored if n not in used and not n.endswith(BUFFERS))
    if config.family == "xlm-roberta":  # the encoder's own pooler, which the head does not read
        extra = [n for n in extra if not n.startswith(f"{prefix}pooler.")]
    if extra and require_head:
        raise CheckpointError(
            f"expected only the tensors of a {source['model_type']} cross-encoder with "
            f"{config.num_layers} layers, got {len(extra)} more in {folder}: {some(extra)}"
        )
    return Checkpoint(config=config, arrays=arrays, source=source, files=tuple(files))


def _unwrapped(stored: dict[str, Array]) -> dict[str, Array]:
    """Tensors by the names that they have inside of what wrapped the network while it trained."""
    while stored and (wrapper := next((w for w in _WRAPPERS if _all_begin(stored, w)), "")):
        stored = {name.removeprefix(wrapper): array for name, array in stored.items()}
    return stored


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _find_gte_layout(stored: dict[str, Array]) -> tuple[dict[str, Array], str, str]:
    """The tensors, their layout and their prefix, whatever model_type says.

    transformers saves a `gte` under the names that it was loaded from: official ones behind its
    own prefix (`gte.encoder.layer...`), or behind both (`new.gte.encoder.layer...`).
    """
    if any(name.startswith("new.gte.") for name in stored):
        stored = {name.removeprefix("new."): array for name, array in stored.items()}
    layout = "new" if any("encoder.layer." in name for name in stored) else "gte"
    prefixes = (p for p in ("new.", "gte.") if any(name.startswith(p) for name in stored))
    return stored, layout, next(prefixes, "")


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
            f"missing: {some(missing)}; the download may be incomplete, or config.json may "
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
                labels = canonical.startswith("head.out.")
                hint = ": a classifier of several labels is no reranker" if labels else ""
                raise CheckpointError(
                    f"expected shape {[rows, *shape[1:]]} for {foreign}, got "
                    f"{list(part.shape)} in {folder}{hint}"
                )
        if len({p.bf16 for p in parts}) > 1:
            raise CheckpointError(f"expected one dtype for {', '.join(names[canonical])}")
        data = parts[0].data if len(parts) == 1 else np.concatenate([p.data for p in parts])
        arrays[canonical] = Array(data, parts[0].bf16)
    return arrays
