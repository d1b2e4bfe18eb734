"""The compiled kernels of the fused operators, where this install has them.

Knows no graph: sessions take them for operators of `fused.py`'s domain, or run the definitions.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from polyrank.errors import InputError

__all__ = ["LEVELS", "kernels_level", "register_kernels"]

LEVELS = ("off", "plain", "avx2", "avx512", "avx512-bf16", "amx")
"""What `POLYRANK_KERNELS` may ask for at most; without it, the best that the CPU has is taken."""
_LIBRARY = Path(__file__).with_name("libkernels.so")
_log = logging.getLogger("polyrank")


@functools.cache
def kernels_level() -> str:
    """The instructions that the kernels of this process use, one of `LEVELS`.

    `"off"` where the install has none, or `POLYRANK_KERNELS` says so. A library that does not load
    is named in a warning, once. Raises InputError for a `POLYRANK_KERNELS` that is no level.
    """
    asked = os.environ.get("POLYRANK_KERNELS", "")
    if asked and asked not in LEVELS:
        raise InputError(f"expected POLYRANK_KERNELS as one of {', '.join(LEVELS)}, got {asked!r}")
    if asked == "off" or not _LIBRARY.exists():
        return "off"
    try:
        library = ctypes.CDLL(str(_LIBRARY))  # it stays open for all sessions
        library.polyrank_kernels.restype = ctypes.c_char_p
        ort.SessionOptions().register_custom_ops_library(str(_LIBRARY))
    except (OSError, AttributeError, ort_errors.Fail) as error:
        _log.warning("polyrank: runs without its compiled kernels, slower: %s", error)
        return "off"
    return str(library.polyrank_kernels().decode())


def register_kernels(options: ort.SessionOptions) -> None:
    """Let a session take the kernels, where there are any."""
    if kernels_level() != "off":
        options.register_custom_ops_library(str(_LIBRARY))
