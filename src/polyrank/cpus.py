"""How many CPUs this process may use: affinity and container limits, not the host's count.

`POLYRANK_THREADS` is read here, when a model is opened.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from polyrank.errors import InputError

__all__ = ["available_cpus", "thread_count"]

_MOST = 256  # threads that nobody is stopped from asking for, however few CPUs there are


def thread_count(threads: int | None = None) -> int:
    """CPU threads for a backend: `threads`, else `POLYRANK_THREADS`, else the CPUs we may use."""
    stated = os.environ.get("POLYRANK_THREADS", "").strip()
    if threads is None and not stated:
        return available_cpus()
    if threads is None and (not stated.isdecimal() or int(stated) < 1):
        raise InputError(f"expected POLYRANK_THREADS as a positive integer, got {stated!r}")
    count, most = int(stated) if threads is None else threads, max(_MOST, os.cpu_count() or 1)
    if count > most:
        raise InputError(f"expected at most {most} threads on this machine, got {count}")
    return count


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that affinity and the cgroup quota (v1 or v2, every level above us) leave; at least 1.

    `root` is where `proc` and `sys` are looked for.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = _cgroup_quota(root)
    return max(1, min(allowed, math.ceil(quota)) if quota is not None else allowed)


def _cgroup_quota(root: Path) -> float | None:
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for folder in _upwards(root / "sys/fs/cgroup", path):
                limit, _, period = _read(folder / "cpu.max").partition(" ")
                if limit.strip().isdigit():
                    quotas.append(int(limit) / int(period))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / "sys/fs/cgroup/cpu", path):
                limit = _read(folder / "cpu.cfs_quota_us").strip()
                period = _read(folder / "cpu.cfs_period_us").strip()
                if limit.isdigit() and period.isdigit():
                    quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    """The group's folder and every one above it. A container sees itself as the mount's top."""
    parts = [p for p in path.split("/") if p not in ("", "..")]
    return [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
