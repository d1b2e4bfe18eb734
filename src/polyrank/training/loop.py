"""The training loop, the same for every objective. Knows no task, no file format, no metric.

A step's gradient is the mean over all its items, however many batches and processes they are
spread over: every process takes its share of the step's batches, gradients are summed, and one
reduction follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from polyrank.errors import BackendError, InputError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.ahead import made_ahead
from polyrank.training.config import LoopConfig, changes, to_mapping
from polyrank.training.device import autocast
from polyrank.training.logs import RunLog, StepReport, Window
from polyrank.training.objective import Objective
from polyrank.training.optimizer import (
    Ema,
    freeze_embeddings,
    learning_rate_factor,
    make_optimizer,
    trainable,
)
from polyrank.training.parallel import rank, reduce_step, wait, world
from polyrank.training.state import load_state, save_state

M = TypeVar("M", bound=nn.Module)

__all__ = ["Evaluate", "Export", "Progress", "run_step", "train"]

Evaluate = Callable[[Any, int], Mapping[str, float]]
"""(model, steps done) -> numbers to log. Called with the weights that are exported."""
Export = Callable[[Any, int], None]
"""(model, steps done): write the model for others to use."""
Progress = Callable[[int, int], None]
"""(steps done, steps of the run), after every step. May raise KeyboardInterrupt to stop there."""


def train(
    model: M,
    objective: Objective,
    config: LoopConfig,
    folder: str | Path,
    *,
    export: Export | None = None,
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> M:
    """Train up to `config.steps`, going on from the state in `folder` where there is one.

    The model is changed in place and returned; with EMA on it ends as the mean. A run that was
    killed at any moment goes on with the same losses as one that was not; one that `progress`
    stops keeps its last step. Other settings than a run began with are allowed, and said.

    Raises InputError for a state of other tensors and for a step without groups, BackendError for
    a loss that is not finite and where memory runs out, CheckpointError for a broken state.
    """
    folder = Path(folder)
    _prepare(model, config)
    optimizer = make_optimizer(model, config)
    ema = Ema(model, config.ema_decay) if config.ema_decay is not None else None
    first = _resume(folder, model, optimizer, ema, config, say)
    log = RunLog(folder, resumed_at=first or -1, say=say) if rank() == 0 else None

    # Before any step, and what an interrupted run had no time for.
    due = first == 0 or _is_due(first, first == config.steps, config.evaluate_every)
    if evaluate is not None and due:
        _measure(model, ema, evaluate, log, first)
    window = Window()
    steps = range(first, config.steps)
    for step, batches in made_ahead(objective.batches, steps, processes=config.loader_processes):
        window.add(run_step(model, objective, batches, optimizer, config, step))
        if ema is not None:
            ema.update(model, step)
        done = step + 1
        last = done == config.steps
        if log is not None and (last or done == first + 1 or done % config.log_every == 0):
            log.write("train", done, window.flush(learning_rate_factor(step, config)))
        due = evaluate is not None and _is_due(done, last, config.evaluate_every)
        # What is measured is kept first: an evaluation may take longer than patience does.
        kept = last or due or done % config.checkpoint_every == 0
        if kept:
            _keep(folder, model, optimizer, ema, config, done, export)
        try:
            if progress is not None:
                progress(done, config.steps)
        except KeyboardInterrupt:
            if not kept and world() == 1:  # several would wait for each other
                _keep(folder, model, optimizer, ema, config, done, export)
            raise
        if evaluate is not None and due:
            _measure(model, ema, evaluate, log, done)
    if ema is not None:
        ema.swap(model)
    if log is not None:
        log.close()
    return model


def _is_due(done: int, last: bool, every: int | None) -> bool:
    return last or (every is not None and done % every == 0)


def _measure(
    model: nn.Module, ema: Ema | None, evaluate: Evaluate, log: RunLog | None, done: int
) -> None:
    """Log what an evaluation says, once; in the first process alone, the others wait."""
    if log is not None and not log.has("evaluation", done):
        with _mean(model, ema):
            log.write("evaluation", done, dict(evaluate(model, done)))
    wait()


def _prepare(model: nn.Module, config: LoopConfig) -> None:
    if not config.train_embeddings:
        freeze_embeddings(model)
    for module in model.modules():
        if isinstance(module, CrossEncoder):
            module.checkpoint_layers = config.recompute
            if config.compile:
                module.compile_layers()


def run_step(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    step: int,
) -> StepReport:
    """One optimiser step over all its batches.

    Raises InputError for a step without items, BackendError for a loss or gradients that are not
    finite, and where memory runs out.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    sizes = [objective.size(b) for b in batches]
    items, tokens = (sum(column) for column in zip(*sizes, strict=True))
    if not items:
        raise InputError(f"expected at least one item in step {step + 1}, got none")
    loss = 0.0
    logged: dict[str, float] = {}
    for i in range(rank(), len(batches), world()):
        # A batch's dropout is its own, whichever process has it and whatever was before it.
        torch.manual_seed(((config.seed * 1_000_003 + step) * 1_009 + i) % (1 << 63))
        part, sums = _backward(model, objective, batches[i], config, items)
        loss += part
        for name, value in sums.items():
            logged[name] = logged.get(name, 0.0) + value
    parameters = list(trainable(model).values())
    loss, logged = reduce_step(parameters, loss, logged)
    if not math.isfinite(loss):
        raise BackendError(
            f"expected a finite loss, got {loss} at step {step + 1}; begin anew, in another "
            "folder, with a lower learning rate or dtype fp32, or look for an empty text in this "
            "step's groups"
        )
    limit = math.inf if config.clip_norm is None else config.clip_norm
    grad_norm = float(nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(grad_norm):
        raise BackendError(f"expected finite gradients, got norm {grad_norm} at step {step + 1}")
    factor = learning_rate_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    optimizer.step()
    return StepReport(loss=loss, grad_norm=grad_norm, items=items, tokens=tokens, logged=logged)


def _backward(
    model: nn.Module, objective: Objective, batch: Any, config: LoopConfig, items: int
) -> tuple[float, dict[str, float]]:
    device = next(model.parameters()).device
    try:
        with autocast(config.dtype, device.type):
            total, sums = objective.loss(model, batch)
        torch.autograd.backward(total / items)
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


# ---------------------------------------------------------------- checkpoints


def _keep(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    config: LoopConfig,
    done: int,
    export: Export | None,
) -> None:
    if rank() == 0:
        weights = {n: p.detach() for n, p in trainable(model).items()}
        state = {"step": done, "weights": weights, "optimizer": optimizer.state_dict()}
        state |= {"ema": None if ema is None else ema.mean, "config": to_mapping(config)}
        if export is not None:  # before the state: whoever goes on from that need not look back
            with _mean(model, ema):
                export(model, done)
        save_state(folder, state)
    wait()


def _resume(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    config: LoopConfig,
    say: Callable[[str], None] | None,
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
    told = [(group["peak"], group["weight_decay"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, (peak, decay) in zip(optimizer.param_groups, told, strict=True):
        group.update(peak=peak, weight_decay=decay)
    step = int(state["step"])
    changed = changes(state["config"], to_mapping(config))
    if changed and say is not None and rank() == 0:
        say(f"goes on from step {step} with other settings than it began with: {changed}")
    return step


@contextmanager
def _mean(model: nn.Module, ema: Ema | None) -> Iterator[None]:
    """The weights that a run is judged by, for as long as the block lasts."""
    if ema is not None:
        ema.swap(model)
    try:
        yield
    finally:
        if ema is not None:
            ema.swap(model)
