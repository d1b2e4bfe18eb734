"""The dtype that a device trains in."""

from __future__ import annotations

import torch

from polyrank.training.config import TrainingDtype

__all__ = ["autocast"]


def autocast(dtype: TrainingDtype, device: str) -> torch.autocast:
    """The context of a forward pass in `dtype`; "auto" is bf16 where the device multiplies in it.

    Most laptops' CPUs do not: there a bf16 product is emulated, many times slower than fp32.
    """
    kind = device.partition(":")[0]
    enabled = _multiplies_bf16(kind) if dtype == "auto" else dtype == "bf16"
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


def _multiplies_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return kind == "cpu" and probe is not None and bool(probe())
