from __future__ import annotations

import os
from pathlib import Path

import pytest

from polyrank.cpus import available_cpus, thread_count
from polyrank.errors import InputError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cpus")
def test_without_a_container_affinity_decides(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8


@pytest.mark.usefixtures("eight_cpus")
def test_a_cgroup_v2_quota_is_rounded_up(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "250000 100000\n")
    assert available_cpus(tmp_path) == 3


@pytest.mark.usefixtures("eight_cpus")
def test_the_tightest_quota_above_us_holds(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path / "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/outer/cpu.max", "200000 100000\n")
    assert available_cpus(tmp_path) == 2


@pytest.mark.usefixtures("eight_cpus")
def test_a_cgroup_v1_quota_holds_and_minus_one_means_none(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/box\n")
    quota = tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us"
    write(quota, "50000\n")
    write(quota.with_name("cpu.cfs_period_us"), "100000\n")
    assert available_cpus(tmp_path) == 1
    write(quota, "-1\n")
    assert available_cpus(tmp_path) == 8


def test_threads_are_those_asked_for_then_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYRANK_THREADS", "3")
    assert (thread_count(5), thread_count()) == (5, 3)
    monkeypatch.setenv("POLYRANK_THREADS", "")
    assert thread_count() == available_cpus()
    monkeypatch.setenv("POLYRANK_THREADS", "two")
    with pytest.raises(InputError, match="POLYRANK_THREADS"):
        thread_count()
    monkeypatch.setenv("POLYRANK_THREADS", "100000")
    with pytest.raises(InputError, match="at most"):
        thread_count()
    with pytest.raises(InputError, match="at most"):
        thread_count(5000)
