"""The trained reranker in the mGTE architecture, distilled to its own hidden states.

    python recipes/polyrank_mini/convert.py --model run/step-005000 --groups groups --out converted

Reads what `train.py` reads. `train.py --seed-model converted/model` goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from train import LONG_PARTS, add_options, loop_of, mixture

from polyrank.checkpoint import load_checkpoint
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import LossConfig
from polyrank.training.convert import bert_to_gte, measure_activity
from polyrank.training.distill import HiddenStates
from polyrank.training.loop import train
from polyrank.training.objective import Reranking
from polyrank.training.state import export_model
from polyrank.values import Batch

ROPE_THETA = 160_000.0  # as the official model's; half of a head's 16 pairs hardly turn
MEASURED_STEPS = 8


def main() -> None:
    """Read the arguments, convert, distil, write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the BERT-shaped original")
    parser.add_argument("--intermediate-size", type=int, default=768, help="neurons a layer keeps")
    add_options(parser, steps=2000, learning_rate=5e-4, checkpoint_every=100)
    args = parser.parse_args()
    original = load_checkpoint(args.model)
    teacher = CrossEncoder.from_checkpoint(original, device=args.device)
    room = original.config.max_positions
    parts = [
        (n, share, size, min(most, room))
        for n, share, size, most in LONG_PARTS
        if n != "long.jsonl"
    ]
    data = mixture(args.groups, parts, args.groups_per_step, args.batch_tokens)
    groups = Reranking(data, LossConfig(), PairTokenizer.from_folder(args.model))

    def batches(step: int) -> Sequence[Batch]:
        return [b.batch for b in groups.batches(step)]

    measured = (batch for step in range(MEASURED_STEPS) for batch in batches(step))
    start = bert_to_gte(
        original,
        activity=measure_activity(teacher, measured),
        intermediate_size=args.intermediate_size,
        rope_theta=ROPE_THETA,
    )
    student = CrossEncoder.from_checkpoint(start, device=args.device)
    objective = HiddenStates(teacher, batches)
    train(
        student,
        objective,
        loop_of(args, seed=5),
        args.out,
        say=lambda line: print(line, flush=True),
    )
    export_model(args.out / "model", student, start, args.model)


if __name__ == "__main__":
    main()
