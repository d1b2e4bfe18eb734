"""A reranking server as a judge: the dialects of TEI, and of Cohere, Jina and those like them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urldefrag, urlsplit

import numpy as np

from polyrank.errors import BackendError, InputError
from polyrank.evaluation.values import Judged
from polyrank.tokenization import document_text
from polyrank.values import Pair

__all__ = ["HttpJudge"]

_BATCH = {"tei": 32, "cohere": 1000}  # texts of a request: what the servers take by default
_TIMEOUT = 300.0  # seconds


class HttpJudge:
    """A URL that ends in /v1/rerank or /v2/rerank speaks Cohere's dialect; others TEI's /rerank.

    A fragment names the model: `https://host/v2/rerank#rerank-v3.5`. Raises BackendError where the
    server does not answer as expected. Tokens are not told by these servers.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        url, model = urldefrag(url.rstrip("/"))
        if urlsplit(url).username:
            raise InputError("expected a URL without a password; pass the key as api_key")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._dialect = "cohere" if url.endswith(("/v1/rerank", "/v2/rerank")) else "tei"
        base = url.removesuffix("/rerank")
        self._url = url if self._dialect == "cohere" else f"{base}/rerank"
        self._model = model or None
        info = self._info(f"{base}/info") if self._dialect == "tei" else {}
        self.name = model or str(info.get("model_id") or urlsplit(url).netloc)
        self.identity: Mapping[str, Any] = {
            "kind": "http", "url": self._url, "dialect": self._dialect, "model": self.name,
            "revision": info.get("model_sha"),
            # A server may change its model from one day to the next, unless it names the commit.
            **({} if info.get("model_sha") else {"cached": False}),
        }  # fmt: skip

    def judge(self, pairs: Sequence[Pair]) -> Judged:
        """Scores of pairs; a run of pairs with one query is one request or a few."""
        scores = np.full(len(pairs), np.nan, np.float32)
        start = 0
        while start < len(pairs):
            end, query = start, pairs[start][0]
            while end < min(len(pairs), start + _BATCH[self._dialect]) and pairs[end][0] == query:
                end += 1
            texts = [document_text(pairs[i][1], f"pairs[{i}]") for i in range(start, end)]
            for place, score in self._ask(query, texts):
                scores[start + place] = score
            start = end
        return Judged(scores=scores)

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, query: str, texts: list[str]) -> list[tuple[int, float]]:
        if self._dialect == "tei":
            body: dict[str, Any] = {
                "query": query, "texts": texts, "raw_scores": True, "truncate": True,
            }  # fmt: skip
        else:
            body = {"query": query, "documents": texts, "top_n": len(texts)}
            if self._model:
                body["model"] = self._model
        answer = self._send(self._url, body)
        field = "score" if self._dialect == "tei" else "relevance_score"
        try:
            rows = answer if self._dialect == "tei" else answer["results"]
            found = [(int(row["index"]), float(row[field])) for row in rows]
        except (KeyError, TypeError, ValueError):
            raise BackendError(
                f"expected a list of `index` and `{field}` from {self._url}, got "
                f"{json.dumps(answer)[:200]}; check that the URL speaks {self._dialect}'s dialect"
            ) from None
        if sorted(place for place, _ in found) != list(range(len(texts))):
            raise BackendError(
                f"expected one score for each of {len(texts)} texts from {self._url}, got "
                f"{len(found)}"
            )
        return found

    def _send(self, url: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode("utf-8", "replace")
            raise BackendError(
                f"expected scores from {url}, got status {error.code}: {said}"
            ) from None
        except (OSError, ValueError) as error:
            raise BackendError(
                f"expected scores from {url}: {error}; check that the server runs"
            ) from error

    def _info(self, url: str) -> Mapping[str, Any]:
        """What a TEI server says of its model; nothing where it does not."""
        request = urllib.request.Request(url, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                info = json.load(response)
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}
