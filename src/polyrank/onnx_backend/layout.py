"""What the builder of a graph and its runner agree on. Imports neither onnx nor onnxruntime."""

from __future__ import annotations

from typing import Literal

__all__ = ["FORMAT", "GRAPH_FILE", "GRAPH_VERSION", "INPUTS", "PROBE", "Precision"]

Precision = Literal["fp32", "int8"]
"""Dtypes of a graph's linear layers."""
GRAPH_FILE = "model.onnx"
FORMAT = "1"
"""Of a packed model's weights; one of another format is converted anew."""
GRAPH_VERSION = "7"
"""Of the graph; conversions in the cache are of one version."""
INPUTS = ("ids", "types", "positions", "starts")
PROBE = "clipped"
"""An output of int8 graphs: what the CPU loses of the largest sum of products, 0 if it is exact."""
