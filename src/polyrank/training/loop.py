"""The training loop, the same for every objective. Knows no task, no file format, no metric.

A step's gradient is the mean over all its items, however many batches and processes they are
spread over: every process takes its share of the step's batches, gradients are summed, and one
reduction follows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from polyrank.errors import BackendError, InputError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import LoopConfig, to_mapping
from polyrank.training.logs import RunLog
from polyrank.training.objective import Objective
from polyrank.training.optimizer import (
    Ema,
    freeze_embeddings,
    learning_rate_factor,
    make_optimizer,
    trainable,
)
from polyrank.training.state import load_state, save_state

__all__ = ["Evaluate", "Export", "StepReport", "train"]

Evaluate = Callable[[CrossEncoder, int], Mapping[str, float]]
"""(model, steps done) -> numbers to log."""
Export = Callable[[CrossEncoder, int], None]
"""(model, steps done): write the model for others to use."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did."""

    loss: float
    """Mean over the step's items."""
    grad_norm: float
    """Before clipping."""
    items: int
    tokens: int
    logged: Mapping[str, float]
    """The objective's sums over the step."""


def train(
    model: CrossEncoder,
    objective: Objective,
    config: LoopConfig,
    folder: str | Path,
    *,
    export: Export | None = None,
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] | None = None,
) -> CrossEncoder:
    """Train up to `config.steps`, going on from the state in `folder` where there is one.

    The model is changed in place and returned; with EMA on it ends as the mean. A run that was
    killed at any moment goes on with the same losses as one that was not.
    """
    folder = Path(folder)
    if not config.train_embeddings:
        freeze_embeddings(model)
    model.checkpoint_layers = config.recompute
    optimizer = make_optimizer(model, config)
    ema = Ema(model, config.ema_decay) if config.ema_decay is not None else None
    first = _resume(folder, model, optimizer, ema, config)
    log = RunLog(folder, resumed_at=first, say=say) if _rank() == 0 else None
    window = _Window()
    for step in range(first, config.steps):
        report = run_step(model, objective, optimizer, config, step)
        if ema is not None:
            ema.update(model, step)
        window.add(report)
        done = step + 1
        last = done == config.steps
        if log is not None and (done % config.log_every == 0 or last or done == first + 1):
            log.write("train", done, window.flush(learning_rate_factor(step, config)))
        if last or done % config.checkpoint_every == 0:
            _keep(folder, model, optimizer, ema, config, done, export)
        if evaluate is not None and (
            last or (config.evaluate_every and done % config.evaluate_every == 0)
        ):
            numbers = _with_mean(model, ema, lambda: evaluate(model, done))  # noqa: B023
            if log is not None:
                log.write("evaluation", done, dict(numbers))
    if ema is not None and first <= config.steps:
        ema.swap(model)
    if log is not None:
        log.close()
    return model


