"""Which settings there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.bench import parse_settings, possible_settings
from polyrank.bench import settings as settings_room
from polyrank.errors import InputError


def test_fp32_comes_first_and_is_added_where_it_is_missing() -> None:
    assert [str(s) for s in parse_settings("onnx:int8, torch:fp32")] == ["torch:fp32", "onnx:int8"]
    assert [str(s) for s in parse_settings("TORCH:BF16,torch:bf16")] == ["onnx:fp32", "torch:bf16"]


def test_a_gpu_is_an_engine_of_its_own() -> None:
    (_, gpu) = parse_settings("cuda:fp16")
    assert (gpu.backend, gpu.device, gpu.dtype) == ("torch", "cuda", "fp16")
    assert gpu.computes == "cuda fp16"


@pytest.mark.parametrize("text", ["onnx:bf16", "int8", "onnx:fp32;onnx:int8", ",", ""])
def test_an_unknown_setting_is_told_which_there_are(text: str) -> None:
    with pytest.raises(InputError, match="onnx:int8"):
        parse_settings(text)


def test_without_pytorch_the_onnx_settings_are_left(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_room, "find_spec", lambda name: None)
    assert [str(s) for s in possible_settings(tiny_model)] == ["onnx:fp32", "onnx:int8"]


def test_with_pytorch_its_settings_are_measured_too(tiny_model: Path) -> None:
    found = [str(s) for s in possible_settings(tiny_model)]
    assert found[:2] == ["onnx:fp32", "torch:fp32"]
    assert {"onnx:int8", "torch:bf16"} <= set(found)
