"""The choice of a backend, from what was asked for and what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyrank import backends
from polyrank.backends import choose_backend
from polyrank.errors import BackendError, MissingDependencyError


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, ("onnx", "fp32")),
        ({"device": "cpu"}, ("onnx", "fp32")),
        ({"dtype": "int8"}, ("onnx", "int8")),
        ({"backend": "onnx"}, ("onnx", "fp32")),
        ({"backend": "torch"}, ("torch", "fp32")),
        ({"dtype": "bf16"}, ("torch", "bf16")),
        ({"compile": True}, ("torch", "fp32")),
    ],
)
def test_on_a_cpu(tiny_model: Path, asked: dict[str, Any], chosen: tuple[str, str]) -> None:
    found = choose_backend(tiny_model, threads=3, **asked)
    assert (found.backend, found.dtype) == chosen
    assert (found.device, found.threads) == ("cpu", 3)


@pytest.mark.parametrize(
    "asked",
    [
        {"backend": "abacus"},
        {"dtype": "fp3"},
        {"backend": "onnx", "device": "cuda"},
        {"backend": "onnx", "dtype": "bf16"},
        {"backend": "onnx", "compile": True},
        {"backend": "torch", "dtype": "int8"},
    ],
)
def test_what_does_not_go_together_is_an_error(tiny_model: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="expected"):
        choose_backend(tiny_model, **asked)


def test_without_pytorch_the_cpu_still_runs_and_the_rest_says_what_to_install(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose_backend(tiny_model).backend == "onnx"
    for asked in ({"backend": "torch"}, {"dtype": "bf16"}, {"device": "cuda"}):
        with pytest.raises(MissingDependencyError, match=r"polyrank\[torch\]"):
            choose_backend(tiny_model, **asked)
    with pytest.raises(BackendError, match="'gpu'"):
        choose_backend(tiny_model, device="gpu")


def test_a_gpu_that_only_the_driver_knows_of_leaves_the_cpu_engine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_may_have_cuda", lambda: True)
    assert choose_backend(tiny_model).backend == "onnx"  # this PyTorch has no CUDA


def test_a_packed_model_runs_without_pytorch_or_the_graph_builder(tiny_model: Path) -> None:
    code = f"""
import sys
from polyrank import Reranker
Reranker({str(tiny_model)!r}, dtype="int8").close()
for name in [n for n in sys.modules if n.partition(".")[0] in ("onnx", "polyrank")]:
    del sys.modules[name]
from polyrank import Reranker
with Reranker({str(tiny_model)!r}, dtype="int8") as reranker:
    reranker.rank("w1", ["w2", "w3"])
heavy = {{"torch", "onnx", "transformers", "polyrank.onnx_backend.graph"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages here"
)
def test_large_tensors_are_on_large_pages_where_there_are_some() -> None:
    code = """
import polyrank.torch_backend, torch
at = (tensor := torch.empty(8 << 20)).data_ptr()
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        first, last = (int(place, 16) for place in words[0].split("-"))
    elif words[0] == "VmFlags:" and first <= at < last:
        print(*words)
"""
    command = [sys.executable, "-c", code]
    unasked = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    for asked, large in (({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)):
        environment = unasked | asked
        flags = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        assert (b" hg" in flags) is large
