"""Several processes as one: join them, and sum what each has. Started by `torchrun`.

A process takes every n-th batch of a step, so a step means the same with any number of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["joined", "rank", "reduce_step", "world"]


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Go on when all processes are here."""
    if world() > 1:
        dist.barrier()


@contextmanager
def joined(device: str = "cpu") -> Iterator[str]:
    """Join the processes that torchrun started, if it did; gives this process's device."""
    if "LOCAL_RANK" not in os.environ:
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # The others wait while the first one evaluates.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=12))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def reduce_step(
    parameters: list[nn.Parameter], loss: float, logged: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Sum gradients (in place), loss and sums over all processes: one reduction a step.

    Processes may have had different numbers of batches, so gradients are not reduced earlier.
    """
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if world() == 1:
        return loss, logged
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
    everyone: list[Any] = [None] * world()
    dist.all_gather_object(everyone, (loss, logged))
    merged: dict[str, float] = {}
    for _, sums in everyone:
        for name, value in sums.items():
            merged[name] = merged.get(name, 0.0) + value
    return sum(part for part, _ in everyone), merged
