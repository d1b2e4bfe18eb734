"""`polyrank` whose model breaks at certain words: what a real server does when its parts fail.

Run as a script, with the command line of `polyrank`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import polyrank.server.run
import polyrank.server.workers
from polyrank import Reranker
from polyrank.__main__ import main
from polyrank.server.service import Service
from polyrank.values import Batch, Encoding

RAISES, GIVES_NAN, ENDS_THE_WORKER, BREAKS_THE_TOKENIZER = "w501", "w502", "w503", "w504"
TAKES_FIVE_SECONDS = "w505"
LOADS_FOR_EVER = "FAULTY_LOADS_FOR_EVER"
"""A variable of the environment."""


def _break(reranker: Reranker) -> None:
    backend, encode = reranker._engine._backend, reranker.encode
    forward = backend.forward

    def faulty_forward(batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        ids = set(batch.ids.tolist())
        if 501 in ids:
            raise ValueError("a pass broke")
        if 503 in ids:
            raise SystemExit("a worker ends")
        if 505 in ids:
            time.sleep(5)
        logits = forward(batch, all_threads=all_threads)
        for i, (start, end) in enumerate(zip(batch.cu_lengths, batch.cu_lengths[1:], strict=False)):
            if 502 in batch.ids[start:end]:
                logits[i] = np.nan
        return logits

    def faulty_encode(pairs: Sequence[tuple[str, str]], **options: Any) -> list[Encoding]:
        if any(BREAKS_THE_TOKENIZER in text for _, text in pairs):
            raise ValueError("the tokenizer broke")
        return encode(pairs, **options)

    backend.forward = faulty_forward  # type: ignore[method-assign]
    reranker.encode = faulty_encode  # type: ignore[method-assign,assignment]


class _FaultyService(Service):
    def load(self) -> None:
        while os.environ.get(LOADS_FOR_EVER):
            Reranker(self.settings.model).close()
            print("loaded", flush=True)  # noqa: T201
        super().load()

    def use(self, reranker: Reranker, fingerprint: str) -> None:
        super().use(reranker, fingerprint)
        _break(reranker)


if __name__ in ("__main__", "__mp_main__"):  # the latter in a worker's process
    polyrank.server.run.Service = _FaultyService  # type: ignore[misc]
    polyrank.server.workers._SILENCE_SECONDS = 8
if __name__ == "__main__":
    sys.exit(main())
