"""PyTorch on the CPU: polyrank beside transformers and sentence-transformers.

Same weights (the official shape, random), same texts, same truncation, in turns:

    python benchmarks/cpu_torch.py --rounds 5 --output benchmarks/results/cpu_torch.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import turns
import workload


def card(folder: str) -> turns.Score:
    """The model card's snippet: transformers, fp32, batches of 32 as they come, padded."""
    return _transformers(folder, "float32", sort=False, size=32)


def transformers_bf16(folder: str) -> turns.Score:
    """transformers in bf16, sorted by length, batches of 16, padded."""
    return _transformers(folder, "bfloat16", sort=True, size=16)


def _transformers(folder: str, dtype: str, *, sort: bool, size: int) -> turns.Score:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.eval()

    def score(pairs: list[tuple[str, str]]) -> Any:
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][1]) if sort else 0)
        logits = [0.0] * len(pairs)
        with torch.no_grad():
            for start in range(0, len(order), size):
                part = order[start : start + size]
                inputs = tokenizer(
                    [list(pairs[i]) for i in part],
                    padding=True,
                    truncation=True,
                    return_tensors="pt",
                    max_length=512,
                )
                found = model(**inputs, return_dict=True).logits.view(-1).float().tolist()
                for i, logit in zip(part, found, strict=True):
                    logits[i] = logit
        return logits

    return score


def sentence_transformers(folder: str, dtype: str = "float32") -> turns.Score:
    """CrossEncoder.predict, which sorts by length, batches of 16."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        folder,
        max_length=512,
        device="cpu",
        model_kwargs={"torch_dtype": getattr(torch, dtype)},
        activation_fn=torch.nn.Identity(),
    )
    return lambda pairs: model.predict(pairs, batch_size=16, show_progress_bar=False)


def polyrank(folder: str, dtype: str) -> turns.Score:
    """Our packed encoder."""
    from polyrank import Reranker

    reranker = Reranker(folder, max_length=512, backend="torch", device="cpu", dtype=dtype)
    return reranker.logits


CONTENDERS = {
    "model card (transformers fp32)": card,
    "transformers bf16 sorted": transformers_bf16,
    "sentence-transformers fp32": sentence_transformers,
    "sentence-transformers bf16": lambda folder: sentence_transformers(folder, "bfloat16"),
    "polyrank fp32": lambda folder: polyrank(folder, "fp32"),
    "polyrank bf16": lambda folder: polyrank(folder, "bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "polyrank-306m"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.contender:
        load = CONTENDERS[args.contender]
        return turns.serve(lambda: load(str(args.folder)), workload.peak_rss_gb)
    folder = workload.official_folder(args.folder)
    lengths = workload.lengths(args.pairs)
    pairs = workload.text_pairs(lengths)
    contenders = [turns.Contender(Path(__file__), name, folder) for name in CONTENDERS]
    try:
        rows = turns.race(contenders, pairs, args.rounds)
    finally:
        for contender in contenders:
            contender.end()
    print(f"{args.pairs} pairs, {sum(lengths)} tokens, {workload.gflop(lengths):.0f} GFLOP\n")
    print(turns.table(rows, sum(lengths)))
    if args.output:
        packages = ("polyrank", "torch", "transformers", "sentence-transformers")
        about = {
            "command": " ".join(sys.argv),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": {p: version(p) for p in packages},
            "lengths": lengths,
            "gflop": workload.gflop(lengths),
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
