"""Pruning a Unigram vocabulary, on one of a few dozen pieces."""

from __future__ import annotations

import json
import lzma
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"
LATIN, GREEK = "abcdefgh", "αβγδεζηθ"
FIRST = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's scripts can be imported."""
    monkeypatch.syspath_prepend(str(RECIPE))


def _pieces(rng: random.Random) -> list[tuple[str, float]]:
    """Characters, then random longer pieces; `q` occurs in `qu` only, `z` in none."""
    longer = {
        start + "".join(rng.choices(script, k=rng.randint(2, 4)))
        for script in (LATIN, GREEK)
        for start in ("", "▁")
        for _ in range(60)
    }
    texts = [*"▁u", *LATIN, *GREEK, *sorted(longer), "qu"]
    # Eighths: reading JSON rounds other fractions in the last bit.
    scores = {text: -rng.randint(24, 72) / 8 - 6 * (len(text) == 1) for text in texts}
    # The least score of all belongs to a piece that every rule but one would drop.
    return [*scores.items(), ("▁hhhhhh", -30.0)]


def _tokenizer(front: list[str], end: list[str]) -> dict[str, Any]:
    """A tokenizer.json in XLM-RoBERTa's form, special tokens at the front and at the end."""
    vocab = [(name, 0.0) for name in front] + _pieces(random.Random(4))
    vocab += [(name, 0.0) for name in end]
    place = {name: i for i, (name, _) in enumerate(vocab)}
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    begin, stop = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    a, b = ({"Sequence": {"id": side, "type_id": 0}} for side in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": place[name], "content": name, "special": True} | flags for name in front + end
        ],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, a, stop],
            "pair": [begin, a, stop, stop, b, stop],
            "special_tokens": {
                name: {"id": name, "ids": [place[name]], "tokens": [name]}
                for name in ("<s>", "</s>")
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "model": {"type": "Unigram", "unk_id": place["<unk>"], "vocab": vocab},
    }


LAYOUTS = {
    "xlm-roberta": (FIRST, ["<mask>"]),
    "unk first, others last": (["<unk>"], ["<s>", "<pad>", "</s>", "<mask>"]),
}


@pytest.fixture(params=LAYOUTS)
def original(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The unpruned tokenizer.json."""
    return _tokenizer(*LAYOUTS[request.param])


def _texts(script: str, count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(script, k=rng.randint(1, 9))) for _ in range(6 * count)]
    return [" ".join(words[6 * i : 6 * i + 6]) for i in range(count)]


def _load(tokenizer: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer))


def _counts(tokenizer: Tokenizer, texts: list[str]) -> Any:
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids]
    return np.bincount(ids, minlength=tokenizer.get_vocab_size())


def _prune(original: dict[str, Any], size: int) -> tuple[Tokenizer, Tokenizer, list[int]]:
    """The original, the pruned one, and the old id of each new one."""
    from pruning import Pieces, choose, compact, prune

    whole = _load(original)
    counts = {
        name: _counts(whole, _texts(script, 200, 1))
        for name, script in (("latin", LATIN), ("greek", GREEK))
    }
    kept = choose(Pieces.of(original), counts, size)
    return whole, Tokenizer.from_str(compact(prune(original, kept))), kept.tolist()


def test_new_ids_are_contiguous_and_each_piece_has_its_old_score(original: dict[str, Any]) -> None:
    whole, pruned, kept = _prune(original, 120)
    assert sorted(pruned.get_vocab().values()) == list(range(120))
    assert [pruned.id_to_token(i) for i in range(120)] == [whole.id_to_token(i) for i in kept]
    vocab = json.loads(pruned.to_str())["model"]["vocab"]
    assert vocab == [list(original["model"]["vocab"][i]) for i in kept]
    # Unigram takes the cost of an <unk> from it.
    assert min(score for _, score in vocab) == -30.0


def test_special_tokens_and_the_pair_template_point_at_their_new_ids(
    original: dict[str, Any],
) -> None:
    _, pruned, _ = _prune(original, 120)
    front = [a["content"] for a in original["added_tokens"] if a["id"] < len(FIRST)]
    if front == FIRST:
        assert [pruned.token_to_id(name) for name in FIRST] == [0, 1, 2, 3]
        assert pruned.token_to_id("<mask>") == 119
    begin, stop = pruned.token_to_id("<s>"), pruned.token_to_id("</s>")
    pair = pruned.encode("a", "b")
    assert (pair.ids[0], pair.ids[-1], pair.ids.count(stop)) == (begin, stop, 3)
    assert pruned.encode("a<mask>b", add_special_tokens=False).ids.count(
        pruned.token_to_id("<mask>")
    )
    unknown = pruned.encode("z", add_special_tokens=False)
    assert unknown.ids[-1] == pruned.token_to_id("<unk>")


def test_no_text_has_an_unk_that_it_did_not_have(original: dict[str, Any]) -> None:
    whole, pruned, _ = _prune(original, 40)
    # The piece `qu` is rare and has a character of its own; `z` was unknown before.
    texts = [*_texts(LATIN + GREEK + "quz", 500, 2), "qu", "aqub", "zz"]
    for text in texts:
        before = whole.encode(text, add_special_tokens=False)
        after = pruned.encode(text, add_special_tokens=False)
        unknown = [
            [o for i, o in zip(e.ids, e.offsets, strict=True) if i == t.token_to_id("<unk>")]
            for t, e in ((whole, before), (pruned, after))
        ]
        assert unknown[0] == unknown[1]
    assert any(whole.token_to_id("<unk>") in whole.encode(text).ids for text in texts)


def test_a_text_of_kept_pieces_is_cut_as_before(original: dict[str, Any]) -> None:
    whole, pruned, kept = _prune(original, 120)
    new = {old: i for i, old in enumerate(kept)}
    same = other = 0
    for text in _texts(LATIN + GREEK + "z", 500, 3):
        before = whole.encode(text).ids
        if all(i in new for i in before):
            assert pruned.encode(text).ids == [new[i] for i in before]
            same += 1
        else:
            assert pruned.encode(text).ids != [new.get(i) for i in before]
            other += 1
    assert same > 20
    assert other > 20


def test_a_small_language_keeps_as_large_a_share_as_a_large_one(original: dict[str, Any]) -> None:
    from pruning import Pieces, choose

    whole = _load(original)
    latin, greek = _texts(LATIN, 2000, 5), _texts(GREEK, 40, 5)
    counts = {"latin": _counts(whole, latin), "greek": _counts(whole, greek)}
    kept = choose(Pieces.of(original), counts, 120)
    shares = [counts[name][kept].sum() / counts[name].sum() for name in ("latin", "greek")]
    assert min(shares) > 0.5
    assert abs(shares[0] - shares[1]) < 0.1


def test_pieces_never_seen_count_where_their_alphabet_is_used(original: dict[str, Any]) -> None:
    from pruning import Pieces, probabilities

    pieces = Pieces.of(original)
    unseen = pieces.texts.index("▁hhhhhh")
    counts = _counts(_load(original), _texts(LATIN, 100, 6))
    assert counts[unseen] == 0
    latin, greek = probabilities(
        pieces, {"latin": counts, "greek": _counts(_load(original), _texts(GREEK, 100, 6))}
    )
    assert latin[unseen] > 0
    assert greek[unseen] == 0


def test_too_few_rows_and_other_models_are_refused(original: dict[str, Any]) -> None:
    from pruning import Pieces

    with pytest.raises(SystemExit, match=r"expected room for 2\d indispensable pieces, got 12"):
        _prune(original, 12)
    with pytest.raises(SystemExit, match="expected a Unigram model"):
        Pieces.of({"model": {"type": "BPE"}})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two languages of text, one of questions with an English passage."""
    folder = tmp_path / "data"
    files = {"text/deu1": LATIN, "text/ell": GREEK}
    for name, script in files.items():
        path = folder / "train" / f"{name}.txt.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(text + "\n" for text in _texts(script, 300, 7))
    row = {"lang": "el", "query": "αβγ", "positive": "abc", "passage_lang": "en"}
    path = folder / "train/qa/source.el.jsonl.xz"
    path.parent.mkdir()
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row | {"query": f"αβ {'γ' * i}"}) + "\n" for i in range(20))
    return folder


