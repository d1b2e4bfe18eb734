"""The trained reranker as the package carries it: fewer rows, 4-bit table, int8 layers.

    python recipes/polyrank_mini/package.py --model run/step-001200 --vocabulary vocabulary/160k \
        --out src/polyrank/embedded/polyrank-mini

`--vocabulary` is what `vocabulary.py` wrote: tokenizer.json, and kept.npy with the old id of each
new one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from polyrank.checkpoint import Array, Checkpoint, load_checkpoint
from polyrank.models import fingerprint
from polyrank.onnx_backend.files import write_packed

WORDS = "embeddings.word.weight"


def with_rows(checkpoint: Checkpoint, kept: np.ndarray) -> Checkpoint:
    """The checkpoint with the word embeddings of the kept tokens, in their new order."""
    arrays = {n: Array(a.float32()) for n, a in checkpoint.arrays.items()}
    arrays[WORDS] = Array(arrays[WORDS].data[kept])
    config = replace(checkpoint.config, vocab_size=len(kept))
    source = {**checkpoint.source, "vocab_size": len(kept)}
    return Checkpoint(config=config, arrays=arrays, source=source)


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="polyrank-mini")
    args = parser.parse_args()
    kept = np.load(args.vocabulary / "kept.npy")
    checkpoint = with_rows(load_checkpoint(args.model), kept)
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
    shutil.copyfile(args.vocabulary / "tokenizer.json", args.out / "tokenizer.json")
    stated = {"model_max_length": checkpoint.config.max_positions}
    (args.out / "tokenizer_config.json").write_text(json.dumps(stated) + "\n", encoding="utf-8")
    print(f"{len(kept)} rows, {written.bytes / 1e6:.1f} MB, logits within {written}")


if __name__ == "__main__":
    main()
