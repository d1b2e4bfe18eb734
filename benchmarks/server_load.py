"""A server under 64 connections of mixed requests, beside offline scoring and beside rivals.

    python benchmarks/server_load.py --minutes 5 --output benchmarks/results/server_load.json

Every answer is compared with the score of the same pair from `Reranker`, in this process. Offline
scoring is timed before and after the load, so that a busy moment of the machine shows. Rivals serve
the same weights, exported in fp32: `--rival-python` is an interpreter with fastapi and
sentence-transformers, `--infinity` the program of infinity-emb.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import load
from polyrank import Reranker
from transformers_folder import write_for_transformers

HERE = Path(__file__).parent
EQUAL = 1e-5
ROUNDED = 0.2
"""How far rivals in fp32 may be from an int8 network's scores."""


def offline(reranker: Reranker, jobs: Sequence[load.Job]) -> tuple[list[float], float]:
    """All scores of the pool in one call, and tokens per second."""
    pairs = [pair for job in jobs for pair in job.pairs]
    began = time.perf_counter()
    scores = reranker.score(pairs)
    rate = sum(job.tokens for job in jobs) / (time.perf_counter() - began)
    return [float(s) for s in scores], rate


def known_pool(reranker: Reranker, size: int) -> tuple[list[load.Job], float]:
    """The pool with its tokens and scores."""
    special = len(reranker.encode([("", "")])[0])
    jobs = load.pool(size, lambda word: len(reranker.encode([("", word)])[0]) - special)
    for job in jobs:
        job.tokens = sum(len(e) for e in reranker.encode(job.pairs))
    reranker.score(jobs[0].pairs)
    scores, rate = offline(reranker, jobs)
    for job in jobs:
        job.scores, scores = scores[: len(job.documents)], scores[len(job.documents) :]
    return jobs, rate


@contextmanager
def running(command: Sequence[str], port: int, seconds: float = 120) -> Iterator[tuple[str, int]]:
    """A server as a process, from when its port is open."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
    )  # fmt: skip
    try:
        until = time.monotonic() + seconds
        while not _healthy(port):
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < until, f"{command[0]} did not start"
            time.sleep(0.2)
        yield ("127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(60)


def _healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rivals(options: argparse.Namespace, folder: Path, port: int) -> dict[str, list[str]]:
    """The commands of other servers, by name."""
    commands = {}
    if options.rival_python:
        script = [
            options.rival_python,
            str(HERE / "cross_encoder_server.py"),
            str(folder),
            str(port),
        ]
        commands["fastapi + sentence-transformers"] = script
        commands["the same, one request at a time"] = [*script, "serial"]
    if options.infinity:
        commands["infinity"] = [
            options.infinity, "v2", "--model-id", str(folder), "--port", str(port), "--engine",
            "torch", "--device", "cpu", "--served-model-name", "m", "--no-bettertransformer",
        ]  # fmt: skip
    return commands


def export(model: str | None, folder: Path) -> None:
    """The served model's weights as transformers reads them."""
    from polyrank.checkpoint import load_checkpoint
    from polyrank.models import find_model

    source = find_model(model, revision=None, offline=True).path
    write_for_transformers(folder, load_checkpoint(source), source / "tokenizer.json", 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rival-minutes", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--pool", type=int, default=150, help="different requests")
    parser.add_argument("--model", help="without it, the embedded one")
    parser.add_argument("--rival-python")
    parser.add_argument("--infinity")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"connections": options.connections}

    with Reranker(options.model) as reranker:
        jobs, before = known_pool(reranker, options.pool)
        results["model"] = f"{reranker.name} ({reranker.backend_name})"
        port = free_port()
        command = [sys.executable, "-m", "polyrank", "serve", "--port", str(port)]
        command += ["--log-level", "warning", "--request-timeout-seconds", "600"]
        command += ["-m", options.model] if options.model else []
        with running(command, port) as address:
            seen = load.load(
                address, jobs, load.FORMS, connections=options.connections, warm_seconds=5,
                seconds=60 * options.minutes, tolerance=EQUAL,
            )  # fmt: skip
        _, after = offline(reranker, jobs)
    own = seen.report()
    results["offline_tokens_per_second"] = {"before": round(before), "after": round(after)}
    served = own["tokens_per_second"]
    results["polyrank"] = own | {
        "share_of_offline": [round(served / before, 3), round(served / after, 3)]
    }
    print(json.dumps(results, indent=1), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, port = Path(temporary), free_port()
        export(options.model, folder)
        for name, command in rivals(options, folder, port).items():
            with running(command, port) as address:
                seen = load.load(
                    address, jobs, load.RIVAL, connections=options.connections, warm_seconds=5,
                    seconds=60 * options.rival_minutes, tolerance=ROUNDED,
                )  # fmt: skip
            results[name] = seen.report()
            print(name, json.dumps(results[name], indent=1), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    if own["wrong"] or own["lost"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
