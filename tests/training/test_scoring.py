"""A network between two steps is measured as the reranker that it would become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyrank import Reranker
from polyrank.checkpoint import load_checkpoint
from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.torch_backend.runner import limit_threads
from polyrank.training.device import autocast
from polyrank.training.scoring import ModelScorer

PAIRS = [("w10 w11", {"title": "w5", "text": "w12"}), ("w10", "w13 w14 w15"), ("w9", "")]


def test_logits_are_the_reranker_s_and_dropout_comes_back(
    tiny_model: Path, reranker: Reranker
) -> None:
    model = CrossEncoder.from_checkpoint(load_checkpoint(tiny_model)).train()
    scorer = ModelScorer(model, PairTokenizer.from_folder(tiny_model), max_batch_tokens=9)
    np.testing.assert_allclose(scorer.score(PAIRS), reranker.logits(PAIRS), atol=1e-4)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_it_reads_what_the_reranker_reads_at_once(narrow_model: Path) -> None:
    model = CrossEncoder.from_checkpoint(load_checkpoint(narrow_model))
    scorer = ModelScorer(model, PairTokenizer.from_folder(narrow_model))
    long = " ".join(f"w{n}" for n in range(20, 99))
    pairs = [("w10", long), ("w11", "w12"), ("w10 w13", f"{long} {long}"), ("w10", long)]
    with Reranker(narrow_model) as reranker:
        np.testing.assert_allclose(scorer.score(pairs), reranker.logits(pairs), atol=1e-4)
    assert len(scorer.score([])) == 0


def test_a_document_that_is_no_text_is_an_error(tiny_model: Path) -> None:
    model = CrossEncoder.from_checkpoint(load_checkpoint(tiny_model))
    with pytest.raises(InputError, match="`text` in pairs"):
        ModelScorer(model, PairTokenizer.from_folder(tiny_model)).score([("w1", {"body": "w2"})])


@pytest.mark.parametrize(("can", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_trains_in_bf16_only_where_it_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, can: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: can)
    x = torch.ones(2, 2)
    with autocast("auto", "cpu"):
        assert (x @ x).dtype == dtype
    with autocast("bf16", "cpu"):
        assert (x @ x).dtype == torch.bfloat16
    assert not autocast("auto", "mps")._enabled


def test_threads_are_lowered_to_what_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", told.append)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setenv("POLYRANK_THREADS", "3")
    limit_threads()
    limit_threads(12)
    monkeypatch.setenv("POLYRANK_THREADS", "16")
    limit_threads()
    assert told == [3, 12]
