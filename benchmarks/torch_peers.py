"""PyTorch: polyrank beside transformers and sentence-transformers.

Same weights (the official shape, random), same texts, same truncation, in turns:

    python benchmarks/torch_peers.py --rounds 5 --output benchmarks/results/cpu_torch.json
    python benchmarks/torch_peers.py --device cuda --pairs 2048
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import peers
import turns
import workload

CPU = {
    "model card (transformers fp32)": peers.card,
    "transformers bf16 sorted": partial(peers.transformers, dtype="bfloat16"),
    "sentence-transformers fp32": peers.sentence_transformers,
    "sentence-transformers bf16": partial(peers.sentence_transformers, dtype="bfloat16"),
    "polyrank fp32": partial(peers.polyrank, backend="torch", dtype="fp32"),
    "polyrank bf16": partial(peers.polyrank, backend="torch", dtype="bf16"),
}
# fp16 is what the official weights are stored in, and the card asks for on a GPU.
_FP16 = {"device": "cuda", "dtype": "float16"}
CUDA = {
    "model card (transformers fp16)": partial(peers.card, **_FP16),
    "transformers fp16 sorted": partial(peers.transformers, size=128, **_FP16),
    "sentence-transformers fp16": partial(peers.sentence_transformers, size=128, **_FP16),
    "polyrank fp16": partial(peers.polyrank, backend="torch", device="cuda", dtype="fp16"),
}
CONTENDERS: dict[str, Callable[[str], turns.Score]] = {**CPU, **CUDA}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "polyrank-306m"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.contender:
        load = CONTENDERS[args.contender]
        return turns.serve(lambda: load(str(args.folder)), workload.peak_rss_gb)
    packages = ("polyrank", "torch", "transformers", "sentence-transformers")
    versions = {p: version(p) for p in packages}
    folder = workload.official_folder(args.folder)
    lengths = workload.lengths(args.pairs)
    pairs = workload.text_pairs(lengths)
    contenders = [
        turns.Contender(Path(__file__), name, folder)
        for name in (CPU if args.device == "cpu" else CUDA)
    ]
    try:
        rows = turns.race(contenders, pairs, args.rounds)
    finally:
        for contender in contenders:
            contender.end()
    print(f"{args.pairs} pairs, {sum(lengths)} tokens, {workload.gflop(lengths):.0f} GFLOP\n")
    print(turns.table(rows, sum(lengths)))
    if args.output:
        about = {
            "command": " ".join(sys.argv),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": versions,
            "lengths": lengths,
            "gflop": workload.gflop(lengths),
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
