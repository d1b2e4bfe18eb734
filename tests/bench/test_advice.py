"""From rows to a sentence."""

from __future__ import annotations

import pytest

from polyrank.bench import Row, recommend
from polyrank.bench.advice import code_of, flags_of

from .conftest import row, setting

FP32 = row("onnx:fp32", 10, reference=True)


def chosen(*rows: Row, synthetic: bool = False) -> tuple[str, bool]:
    advice = recommend(rows, synthetic=synthetic, model="m")
    return str(advice.setting), advice.judged


@pytest.mark.parametrize(
    ("tau", "overlap", "expected"),
    [
        (0.98, None, "onnx:int8"),
        (0.979, None, "onnx:fp32"),
        (0.5, 0.95, "onnx:int8"),
        (0.979, 0.949, "onnx:fp32"),
        (None, 0.95, "onnx:int8"),
    ],
)
def test_the_fastest_that_agrees_is_recommended(
    tau: float | None, overlap: float | None, expected: str
) -> None:
    others = row("onnx:int8", 30, tau=tau, overlap=overlap), row("torch:bf16", 20, tau=0.5)
    # The third always agrees less than it must, and shows that an order was compared.
    assert chosen(FP32, *others) == (expected, True)


def test_the_second_fastest_is_where_the_fastest_disagrees() -> None:
    assert chosen(FP32, row("onnx:int8", 30, tau=0.9), row("torch:bf16", 20, tau=0.99)) == (
        "torch:bf16",
        True,
    )


def test_a_little_faster_is_not_worth_less_than_fp32() -> None:
    assert chosen(FP32, row("onnx:int8", 10.4)) == ("onnx:fp32", True)
    assert chosen(FP32, row("onnx:int8", 10.6)) == ("onnx:int8", True)


def test_on_random_tokens_the_fastest_is_named_and_not_judged() -> None:
    assert chosen(FP32, row("onnx:int8", 30, tau=0.1), synthetic=True) == ("onnx:int8", False)
    advice = recommend([FP32, row("onnx:int8", 30)], synthetic=True, model=None)
    assert "not judged" in advice.text
    assert "--pairs FILE" in advice.text
    assert "tau" not in advice.text


def test_fp32_needs_no_judgement() -> None:
    assert chosen(FP32, row("onnx:int8", 5), synthetic=True) == ("onnx:fp32", True)
    assert chosen(FP32, row("torch:fp32", 20), synthetic=True) == ("torch:fp32", True)


def test_without_an_order_to_compare_nothing_is_judged() -> None:
    rows = FP32, row("onnx:int8", 30, tau=None)
    assert chosen(*rows) == ("onnx:int8", False)
    assert "more documents a query" in recommend(rows, synthetic=False, model="m").text


def test_without_fp32_nothing_is_judged() -> None:
    failed = Row(setting=setting("onnx:fp32"), error="no memory")
    fast = Row(setting=setting("onnx:int8"), speed=row("onnx:int8", 30).speed)
    assert chosen(failed, fast) == ("onnx:int8", False)


def test_where_nothing_ran_nothing_is_recommended() -> None:
    advice = recommend(
        [Row(setting=setting("onnx:fp32"), error="no memory")], synthetic=False, model="m"
    )
    assert (advice.setting, advice.judged) == (None, False)


def test_the_sentence_has_the_numbers_and_what_to_type() -> None:
    fast = row("onnx:int8", 23, tau=0.9912, overlap=0.97)
    assert recommend([FP32, fast], synthetic=False, model="bge").text == (
        "onnx:int8 is the fastest that orders documents as fp32 does, 2.30 times the pairs/s of "
        "onnx:fp32, Kendall tau 0.991, top-10 overlap 0.970. Use "
        'Reranker("bge", backend="onnx", dtype="int8"), or --backend onnx --dtype int8 on the '
        "command line."
    )


def test_what_was_too_different_is_said() -> None:
    text = recommend([FP32, row("onnx:int8", 30, tau=0.9)], synthetic=False, model="m").text
    assert "onnx:int8 (Kendall tau 0.900)" in text


def test_code_and_flags_open_the_setting() -> None:
    assert code_of(setting("onnx:int8"), None) == 'Reranker(backend="onnx", dtype="int8")'
    assert code_of(setting("cuda:fp16"), 'a"b') == (
        'Reranker("a\\"b", backend="torch", dtype="fp16", device="cuda")'
    )
    # On a machine with a GPU, PyTorch would not choose the CPU.
    assert flags_of(setting("torch:bf16")) == "--backend torch --device cpu --dtype bf16"
