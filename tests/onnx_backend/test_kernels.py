"""The compiled kernels against the definitions of their operators, which ONNX Runtime runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from polyrank import kernels
from polyrank.errors import InputError
from polyrank.onnx_backend.fused import DOMAIN, fused_operators
from polyrank.onnx_backend.runner import register_kernels

Arrays = list[npt.NDArray[Any]]
Run = Callable[..., Arrays]
WIDTHS = (2, 7, 16, 33, 96, 384, 768)
_TYPES = {
    np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in ("f4", "i8", "u1", "i1")
}
_ROUNDED = [TensorProto.UINT8, TensorProto.FLOAT]

pytestmark = pytest.mark.skipif(
    kernels.kernels_level() == "off",
    reason="this install has no kernels, or is told not to run them",
)


def run(
    op: str,
    inputs: Arrays,
    outputs: list[int],
    *,
    fused: bool = True,
    constants: tuple[int, ...] = (),
    threads: int = 1,
    **attr: Any,
) -> Arrays:
    """One operator: by its kernel, or by its definition. `constants` are inputs that the graph
    holds."""
    names = [f"i{n}" for n in range(len(inputs))]
    fed = [n for n in range(len(inputs)) if n not in constants]
    graph = helper.make_graph(
        [
            helper.make_node(
                op, names, [f"o{n}" for n in range(len(outputs))], domain=DOMAIN, **attr
            )
        ],
        "one",
        [
            helper.make_tensor_value_info(
                names[n], _TYPES[inputs[n].dtype], [None] * inputs[n].ndim
            )
            for n in fed
        ],
        [helper.make_tensor_value_info(f"o{n}", t, [None, None]) for n, t in enumerate(outputs)],
        [onnx.numpy_helper.from_array(inputs[n], names[n]) for n in constants],
    )
    domains = {"": 21, "com.microsoft": 1, DOMAIN: 1}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*d) for d in domains.items()],
        functions=fused_operators({op}),
        ir_version=10,
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if fused:
        register_kernels(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(o) for o in session.run(None, {names[n]: inputs[n] for n in fed})]


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def row_inputs(op: str, T: int, D: int) -> tuple[Arrays, list[int], dict[str, Any]]:
    """Inputs of an operator on rows, its outputs and its attributes."""
    step = np.abs(floats(T, 1, seed=1)) + 0.01
    y, x = floats(T, D, scale=30), floats(T, D, seed=2, scale=3)
    if op == "QuantizeRows":
        return [x], _ROUNDED, {}
    if op == "AddNormQuantizeRows":
        ends = [floats(D, seed=n) for n in (3, 4)]
        return (
            [y, step, floats(D, seed=5), x, *ends],
            [TensorProto.FLOAT, *_ROUNDED],
            {"epsilon": 1e-5},
        )
    if op == "GateQuantizeRows":
        return [y, step, x], _ROUNDED, {}
    if op == "GeluQuantizeRows":
        return [y, step[:1], floats(D, seed=5)], _ROUNDED, {}
    angles = floats(50, D // 4, seed=6)
    positions = np.random.default_rng(0).integers(0, 50, T)
    inputs = [y, step, floats(D, seed=5), positions, np.cos(angles), np.sin(angles)]
    return inputs, [TensorProto.FLOAT], {"num_heads": 2}


ROWS = (
    "QuantizeRows", "AddNormQuantizeRows", "GateQuantizeRows", "GeluQuantizeRows", "RotateRows",
)  # fmt: skip


def assert_alike(fused: Arrays, defined: Arrays, *, rounded: bool, rtol: float = 2e-5) -> None:
    for a, b in zip(fused, defined, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.dtype == np.float32:
            assert np.allclose(a, b, rtol=rtol, atol=2e-5)
    if rounded:  # a value between two steps may fall to either
        (a, step), (b, _) = (
            ((q.astype(np.float32) - 128) * step, step) for *_, q, step in (fused, defined)
        )
        off = np.abs(a - b)
        assert (off < (1.001 + 128 * rtol) * step + 1e-5).all()
        assert (off > 0.5 * step + 1e-5).sum() < 2 + 0.02 * off.size


@pytest.mark.parametrize("op", ROWS)
@pytest.mark.parametrize("D", WIDTHS)
def test_a_kernel_gives_what_the_definition_gives(op: str, D: int) -> None:
    D = D * 4 if op == "RotateRows" else D  # two heads of two halves
    for T in (1, 2, 37):
        inputs, outputs, attr = row_inputs(op, T, D)
        fused = run(op, inputs, outputs, **attr)
        defined = run(op, inputs, outputs, fused=False, **attr)
        assert_alike(fused, defined, rounded=op != "RotateRows")


@pytest.mark.parametrize("op", ROWS)
def test_a_row_has_the_same_bits_in_any_company(op: str) -> None:
    inputs, outputs, attr = row_inputs(op, 40, 132)
    whole = run(op, inputs, outputs, **attr)
    for rows in ([17], [3, 39, 17], list(range(11, 29))):
        some = [x[rows] if len(x) == 40 else x for x in inputs]
        for a, b in zip(run(op, some, outputs, **attr), whole, strict=True):
            assert np.array_equal(a, b[rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", [op for op in ROWS if op != "RotateRows"])
def test_a_value_that_is_no_number_spoils_its_row_alone(op: str, bad: float) -> None:
    inputs, outputs, attr = row_inputs(op, 9, 50)
    whole = run(op, inputs, outputs, **attr)
    inputs[0][4, 30] = bad
    if op == "GateQuantizeRows" or op == "GeluQuantizeRows":
        inputs[0][4, 30] = np.abs(bad)
    *_, step = run(op, inputs, outputs, **attr)
    assert not np.isfinite(step[4])
    others = [n for n in range(9) if n != 4]
    assert np.array_equal(step[others], whole[-1][others])


def test_a_row_of_zeros_is_rounded_to_zeros() -> None:
    q, step = run("QuantizeRows", [np.zeros((2, 40), np.float32)], _ROUNDED)
    assert (q == 128).all()
    assert (step > 0).all()


def test_gelu_is_right_everywhere() -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    one = np.ones((1, 1), np.float32)
    q, step = run("GeluQuantizeRows", [x, one, np.zeros(1, np.float32)], _ROUNDED)
    found = (q.astype(np.float32) - 128) * step  # one value a row: it is the largest
    torch = pytest.importorskip("torch")
    wanted = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(found - wanted).max() < 2e-6


def test_a_position_beyond_the_rotations_is_an_error() -> None:
    inputs, outputs, attr = row_inputs("RotateRows", 5, 32)
    for bad in (50, -1):
        inputs[3][2] = bad
        with pytest.raises(ort_errors.InvalidArgument, match="positions"):
            run("RotateRows", inputs, outputs, **attr)


@pytest.mark.parametrize("op", ROWS)
def test_inputs_of_other_shapes_are_an_error(op: str) -> None:
    inputs, outputs, attr = row_inputs(op, 5, 32)
    for n, x in enumerate(inputs[1:], 1):
        for bad in (x[:-1], np.concatenate([x, x])):
            others = [*inputs[:n], bad, *inputs[n + 1 :]]
            with pytest.raises(ort_errors.InvalidArgument, match="definition"):
                run(op, others, outputs, **attr)


PRODUCTS = {
    "ProductRows": "", "ProductAddNormQuantizeRows": "AddNormQuantizeRows",
    "ProductGeluQuantizeRows": "GeluQuantizeRows", "ProductRotateRows": "RotateRows",
    "ProductsGateQuantizeRows": "QuantizeRows",
}  # fmt: skip


def product_inputs(op: str, T: int, K: int, N: int) -> tuple[Arrays, list[int], dict[str, Any]]:
    """Inputs of an operator on products, its outputs, its constants and attributes."""
    rng = np.random.default_rng(7)
    N = N * 4 if op == "ProductRotateRows" else N
    rest, outputs, attr = row_inputs(PRODUCTS[op] or "QuantizeRows", T, N)
    weights: Arrays = []
    for n in range(1 + (op == "ProductsGateQuantizeRows")):
        weights.append(rng.integers(-127, 128, (K, N)).astype(np.int8))
        weights.append(np.abs(floats(N, seed=n)) / 5000)
    q = rng.integers(0, 256, (T, K)).astype(np.uint8)
    step = np.abs(floats(T, 1, seed=1)) + 0.01
    attr["constants"] = tuple(range(1, 1 + len(weights)))
    outputs = outputs if PRODUCTS[op] else [TensorProto.FLOAT]
    return [q, *weights, step, *rest[2:]], outputs, attr


@pytest.mark.parametrize("op", PRODUCTS)
@pytest.mark.parametrize(("K", "N"), [(1, 1), (63, 8), (64, 32), (200, 50), (900, 33), (384, 768)])
def test_a_product_gives_what_the_definition_gives(op: str, K: int, N: int) -> None:
    for T, threads in ((1, 1), (33, 2), (300, 1)):
        inputs, outputs, attr = product_inputs(op, T, K, N)
        fused = run(op, inputs, outputs, threads=threads, **attr)
        defined = run(op, inputs, outputs, fused=False, **attr)
        halves = op == "ProductsGateQuantizeRows"  # what is between is kept in fp16
        assert_alike(fused, defined, rounded="Quantize" in op, rtol=5e-4 if halves else 2e-5)


@pytest.mark.parametrize("op", PRODUCTS)
def test_a_row_times_weights_has_the_same_bits_in_any_company(op: str) -> None:
    inputs, outputs, attr = product_inputs(op, 300, 150, 40)
    whole = run(op, inputs, outputs, **attr)
    for rows in ([17], [3, 290, 17], list(range(11, 120))):
        some = [x[rows] if len(x) == 300 else x for x in inputs]
        for a, b in zip(run(op, some, outputs, threads=2, **attr), whole, strict=True):
            assert np.array_equal(a, b[rows])


def test_a_row_of_no_worth_spoils_itself_alone() -> None:
    inputs, outputs, attr = product_inputs("ProductsGateQuantizeRows", 70, 64, 64)
    whole = run("ProductsGateQuantizeRows", inputs, outputs, **attr)
    inputs[-1][40] = np.nan
    _, step = run("ProductsGateQuantizeRows", inputs, outputs, **attr)
    assert np.isnan(step[40])
    others = np.arange(70) != 40
    assert np.array_equal(step[others], whole[1][others])


@pytest.mark.parametrize("op", PRODUCTS)
def test_products_of_other_shapes_or_of_no_constants_are_an_error(op: str) -> None:
    if kernels.kernels_level() != "amx":
        pytest.skip("the runtime's own products run")
    inputs, outputs, attr = product_inputs(op, 20, 64, 32)
    for n, x in enumerate(inputs):
        bad = np.ascontiguousarray(x[:, :-1]) if n == 0 else np.concatenate([x, x])
        if n == 1 and op != "ProductsGateQuantizeRows":
            bad = np.ascontiguousarray(x[:, :-1])
        others = [*inputs[:n], bad, *inputs[n + 1 :]]
        with pytest.raises(
            (ort_errors.InvalidArgument, ort_errors.RuntimeException), match="definition"
        ):
            run(op, others, outputs, **attr)
    attr["constants"] = attr["constants"][1:]
    with pytest.raises(
        (ort_errors.InvalidArgument, ort_errors.RuntimeException), match="definition"
    ):
        run(op, inputs, outputs, **attr)


def test_pairs_beyond_their_tokens_are_an_error() -> None:
    if kernels.kernels_level() not in ("avx512-bf16", "amx"):
        pytest.skip("attention runs by its definition")
    inputs = attention_inputs([4, 6], 32)
    cases = [[0, 4, 11], [0, 11, 10], [1, 4, 10], [-1, 4, 10], [0, 4, 9], [0, 10], [0, 2, 4, 10]]
    for place in (3, 4):
        for starts in cases:
            bad = [*inputs[:place], np.array(starts), *inputs[place + 1 :]]
            with pytest.raises(ort_errors.InvalidArgument, match="definition"):
                attend(bad, 2)
    with pytest.raises(ort_errors.InvalidArgument, match="definition"):
        attend([*inputs[:2], inputs[2][:5], *inputs[3:]], 2)
    with pytest.raises(ort_errors.InvalidArgument, match="definition"):
        attend(inputs, 3)


def attention_inputs(lengths: list[int], D: int, *, first_only: bool = False) -> Arrays:
    starts = np.cumsum([0, *lengths])
    q_starts = np.arange(len(lengths) + 1) if first_only else starts
    qkv = [
        floats(int(s[-1]), D, seed=n, scale=1.5) for n, s in enumerate((q_starts, starts, starts))
    ]
    return [*qkv, q_starts, starts]


def attend(inputs: Arrays, heads: int, *, fused: bool = True) -> npt.NDArray[np.float32]:
    (out,) = run("RoundedPairAttention", inputs, [TensorProto.FLOAT], fused=fused, num_heads=heads)
    return out


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [8, 24, 32, 64, 80, 128])
def test_attention_is_the_definitions_within_bf16(
    width: int, biased: bool, first_only: bool
) -> None:
    D = 2 * width
    inputs = attention_inputs([2, 33, 300, 1, 64, 700], D, first_only=first_only)
    inputs += [floats(3 * D, seed=9)] if biased else []
    defined = attend(inputs, 2, fused=False)
    off = attend(inputs, 2) - defined
    assert np.abs(off).max() < 0.06 * np.abs(defined).max()
    assert np.sqrt((off**2).mean()) < 0.01 * defined.std()


def test_a_pairs_attention_has_the_same_bits_in_any_company() -> None:
    lengths = [40, 5, 511, 128]
    inputs = attention_inputs(lengths, 96)
    together, starts = attend(inputs, 3), inputs[-1]
    for n, length in enumerate(lengths):
        own = slice(int(starts[n]), int(starts[n + 1]))
        alone = np.array([0, length])
        assert np.array_equal(
            attend([*(x[own] for x in inputs[:3]), alone, alone], 3), together[own]
        )


def test_attention_of_large_scores_takes_the_largest() -> None:
    q, k, v, *starts = attention_inputs([300], 64)
    sharp = attend([q * 100, k * 100, v, *starts], 1)
    best = (q @ k.T).argmax(1)
    assert (np.abs(sharp - v[best]).max(1) < 0.02 * np.abs(v).max()).mean() > 0.9
    assert np.isfinite(sharp).all()


def test_a_nan_in_a_pair_stays_there() -> None:
    inputs = attention_inputs([20, 20], 64)
    inputs[0][3, 5] = np.nan
    out = attend(inputs, 2)
    assert np.isnan(out[3, :32]).all()
    assert np.isfinite(out[20:]).all()


@pytest.mark.parametrize("level", ["plain", "avx2", "avx512", "avx512-bf16"])
def test_lower_levels_give_the_same(level: str) -> None:
    if kernels.LEVELS.index(level) >= kernels.LEVELS.index(kernels.kernels_level()):
        pytest.skip("the level that runs, or one above")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not lower"]
    done = subprocess.run(
        [*command, __file__],
        env={**os.environ, "POLYRANK_KERNELS": level},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_environment_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    level = kernels.kernels_level.__wrapped__
    monkeypatch.setenv("POLYRANK_KERNELS", "off")
    assert level() == "off"
    monkeypatch.setenv("POLYRANK_KERNELS", "sse9")
    with pytest.raises(InputError, match="'sse9'"):
        level()


def test_a_library_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "libkernels.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(kernels, "LIBRARY", broken)
    with caplog.at_level(logging.WARNING, "polyrank"):
        assert kernels._library.__wrapped__() is None
    assert "without its compiled kernels" in caplog.text
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "none")
    assert kernels._library.__wrapped__() is None
