"""Attention over packed pairs: one function picks the kernel. Knows no weights.

T packed tokens, S pairs, H heads, K head width, L longest pair of a group, G pairs of a group
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from polyrank.batching import groups_of_like_length
from polyrank.torch_backend.packed import attend_packed, runs_packed

__all__ = ["Layout", "Rope", "attend", "rope_tables"]

# Share of padding accepted to run pairs of like length as one kernel call. Above this length a
# call is long enough to go alone, and its mask would be large.
_MAX_WASTE = 0.15
_MAX_MASKED_LENGTH = 512

_Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class _Group:
    """Pairs that run in one scaled-dot-product call, padded to the longest."""

    size: int
    """G"""
    length: int
    """L"""
    mask: torch.Tensor | None
    """[G, 1, 1, L] 0 where a token is, -inf where padded; None: equal lengths."""


@dataclass(frozen=True)
class _Order:
    """The groups' places, one group after the other, against the tokens of the batch."""

    tokens: torch.Tensor
    """[places] token of each place; the pair's first token where padded"""
    places: torch.Tensor
    """[T] place of each token"""


@dataclass(frozen=True)
class Layout:
    """Where the pairs of one batch lie, prepared once and used by every layer."""

    cu_lengths: torch.Tensor
    """[S + 1] int32 on the device"""
    first: torch.Tensor
    """[S] index of each pair's first token"""
    positions: torch.Tensor
    """[T] position of each token in its pair"""
    max_length: int
    varlen: bool
    """Whether the variable-length CUDA kernel runs"""
    packed: bool
    """Whether the compiled CPU kernel runs; else groups"""
    groups: tuple[_Group, ...] = ()
    order: _Order | None = None
    """None: the groups' tokens are the batch's, in order and without padding"""
    order_of_pairs: _Order | None = None
    """The same for one token a pair"""

    @staticmethod
    def of(cu_lengths: npt.NDArray[Any], device: torch.device, dtype: torch.dtype) -> Layout:
        """Prepare a batch's layout. `cu_lengths`: [S + 1] integers."""
        lengths = np.diff(cu_lengths)
        starts = cu_lengths[:-1]
        positions = np.arange(cu_lengths[-1]) - np.repeat(starts, lengths)
        layout = Layout(
            cu_lengths=torch.as_tensor(cu_lengths, dtype=torch.int32, device=device),
            first=torch.as_tensor(starts, dtype=torch.long, device=device),
            positions=torch.as_tensor(positions, dtype=torch.long, device=device),
            max_length=int(lengths.max()),
            varlen=_varlen_kernel(device, dtype) is not None,
            packed=runs_packed(device, dtype),
        )
        if layout.varlen or layout.packed:
            return layout
        groups, order, order_of_pairs = _plan_groups(starts, lengths, device, dtype)
        return replace(layout, groups=groups, order=order, order_of_pairs=order_of_pairs)


Rope = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of a layout: see `rope_tables`."""


def rope_tables(inv_freq: Sequence[float], at: Layout, dtype: torch.dtype) -> Rope:
    """For `attend`. `inv_freq`: [K / 2] angle from a position to the next, in radians.

    Angles in fp32: positions reach 8,192.
    """
    positions = at.positions
    if at.packed:
        positions = torch.arange(at.max_length, device=positions.device)
    frequencies = torch.tensor(inv_freq, dtype=torch.float32, device=positions.device)
    angles = positions.float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    if at.packed:
        return cos, sin
    cos, sin = cos.to(dtype)[:, None], sin.to(dtype)[:, None]
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def attend(
    qkv: torch.Tensor, at: Layout, *, rope: Rope | None = None, first: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q k / sqrt(K)) v within each pair, every token seeing its whole pair; RoPE before it.

    [T, H, K] of queries, keys and values [T, 3, H, K]; or [S, H, K] of keys and values
    [T, 2, H, K], where `first` [S, H, K] are queries of the first token of each pair alone.
    No L x L matrix is held for pairs above 512 tokens.
    """
    if at.packed:
        return cast(torch.Tensor, attend_packed(qkv, first, at.cu_lengths, rope))
    q, k, v = qkv.unbind(1) if first is None else (first, *qkv.unbind(1))
    if rope is not None:
        k = _rotate(k, rope)
        # A pair's first token is at position 0, where RoPE turns nothing.
        q = _rotate(q, rope) if first is None else q
    out: torch.Tensor = _attend(q, k, v, at)
    return out


