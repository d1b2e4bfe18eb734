"""What crosses rooms: frozen values and the two contracts. No torch, no file, no thread."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

__all__ = [
    "Backend",
    "Batch",
    "Document",
    "Encoding",
    "Pair",
    "Ranked",
    "Ranking",
    "Scorer",
    "pack",
    "parts_of",
]

Document = str | Mapping[str, Any]
"""A text, or a mapping with `text` and optionally `title`, `id` and fields that pass through."""
Pair = tuple[str, Document]
"""(query, document)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """One pair as token ids, and what truncation took from it. Counts are in tokens."""

    ids: npt.NDArray[np.int32]
    """[L] token ids with the template's special tokens."""
    type_split: int
    """Token types are 0 before this position and 1 from it on; L where the family has one type."""
    tokens_given: int
    """L before anything was cut."""
    query_cut: int = 0
    """Tokens taken from the end of the query."""
    text_cut: int = 0
    """Tokens taken from the end of the text."""
    limit_cut: int = 0
    """How many of these the limit took; the others are over `max_text_tokens`."""
    windows: tuple[Encoding, ...] = ()
    """The parts that a pair over the limit is read in, `ids` being the first; the pair's logit is
    the highest of theirs. None: the pair is read whole."""

    def __len__(self) -> int:
        """Tokens of the pair that the network reads, each counted once."""
        return self.tokens_given - self.query_cut - self.text_cut if self.windows else len(self.ids)

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return self.query_cut > 0 or self.text_cut > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pairs laid end to end, without padding. T tokens, S pairs."""

    ids: npt.NDArray[np.int32]
    """[T] token ids."""
    type_ids: npt.NDArray[np.int32]
    """[T] token types."""
    cu_lengths: npt.NDArray[np.int32]
    """[S + 1] cumulative lengths: pair s is `ids[cu_lengths[s]:cu_lengths[s + 1]]`."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """[S] tokens of each pair."""
        return np.diff(self.cu_lengths).astype(np.int32)


def parts_of(encodings: Sequence[Encoding]) -> tuple[list[Encoding], npt.NDArray[np.intp]]:
    """What the network reads of pairs, windows apart, and [N] where each pair's parts begin."""
    parts = [part for e in encodings for part in e.windows or (e,)]
    sizes = [len(e.windows) or 1 for e in encodings]
    return parts, np.cumsum([0, *sizes], dtype=np.intp)[:-1]


def pack(encodings: Sequence[Encoding]) -> Batch:
    """Lay encodings end to end in the order given."""
    lengths = np.fromiter((len(e) for e in encodings), np.int32, len(encodings))
    cu_lengths = np.zeros(len(encodings) + 1, np.int32)
    np.cumsum(lengths, out=cu_lengths[1:])
    type_ids = np.zeros(int(cu_lengths[-1]), np.int32)
    for start, end, e in zip(cu_lengths[:-1], cu_lengths[1:], encodings, strict=True):
        type_ids[start + e.type_split : end] = 1
    return Batch(
        ids=np.concatenate([e.ids for e in encodings]), type_ids=type_ids, cu_lengths=cu_lengths
    )


class Backend(Protocol):
    """A network on one device."""

    name: str
    """Engine, device and dtype, as people read it: `torch cpu fp32`."""
    max_batch_tokens: int
    """Tokens of one forward pass that run fastest here."""
    parallel: int
    """Forward passes that may run at once, each on a thread of its own."""

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        """[S] raw logits in batch order.

        With `all_threads` no other pass runs meanwhile; without, up to `parallel` do, and each
        keeps to one thread. The logits are the same either way.
        """
        ...

    def close(self) -> None:
        """Give the memory back. The backend is not used again."""
        ...


