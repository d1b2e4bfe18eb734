"""Which dtype a device trains fastest in."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["training_dtype"]


def training_dtype(device: str) -> Literal["bf16", "fp32"]:
    """bf16 where the device multiplies in it, else fp32.

    Most laptops' CPUs do not: there a bf16 product is emulated, and far slower than one in fp32.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if kind == "cpu" and probe is not None and probe() else "fp32"
