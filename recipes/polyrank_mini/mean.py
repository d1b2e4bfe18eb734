"""A model between two: the mean of the weights of a run's start and of its end.

    python recipes/polyrank_mini/mean.py --start start --end run/step-000765 --share 0.6 --out mean

`--share` is the end's. What a run learned late from a narrow mixture is softened, and what the
start knew comes back (Wortsman et al., arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from polyrank.checkpoint import Array, Checkpoint, load_checkpoint, save_checkpoint


def mean(start: Checkpoint, end: Checkpoint, share: float) -> Checkpoint:
    """Each tensor (1 - share) of the start's and share of the end's."""
    assert set(start.arrays) == set(end.arrays), "the two are not of one run"
    arrays = {
        name: Array((1 - share) * array.float32() + share * end.arrays[name].float32())
        for name, array in start.arrays.items()
    }
    return replace(end, arrays=arrays)


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--end", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = mean(load_checkpoint(args.start), load_checkpoint(args.end), args.share)
    save_checkpoint(args.out, found, layout="native")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.end / name, args.out / name)


if __name__ == "__main__":
    main()
