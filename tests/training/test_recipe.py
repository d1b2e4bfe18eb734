"""The recipe of the shipped model, on a data folder of a few lines."""

from __future__ import annotations

import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank import Reranker
from polyrank.training.batches import GroupBatch
from polyrank.training.config import LossConfig
from polyrank.training.groups import Group, write_groups
from polyrank.training.readers import read_groups

FILES = (
    "qa",
    "short",
    "weak",
    "cross",
    "headings",
    "openings",
    "sentences",
    "words",
    "deep",
    "whole",
)
FILES += ("sections", "spans")
RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's scripts can be imported."""
    monkeypatch.syspath_prepend(str(RECIPE))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two question sets, one not allowed, documentation in two languages, one evaluation pool."""

    def qa(source: str, n: int) -> list[dict[str, Any]]:
        common = {"lang": "en", "source": source, "split": "train"}
        return [
            {"query": f"what is thing {i} of {source}", "positive": f"Thing {i} is {source}."}
            | common
            for i in range(n)
        ]

    _write(tmp_path / "train/qa/open.en.jsonl.xz", qa("open", 12))
    _write(tmp_path / "train/qa/tquad.tr.jsonl.xz", qa("tquad", 12))
    negative = {"query": "what is thing 3 of open", "negative": "judged wrong", "lang": "en"}
    _write(tmp_path / "train/negatives/open.en.jsonl.xz", [negative])
    for lang in ("en", "de"):
        rows = [
            {
                "lang": lang,
                "query": f"{lang} heading {i}",
                "positive": f"{lang} section {i} " * 5,
                "source": "manual",
                "key": f"k{i}",
            }
            for i in range(10)
        ]
        _write(tmp_path / f"train/weak/{lang}.jsonl.xz", rows)
    # The pool's passage and question are two of training, in other letters and spaces.
    text = "THING 5  is open."
    _write(tmp_path / "dev/pool/corpus.jsonl.xz", [{"_id": "d", "title": "", "text": text}])
    question = [{"_id": "q", "text": "What is thing 7 of Open"}]
    _write(tmp_path / "dev/pool/queries.jsonl.xz", question)
    return tmp_path


@pytest.mark.usefixtures("recipe")
def test_no_group_holds_a_text_of_an_evaluation_pool(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import contrastive
    from sources import evaluation_texts, leaks

    out = tmp_path / "groups"
    out.mkdir()
    monkeypatch.setattr(sys, "argv", ["contrastive", "--data", str(data), "--out", str(out)])
    contrastive.main()
    forbidden = evaluation_texts(data)
    groups = [g for name in FILES for g in read_groups(out / f"{name}.jsonl")]
    assert not any(leaks((g.query, *g.texts), forbidden) for g in groups)
    # Thing 5 is the positive of one group and a negative of others.
    assert not any("Thing 5" in text for g in groups for text in g.texts)
    assert "left out 0" not in capsys.readouterr().out.split("qa: ")[1].split("\n")[0]
    assert {g.source for g in groups} == {"open", "manual", "span"}


@pytest.mark.usefixtures("recipe")
def test_a_passage_judged_wrong_is_the_first_negative(data: Path) -> None:
    import random

    import contrastive

    drawn = {g.query: g for g in contrastive.questions(data, random.Random(0), 99)}
    assert drawn["what is thing 3 of open"].texts[:2] == ("Thing 3 is open.", "judged wrong")


@pytest.mark.usefixtures("recipe")
def test_questions_meet_other_candidates_with_the_scores_of_their_words(data: Path) -> None:
    import random

    import contrastive

    groups = [g for g in contrastive.deeper(data, random.Random(0)) if g.scores is not None]
    assert len(groups) == 12
    for group in groups:
        scores = dict(zip(group.texts, group.scores or (), strict=True))
        assert group.labelled
        assert group.query.split()[3] in group.texts[0]  # its number: the answer is the best
        assert max(scores.values()) == scores[group.texts[0]] > 0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("kind", ["whole", "sections"])
def test_a_heading_meets_whole_sections(data: Path, kind: str) -> None:
    import random

    import contrastive

    found = contrastive.sections(data)
    whole = {row["positive"] for keyed in found.values() for row in keyed.values()}
    groups = list(contrastive.whole_sections(found, random.Random(0), kind))
    assert len(groups) == 20
    for group in groups:
        assert whole.issuperset(group.texts)
        assert group.query.split()[2] == group.texts[0].split()[2]  # its number
        asked_in_its_own = group.query.startswith(group.lang)
        assert asked_in_its_own == (kind == "sections")
        assert all(text.startswith(group.lang) for text in group.texts)


@pytest.mark.usefixtures("recipe")
def test_words_of_a_passage_meet_passages_that_share_them_without_a_label(data: Path) -> None:
    import random

    import contrastive
    from passages import span

    groups = list(contrastive.spans(data, contrastive.sections(data), random.Random(0)))
    assert groups
    assert not any(g.labelled or g.scores for g in groups)
    assert all(set(g.query.split()) & set(g.texts[0].split()) for g in groups)
    assert span("Too short.", random.Random(0)) == ""
    thai = "ประเทศไทยตั้งอยู่ในเอเชียตะวันออกเฉียงใต้"
    assert all(
        8 <= len(q) <= 24 and q in thai for q in (span(thai, random.Random(n)) for n in range(9))
    )


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("kind", ["cross", "headings", "openings"])
def test_a_question_in_one_language_meets_texts_of_another(data: Path, kind: str) -> None:
    import random

    import contrastive

    groups = list(contrastive.across(contrastive.sections(data), random.Random(0), kind))
    assert groups
    for group in groups:
        other = "en" if group.lang == "de" else "de"
        assert group.query.startswith(other)
        assert all(text.startswith(group.lang) for text in group.texts)
        assert group.query.split()[2] == group.texts[0].split()[2]  # its number


@pytest.mark.usefixtures("recipe")
def test_a_language_is_no_answer_where_every_section_has_its_own(data: Path) -> None:
    import random

    import contrastive

    rows = [
        {"lang": "sv", "query": f"sv heading {i}", "positive": f"sv section {i} " * 5}
        | {"source": "manual", "key": f"k{i}"}
        for i in range(10)
    ]
    _write(data / "train/weak/sv.jsonl.xz", rows)
    groups = list(contrastive.mixed_languages(contrastive.sections(data), random.Random(0)))
    assert groups
    for group in groups:
        assert group.query.split()[-1] == group.texts[0].split()[2]
        assert len({t.split()[2] for t in group.texts}) == len(group.texts)
    of_positives = {(g.lang, g.texts[0][:2]) for g in groups}
    assert len(of_positives) > 3  # a positive's language tells nothing
    assert all(len({t[:2] for t in g.texts}) > 1 for g in groups[:5])


@pytest.mark.usefixtures("recipe")
def test_a_long_passage_is_cut_to_the_sentences_that_share_rare_words() -> None:
    from passages import best_stretch, rarity

    filler = [f"Sentence {i} is about nothing at all and says so." for i in range(40)]
    text = " ".join([*filler[:30], "The zebra crossed the river.", *filler[30:]])
    cut = best_stretch("Where did the zebra go?", text, rarity([text, *filler]))
    assert "zebra" in cut
    assert len(cut.split()) < 120
    assert best_stretch("zebra", "A short text.", {}) == "A short text."


@pytest.mark.usefixtures("recipe")
def test_the_mean_of_two_models_lies_between_them(tiny_model: Path) -> None:

    from mean import mean

    from polyrank.checkpoint import Array, load_checkpoint

    start = load_checkpoint(tiny_model)
    end = replace(start, arrays={n: Array(a.float32() + 1) for n, a in start.arrays.items()})
    between = mean(start, end, 0.6)
    for name, array in start.arrays.items():
        assert between.arrays[name].data == pytest.approx(array.float32() + 0.6, abs=1e-6)


@pytest.mark.usefixtures("recipe")
def test_bm25_counts_a_little_beside_the_teachers_where_a_labelled_group_carries_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distill

    made = (
        Group(query="w10", texts=("w10 w11", "w12", "w13"), scores=(20.0, 0.0, 5.0)),  # BM25
        Group(query="w14", texts=("w15", "w14"), labelled=False, scores=(6.0, -4.0)),  # a teacher
        Group(query="w16", texts=("w17", "w18 w16")),
    )
    objective = distill.WithWords.__new__(distill.WithWords)
    objective._loss = LossConfig(teacher_scale=0.5)
    batch = GroupBatch(batch=None, groups=made)  # what it says is of the groups alone
    mean_S = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    wanted = objective.wanted(mean_S, batch).tolist()
    assert wanted == pytest.approx([2.0, 1.0, 2.5, 3.0, 1.0, 5.0, 6.0])

    write_groups(tmp_path / "words.jsonl", made)
    monkeypatch.setattr(distill, "PARTS", (("words.jsonl", 1.0, 3, 32),))
    given = ["--model", str(tiny_model), "--teacher", str(tiny_model), "--groups", str(tmp_path)]
    given += ["--steps", "2", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["distill", *given])
    distill.main()
    with Reranker(tmp_path / "run/step-000002") as after, Reranker(tiny_model) as before:
        pair = [("w10", "w10 w11")]
        assert 0 < abs(after.logits(pair)[0] - before.logits(pair)[0]) < 0.5


@pytest.mark.usefixtures("recipe")
def test_long_texts_hold_their_passage_among_others_and_are_of_one_length(tiny_model: Path) -> None:
    import random

    from long import FEWEST, MOST, lengthened

    from polyrank.tokenization import PairTokenizer
    from polyrank.training.groups import Group

    rng = random.Random(1)
    passages = [
        " ".join(rng.choices(["sea", "sun", "rain"], k=60)) + f" end{i}" for i in range(120)
    ]
    groups = [
        Group(query=f"q{i}", texts=tuple(passages[i : i + 10]), lang="en", source="s")
        for i in range(0, 120, 10)
    ]
    tokenizer = PairTokenizer.from_folder(tiny_model)
    made = list(lengthened(groups, tokenizer, random.Random(2)))
    longest = max(len(ids) for ids in tokenizer.tokenize(passages))
    own = {g.query: g.texts for g in groups}
    assert len(made) > 5
    for group in made:
        lengths = [len(ids) for ids in tokenizer.tokenize(list(group.texts))]
        assert max(lengths) - min(lengths) < 2 * longest
        assert FEWEST - 3 * longest < min(lengths) <= max(lengths) < MOST + longest
        for n, text in enumerate(group.texts):
            held = [passage for passage in own[group.query] if passage in text.split("\n")]
            assert len(held) == 1  # of the group's own, one a text
            assert n > 0 or held[0] == own[group.query][0]


@pytest.mark.usefixtures("recipe")
def test_groups_come_out_of_their_parcel_as_they_went_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import carry

    from polyrank.training.groups import Group, write_groups

    small = [carry._FILTERS[0] | {"dict_size": 1 << 16}]  # a large window takes memory
    monkeypatch.setattr(carry, "_FILTERS", small)
    (tmp_path / "groups/more").mkdir(parents=True)
    shared = ("Paris\u2028is\nhere.", "Nowhere", "\u5df4\u9ece")
    one = Group(query="where?", texts=shared, lang="en", source="s")
    other = Group(query="\u54ea\u91cc", texts=shared[::-1], labelled=False, scores=(1.0, 2.0, 0.5))
    write_groups(tmp_path / "groups/a.jsonl", [one, other])
    write_groups(tmp_path / "groups/more/a.jsonl", [other])
    carry.pack(tmp_path / "groups", tmp_path / "parcel")
    carry.unpack(tmp_path / "parcel", tmp_path / "again")
    assert list(read_groups(tmp_path / "again/a.jsonl")) == [one, other]
    assert list(read_groups(tmp_path / "again/more/a.jsonl")) == [other]
