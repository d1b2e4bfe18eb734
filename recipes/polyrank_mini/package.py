"""The trained reranker as the package carries it: 4-bit table, int8 layers, pieces rearranged.

    python recipes/polyrank_mini/package.py --model mean --vocabulary vocabulary \
        --groups groups/qa.jsonl --out src/polyrank/embedded/polyrank-mini

`--vocabulary` is what `vocabulary.py` wrote, or a folder that this script wrote before: what learns
is the layers, so table and tokenizer can stay. The table has 16 steps a value, the seed's own. Rows
of pieces that are rare in every language are rounded to 4 of these steps: the format is the same,
and the wheel smaller. At last the logits of real pairs, the first of `--groups`, are compared with
the trained network's.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyrank import Reranker
from polyrank.checkpoint import BLOCK, Array, Checkpoint, load_checkpoint
from polyrank.models import fingerprint
from polyrank.onnx_backend.files import write_packed
from polyrank.training.groups import parse_group

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
WORDS = "embeddings.word.weight"
STEPS_APART = 4
PAIRS = 300  # compared
FARTHEST = 1.5  # that a logit may move
WINDOW = 512  # tokens read at once; of longer pairs it finds less


def coarser(rows: Floats) -> Floats:
    """[N, D] values of each block on every fourth of its 16 steps; the largest stays."""
    blocks = rows.reshape(len(rows), rows.shape[1] // BLOCK, BLOCK)
    at = np.abs(blocks).argmax(axis=2)[..., None]
    scale = (np.take_along_axis(blocks, at, 2) / -8).astype(np.float16).astype(np.float32)
    steps = np.rint(blocks / np.where(scale == 0, 1, scale) / STEPS_APART)
    highest = 8 // STEPS_APART
    kept = np.clip(steps, -highest, highest - 1) * STEPS_APART
    return np.asarray((kept * scale).reshape(rows.shape), np.float32)


def with_rows(checkpoint: Checkpoint, order: Ids, rare: npt.NDArray[np.bool_]) -> Checkpoint:
    """The checkpoint with its word embeddings in their new order, rare ones in fewer steps."""
    table = checkpoint.arrays[WORDS].float32()[order]
    table[rare] = coarser(table[rare])
    return with_table(checkpoint, Array(table))


def with_table(checkpoint: Checkpoint, table: Array) -> Checkpoint:
    """The checkpoint with other word embeddings."""
    rows = len(table.float32())
    return replace(
        checkpoint,
        config=replace(checkpoint.config, vocab_size=rows),
        arrays={**checkpoint.arrays, WORDS: table},
        source={**checkpoint.source, "vocab_size": rows},
    )


def rearranged(model: Path, vocabulary: Path) -> Checkpoint:
    """The model with the vocabulary's pieces in their order."""
    trained = load_checkpoint(model)
    if not (vocabulary / "order.npy").exists():
        return with_table(trained, load_checkpoint(vocabulary).arrays[WORDS])
    order, rare = (np.load(vocabulary / f"{name}.npy") for name in ("order", "rare"))
    return with_rows(trained, order, rare)


def moved(trained: Path, packed: Path, groups: Path) -> Floats:
    """How far the logits of the groups' first pairs are from the trained network's."""
    pairs: list[tuple[str, str]] = []
    with groups.open(encoding="utf-8") as file:
        for line in itertools.islice(file, PAIRS // 2):
            group = parse_group(line, str(groups))
            pairs += [(group.query, text) for text in group.texts[:2]]
    network = Reranker(trained, backend="torch", dtype="fp32", max_length=512)
    found = Reranker(packed, max_length=512).logits(pairs)
    return np.abs(np.subtract(found, network.logits(pairs))).astype(np.float32)


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True, help="a groups file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="polyrank-mini")
    args = parser.parse_args()
    checkpoint = rearranged(args.model, args.vocabulary)
    tokenizer = (args.vocabulary / "tokenizer.json").read_bytes()
    args.out.mkdir(parents=True, exist_ok=True)
    written = write_packed(
        args.out,
        checkpoint,
        "int8",
        source=args.name,
        source_hash=fingerprint(args.model),
        table="int4",
        say=print,
    )
    text = json.dumps(checkpoint.source, indent=2) + "\n"
    (args.out / "config.json").write_text(text, encoding="utf-8")
    (args.out / "tokenizer.json").write_bytes(tokenizer)
    stated = {"model_max_length": checkpoint.config.max_positions, "polyrank_window": WINDOW}
    (args.out / "tokenizer_config.json").write_text(json.dumps(stated) + "\n", encoding="utf-8")
    by = moved(args.model, args.out, args.groups)
    print(f"{written.bytes / 1e6:.1f} MB; logits moved by {by.mean():.3f}, at most {by.max():.2f}")
    if by.max() > FARTHEST:
        raise SystemExit(f"expected no logit to move by more than {FARTHEST}")


if __name__ == "__main__":
    main()
