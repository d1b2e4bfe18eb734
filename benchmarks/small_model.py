"""The embedded model beside FlashRank and a MiniLM: 100 passages of 150 tokens, in seconds.

    python benchmarks/small_model.py --text sentences.txt --minilm FOLDER --rounds 9

`--text`: a text file of one sentence or paragraph a line, or a folder of them, one a language, .xz
or not. 100 passages are put together from it, each of 150 tokens as the embedded model counts them;
the tokens that each model reads of them are reported.

`--minilm`: a folder with an English MiniLM-L12 as `model.onnx` (dynamic int8) and its
`tokenizer.json`. FlashRank's own copy of this network is on a hub; its `Ranker` reads any that lies
where it would have put its own, so its code runs on this one. `--reference`: the checkpoint that
the embedded model was made from, whose ranking it must give; without it, it is compared with
itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import turns
import workload

PASSAGES = 100
TOKENS = 150
QUERY_TOKENS = 10
FLASHRANK = "ms-marco-MiniLM-L-12-v2"
EMBEDDED, REFERENCE = "polyrank, embedded model", "polyrank, reference in PyTorch fp32"
PADDED, SORTED = "MiniLM in ONNX Runtime, one padded batch", "MiniLM in ONNX Runtime, sorted by 16"
FLASHRANK_NAME = "FlashRank on the MiniLM"


def embedded(folder: str) -> turns.Score:
    """What `Reranker()` opens, with its defaults."""
    from polyrank import Reranker

    return Reranker(folder).logits


def reference(folder: str) -> turns.Score:
    """The network that the embedded model was made from."""
    from polyrank import Reranker

    return Reranker(folder, backend="torch", device="cpu", dtype="fp32").logits


def flashrank(folder: str) -> turns.Score:
    """FlashRank's Ranker, which pads all passages to the longest and runs them as one batch."""
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    cache = Path(tempfile.gettempdir()) / "polyrank-flashrank"
    model = cache / FLASHRANK
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    for file in Path(folder).iterdir():
        (model / file.name).symlink_to(file.resolve())
    (model / model_file_map[FLASHRANK]).symlink_to(Path(folder, "model.onnx").resolve())
    (model / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    ranker = Ranker(FLASHRANK, cache_dir=str(cache), log_level="WARNING")

    def score(pairs: list[tuple[str, str]]) -> Any:
        passages = [{"id": n, "text": text} for n, (_, text) in enumerate(pairs)]
        scores = np.empty(len(pairs))
        for passage in ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages)):
            scores[passage["id"]] = passage["score"]
        return np.log(scores / (1 - scores))

    return score


def minilm(folder: str, size: int) -> turns.Score:
    """Sorted by tokens, batches of `size`, padded to their longest."""
    import onnxruntime as ort

    session = ort.InferenceSession(Path(folder, "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    tokenizer.enable_truncation(512)
    tokenizer.no_padding()

    def score(pairs: list[tuple[str, str]]) -> Any:
        encodings = tokenizer.encode_batch(pairs)
        order = sorted(range(len(pairs)), key=lambda i: len(encodings[i]))
        logits = np.empty(len(pairs))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            logits[part] = session.run(None, _padded([encodings[i] for i in part]))[0][:, 0]
        return logits

    return score


def _padded(encodings: list[Any]) -> dict[str, Any]:
    shape = len(encodings), max(map(len, encodings))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {name: np.zeros(shape, np.int64) for name in names}
    for row, encoding in enumerate(encodings):
        for name, field in names.items():
            inputs[name][row, : len(encoding)] = getattr(encoding, field)
    return inputs


CONTENDERS: dict[str, Callable[[str], turns.Score]] = {
    EMBEDDED: embedded,
    REFERENCE: reference,
    FLASHRANK_NAME: flashrank,
    PADDED: lambda folder: minilm(folder, PASSAGES),
    SORTED: lambda folder: minilm(folder, 16),
}


def sample(source: Path, tokenizer: Tokenizer, count: int) -> list[tuple[str, str]]:
    """A query with `count` passages of text, which take turns among the files of `source`."""
    files = sorted(source.glob("*.txt*")) if source.is_dir() else [source]
    if not files:
        raise SystemExit(f"expected text files in {source}, found none")
    chosen = [
        files[n * len(files) // min(count, len(files))] for n in range(min(count, len(files)))
    ]
    streams = [_lines(file) for file in chosen]
    turn = itertools.islice(itertools.cycle(streams), count)
    passages = [_cut(stream, tokenizer, TOKENS) for stream in turn]
    query = _cut(_lines(chosen[0]), tokenizer, QUERY_TOKENS)
    return [(query, passage) for passage in passages]


def _lines(file: Path) -> Iterator[str]:
    read = lzma.open if file.suffix == ".xz" else open
    with read(file, "rt", encoding="utf-8") as stream:
        yield from (line.strip() for line in stream if line.strip())


def _cut(lines: Iterable[str], tokenizer: Tokenizer, tokens: int) -> str:
    """As many lines as it takes, ended after `tokens` tokens."""
    text = ""
    for line in lines:
        text = f"{text} {line}".lstrip()
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) >= tokens:
            return text[: offsets[tokens - 1][1]]
    raise SystemExit(f"expected at least {tokens} tokens of text, the file ends after {text!r}")


def main() -> None:
    args = _arguments()
    if args.contender:
        load = CONTENDERS[args.contender]
        return turns.serve(lambda: load(str(args.folder)), workload.peak_rss_gb)
    folder = args.model or _embedded_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pairs = sample(args.text, tokenizer, args.passages)
    folders = {EMBEDDED: folder, REFERENCE: args.reference}
    folders |= dict.fromkeys((FLASHRANK_NAME, PADDED, SORTED), args.minilm)
    like = {EMBEDDED: REFERENCE if args.reference else EMBEDDED, REFERENCE: REFERENCE}
    contenders = [
        turns.Contender(Path(__file__), name, at, like=like.get(name, PADDED))
        for name, at in folders.items()
        if at is not None
    ]
    try:
        rows = turns.race(contenders, pairs, args.rounds)
    finally:
        for contender in contenders:
            contender.end()
    for row in rows:
        row["tokens"] = _tokens(folders[row["contender"]], pairs)
        row["tokens_per_s"] = row["tokens"] / row["median_s"]
    print(f"{len(pairs)} passages, {sum(len(text) for _, text in pairs)} characters\n")
    print(_table(rows))
    if args.output:
        about = {"command": " ".join(sys.argv), "passages": len(pairs), "rows": rows}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(about, indent=1) + "\n")


def _embedded_folder() -> Path:
    from polyrank.models import find_model

    return find_model(None).path


def _tokens(folder: Path, pairs: list[tuple[str, str]]) -> int:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    return sum(len(e) for e in tokenizer.encode_batch(pairs))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| contender | median s | tokens | tokens/s | peak GB | tau | largest diff |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['contender']} | {r['median_s']:.3f} | {r['tokens']} | {r['tokens_per_s']:.0f} | "
        f"{r['peak_gb']:.2f} | {turns.agreement(r)} | {r['largest_difference']:.1e} |"
        for r in rows
    ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help="a text file, or a folder of them")
    parser.add_argument("--model", type=Path, help="in place of the embedded model")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--passages", type=int, default=PASSAGES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not args.contender and args.text is None:
        parser.error("expected --text FILE or FOLDER")
    return args


if __name__ == "__main__":
    main()
