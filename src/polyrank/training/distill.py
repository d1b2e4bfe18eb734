"""A student learns another network's hidden states, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from polyrank.errors import InputError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.objective import forward_inputs
from polyrank.values import Batch

__all__ = ["HiddenStates"]


class HiddenStates:
    """The objective: after every layer, stand where the teacher stands.

    The error of a layer is relative: squared distance to the teacher's state over the state's
    mean square, so that no layer's scale outweighs another's. An item is a token.
    """

    def __init__(self, teacher: CrossEncoder, batches: Callable[[int], Sequence[Batch]]) -> None:
        """`batches`: a step's packed texts or pairs, by (seed, step) alone."""
        self._teacher = teacher.eval().requires_grad_(False)
        self.batches = batches

    def size(self, batch: Batch) -> tuple[int, int]:
        """(tokens, tokens)"""
        return len(batch.ids), len(batch.ids)

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum over tokens of the mean relative error of all layers.

        Raises InputError for a student of another kind or with other layers than its teacher.
        """
        if not isinstance(model, CrossEncoder):
            raise InputError(f"expected a CrossEncoder as student, got {type(model).__name__}")
        inputs = forward_inputs(batch, next(model.parameters()).device)
        with torch.no_grad():
            wanted = self._teacher.hidden_states(*inputs)
        found = model.hidden_states(*inputs)
        if len(wanted) != len(found):
            raise InputError(
                f"expected a student of {len(wanted) - 1} layers like its teacher, got "
                f"{len(found) - 1}"
            )
        errors = [
            _relative(f.float(), w.float()) for f, w in zip(found[1:], wanted[1:], strict=True)
        ]
        total = torch.stack(errors).mean(0).sum()
        last = float(errors[-1].detach().sum())
        tokens = len(batch.ids)
        return total, {"hidden": float(total.detach()), "last": last, "tokens": tokens}


def _relative(found_TD: torch.Tensor, wanted_TD: torch.Tensor) -> torch.Tensor:
    """[T]"""
    scale = wanted_TD.square().mean().clamp(min=1e-12)
    return (found_TD - wanted_TD).square().mean(1) / scale
