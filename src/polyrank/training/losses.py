"""What a wrong order costs. Pure functions of logits; no network, no data.

G groups, N texts of the longest group. A group is one query with its texts: [G, N] logits, and a
mask that is True where a text is. Every loss is [G], one number a group, so that a caller can
weigh groups and divide by the whole step's count.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from polyrank.errors import InputError

__all__ = ["info_nce", "listwise_kl", "margin_mse", "pad_groups", "pointwise_bce"]

_FAR_BELOW = -1e9  # takes a padded place out of a softmax, and keeps its gradient an exact 0


def pad_groups(values_S: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[S] values of groups laid end to end -> ([G, N] values, 0 where padded; [G, N] mask).

    Raises InputError where there are more or fewer values than texts.
    """
    if sum(sizes) != len(values_S):
        raise InputError(
            f"expected {sum(sizes)} values for groups of {sizes}, got {len(values_S)}; "
            "every text of a group has one"
        )
    values_GN = torch.nn.utils.rnn.pad_sequence(
        list(torch.split(values_S, sizes)), batch_first=True, padding_value=0.0
    )
    places_N = torch.arange(values_GN.shape[1], device=values_S.device)
    counts_G = torch.tensor(sizes, device=values_S.device)
    return values_GN, places_N < counts_G[:, None]


def info_nce(
    logits_GN: torch.Tensor,
    mask_GN: torch.Tensor,
    *,
    temperature: float = 1.0,
    cross_batch: bool = False,
) -> torch.Tensor:
    """[G] -log softmax of each group's first text, the positive (arXiv 1807.03748).

    With `cross_batch` a positive also competes with the other groups' negatives, which makes
    logits comparable between queries: a negative's logit should be low whatever its query is.
    """
    scaled_GN = (logits_GN / temperature).masked_fill(~mask_GN, _FAR_BELOW)
    if not cross_batch:
        return -functional.log_softmax(scaled_GN, dim=1)[:, 0]
    negatives = scaled_GN[:, 1:].flatten()
    rest_G = negatives.logsumexp(0) if len(negatives) else scaled_GN.new_tensor(_FAR_BELOW)
    positives_G = scaled_GN[:, 0]
    return torch.logaddexp(positives_G, rest_G) - positives_G


def listwise_kl(
    logits_GN: torch.Tensor,
    teacher_GN: torch.Tensor,
    mask_GN: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """[G] KL(teacher || student) of the softmax over a group's texts, times temperature squared.

    The factor keeps the gradient's size independent of the temperature (arXiv 1503.02531).
    """
    student_GN = functional.log_softmax(
        (logits_GN / temperature).masked_fill(~mask_GN, _FAR_BELOW), dim=1
    )
    wanted_GN = functional.log_softmax(
        (teacher_GN / temperature).masked_fill(~mask_GN, _FAR_BELOW), dim=1
    )
    terms_GN = (wanted_GN.exp() * (wanted_GN - student_GN)).masked_fill(~mask_GN, 0.0)
    return terms_GN.sum(1) * temperature**2


def margin_mse(
    logits_GN: torch.Tensor, teacher_GN: torch.Tensor, mask_GN: torch.Tensor
) -> torch.Tensor:
    """[G] mean squared error of the margins to the teacher's best text (arXiv 2010.02666).

    0 for a group of one text, which has no margin.
    """
    best_G1 = teacher_GN.masked_fill(~mask_GN, -torch.inf).argmax(1, keepdim=True)
    student_GN = logits_GN.gather(1, best_G1) - logits_GN
    wanted_GN = teacher_GN.gather(1, best_G1) - teacher_GN
    errors_GN = (student_GN - wanted_GN).square().masked_fill(~mask_GN, 0.0)
    return errors_GN.sum(1) / (mask_GN.sum(1) - 1).clamp(min=1)


def pointwise_bce(
    logits_GN: torch.Tensor, labels_GN: torch.Tensor, mask_GN: torch.Tensor
) -> torch.Tensor:
    """[G] mean binary cross-entropy of a group's texts; labels in 0..1."""
    errors_GN = functional.binary_cross_entropy_with_logits(logits_GN, labels_GN, reduction="none")
    return errors_GN.masked_fill(~mask_GN, 0.0).sum(1) / mask_GN.sum(1)
