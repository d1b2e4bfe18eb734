"""RoPE and attention over packed pairs by the compiled kernels: bf16 on CPUs that multiply in it.

T packed tokens, S pairs, H heads, K head width
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from polyrank.errors import InputError
from polyrank.kernels import kernels_level, load_kernels

__all__ = ["attend_packed", "runs_packed"]


def runs_packed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend_packed` takes such tensors on this machine."""
    fits = device.type == "cpu" and dtype == torch.bfloat16
    return fits and kernels_level() in ("avx512-bf16", "amx")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend_packed(
    qkv: torch.Tensor,
    first: torch.Tensor | None,
    starts: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """[T, H, K] of queries, keys and values [T, 3, H, K]; differentiable.

    Or [S, H, K] of keys and values [T, 2, H, K] and of `first` [S, H, K], each pair's first query.
    bf16; `starts` is [S + 1] int32; `rope` has cosines and sines, each fp32 [positions, K / 2] for
    as many as the longest pair has tokens. A pair's numbers depend on no other pair and no thread.

    Raises InputError for another dtype.
    """
    for x in (qkv, first):
        if x is not None and x.dtype != torch.bfloat16:
            raise InputError(f"expected bf16, which the batch's Layout is for, got {x.dtype}")
    cos, sin = rope or (None, None)
    q_starts = starts
    if first is not None:
        q_starts = torch.arange(len(starts), dtype=torch.int32, device=starts.device)
    return cast(torch.Tensor, _Attend.apply(qkv, first, q_starts, starts, cos, sin))  # type: ignore[no-untyped-call]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, first: torch.Tensor | None, *at: Any) -> torch.Tensor:
        qkv, first = qkv.contiguous(), None if first is None else first.contiguous()
        shape = qkv.shape if first is None else first.shape
        out = qkv.new_empty(shape[0], *shape[-2:])
        logs = qkv.new_empty(out.shape[:2], dtype=torch.float32)
        tensors = (qkv, first, *at, out, logs)
        ctx.save_for_backward(*tensors)
        _run(_task(*tensors))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = qkv, first, *_ = ctx.saved_tensors  # once, and alive while the kernel runs
        of_qkv, of_first = torch.empty_like(qkv), None if first is None else torch.empty_like(first)
        of_out = of_out.contiguous()
        task = _task(*saved)
        task.backward = 1
        task.out_gradient = _of(of_out)
        task.q_gradient, task.k_gradient, task.v_gradient = map(_of, _split(of_qkv, of_first))
        _run(task)
        return of_qkv, of_first, None, None, None, None


class _Packed(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_size_t))


class _Task(ctypes.Structure):
    """`Attention` of native/packed.h."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("pairs", "heads", "width", "backward")),
        *((name, ctypes.c_void_p) for name in ("q_starts", "starts", "cos", "sin", "logs")),
        *((name, _Packed) for name in ("q", "k", "v", "out")),
        *((f"{name}_gradient", _Packed) for name in ("q", "k", "v", "out")),
        ("next", ctypes.c_size_t),
    )


def _split(qkv: torch.Tensor, first: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return qkv.unbind(1) if first is None else (first, *qkv.unbind(1))


def _of(x_THK: torch.Tensor) -> _Packed:
    return _Packed(x_THK.data_ptr(), x_THK.stride(0))


def _task(
    qkv: torch.Tensor,
    first: torch.Tensor | None,
    q_starts: torch.Tensor,
    starts: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    out: torch.Tensor,
    logs: torch.Tensor,
) -> _Task:
    numbers = [None if x is None else x.data_ptr() for x in (q_starts, starts, cos, sin, logs)]
    tensors = (_of(x) for x in (*_split(qkv, first), out))
    return _Task(len(starts) - 1, *qkv.shape[2:], 0, *numbers, *tensors)


def _run(task: _Task) -> None:
    kernels = load_kernels()
    assert kernels is not None
    threads = ctypes.c_size_t(torch.get_num_threads())
    if not kernels.polyrank_attention(ctypes.byref(task), threads):  # as PyTorch says it
        raise RuntimeError("attention can't allocate memory")
