"""Groups scored by several rerankers at once: what they agree on is the teacher.

    python recipes/polyrank_mini/ensemble.py --groups groups --model before --model now \
        --draws 16000 --out scored
    python recipes/polyrank_mini/train.py --seed-model now --groups scored --ensemble --out run

Draws groups as a training run would, and writes each with the mean of the models' logits, to the
file of its part. Scores that a group has already, the English teacher's, count as much as the
models' mean. Texts over 512 tokens are read in windows, the best one counts: what reads a text
whole learns from its best part. A second run goes on after the last group of each file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track
from train import ENSEMBLE_PARTS, TEACHER_SCALE

from polyrank import Reranker
from polyrank.training.groups import Group, GroupFile
from polyrank.training.sampling import Mixture, Part

CHUNK = 64  # draws between two writes


def scored(groups: Sequence[Group], models: Sequence[Reranker]) -> list[Group]:
    """The groups with the mean of their teachers' logits."""
    if not groups:
        return []
    pairs = [(g.query, text) for g in groups for text in g.texts]
    logits = np.mean([m.logits(pairs) for m in models], axis=0)
    found = []
    ends = np.cumsum([len(g.texts) for g in groups])
    for group, mean in zip(groups, np.split(logits, ends[:-1]), strict=True):
        if group.scores is not None:
            mean = (mean + TEACHER_SCALE * np.array(group.scores)) / 2
        found.append(replace(group, scores=tuple(round(float(x), 3) for x in mean)))
    return found


def main() -> None:
    """Read the arguments, draw, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--draws", type=int, default=16000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    models = [Reranker(m, max_length=512, on_overflow="windows") for m in args.model]
    parts = [
        Part(file=GroupFile(args.groups / name), weight=share, group_size=size, max_length=limit)
        for name, share, size, limit in ENSEMBLE_PARTS
    ]
    mixture = Mixture(parts, seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    paths = {part.file.path.name: args.out / part.file.path.name for part in parts}
    there = {n: p.read_bytes().count(b"\n") if p.exists() else 0 for n, p in paths.items()}
    for start in track(range(0, args.draws, CHUNK), "scoring"):
        names, groups = [], []
        for number in range(start, min(start + CHUNK, args.draws)):
            group, part = mixture.draw(number)
            name = part.file.path.name
            if there[name]:
                there[name] -= 1
            else:
                names.append(name)
                groups.append(group)
        for name, group in zip(names, scored(groups, models), strict=True):
            with paths[name].open("a", encoding="utf-8") as file:
                file.write(group.to_json() + "\n")


if __name__ == "__main__":
    main()
