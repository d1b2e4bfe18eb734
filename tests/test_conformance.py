"""Our network against what the reference code computed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import DATA, encoding_of
from polyrank import Reranker
from polyrank.checkpoint import canonical_shapes, load_checkpoint
from polyrank.checkpoint.layouts import name_map
from polyrank.config import parse_config
from polyrank.torch_backend import CrossEncoder, TorchBackend, attention
from polyrank.torch_backend.attention import Layout, attend
from polyrank.values import pack

Cases = list[dict[str, Any]]


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> TorchBackend:
    return TorchBackend(load_checkpoint(tiny_model))


def test_logits_agree_one_by_one(backend: TorchBackend, tiny_cases: Cases) -> None:
    for case in tiny_cases:
        logit = backend.forward(pack([encoding_of(case["input_ids"])]))[0]
        assert logit == pytest.approx(case["logit"], abs=1e-4)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(8)), taken=st.integers(1, 8))
def test_logits_agree_in_any_batch_to_a_hundred_thousandth(
    backend: TorchBackend, tiny_cases: Cases, order: list[int], taken: int
) -> None:
    chosen = [tiny_cases[i] for i in order[:taken]]
    logits = backend.forward(pack([encoding_of(c["input_ids"]) for c in chosen]))
    np.testing.assert_allclose(logits, [c["logit"] for c in chosen], atol=1e-5)


def test_hidden_states_agree(tiny_model: Path, tiny_cases: Cases) -> None:
    model = CrossEncoder.from_checkpoint(load_checkpoint(tiny_model), frozen=True).eval()
    batch = pack([encoding_of(c["input_ids"]) for c in tiny_cases])
    at = Layout.of(batch.cu_lengths, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        ids = torch.from_numpy(batch.ids).long()
        last = model.hidden_states(ids, torch.zeros_like(ids), at)[-1].numpy()
    for case, start, end in zip(
        tiny_cases, batch.cu_lengths[:-1], batch.cu_lengths[1:], strict=True
    ):
        np.testing.assert_allclose(last[start][:8], case["cls_hidden_first8"], atol=1e-3)
        np.testing.assert_allclose(last[end - 1][:4], case["last_token_hidden_first4"], atol=1e-3)


def test_text_pairs_agree_through_the_template(reranker: Reranker, tiny_pairs: Cases) -> None:
    pairs = [(p["query"], p["text"]) for p in tiny_pairs]
    assert [len(e) for e in reranker.encode(pairs)] == [p["tokens"] for p in tiny_pairs]
    np.testing.assert_allclose(reranker.logits(pairs), [p["logit"] for p in tiny_pairs], atol=1e-4)


def test_bf16_stays_near_fp32(tiny_model: Path, tiny_pairs: Cases) -> None:
    with Reranker(tiny_model, dtype="bf16") as r:
        logits = r.logits([(p["query"], p["text"]) for p in tiny_pairs])
    np.testing.assert_allclose(logits, [p["logit"] for p in tiny_pairs], atol=0.15)


def test_bf16_attends_where_no_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "runs_packed", lambda *_: False)
    lengths = [3, 300, 41, 41, 7, 384, 120]
    qkv = torch.randn(sum(lengths), 3, 4, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    at, exact = (
        Layout.of(np.cumsum([0, *lengths]), torch.device("cpu"), dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    wanted = attend(qkv.float(), exact)
    torch.testing.assert_close(attend(qkv, at).float(), wanted, atol=0.03, rtol=0.03)
    first = attend(qkv[:, 1:], at, first=qkv[at.first, 0])
    torch.testing.assert_close(first.float(), wanted[at.first], atol=0.03, rtol=0.03)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_a_compiled_network_gives_the_same_logits(tiny_model: Path, tiny_cases: Cases) -> None:
    compiled = TorchBackend(load_checkpoint(tiny_model), compile=True)
    for taken in (tiny_cases[:3], tiny_cases[2:7]):
        logits = compiled.forward(pack([encoding_of(c["input_ids"]) for c in taken]))
        np.testing.assert_allclose(logits, [c["logit"] for c in taken], atol=1e-4)


def test_the_names_and_shapes_are_those_of_the_official_checkpoint() -> None:
    config = parse_config(json.loads((DATA / "official_config.json").read_text()))
    official = json.loads((DATA / "official_tensors.json").read_text())["tensors"]
    names = name_map(config, "new", "new.")
    ours = {names[n][0]: list(shape) for n, shape in canonical_shapes(config).items()}
    assert ours == official


official_weights = pytest.mark.skipif(
    "POLYRANK_OFFICIAL_WEIGHTS" not in os.environ,
    reason="POLYRANK_OFFICIAL_WEIGHTS names no folder with gte-multilingual-reranker-base",
)


@official_weights
def test_the_official_weights_give_their_published_logits() -> None:
    goldens = json.loads((DATA / "goldens.json").read_text())
    with Reranker(os.environ["POLYRANK_OFFICIAL_WEIGHTS"], device="cpu", dtype="fp32") as r:
        for golden in goldens["pairs"]:
            logit = r.logits([(golden["query"], golden["text"])])[0]
            assert logit == pytest.approx(golden["logit"], abs=golden["tolerance"])
        tokenizer = r._tokenizer
        for golden in goldens["single_texts"]:
            ids = [0, *tokenizer.tokenize([golden["text"]])[0].tolist(), 2]
            logit = r.submit([encoding_of(ids)]).result()[0]
            assert logit == pytest.approx(golden["logit"], abs=golden["tolerance"])


@official_weights
def test_the_model_cards_snippet_gives_its_published_logits() -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import polyrank.interop.transformers  # noqa: F401

    folder = os.environ["POLYRANK_OFFICIAL_WEIGHTS"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    cards = [
        g
        for g in json.loads((DATA / "goldens.json").read_text())["pairs"]
        if g["source"] == "model card"
    ]
    pairs = [[g["query"], g["text"]] for g in cards]
    with torch.no_grad():
        inputs = tokenizer(
            pairs, padding=True, truncation=True, return_tensors="pt", max_length=512
        )
        logits = model(**inputs, return_dict=True).logits.view(-1).float()
    assert logits.tolist() == pytest.approx([g["logit"] for g in cards], abs=0.01)
