"""The compiled kernels where memory ends, and with inputs that no conversion writes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from tests.onnx_backend.test_kernels import Arrays, attend, attention_inputs, row_inputs, run

from polyrank import kernels
from polyrank.models import find_model

attends = pytest.mark.skipif(
    kernels.kernels_level() not in ("avx512-bf16", "amx"), reason="attention runs by its definition"
)
multiplies = pytest.mark.skipif(
    kernels.kernels_level() != "amx", reason="the runtime's own products run"
)
ROUNDED = [TensorProto.UINT8, TensorProto.FLOAT]
UNTIL_IT_FITS = """
import pathlib, resource, sys
import numpy as np
from polyrank.errors import BackendError
from polyrank.onnx_backend.runner import OnnxBackend
from polyrank.values import Encoding, pack
backend = OnnxBackend(pathlib.Path(sys.argv[1]), threads=4)
batch = pack([Encoding(ids=np.arange(1500, dtype=np.int32), type_split=9, tokens_given=1500)])
own = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
failed = 0
for room in range(1, 4096, 4):
    resource.setrlimit(resource.RLIMIT_AS, (own + (room << 20), -1))
    try:
        print(failed, *backend.forward(batch))
        break
    except BackendError as error:
        assert "max_batch_tokens" in str(error), error
        failed += 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own limits")
def test_memory_that_ends_within_a_pass_is_an_error_that_says_what_to_do() -> None:
    command = [sys.executable, "-c", UNTIL_IT_FITS, str(find_model(None).path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    failed, logit = done.stdout.split()
    assert int(failed) > 2
    assert np.isfinite(float(logit))


@multiplies
@pytest.mark.parametrize("wide", [1, 300])
def test_small_rows_of_a_gate_keep_their_values_beside_wide_columns(wide: int) -> None:
    """However far a row is below what the weights might make of another."""
    rng = np.random.default_rng(0)
    weights: Arrays = []
    for n in range(2):
        weights.append(rng.integers(-127, 128, (1024, 64)).astype(np.int8))
        weights.append(np.full(64, 1e-3, np.float32))
        weights[-1][5 + n] *= wide
    q = np.full((4, 1024), 128, np.uint8)
    q[np.arange(4), [3, 90, 500, 1000]] = [129, 255, 0, 140]
    inputs = [q, *weights, np.full((4, 1), 1e-4, np.float32)]
    (found, step), (wanted, other) = (
        run("ProductsGateQuantizeRows", inputs, ROUNDED, fused=fused, constants=(1, 2, 3, 4))
        for fused in (True, False)
    )
    assert np.allclose(step, other, rtol=1e-3)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@attends
def test_a_query_without_keys_gets_zeros() -> None:
    q, k, v, _, _ = attention_inputs([6], 32)
    out = attend([q[:3], k, v, np.array([0, 1, 2, 3]), np.array([0, 3, 3, 6])], 2)
    assert (out[1] == 0).all()
    assert np.isfinite(out).all()


@attends
def test_starts_in_two_dimensions_are_an_error() -> None:
    q, k, v, *_ = attention_inputs([6], 32)
    for starts in (np.array([[0, 3, 6], [0, 1, 2]]), np.zeros((0, 3), np.int64)):
        with pytest.raises(ort_errors.InvalidArgument, match="definition"):
            attend([q, k, v, starts, starts], 2)


@pytest.mark.skipif(kernels.kernels_level() == "off", reason="this install has no kernels")
@pytest.mark.parametrize("heads", [0, 1, 3, 4, -2])
def test_rotations_of_other_heads_are_an_error(heads: int) -> None:
    inputs, outputs, _ = row_inputs("RotateRows", 5, 32)
    with pytest.raises(ort_errors.InvalidArgument, match="definition"):
        run("RotateRows", inputs, outputs, num_heads=heads)


@multiplies
def test_weights_without_columns_are_an_error() -> None:
    q, weight = np.zeros((5, 64), np.uint8), np.zeros((64, 0), np.int8)
    inputs = [q, weight, np.zeros(0, np.float32), np.ones((5, 1), np.float32)]
    with pytest.raises(ort_errors.RuntimeException, match="definition"):
        run("ProductRows", inputs, [TensorProto.FLOAT], constants=(1, 2))
