"""Texts over the limit, read in parts: nothing is left out, and the best part counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank import InputError, Reranker
from polyrank.evaluation.scorers.polyrank_model import RerankerJudge
from polyrank.tokenization import window_starts

QUERY = "w10 w11 w12"
LONG = " ".join(f"w{20 + n % 300}" for n in range(100))


@pytest.fixture(scope="module")
def windowed(tiny_model: Path) -> Iterator[Reranker]:
    with Reranker(tiny_model, max_length=24, on_overflow="windows") as reranker:
        yield reranker


@given(st.integers(1, 60), st.integers(1, 500))
def test_windows_cover_a_text_and_share_a_quarter(size: int, more: int) -> None:
    length = size + more
    starts = window_starts(length, size)
    assert starts[0] == 0
    assert starts[-1] + size == length
    assert starts == sorted(set(starts))
    strides = np.diff(starts)
    assert strides.max() <= size - size // 4
    assert all(strides[:-1] == max(1, size - size // 4))


def test_a_long_text_is_worth_its_best_window(windowed: Reranker, reranker: Reranker) -> None:
    (encoding,) = windowed.encode([(QUERY, LONG)])
    assert len(encoding) == encoding.tokens_given
    assert not encoding.truncated
    words = [w for part in encoding.windows for w in part.ids.tolist()]
    (whole,) = reranker.encode([(QUERY, LONG)])
    assert set(words) == set(whole.ids.tolist())
    room = 24 - (len(whole) - 100)
    parts = [LONG.split()[s : s + room] for s in window_starts(100, room)]
    alone = reranker.logits([(QUERY, " ".join(part)) for part in parts])
    assert windowed.logits([(QUERY, LONG)])[0] == pytest.approx(alone.max(), abs=1e-5)
    assert alone.argmax() != 0 or alone.min() < alone.max()


def test_long_and_short_texts_keep_their_places(windowed: Reranker) -> None:
    texts = ["w20", LONG, "w30 w31", LONG[: len(LONG) // 2], LONG, "w20"]
    together = windowed.logits([(QUERY, text) for text in texts])
    alone = [float(windowed.logits([(QUERY, text)])[0]) for text in texts]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    ranking = windowed.rank(QUERY, texts)
    assert [r.index for r in ranking] == np.argsort(-together, kind="stable").tolist()
    assert ranking.truncated == 0
    assert {r.index: r.tokens for r in ranking}[1] > 100


def test_a_query_over_its_share_is_still_cut_and_told(windowed: Reranker) -> None:
    (encoding,) = windowed.encode([(LONG, LONG)])
    assert encoding.truncated
    assert encoding.query_cut > 0
    assert encoding.text_cut == 0
    assert len(encoding) == encoding.tokens_given - encoding.query_cut
    assert max(len(part) for part in encoding.windows) == 24


def test_a_text_is_read_as_far_as_is_asked(windowed: Reranker) -> None:
    (encoding,) = windowed.encode([(QUERY, LONG)], max_text_tokens=40)
    assert encoding.text_cut == 60
    assert len(encoding) == encoding.tokens_given - 60
    (short,) = windowed.encode([(QUERY, LONG)], max_text_tokens=5)
    assert not short.windows
    assert short.text_cut == 95


def test_a_model_says_what_it_reads_at_once(tiny_model: Path, narrow_model: Path) -> None:
    with Reranker(narrow_model) as reranker, Reranker(tiny_model, window=24) as asked:
        assert (reranker.window, reranker.max_length) == (24, 8192)
        logits = reranker.logits([(QUERY, LONG), (QUERY, "w20")])
        assert logits.tolist() == asked.logits([(QUERY, LONG), (QUERY, "w20")]).tolist()
        (encoding,) = reranker.encode([(QUERY, LONG)])
        assert max(len(part) for part in encoding.windows) == 24
        assert not encoding.truncated
    with Reranker(narrow_model, window=8192) as whole, Reranker(tiny_model) as plain:
        assert whole.logits([(QUERY, LONG)]).tolist() == plain.logits([(QUERY, LONG)]).tolist()
    with Reranker(narrow_model, max_length=16) as least:
        assert least.window == 16


def test_scores_of_other_windows_are_kept_apart(tiny_model: Path) -> None:
    with Reranker(tiny_model) as whole, Reranker(tiny_model, window=24) as narrow:
        judges = [RerankerJudge(r, fingerprint="the same") for r in (whole, narrow)]
        assert judges[0].identity != judges[1].identity
        assert "window" not in judges[0].identity


def test_windows_end_at_the_limit_and_say_so(tiny_model: Path) -> None:
    with Reranker(tiny_model, max_length=64, window=24) as reranker:
        (encoding,) = reranker.encode([(QUERY, LONG)])
        assert len(encoding) == 64
        assert encoding.text_cut == encoding.tokens_given - 64
        (ranked,) = reranker.rank(QUERY, [LONG])
        assert (ranked.truncated, ranked.tokens) == (True, 64)


def test_a_long_query_is_whole_in_every_window(tiny_model: Path) -> None:
    with Reranker(tiny_model, window=24) as reranker:
        (encoding,) = reranker.encode([(LONG, LONG)])
        assert not encoding.truncated
        assert len({part.ids[:102].tobytes() for part in encoding.windows}) == 1
        assert len(encoding.windows) > 5
        assert {len(part) for part in encoding.windows} == {len(encoding) - 100 + 24 // 2}


@pytest.mark.parametrize("window", [0, 5000000, "24", True])
def test_a_window_out_of_range_is_refused(tiny_model: Path, window: object) -> None:
    with pytest.raises(InputError, match="expected window"):
        Reranker(tiny_model, window=window)  # type: ignore[arg-type]


def test_a_query_that_leaves_no_room_is_told(tiny_model: Path) -> None:
    rules = {"max_length": 24, "max_query_tokens": 24, "on_overflow": "windows"}
    with Reranker(tiny_model, **rules) as reranker:  # type: ignore[arg-type]
        (encoding,) = reranker.encode([(LONG, LONG)])
        assert encoding.text_cut == 100
        assert len(encoding) == 24


def test_progress_counts_pairs_not_windows(windowed: Reranker) -> None:
    counted = []
    encodings = windowed.encode([(QUERY, LONG), (QUERY, "w1"), (QUERY, LONG)])
    windowed.submit(encodings, on_forward=lambda pairs, _: counted.append(pairs)).result(60)
    assert sum(counted) == 3
