"""Attention over packed pairs: one function picks the kernel. Knows no weights.

T packed tokens, S pairs, H heads, K head width, L longest pair of a group, G pairs of a group
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from polyrank.batching import groups_of_like_length

__all__ = ["Layout", "attend"]

# Share of padding accepted to run pairs of like length as one kernel call. Above this length a
# call is long enough to go alone, and its mask would be large.
_MAX_WASTE = 0.15
_MAX_MASKED_LENGTH = 512
_MAX_MULTIPLIED_LENGTH = 384
_MULTIPLIED_SCORES = 1 << 20

_Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class _Group:
    """Pairs that run in one scaled-dot-product call, padded to the longest."""

    index: torch.Tensor | slice
    """[G * L] token of each padded place (the pair's first token where padded), or a range."""
    size: int
    """G"""
    mask: torch.Tensor | None
    """[G, 1, 1, L] 0 where a token is, -inf where padded; None: equal lengths."""
    valid: torch.Tensor | None
    """[tokens] places of `index` that hold a token; None: all."""
    pairs: torch.Tensor
    """[G] the pairs, by their place in the batch"""


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
    """Whether the variable-length CUDA kernel runs; else groups"""
    groups: tuple[_Group, ...] = ()
    restore: torch.Tensor | None = None
    """[T] order that puts the groups' tokens back; None: they are in order"""
    restore_pairs: torch.Tensor | None = None
    """[S] the same for one token a pair"""

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
        )
        if layout.varlen:
            return layout
        groups, token_order, pair_order = _plan_groups(starts, lengths, device, dtype)
        return replace(
            layout,
            groups=groups,
            restore=_inverse(token_order, device),
            restore_pairs=_inverse(pair_order, device),
        )


# Left out of torch.compile: a batch's groups differ each time, and each would compile anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    q_THK: torch.Tensor, k_THK: torch.Tensor, v_THK: torch.Tensor, at: Layout
) -> torch.Tensor:
    """softmax(q k / sqrt(K)) v within each pair, every token seeing its whole pair.

    q is [T, H, K], or [S, H, K] for the first token of each pair alone; k and v are [T, H, K].
    Returns q's shape. No L x L matrix is held for pairs above 512 tokens.
    """
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
    outputs = []
    for group in at.groups:
        k, v = (_heads(x[group.index], group.size) for x in (k_THK, v_THK))
        q = _heads(q_THK[group.pairs if first_only else group.index], group.size)
        out = _kernel(k)(q, k, v, attn_mask=group.mask)
        out = out.transpose(1, 2).flatten(0, 1)
        outputs.append(out if first_only or group.valid is None else out[group.valid])
    packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    restore = at.restore_pairs if first_only else at.restore
    return packed if restore is None else packed[restore]


def _heads(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[G * L, H, K] -> [G, H, L, K]"""
    return x.view(groups, -1, *x.shape[1:]).transpose(1, 2)


def _kernel(k_GHLK: torch.Tensor) -> _Kernel:
    """What beats the fused CPU kernel in bf16: matrix products.

    Scoring: twice as fast at 64-280 tokens, not at 500. Training: the fused kernel's backward
    pass makes a step take 1.4 times the CPU time (pairs of about 120 tokens); scores are kept for
    the backward pass, so not above 512 tokens.
    """
    L = k_GHLK.shape[2]
    if k_GHLK.dtype == torch.bfloat16 and k_GHLK.device.type == "cpu":
        if k_GHLK.requires_grad and L <= _MAX_MASKED_LENGTH:
            return _multiply_whole
        if not k_GHLK.requires_grad and L <= _MAX_MULTIPLIED_LENGTH:
            return _multiply
    return functional.scaled_dot_product_attention


def _multiply_whole(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of [G, H, L, K] as it is written."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if attn_mask is not None:
        scores = scores + attn_mask
    out: torch.Tensor = scores.softmax(-1).to(v.dtype) @ v
    return out


def _multiply(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of [G, H, L, K] by matrix products, a cache's worth of scores at a time."""
    _, H, L, K = k.shape
    pairs = max(1, _MULTIPLIED_SCORES // (H * q.shape[2] * L))
    outputs = []
    for start in range(0, len(k), pairs):
        part = slice(start, start + pairs)
        scores = torch.matmul(q[part].contiguous(), k[part].contiguous().mT).float() * K**-0.5
        if attn_mask is not None:
            scores += attn_mask[part]
        outputs.append(torch.matmul(scores.softmax(-1).to(v.dtype), v[part].contiguous()))
    return torch.cat(outputs)


def _plan_groups(
    starts: npt.NDArray[Any], lengths: npt.NDArray[Any], device: torch.device, dtype: torch.dtype
) -> tuple[tuple[_Group, ...], npt.NDArray[Any], npt.NDArray[Any]]:
    groups, token_order, pair_order = [], [], []
    waste = _MAX_WASTE if lengths.max() <= _MAX_MASKED_LENGTH else 0.0
    for pairs in groups_of_like_length(lengths.tolist(), waste):
        pairs.sort()
        L = int(lengths[pairs].max())
        places = np.arange(L)
        inside = places < lengths[pairs][:, None]
        index = starts[pairs][:, None] + np.where(inside, places, 0)
        token_order.append(index[inside])
        pair_order.append(pairs)
        equal = bool(inside.all())
        in_a_row = equal and bool((np.diff(index.ravel()) == 1).all())
        mask = valid = None
        if not equal:
            hidden = torch.as_tensor(~inside, device=device)[:, None, None, :]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            mask = mask.masked_fill(hidden, float("-inf"))
            valid = torch.as_tensor(np.flatnonzero(inside), device=device)
        groups.append(
            _Group(
                index=slice(int(index[0, 0]), int(index[-1, -1]) + 1)
                if in_a_row
                else torch.as_tensor(index.ravel(), dtype=torch.long, device=device),
                size=len(pairs),
                mask=mask,
                valid=valid,
                pairs=torch.as_tensor(pairs, dtype=torch.long, device=device),
            )
        )
    return tuple(groups), np.concatenate(token_order), np.concatenate(pair_order)


def _inverse(order: npt.NDArray[Any], device: torch.device) -> torch.Tensor | None:
    if bool((np.diff(order) == 1).all()):
        return None
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return torch.as_tensor(inverse, device=device)


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
