"""What the builder of a graph and its runner agree on. Imports neither onnx nor onnxruntime."""

from __future__ import annotations

from typing import Literal

__all__ = ["FORMAT", "GRAPH_FILE", "INPUTS", "PLACES", "PROBE", "Precision"]

Precision = Literal["fp32", "int8"]
"""Dtypes of a graph's linear layers."""
GRAPH_FILE = "polyrank.onnx"
FORMAT = "1"
"""Of a packed model's files; one of another format is converted anew."""
INPUTS = ("ids", "types", "positions", "pad", "unpad", "lengths", "masked")
PROBE = ("clipped", 255 * 127 * 64)
"""An output of int8 graphs, and what it is on a CPU that sums int8 products exactly."""
PLACES = 32
"""Pairs that share a run are padded, around attention alone, to a multiple of this. A softmax then
sums a pair's own places in the same order whatever the padding: not one bit of a pair depends on
its company, and int8 never rounds it differently."""
