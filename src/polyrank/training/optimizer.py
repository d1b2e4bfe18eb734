"""Which parameters learn, how fast, and their running mean. Knows no data."""

from __future__ import annotations

import torch
from torch import nn

from polyrank.training.config import LoopConfig

__all__ = ["Ema", "freeze_embeddings", "learning_rate_factor", "make_optimizer", "trainable"]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def freeze_embeddings(model: nn.Module) -> None:
    """Keep word, position and type tables, and the norm after them, as they are."""
    for name, parameter in model.named_parameters():
        if "embeddings." in name:
            parameter.requires_grad_(False)


def make_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101): decay for matrices only, the head at its own rate."""
    cells: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        cell = (name.startswith("head."), parameter.ndim > 1)
        cells.setdefault(cell, []).append(parameter)
    head_rate = config.head_learning_rate or config.learning_rate
    groups = []
    for (head, matrix), parameters in sorted(cells.items()):
        rate = head_rate if head else config.learning_rate
        decay = config.weight_decay if matrix else 0.0
        group = {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        groups.append(group)
    return torch.optim.AdamW(groups, betas=config.betas, eps=1e-8)


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Share of the peak rate at a step (0 is the first): a linear rise, then a fall to 0."""
    warmup = max(1, round(config.steps * config.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (config.steps - step) / max(1, config.steps - warmup))


class Ema:
    """An exponential mean of the weights; it starts as a plain mean, without bias to the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {n: p.detach().clone() for n, p in trainable(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` (0 is the first)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        held = trainable(model)
        means = [self.mean[name] for name in held]
        torch._foreach_lerp_(means, [p.detach() for p in held.values()], 1.0 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the mean; a second call exchanges them back."""
        for name, parameter in trainable(model).items():
            held = parameter.detach().clone()
            parameter.copy_(self.mean[name])
            self.mean[name].copy_(held)
