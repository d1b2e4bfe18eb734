"""Malformed requests to a server that runs: what it answers, whether it lives, and its memory.

Ten thousand for each dialect, seeded: bodies of wrong types, cut, giant, deep, of other encodings
(`tests/server/malformed.py`), and one in ten with HTTP around it that is itself wrong
(`tests/server/framing.py`). An answer must be a 4xx in the dialect's form, or a 200 in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from polyrank.server.dialect import Dialect  # noqa: E402
from polyrank.server.dialects import find_dialects  # noqa: E402
from server.framing import FRAMINGS, Wire  # noqa: E402
from server.malformed import bodies, good_bodies  # noqa: E402

CONNECTIONS = 8
MOST_GROWTH = 24 << 20
"""Bytes that the server's memory may grow in the second half of the requests. In the first it does,
as giant and deep bodies leave it in pieces; a leak of a kilobyte a request would go on."""


class Server:
    """A process that serves, its address and its memory."""

    def __init__(self, model: str | None) -> None:
        command = [sys.executable, "-m", "polyrank", "serve", "--port", "0", "--no-page"]
        command += ["--receive-timeout-seconds", "0.5", "--log-level", "warning"]
        command += ["-m", model] if model else []
        self.log = open(os.devnull, "w")  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)", self.process.stdout.readline())
        assert found is not None, "the server did not start"
        self.address = (found[1], int(found[2]))

    def resident(self) -> int:
        """Bytes of memory it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10  # type: ignore[index]


@contextmanager
def serving(model: str | None) -> Iterator[Server]:
    server = Server(model)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0, "it did not end as it should"
        server.log.close()


def send(server: Server, dialect: Dialect, requests: int, seed: int) -> Counter[str]:
    """What one client's requests come to, sent to the dialect's paths in turns."""
    seen: Counter[str] = Counter()
    source = Random(f"{dialect.name} {seed}")
    streams = [(path, bodies(good, source)) for path, good in good_bodies(dialect).items()]
    framings = [name for name in FRAMINGS if name != "length"]
    wire = Wire(server.address)
    for n in range(requests):
        path, stream = streams[n % len(streams)]
        body = next(stream)
        framing = source.choice(framings) if source.random() < 0.1 else "length"
        try:
            status = wire.send(path, body, framing, source)
        except AssertionError as error:
            seen["wrong"] += 1
            print(f"{path} {body.kind} {framing} {body.data[:300]!r}: {error}", flush=True)
        else:
            seen[str(status)] += 1
    wire.close()
    return seen


def fuzz(server: Server, dialect: Dialect, requests: int, seed: int) -> Counter[str]:
    """What is answered to so many requests over several connections."""
    share = requests // CONNECTIONS
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        clients = [
            threads.submit(send, server, dialect, share, seed + n) for n in range(CONNECTIONS)
        ]
        return sum((client.result() for client in clients), Counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="for each dialect")
    parser.add_argument("--model", help="a model's folder; without it, the embedded model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    seen: dict[str, Counter[str]] = {}
    memory: dict[str, list[float]] = {}
    with serving(options.model) as server:
        halves = []
        for half in range(2):
            for dialect in find_dialects():
                began = time.monotonic()
                answers = fuzz(server, dialect, options.requests // 2, options.seed + 1000 * half)
                seen[dialect.name] = seen.get(dialect.name, Counter()) + answers
                memory.setdefault(dialect.name, []).append(round(server.resident() / 2**20, 1))
                seconds = time.monotonic() - began
                facts = f"{dialect.name:10} {seconds:5.1f} s {memory[dialect.name][-1]:7.1f} MiB"
                print(facts, dict(sorted(answers.items())), flush=True)
            halves.append(server.resident())
        grown = halves[1] - halves[0]
        alive = server.process.poll() is None
    results = {name: dict(sorted(answers.items())) for name, answers in seen.items()}
    wrong = sum(row.get("wrong", 0) for row in results.values())
    report = {
        "requests_of_a_dialect": options.requests,
        "answers": results,
        "resident_mib_after_each_half": memory,
        "wrong": wrong,
        "alive": alive,
    }
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{wrong} wrong answers; memory grew by {grown / 2**20:.1f} MiB in the second half")
    if wrong or not alive or grown > MOST_GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    main()
