"""What 8 bits do to a network: relative error of its hidden states after each layer, change of its
logits when one kind of linear layer alone is rounded, and of single layers.

    python benchmarks/int8_error.py --model FOLDER --text FILE --output benchmarks/results/int8.json

Rounds as the int8 graph does (weights for each output channel, activations for each token), in
PyTorch, so that any layer can be left out. FILE: one text a line. Without --model: the official
shape with random weights; then logits mean nothing, errors of the states do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import workload
from polyrank.checkpoint import load_checkpoint
from polyrank.tokenization import PairTokenizer, Truncation
from polyrank.torch_backend.attention import Layout
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.values import Batch, pack

KINDS = ("qkv", "attn_out", "mlp_in", "mlp_out")


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Each row in 8 bits, by its own largest magnitude."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (x / step).round() * step


@contextmanager
def int8(model: CrossEncoder, names: Collection[str]) -> Iterator[None]:
    """The named linear layers with rounded weights and inputs, for as long as the block lasts."""
    chosen = [(n, m) for n, m in model.named_modules() if n in names]
    kept = {n: m.weight.data for n, m in chosen}
    hooks = []
    for _, module in chosen:
        module.weight.data = rounded(module.weight.data)
        hooks.append(module.register_forward_pre_hook(lambda m, args: (rounded(args[0]),)))
    try:
        yield
    finally:
        for name, module in chosen:
            module.weight.data = kept[name]
        for hook in hooks:
            hook.remove()


def batches_of(folder: Path, text: Path | None, pairs: int) -> list[Batch]:
    """Pairs of neighbouring lines, or of random words, a few at a time."""
    tokenizer = PairTokenizer.from_folder(folder)
    if text is None:
        both = workload.text_pairs(workload.lengths(pairs))
    else:
        lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
        both = [
            (lines[i][:80], lines[i]) for i in range(0, len(lines), max(1, len(lines) // pairs))
        ]
    encodings = tokenizer.encode_pairs(both[:pairs], Truncation(max_length=512))
    return [pack(encodings[i : i + 4]) for i in range(0, len(encodings), 4)]


@torch.inference_mode()
def run(model: CrossEncoder, batches: list[Batch]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states after each layer, all tokens of all batches; logits."""
    states: list[list[torch.Tensor]] = []
    logits = []
    for batch in batches:
        at = Layout.of(batch.cu_lengths, torch.device("cpu"), torch.float32)
        ids, types = (torch.from_numpy(x).long() for x in (batch.ids, batch.type_ids))
        found = model.hidden_states(ids, types, at)
        assert model.head is not None
        logits.append(model.head(found[-1][at.first]))
        states.append(found)
    return [torch.cat(layer) for layer in zip(*states, strict=True)], torch.cat(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    folder = args.model or workload.official_folder(Path(tempfile.gettempdir()) / "polyrank-306m")
    model = CrossEncoder.from_checkpoint(load_checkpoint(folder)).eval()
    batches = batches_of(folder, args.text, args.pairs)
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layers" in n]
    exact, logits = run(model, batches)

    def change(names: Collection[str]) -> tuple[list[float], float]:
        with int8(model, names):
            states, found = run(model, batches)
        errors = [float((s - e).norm() / e.norm()) for s, e in zip(states, exact, strict=True)]
        return errors[1:], float((found - logits).abs().max())

    errors, largest = change(linears)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "tokens": sum(len(b.ids) for b in batches),
        "relative_error_after_layer": [round(e, 5) for e in errors],
        "logit_std": float(logits.std()),
        "largest_logit_change": largest,
        "of_one_kind": {k: change([n for n in linears if n.endswith(k)])[1] for k in KINDS},
        "of_one_layer": {
            str(n): change([x for x in linears if x.startswith(f"layers.{n}.")])[1]
            for n in range(model.config.num_layers)
        },
        "rms_logit": float(np.sqrt(np.mean(logits.numpy() ** 2))),
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
