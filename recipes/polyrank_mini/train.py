"""The run that makes polyrank-mini; start it again to go on from its last checkpoint.

    python recipes/polyrank_mini/train.py --seed-model seed/e5-small --groups groups --out run

With a GPU: `--device cuda`. With several: `torchrun --nproc-per-node=N recipes/...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from polyrank.training.config import (
    LoopConfig,
    LossConfig,
    MixtureConfig,
    PartConfig,
    RerankConfig,
)
from polyrank.training.parallel import joined
from polyrank.training.preview import preview_reranker
from polyrank.training.rerank import train_reranker

# file, share of the draws, texts of a group, limit in tokens
PARTS = (
    ("english.jsonl", 0.22, 8, 112),
    ("short.jsonl", 0.15, 6, 160),
    ("qa.jsonl", 0.12, 4, 448),
    ("weak.jsonl", 0.04, 5, 256),
    ("cross.jsonl", 0.22, 6, 160),
    ("headings.jsonl", 0.09, 8, 64),
    ("openings.jsonl", 0.06, 6, 128),
    ("mixed.jsonl", 0.10, 6, 200),
)


def recipe(seed_model: Path, groups: Path, steps: int) -> RerankConfig:
    """The run's whole configuration."""
    parts = tuple(
        PartConfig(path=str(groups / name), weight=weight, group_size=size, max_length=length)
        for name, weight, size, length in PARTS
    )
    return RerankConfig(
        model=str(seed_model),
        data=MixtureConfig(parts=parts, groups_per_step=16, max_batch_tokens=6144, seed=3),
        # The teacher's logits lie between -11 and 11; half of that is our head's range.
        loss=LossConfig(teacher_scale=0.5, margin=0.05),
        loop=LoopConfig(
            steps=steps,
            learning_rate=1.5e-4,
            head_learning_rate=3e-4,
            ema_decay=0.98,
            checkpoint_every=25,
            log_every=5,
            seed=3,
        ),
    )


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed-model", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    config = recipe(args.seed_model, args.groups, args.steps)
    if args.dry_run:
        print("\n".join(preview_reranker(config, device=args.device).lines()))
        return
    with joined(args.device) as device:
        train_reranker(config, args.out, device=device, say=lambda s: print(s, flush=True))


if __name__ == "__main__":
    main()
