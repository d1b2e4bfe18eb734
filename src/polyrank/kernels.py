"""The compiled kernels of `native`, where this install has them. Knows no graph and no tensor."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from pathlib import Path

from polyrank.errors import InputError

__all__ = ["LEVELS", "LIBRARY", "kernels_level", "load_kernels"]

LEVELS = ("off", "plain", "avx2", "avx512", "avx512-bf16", "amx")
"""What `POLYRANK_KERNELS` may ask for at most; without it, the best that the CPU has is taken."""
LIBRARY = Path(__file__).with_name("libkernels.so")
_log = logging.getLogger("polyrank")


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))  # it stays open for all sessions
        library.polyrank_kernels.restype = ctypes.c_char_p
        library.polyrank_threads.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError) as error:
        _log.warning("polyrank: runs without its compiled kernels, slower: %s", error)
        return None
    return library


@functools.cache
def kernels_level() -> str:
    """The instructions that the kernels of this process use, one of `LEVELS`.

    `"off"` where the install has none, or `POLYRANK_KERNELS` says so. A library that does not load
    is named in a warning, once. Raises InputError for a `POLYRANK_KERNELS` that is no level.
    """
    asked = os.environ.get("POLYRANK_KERNELS", "")
    if asked and asked not in LEVELS:
        raise InputError(f"expected POLYRANK_KERNELS as one of {', '.join(LEVELS)}, got {asked!r}")
    library = None if asked == "off" else _library()
    return "off" if library is None else str(library.polyrank_kernels().decode())


def load_kernels() -> ctypes.CDLL | None:
    """The library, or None where `kernels_level` is "off"."""
    return None if kernels_level() == "off" else _library()
