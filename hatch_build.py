"""Compiles the kernels of `src/polyrank/native` into the wheel, on Linux.

With the machine's C compiler, or with the one in the `ziglang` package where there is none. A wheel
without them is whole too: ONNX Runtime then runs the operators' definitions, and PyTorch its own
attention, slower.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLACE = "polyrank/libkernels.so"
# -fno-...: nobody reads errno or traps. `omp simd` says which sums may be taken in another order.
_FLAGS = [
    "-O3", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-s", "-fvisibility=hidden",
    "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
]  # fmt: skip


class KernelsHook(BuildHookInterface):
    """Builds `libkernels.so`, and names the platform in the wheel that holds it."""

    def dependencies(self) -> list[str]:
        return ["ziglang>=0.13"] if sys.platform == "linux" and not _compiler() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if sys.platform != "linux":
            return
        editable = Path(self.root, "src", _PLACE) if version == "editable" else None
        if editable:
            editable.unlink(missing_ok=True)
        # Zig would take the builder's own CPU for the least that a machine has.
        zig = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
        source = Path(self.root, "src", "polyrank", "native", "operators.c")
        self.folder = Path(tempfile.mkdtemp())
        built = self.folder / "libkernels.so"
        command = [*(_compiler() or zig), *_FLAGS, str(source), "-lm", "-o", str(built)]
        caches = {f"ZIG_{kind}_CACHE_DIR": str(self.folder / "zig") for kind in ("GLOBAL", "LOCAL")}
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, **caches}
            )
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or error
            self.app.display_warning(f"polyrank is built without its kernels, slower: {why}")
            return
        if editable:  # into place at once: a process may have another one open
            os.replace(shutil.copy(built, editable.with_suffix(".new")), editable)
            return
        build_data["force_include"][str(built)] = _PLACE
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def _compiler() -> list[str] | None:
    command, *options = shlex.split(os.environ.get("CC") or "cc")
    found = shutil.which(command)
    return [found, *options] if found else None
