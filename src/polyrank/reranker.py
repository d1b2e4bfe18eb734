"""Reranker: text in, Ranking out. Where a logit becomes a score, and where pairs are sorted."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from polyrank.backends import choose_backend, open_backend
from polyrank.calibration import Calibration
from polyrank.checkpoint import read_config
from polyrank.engine import Engine, Health, OnForward
from polyrank.errors import CheckpointError, InputError
from polyrank.models import ModelFolder, find_model, fingerprint
from polyrank.tokenization import (
    OnOverflow,
    PairTokenizer,
    Truncation,
    check_text,
    document_text,
)
from polyrank.values import Backend, Document, Encoding, Pair, Ranked, Ranking

__all__ = ["Reranker"]

T = TypeVar("T")

_log = logging.getLogger("polyrank")
_PROGRESS_FROM = 200  # pairs; fewer are done before a bar is worth drawing


class Reranker:
    """A cross-encoder that scores (query, document) pairs and ranks documents.

    Safe to use from many threads: their pairs share batches. A pair's score does not depend on
    what else is scored with it: to the bit with ONNX Runtime, to rounding with PyTorch. Pickled,
    it is opened anew by whoever unpickles it, as it was here.

    Args:
        model: None for the embedded model, a folder, a hub id or a short name.
        revision: branch, tag or commit of a hub model.
        backend: "auto", "onnx" (ONNX Runtime, CPUs) or "torch" (PyTorch, any device). "auto" is
            torch on GPUs and onnx on CPUs, where a model of another kind is converted once.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto" (fp16 on GPUs; on CPUs what a packed model came in, else fp32), "fp32",
            "int8" (onnx), "bf16" or "fp16" (torch).
        max_length: limit of a pair in tokens, special tokens included; None: the model's own.
        window: tokens of a pair that are read at once: of a longer one the text is read in
            overlapping parts, and the best one's logit counts (MaxP: Dai and Callan, SIGIR 2019).
            None: what tokenizer_config.json says (`polyrank_window`), else `max_length`.
        offline: True never opens a connection; None follows `HF_HUB_OFFLINE`.
        max_query_tokens: what a query keeps when a pair must be cut; None: half of the limit.
        on_overflow: "truncate" cuts the text of a pair over the limit and reports it on the
            result; "windows" reads all of it, as much at once as `window` or the limit allows;
            "error" raises TooLongError. Both cut a query over `max_query_tokens`, and report it.
        max_batch_tokens: tokens of one forward pass; None: what runs fastest on the device.
        max_queue_tokens: tokens that may wait; a request that would make them more raises
            QueueFullError, unless none wait, and none of its pairs run. None: no limit.
        threads: CPU threads of the backend; None: what affinity and the container allow.
        calibration: a file that `polyrank calibrate` wrote, or a Calibration; scores are then
            probabilities. None: scores are the sigmoid of the logits.
        compile: run through torch.compile: a minute more at first, and a C++ compiler on CPUs.

    Raises:
        ModelNotFoundError, CheckpointError, BackendError: the model cannot be used; the
            message says why and what to do.
        InputError: an option is out of range, or the calibration is of another model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        window: int | None = None,
        offline: bool | None = None,
        max_query_tokens: int | None = None,
        on_overflow: OnOverflow = "truncate",
        max_batch_tokens: int | None = None,
        max_queue_tokens: int | None = None,
        threads: int | None = None,
        calibration: Calibration | str | os.PathLike[str] | None = None,
        compile: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        _check_count("max_batch_tokens", max_batch_tokens)
        _check_count("max_queue_tokens", max_queue_tokens)
        _check_count("threads", threads)
        folder = find_model(model, revision=revision, offline=offline)
        self._given = given | {"model": folder.argument, "revision": folder.revision}
        config = read_config(folder.path)
        choice = choose_backend(
            folder.path, backend=backend, device=device, dtype=dtype, threads=threads,
            compile=compile,
        )  # fmt: skip
        self._tokenizer = PairTokenizer.from_folder(folder.path)
        if self._tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"expected a tokenizer of at most {config.vocab_size} tokens, the rows "
                f"of the embedding table, got {self._tokenizer.vocab_size} in {folder.path}; the "
                "tokenizer belongs to another model"
            )
        self.calibration = _calibration(calibration, folder)
        """What makes a score of a logit."""
        self._told_of_cuts = False
        self.name = folder.name
        """The model's name: hub id, folder name or `polyrank-mini`."""
        self.revision = folder.revision
        """The hub commit in use; None for local folders."""
        self.on_overflow = on_overflow
        limit = self._tokenizer.limit_of(max_length, config.max_positions)
        self.window = self._tokenizer.window_of(window, limit)
        """Tokens of a pair that are read at once, special tokens included."""
        self._truncation = Truncation(
            max_length=limit,
            window=self.window,
            max_query_tokens=max_query_tokens,
            on_overflow=on_overflow,
        )
        opened = open_backend(folder, choice, threads=threads, compile=compile)
        self.backend_name = opened.name
        """Engine, device and dtype that run: `onnx cpu int8`."""
        self.max_batch_tokens = max_batch_tokens or opened.max_batch_tokens
        """Tokens of one forward pass, at most."""
        self._engine = Engine(
            opened, max_batch_tokens=self.max_batch_tokens, max_queue_tokens=max_queue_tokens
        ).start()
        self._finalize = weakref.finalize(self, _shut_down, self._engine, opened)

    def __reduce__(self) -> tuple[Callable[[], Reranker], tuple[()]]:
        return partial(type(self), **(self._given | {"calibration": self.calibration})), ()

    @property
    def max_length(self) -> int:
        """Limit of a pair in tokens, special tokens included."""
        return self._truncation.max_length

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
        show_progress: bool | None = None,
    ) -> Ranking:
        """Rank documents by their relevance to a query, best first; ties keep input order.

        Args:
            query: a text that is not blank.
            documents: strings, or mappings with `text` and optionally `title`, `id` and fields
                that pass through. None of them: an empty ranking.
            top_n: how many of the best to return, at least 1; None: all.
            threshold: least score to return, in [0, 1]; None: all.
            show_progress: None: on a terminal only, and only for long work.

        >>> with Reranker(model) as reranker:
        ...     best = reranker.rank("w1 w2", ["w3", "w1 w2 w4"], top_n=1)[0]
        """
        return self.rank_many(
            [(query, documents)], top_n=top_n, threshold=threshold, show_progress=show_progress
        )[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Iterable[Document]]],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
        show_progress: bool | None = None,
    ) -> list[Ranking]:
        """Rank several queries' documents in one go; their pairs share batches.

        `requests` are (query, documents); the options are those of `rank` and hold for each.
        """
        _check_cut(top_n, threshold)
        queries: list[tuple[str, list[Document]]] = []
        encodings: list[Encoding] = []
        for n, request in enumerate(_iterated(requests, "(query, documents) requests")):
            query, given = _two(request, "(query, documents)", f"request {n}")
            check_text(query, f"the query of request {n}")
            if not query.strip():
                raise InputError(f"expected a query, got a blank one in request {n}")
            documents = list(_iterated(given, "documents", "; put a single document in a list"))
            texts = [document_text(d, f"documents[{i}]") for i, d in enumerate(documents)]
            encodings += self._tokenizer.encode(query, texts, self._truncation)
            queries.append((query, documents))
        logits = self._run(encodings, show_progress)
        rankings, start = [], 0
        for query, documents in queries:
            part = slice(start, start + len(documents))
            scores = self.calibration.scores(logits[part])
            ranking = _rank(query, documents, encodings[part], logits[part], scores)
            rankings.append(_cut(ranking, top_n, threshold))
            start += len(documents)
        return rankings

    def logits(
        self, pairs: Iterable[Pair], *, show_progress: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """[N] raw logits of (query, document) pairs in input order; unbounded, compare freely."""
        encodings = self.encode(pairs)
        cut = sum(e.truncated for e in encodings)
        if cut and not self._told_of_cuts:
            self._told_of_cuts = True
            _log.warning(
                "polyrank: cut %d of %d pairs to %d tokens; rank() and encode() say which, "
                'on_overflow="windows" reads them whole; this is said once',
                cut, len(encodings), self.max_length,
            )  # fmt: skip
        return self._run(encodings, show_progress)

    def score(
        self, pairs: Iterable[Pair], *, show_progress: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """[N] scores in [0, 1] of (query, document) pairs in input order.

        In fp32 those of very high and very low logits become equal, so sort by `logits` instead.
        """
        logits = self.logits(pairs, show_progress=show_progress)
        return self.calibration.scores(logits).astype(np.float32)

    def encode(
        self, pairs: Iterable[Pair], *, max_text_tokens: int | None = None
    ) -> list[Encoding]:
        """Token ids of (query, document) pairs as the network reads them, and what was cut.

        `max_text_tokens`: how much is read of a document at most; None: all that fits.
        """
        texts = []
        for i, pair in enumerate(_iterated(pairs, "(query, document) pairs")):
            query, document = _two(pair, "(query, document)", f"pairs[{i}]")
            texts.append((query, document_text(document, f"pairs[{i}]")))
        truncation = replace(self._truncation, max_text_tokens=max_text_tokens)
        return self._tokenizer.encode_pairs(texts, truncation)

    def submit(
        self,
        encodings: Sequence[Encoding],
        *,
        on_forward: OnForward = lambda pairs, forward: None,
    ) -> Future[npt.NDArray[np.float32]]:
        """Queue encodings; the future gives their [N] logits. Cancelling it frees the queue.

        `on_forward` is called from another thread after each forward pass that held some of them.
        """
        return self._engine.submit(encodings, on_forward=on_forward)

    def health(self) -> Health:
        """Whether the engine runs, and what waits in its queue."""
        return self._engine.health()

    def close(self) -> None:
        """End the worker and give the model's memory back. Repeating is fine."""
        self._finalize()

    def __enter__(self) -> Reranker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Reranker({self.name!r}, {self.backend_name}, max_length={self.max_length})"

    def _run(
        self, encodings: Sequence[Encoding], show_progress: bool | None
    ) -> npt.NDArray[np.float32]:
        with _progress(len(encodings), show_progress) as advance:
            future = self._engine.submit(encodings, on_forward=lambda pairs, _: advance(pairs))
            try:
                return future.result()
            finally:
                future.cancel()  # without effect unless we were interrupted


def _shut_down(engine: Engine, backend: Backend) -> None:
    engine.stop()
    backend.close()


def _iterated(given: Iterable[T], what: str, hint: str = "") -> Iterable[T]:
    if not callable(getattr(given, "columns", len)):
        raise InputError(
            f"expected a list of {what}, got a {type(given).__name__}; give a column of it, or its "
            'rows as mappings (pandas: frame["text"], frame.to_dict("records"))'
        )
    scalar = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
    if scalar or getattr(given, "ndim", 1) == 0:
        raise InputError(f"expected a list of {what}, got {_brief(given)}{hint}")
    return given


def _two(given: Any, what: str, where: str) -> tuple[Any, Any]:
    text = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
    both = () if text else tuple(given)
    if len(both) != 2:
        raise InputError(f"expected {what}, got {_brief(given)} at {where}")
    return both[0], both[1]


def _check_count(name: str, value: int | None) -> None:
    """Raise InputError unless `value` is None or a whole number from 1, NumPy's included."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if value is not None and (not whole or value < 1):
        raise InputError(f"expected {name} as a positive integer or None, got {value!r}")


def _check_cut(top_n: int | None, threshold: float | None) -> None:
    _check_count("top_n", top_n)
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if threshold is not None and not (number and 0.0 <= threshold <= 1.0):
        raise InputError(f"expected threshold as a score from 0 to 1 or None, got {threshold!r}")


def _rank(
    query: str,
    documents: Sequence[Document],
    encodings: Sequence[Encoding],
    logits: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float64],
) -> Ranking:
    order = np.argsort(-logits, kind="stable")
    return Ranking(
        query,
        tuple(
            Ranked(
                index=int(i),
                score=float(scores[i]),
                logit=float(logits[i]),
                document=documents[i],
                tokens=len(encodings[i]),
                tokens_given=encodings[i].tokens_given,
                query_cut=encodings[i].query_cut,
            )
            for i in order
        ),
    )


def _cut(ranking: Ranking, top_n: int | None, threshold: float | None) -> Ranking:
    kept = ranking.items
    if threshold is not None:
        kept = tuple(r for r in kept if r.score >= threshold)
    return Ranking(ranking.query, kept[:top_n])


def _calibration(
    given: Calibration | str | os.PathLike[str] | None, folder: ModelFolder
) -> Calibration:
    if given is None:
        return Calibration()
    calibration = given if isinstance(given, Calibration) else Calibration.read(given)
    if calibration.fingerprint is not None:  # which takes reading the whole model
        calibration.check(fingerprint(folder.path), folder.argument)
    return calibration


def _brief(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that counts pairs, or nothing."""
    if show is None:
        show = total >= _PROGRESS_FROM and sys.stderr.isatty()
    if not show:
        yield lambda pairs: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("scoring", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("pairs", total=total)
        yield lambda pairs: bar.advance(task, pairs)
