"""A graph on disk: `model.onnx`, and its constants beside it in `polyrank.safetensors`.

The runtime maps the constants into memory. A checkpoint is made a graph here, tested against a
plain computation, and put in place whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from polyrank.checkpoint import PACKED_FILE, Checkpoint, save_packed
from polyrank.errors import BackendError
from polyrank.onnx_backend.graph import Graph, Table, build_graph
from polyrank.onnx_backend.layout import FORMAT, GRAPH_FILE, Precision
from polyrank.onnx_backend.reference import reference_logits, sample_encodings
from polyrank.onnx_backend.rounding import centred, spoiled
from polyrank.onnx_backend.runner import OnnxBackend
from polyrank.values import Encoding, pack

__all__ = ["Verified", "write_packed"]

_LARGEST_FP16 = 6e4
_SAMPLES = 32
# fp32 sums in another order; int8 rounds every row of every layer. A wrong graph is off by more
# than the logits' own spread.
_TOLERANCE = {"fp32": 1e-3, "int8": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """How a written graph compares with the plain computation."""

    pairs: int
    largest_difference: float
    """Of a logit."""
    bytes: int
    """Of both files."""


def write_packed(
    folder: Path,
    checkpoint: Checkpoint,
    precision: Precision,
    *,
    source: str,
    source_hash: str,
    table: Table | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Verified:
    """Build the graph, write its two files into `folder`, and test them on sample pairs.

    `table`: None keeps the word embeddings as stored, in fp16 at most where the graph is int8.
    In int8 the inputs of linear layers are moved around zero, which changes no logit, and those
    layers stay fp32 that rounding would spoil, by measurement.
    Raises BackendError, and removes the files, where a logit is not what it should be.
    """
    if table is None:
        table = "fp16" if precision == "int8" and _fits_fp16(checkpoint) else "stored"
    metadata = {
        "polyrank.format": FORMAT,
        "polyrank.dtype": precision,
        "polyrank.source": source,
        "polyrank.source_hash": source_hash,
        "polyrank.version": version("polyrank"),
    }
    say("computing sample pairs plainly")
    samples = sample_encodings(checkpoint.config, _SAMPLES)
    seen: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    int8 = precision == "int8"
    watch = (lambda name, x: seen[name].append(x)) if int8 else None
    wanted = [reference_logits(checkpoint, e, watch) for e in samples]
    exact: list[str] = []
    if int8:
        inputs = {name: np.concatenate(parts) for name, parts in seen.items()}
        checkpoint, inputs = centred(checkpoint, inputs)
        exact = spoiled(checkpoint, inputs)
    if exact:
        say(f"kept in fp32: {', '.join(exact)}")
    say(f"building the {precision} graph")
    graph = build_graph(checkpoint, precision, metadata, table=table, exact=exact)
    say("writing")
    _write(folder, graph, metadata)
    del graph
    checkpoint.release()
    say("comparing it with the plain computation")
    try:
        worst = _largest_difference(folder, samples, wanted, precision)
    except BackendError:
        for name in (GRAPH_FILE, PACKED_FILE):
            (folder / name).unlink()
        raise
    size = sum((folder / name).stat().st_size for name in (GRAPH_FILE, PACKED_FILE))
    return Verified(pairs=_SAMPLES, largest_difference=worst, bytes=size)


def _fits_fp16(checkpoint: Checkpoint) -> bool:
    table = checkpoint.arrays["embeddings.word.weight"]
    return table.data.dtype == np.float16 or bool(np.abs(table.float32()).max() < _LARGEST_FP16)


def _write(folder: Path, graph: Graph, metadata: dict[str, str]) -> None:
    places = save_packed(folder / PACKED_FILE, graph.tensors, metadata)
    for constant in graph.model.graph.initializer:
        if constant.name in places:
            offset, length = places[constant.name]
            entries = {"location": PACKED_FILE, "offset": str(offset), "length": str(length)}
            for key, value in entries.items():
                constant.external_data.add(key=key, value=value)
    path = folder / GRAPH_FILE
    onnx.save(graph.model, path)
    onnx.checker.check_model(str(path))


def _largest_difference(
    folder: Path, samples: Sequence[Encoding], wanted: Sequence[float], precision: Precision
) -> float:
    backend = OnnxBackend(folder)
    try:
        found = backend.forward(pack(samples))
    finally:
        backend.close()
    worst = float(np.abs(found - np.array(wanted)).max())
    limit = _TOLERANCE[precision] * max(1.0, float(np.abs(wanted).max()))
    if not worst <= limit:
        exact = '; use dtype="fp32" for this model' if precision == "int8" else ""
        raise BackendError(
            f"expected the {precision} graph to give the network's logits within {limit:.2g}, got "
            f"a difference of {worst:.2g}{exact}"
        )
    return worst
