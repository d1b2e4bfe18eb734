"""Tokens a second in training: polyrank's loop against sentence-transformers' CrossEncoderTrainer.

    python benchmarks/training.py --model FOLDER --groups groups.jsonl --output results.json

Both train the same network on the same groups: a step is the gradient of 16 groups of up to 6
texts, bf16 autocast, frozen embeddings, AdamW, clipping. The trainer runs as it comes, with its own
collator, padding and loss (BinaryCrossEntropyLoss over pairs; pairs of a batch in random order), in
batches of 32 pairs, three to a step; polyrank trains InfoNCE over groups. Contenders take turns,
each in a process of its own, as polyrank changes how PyTorch allocates and waits; a token is one
that is not padding. CPU time stands beside wall time, since training shares machines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from datasets import Dataset
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import TrainerCallback

from polyrank.tokenization import PairTokenizer, Truncation
from polyrank.training.config import LoopConfig, LossConfig, MixtureConfig, PartConfig, RerankConfig
from polyrank.training.loop import run_step
from polyrank.training.objective import Reranking
from polyrank.training.optimizer import make_optimizer
from polyrank.training.rerank import build_model
from transformers_folder import write_for_transformers

MAX_LENGTH, GROUPS, TEXTS, PAIRS = 192, 16, 6, 32
BATCHES = GROUPS * TEXTS // PAIRS  # of a step
Timing = tuple[float, float]
"""Tokens a second of the wall clock, and of the CPUs'."""


class Packed:
    """polyrank's own steps."""

    def __init__(self, config: RerankConfig, folder: Path) -> None:
        self._config = config
        self._model, _ = build_model(config, "cpu")
        self._optimizer = make_optimizer(self._model, config.loop)
        self._objective = Reranking(
            config.data, config.loss, PairTokenizer.from_folder(config.model)
        )

    def run(self, steps: Sequence[int]) -> Timing:
        return timed(lambda: sum(self._step(n) for n in steps))

    def _step(self, number: int) -> int:
        batches = self._objective.batches(number)
        loop = self._config.loop
        return run_step(self._model, self._objective, batches, self._optimizer, loop, number).tokens


class Padded:
    """CrossEncoderTrainer over the same groups' pairs."""

    def __init__(self, config: RerankConfig, folder: Path) -> None:
        _, checkpoint = build_model(config, "cpu")
        tokenizer = Path(config.model) / "tokenizer.json"
        write_for_transformers(folder, checkpoint, tokenizer, MAX_LENGTH)
        self._folder = folder
        self._model = CrossEncoder(str(folder), num_labels=1, max_length=MAX_LENGTH, device="cpu")
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_("embeddings." not in name)
        self._tokenizer = PairTokenizer.from_folder(config.model)
        self._mixture = Reranking(config.data, LossConfig(), self._tokenizer).mixture

    def run(self, steps: Sequence[int]) -> Timing:
        groups = [g for n in steps for g, _ in self._mixture.step(n, GROUPS)]
        rows = [(g.query, text, float(i == 0)) for g in groups for i, text in enumerate(g.texts)]
        pairs = [(query, text) for query, text, _ in rows]
        rule = Truncation(max_length=MAX_LENGTH)
        tokens = sum(map(len, self._tokenizer.encode_pairs(pairs, rule)))
        columns = dict(
            zip(("query", "text", "label"), map(list, zip(*rows, strict=True)), strict=True)
        )
        trainer = CrossEncoderTrainer(
            model=self._model,
            args=CrossEncoderTrainingArguments(
                output_dir=str(self._folder / "out"), max_steps=len(steps), use_cpu=True, bf16=True,
                per_device_train_batch_size=PAIRS, gradient_accumulation_steps=BATCHES,
                save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(columns),
            loss=BinaryCrossEntropyLoss(self._model),
            callbacks=[clock := Clock()],
        )  # fmt: skip
        trainer.train()
        return tokens / clock.wall, tokens / clock.cpu


class Clock(TrainerCallback):
    """From the first step's begin to the last one's end: what is around them is free."""

    wall = cpu = 0.0

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self.wall, self.cpu = -time.perf_counter(), -time.process_time()

    def on_train_end(self, *given: Any, **named: Any) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def timed(work: Callable[[], int]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


CONTENDERS = {"polyrank": Packed, "sentence-transformers CrossEncoderTrainer": Padded}


# What an import of polyrank changes in PyTorch, and this script's own do, put back.
AS_IT_COMES = {"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "300000"}


class Process:
    """A contender in a process of its own."""

    def __init__(self, name: str, config: RerankConfig, folder: Path) -> None:
        with patch.dict(os.environ, {} if name == "polyrank" else AS_IT_COMES):
            self._pool = ProcessPoolExecutor(
                1, get_context("spawn"), _begin, (name, config, folder)
            )
            self._pool.submit(int).result()

    def run(self, steps: Sequence[int]) -> Timing:
        return self._pool.submit(_run, steps).result()


def _begin(name: str, config: RerankConfig, folder: Path) -> None:
    global contender
    contender = CONTENDERS[name](config, folder)


def _run(steps: Sequence[int]) -> Timing:
    return contender.run(steps)


def main() -> None:
    """Take turns, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of a round")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    part = PartConfig(path=str(args.groups), group_size=TEXTS, max_length=MAX_LENGTH)
    data = MixtureConfig(parts=(part,), groups_per_step=GROUPS, max_batch_tokens=6144)
    config = RerankConfig(model=str(args.model), data=data, loop=LoopConfig(steps=1000))
    with tempfile.TemporaryDirectory() as folder:
        contenders = {name: Process(name, config, Path(folder)) for name in CONTENDERS}
        rates: dict[str, list[Timing]] = {name: [] for name in contenders}
        for number in range(args.rounds + 1):
            steps = range(number * args.steps, (number + 1) * args.steps)
            for name, contender in contenders.items():
                wall, cpu = contender.run(steps)
                if number:  # the first warms up
                    rates[name].append((wall, cpu))
                    print(f"{name}: {wall:.0f} tokens/s, {cpu:.0f} a CPU second", flush=True)
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
