"""A reranker that learns from several as it reads: itself, and others that were trained apart.

    python recipes/polyrank_mini/distill.py --model now --teacher before \
        --teacher whole/step-000992 --teacher cut/step-001024 --groups groups --out run

The mean of their logits is the teacher. The English teacher's scores count as much as all of them
where a group has some; BM25's (`words.jsonl`) are added with a small weight.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from train import TEACHER_SCALE, add_options, loop_of, mixture

from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.batches import GroupBatch
from polyrank.training.config import LossConfig, RerankConfig
from polyrank.training.distill import FromTeachers
from polyrank.training.loop import train
from polyrank.training.rerank import build_model, load_teachers
from polyrank.training.state import export_model

BM25_WEIGHT = 0.1  # of a logit
# file, share of the draws, texts of a group, limit in tokens
PARTS = (
    ("english.jsonl", 0.13, 8, 160),
    ("short.jsonl", 0.07, 6, 160),
    ("qa.jsonl", 0.06, 6, 512),
    ("words.jsonl", 0.18, 7, 512),
    ("spans.jsonl", 0.05, 7, 512),
    ("sections.jsonl", 0.02, 6, 512),
    ("cross.jsonl", 0.08, 6, 160),
    ("whole.jsonl", 0.08, 7, 512),
    ("headings.jsonl", 0.03, 8, 64),
    ("openings.jsonl", 0.02, 6, 128),
    ("mixed.jsonl", 0.05, 6, 320),
    ("more/weak.jsonl", 0.02, 7, 512),
    ("more/cross.jsonl", 0.09, 12, 160),
    ("more/whole.jsonl", 0.07, 8, 512),
    ("more/sentences.jsonl", 0.02, 8, 320),
    ("more/headings.jsonl", 0.03, 11, 64),
    ("more/openings.jsonl", 0.02, 8, 128),
    ("more/mixed.jsonl", 0.02, 7, 320),
)


class WithWords(FromTeachers):
    """Scores of labelled groups are BM25's; those of others a teacher's, as ever."""

    def wanted(self, mean_S: torch.Tensor, batch: GroupBatch) -> torch.Tensor:
        """[S] the teachers' mean, and a little of BM25."""
        taught = tuple(replace(g, scores=None) if g.labelled else g for g in batch.groups)
        words: list[float] = []
        for group in batch.groups:
            words += (group.labelled and group.scores) or [0.0] * len(group.texts)
        wanted_S = super().wanted(mean_S, replace(batch, groups=taught))
        return wanted_S + BM25_WEIGHT * mean_S.new_tensor(words)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="where it starts; teaches, too")
    parser.add_argument("--teacher", type=Path, action="append", required=True)
    add_options(parser, steps=3041, learning_rate=2.5e-4, checkpoint_every=100)
    args = parser.parse_args()
    config = RerankConfig(
        model=str(args.model),
        data=mixture(args.groups, PARTS, args.groups_per_step, args.batch_tokens),
        loss=LossConfig(contrastive=0.4, margin=0.05, teacher_scale=TEACHER_SCALE),
        loop=loop_of(args, ema_decay=0.995, seed=3),
        # What it starts from counts twice: it has learned from four before.
        teachers=tuple(map(str, (args.model, args.model, *args.teacher))),
    )
    student, start = build_model(config, args.device)
    tokenizer = PairTokenizer.from_folder(args.model)
    teachers = load_teachers(config, tokenizer, args.device)
    objective = WithWords(config.data, config.loss, tokenizer, teachers)

    def export(model: CrossEncoder, step: int) -> None:
        export_model(args.out / f"step-{step:06d}", model, start, args.model)

    train(
        student,
        objective,
        config.loop,
        args.out,
        export=export,
        say=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    main()
