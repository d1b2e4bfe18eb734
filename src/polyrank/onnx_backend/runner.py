"""A packed graph in ONNX Runtime sessions, as a Backend. Knows no text and no queue."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from polyrank.cpus import thread_count
from polyrank.errors import BackendError, CheckpointError
from polyrank.kernels import LIBRARY, load_kernels
from polyrank.memory import give_back
from polyrank.onnx_backend.layout import GRAPH_FILE, PROBE
from polyrank.values import Batch, Encoding, pack

__all__ = ["OnnxBackend"]

# A run's states fit the cache, at widths 384 and 768; 2,048 tokens are 8 to 20 % slower.
_BATCH_TOKENS = 768
_SHORTEST = pack([Encoding(ids=np.zeros(2, np.int32), type_split=2, tokens_given=2)])
ort.disable_telemetry_events()  # for where it was imported before us
_FUSIONS = ["SkipLayerNormFusion", "EmbedLayerNormFusion"]  # slower than what they replace


_opened: weakref.WeakSet[ort.InferenceSession] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """What the runtime frees in a forked process waits for threads that only its parent has: our
    sessions, and at the end what it made on import. So neither is freed there."""
    for session in list(_opened):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc: the last one registered is called first
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class OnnxBackend:
    """Runs the packed graph of a folder on the CPU, in sessions that all threads share.

    One session spreads a run over all threads. Where several batches wait, a second one, opened
    when it is first needed, runs each on a thread of its own, which is 10 % faster: threads that
    share no operator do not wait for each other.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, safe: bool = False) -> None:
        """Open `model.onnx` in `folder`.

        `safe` sums int8 products without the 16-bit intermediate that CPUs without VNNI clip: the
        same logits from a slower kernel. It comes on by itself where the graph finds such a CPU.
        """
        self._path = folder / GRAPH_FILE
        self.threads = self.parallel = thread_count(threads)
        self._safe = safe
        self._session = self._open(self.threads)
        self._inputs = {i.name for i in self._session.get_inputs()}
        self.dtype = self._session.get_modelmeta().custom_metadata_map["polyrank.dtype"]
        self.name = f"onnx cpu {self.dtype}"
        self.max_batch_tokens = _BATCH_TOKENS
        self._shrink = ort.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        if self.dtype == "int8" and not safe and self._clips():
            self._safe = True
            self._session = self._open(self.threads)
        self._single = self._session if self.threads == 1 else None
        self._opening = threading.Lock()
        self.forward(_SHORTEST)  # so that no caller's pair warms it up

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        """[S] raw logits of a packed batch."""
        session = self._session if all_threads else self._single_threaded()
        tokens = len(batch.ids)
        options = self._shrink if tokens > self.max_batch_tokens else None
        try:
            (logits,) = session.run(["logits"], self._feeds(batch), options)
        except (ort_errors.Fail, ort_errors.RuntimeException) as error:
            raise BackendError(
                f"{self.name} failed on {tokens} tokens in {len(batch.lengths)} pairs (longest "
                f"{batch.lengths.max()}); if memory ran out, lower max_batch_tokens or "
                f"max_length: {error}"
            ) from error
        return np.asarray(logits)

    def close(self) -> None:
        """Drop the sessions; their memory goes back with them."""
        del self._session, self._single
        give_back()

    def _single_threaded(self) -> ort.InferenceSession:
        with self._opening:
            self._single = self._single or self._open(1)
            return self._single

    def _open(self, threads: int) -> ort.InferenceSession:
        try:
            session = ort.InferenceSession(
                str(self._path),
                _options(threads, safe=self._safe),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_FUSIONS,
            )
        except (
            ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf,
            ort_errors.NoSuchFile, ort_errors.NotImplemented,
        ) as error:  # fmt: skip
            raise CheckpointError(f"expected a packed model at {self._path}: {error}") from error
        except ort_errors.RuntimeException as error:  # std::bad_alloc
            raise BackendError(f"expected room for {self._path} in memory: {error}") from error
        _opened.add(session)
        return session

    def _clips(self) -> bool:
        (lost,) = self._session.run([PROBE], self._feeds(_SHORTEST))
        return bool(lost.any())

    def _feeds(self, batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
        starts = batch.cu_lengths.astype(np.int64)
        feeds = {
            "ids": batch.ids.astype(np.int64),
            "types": batch.type_ids.astype(np.int64),
            "positions": np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts)),
            "starts": starts,
        }
        return {name: feeds[name] for name in self._inputs}


def _options(threads: int, *, safe: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    register_kernels(options)
    if safe:
        # Weights as unsigned bytes: another kernel, the same integers.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def register_kernels(options: ort.SessionOptions) -> None:
    """Let the session that this thread opens next, with these options, take the kernels."""
    if (kernels := load_kernels()) is not None:
        kernels.polyrank_threads(options.intra_op_num_threads)
        options.register_custom_ops_library(str(LIBRARY))
