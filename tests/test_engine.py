from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import encoding_of
from polyrank.engine import Engine, Forward
from polyrank.errors import BackendError, EngineStoppedError
from polyrank.values import Batch, Encoding


class Echo:
    """A backend whose logit is the pair's second token; it can be held, and broken."""

    name = "echo"
    max_batch_tokens = 64
    parallel = 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.error: BaseException | None = None

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(len(batch.ids))
        if self.error is not None:
            raise self.error
        return batch.ids[batch.cu_lengths[:-1] + 1].astype(np.float32)

    def close(self) -> None:
        pass


class Crowd(Echo):
    """A backend for passes side by side, which notes who ran with whom."""

    parallel = 3

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.inside = 0
        self.passes: list[tuple[int, bool, int]] = []  # tokens, all threads, how many ran then

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        with self.lock:
            self.inside += 1
            self.passes.append((len(batch.ids), all_threads, self.inside))
        try:
            time.sleep(0.002)
            return super().forward(batch)
        finally:
            with self.lock:
                self.inside -= 1


def pairs(*values: int, length: int = 4) -> list[Encoding]:
    return [encoding_of([0, v, *[1] * (length - 2)]) for v in values]


def running(**options: Any) -> tuple[Echo, Engine]:
    backend = Echo()
    return backend, Engine(backend, **{"max_batch_tokens": 16, **options}).start()


def test_logits_come_back_in_input_order() -> None:
    _, engine = running()
    encodings = [encoding_of([0, v, *[1] * (v % 7)]) for v in range(100)]
    assert engine.submit(encodings).result(10).tolist() == list(range(100))
    engine.stop()


def test_passes_run_side_by_side_where_the_queue_feeds_all_workers() -> None:
    backend = Crowd()
    engine = Engine(backend, max_batch_tokens=16).start()
    encodings = pairs(*range(200))
    assert engine.submit(encodings).result(10).tolist() == list(range(200))
    engine.stop()
    shared = [together for _, alone, together in backend.passes if not alone]
    assert max(shared) == 3
    assert all(together == 1 for _, alone, together in backend.passes if alone)


def test_a_pass_runs_alone_where_there_is_little_to_do_or_a_pair_is_long() -> None:
    backend = Crowd()
    engine = Engine(backend, max_batch_tokens=16).start()
    assert engine.submit(pairs(5)).result(10).tolist() == [5.0]
    assert backend.passes == [(4, True, 1)]
    mixed = [*pairs(*range(100)), *pairs(7, length=50), *pairs(*range(100, 150))]
    engine.submit(mixed).result(10)
    engine.stop()
    assert [(t, alone, n) for t, alone, n in backend.passes if t == 50] == [(50, True, 1)]
    assert all(together == 1 for _, alone, together in backend.passes if alone)


@given(st.lists(st.lists(st.integers(1, 50), max_size=20), max_size=8))
def test_many_requests_through_many_workers_keep_their_logits(requests: list[list[int]]) -> None:
    backend = Crowd()
    engine = Engine(backend, max_batch_tokens=16).start()
    encodings = [
        [encoding_of([0, 100 * r + i, *[1] * n]) for i, n in enumerate(lengths)]
        for r, lengths in enumerate(requests)
    ]
    futures = [engine.submit(e) for e in encodings]
    for r, (future, lengths) in enumerate(zip(futures, requests, strict=True)):
        assert future.result(10).tolist() == [100 * r + i for i in range(len(lengths))]
    engine.stop()


def test_stopping_lets_every_running_pass_finish() -> None:
    backend = Crowd()
    backend.gate.clear()
    engine = Engine(backend, max_batch_tokens=16).start()
    future = engine.submit(pairs(*range(3), length=16))  # a pass for each worker
    while backend.inside < 3:
        time.sleep(0.001)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    while engine.health().state == "running" and stopper.is_alive():
        time.sleep(0.001)
        backend.gate.set()
    stopper.join(10)
    assert future.result(10).tolist() == list(range(3))


def test_no_pairs_are_answered_at_once() -> None:
    _, engine = running()
    assert engine.submit([]).result(0).shape == (0,)
    engine.stop()


def test_equal_pairs_of_a_request_run_once() -> None:
    backend, engine = running()
    seen: list[int] = []
    logits = engine.submit(pairs(7, 3, 7, 7, 3), on_forward=lambda n, _: seen.append(n)).result(10)
    assert logits.tolist() == [7, 3, 7, 7, 3]
    assert sum(backend.batches) == 8
    assert sum(seen) == 5
    engine.stop()


def test_sixteen_callers_share_batches_and_get_their_own_answers() -> None:
    backend, engine = running(max_batch_tokens=64)
    backend.gate.clear()
    answers: dict[int, list[float]] = {}

    def call(n: int) -> None:
        values = [n * 100 + i for i in range(n + 1)]
        answers[n] = engine.submit(pairs(*values)).result(10).tolist()

    threads = [threading.Thread(target=call, args=(n,)) for n in range(16)]
    for t in threads:
        t.start()
    while engine.health().queued_pairs < 120:
        time.sleep(0.001)
    backend.gate.set()
    for t in threads:
        t.join(10)
    assert answers == {n: [n * 100 + i for i in range(n + 1)] for n in range(16)}
    assert sum(backend.batches) == 136 * 4
    assert len(backend.batches) < 16
    engine.stop()