class Scorer(Protocol):
    """Anything that judges pairs: our models, rivals, plain BM25."""

    def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """[N] relevance, higher is better, in input order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One document in its place of a ranking."""

    index: int
    """Position of the document in the input."""
    score: float
    """Relevance in [0, 1]: the sigmoid of the logit, or what a calibration makes of it."""
    logit: float
    """The network's raw answer, fp32; rankings are made by it."""
    document: Document = field(repr=False)
    """The document exactly as it was given."""
    tokens: int
    """Tokens of the pair that the network read."""
    tokens_given: int
    """Tokens of the pair before truncation."""
    query_cut: int = 0
    """How many tokens of the query were cut; the others that are missing are the text's."""

    @property
    def truncated(self) -> bool:
        """Whether the pair was cut to fit the limit."""
        return self.tokens < self.tokens_given

    @property
    def id(self) -> Any:
        """The document's own `id`; its index where it has none."""
        own = None if isinstance(self.document, str) else self.document.get("id")
        return self.index if own is None else own

    @property
    def text(self) -> str:
        """The document's text, without its title."""
        return self.document if isinstance(self.document, str) else str(self.document["text"])


@dataclass(frozen=True, slots=True, repr=False)
class Ranking(Sequence[Ranked]):
    """Documents of one query, best first; ties keep input order."""

    query: str
    items: tuple[Ranked, ...]

    @overload
    def __getitem__(self, i: int) -> Ranked: ...
    @overload
    def __getitem__(self, i: slice) -> Ranking: ...
    def __getitem__(self, i: int | slice) -> Ranked | Ranking:
        if isinstance(i, slice):
            return Ranking(self.query, self.items[i])
        return self.items[i]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.items)

    @property
    def truncated(self) -> int:
        """How many of these pairs were cut."""
        return sum(r.truncated for r in self.items)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain rows, ready for JSON where the documents are; best first.

        A mapping's own fields come along, those of these names in `given`; `rank` counts from 1.
        """
        return [
            with_fields(
                {"text": r.document} if isinstance(r.document, str) else r.document,
                {
                    "rank": rank,
                    "index": r.index,
                    "score": r.score,
                    "logit": r.logit,
                    "tokens": r.tokens,
                    "tokens_given": r.tokens_given,
                    "query_cut": r.query_cut,
                    "truncated": r.truncated,
                },
            )
            | {"id": r.id}
            for rank, r in enumerate(self.items, start=1)
        ]

    def __repr__(self) -> str:
        lines = [f"Ranking({_short(self.query, 60)!r}, {len(self)} documents)"]
        for rank, r in enumerate(self.items[:10], start=1):
            cut = f"  cut {r.tokens_given} -> {r.tokens} tokens" if r.truncated else ""
            lines.append(f"{rank:>4}  {r.score:.4f}  [{r.id}] {_short(r.text, 70)}{cut}")
        if len(self) > 10:
            lines.append(f"      ... {len(self) - 10} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{rank}</td><td>{r.score:.4f}</td><td>{html.escape(str(r.id))}</td>"
            f"<td dir='auto' style='text-align:start'>{html.escape(_short(r.text, 300))}</td>"
            f"<td>{r.tokens}{f' of {r.tokens_given}' if r.truncated else ''}</td></tr>"
            for rank, r in enumerate(self.items[:100], start=1)
        )
        more = f"<p>{len(self) - 100} more</p>" if len(self) > 100 else ""
        return (
            f"<table><caption dir='auto'>{html.escape(_short(self.query, 300))}</caption>"
            "<thead><tr><th>rank</th><th>score</th><th>id</th><th>text</th><th>tokens</th></tr>"
            f"</thead><tbody>{rows}</tbody></table>{more}"
        )


def with_fields(given: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """A row of both; what was given under a name of ours, or as `given`, is in its `given`."""
    taken = {name: value for name, value in given.items() if name in ours or name == "given"}
    return {**given, **ours, **({"given": taken} if taken else {})}


def _short(text: str, width: int) -> str:
    line = " ".join(text[: 4 * width].split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"
