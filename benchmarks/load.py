"""A load of mixed requests, the client that sends it, and what its answers must be.

Requests of 1 to 200 documents of 10 to 400 tokens, in every dialect, from a pool whose scores are
known. Knows nothing of servers but their address.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parent.parent
SMALL = 5
"""Documents of the requests whose latency is reported."""
SENTENCES = (
    "Wie viel Wasser braucht eine Tomate im Sommer, und wann gießt man sie am besten?",
    "La photosynthèse transforme la lumière du soleil en énergie chimique pour les plantes.",
    "¿Cuánto tarda la luz de una estrella lejana en llegar hasta nosotros?",
    "Столица страны лежит на берегу большой реки, которая зимой замерзает.",
    "機械学習のモデルは大量のデータから規則を学びます。",
    "تحتاج النباتات إلى الماء والضوء لكي تنمو بسرعة في فصل الربيع",
    "सूर्य की रोशनी से बिजली बनाई जा सकती है और पानी गरम किया जा सकता है",
    "저녁에는 강가를 따라 천천히 걸으며 새들의 노래를 들었다",
)


@dataclass(frozen=True)
class Form:
    """How a dialect asks, and where its answer has the scores."""

    path: str
    body: Callable[[str, list[str]], dict[str, Any]]
    rows: Callable[[Any], list[dict[str, Any]]]
    score: str = "relevance_score"


def _named(query: str, documents: list[str]) -> dict[str, Any]:
    return {"model": "m", "query": query, "documents": documents}


DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"
FORMS = (
    Form("/rerank", lambda q, d: {"query": q, "texts": d}, lambda a: a, "score"),
    Form("/v2/rerank", _named, lambda a: a["results"]),
    Form("/v1/rerank", _named, lambda a: a["results"]),
    Form("/voyage/v1/rerank", _named, lambda a: a["data"]),
    Form(DASHSCOPE, lambda q, d: {"model": "m", "input": {"query": q, "documents": d}},
         lambda a: a["output"]["results"]),
    Form("/v1/score", lambda q, d: {"text_1": q, "text_2": d, "truncate_prompt_tokens": -1},
         lambda a: a["data"], "score"),
    Form("/infinity/rerank", _named, lambda a: a["results"]),
)  # fmt: skip
RIVAL = (Form("/rerank", _named, lambda a: a["results"]),)
"""What other servers speak."""


@dataclass(kw_only=True)
class Job:
    """A request of the pool, and what is known of it."""

    query: str
    documents: list[str]
    tokens: int = 0
    scores: list[float] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(self.query, document) for document in self.documents]


def pool(size: int, count: Callable[[str], int], seed: int = 0) -> list[Job]:
    """Requests of many sizes; `count`: a word's tokens. Most have few documents, a few have 200."""
    source = Random(seed)
    prose = " ".join(p.read_text("utf-8") for p in sorted((ROOT / "docs").glob("*.md")))
    words = re.findall(r"[A-Za-z]{2,}", prose) + [w for s in SENTENCES for w in s.split()] * 40
    source.shuffle(words)
    length = {word: count(word) for word in set(words)}

    def text(tokens: int) -> str:
        chosen, total = [], 0
        while total < tokens:
            chosen.append(source.choice(words))
            total += length[chosen[-1]]
        return " ".join(chosen)

    def documents() -> list[str]:
        draws = source.random(), source.randint(1, 20), source.randint(20, 100)
        number = SMALL if draws[0] < 0.6 else draws[1] if draws[0] < 0.9 else draws[2]
        number = 200 if draws[0] > 0.98 else number
        return [
            text(min(400, max(10, int(source.lognormvariate(4.4, 0.7))))) for _ in range(number)
        ]

    return [Job(query=text(source.randint(3, 12)), documents=documents()) for _ in range(size)]


