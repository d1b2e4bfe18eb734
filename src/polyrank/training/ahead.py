"""Batches of the next steps, made while a step runs. Knows no model."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from polyrank.errors import InputError

__all__ = ["made_ahead"]

Make = Callable[[int], Any]


def made_ahead(make: Make, steps: range, *, processes: int = 0) -> Iterator[tuple[int, Any]]:
    """(step, make(step)) in order, the next ones begun before they are asked for.

    In a thread, or in so many processes, where a GPU is faster than one thread makes tokens. What
    `make` raises is raised at its own step. Raises InputError for processes on a system that
    cannot fork: their copies of `make` come from there.
    """
    made = _forked(make, steps, processes) if processes else _threaded(make, steps)
    yield from zip(steps, made, strict=True)


def _threaded(make: Make, steps: range, ahead: int = 2) -> Iterator[Any]:
    pool = ThreadPoolExecutor(1, "batches")
    try:
        begun: deque[Future[Any]] = deque(pool.submit(make, n) for n in steps[:ahead])
        for at in range(len(steps)):
            made = begun.popleft().result()
            begun.extend(pool.submit(make, n) for n in steps[at + ahead : at + ahead + 1])
            yield made
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _forked(make: Make, steps: range, processes: int) -> Iterator[Any]:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise InputError(
            f"expected loader_processes 0 on a system that cannot fork, got {processes}"
        )
    return iter(
        DataLoader(
            _Made(make),
            batch_size=None,
            sampler=steps,
            num_workers=processes,
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            multiprocessing_context="fork",
        )
    )


@dataclass(frozen=True)
class _Made(Dataset[Any]):
    make: Make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)


def _as_it_is(made: Any) -> Any:
    return made


def _begin(_worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that trains decides
        signal.signal(number, signal.SIG_IGN)
