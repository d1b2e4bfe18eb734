"""Which backend runs a model here, and opening it. One place for the choice.

Imports a backend's library only when that backend runs.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from polyrank.checkpoint import load_checkpoint
from polyrank.cpus import thread_count
from polyrank.errors import BackendError, MissingDependencyError
from polyrank.models import ModelFolder
from polyrank.onnx_backend.conversions import packed_dtype, packed_folder
from polyrank.onnx_backend.layout import Precision
from polyrank.values import Backend

__all__ = ["Choice", "choose_backend", "open_backend"]

_BACKENDS = ("auto", "onnx", "torch")
_ONNX_DTYPES = ("fp32", "int8")
_NVIDIA_DRIVER = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What would run a model."""

    backend: Literal["onnx", "torch"]
    device: str
    dtype: str
    threads: int | None
    """CPU threads; None on other devices."""


def choose_backend(
    folder: Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    compile: bool = False,
) -> Choice:
    """Decide from what was asked for, and from this machine where that is "auto".

    A GPU of NVIDIA runs PyTorch where that is installed; a CPU runs ONNX Runtime. There `auto` is
    the dtype that a packed model came in, and fp32 for all others. Raises BackendError where
    what was asked for does not go together.
    """
    if backend not in _BACKENDS:
        raise BackendError(f"expected a backend of {', '.join(_BACKENDS)}, got {backend!r}")
    if dtype not in ("auto", "fp32", "int8", "bf16", "fp16"):
        raise BackendError(f"expected dtype auto, fp32, int8, bf16 or fp16, got {dtype!r}")
    only_torch = device not in ("auto", "cpu") or dtype in ("bf16", "fp16") or compile
    if backend == "onnx" and only_torch:
        raise BackendError(
            f"expected a CPU, dtype fp32 or int8 and no compile for the onnx backend, got device "
            f'{device!r}, dtype {dtype!r}, compile={compile}; use backend="torch"'
        )
    if backend == "torch" and dtype == "int8":
        raise BackendError(
            'expected dtype fp32, bf16 or fp16 for the torch backend, got int8; use backend="onnx"'
        )
    asked = backend == "torch" or only_torch
    if asked or (backend == device == "auto" and dtype != "int8" and _may_have_cuda()):
        chosen = _choose_torch(device, dtype, threads)
        if asked or chosen.device.startswith("cuda"):
            return chosen
    stored = packed_dtype(folder) if dtype == "auto" else None
    return Choice(
        backend="onnx",
        device="cpu",
        dtype=stored or ("fp32" if dtype == "auto" else dtype),
        threads=thread_count(threads),
    )


def open_backend(
    model: ModelFolder, choice: Choice, *, threads: int | None = None, compile: bool = False
) -> Backend:
    """Load a model into the chosen backend, converting it once where the choice is ONNX.

    `threads` is what was asked for: PyTorch's threads are the whole process's, and are raised
    for nobody who did not ask.

    Raises CheckpointError, BackendError and MissingDependencyError.
    """
    if choice.backend == "torch":
        _require_torch()
        from polyrank.torch_backend import TorchBackend

        return TorchBackend(
            load_checkpoint(model.path),
            device=choice.device,
            dtype=choice.dtype,
            threads=threads,
            compile=compile,
        )
    packed = packed_folder(model, cast(Precision, choice.dtype))
    from polyrank.onnx_backend.runner import OnnxBackend

    return OnnxBackend(packed, threads=threads)


def _choose_torch(device: str, dtype: str, threads: int | None) -> Choice:
    if str(device).partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise BackendError(f'expected device "auto", "cpu", "cuda" or "mps", got {device!r}')
    _require_torch()
    from polyrank.torch_backend.runner import choose_device, choose_dtype

    found = choose_device(device)
    on_cpu = found.type == "cpu"
    return Choice(
        backend="torch",
        device=str(found),
        dtype=choose_dtype(dtype, found),
        threads=thread_count(threads) if on_cpu else None,
    )


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise MissingDependencyError(
            'expected PyTorch for this device or dtype; install it with: pip install "polyrank'
            '[torch]", or run on the CPU with backend="onnx"'
        )


def _may_have_cuda() -> bool:
    """Whether asking PyTorch for a GPU is worth the seconds that importing it takes."""
    name = _NVIDIA_DRIVER.get(sys.platform)
    if name is None or find_spec("torch") is None:
        return False
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
