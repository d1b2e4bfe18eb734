"""Models as packed graphs: those that came so, and conversions kept in a cache by content.

Imports neither onnx nor onnxruntime until a model has to be converted.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyrank.checkpoint import PACKED_FILE, load_checkpoint, packed_metadata
from polyrank.errors import BackendError, CheckpointError
from polyrank.models import ALIASES, ModelFolder, cache_folder, fingerprint
from polyrank.onnx_backend.layout import FORMAT, GRAPH_FILE, GRAPH_VERSION, Precision

__all__ = ["Conversion", "cached_conversions", "clear_conversions", "packed_dtype", "packed_folder"]

_log = logging.getLogger("polyrank")
_ABOUT = "conversion.json"


def packed_dtype(folder: Path) -> str | None:
    """The dtype of a model that came packed; None where the folder is another kind."""
    metadata = packed_metadata(folder)
    if metadata is None:
        return None
    found = metadata.get("polyrank.format")
    if found != FORMAT or not (folder / GRAPH_FILE).exists():
        raise CheckpointError(
            f"expected a packed model of format {FORMAT} with its {GRAPH_FILE} in {folder}, got "
            f"format {found}; convert the model again with this version of polyrank"
        )
    return metadata["polyrank.dtype"]


def packed_folder(model: ModelFolder, precision: Precision) -> Path:
    """The folder with the model's graph in that precision, converted first where there is none.

    A conversion is made once for a content and kept. Several processes may ask at the same time.
    Raises BackendError where it cannot be written or gives other logits than the network.
    """
    if packed_dtype(model.path) == precision:
        return model.path
    root = _root()
    digest = fingerprint(model.path)
    target = root / f"{digest}-{precision}-{FORMAT}.{GRAPH_VERSION}"
    if _whole(target):
        return target
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{target.name}.lock"):
            if not _whole(target):
                _convert(model, precision, digest, target)
    except OSError as error:
        raise BackendError(
            f"expected to keep the converted model in {root}: {error}; set HF_HOME to a folder "
            "that can be written, or convert once with `polyrank convert MODEL OUT --onnx "
            f'{precision}` and give OUT, or use backend="torch"'
        ) from error
    return target


def _whole(target: Path) -> Conversion | None:
    """The conversion in a folder, where it is there with as many bytes as were written."""
    try:
        size = sum((target / name).stat().st_size for name in (GRAPH_FILE, PACKED_FILE))
        row = json.loads((target / _ABOUT).read_text(encoding="utf-8"))
        found = Conversion(
            path=target,
            model=row["model"],
            revision=row["revision"],
            dtype=row["dtype"],
            bytes=row["bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.bytes == size else None


def _convert(model: ModelFolder, precision: Precision, digest: str, target: Path) -> None:
    from polyrank.onnx_backend.files import write_packed

    _log.warning(
        "polyrank: converting %s to %s for this machine's CPU, once; it is kept in %s",
        model.name, precision, target,
    )  # fmt: skip
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: we hold the lock
    part.mkdir()
    try:
        done = write_packed(
            part,
            load_checkpoint(model.path),
            precision,
            source=model.name,
            source_hash=digest,
            say=lambda line: _log.info("polyrank: %s", line),
        )
        about = {"model": model.name, "revision": model.revision, "dtype": precision}
        about_text = json.dumps({**about, "bytes": done.bytes, "hash": digest}, indent=2) + "\n"
        (part / _ABOUT).write_text(about_text, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # one that somebody damaged
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _log.warning(
        "polyrank: converted %s: %.0f MB; largest difference of a logit on %d sample pairs %.1e; "
        "`polyrank cache clear` removes it",
        model.name, done.bytes / 1e6, done.pairs, done.largest_difference,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A converted model in the cache."""

    path: Path
    model: str
    revision: str | None
    dtype: str
    bytes: int


def cached_conversions() -> Iterator[Conversion]:
    """Every complete conversion in the cache."""
    for about in sorted(_root().glob(f"*/{_ABOUT}")):
        if found := _whole(about.parent):
            yield found


def clear_conversions(model: str | None = None) -> list[Conversion]:
    """Remove the conversions of a model: by its name, hub id or folder; None: all, incomplete
    ones too."""
    folder = Path(model or "").expanduser()
    if model is None:
        removed = list(cached_conversions())
    elif folder.is_dir():
        digest = fingerprint(folder)
        removed = [c for c in cached_conversions() if c.path.name.startswith(digest)]
    else:
        names = (model, ALIASES.get(model))
        removed = [c for c in cached_conversions() if c.model in names]
    for conversion in removed:
        shutil.rmtree(conversion.path)
    if model is None:
        shutil.rmtree(_root(), ignore_errors=True)
    return removed


def _root() -> Path:
    return cache_folder() / "onnx"
