"""The process that measures how fast this machine multiplies matrices, at a network's own shapes.

    python -m polyrank.bench.limits < job.json

Message: `limits`, billions of operations a second by device and dtype. Each setting's own library
is tried, and where two libraries serve a device and dtype, the faster one counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

import polyrank.onnx_backend  # noqa: F401  before ONNX Runtime is imported: no telemetry
from polyrank.bench.jobs import LimitsJob, Send, serve
from polyrank.bench.values import Setting
from polyrank.cpus import thread_count

__all__ = ["best_rates"]

_SECONDS = 0.3
"""How long one shape is tried for in each setting."""
_ROWS, _DEVICE_ROWS = 2048, 16384
"""Tokens of one forward pass, on CPUs and on others."""

Shape = tuple[int, int, int]
"""Rows, what is summed over, columns."""
Product = Callable[[], object]


def _work(given: dict[str, Any], send: Send) -> None:
    job = LimitsJob(**given)
    settings = [Setting(**s) for s in job.settings]
    send({"limits": best_rates(settings, job.layers, threads=job.threads)})


def best_rates(
    settings: Iterable[Setting],
    layers: Sequence[tuple[int, int]],
    *,
    threads: int | None = None,
) -> dict[str, float]:
    """Billions of operations a second by `Setting.computes`, the best over all products.

    `layers`: what is summed over and columns of each product.
    """
    best: dict[str, float] = {}
    for setting in settings:
        make = _onnx_product if setting.backend == "onnx" else _torch_product
        rows = _ROWS if setting.device == "cpu" else _DEVICE_ROWS
        for depth, columns in layers:
            seconds = _best_seconds(make(setting, (rows, depth, columns), thread_count(threads)))
            rate = 2 * rows * depth * columns / seconds / 1e9
            best[setting.computes] = max(rate, best.get(setting.computes, 0.0))
    return best


def _best_seconds(product: Product) -> float:
    product()
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < until:
        product()
        best = min(best, time.perf_counter() - start)
    return best


def _onnx_product(setting: Setting, shape: Shape, threads: int) -> Product:
    """uint8 by int8 with a scale a column, as the int8 graph has it, or fp32."""
    rows, depth, columns = shape
    draw = np.random.default_rng(0)
    if setting.dtype == "fp32":
        weight = draw.standard_normal((depth, columns), np.float32)
        x = draw.standard_normal((rows, depth), np.float32)
        return _session("MatMul", x, {"w": weight}, threads)
    constants = {
        "w": draw.integers(-127, 128, (depth, columns), np.int8),
        "x_scale": np.float32(0.01),
        "w_scale": draw.random(columns, np.float32),
        "x_zero": np.uint8(128),
        "w_zero": np.zeros(columns, np.int8),
    }
    x8 = draw.integers(0, 256, (rows, depth), np.uint8)
    return _session("MatMulIntegerToFloat", x8, constants, threads)


def _session(op: str, x: Any, constants: dict[str, Any], threads: int) -> Product:
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
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": x})


def _torch_product(setting: Setting, shape: Shape, threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    rows, depth, columns = shape
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting.dtype]
    x = torch.randn(rows, depth, device=setting.device).to(dtype)
    weight = torch.randn(columns, depth, device=setting.device).to(dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(setting.device)

    def product() -> None:
        torch.nn.functional.linear(x, weight)
        if wait is not None:
            wait()

    return product


if __name__ == "__main__":
    serve(_work)