def run_step(
    model: CrossEncoder,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    step: int,
) -> StepReport:
    """One optimiser step over all the step's batches."""
    torch.manual_seed(config.seed * 1_000_003 + step)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    batches = objective.batches(step)
    sizes = [objective.size(b) for b in batches]
    items, tokens = (sum(column) for column in zip(*sizes, strict=True))
    if not items:
        raise InputError(f"expected at least one item in step {step}, got none")
    loss = 0.0
    logged: dict[str, float] = {}
    for batch in batches[_rank() :: _world()]:
        part, sums = _backward(model, objective, batch, config, items)
        loss += part
        for name, value in sums.items():
            logged[name] = logged.get(name, 0.0) + value
    parameters = list(trainable(model).values())
    loss, logged = _reduce(parameters, loss, logged)
    if not math.isfinite(loss):
        raise BackendError(
            f"expected a finite loss, got {loss} at step {step}; lower the learning rate, use "
            "dtype fp32, or look for an empty text in this step's groups"
        )
    limit = math.inf if config.clip_norm is None else config.clip_norm
    grad_norm = float(nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(grad_norm):
        raise BackendError(f"expected finite gradients, got norm {grad_norm} at step {step}")
    factor = learning_rate_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    optimizer.step()
    return StepReport(loss=loss, grad_norm=grad_norm, items=items, tokens=tokens, logged=logged)


def _backward(
    model: CrossEncoder, objective: Objective, batch: Any, config: LoopConfig, items: int
) -> tuple[float, dict[str, float]]:
    device = next(model.parameters()).device
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
            total, sums = objective.loss(model, batch)
        (total / items).backward()
    except RuntimeError as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        _, tokens = objective.size(batch)
        raise BackendError(
            f"{device.type} ran out of memory on a training batch of {tokens} tokens; lower "
            "max_batch_tokens or max_length, or set recompute"
        ) from error
    return float(total.detach()) / items, sums


# ---------------------------------------------------------------- processes


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _reduce(
    parameters: list[nn.Parameter], loss: float, logged: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Sum gradients, loss and sums over all processes."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if _world() == 1:
        return loss, logged
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
    everyone: list[Any] = [None] * _world()
    dist.all_gather_object(everyone, (loss, logged))
    merged: dict[str, float] = {}
    for _, sums in everyone:
        for name, value in sums.items():
            merged[name] = merged.get(name, 0.0) + value
    return sum(part for part, _ in everyone), merged


# ---------------------------------------------------------------- checkpoints


def _keep(
    folder: Path,
    model: CrossEncoder,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    config: LoopConfig,
    done: int,
    export: Export | None,
) -> None:
    if _rank() == 0:
        weights = {n: p.detach() for n, p in trainable(model).items()}
        state = {"step": done, "weights": weights, "optimizer": optimizer.state_dict()}
        state |= {"ema": None if ema is None else ema.mean, "config": to_mapping(config)}
        save_state(folder, state)
        if export is not None:
            _with_mean(model, ema, lambda: export(model, done))
    if _world() > 1:
        dist.barrier()


def _resume(
    folder: Path,
    model: CrossEncoder,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    config: LoopConfig,
) -> int:
    state = load_state(folder)
    if state is None:
        return 0
    parameters = trainable(model)
    if set(state["weights"]) != set(parameters) or (state["ema"] is None) != (ema is None):
        raise InputError(
            f"expected the run in {folder} to train {len(parameters)} tensors, its state has "
            f"{len(state['weights'])}; resume with the config it began with, or use a new folder"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["weights"][name])
            if ema is not None:
                ema.mean[name].copy_(state["ema"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _with_mean(model: CrossEncoder, ema: Ema | None, act: Callable[[], Any]) -> Any:
    """Do something with the weights that a run would be judged by."""
    if ema is None:
        return act()
    ema.swap(model)
    try:
        return act()
    finally:
        ema.swap(model)


class _Window:
    """Numbers since the last logged step."""

    def __init__(self) -> None:
        self._reports: list[StepReport] = []
        self._since = time.perf_counter()

    def add(self, report: StepReport) -> None:
        self._reports.append(report)

    def flush(self, rate_factor: float) -> dict[str, float]:
        """Means since the last call; `right` is the share of labelled groups won."""
        seconds = time.perf_counter() - self._since
        sums: dict[str, float] = {}
        for report in self._reports:
            for name, value in report.logged.items():
                sums[name] = sums.get(name, 0.0) + value
        n = len(self._reports)
        out = {"loss": sum(r.loss for r in self._reports) / n}
        out |= {"grad_norm": sum(r.grad_norm for r in self._reports) / n}
        out["tokens_per_s"] = sum(r.tokens for r in self._reports) / max(seconds, 1e-9)
        out["rate"] = rate_factor
        for name, counted in (("nce", "labelled"), ("right", "labelled"), ("kl", "scored"),
                              ("margin", "scored"), ("mlm", "masked"), ("hits", "masked")):
            if sums.get(counted):
                out[name] = sums.get(name, 0.0) / sums[counted]
        self._reports, self._since = [], time.perf_counter()
        return out
