"""Losses against values worked out by hand, and their gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from polyrank.errors import InputError
from polyrank.training.losses import (
    info_nce,
    listwise_kl,
    margin_mse,
    pad_groups,
    pointwise_bce,
)

LOGITS = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5], dtype=torch.float64)
SIZES = [3, 2]


def test_groups_are_padded_with_zeros_and_masked() -> None:
    values, mask = pad_groups(LOGITS, SIZES)
    assert values.tolist() == [[1.0, 0.0, -1.0], [2.0, 0.5, 0.0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_a_wrong_number_of_values_is_named() -> None:
    with pytest.raises(InputError, match="expected 4 values for groups"):
        pad_groups(LOGITS, [2, 2])


def test_info_nce_is_the_cross_entropy_of_the_first_text() -> None:
    first, second = info_nce(*pad_groups(LOGITS, SIZES)).tolist()
    assert first == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)))
    assert second == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_a_temperature_divides_the_logits() -> None:
    _, second = info_nce(*pad_groups(LOGITS, SIZES), temperature=0.5).tolist()
    assert second == pytest.approx(math.log(1 + math.exp(-3)))


def test_across_the_batch_a_positive_meets_all_negatives() -> None:
    first, second = info_nce(*pad_groups(LOGITS, SIZES), cross_batch=True).tolist()
    negatives = math.exp(0) + math.exp(-1) + math.exp(0.5)
    assert first == pytest.approx(math.log(math.e + negatives) - 1)
    assert second == pytest.approx(math.log(math.exp(2) + negatives) - 2)


def test_listwise_kl_is_zero_for_the_teachers_own_logits_up_to_a_constant() -> None:
    logits, mask = pad_groups(LOGITS, SIZES)
    assert listwise_kl(logits, logits + 7.0, mask).tolist() == pytest.approx([0.0, 0.0])


def test_listwise_kl_of_two_texts_is_the_formula() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = listwise_kl(logits, teacher, torch.ones(1, 2, dtype=torch.bool))
    assert found.item() == pytest.approx(expected)


def test_margins_are_taken_to_the_teachers_best_text() -> None:
    logits, mask = pad_groups(LOGITS, SIZES)
    teacher, _ = pad_groups(torch.tensor([0.0, 5.0, 2.0, 1.0, 0.0]).double(), SIZES)
    # Group 1: best is text 1; student margins -1 and 1, teacher margins 5 and 3.
    # Group 2: best is text 0; 1.5 against 1.
    assert margin_mse(logits, teacher, mask).tolist() == pytest.approx([(36 + 4) / 2, 0.25])


def test_pointwise_bce_is_the_mean_over_a_groups_texts() -> None:
    logits, mask = pad_groups(LOGITS, SIZES)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    _, second = pointwise_bce(logits, labels, mask).tolist()
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.5))) / 2
    assert second == pytest.approx(expected)


def _losses() -> list[Callable[[torch.Tensor], torch.Tensor]]:
    teacher, _ = pad_groups(torch.tensor([0.3, 5.0, 2.0, 1.0, 0.0]).double(), SIZES)

    def padded(
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: loss(*pad_groups(x, SIZES))

    return [
        padded(info_nce),
        padded(lambda x, m: info_nce(x, m, cross_batch=True, temperature=0.7)),
        padded(lambda x, m: listwise_kl(x, teacher, m, temperature=2.0)),
        padded(lambda x, m: margin_mse(x, teacher, m)),
        padded(lambda x, m: pointwise_bce(x, (teacher > 1).double(), m)),
    ]


@pytest.mark.parametrize("loss", _losses(), ids=["nce", "nce-batch", "kl", "margin", "bce"])
def test_gradients_equal_numerical_differences(
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits,))


def test_a_padded_place_has_no_gradient() -> None:
    logits, mask = pad_groups(LOGITS, SIZES)
    logits.requires_grad_()
    info_nce(logits, mask).sum().backward()
    assert logits.grad is not None
    assert logits.grad[1, 2] == 0
