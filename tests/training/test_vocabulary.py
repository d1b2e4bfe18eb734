"""The vocabulary in another order: the same cuts, other ids; and rows in fewer steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "\u2581",
    "a",
    "b",
    "c",
    "ab",
    "\u2581b",
    "\u2581ab",
    "bc",
]
SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": len(PIECES)}
TEXTS = ["ab bc", "abc abc", "cab", "b a", "ab ab x bc"]


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's scripts can be imported."""
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A small Unigram tokenizer with the template of XLM-RoBERTa."""
    scores = [0.0] * 4 + [-float(n) for n in range(1, len(PIECES) - 3)] + [0.0]
    model = models.Unigram(list(zip([*PIECES, "<mask>"], scores, strict=True)), unk_id=3)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    path = tmp_path / "original.json"
    tokenizer.save(str(path))
    return path


def arranged(original: Path, often: list[str]) -> tuple[dict[str, Any], np.ndarray]:
    import vocabulary

    tokenizer = json.loads(original.read_text(encoding="utf-8"))
    order = vocabulary.arrangement(tokenizer, np.isin([*PIECES, "<mask>"], often))
    return vocabulary.rearranged(tokenizer, order), order


def test_every_text_is_cut_as_before_under_other_ids(original: Path) -> None:
    changed, order = arranged(original, ["c", "bc"])
    before, after = Tokenizer.from_file(str(original)), Tokenizer.from_str(json.dumps(changed))
    assert sorted(order) == list(range(len(PIECES) + 1))
    assert order.tolist() != sorted(order)
    for text in TEXTS:
        old, new = before.encode(text, "ab"), after.encode(text, "ab")
        assert new.tokens == old.tokens
        assert order[new.ids].tolist() == old.ids


def test_special_tokens_stay_frequent_pieces_come_first_and_all_go_by_their_bytes(
    original: Path,
) -> None:
    _, order = arranged(original, ["c", "bc"])
    names = [[*PIECES, "<mask>"][i] for i in order]
    assert names[:6] == ["<s>", "<pad>", "</s>", "<unk>", "bc", "c"]
    assert names[6:-1] == sorted(names[6:-1], key=lambda n: n.encode())
    assert names[-1] == "<mask>"


def test_no_language_pays_for_another() -> None:
    from vocabulary import frequent

    large = np.array([5000, 3000, 1500, 500, 0, 0])
    small = np.array([0, 0, 0, 0, 4000, 2000])
    uncounted = np.array([0, 0, 0, 50, 0, 0])
    found = frequent({"xx": large, "yy": small, "zz": uncounted}, 4)
    assert found.tolist() == [True, True, False, False, True, True]


def test_counts_go_on_where_they_stopped(original: Path, tmp_path: Path) -> None:
    import lzma

    import vocabulary

    folder = tmp_path / "train/text"
    folder.mkdir(parents=True)
    for name in ("deu", "deu1"):
        with lzma.open(folder / f"{name}.txt.xz", "wt", encoding="utf-8") as file:
            file.write("ab bc\nab\n")
    tokenizer = Tokenizer.from_file(str(original))
    vocabulary.count(tmp_path, tokenizer, tmp_path / "counts")
    (tmp_path / "counts" / "text.deu1.de.npz").unlink()
    vocabulary.count(tmp_path, tokenizer, tmp_path / "counts")
    (counts,) = vocabulary.read_counts(tmp_path / "counts").values()
    assert counts.sum() == 2 * sum(
        len(tokenizer.encode(t, add_special_tokens=False)) for t in ("ab bc", "ab")
    )


def test_coarser_rows_keep_each_blocks_largest_value_and_a_quarter_of_its_steps() -> None:
    from package import coarser

    from polyrank.checkpoint import quantize_int4

    rows = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    found = coarser(rows)
    blocks = found.reshape(50, 2, 32)
    assert max(len(np.unique(block)) for row in blocks for block in row) == 4
    largest = np.abs(rows.reshape(50, 2, 32)).max(axis=2)
    np.testing.assert_allclose(np.abs(blocks).max(axis=2), largest, rtol=1e-3)
    packed, _ = quantize_int4(found)
    assert set(np.unique(packed & 15)) <= {0, 4, 8, 12}
