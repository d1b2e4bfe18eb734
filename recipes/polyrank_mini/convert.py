"""The trained reranker, or the seed, in the mGTE architecture, distilled to its hidden states.

    python recipes/polyrank_mini/convert.py --model seed/e5-small --text DATA/train/text \
        --out converted --steps 2000

Short texts first: run it with `--max-length 64`, then again with 256 in another folder, from the
first one's encoder (`--student`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from polyrank.checkpoint import load_checkpoint
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import LoopConfig
from polyrank.training.convert import bert_to_gte
from polyrank.training.distill import HiddenStates
from polyrank.training.loop import train
from polyrank.training.state import export_model
from polyrank.training.texts import TextMixture, unpack


def main() -> None:
    """Read the arguments, convert, distil, write the encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the BERT-shaped original")
    parser.add_argument("--student", type=Path, help="a converted encoder to go on from")
    parser.add_argument("--text", type=Path, required=True, help="folder of LANGUAGE.txt.xz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    original = load_checkpoint(args.model, require_head=False)
    start = load_checkpoint(args.student, require_head=False) if args.student else None
    start = start or bert_to_gte(original)
    student = CrossEncoder.from_checkpoint(start, device=args.device)
    tokenizer = PairTokenizer.from_folder(args.model)
    paths = {p.name.split(".")[0]: unpack(p, args.out / "text") for p in args.text.glob("*.txt*")}
    texts = TextMixture(dict(paths), tokenizer, max_length=args.max_length, seed=5)
    teacher = CrossEncoder.from_checkpoint(original, device=args.device)
    objective = HiddenStates(teacher, texts)
    loop = LoopConfig(steps=args.steps, learning_rate=3e-4, checkpoint_every=100, seed=5)
    train(student, objective, loop, args.out, say=lambda line: print(line, flush=True))
    export_model(args.out / "encoder", student, start, args.model)


if __name__ == "__main__":
    main()
