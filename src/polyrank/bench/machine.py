"""What numbers were measured on: processor, system, versions. Facts that a report carries along."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["processor", "versions"]

_PACKAGES = ("polyrank", "onnxruntime", "torch", "tokenizers", "numpy")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what computes, of what is installed, and Python's."""
    found = {p: v for p in _PACKAGES if (v := _version(p)) is not None}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
