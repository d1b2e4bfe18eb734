"""Readers, groups files and mixtures."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path

import pytest

from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer
from polyrank.training.batches import pack_groups
from polyrank.training.buckets import BucketedMixture
from polyrank.training.groups import BadLines, Group, GroupFile, write_groups
from polyrank.training.readers import (
    read_beir,
    read_groups,
    read_labelled,
    read_pairs,
    read_texts,
    read_triples,
)
from polyrank.training.sampling import Mixture, Part
from training.matching import matching_groups


def test_a_group_comes_back_from_its_line(tmp_path: Path) -> None:
    groups = [
        Group(query="q", texts=("a", "b"), lang="de", source="s"),
        Group(query="q", texts=("a",), labelled=False, scores=(1.5,)),
    ]
    assert write_groups(tmp_path / "g.jsonl", groups) == 2
    assert list(read_groups(tmp_path / "g.jsonl")) == groups


def test_bad_lines_are_left_out_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    good = Group(query="q", texts=("a",)).to_json()
    lines = [good, "{", '{"query": "", "texts": ["a"]}', '{"query": "q", "texts": []}', "", good]
    lines.append('{"query": "q", "texts": ["a"], "scores": [1, 2]}')
    lines += [r'{"query": "q", "texts": ["\ud83d"]}', "[" * 100_000]
    path.write_text("\n".join(lines), encoding="utf-8")
    file = GroupFile(path)
    assert len(file) == 2
    assert file.bad.count == 6
    assert f"{path}:2" in file.bad.first[0]
    assert "expected `scores`, one for each of 1 texts" in file.bad.first[3]
    assert f"expected valid Unicode at {path}:8, got a lone surrogate" in file.bad.first[4]
    assert f"expected JSON at {path}:9" in file.bad.first[5]


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(r'{"query": "\ud83d\ude00", "positive": "p"}' + "\n")
    assert next(read_pairs(tmp_path / "p.jsonl")).query == "😀"


def test_a_language_that_is_null_is_none(tmp_path: Path) -> None:
    lines = ['{"query": "q", "positive": "p", "lang": null, "source": null}']
    lines.append('{"query": "q", "texts": ["p"], "lang": null, "source": null}')
    (tmp_path / "g.jsonl").write_text("\n".join(lines))
    assert [(g.lang, g.source) for g in read_labelled(tmp_path / "g.jsonl")] == [("", "")] * 2


def test_a_compressed_file_has_no_random_access(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a plain \.jsonl file of groups, .*unpack it"):
        GroupFile(tmp_path / "g.jsonl.xz")


def test_a_file_without_a_group_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text("nothing\n")
    with pytest.raises(InputError, match="expected at least one group"):
        GroupFile(tmp_path / "g.jsonl")


def test_pairs_are_read_from_compressed_files(tmp_path: Path) -> None:
    row = {"query": "q", "positive": "p", "title": "T", "negatives": ["n", "n"], "lang": "ja"}
    path = tmp_path / "pairs.jsonl.xz"
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n" + '{"query": "q"}\n')
    bad = BadLines()
    assert list(read_pairs(path, bad)) == [Group(query="q", texts=("T p", "n"), lang="ja")]
    assert bad.count == 1
    assert "'positive'" in bad.first[0]


def test_a_bad_line_raises_where_nobody_counts(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": 3}\n')
    with pytest.raises(InputError, match=r"pairs\.jsonl:1"):
        list(read_pairs(tmp_path / "pairs.jsonl"))


def test_triples_of_one_positive_become_one_group(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("q\tp\tn1\nq\tp\tn2\nr\tp\tn1\nbroken\n")
    bad = BadLines()
    first, second = read_triples(tmp_path / "t.tsv", bad)
    assert first.texts == ("p", "n1", "n2")
    assert second.query == "r"
    assert bad.first == (
        f"expected query, positive and negative between tabs at {tmp_path / 't.tsv'}:4, got 1 "
        "columns",
    )


def test_a_beir_folder_gives_a_group_for_each_positive(tmp_path: Path) -> None:
    corpus = [{"_id": str(i), "title": "T" if i == 0 else "", "text": f"t{i}"} for i in range(3)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "q"}')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\na\t0\t1\na\t1\t0\n")
    assert list(read_beir(tmp_path)) == [Group(query="q", texts=("T t0", "t1"))]
    (tmp_path / "qrels/train.tsv").write_text("a\t9\t1\na\t1\t1\n")
    with pytest.raises(InputError, match="expected the id '9'"):
        list(read_beir(tmp_path))
    bad = BadLines()
    assert list(read_beir(tmp_path, bad=bad)) == [Group(query="q", texts=("t1",))]
    assert bad.count == 1


def test_a_beir_folder_as_others_write_it(tmp_path: Path) -> None:
    corpus = [
        {"_id": 1, "title": "only a title", "text": ""},
        {"_id": "b c", "text": "same"},
        {"_id": "d", "text": "same"},
        {"_id": "e", "text": "no"},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text('{"_id": 7, "text": "q"}')
    rows = ["7\t1\t1", "7\tb c\t1", "7\td\t0", "7\te\t0"]
    (tmp_path / "qrels.tsv").write_text("\n".join(rows))
    assert [g.texts for g in read_beir(tmp_path)] == [("only a title", "no"), ("same", "no")]


def test_labelled_files_are_told_by_their_looks(tmp_path: Path) -> None:
    lines = ['{"query": "q", "positive": "p"}', '{"query": "r", "texts": ["p", "n"]}']
    lines.append('{"query": "s", "texts": ["a", "b"], "scores": [1, 2]}')
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines))
    bad = BadLines()
    groups = list(read_labelled(tmp_path / "mixed.jsonl", bad=bad))
    assert [(g.query, g.texts) for g in groups] == [("q", ("p",)), ("r", ("p", "n"))]
    assert "first text is the positive" in bad.first[0]  # a teacher's order has no positive
    with lzma.open(tmp_path / "t.tsv.xz", "wt") as file:
        file.write("q\tp\tn\n")
    assert next(read_labelled(tmp_path / "t.tsv.xz")).texts == ("p", "n")


def test_texts_are_lines_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two\n")
    (tmp_path / "a.jsonl").write_text('{"title": "T", "text": "one"}\n{"text": ""}\n')
    (tmp_path / "a.json.txt").write_text("{ no json\n")
    assert list(read_texts(tmp_path / "a.json.txt")) == ["{ no json"]
    (tmp_path / "a.NDJSON").write_text('{"title": " ", "text": "two"}\n')
    assert list(read_texts(tmp_path / "a.NDJSON")) == ["two"]
    bad = BadLines()
    assert list(read_texts(tmp_path / "a.txt")) == ["one", "two"]
    assert list(read_texts(tmp_path / "a.jsonl", bad)) == ["T one"]
    assert bad.count == 1


def test_lines_that_are_not_utf8_are_bad_lines(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(
        b'\xef\xbb\xbf{"query": "q", "positive": "p"}\n{"query": "\xff", "positive": "p"}\n'
    )
    bad = BadLines()
    assert [g.query for g in read_pairs(tmp_path / "p.jsonl", bad)] == ["q"]
    assert bad.first == (f"expected UTF-8, got the byte 0xff at {tmp_path / 'p.jsonl'}:2",)


def test_a_compressed_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    packed = lzma.compress(b'{"query": "q", "positive": "p"}\n' * 50_000)
    (tmp_path / "p.jsonl.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="expected a whole compressed file"):
        list(read_pairs(tmp_path / "p.jsonl.xz", BadLines()))


def test_a_score_that_is_no_number_is_a_bad_line(tmp_path: Path) -> None:
    for score in ("null", "NaN", "1e999", "true", "1" + "0" * 400):
        line = f'{{"query": "q", "texts": ["a"], "scores": [{score}]}}\n'
        (tmp_path / "g.jsonl").write_text(line)
        with pytest.raises(InputError, match="expected finite numbers in `scores`"):
            list(read_groups(tmp_path / "g.jsonl"))
    rows = [f'{{"query": "q", "texts": ["a"], "labelled": {x}}}' for x in ("null", "0", "1")]
    (tmp_path / "g.jsonl").write_text("\n".join(rows))
    assert [g.labelled for g in read_groups(tmp_path / "g.jsonl")] == [True, False, True]
    (tmp_path / "g.jsonl").write_text('{"query": "q", "texts": ["a"], "labelled": "false"}\n')
    with pytest.raises(InputError, match=r"`labelled` as true or false at .* got 'false'"):
        list(read_groups(tmp_path / "g.jsonl"))


def _languages(tmp_path: Path) -> GroupFile:
    many = matching_groups(900, seed=0, lang="en")
    few = matching_groups(100, seed=1, lang="sw")
    write_groups(tmp_path / "g.jsonl", [*many, *few])
    return GroupFile(tmp_path / "g.jsonl")


def test_languages_are_drawn_by_the_root_of_their_size(tmp_path: Path) -> None:
    mixture = Mixture([Part(file=_languages(tmp_path))], seed=0)
    assert mixture.shares() == pytest.approx({("g.jsonl", "en"): 0.75, ("g.jsonl", "sw"): 0.25})
    drawn = Counter(mixture.draw(i)[0].lang for i in range(2000))
    assert drawn["sw"] / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_step_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    file = _languages(tmp_path)
    walked = Mixture([Part(file=file)], seed=5)
    steps = [walked.step(s, 8) for s in range(600)]
    jumped = Mixture([Part(file=file)], seed=5)
    assert jumped.step(599, 8) == steps[599]
    assert jumped.step(0, 8) == steps[0]
    assert Mixture([Part(file=file)], seed=6).step(0, 8) != steps[0]


def test_every_group_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    write_groups(tmp_path / "g.jsonl", [Group(query=f"q{i}", texts=("a",)) for i in range(50)])
    mixture = Mixture([Part(file=GroupFile(tmp_path / "g.jsonl"))], seed=0)
    drawn = [mixture.draw(i)[0].query for i in range(100)]
    assert len(set(drawn[:50])) == 50
    assert len(set(drawn[50:])) == 50
    assert drawn[:50] != drawn[50:]


def test_a_sampled_group_keeps_its_positive_and_its_scores(tmp_path: Path) -> None:
    texts = tuple("abcdefgh")
    rows = [Group(query="labelled", texts=texts)]
    rows.append(Group(query="scored", texts=texts, labelled=False, scores=tuple(range(8))))
    write_groups(tmp_path / "g.jsonl", rows)
    part = Part(file=GroupFile(tmp_path / "g.jsonl"), group_size=3)
    for number in range(40):
        group, _ = Mixture([part], seed=0).draw(number)
        assert len(group.texts) == 3
        if group.labelled:
            assert group.texts[0] == "a"
        else:
            assert group.scores == tuple(float(texts.index(t)) for t in group.texts)


def test_batches_hold_whole_groups_under_the_budget(tmp_path: Path, encoder_folder: Path) -> None:
    tokenizer = PairTokenizer.from_folder(encoder_folder)
    file = _languages(tmp_path)
    drawn = Mixture([Part(file=file, max_length=8)], seed=0).step(0, 20)
    batches = pack_groups(drawn, tokenizer, 100)
    assert sum(len(b.groups) for b in batches) == 20
    for batch in batches:
        assert batch.tokens <= 100
        assert sum(batch.sizes) == len(batch.batch.cu_lengths) - 1
        assert batch.batch.lengths.max() <= 8


def test_a_group_over_the_budget_runs_alone(tmp_path: Path, encoder_folder: Path) -> None:
    tokenizer = PairTokenizer.from_folder(encoder_folder)
    drawn = Mixture([Part(file=_languages(tmp_path))], seed=0).step(0, 3)
    assert [len(b.groups) for b in pack_groups(drawn, tokenizer, 1)] == [1, 1, 1]


def _lengths(tmp_path: Path) -> Part:
    short = [Group(query=f"short {i}", texts=("a" * 40, "b")) for i in range(300)]
    long = [Group(query=f"long {i}", texts=("a" * 9000, "b" * 9000)) for i in range(100)]
    write_groups(tmp_path / "lengths.jsonl", [*short, *long])
    return Part(file=GroupFile(tmp_path / "lengths.jsonl"))


def test_a_step_draws_from_one_bucket_and_takes_as_many_as_it_says(tmp_path: Path) -> None:
    mixture = BucketedMixture([_lengths(tmp_path)], [(500, 12), (2000, 6), (4000, 4)], seed=0)
    steps = [[group.query.split()[0] for group, _ in mixture.step(s)] for s in range(400)]
    assert all(step in (["short"] * 12, ["long"] * 4) for step in steps)
    # 300 groups by twelves and 100 by fours: as many steps of each.
    assert [step[0] for step in steps].count("long") == pytest.approx(200, abs=40)
    assert mixture.step(7) == mixture.step(7)


def test_a_buckets_steps_go_on_across_blocks(tmp_path: Path) -> None:
    part = _lengths(tmp_path)
    mixture = BucketedMixture([part], [(500, 3), (4000, 1)], seed=0)
    seen: dict[str, list[str]] = {"short": [], "long": []}
    for step in range(1000, 1100):
        for group, _ in mixture.step(step):
            seen[group.query.split()[0]].append(group.query)
    jumped = BucketedMixture([part], [(500, 3), (4000, 1)], seed=0)
    assert [g for g, _ in jumped.step(1099)] == [g for g, _ in mixture.step(1099)]
    # Rows come once before any comes twice, also where a block of steps ends.
    assert len(set(seen["short"][:100])) > 90


def test_buckets_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected buckets of rising lengths"):
        BucketedMixture([_lengths(tmp_path)], [(500, 3), (400, 1)], seed=0)
