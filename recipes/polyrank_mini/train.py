"""The run that makes polyrank-mini; start it again to go on from its last checkpoint.

    python recipes/polyrank_mini/train.py --seed-model seed/e5-small --groups groups --out run

As it stands for two cores, from an encoder or from a reranker, such as the folder of the packaged
one; a GPU takes larger steps: `--device cuda --groups-per-step 64
--batch-tokens 131072 --loader-processes 12 --compile`. With several: `torchrun
--nproc-per-node=N recipes/...`. A network for 8,192 tokens has a mixture of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyrank.checkpoint import load_checkpoint
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

# The teacher's logits lie between -11 and 11; half of that is our head's range.
TEACHER_SCALE = 0.5
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
# For a network with room for them; also what `convert.py` distils on, cut at 512.
LONG_PARTS = (
    ("english.jsonl", 0.20, 8, 128),
    ("short.jsonl", 0.16, 6, 160),
    ("qa.jsonl", 0.16, 4, 640),
    ("weak.jsonl", 0.05, 5, 512),
    ("cross.jsonl", 0.18, 6, 160),
    ("headings.jsonl", 0.06, 8, 64),
    ("openings.jsonl", 0.05, 6, 128),
    ("mixed.jsonl", 0.12, 6, 320),
    ("long.jsonl", 0.02, 4, 8192),
)
# Two more teachers for `distill.py`: one reads whole sections and other candidates, one stretches.
# `more/` is made from what `documents.py` finds.
WHOLE_PARTS = (
    ("english.jsonl", 0.16, 8, 160),
    ("short.jsonl", 0.08, 6, 160),
    ("qa.jsonl", 0.04, 5, 448),
    ("deep.jsonl", 0.14, 6, 448),
    ("weak.jsonl", 0.01, 5, 448),
    ("sections.jsonl", 0.02, 6, 448),
    ("cross.jsonl", 0.09, 6, 160),
    ("whole.jsonl", 0.07, 6, 448),
    ("headings.jsonl", 0.03, 8, 64),
    ("openings.jsonl", 0.03, 6, 128),
    ("mixed.jsonl", 0.04, 6, 320),
    ("more/cross.jsonl", 0.10, 8, 160),
    ("more/whole.jsonl", 0.08, 6, 448),
    ("more/sentences.jsonl", 0.02, 6, 320),
    ("more/headings.jsonl", 0.04, 10, 64),
    ("more/openings.jsonl", 0.03, 8, 128),
    ("more/mixed.jsonl", 0.02, 6, 320),
)
CUT_PARTS = (
    ("english.jsonl", 0.20, 8, 128),
    ("short.jsonl", 0.15, 6, 160),
    ("qa.jsonl", 0.11, 5, 448),
    ("weak.jsonl", 0.02, 5, 256),
    ("cross.jsonl", 0.13, 6, 160),
    ("headings.jsonl", 0.05, 8, 64),
    ("openings.jsonl", 0.03, 6, 128),
    ("mixed.jsonl", 0.05, 6, 256),
    ("more/weak.jsonl", 0.01, 6, 256),
    ("more/cross.jsonl", 0.13, 8, 160),
    ("more/sentences.jsonl", 0.03, 6, 256),
    ("more/headings.jsonl", 0.05, 10, 64),
    ("more/openings.jsonl", 0.04, 8, 128),
    ("more/mixed.jsonl", 0.02, 6, 256),
)
MIXTURES = {"short": PARTS, "long": LONG_PARTS, "whole": WHOLE_PARTS, "cut": CUT_PARTS}


def mixture(
    groups: Path,
    parts: Sequence[tuple[str, float, int, int]],
    groups_per_step: int,
    batch_tokens: int,
    seed: int = 3,
) -> MixtureConfig:
    """What a step reads."""
    return MixtureConfig(
        parts=tuple(
            PartConfig(path=str(groups / name), weight=share, group_size=size, max_length=limit)
            for name, share, size, limit in parts
        ),
        groups_per_step=groups_per_step,
        max_batch_tokens=batch_tokens,
        seed=seed,
    )


def recipe(args: argparse.Namespace) -> RerankConfig:
    """The run's whole configuration."""
    room = load_checkpoint(args.seed_model, require_head=False).config.max_positions
    parts = MIXTURES[args.mixture or ("long" if room >= 8192 else "short")]
    return RerankConfig(
        model=str(args.seed_model),
        data=mixture(args.groups, parts, args.groups_per_step, args.batch_tokens, args.seed),
        loss=LossConfig(teacher_scale=TEACHER_SCALE, margin=0.05, pointwise=args.pointwise),
        loop=loop_of(
            args,
            head_learning_rate=2 * args.learning_rate,
            ema_decay=args.ema_decay,
            seed=args.seed,
        ),
    )


def loop_of(args: argparse.Namespace, **more: Any) -> LoopConfig:
    """The loop that `add_options` described."""
    return LoopConfig(
        steps=args.steps,
        learning_rate=args.learning_rate,
        compile=args.compile,
        loader_processes=args.loader_processes,
        checkpoint_every=args.checkpoint_every,
        log_every=max(1, args.checkpoint_every // 5),
        **more,
    )


def add_options(
    parser: argparse.ArgumentParser, *, steps: int, learning_rate: float, checkpoint_every: int
) -> None:
    """What every run over these groups is told; the values are its defaults."""
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--groups-per-step", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--checkpoint-every", type=int, default=checkpoint_every)
    parser.add_argument("--loader-processes", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed-model", type=Path, required=True)
    add_options(parser, steps=600, learning_rate=1.5e-4, checkpoint_every=25)
    parser.add_argument("--pointwise", type=float, default=0.0, help="share of that loss")
    parser.add_argument("--mixture", choices=MIXTURES, help="what it reads; by the model's room")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--ema-decay", type=float, default=0.98)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    config = recipe(args)
    if args.dry_run:
        print("\n".join(preview_reranker(config, device=args.device).lines()))
        return
    with joined(args.device) as device:
        train_reranker(config, args.out, device=device, say=lambda s: print(s, flush=True))


if __name__ == "__main__":
    main()
