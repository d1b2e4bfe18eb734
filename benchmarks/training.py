"""Tokens a second in training: polyrank's packed step against a padded one on the same groups.

    python benchmarks/training.py --model FOLDER --groups groups.jsonl --output results.json

The padded contender does what sentence-transformers' CrossEncoderTrainer does in a step: it
tokenises a batch of pairs, pads them to the longest, and runs transformers' sequence classifier
under bf16 autocast; without the trainer around it, which only adds to its time. Both train 12
layers with frozen embeddings and the same loss. Contenders take turns; CPU time is reported beside
wall time, since training shares machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from polyrank.checkpoint import save_checkpoint
from polyrank.tokenization import PairTokenizer
from polyrank.training.config import LoopConfig, LossConfig, MixtureConfig, PartConfig, RerankConfig
from polyrank.training.groups import Group
from polyrank.training.losses import info_nce, pad_groups
from polyrank.training.objective import Reranking
from polyrank.training.rerank import build_model

MAX_LENGTH = 192


def packed(config: RerankConfig) -> Callable[[int], int]:
    """A step as polyrank takes it; returns its tokens."""
    model, _ = build_model(config, "cpu")
    tokenizer = PairTokenizer.from_folder(config.model)
    objective = Reranking(config.data, LossConfig(), tokenizer, compute_dtype=torch.bfloat16)

    def step(number: int) -> int:
        tokens = 0
        for batch in objective.batches(number):
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = objective.loss(model, batch)
            loss.backward()
            tokens += batch.tokens
        model.zero_grad()
        return tokens

    return step


def padded(config: RerankConfig) -> Callable[[int], int]:
    """The same step with transformers, padded; returns the tokens that are not padding."""
    _, checkpoint = build_model(config, "cpu")
    folder = tempfile.mkdtemp()
    save_checkpoint(folder, checkpoint, layout="native")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).train()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(config.model) / "tokenizer.json"), pad_token="<pad>"
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".embeddings." not in name)
    pair_tokenizer = PairTokenizer.from_folder(config.model)
    drawn = Reranking(config.data, LossConfig(), pair_tokenizer).mixture

    def step(number: int) -> int:
        groups: list[Group] = [g for g, _ in drawn.step(number, config.data.groups_per_step)]
        pairs = [(g.query, text) for g in groups for text in g.texts]
        inputs = tokenizer(
            [q for q, _ in pairs], [t for _, t in pairs], padding=True, truncation=True,
            max_length=MAX_LENGTH, return_tensors="pt", return_token_type_ids=False,
        )  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits[:, 0].float()
        loss = info_nce(*pad_groups(logits, [len(g.texts) for g in groups])).sum()
        loss.backward()
        model.zero_grad()
        return int(inputs["attention_mask"].sum())

    return step


def main() -> None:
    """Take turns, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    part = PartConfig(path=str(args.groups), group_size=5, max_length=MAX_LENGTH)
    data = MixtureConfig(parts=(part,), groups_per_step=8, max_batch_tokens=8192)
    config = RerankConfig(model=str(args.model), data=data, loop=LoopConfig(steps=1))
    contenders = {"polyrank, packed": packed(config), "transformers, padded": padded(config)}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(args.rounds + 1):
        for name, step in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = step(number)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number:  # the first warms up
                rates[name].append((tokens / wall, tokens / cpu))
                print(f"{name}: {tokens} tokens, {wall:.2f} s, {cpu:.2f} s CPU", flush=True)
    report = {
        name: {
            "tokens_per_s": round(statistics.median(w for w, _ in found), 1),
            "tokens_per_cpu_s": round(statistics.median(c for _, c in found), 1),
        }
        for name, found in rates.items()
    }
    print(json.dumps(report, indent=2))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
