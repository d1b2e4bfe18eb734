"""Low-rank updates of frozen linear layers (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from polyrank.errors import InputError
from polyrank.torch_backend.encoder import CrossEncoder

__all__ = ["add_lora", "merged"]


class _LowRank(nn.Module):
    """weight -> weight + scale * (up @ down). `up` starts at 0, so nothing changes at first."""

    def __init__(self, weight: torch.Tensor, rank: int, scale: float, seed: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        generator = torch.Generator().manual_seed(seed)
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.scale = scale

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * (self.up @ self.down)


def add_lora(model: CrossEncoder, rank: int, alpha: float, *, seed: int = 0) -> None:
    """Freeze the encoder and add a trainable update to each layer's four matrices.

    The head, small and often new, trains whole. Raises InputError for a rank below 1.
    """
    if rank < 1:
        raise InputError(f"expected lora_rank of at least 1, got {rank}; use None for no LoRA")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    linears = [m for layer in model.layers for m in layer.modules() if isinstance(m, nn.Linear)]
    for i, linear in enumerate(linears):
        update = _LowRank(linear.weight, rank, alpha / rank, seed * 100_003 + i)
        parametrize.register_parametrization(linear, "weight", update)


def merged(model: CrossEncoder) -> CrossEncoder:
    """A model with plain weights; `model` itself where it has no updates."""
    if not any(parametrize.is_parametrized(m) for m in model.modules()):
        return model
    with torch.device("meta"):
        plain = CrossEncoder(model.config, with_head=model.head is not None)
    state = {}
    for name in plain.state_dict():
        owner, _, kind = name.rpartition(".")
        state[name] = getattr(model.get_submodule(owner), kind).detach()
    plain.load_state_dict(state, assign=True)
    return plain.train(model.training)
