"""What a step learns, as the loop sees it: batches of a step, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.attention import Layout
from polyrank.training.batches import GroupBatch, pack_groups
from polyrank.training.buckets import BucketedMixture
from polyrank.training.config import LossConfig, MixtureConfig
from polyrank.training.groups import Group, GroupFile
from polyrank.training.losses import (
    info_nce,
    listwise_kl,
    margin_mse,
    pad_groups,
    pointwise_bce,
)
from polyrank.training.sampling import Mixture, Part
from polyrank.values import Batch

__all__ = ["Objective", "Reranking", "forward_inputs"]


class Objective(Protocol):
    """One kind of training. A step's batches depend on (seed, step) alone."""

    def batches(self, step: int) -> Sequence[Any]:
        """Batches of a step, each small enough for one forward pass, in a fixed order."""
        ...

    def loss(self, model: Any, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum over the batch's items (not their mean), and sums to log."""
        ...

    def size(self, batch: Any) -> tuple[int, int]:
        """(items, tokens) of a batch; a step's loss is divided by all its items."""
        ...


def forward_inputs(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, Layout]:
    """What the network's forward pass takes, laid out for autocast's dtype where that is on."""
    mixed = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if mixed else torch.float32
    ids_T = torch.from_numpy(batch.ids).to(device, torch.long)
    types_T = torch.from_numpy(batch.type_ids).to(device, torch.long)
    return ids_T, types_T, Layout.of(batch.cu_lengths, device, dtype)


class Reranking:
    """Groups from a mixture; labelled ones by InfoNCE, scored ones by the teacher's order.

    Raises InputError for a groups file that is missing or has no group.
    """

    def __init__(
        self,
        data: MixtureConfig,
        loss: LossConfig,
        tokenizer: PairTokenizer,
        *,
        taught: bool = False,
    ) -> None:
        """`taught`: whether teachers score every group."""

        def lacks(group: Group) -> str:
            if taught or group.scores is not None:
                return ""
            if not group.labelled:
                return "`scores` in a group that is not labelled, where no teachers are"
            alone = len(group.texts) == 1 and not (loss.cross_batch or loss.pointwise)
            return "a text beside the positive: mine negatives first" if alone else ""

        parts = [
            Part(
                file=GroupFile(p.path, lacks=lacks),
                weight=p.weight,
                group_size=p.group_size,
                max_length=p.max_length,
            )
            for p in data.parts
        ]
        self.mixture = Mixture(parts, seed=data.seed, exponent=data.language_exponent)
        self._buckets = (
            BucketedMixture(parts, data.buckets, seed=data.seed, exponent=data.language_exponent)
            if data.buckets
            else None
        )
        self._data, self._loss = data, loss
        self.tokenizer = tokenizer

    def batches(self, step: int) -> list[GroupBatch]:
        """The step's groups, packed under the token budget."""
        if self._buckets is not None:
            drawn = self._buckets.step(step)
        else:
            drawn = self.mixture.step(step, self._data.groups_per_step)
        return pack_groups(drawn, self.tokenizer, self._data.max_batch_tokens)

    def size(self, batch: GroupBatch) -> tuple[int, int]:
        """(groups, tokens)"""
        return len(batch.groups), batch.tokens

    def loss(self, model: Any, batch: GroupBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the groups' losses."""
        device = next(model.parameters()).device
        logits_S = model(*forward_inputs(batch.batch, device))
        return group_losses(logits_S, batch, self._loss)


def group_losses(
    logits_S: torch.Tensor,
    batch: GroupBatch,
    config: LossConfig,
    teacher_S: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weigh the losses of a batch's groups; (sum, sums to log).

    `teacher_S`: what every pair's logit should be; None: the scores of those groups that have some.
    """
    device = logits_S.device
    logits_GN, mask_GN = pad_groups(logits_S, batch.sizes)
    total = logits_S.new_zeros(())
    logged: dict[str, float] = {}
    rows = [g for g, group in enumerate(batch.groups) if group.labelled]
    if rows:
        at = torch.tensor(rows, device=device)
        x, m = logits_GN[at], mask_GN[at]
        nce = info_nce(x, m, temperature=config.temperature, cross_batch=config.cross_batch).sum()
        total = total + config.contrastive * nce
        right = (x[:, :1] > x.masked_fill(~m, -torch.inf)[:, 1:]).all(1)
        logged |= {"nce": float(nce.detach()), "labelled": len(rows)}
        logged["right"] = float(right.sum())
        if config.pointwise:
            labels = torch.zeros_like(x)
            labels[:, 0] = 1.0
            total = total + config.pointwise * pointwise_bce(x, labels, m).sum()
    rows = [g for g, group in enumerate(batch.groups) if group.scores is not None]
    if teacher_S is not None:
        rows = list(range(len(batch.groups)))
    elif rows:
        scores = [s for g in rows for s in batch.groups[g].scores or ()]
        teacher_S = torch.tensor(scores, device=device) * config.teacher_scale
    if teacher_S is not None:
        at = torch.tensor(rows, device=device)
        t, m = pad_groups(teacher_S, [batch.sizes[g] for g in rows])
        x = logits_GN[at, : t.shape[1]]
        kl, margin = listwise_kl(x, t, m).sum(), margin_mse(x, t, m).sum()
        total = total + config.listwise * kl + config.margin * margin
        logged |= {"kl": float(kl.detach()), "margin": float(margin.detach())}
        logged["scored"] = len(rows)
    return total, logged
