"""The model inside the package: it ranks in many scripts, offline, alike on every backend."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.models import find_model

EXAMPLE = Path(__file__).parent.parent / "examples" / "plants.txt"
ABOUT_PLANTS = {0, 2, 4, 6, 8, 10, 12}
QUESTIONS = [
    "how do plants make their food?",
    "Wie stellen Pflanzen ihre Nahrung her?",
    "как растения производят питательные вещества?",
    "كيف تصنع النباتات غذاءها؟",
    "पौधे अपना भोजन कैसे बनाते हैं?",
    "தாவரங்கள் தங்கள் உணவை எவ்வாறு தயாரிக்கின்றன?",
    "植物如何制造养分？",
    "植物はどうやって栄養を作りますか？",
    "식물은 어떻게 양분을 만드나요?",
    "พืชสร้างอาหารได้อย่างไร",
    "πώς φτιάχνουν τα φυτά την τροφή τους;",
    "איך צמחים מייצרים את מזונם?",
]


@pytest.fixture(scope="module")
def mini() -> Iterator[Reranker]:
    with Reranker() as running:
        yield running


def test_it_is_what_runs_where_no_model_is_named(mini: Reranker) -> None:
    assert (mini.name, mini.backend_name) == ("polyrank-mini", "onnx cpu int8")
    with Reranker("polyrank-mini", max_length=64) as named:
        assert named.max_length == 64


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_in_any_script_finds_the_answers_in_all_of_them(
    mini: Reranker, question: str
) -> None:
    ranking = mini.rank(question, EXAMPLE.read_text(encoding="utf-8").splitlines())
    first = {item.index for item in ranking[: len(ABOUT_PLANTS)]}
    assert first == ABOUT_PLANTS, ranking


def test_pytorch_reads_the_same_weights(mini: Reranker) -> None:
    pairs = [(q, text) for q in QUESTIONS[:3] for text in EXAMPLE.read_text("utf-8").splitlines()]
    with Reranker(backend="torch") as widened:
        assert widened.backend_name == "torch cpu fp32"
        exact = widened.logits(pairs)
    # What is left is the rounding of activations; the logits' own spread is 3.3.
    assert np.abs(mini.logits(pairs) - exact).mean() < 0.1


def test_what_a_long_text_holds_is_found(mini: Reranker) -> None:
    filler = "The town library opens at nine and closes at five, but not on Sundays. " * 75
    answer = "Plants make their food from light, water and carbon dioxide. "
    texts = [filler + filler, filler + answer + filler]
    first, second = mini.rank(QUESTIONS[0], texts)
    assert mini.max_length == 8192
    assert 3000 < first.tokens == first.tokens_given
    assert first.index == 1
    (alone,) = mini.logits([(QUESTIONS[0], answer)])
    assert second.logit < -3 < first.logit <= alone


def test_it_needs_neither_pytorch_nor_the_hub_client() -> None:
    code = """
import sys
from polyrank import Reranker
Reranker().rank("a query", ["a text"])
heavy = {"torch", "onnx", "huggingface_hub", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_fits_the_wheel() -> None:
    files = [p for p in find_model(None).path.iterdir() if p.is_file()]
    packed = sum(len(zlib.compress(p.read_bytes(), 6)) for p in files)
    assert packed < 59_500_000
    names = {"config.json", "model.onnx", "polyrank.safetensors", "tokenizer.json", "README.md"}
    assert names <= {p.name for p in files}
