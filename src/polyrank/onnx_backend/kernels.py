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

__all__ = ["kernels_library", "register_kernels"]

_log = logging.getLogger("polyrank")


@functools.cache
def kernels_library() -> Path | None:
    """The library; None where it was not built, or `POLYRANK_KERNELS=off` in the environment.

    One that this machine cannot load is named in a warning, once.
    """
    path = Path(__file__).with_name("libkernels.so")
    if os.environ.get("POLYRANK_KERNELS") == "off" or not path.exists():
        return None
    try:
        ctypes.CDLL(str(path))  # stays open for all sessions
        ort.SessionOptions().register_custom_ops_library(str(path))
    except (OSError, ort_errors.Fail) as error:
        _log.warning("polyrank: runs without its compiled kernels, a quarter slower: %s", error)
        return None
    return path


def register_kernels(options: ort.SessionOptions) -> None:
    """Let a session take the kernels, where there are any."""
    if library := kernels_library():
        options.register_custom_ops_library(str(library))
