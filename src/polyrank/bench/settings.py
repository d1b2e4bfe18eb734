"""Which settings there are, which of them run here, and which come first. Loads no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from polyrank.backends import choose_backend
from polyrank.bench.values import Setting
from polyrank.errors import InputError

__all__ = ["parse_settings", "possible_settings"]

_ENGINES = {
    "onnx": ("onnx", "cpu", ("fp32", "int8")),
    "torch": ("torch", "cpu", ("fp32", "bf16")),
    "cuda": ("torch", "cuda", ("fp32", "fp16", "bf16")),
    "mps": ("torch", "mps", ("fp32", "fp16", "bf16")),
}
_KNOWN = {
    f"{engine}:{dtype}": Setting(backend=backend, device=device, dtype=dtype)
    for engine, (backend, device, dtypes) in _ENGINES.items()
    for dtype in dtypes
}
_REFERENCE = "onnx:fp32"


def possible_settings(folder: Path) -> list[Setting]:
    """Settings that run here: ONNX Runtime's, PyTorch's where it is installed, a GPU's."""
    names = ["onnx:fp32", "onnx:int8"]
    if find_spec("torch") is not None:
        names += ["torch:fp32", "torch:bf16"]
        if choose_backend(folder).device.startswith("cuda"):
            names += ["cuda:fp16", "cuda:bf16"]
    return _fp32_first(_KNOWN[n] for n in names)


def parse_settings(text: str) -> list[Setting]:
    """Settings from `onnx:int8,torch:bf16`, and fp32 where none is named, to compare with.

    Raises InputError for a name that is no setting.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in _KNOWN:
            raise InputError(
                f"expected settings of {', '.join(_KNOWN)}, with commas between, got {name!r}"
            )
    if not names:
        raise InputError(f"expected settings like onnx:int8,torch:bf16, got {text!r}")
    if not any(_KNOWN[n].dtype == "fp32" for n in names):
        names.append(_REFERENCE)
    return _fp32_first(_KNOWN[n] for n in names)


def _fp32_first(settings: Iterable[Setting]) -> list[Setting]:
    chosen: Sequence[Setting] = list(settings)
    return sorted(chosen, key=lambda s: s.dtype != "fp32")
