"""Scores on disk, by model and pair: what was scored once is not scored again. No model."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyrank.evaluation.values import Judged
from polyrank.values import Pair

__all__ = ["ROW", "ScoreCache", "hash_pair"]

ROW = np.dtype(
    [("pair", "V16"), ("score", "<f4"), ("tokens", "<i4"), ("given", "<i4"), ("seconds", "<f4")]
)
"""What is kept of a pair, 32 bytes. Token counts are -1 where the scorer does not tell; seconds are
its share of the call that scored it."""
Rows = npt.NDArray[np.void]


def hash_pair(pair: Pair) -> bytes:
    """16 bytes that stand for a query with a document's title and text."""
    query, document = pair
    title, text = (
        ("", document)
        if isinstance(document, str)
        else (str(document.get("title") or ""), str(document["text"]))
    )
    parts = json.dumps([query, title, text]).encode()
    return hashlib.blake2b(parts, digest_size=16).digest()


class ScoreCache:
    """Scores of one model, in one append-only file named by its identity.

    Every `add` is on disk when it returns, so whatever ends a run, what is done stays. A row that
    was half written is dropped. `folder`: None keeps everything in memory.
    """

    def __init__(self, folder: Path | None, name: str, identity: Mapping[str, Any]) -> None:
        stated = json.dumps(dict(identity), sort_keys=True, ensure_ascii=False, indent=1)
        self._file = None
        self._rows: Rows = np.empty(0, ROW)
        if folder is not None:
            key = hashlib.sha256(stated.encode()).hexdigest()[:16]
            slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:40] or "scorer"
            path = folder / f"{slug}-{key}.scores"
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".json").write_text(stated + "\n", encoding="utf-8")
            self._file = path.open("ab")
            whole = path.stat().st_size // ROW.itemsize
            self._file.truncate(whole * ROW.itemsize)
            self._rows = np.fromfile(path, ROW, whole)
        self._places = {row.tobytes(): n for n, row in enumerate(self._rows["pair"])}

    def __len__(self) -> int:
        return len(self._places)

    def find(self, hashes: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """[N] row numbers of pairs, for `rows`; -1: not scored yet."""
        return np.array([self._places.get(h, -1) for h in hashes], np.int64)

    def rows(self, numbers: npt.NDArray[np.int64]) -> Rows:
        """The rows of these numbers."""
        return self._rows[numbers]

    def add(self, hashes: Sequence[bytes], judged: Judged, seconds: float) -> None:
        """Keep scores of pairs that `seconds` of one call went into."""
        rows = np.zeros(len(hashes), ROW)
        rows["pair"] = np.frombuffer(b"".join(hashes), "V16")
        rows["score"] = judged.scores
        rows["tokens"] = -1 if judged.tokens is None else judged.tokens
        rows["given"] = -1 if judged.tokens_given is None else judged.tokens_given
        rows["seconds"] = seconds / max(1, len(hashes))
        start = len(self._rows)
        self._rows = np.concatenate([self._rows, rows])
        self._places.update({h: start + n for n, h in enumerate(hashes)})
        if self._file is not None:
            self._file.write(rows.tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
