"""The compiled attention of packed pairs, and its gradients, against PyTorch's in fp32."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from polyrank.errors import InputError
from polyrank.kernels import kernels_level
from polyrank.torch_backend import packed
from polyrank.torch_backend.attention import Layout, attend, rope_tables

pytestmark = pytest.mark.skipif(
    kernels_level() not in ("avx512-bf16", "amx"), reason="PyTorch's own attention runs"
)
CPU = torch.device("cpu")
Found = tuple[torch.Tensor, ...]


def layout(lengths: list[int], dtype: torch.dtype) -> Layout:
    return Layout.of(np.cumsum([0, *lengths]), CPU, dtype)


def inputs(lengths: list[int], H: int, K: int, *, first_only: bool = False) -> Found:
    """bf16: queries, keys, values [3, T, H, K], or queries [S, H, K]; what the output is worth."""
    generator = torch.Generator().manual_seed(sum(lengths) + K)
    q, k, v, gradient = torch.randn(4, sum(lengths), H, K, generator=generator).bfloat16()
    queries = len(lengths) if first_only else sum(lengths)
    return q[:queries], k, v, gradient[:queries]


def run(
    given: Found, lengths: list[int], dtype: torch.dtype, *, theta: float | None = None
) -> Found:
    """Output, and gradients of queries, keys and values."""
    q, k, v, gradient = (x.to(dtype, copy=True) for x in given)
    for x in (q, k, v):
        x.requires_grad_()
    at, K = layout(lengths, dtype), q.shape[-1]
    steps = [] if theta is None else [theta ** -(i / K) for i in range(0, K, 2)]
    rope = None if theta is None else rope_tables(steps, at, dtype)
    if len(q) == len(k):
        out = attend(torch.stack((q, k, v), 1), at, rope=rope)
    else:
        out = attend(torch.stack((k, v), 1), at, rope=rope, first=q)
    out.backward(gradient)
    assert q.grad is not None
    assert k.grad is not None
    assert v.grad is not None
    return out.detach(), q.grad, k.grad, v.grad


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("theta", [None, 10_000.0])
@pytest.mark.parametrize(
    ("lengths", "H", "K"),
    [
        ([5, 33, 170, 64], 12, 32), ([1, 2, 300, 513], 2, 64), ([1300], 1, 64), ([40, 9], 3, 20),
        ([31, 32, 33, 256, 257], 2, 80), ([17], 5, 2), ([2] * 50, 4, 16),
    ],
)  # fmt: skip
def test_outputs_and_gradients_agree(
    lengths: list[int], H: int, K: int, theta: float | None, first_only: bool
) -> None:
    given = inputs(lengths, H, K, first_only=first_only)
    found = run(given, lengths, torch.bfloat16, theta=theta)
    wanted = run(given, lengths, torch.float32, theta=theta)
    # A query's output times its gradient is taken of the rounded output, as in the paper.
    for x, y, within in zip(found, wanted, (0.004, 0.02, 0.02, 0.004), strict=True):
        assert x.dtype == torch.bfloat16
        assert (x.float() - y).norm() < within * y.norm()
        torch.testing.assert_close(x.float(), y, atol=0.03, rtol=0.03)


def test_a_pair_has_the_same_bits_in_any_company(threads: int) -> None:
    lengths = [70, 3, 300]
    given = inputs(lengths, 4, 32)
    together = run(given, lengths, torch.bfloat16, theta=1e4)
    for first, length in zip((0, 70, 73), lengths, strict=True):
        own = slice(first, first + length)
        alone = run(tuple(x[own] for x in given), [length], torch.bfloat16, theta=1e4)
        assert all(torch.equal(x[own], y) for x, y in zip(together, alone, strict=True))


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    given = inputs([50, 200], 2, 32)
    given = (given[0] * 100, given[1] * 100, *given[2:])
    found, wanted = (run(given, [50, 200], dtype) for dtype in (torch.bfloat16, torch.float32))
    assert all(x.isfinite().all() for x in found)
    assert (found[0].float() - wanted[0]).norm() < 0.02 * wanted[0].norm()


def test_a_value_that_is_no_number_stays_in_its_pair() -> None:
    q, k, v, gradient = inputs([20, 30], 2, 16)
    v[3, 1, 4] = torch.nan
    out, *gradients = run((q, k, v, gradient), [20, 30], torch.bfloat16)
    assert out[:20, 1, 4].isnan().all()
    for x in (out, *gradients):
        assert x[20:].isfinite().all()
        assert x[:, 0].isfinite().all()


def test_without_gradients_it_is_the_same() -> None:
    q, k, v, _ = given = inputs([20, 300], 2, 32)
    with torch.inference_mode():
        out = attend(torch.stack((q, k, v), 1), layout([20, 300], torch.bfloat16))
    assert torch.equal(out, run(given, [20, 300], torch.bfloat16)[0])


def test_the_lower_level_gives_the_same() -> None:
    if kernels_level() != "amx":
        pytest.skip("the lowest level that has this kernel runs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "agree"]
    done = subprocess.run(
        [*command, __file__],
        env={**os.environ, "POLYRANK_KERNELS": "avx512-bf16"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_layers_that_are_recomputed_and_tensors_kept_elsewhere_give_the_same_gradients() -> None:
    q, k, v, gradient = inputs([20, 300], 2, 32)
    at = layout([20, 300], torch.bfloat16)
    wanted = run((q, k, v, gradient), [20, 300], torch.bfloat16)[1:]
    qkv = torch.stack((q, k, v), 1).requires_grad_()
    out = checkpoint(attend, qkv, at, use_reentrant=False)
    assert isinstance(out, torch.Tensor)
    out.backward(gradient)
    assert qkv.grad is not None
    assert torch.equal(qkv.grad, torch.stack(wanted, 1))
    qkv.grad = None
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        out = attend(qkv, at)
    out.backward(gradient)
    assert torch.equal(qkv.grad, torch.stack(wanted, 1))


def test_another_dtype_than_the_layouts_is_an_error() -> None:
    qkv = torch.ones(9, 3, 1, 16)
    with pytest.raises(InputError, match="expected bf16"):
        attend(qkv, layout([9], torch.bfloat16))


def test_a_default_device_is_not_where_the_starts_are_made() -> None:
    given = inputs([20, 30], 2, 16, first_only=True)
    wanted = run(given, [20, 30], torch.bfloat16, theta=1e4)
    with torch.device("meta"):
        q, k, v, _ = given
        at = layout([20, 30], torch.bfloat16)
        steps = [1e4 ** -(i / 16) for i in range(0, 16, 2)]
        out = attend(torch.stack((k, v), 1), at, rope=rope_tables(steps, at, q.dtype), first=q)
    assert torch.equal(out, wanted[0])


IN_A_FORK = """
import os, torch
from polyrank.torch_backend.packed import attend_packed
def run():
    qkv, starts = torch.ones(40, 3, 2, 16).bfloat16(), torch.tensor([0, 40], dtype=torch.int32)
    return attend_packed(qkv, None, starts, None).float().mean().item()
torch.set_num_threads(2)
first, child = run(), os.fork()
if not child:
    os._exit(0 if run() == first else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_attends_too() -> None:
    command = [sys.executable, "-W", "ignore", "-c", IN_A_FORK]
    subprocess.run(command, check=True, timeout=120)


def test_memory_that_ends_is_said_as_pytorch_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loop knows it by these words."""

    class Kernels:
        def polyrank_attention(self, task: object, threads: object) -> int:
            return 0

    monkeypatch.setattr(packed, "load_kernels", Kernels)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(inputs([9], 1, 16), [9], torch.bfloat16)
