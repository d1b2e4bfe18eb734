"""Conversions for the CPU engine: made once, whole or not at all, by content."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.errors import BackendError, CheckpointError
from polyrank.models import ModelFolder
from polyrank.onnx_backend import conversions
from polyrank.onnx_backend.conversions import (
    cached_conversions,
    clear_conversions,
    packed_dtype,
    packed_folder,
)

PAIRS = [("w1 w2", "w3 w4"), ("w5", "w6 w7 w8")]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    root = tmp_path / "cache" / "onnx"
    monkeypatch.setattr(conversions, "_root", lambda: root)
    return root


@pytest.fixture
def model(tiny_model: Path) -> ModelFolder:
    return ModelFolder(name="tiny", path=tiny_model)


def test_a_model_is_converted_once_and_says_so(
    model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    first = packed_folder(model, "int8")
    told = [r.getMessage() for r in caplog.records if r.name == "polyrank"]
    assert "converting tiny to int8" in told[0]
    assert "MB" in told[1]
    caplog.clear()
    assert packed_folder(model, "int8") == first
    assert not caplog.records
    assert packed_folder(model, "fp32") != first
    assert [(c.model, c.dtype) for c in cached_conversions()] == [
        ("tiny", "fp32"),
        ("tiny", "int8"),
    ]


def test_another_content_is_another_conversion(model: ModelFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model.path, copy)
    same = packed_folder(ModelFolder(name="copy", path=copy), "fp32")
    assert same == packed_folder(model, "fp32")
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert packed_folder(ModelFolder(name="copy", path=copy), "fp32") != same


def test_what_a_killed_process_left_is_made_anew(model: ModelFolder, root: Path) -> None:
    made = packed_folder(model, "int8")
    shutil.move(made, made.with_name(made.name + ".part"))
    (made.with_name(made.name + ".part") / "conversion.json").unlink()
    assert packed_folder(model, "int8") == made
    assert sorted(p.name for p in root.iterdir()) == sorted([made.name, f"{made.name}.lock"])


@pytest.mark.parametrize("name", ["model.onnx", "polyrank.safetensors", "conversion.json"])
def test_what_somebody_damaged_is_made_anew(model: ModelFolder, name: str) -> None:
    made = packed_folder(model, "fp32")
    whole = (made / name).read_bytes()
    (made / name).write_bytes(whole[: len(whole) // 2])
    assert packed_folder(model, "fp32") == made
    assert len((made / name).read_bytes()) == len(whole)


def test_processes_that_ask_at_the_same_time_share_one_conversion(
    tiny_model: Path, tmp_path: Path
) -> None:
    code = f"""
import logging
from polyrank import Reranker
logging.basicConfig(format="%(message)s")
with Reranker({str(tiny_model)!r}, dtype="int8") as reranker:
    print(float(reranker.logits([("w1", "w2 w3")])[0]))
"""
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [p.communicate(timeout=120) for p in running]
    assert len({out for out, _ in ended}) == 1, ended
    assert sum(err.count("converting") for _, err in ended) == 1, ended


def test_clearing_removes_a_models_conversions_or_all(model: ModelFolder, root: Path) -> None:
    packed_folder(model, "int8")
    packed_folder(model, "fp32")
    assert clear_conversions("another") == []
    assert len(clear_conversions("tiny")) == 2
    packed_folder(model, "int8")
    assert len(clear_conversions()) == 1
    assert not root.exists()


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    model: ModelFolder, root: Path
) -> None:
    root.parent.parent.mkdir(exist_ok=True)
    root.parent.write_text("a file where the folder would be")
    with pytest.raises(BackendError, match="HF_HOME"):
        packed_folder(model, "int8")


def test_a_packed_model_needs_no_conversion(model: ModelFolder, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(packed_folder(model, "int8"), folder)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(model.path / name, folder / name)
    clear_conversions()
    assert packed_dtype(folder) == "int8"
    with Reranker(folder) as reranker:
        assert reranker.backend_name == "onnx cpu int8"
        packed = reranker.logits(PAIRS)
    assert not root.exists()
    with Reranker(folder, backend="torch") as reranker:
        np.testing.assert_allclose(reranker.logits(PAIRS), packed, atol=0.2)


def test_a_packed_model_of_another_format_is_an_error(model: ModelFolder, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(packed_folder(model, "int8"), folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match="convert the model again"):
        packed_dtype(folder)


def test_a_conversion_is_told_of_on_stderr_without_any_set_up(
    tiny_model: Path, tmp_path: Path
) -> None:
    code = f"from polyrank import Reranker; Reranker({str(tiny_model)!r}).close()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "polyrank: converting tiny to fp32" in done.stderr
    assert logging.getLogger("polyrank").handlers == []
