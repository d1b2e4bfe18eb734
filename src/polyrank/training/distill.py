"""A student learns from other networks: their order of a group's texts, or one's hidden states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.batches import GroupBatch
from polyrank.training.config import LossConfig, MixtureConfig
from polyrank.training.objective import Reranking, forward_inputs, group_losses
from polyrank.values import Batch

__all__ = ["FromTeachers", "HiddenStates"]


class FromTeachers(Reranking):
    """Groups from a mixture, scored by several rerankers as they are read; the mean is learned.

    Rerankers that were trained apart err apart: their mean is better than each of them. Labelled
    groups count by InfoNCE besides.
    """

    def __init__(
        self,
        data: MixtureConfig,
        loss: LossConfig,
        tokenizer: PairTokenizer,
        teachers: Sequence[CrossEncoder],
    ) -> None:
        """`teachers`: at least one, on the student's device; they read its token ids.

        One that is there twice counts twice, and is run once.
        """
        super().__init__(data, loss, tokenizer, taught=True)
        self._counts = Counter(teacher.eval().requires_grad_(False) for teacher in teachers)

    def loss(self, model: Any, batch: GroupBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the groups' losses."""
        inputs = forward_inputs(batch.batch, next(model.parameters()).device)
        with torch.no_grad():
            logits = [n * teacher(*inputs).float() for teacher, n in self._counts.items()]
            mean_S = torch.stack(logits).sum(0) / self._counts.total()
        return group_losses(model(*inputs), batch, self._loss, self.wanted(mean_S, batch))

    def wanted(self, mean_S: torch.Tensor, batch: GroupBatch) -> torch.Tensor:
        """[S] what the student should say, given the teachers' mean; own scores are half of it."""
        kept: list[float] = []
        own: list[float] = []
        for group in batch.groups:
            kept += [1.0 if group.scores is None else 0.5] * len(group.texts)
            own += group.scores or [0.0] * len(group.texts)
        own_S = self._loss.teacher_scale * mean_S.new_tensor(own)
        return mean_S.new_tensor(kept) * mean_S + 0.5 * own_S


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