def _rotate(x_THK: torch.Tensor, rope: Rope) -> torch.Tensor:
    """RoPE in the rotate-half layout (arXiv 2104.09864)."""
    cos, sin = rope
    return x_THK * cos + x_THK.roll(x_THK.shape[-1] // 2, dims=-1) * sin


# Left out of torch.compile: a batch's groups differ each time, and each would compile anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    q_THK: torch.Tensor, k_THK: torch.Tensor, v_THK: torch.Tensor, at: Layout
) -> torch.Tensor:
    first_only = q_THK.shape[0] != k_THK.shape[0]
    if at.varlen:
        kernel = _varlen_kernel(q_THK.device, q_THK.dtype)
        assert kernel is not None
        if first_only:
            cu_q = torch.arange(len(at.cu_lengths), dtype=torch.int32, device=q_THK.device)
            return kernel(q_THK, k_THK, v_THK, cu_q, at.cu_lengths, 1, at.max_length)
        L = at.max_length
        return kernel(q_THK, k_THK, v_THK, at.cu_lengths, at.cu_lengths, L, L)
    # A batch with one token in every pair has T == S: both readings agree there.
    order = at.order_of_pairs if first_only else at.order
    sizes = [group.size * group.length for group in at.groups]
    q_sizes = [group.size for group in at.groups] if first_only else sizes
    qs = torch.split(_spread(q_THK, order), q_sizes)
    ks, vs = (torch.split(_spread(x, at.order), sizes) for x in (k_THK, v_THK))
    # By the fused kernel's backward pass a step takes 1.5 times as long.
    slow_backward = k_THK.device.type == "cpu" and k_THK.dtype == torch.bfloat16
    outputs = []
    for group, *inputs in zip(at.groups, qs, ks, vs, strict=True):
        q, k, v = (_heads(x, group.size) for x in inputs)
        if k.requires_grad and slow_backward and group.length <= _MAX_MASKED_LENGTH:
            out = _multiply(q, k, v, group.mask)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _collect(outputs[0] if len(outputs) == 1 else torch.cat(outputs), order)


def _spread(x_THK: torch.Tensor, order: _Order | None) -> torch.Tensor:
    """[places, H, K]"""
    return x_THK if order is None else cast(torch.Tensor, _Spread.apply(x_THK, order))  # type: ignore[no-untyped-call]


def _collect(x: torch.Tensor, order: _Order | None) -> torch.Tensor:
    """[T, H, K] of [places, H, K]"""
    return x if order is None else cast(torch.Tensor, _Collect.apply(x, order))  # type: ignore[no-untyped-call]


# Indexing would add up gradients row by row, which takes longer than the attention itself: yet
# each token has one place of its own, and padding has no gradient (its keys are masked, and what
# it gets is left out).
class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: _Order) -> torch.Tensor:
        ctx.order = order
        return x.index_select(0, order.tokens)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.index_select(0, ctx.order.places), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: _Order) -> torch.Tensor:
        ctx.order = order
        return x.index_select(0, order.places)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        padded = gradient.new_zeros(len(ctx.order.tokens), *gradient.shape[1:])
        return padded.index_copy_(0, ctx.order.places, gradient), None


def _heads(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[G * L, H, K] -> [G, H, L, K]"""
    return x.view(groups, -1, *x.shape[1:]).transpose(1, 2)


def _multiply(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of [G, H, L, K] as it is written."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if attn_mask is not None:
        scores = scores + attn_mask
    out: torch.Tensor = scores.softmax(-1).to(v.dtype) @ v
    return out


def _plan_groups(
    starts: npt.NDArray[Any], lengths: npt.NDArray[Any], device: torch.device, dtype: torch.dtype
) -> tuple[tuple[_Group, ...], _Order | None, _Order | None]:
    groups, tokens, held = [], [], []
    waste = _MAX_WASTE if lengths.max() <= _MAX_MASKED_LENGTH else 0.0
    planned = [np.sort(pairs) for pairs in groups_of_like_length(lengths.tolist(), waste)]
    for pairs in planned:
        L = int(lengths[pairs].max())
        places = np.arange(L)
        inside = places < lengths[pairs][:, None]
        tokens.append((starts[pairs][:, None] + np.where(inside, places, 0)).ravel())
        held.append(inside.ravel())
        mask = None
        if not inside.all():
            hidden = torch.as_tensor(~inside, device=device)[:, None, None, :]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            mask = mask.masked_fill(hidden, float("-inf"))
        groups.append(_Group(size=len(pairs), length=L, mask=mask))
    order = _order(np.concatenate(tokens), np.concatenate(held), device)
    pairs = np.concatenate(planned)
    return tuple(groups), order, _order(pairs, np.ones(len(pairs), bool), device)


def _order(tokens: npt.NDArray[Any], held: npt.NDArray[Any], device: torch.device) -> _Order | None:
    """`held`: which of the places hold a token."""
    if held.all() and bool((np.diff(tokens) == 1).all()):
        return None
    places = np.empty(int(held.sum()), np.int64)
    places[tokens[held]] = np.flatnonzero(held)
    return _Order(
        tokens=torch.as_tensor(tokens, dtype=torch.long, device=device),
        places=torch.as_tensor(places, dtype=torch.long, device=device),
    )


@cache
def _varlen_kernel(device: torch.device, dtype: torch.dtype) -> _Kernel | None:
    """A CUDA kernel (q, k, v, cu_q, cu_k, max_q, max_k) -> out, or None where none runs."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        pass
    else:
        # One split over the keys: the sum's order, and so the score, does not depend on how
        # long the longest pair of the batch is. PyTorch 2.10 has no such choice.
        fixed = "num_splits" in inspect.signature(varlen_attn).parameters
        return cast(_Kernel, partial(varlen_attn, num_splits=1) if fixed else varlen_attn)
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return cast(_Kernel, flash_attn_varlen_func)
