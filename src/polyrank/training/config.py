"""What a training run is told. Frozen values; read from and written to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from polyrank.errors import InputError
from polyrank.training.typed import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Rule,
    Share,
    from_mapping,
)

__all__ = [
    "LoopConfig",
    "LossConfig",
    "MixtureConfig",
    "PartConfig",
    "RerankConfig",
    "changes",
    "read_config",
    "read_object",
    "to_mapping",
]

TrainingDtype = Literal["auto", "bf16", "fp32"]
_Beta = Annotated[float, Rule("a number from 0 to under 1", lambda x: 0 <= x < 1)]
_Decay = Annotated[float, Rule("a number between 0 and 1", lambda x: 0 < x < 1)]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The optimiser and its rhythm, whatever is learned."""

    steps: Count
    """Optimiser steps of the whole run; the learning rate falls to 0 at the last."""
    learning_rate: Positive = 1e-4
    head_learning_rate: Positive | None = None
    """For the head's parameters; None: the same."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: NotNegative = 0.01
    """For matrices; biases and norms have none."""
    betas: tuple[_Beta, _Beta] = (0.9, 0.98)
    clip_norm: Positive | None = 1.0
    """Largest gradient norm; None: not clipped."""
    dtype: TrainingDtype = "auto"
    """Of the forward pass; "auto": bf16 where the device multiplies in it, else fp32. Weights and
    optimiser stay fp32."""
    train_embeddings: bool = False
    """Whether word, position and type tables learn too."""
    lora_rank: Count | None = None
    """Train low-rank updates of this rank instead of the linear layers; None: off."""
    lora_alpha: Positive = 16.0
    """An update counts alpha / rank."""
    ema_decay: _Decay | None = None
    """Also keep an exponential mean of the weights, saved as the model; None: off."""
    loader_processes: Natural = 0
    """Processes that tokenise ahead of the steps; 0: a thread. A GPU may need several."""
    compile: bool = False
    """Fuse each layer's small operations with torch.compile: about a minute before the first step,
    for steps that take less time on a GPU."""
    recompute: bool = False
    """Recompute layers in the backward pass: half the speed, a fraction of the memory."""
    seed: Natural = 0
    checkpoint_every: Count = 100
    """Steps between checkpoints."""
    keep_models: Count | None = 3
    """Exported models kept beside the last state; None: all."""
    evaluate_every: Count | None = None
    """Steps between calls of the evaluation, the first before any step; None: only at the end."""
    log_every: Count = 10


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """One groups file in a mixture."""

    path: str
    weight: Positive = 1.0
    """Share of the draws, relative to the other parts'."""
    group_size: Count = 8
    """Texts of a group in a step at most."""
    max_length: Count = 192
    """Limit of a pair in tokens."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Which groups, how many a step."""

    parts: Annotated[tuple[PartConfig, ...], Rule("a list of at least one", bool)]
    groups_per_step: Count = 16
    max_batch_tokens: Count = 4096
    """Tokens of one forward pass; a step is as many as its groups need."""
    language_exponent: Share = 0.5
    """Languages are drawn by size to this power."""
    seed: Natural = 0
    buckets: Annotated[
        tuple[tuple[Count, Count], ...],
        Rule("rising lengths", lambda b: [n for n, _ in b] == sorted({n for n, _ in b})),
    ] = ()
    """(length below which a pair falls into it, groups a step), shortest first; each step draws
    from one. Empty: all lengths together, `groups_per_step`. The mGTE paper's: (500, 512),
    (1000, 384), (2000, 256), (3000, 160), (8192, 80)."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How much each loss counts; 0 is off."""

    contrastive: NotNegative = 1.0
    """InfoNCE, for labelled groups."""
    temperature: Positive = 1.0
    cross_batch: bool = False
    """Whether positives compete with all negatives of a batch."""
    listwise: NotNegative = 1.0
    """KL to the teacher's order, for scored groups."""
    margin: NotNegative = 0.1
    """Squared error of margins, for scored groups."""
    pointwise: NotNegative = 0.0
    """Binary cross-entropy, for labelled groups."""
    teacher_scale: Positive = 1.0
    """Teacher's logits are multiplied by this before any loss."""


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """A run that makes a reranker."""

    model: str
    """Folder to start from; an encoder without a head gets a new one."""
    data: MixtureConfig
    loop: LoopConfig
    loss: LossConfig = field(default_factory=LossConfig)
    teachers: tuple[str, ...] = ()
    """Folders of rerankers with the model's own tokenizer, whose mean logit every group is scored
    with as it is read; a group's own scores count as much as all of them."""


def read_config(path: str | Path) -> RerankConfig:
    """Read a JSON config. Raises InputError naming an unknown or missing key, or a wrong value."""
    return from_mapping(RerankConfig, read_object(path), where=str(path))


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises InputError that says what is wrong with it."""
    try:
        row = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"expected a config at {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {path}: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"expected an object at {path}, got {type(row).__name__}")
    return row


def to_mapping(config: Any) -> dict[str, Any]:
    """The JSON form of any config here."""
    mapping: dict[str, Any] = asdict(config)
    return mapping


def changes(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a run was begun with and has otherwise now, as people read it; empty for nothing."""
    names = [n for n in {**begun, **now} if begun.get(n) != now.get(n)]
    return ", ".join(f"{n} {begun.get(n)} then and {now.get(n)} now" for n in names)
