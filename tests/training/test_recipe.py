"""The recipe of the shipped model, on a data folder of a few lines."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.training.groups import Group, parse_group, write_groups
from polyrank.training.readers import read_groups

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
    groups = [
        g
        for name in ("qa", "short", "weak", "cross", "headings", "openings")
        for g in read_groups(out / f"{name}.jsonl")
    ]
    assert not any(leaks((g.query, *g.texts), forbidden) for g in groups)
    # Thing 5 is the positive of one group and a negative of others.
    assert not any("Thing 5" in text for g in groups for text in g.texts)
    assert "left out 0" not in capsys.readouterr().out.split("qa: ")[1]
    assert {g.source for g in groups} == {"open", "manual"}


@pytest.mark.usefixtures("recipe")
def test_a_passage_judged_wrong_is_the_first_negative(data: Path) -> None:
    import random

    import contrastive

    drawn = {g.query: g for g in contrastive.questions(data, random.Random(0), 99)}
    assert drawn["what is thing 3 of open"].texts[:2] == ("Thing 3 is open.", "judged wrong")


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
    from dataclasses import replace

    from mean import mean

    from polyrank.checkpoint import Array, load_checkpoint

    start = load_checkpoint(tiny_model)
    end = replace(start, arrays={n: Array(a.float32() + 1) for n, a in start.arrays.items()})
    between = mean(start, end, 0.6)
    for name, array in start.arrays.items():
        assert between.arrays[name].data == pytest.approx(array.float32() + 0.6, abs=1e-6)


@pytest.mark.usefixtures("recipe")
def test_a_group_is_scored_by_the_mean_of_its_teachers_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ensemble

    texts = ("A pump moves water.", "Cats sleep.")
    made = [
        Group(query=f"what does pump {n} move", texts=texts, scores=(4.0, -6.0) if n % 2 else None)
        for n in range(6)
    ]
    write_groups(tmp_path / "qa.jsonl", made)
    monkeypatch.setattr(ensemble, "ENSEMBLE_PARTS", (("qa.jsonl", 1.0, 2, 64),))
    out = tmp_path / "scored"
    given = ["--groups", str(tmp_path), "--draws", "6", "--out", str(out)]
    two = ["--model", "polyrank-mini", "--model", "polyrank-mini"]
    monkeypatch.setattr(sys, "argv", ["ensemble", *given, *two])
    ensemble.main()
    written = (out / "qa.jsonl").read_bytes()
    with Reranker() as mini:
        for line in written.splitlines():
            group = parse_group(line, "qa.jsonl")
            wanted = mini.logits([(group.query, text) for text in group.texts])
            if int(group.query.split()[3]) % 2:
                wanted = (wanted + np.array([2.0, -3.0])) / 2
            np.testing.assert_allclose(group.scores, wanted, atol=1e-3)
    (out / "qa.jsonl").write_bytes(b"".join(written.splitlines(keepends=True)[:4]))
    ensemble.main()
    assert (out / "qa.jsonl").read_bytes() == written


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
    (tmp_path / "groups").mkdir()
    shared = ("Paris\u2028is\nhere.", "Nowhere", "\u5df4\u9ece")
    one = Group(query="where?", texts=shared, lang="en", source="s")
    other = Group(query="\u54ea\u91cc", texts=shared[::-1], labelled=False, scores=(1.0, 2.0, 0.5))
    write_groups(tmp_path / "groups/a.jsonl", [one, other])
    write_groups(tmp_path / "groups/b.jsonl", [other])
    carry.pack(tmp_path / "groups", tmp_path / "parcel")
    carry.unpack(tmp_path / "parcel", tmp_path / "again")
    assert list(read_groups(tmp_path / "again/a.jsonl")) == [one, other]
    assert list(read_groups(tmp_path / "again/b.jsonl")) == [other]