def test_counting_goes_on_where_it_stopped_and_keeps_the_halves_apart(
    data: Path, tmp_path: Path
) -> None:
    import vocabulary

    tokenizer = _load(_tokenizer(*LAYOUTS["xlm-roberta"]))
    out = tmp_path / "counts"
    vocabulary.count(data, tokenizer, out)
    assert sorted(p.name for p in out.iterdir()) == [
        "qa.source.el.npz",
        "text.deu1.de.npz",
        "text.ell.el.npz",
    ]
    done = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "text.ell.el.npz").unlink()
    vocabulary.count(data, tokenizer, out)
    again = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert [name for name in done if done[name] != again[name]] == ["text.ell.el.npz"]
    halves = [vocabulary.read_counts(out, half) for half in vocabulary.HALVES]
    texts = _texts(LATIN, 300, 7)
    for half, counts in zip(vocabulary.HALVES, halves, strict=True):
        expected = _counts(tokenizer, [t for t in texts if vocabulary.half_of(t) == half])
        assert np.array_equal(counts["de"], expected)
    # The passages of the Greek questions are English: not counted as Greek.
    greek = halves[0]["el"] + halves[1]["el"]
    assert not greek[[tokenizer.token_to_id(c) for c in LATIN]].any()


def test_the_commands_prune_and_say_what_became_of_every_language(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import vocabulary

    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(_tokenizer(*LAYOUTS["xlm-roberta"])), encoding="utf-8")
    counts, out = str(tmp_path / "counts"), tmp_path / "pruned"
    for command in (
        ["count", "--data", str(data), "--out", counts],
        ["prune", "--counts", counts, "--rows", "150", "--out", str(out)],
        ["check", "--data", str(data), "--pruned", str(out)],
    ):
        monkeypatch.setattr(sys, "argv", ["vocabulary", *command, "--tokenizer", str(file)])
        vocabulary.main()
    report = json.loads((out / "check.json").read_text(encoding="utf-8"))
    whole, pruned = Tokenizer.from_file(str(file)), Tokenizer.from_file(str(out / "tokenizer.json"))
    kept = set(np.load(out / "kept.npy").tolist())
    texts = [t for t in _texts(LATIN, 300, 7) if vocabulary.half_of(t) == "verify"]
    before = [whole.encode(t, add_special_tokens=False).ids for t in texts]
    after = [pruned.encode(t, add_special_tokens=False).ids for t in texts]
    tokens = sum(map(len, before))
    assert report["de"] == {
        "tokens": tokens,
        "kept": pytest.approx(sum(i in kept for ids in before for i in ids) / tokens),
        "growth": pytest.approx(sum(map(len, after)) / tokens - 1),
        "unknown": 0,
        "unknown_after": 0,
        "unchanged": pytest.approx(sum(kept.issuperset(ids) for ids in before) / len(texts)),
    }
    assert 0 < report["de"]["unchanged"] < 1
    assert report["de"]["growth"] > 0
    assert list(report) == sorted(report, key=lambda lang: report[lang]["kept"])
    assert "| de |" in capsys.readouterr().out
