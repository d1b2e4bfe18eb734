"""Train a reranker from an encoder or from another reranker: the front that a command calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from polyrank.checkpoint import Array, Checkpoint, canonical_shapes, load_checkpoint
from polyrank.errors import InputError
from polyrank.models import add_file, fingerprint
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.batches import share_cut
from polyrank.training.config import RerankConfig, read_object, to_mapping
from polyrank.training.distill import FromTeachers
from polyrank.training.loop import Evaluate, Progress, train
from polyrank.training.lora import add_lora, merged
from polyrank.training.objective import Reranking
from polyrank.training.optimizer import freeze_embeddings
from polyrank.training.parallel import rank
from polyrank.training.state import export_model, has_state, prune_models, write_json

__all__ = ["build_model", "build_objective", "load_teachers", "train_reranker", "with_head"]


def with_head(checkpoint: Checkpoint, *, seed: int, std: float = 0.02) -> Checkpoint:
    """The checkpoint with a head: its own, or a new one with normal weights and zero biases."""
    if checkpoint.has_head:
        return checkpoint
    rng = np.random.default_rng(seed)
    arrays = dict(checkpoint.arrays)
    for name, shape in canonical_shapes(checkpoint.config).items():
        if name.startswith("head."):
            values = rng.normal(0.0, std, shape) if name.endswith("weight") else np.zeros(shape)
            arrays[name] = Array(values.astype(np.float32))
    return replace(checkpoint, arrays=arrays)


def build_model(config: RerankConfig, device: str) -> tuple[CrossEncoder, Checkpoint]:
    """The network before its first step, with what learns switched on, and where it came from.

    Raises CheckpointError for a model that cannot be read, InputError for pairs it has no room for.
    """
    start = load_checkpoint(config.model, require_head=False)
    _check_room(config, start, config.model)
    checkpoint = with_head(start, seed=config.loop.seed)
    model = CrossEncoder.from_checkpoint(checkpoint, device=device)
    if not config.loop.train_embeddings:
        freeze_embeddings(model)
    if config.loop.lora_rank is not None:
        if config.loop.train_embeddings:
            raise InputError("expected lora_rank or train_embeddings, got both")
        add_lora(model, config.loop.lora_rank, config.loop.lora_alpha, seed=config.loop.seed)
    return model.train(), checkpoint


def _check_inputs(folder: Path, config: RerankConfig) -> None:
    """Raise InputError where a run would go on with other weights or groups than it began with."""
    now = {name: fingerprint(Path(name)) for name in (config.model, *config.teachers)}
    for part in config.data.parts:
        digest = hashlib.sha256()
        add_file(digest, Path(part.path))
        now[part.path] = digest.hexdigest()[:16]
    path = folder / "inputs.json"
    begun = read_object(path) if has_state(folder) and path.exists() else now
    # By what they hold: files may be moved.
    if sorted(begun.values()) != sorted(now.values()):
        other = ", ".join(name for name, digest in now.items() if digest not in begun.values())
        raise InputError(
            f"expected the model and the groups that the run in {folder} began with, got others in "
            f"{other or path}; give a new --out, or delete {path} to go on with these"
        )
    write_json(path, now)


def _check_room(config: RerankConfig, checkpoint: Checkpoint, whose: str) -> None:
    """Raise InputError for pairs that the checkpoint has no room for."""
    most = checkpoint.config.max_positions
    for part in config.data.parts:
        if part.max_length > most:
            raise InputError(
                f"expected a max_length of at most {most} tokens, the limit of {whose}, got "
                f"{part.max_length} for {part.path}"
            )


def build_objective(config: RerankConfig, device: str) -> Reranking:
    """What a run learns from its groups, and from its teachers where it has some.

    Raises InputError for groups that cannot be read and for pairs without room for a text, and
    what `load_teachers` raises.
    """
    tokenizer = PairTokenizer.from_folder(config.model)
    for part in config.data.parts:
        if part.max_length < tokenizer.least:
            raise InputError(
                f"expected a max_length of at least {tokenizer.least} tokens, to have room for a "
                f"pair, got {part.max_length} for {part.path}"
            )
    if not config.teachers:
        return Reranking(config.data, config.loss, tokenizer)
    return FromTeachers(
        config.data, config.loss, tokenizer, load_teachers(config, tokenizer, device)
    )


def load_teachers(
    config: RerankConfig, tokenizer: PairTokenizer, device: str
) -> list[CrossEncoder]:
    """The networks of a run's teachers, the same one where a folder is named twice.

    `tokenizer` is the tokenizer of the run's model.

    Raises InputError for one that reads other token ids or shorter pairs than the run's model,
    CheckpointError for a folder that is no reranker.
    """
    teachers: dict[str, CrossEncoder] = {}
    for folder in dict.fromkeys(config.teachers):
        if not tokenizer.reads_like(PairTokenizer.from_folder(folder)):
            raise InputError(
                f"expected teachers with the tokenizer of {config.model}, {folder} has another; "
                "let it write `scores` into the groups instead"
            )
        checkpoint = load_checkpoint(folder)
        _check_room(config, checkpoint, f"the teacher {folder}")
        teachers[folder] = CrossEncoder.from_checkpoint(checkpoint, device=device, frozen=True)
    return [teachers[folder] for folder in config.teachers]


def train_reranker(
    config: RerankConfig,
    folder: str | Path,
    *,
    device: str = "cpu",
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> CrossEncoder:
    """Run, or go on with, the training that `config` describes; models go to `folder`.

    Raises InputError for groups that cannot be read, CheckpointError for such a model, and what
    `polyrank.training.loop.train` raises.
    """
    folder, start = Path(folder), Path(config.model)
    folder.mkdir(parents=True, exist_ok=True)
    model, checkpoint = build_model(config, device)
    objective = build_objective(config, device)
    if rank() == 0:
        _check_inputs(folder, config)
        write_json(folder / "config.json", to_mapping(config))
    for part in objective.mixture.parts:
        bad = part.file.bad
        if say is not None and bad.count:
            lines = "line" if bad.count == 1 else "lines"
            say(f"{part.file.path}: left out {bad.count} bad {lines}: {'; '.join(bad.first)}")
    if say is not None and rank() == 0 and (cut := share_cut(objective.batches(0))):
        say(f"cut: {cut:.0%} of the pairs of the first step, to the max_length of their part")

    def export(model: CrossEncoder, step: int) -> None:
        export_model(folder / f"step-{step:06d}", merged(model), checkpoint, start)
        prune_models(folder, config.loop.keep_models)

    return train(
        model, objective, config.loop, folder,
        export=export, evaluate=evaluate, say=say, progress=progress,
    )  # fmt: skip
