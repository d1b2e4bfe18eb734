"""The process of one turn: opens the model in one setting, scores, tells what it cost.

    python -m polyrank.bench.contender < job.json

Messages: `say` (a line for people), `first_logit`, `turn`.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polyrank.bench.jobs import Job, Send, Turn, serve
from polyrank.reranker import Reranker
from polyrank.values import Encoding

__all__: list[str] = []


class _Telling(logging.Handler):
    """Sends what polyrank logs, such as that it converts a model."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send({"say": record.getMessage()})


def _work(given: dict[str, Any], send: Send) -> None:
    job = Job(**{**given, **{k: [tuple(p) for p in given[k]] for k in ("pairs", "one_query")}})
    logging.getLogger("polyrank").addHandler(_Telling(send))
    with Reranker(
        job.model,
        revision=job.revision,
        backend=job.backend,
        device=job.device,
        dtype=job.dtype,
        max_length=job.max_length,
        threads=job.threads,
        offline=True,  # the parent has fetched it
    ) as reranker:
        if job.pairs:
            reranker.logits(job.pairs[:1], show_progress=False)
            send({"first_logit": True})
            send({"turn": asdict(_turn(reranker, job))})


def _turn(reranker: Reranker, job: Job) -> Turn:
    def score(pairs: list[tuple[str, str]]) -> tuple[list[Encoding], list[float]]:
        encodings = reranker.encode(pairs)
        return encodings, reranker.submit(encodings).result().tolist()

    score(job.one_query)  # to warm up
    query_seconds, _ = _timed(lambda: score(job.one_query), least=3, most=20, seconds=2.0)
    if job.device != "cpu":
        score(job.pairs)  # where shapes that come for the first time cost most
    seconds, (encodings, logits) = _timed(lambda: score(job.pairs), least=1, most=5, seconds=1.0)
    return Turn(
        seconds=statistics.median(seconds),
        query_seconds=query_seconds,
        logits=logits,
        lengths=[len(e) for e in encodings],
        cut=sum(e.truncated for e in encodings),
        peak_bytes=_peak_bytes(),
        device_peak_bytes=_device_peak_bytes(job.device),
    )


def _timed(
    run: Callable[[], Any], *, least: int, most: int, seconds: float
) -> tuple[list[float], Any]:
    """Seconds of each run, and what the last one gave; more runs while `seconds` are not over."""
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < seconds):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return times, result


def _peak_bytes() -> int | None:
    """Most memory that this process held."""
    if sys.platform == "linux":
        # getrusage would count what the parent held when it started us.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_peak_bytes(device: str) -> int | None:
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    serve(_work)
