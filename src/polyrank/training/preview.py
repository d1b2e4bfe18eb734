"""What a run would do, without doing it: its first batches decoded, its tokens, its duration."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from polyrank.errors import InputError
from polyrank.training.batches import share_cut
from polyrank.training.config import RerankConfig, TrainingDtype
from polyrank.training.device import autocast
from polyrank.training.logs import duration_text
from polyrank.training.objective import Objective
from polyrank.training.rerank import build_model, build_objective

__all__ = ["Preview", "preview_reranker", "tokens_per_second"]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The first steps of a run."""

    pairs: tuple[str, ...]
    """Pairs of the first batch as the network reads them, decoded."""
    shares: dict[tuple[str, str], float]
    """(groups file, language) -> its share of the draws."""
    bad_lines: dict[str, int]
    """Groups file -> lines left out."""
    tokens_per_step: float
    pairs_per_step: float
    cut: float
    """The share of these steps' pairs that were cut to their part's max_length."""
    tokens: int
    """Of the whole run, as the first steps go."""
    seconds: float | None
    """Expected duration on this machine; None: not measured."""

    def lines(self) -> list[str]:
        """The preview as text."""
        top = sorted(self.shares.items(), key=lambda item: -item[1])[:12]
        duration = "not measured" if self.seconds is None else duration_text(self.seconds)
        return [
            *(f"pair: {pair}" for pair in self.pairs),
            *(f"share: {share:6.1%}  {name} {lang}".rstrip() for (name, lang), share in top),
            *(f"left out: {n} lines of {name}" for name, n in self.bad_lines.items() if n),
            *([f"cut: {self.cut:.0%} of the pairs, to their part's max_length"] * (self.cut > 0)),
            f"a step: {self.pairs_per_step:.0f} pairs, {self.tokens_per_step:.0f} tokens",
            f"the run: about {self.tokens:,} tokens, {duration} without evaluations",
        ]


def preview_reranker(
    config: RerankConfig,
    *,
    steps: int = 3,
    pairs: int = 6,
    time_a_batch: bool = True,
    device: str = "cpu",
) -> Preview:
    """Build the first steps' batches, and time one forward and backward pass. Writes nothing.

    Raises InputError and CheckpointError where the run itself would, before its first step.
    """
    if steps < 1:
        raise InputError(f"expected at least 1 step to preview, got {steps}")
    objective = build_objective(config, device)
    batches = [b for step in range(steps) for b in objective.batches(step)]
    first = batches[0].batch
    bounds = list(zip(first.cu_lengths[:-1], first.cu_lengths[1:], strict=True))[:pairs]
    tokens = sum(b.tokens for b in batches) / steps
    total = int(tokens * config.loop.steps)
    rate = None
    if time_a_batch:
        model, _ = build_model(config, device)
        rate = tokens_per_second(model, objective, config.loop.dtype, device)
    return Preview(
        pairs=tuple(objective.tokenizer.decode(first.ids[start:end]) for start, end in bounds),
        shares=objective.mixture.shares(),
        bad_lines={p.file.path.name: p.file.bad.count for p in objective.mixture.parts},
        tokens_per_step=tokens,
        pairs_per_step=sum(sum(b.sizes) for b in batches) / steps,
        cut=share_cut(batches),
        tokens=total,
        seconds=None if rate is None else total / rate,
    )


def tokens_per_second(
    model: torch.nn.Module, objective: Objective, dtype: TrainingDtype, device: str
) -> float:
    """How fast one forward and backward pass runs; gradients stay in the model."""
    batch = objective.batches(0)[0]
    _, tokens = objective.size(batch)
    seconds = 0.0
    for _ in range(2):  # the first pass also allocates
        start = time.perf_counter()
        with autocast(dtype, device):
            loss, _ = objective.loss(model, batch)
        torch.autograd.backward(loss)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return tokens / seconds