def test_a_cancelled_request_leaves_the_queue_and_the_next_one_runs() -> None:
    backend, engine = running()
    backend.gate.clear()
    first = engine.submit(pairs(1))
    assert backend.entered.wait(10)
    second = engine.submit(pairs(*range(100)))
    third = engine.submit(pairs(7))
    assert second.cancel()
    assert engine.health().queued_pairs == 1
    backend.gate.set()
    assert (first.result(10).tolist(), third.result(10).tolist()) == ([1.0], [7.0])
    with pytest.raises(CancelledError):
        second.result(0)
    engine.stop()


def test_a_failed_batch_fails_its_own_requests_only() -> None:
    backend, engine = running()
    backend.error = BackendError("out of luck")
    with pytest.raises(BackendError, match="out of luck"):
        engine.submit(pairs(*range(50))).result(10)
    backend.error = None
    assert engine.submit(pairs(5)).result(10).tolist() == [5.0]
    assert engine.health().state == "running"
    assert engine.health().queued_pairs == 0
    engine.stop()


def test_a_nan_is_an_error_not_a_score() -> None:
    class Broken(Echo):
        def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
            return np.full(len(batch.cu_lengths) - 1, np.nan, np.float32)

    engine = Engine(Broken(), max_batch_tokens=16).start()
    with pytest.raises(BackendError, match="NaN for 1 of 1 pairs"):
        engine.submit(pairs(1)).result(10)
    engine.stop()


@pytest.mark.parametrize("poison", ["error", "nan"])
def test_a_request_that_breaks_a_shared_pass_fails_alone(poison: str) -> None:
    class Poisoned(Echo):
        def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
            logits = super().forward(batch)
            if poison == "error" and (logits == 13).any():
                raise ValueError("an unlucky number")
            return np.where(logits == 13, np.float32(np.nan), logits)

    backend = Poisoned()
    engine = Engine(backend, max_batch_tokens=64).start()
    backend.gate.clear()
    first = engine.submit(pairs(1))
    assert backend.entered.wait(10)
    good, bad, other = (engine.submit(pairs(*v)) for v in ((2, 3), (4, 13), (5,)))
    backend.gate.set()
    with pytest.raises(ValueError if poison == "error" else BackendError):
        bad.result(10)
    answers = [future.result(10).tolist() for future in (first, good, other)]
    assert answers == [[1.0], [2.0, 3.0], [5.0]]
    assert backend.batches[:2] == [4, 20]  # they did share it
    assert engine.submit(pairs(6)).result(10).tolist() == [6.0]
    engine.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_fails_all_who_wait_and_health_says_so() -> None:
    backend, engine = running()
    backend.gate.clear()
    futures = [engine.submit(pairs(*range(20))) for _ in range(3)]
    backend.error = SystemError("the interpreter is gone")
    backend.error = KeyboardInterrupt()
    backend.gate.set()
    for future in futures:
        with pytest.raises(EngineStoppedError):
            future.result(10)
    while engine.health().state == "running":
        time.sleep(0.001)
    assert engine.health().state == "failed"
    with pytest.raises(EngineStoppedError):
        engine.submit(pairs(1))
    engine.stop()  # the thread has told of its end before the next test begins


def test_stopping_fails_what_waits_and_refuses_what_comes() -> None:
    backend, engine = running()
    backend.gate.clear()
    running_now = engine.submit(pairs(1))
    assert backend.entered.wait(10)
    waiting = engine.submit(pairs(*range(9)))
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    backend.gate.set()
    stopper.join(10)
    assert running_now.result(10).tolist() == [1.0]
    with pytest.raises(EngineStoppedError):
        waiting.result(10)
    with pytest.raises(EngineStoppedError, match="closed"):
        engine.submit(pairs(1))
    assert engine.health().state == "stopped"
    engine.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_request_that_comes_while_the_worker_ends_is_refused() -> None:
    backend, engine = running()
    backend.gate.clear()
    refused: list[str] = []
    asked = threading.Event()

    def submit_again(future: object) -> None:  # in the worker, which still lives
        try:
            engine.submit(pairs(1))
        except EngineStoppedError as error:
            refused.append(str(error))
        asked.set()

    engine.submit(pairs(1)).add_done_callback(submit_again)
    backend.error = KeyboardInterrupt()
    backend.gate.set()
    assert asked.wait(10)
    engine.stop()
    assert len(refused) == 1


def test_progress_counts_every_pair() -> None:
    _, engine = running()
    seen: list[int] = []
    engine.submit(pairs(*range(33)), on_forward=lambda n, _: seen.append(n)).result(10)
    assert sum(seen) == 33
    assert len(seen) > 1
    engine.stop()


def test_a_callback_that_fails_is_no_matter_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(done: int, forward: Forward) -> None:
        raise ValueError("mine")

    _, engine = running()
    assert len(engine.submit(pairs(1, 2), on_forward=fail).result(10)) == 2
    assert engine.health().state == "running"
    assert "on_forward failed" in caplog.text
    engine.stop()


def test_passes_get_smaller_towards_the_end_so_that_workers_end_together() -> None:
    backend = Crowd()
    engine = Engine(backend, max_batch_tokens=64).start()
    engine.submit(pairs(*range(200))).result(10)
    engine.stop()
    sizes = [tokens for tokens, _, _ in backend.passes]
    assert sum(sizes) == 800
    assert sizes[0] == 64
    assert all(16 <= size <= 64 for size in sizes[:-1])
    assert sizes[-3:] < [64, 64, 64]
