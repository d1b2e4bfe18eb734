"""What matrix products this machine does at best, in 10^9 operations a second, as JSON.

    python benchmarks/limits.py

ONNX Runtime's int8 (uint8 x int8 with a scale per column) and fp32, PyTorch's bf16, on products of
the sizes that the official shape has. Threads: as many as this process may use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from polyrank.cpus import available_cpus

SHAPES = ((2048, 768, 768), (2048, 768, 3072), (2048, 3072, 768), (1024, 768, 3072))
"""Rows, what is summed over, columns."""
_SECONDS = 0.4
"""How long one shape is tried for in each dtype."""


def measure() -> dict[str, float]:
    """Best rate over all shapes, by dtype."""
    ways = {"int8": _int8, "fp32": _fp32, "bf16": _bf16}
    return {
        dtype: max(_rate(way(*shape), shape) for shape in SHAPES) for dtype, way in ways.items()
    }


def _rate(product: Callable[[], Any], shape: tuple[int, int, int]) -> float:
    product()
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < until:
        product()
        best = min(best, time.perf_counter() - start)
    rows, depth, columns = shape
    return 2 * rows * depth * columns / best / 1e9


def _int8(rows: int, depth: int, columns: int) -> Callable[[], Any]:
    draw = np.random.default_rng(0)
    constants = {
        "w": draw.integers(-127, 128, (depth, columns), np.int8),
        "x_scale": np.float32(0.01),
        "w_scale": draw.random(columns, np.float32),
        "x_zero": np.uint8(128),
        "w_zero": np.zeros(columns, np.int8),
    }
    return _onnx("MatMulIntegerToFloat", draw.integers(0, 256, (rows, depth), np.uint8), constants)


def _fp32(rows: int, depth: int, columns: int) -> Callable[[], Any]:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((depth, columns), np.float32)
    return _onnx("MatMul", draw.standard_normal((rows, depth), np.float32), {"w": weight})


def _onnx(op: str, x: Any, constants: dict[str, Any]) -> Callable[[], Any]:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    domain = "" if op == "MatMul" else "com.microsoft"
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *constants], ["y"], domain=domain)],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    session = ort.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"x": x})


def _bf16(rows: int, depth: int, columns: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(available_cpus())
    x = torch.randn(rows, depth).bfloat16()
    weight = torch.randn(columns, depth).bfloat16()
    return lambda: torch.nn.functional.linear(x, weight)


if __name__ == "__main__":
    print(json.dumps(measure()))
