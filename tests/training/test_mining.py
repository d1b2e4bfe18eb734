"""Hard negatives: where they come from, which are left out, and going on after a stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from polyrank.errors import InputError
from polyrank.training.groups import Group
from polyrank.training.lexical import LexicalIndex, words
from polyrank.training.mining import MiningConfig, mine
from polyrank.training.readers import read_groups
from polyrank.training.vectors import BiEncoder, VectorIndex, cached_vectors

TEXTS = ["the red fox", "the red fox runs", "a blue whale", "red paint", "green grass", "night"]
GROUPS = [Group(query="red fox", texts=("the red fox",)), Group(query="whale", texts=(TEXTS[2],))]
ONE_HARD = MiningConfig(hard=1, easy=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP", ["don", "t", "stop"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ａ東京都", ["a", "東京", "京都"]),
        ("ภาษาไทย", ["ภา", "าษ", "ษา", "าไ", "ไท", "ทย"]),
        ("年", ["年"]),
        ("한국어 العربية", ["한국어", "العربية"]),
        ("... !?", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_bm25_finds_the_texts_that_share_rare_words() -> None:
    found, scores = LexicalIndex(TEXTS).search(["red fox", "whale", "???"], 2)
    assert set(found[0]) == {0, 1}
    assert found[1][0] == 2
    assert scores[2].tolist() == [0, 0]
    nothing, none = LexicalIndex(TEXTS).search([], 2)
    assert nothing.shape == none.shape == (0, 2)


def test_a_known_answer_is_no_negative_whatever_its_white_space(tmp_path: Path) -> None:
    groups = [
        Group(query="red fox", texts=("the red fox \n", "the  red fox runs", "night")),
        Group(query="red fox", texts=("the red fox runs",)),
    ]
    config = MiningConfig(hard=5, easy=5)
    mine(groups, TEXTS, [LexicalIndex(TEXTS)], config, tmp_path / "out.jsonl")
    for group in read_groups(tmp_path / "out.jsonl"):
        negatives = [" ".join(text.split()) for text in group.texts[1:]]
        assert not {"the red fox", "the red fox runs"}.intersection(negatives)
        assert len(negatives) == len(set(negatives))
        assert "night" in negatives


@pytest.mark.parametrize("wrong", [{"hard": -1}, {"easy": -1}, {"skip_best": -3}, {"depth": 0}])
def test_numbers_below_their_least_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="as a whole number from"):
        MiningConfig(**wrong)  # type: ignore[arg-type]


def test_a_negative_is_the_best_candidate_that_is_not_the_positive(tmp_path: Path) -> None:
    mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], ONE_HARD, tmp_path / "out.jsonl")
    first, _ = read_groups(tmp_path / "out.jsonl")
    assert first.texts[:2] == ("the red fox", "the red fox runs")
    assert len(set(first.texts)) == 3


def _judge(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
    return np.array([1.0 if "fox" in text else 0.0 for _, text in pairs], np.float32)


def test_a_candidate_as_good_as_the_positive_is_left_out(tmp_path: Path) -> None:
    config = MiningConfig(hard=1, easy=0, margin=0.05, relative=True)
    out = tmp_path / "out.jsonl"
    mine(GROUPS[:1], TEXTS, [LexicalIndex(TEXTS)], config, out, judge=_judge)
    (group,) = read_groups(out)
    assert group.texts == ("the red fox", "red paint")


def test_what_shares_no_word_with_the_query_is_no_hard_negative(tmp_path: Path) -> None:
    config = MiningConfig(hard=6, easy=0)
    mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], config, tmp_path / "out.jsonl")
    first, second = read_groups(tmp_path / "out.jsonl")
    assert set(first.texts) == {"the red fox", "the red fox runs", "red paint"}
    assert second.texts == (TEXTS[2],)


def test_another_answer_of_the_same_query_is_no_negative(tmp_path: Path) -> None:
    groups = [Group(query="red fox", texts=(text,)) for text in TEXTS[:2]]
    config = MiningConfig(hard=6, easy=6)
    mine(groups, TEXTS, [LexicalIndex(TEXTS)], config, tmp_path / "out.jsonl")
    for group, text in zip(read_groups(tmp_path / "out.jsonl"), TEXTS[:2], strict=True):
        assert group.texts[0] == text
        assert not set(group.texts[1:]) & set(TEXTS[:2])
        assert "red paint" in group.texts


def test_going_on_with_another_identity_names_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    searches = [LexicalIndex(TEXTS)]
    mine(GROUPS, TEXTS, searches, ONE_HARD, out, identity={"judge": "a"})
    with pytest.raises(InputError, match="judge a then and b now"):
        mine(GROUPS, TEXTS, searches, ONE_HARD, out, identity={"judge": "b"})


def test_a_stopped_run_goes_on_to_the_same_file(tmp_path: Path) -> None:
    groups = [Group(query=f"red {i}", texts=(f"positive {i}",)) for i in range(10)]
    config = MiningConfig(hard=2, easy=2, batch=3)
    searches = [LexicalIndex(TEXTS)]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    mine(groups, TEXTS, searches, config, whole)
    mine(groups, TEXTS, searches, config, cut)
    # As a kill leaves it: five lines and a half.
    lines = cut.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    seen: list[tuple[int, int]] = []
    mine(groups, TEXTS, searches, config, cut, progress=lambda *p: seen.append(p))
    assert cut.read_bytes() == whole.read_bytes()
    assert seen == [(8, 10), (10, 10)]


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], ONE_HARD, out)
    with pytest.raises(InputError, match="remove it to mine anew"):
        mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], MiningConfig(hard=2), out)


def test_more_lines_than_groups_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], ONE_HARD, out)
    twice = out.read_bytes() * 2
    out.write_bytes(twice)
    with pytest.raises(InputError, match=r"expected at most 2 lines in .*, one a group, got 4"):
        mine(GROUPS, TEXTS, [LexicalIndex(TEXTS)], ONE_HARD, out)
    assert out.read_bytes() == twice


def test_two_searches_take_turns(tmp_path: Path) -> None:
    class Fixed:
        def __init__(self, *order: int) -> None:
            self.order = order

        def search(self, queries: Sequence[str], k: int):  # type: ignore[no-untyped-def]
            found = np.array([self.order] * len(queries))
            return found, np.ones(found.shape, np.float32)

    config = MiningConfig(hard=3, easy=0)
    mine(GROUPS[1:], TEXTS, [Fixed(0, 1), Fixed(5, 0)], config, tmp_path / "out.jsonl")
    (group,) = read_groups(tmp_path / "out.jsonl")
    assert group.texts[1:] == (TEXTS[0], TEXTS[5], TEXTS[1])


def test_the_bi_encoder_gives_unit_vectors_whatever_shares_the_batch(encoder_folder: Path) -> None:
    encoder = BiEncoder(encoder_folder, device="cpu", query_prefix="", max_batch_tokens=16)
    texts = ["w9 w8", "w7", "w100 w101 w102 w103"]
    together = encoder.queries(texts)
    alone = np.concatenate([encoder.queries([t]) for t in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    cosine = encoder.judge([("w9 w8", "w7")])[0]
    assert cosine == pytest.approx(together[0] @ encoder.passages(["w7"])[0], abs=1e-5)


def test_the_nearest_vectors_are_found() -> None:
    vectors = np.eye(4, dtype=np.float32)
    index = VectorIndex(vectors, lambda queries: vectors[[int(q) for q in queries]])
    found, scores = index.search(["2"], 2)
    assert found[0, 0] == 2
    assert scores[0, 0] == 1.0


def test_vectors_on_disk_are_made_once_and_completed_after_a_stop(tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        asked.extend(texts)
        return np.array([[len(t), 1.0] for t in texts], np.float32)

    texts = ["a", "bb", "ccc", "dddd"]
    path = tmp_path / "vectors.f32"
    first = np.array(cached_vectors(path, texts, embed, 2, chunk=2))
    path.write_bytes(path.read_bytes()[:19])  # two rows and a half
    asked.clear()
    again = cached_vectors(path, texts, embed, 2, chunk=2)
    assert asked == ["ccc", "dddd"]
    np.testing.assert_array_equal(again, first)