@dataclass
class Seen:
    """What a load came to."""

    seconds: float
    """The time in which answers count."""
    small_seconds: list[float] = field(default_factory=list)
    requests: int = 0
    documents: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    largest_difference: float = 0.0

    def count(self, job: Job, seconds: float) -> None:
        """Note an answer, and how long it took."""
        self.requests += 1
        self.documents += len(job.documents)
        self.tokens += job.tokens
        if len(job.documents) == SMALL:
            self.small_seconds.append(seconds)

    def report(self) -> dict[str, Any]:
        """Figures as JSON."""
        small = sorted(self.small_seconds)
        return {
            "requests": self.requests,
            "documents": self.documents,
            "tokens_per_second": round(self.tokens / self.seconds),
            "seconds": round(self.seconds, 1),
            "lost": self.lost,
            "wrong": len(self.wrong),
            "first_wrong": self.wrong[:3],
            "largest_difference": self.largest_difference,
            "small_requests": len(small),
            "small_p50_seconds": round(_quantile(small, 0.5), 3),
            "small_p99_seconds": round(_quantile(small, 0.99), 3),
        }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def load(
    address: tuple[str, int],
    jobs: Sequence[Job],
    forms: Sequence[Form],
    *,
    connections: int,
    warm_seconds: float,
    seconds: float,
    tolerance: float,
) -> Seen:
    """Keep so many connections busy for a time. Answers from after `warm_seconds` on count."""
    bodies = [
        [json.dumps(f.body(j.query, j.documents), ensure_ascii=False).encode() for f in forms]
        for j in jobs
    ]
    seen = Seen(seconds)
    began = perf_counter()

    async def client(number: int) -> None:
        source = Random(number)
        reader, writer = await asyncio.open_connection(*address, limit=1 << 24)
        turn = 0
        while (sent := perf_counter()) - began < warm_seconds + seconds:
            which, how = source.randrange(len(jobs)), source.randrange(len(forms))
            job, form, own = jobs[which], forms[how], f"{number}-{turn}"
            turn += 1
            head = (
                f"POST {form.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                f"x-request-id: {own}\r\ncontent-length: {len(bodies[which][how])}\r\n\r\n"
            )
            writer.write(head.encode() + bodies[which][how])
            try:
                answer = await _answer(reader)
            except (OSError, EOFError) as error:
                seen.lost += 1
                seen.wrong.append(f"{own}: {error!r}")
                writer.close()
                reader, writer = await asyncio.open_connection(*address, limit=1 << 24)
                continue
            now = perf_counter()
            _check(seen, job, form, own, answer, tolerance)
            # What was under way at the start of the time counts; what is at its end does not.
            if warm_seconds <= now - began <= warm_seconds + seconds:
                seen.count(job, now - sent)
        writer.close()

    async def all_clients() -> None:
        await asyncio.gather(*(client(n) for n in range(connections)))

    asyncio.run(all_clients())
    return seen


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(status.split()[1]), headers, body


def _check(
    seen: Seen,
    job: Job,
    form: Form,
    own: str,
    answer: tuple[int, dict[str, str], bytes],
    tolerance: float,
) -> None:
    """Note where an answer is not the offline scores of its request's pairs."""
    status, headers, body = answer
    if status != 200 or headers.get("x-request-id", own) != own:
        seen.wrong.append(f"{own}: {status} {headers} {body[:200]!r}")
        return
    rows = form.rows(json.loads(body))
    scores = {row["index"]: row[form.score] for row in rows}
    if len(rows) != len(job.scores) or sorted(scores) != list(range(len(rows))):
        seen.wrong.append(f"{own}: {len(rows)} rows for {len(job.scores)} documents")
        return
    difference = max(abs(scores[i] - expected) for i, expected in enumerate(job.scores))
    seen.largest_difference = max(seen.largest_difference, difference)
    if difference > tolerance:
        seen.wrong.append(f"{own}: {form.path} is {difference} away from its offline scores")
