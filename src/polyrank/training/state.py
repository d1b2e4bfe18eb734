"""A run's folder: the state to resume from, written whole or not at all, and exported models."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from polyrank.checkpoint import Checkpoint, save_checkpoint
from polyrank.errors import CheckpointError
from polyrank.stated import COMPANIONS
from polyrank.torch_backend.encoder import CrossEncoder

__all__ = ["export_model", "has_state", "load_state", "prune_models", "save_state", "write_json"]

_STATE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's state. A kill at any moment leaves the old state or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{_STATE}.part"
    with part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of the archive's writer, whatever the system said
            raise OSError(
                errno.EIO, f"the state could not be written: {error}", str(part)
            ) from error
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / _STATE)


def has_state(folder: Path) -> bool:
    """Whether a run in this folder would go on from a state."""
    return (folder / _STATE).exists()


def load_state(folder: Path) -> dict[str, Any] | None:
    """The run's last state; None where there is none yet.

    Raises CheckpointError where the file is broken.
    """
    path = folder / _STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"step", "weights", "optimizer", "ema", "config"} - set(state)
    except (
        OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"expected a training state at {path}: {error}; remove the file to start over"
        ) from error
    if missing:
        raise CheckpointError(
            f"expected a training state at {path}, found no {', '.join(sorted(missing))} in it; "
            "remove the file to start over"
        )
    return state


def export_model(
    folder: Path, model: CrossEncoder, start: Checkpoint, tokenizer_folder: Path | None
) -> None:
    """Write the model as a folder that any loader of the family reads, with its tokenizer.

    A folder of that name is replaced when the new one is whole.
    """
    checkpoint = Checkpoint(config=model.config, arrays=model.arrays(), source=start.source)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    save_checkpoint(part, checkpoint, layout="native")
    if tokenizer_folder is not None:
        for name in ("tokenizer.json", "special_tokens_map.json", *COMPANIONS):
            if (tokenizer_folder / name).exists():
                shutil.copyfile(tokenizer_folder / name, part / name)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def prune_models(folder: Path, keep: int | None) -> None:
    """Remove all but the last exported models of a run."""
    if keep is not None:
        models = [p for p in folder.iterdir() if re.fullmatch(r"step-\d{6,}", p.name)]
        for old in sorted(models, key=lambda p: int(p.name.removeprefix("step-")))[:-keep]:
            shutil.rmtree(old)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people to read, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
