"""`polyrank convert`: another layout, the same scores, nothing lost and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank import Reranker
from polyrank.errors import CheckpointError

from .conftest import Ran

Run = Callable[..., Ran]
PAIRS = [("w1 w2", "w3 w4"), ("w5", "w6 w7 w8")]


def test_there_and_back_gives_the_same_logits(
    polyrank: Run, tiny_model: Path, tmp_path: Path, reranker: Reranker
) -> None:
    native, official = tmp_path / "native", tmp_path / "official"
    there = polyrank("convert", tiny_model, native, "--layout", "native")
    back = polyrank("convert", native, official, "--layout", "official")
    assert (there.code, there.out) == (0, "")
    assert (back.code, back.err) == (0, f"wrote {official} in the official layout\n")
    types = [json.loads((f / "config.json").read_text())["model_type"] for f in (native, official)]
    assert types == ["gte", "new"]
    for folder in (native, official):
        with Reranker(folder) as converted:
            assert abs(converted.logits(PAIRS) - reranker.logits(PAIRS)).max() < 1e-5


def test_tokenizer_and_card_come_along(polyrank: Run, tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_model, source)
    for name in ("README.md", "LICENSE", "special_tokens_map.json", "modeling.py"):
        (source / name).write_text("{}")
    (source / "modules.json").write_text('[{"path": ""}]')
    assert polyrank("convert", source, tmp_path / "out", "--layout", "native").code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
        "modules.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_out_is_replaced_only_by_force_and_only_where_it_is_a_model(
    polyrank: Run, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    convert = ["convert", tiny_model, out, "--layout", "native"]
    assert polyrank(*convert).code == 0  # an empty folder is as good as none
    (out / "mine.txt").write_text("precious")
    refused = polyrank(*convert)
    assert refused.code == 1
    assert "--force" in refused.err
    assert (out / "mine.txt").exists()
    assert polyrank(*convert, "--force").code == 0
    assert not (out / "mine.txt").exists()
    (out / "step-000004").mkdir()
    ran = polyrank(*convert, "--force")
    assert (ran.code, "found step-000004" in ran.err) == (1, True)
    (out / "step-000004").rmdir()
    (out / "config.json").write_text('{"loop": {"steps": 4}}')  # of a training run
    assert polyrank(*convert, "--force").code == 1
    (out / "config.json").unlink()
    assert polyrank(*convert, "--force").code == 1
    assert list(tmp_path.iterdir()) == [out]  # nothing stays beside it


def test_the_model_itself_is_never_replaced(
    polyrank: Run, tiny_model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "models" / "one"
    shutil.copytree(tiny_model, source)
    (tmp_path / "models" / "config.json").write_text("{}")
    for out in (source, source.parent):
        ran = polyrank("convert", source, out, "--layout", "native", "--force")
        assert ran.code == 1
        assert (source / "model.safetensors").exists()
    file = tmp_path / "file"
    file.touch()
    assert polyrank("convert", source, file, "--layout", "native", "--force").code == 1


def test_a_failure_leaves_everything_as_it_was(
    polyrank: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise CheckpointError("the disk is full")

    out = tmp_path / "out"
    assert polyrank("convert", tiny_model, out, "--layout", "native").code == 0
    before = (out / "config.json").read_bytes()
    monkeypatch.setattr(shutil, "copyfile", fail)
    ran = polyrank("convert", tiny_model, out, "--layout", "official", "--force")
    assert (ran.code, ran.err) == (1, "error: the disk is full\n")
    assert (out / "config.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_there_comes_back_where_the_new_one_cannot_take_its_place(
    polyrank: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert polyrank("convert", tiny_model, out, "--layout", "native").code == 0
    before = (out / "config.json").read_bytes()
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert polyrank("convert", tiny_model, out, "--layout", "official", "--force").code == 130
    assert (out / "config.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_an_unknown_layout_is_wrong_usage(polyrank: Run, tiny_model: Path, tmp_path: Path) -> None:
    assert polyrank("convert", tiny_model, tmp_path / "out", "--layout", "square").code == 2
    assert polyrank("convert", tiny_model, tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_packed_model_runs_by_itself(
    polyrank: Run, tiny_model: Path, tmp_path: Path, reranker: Reranker, dtype: str
) -> None:
    out = tmp_path / "packed"
    ran = polyrank("convert", tiny_model, out, "--onnx", dtype)
    assert (ran.code, ran.out) == (0, "")
    assert f"packed in {dtype}" in ran.err
    assert {"config.json", "tokenizer.json", "model.onnx"} <= {p.name for p in out.iterdir()}
    with Reranker(out) as packed:
        assert packed.backend_name == f"onnx cpu {dtype}"
        near = 1e-5 if dtype == "fp32" else 0.2
        assert abs(packed.logits(PAIRS) - reranker.logits(PAIRS)).max() < near


def test_a_layout_or_a_packing_is_asked_for(
    polyrank: Run, tiny_model: Path, tmp_path: Path
) -> None:
    for options in ([], ["--layout", "native", "--onnx", "int8"]):
        ran = polyrank("convert", tiny_model, tmp_path / "out", *options)
        assert (ran.code, (tmp_path / "out").exists()) == (2, False)
        assert "--onnx" in ran.err
