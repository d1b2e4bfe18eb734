"""`polyrank info`: what a model is, what it says of itself, and what would run it here."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import options as o
from polyrank.cli.model_card import read_model_card
from polyrank.cli.printing import json_line, print_fields
from polyrank.errors import MissingDependencyError
from polyrank.kernels import kernels_level

if TYPE_CHECKING:
    from polyrank.checkpoint import Checkpoint
    from polyrank.models import ModelFolder

__all__ = ["info"]


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder, a hub id (owner/name) or a short name; none: the embedded model.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    revision: o.Revision = None,
    backend: o.Backend = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Say what a model is: shape, limits, size, languages, license, and what would run it here.

    Its network is not loaded; a model of the hub is downloaded where it is not here yet.
    Languages and license are what the model's README.md states. The fingerprint is a hash of
    config, weights and tokenizer: models with the same one give the same scores in fp32.
    """
    from polyrank.checkpoint import load_checkpoint
    from polyrank.models import find_model

    folder = find_model(model, revision=revision, offline=offline or None)
    facts = _facts(folder, load_checkpoint(folder.path))
    facts["runs_on"] = _runs_on(folder.path, backend, device, dtype, threads)
    if as_json:
        print(json_line(facts))
    else:
        print_fields({name: _readable(name, value) for name, value in facts.items()})


def _facts(folder: ModelFolder, checkpoint: Checkpoint) -> dict[str, Any]:
    from polyrank.models import fingerprint
    from polyrank.tokenization import PairTokenizer

    config, card = checkpoint.config, read_model_card(folder.path)
    sizes = {name: math.prod(a.shape) for name, a in checkpoint.arrays.items()}
    embeddings = sum(n for name, n in sizes.items() if name.startswith("embeddings."))
    tokenizer = PairTokenizer.from_folder(folder.path)
    limit = tokenizer.limit_of(None, config.max_positions)
    return {
        "model": folder.name,
        "path": str(folder.path),
        "revision": folder.revision,
        "fingerprint": fingerprint(folder.path),
        "family": config.family,
        "layout": checkpoint.source["model_type"],
        "parameters": sum(sizes.values()),
        "embedding_parameters": embeddings,
        "body_parameters": sum(sizes.values()) - embeddings,
        "layers": config.num_layers,
        "width": config.hidden_size,
        "heads": config.num_heads,
        "max_length": limit,
        "window": tokenizer.window_of(None, limit),
        "vocabulary": config.vocab_size,
        "stored_dtypes": _stored_dtypes(folder.path, checkpoint),
        "weight_bytes": sum(p.stat().st_size for p in folder.path.glob("*.safetensors")),
        "languages": list(card.languages) if card.languages else None,
        "license": card.license,
    }


def _stored_dtypes(folder: Path, checkpoint: Checkpoint) -> list[str]:
    from polyrank.checkpoint import packed_dtypes

    arrays = checkpoint.arrays.values()
    return packed_dtypes(folder) or sorted(
        {"bf16" if a.bf16 else f"fp{8 * a.data.itemsize}" for a in arrays}
    )


def _runs_on(
    folder: Path, backend: str, device: str, dtype: str, threads: int | None
) -> dict[str, Any] | None:
    """What a Reranker with these options would run on; None where PyTorch is missing for it."""
    from polyrank.backends import choose_backend

    try:
        choice = choose_backend(
            folder, backend=backend, device=device, dtype=dtype, threads=threads
        )
    except MissingDependencyError:
        return None
    runs_kernels = choice.backend == "onnx" or (choice.device, choice.dtype) == ("cpu", "bf16")
    return asdict(choice) | ({"kernels": kernels_level()} if runs_kernels else {})


def _readable(name: str, value: Any) -> str:
    if name == "runs_on":
        if value is None:
            return 'nothing yet: pip install "polyrank[torch]"'
        threads = f", {value['threads']} threads" if value["threads"] else ""
        kernels = f", kernels {value['kernels']}" if "kernels" in value else ""
        return f"{value['backend']} {value['device']} {value['dtype']}{threads}{kernels}"
    if value is None:
        return "none, a local folder" if name == "revision" else "not stated"
    if isinstance(value, list):
        return ", ".join(value)
    if name == "weight_bytes":
        return f"{value:,} ({value / 1e6:,.1f} MB)"
    return f"{value:,}" if isinstance(value, int) else str(value)
