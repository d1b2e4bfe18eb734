"""A model's name -> a folder: embedded, local, or from the hub. The only door to `huggingface_hub`,
so data sets that evaluations name come through here too.

Never executes code that comes with a model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path

from polyrank.errors import CheckpointError, InputError, ModelNotFoundError
from polyrank.stated import COMPANIONS, SHARD_INDEX, weight_map_of

__all__ = [
    "ALIASES",
    "EMBEDDED",
    "ModelFolder",
    "add_file",
    "cache_folder",
    "fetch_dataset",
    "find_model",
    "fingerprint",
]

EMBEDDED = "polyrank-mini"
"""The model inside the package."""
ALIASES = {
    "gte-multilingual-reranker-base": "Alibaba-NLP/gte-multilingual-reranker-base",
    "bge-reranker-base": "BAAI/bge-reranker-base",
    "bge-reranker-v2-m3": "BAAI/bge-reranker-v2-m3",
    "ms-marco-MiniLM-L6-v2": "cross-encoder/ms-marco-MiniLM-L6-v2",
    "ms-marco-MiniLM-L12-v2": "cross-encoder/ms-marco-MiniLM-L12-v2",
    "mmarco-mMiniLMv2-L12-H384-v1": "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",
}
"""Short names of well-known rerankers."""

_PACKED, _GRAPH = "polyrank.safetensors", "model.onnx"
_DECIDING = [
    "config.json",
    "model.safetensors",
    SHARD_INDEX,
    _PACKED,
    "tokenizer.json",
    *COMPANIONS,
]
"""What decides a model's scores; in a packed model its graph as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """Where a model's files lie."""

    name: str
    """As people know it: the hub id, the folder's name, or `polyrank-mini`."""
    path: Path
    revision: str | None = None
    """The hub commit that was loaded; None for local folders."""

    @property
    def argument(self) -> str:
        """What finds it again, from any folder: a hub id, `polyrank-mini` or a path."""
        named = self.revision is not None or self.name == EMBEDDED
        return self.name if named else os.path.abspath(self.path)


def find_model(
    model: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    offline: bool | None = None,
) -> ModelFolder:
    """Find a model's folder, downloading it once where it is on the hub.

    `model`: None for the embedded one, a folder, a hub id (`owner/name`) or a short name of
    `ALIASES`. `offline`: True never opens a connection; None follows `HF_HUB_OFFLINE`.
    Raises ModelNotFoundError that says what was tried.
    """
    if model is None or model == EMBEDDED:
        if revision is not None:
            raise ModelNotFoundError(
                f"expected no revision for the model inside the package, got {revision!r}; it has "
                "one state only, that of this version of polyrank"
            )
        return _embedded()
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(f"expected a model's name or folder, got {model!r}")
    try:
        path = Path(model).expanduser()
    except RuntimeError as error:  # ~somebody
        raise ModelNotFoundError(
            f"expected a model's folder, got {str(model)!r}: {error}"
        ) from None
    if str(model) and path.is_dir():
        if revision is not None:
            raise ModelNotFoundError(
                f"expected no revision for the local folder {path}, got {revision!r}; a folder "
                "has one state only"
            )
        return ModelFolder(name=path.resolve().name, path=path)
    name = ALIASES.get(str(model), str(model))
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")) or "\\" in name:
        raise ModelNotFoundError(
            f"expected a folder, a hub id like owner/name, {EMBEDDED}, or one of "
            f"{', '.join(ALIASES)}; got {str(model)!r}, which is no folder here"
        )
    return _from_hub(name, revision, offline)


def _embedded() -> ModelFolder:
    path = Path(__file__).parent / "embedded" / EMBEDDED
    if not (path / "config.json").exists():
        raise ModelNotFoundError(
            "expected an embedded model, but none is installed with this version of polyrank; "
            "give one by name or folder: Reranker('Alibaba-NLP/gte-multilingual-reranker-base'), "
            "or --model on the command line"
        )
    return ModelFolder(name=EMBEDDED, path=path)


def _from_hub(name: str, revision: str | None, offline: bool | None) -> ModelFolder:
    # Imported here: the hub client takes longer to import than all of polyrank.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    wanted = [*_DECIDING, "README.md"]
    fetch = partial(snapshot_download, name, local_files_only=bool(offline))
    try:
        path = fetch(revision=revision, allow_patterns=wanted)
        if (Path(path) / _PACKED).exists():  # graphs of others are large, and of no use here
            path = fetch(revision=Path(path).name, allow_patterns=[*wanted, _GRAPH])
        elif shards := set(weight_map_of(Path(path)).values()):
            path = fetch(revision=Path(path).name, allow_patterns=[*wanted, *shards])
    except LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"expected {name}{at} in the hub's cache on this machine, found none, and the hub was "
            "not asked (offline) or did not answer; connect once, or copy the model's folder "
            "here and give its path"
        ) from error
    except (HFValidationError, OSError) as error:  # every error of the hub client is an OSError
        raise ModelNotFoundError(
            f"expected {name}{at} on the hub: {error}; check the name and revision, and for a "
            "private model log in with `hf auth login`"
        ) from error
    if not (Path(path) / "config.json").exists():
        raise ModelNotFoundError(
            f"expected the files of {name}{at} in {path}, but its config.json is not in the cache; "
            "connect once to complete the download"
        )
    return ModelFolder(name=name, path=Path(path), revision=Path(path).name)


def fetch_dataset(
    name: str, patterns: Sequence[str], *, revision: str | None = None, offline: bool | None = None
) -> Path:
    """Find the files of a hub data set that match `patterns`, downloading them once.

    Raises InputError where they are neither on the hub nor in its cache here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = Path(
            snapshot_download(
                name,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=bool(offline),
            )
        )
    except (HFValidationError, OSError) as error:  # every error of the hub client is an OSError
        raise InputError(
            f"expected the data set {name} on the hub or in its cache here: {error}; check the "
            "connection, or give a folder with the data"
        ) from error
    missing = [p for p in patterns if not any(path.glob(p))]
    if missing:
        raise InputError(f"expected {', '.join(missing)} in the data set {name}, found none there")
    return path


def cache_folder() -> Path:
    """Where files that are on no hub are kept: a folder of ours beside the hub's cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "polyrank"


def fingerprint(path: Path) -> str:
    """A short hash of what decides a model's scores: its config, weights and tokenizer.

    Files are read in full, once in a process for each state of theirs: 0.3 s for the official
    weights. Raises CheckpointError for one that cannot be read.
    """
    states = []
    try:
        packed = [_GRAPH] if (path / _PACKED).exists() else []
        patterns = [*_DECIDING, *packed, *weight_map_of(path).values()]
        for file in sorted(path.iterdir()):
            if not any(fnmatchcase(file.name, pattern) for pattern in patterns):
                continue
            stat = file.stat()
            states.append((file, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return _digest(tuple(states))
    except OSError as error:
        raise CheckpointError(f"expected to read {error.filename}: {error.strerror}") from error


def add_file(digest: hashlib._Hash, file: Path) -> None:
    """Feed a file to a hash, in blocks."""
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)


@lru_cache(maxsize=64)
def _digest(states: tuple[tuple[Path, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, *_ in states:
        digest.update(file.name.encode())
        add_file(digest, file)
    return digest.hexdigest()[:16]
