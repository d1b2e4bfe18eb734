"""The XLM-RoBERTa vocabulary in another order: frequent pieces first, then by their bytes.

    python recipes/polyrank_mini/vocabulary.py count --data DATA --tokenizer tokenizer.json \
        --out vocabulary/counts
    python recipes/polyrank_mini/vocabulary.py arrange --counts vocabulary/counts \
        --tokenizer tokenizer.json --out vocabulary

No piece is left out, and every text is cut as before. `arrange` writes tokenizer.json, order.npy
(the old id of each new one, by which the embedding table is sorted) and rare.npy (which of the
new rows are rare in every language, so that fewer bits do).

By bytes, because `tokenizers` builds its trie in the order of the pieces, and neighbours that share
a prefix halve the time that this takes.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from languages import MGTE, XLMR, language
from sources import rows
from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]
WEIGHED = {*MGTE, *XLMR, "zh-Hant"}
TEXTS_AT_ONCE = 2000
LEAST_TOKENS = 5000  # a language counted less says nothing of its rare pieces
FREQUENT = 92_000
ROUNDS = 40


def source_files(data: Path) -> list[Path]:
    """Every training file with text, by folder and name."""
    folders = ("text", "qa", "weak")
    return [p for folder in folders for p in sorted((data / "train" / folder).glob("*.xz"))]


def language_of(path: Path) -> str:
    """Language of `LANGUAGE.txt.xz`, `LANGUAGE.jsonl.xz` or `SOURCE.LANGUAGE.jsonl.xz`."""
    return language(path.name.split(".")[-3])


def texts_of(path: Path) -> Iterator[str]:
    """Lines of a text file; queries, titles and passages in the file's language of another."""
    if path.name.endswith(".txt.xz"):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)
        return
    for row in rows(path):
        yield row["query"]
        if row.get("passage_lang", row["lang"]) == row["lang"]:
            yield row["positive"]
            yield row.get("title", "")


def count_pieces(tokenizer: Tokenizer, path: Path) -> Ids:
    """[V] how often each piece occurs in a file."""
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    texts = texts_of(path)
    while batch := list(islice(texts, TEXTS_AT_ONCE)):
        for encoded in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            np.add.at(counts, encoded.ids, 1)
    return counts


def count(data: Path, tokenizer: Tokenizer, out: Path) -> None:
    """Write counts of every file; those that are there already are left as they are."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source_files(data):
        target = out / f"{path.parent.name}.{path.name.split('.', 1)[0]}.{language_of(path)}.npz"
        if not target.exists():
            partial = target.with_suffix(".part")
            with partial.open("wb") as file:
                np.savez_compressed(file, counts=count_pieces(tokenizer, path))
            partial.replace(target)
            print(target.name, flush=True)


def read_counts(folder: Path) -> dict[str, Ids]:
    """Counts by language, summed over files."""
    found: dict[str, Ids] = {}
    for path in sorted(folder.glob("*.npz")):
        lang = path.name.split(".")[-2]
        found[lang] = found.get(lang, 0) + np.load(path)["counts"]
    if not found:
        raise SystemExit(f"expected counts in {folder}, found none; run `count` first")
    return found


def frequent(counts: Mapping[str, Ids], size: int) -> npt.NDArray[np.bool_]:
    """[V] the `size` pieces that lose least of every language's running tokens.

    Seeks the least sum over languages of (share lost)^2: a language weighs as much as it loses.
    """
    seen = [c / c.sum() for c in counts.values() if c.sum() >= LEAST_TOKENS]
    if not seen:
        raise SystemExit(f"expected a language with {LEAST_TOKENS} tokens or more, got none")
    shares_LV = np.stack(seen)
    weights_L = np.ones(len(seen))
    best, least = np.empty(0, np.int64), np.inf
    for _ in range(ROUNDS):
        chosen = np.argsort(-(weights_L @ shares_LV), kind="stable")[:size]
        lost_L = 1 - shares_LV[:, chosen].sum(axis=1)
        if (total := float(lost_L @ lost_L)) < least:
            best, least = chosen, total
        # The root damps: a language that weighed too much must not weigh too little next.
        weights_L = np.sqrt(weights_L * lost_L / max(lost_L.mean(), 1e-12))
    return np.isin(np.arange(shares_LV.shape[1]), best)


def arrangement(tokenizer: Mapping[str, Any], often: npt.NDArray[np.bool_]) -> Ids:
    """[V] the old id of each new one; special tokens stay where they were, at front and end."""
    pieces = [text for text, _ in tokenizer["model"]["vocab"]]
    special = sorted(added["id"] for added in tokenizer["added_tokens"])
    front = [i for n, i in enumerate(special) if i == n]
    end = [i for i in special if i not in front]
    ordinary = sorted(set(range(len(pieces))).difference(special))
    ordered = sorted(ordinary, key=lambda i: (not often[i], pieces[i].encode("utf-8")))
    return np.array([*front, *ordered, *end])


def rearranged(tokenizer: Mapping[str, Any], order: Ids) -> dict[str, Any]:
    """A tokenizer.json with the same pieces under other ids.

    Scores keep all their digits: rounded ones decide differently between cuts that are equally
    good, as of `....` (51 of 317,000 texts).
    """
    new = {old: i for i, old in enumerate(order.tolist())}
    model = dict(tokenizer["model"])
    model["vocab"] = [model["vocab"][old] for old in new]
    model["unk_id"] = new[model["unk_id"]]
    changed = {**tokenizer, "model": model}
    changed["added_tokens"] = [{**a, "id": new[a["id"]]} for a in tokenizer["added_tokens"]]
    template = dict(tokenizer["post_processor"])
    template["special_tokens"] = {
        name: {**token, "ids": [new[old] for old in token["ids"]]}
        for name, token in template["special_tokens"].items()
    }
    return changed | {"post_processor": template}


def arrange(original: Path, counts: Path, out: Path) -> None:
    """Write tokenizer.json, order.npy and rare.npy."""
    tokenizer = json.loads(original.read_text(encoding="utf-8"))
    weighed = {k: v for k, v in read_counts(counts).items() if k in WEIGHED}
    often = frequent(weighed, FREQUENT)
    order = arrangement(tokenizer, often)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "order.npy", order)
    special = {added["id"] for added in tokenizer["added_tokens"]}
    rare = ~often[order] & ~np.isin(order, list(special))
    np.save(out / "rare.npy", rare)
    text = json.dumps(rearranged(tokenizer, order), ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    print(f"{len(order)} pieces, {int(rare.sum())} of them rare")


def main() -> None:
    """Read the arguments; count or arrange."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("count", "arrange"):
        command = commands.add_parser(name)
        command.add_argument("--tokenizer", type=Path, required=True, help="the original's file")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--data" if name == "count" else "--counts", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "count":
        count(args.data, Tokenizer.from_file(str(args.tokenizer)), args.out)
    else:
        arrange(args.tokenizer, args.counts, args.out)


if __name__ == "__main__":
    main()
