"""What a device is told before it trains: the dtype that it is fastest in, and how many threads."""

from __future__ import annotations

from typing import Literal

import torch

from polyrank.cpus import thread_count

__all__ = ["limit_threads", "training_dtype"]


def training_dtype(device: str) -> Literal["bf16", "fp32"]:
    """bf16 where the device multiplies in it, else fp32.

    Most laptops' CPUs do not: there a bf16 product is emulated, and far slower than one in fp32.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if kind == "cpu" and probe is not None and probe() else "fp32"


def limit_threads(threads: int | None = None) -> None:
    """Use so many CPU threads; None: no more than affinity and the container allow.

    Raises InputError for a POLYRANK_THREADS that is no number.
    """
    limit = thread_count(threads)
    if threads is not None or limit < torch.get_num_threads():
        torch.set_num_threads(limit)
