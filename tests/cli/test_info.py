"""`polyrank info`: facts about a model that its folder states or implies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank.cli.model_card import ModelCard, read_model_card
from polyrank.kernels import kernels_level
from polyrank.models import fingerprint

from .conftest import Ran

Run = Callable[..., Ran]


def test_info_states_shape_size_and_what_would_run(polyrank: Run, tiny_model: Path) -> None:
    ran = polyrank("info", tiny_model, "--json", "--device", "cpu", "--threads", 3)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {
        "model": "tiny",
        "path": str(tiny_model),
        "revision": None,
        "fingerprint": fingerprint(tiny_model),
        "family": "gte",
        "layout": "new",
        "parameters": 310_273,
        "embedding_parameters": (512 + 1 + 2) * 96,
        "body_parameters": 310_273 - (512 + 1 + 2) * 96,
        "layers": 3,
        "width": 96,
        "heads": 4,
        "max_length": 8192,
        "window": 8192,
        "vocabulary": 512,
        "stored_dtypes": ["fp32"],
        "weight_bytes": (tiny_model / "model.safetensors").stat().st_size,
        "languages": None,
        "license": None,
        "runs_on": {
            "backend": "onnx",
            "device": "cpu",
            "dtype": "fp32",
            "threads": 3,
            "kernels": kernels_level(),
        },
    }


def test_info_states_what_a_packed_model_is_stored_in(polyrank: Run) -> None:
    stored = json.loads(polyrank("info", "--json").out)["stored_dtypes"]
    assert stored == ["fp16", "fp32", "int4", "int8"]


def test_info_is_a_fact_a_line_where_people_do_not_look(polyrank: Run, tiny_model: Path) -> None:
    ran = polyrank("info", tiny_model, "--dtype", "bf16", "--device", "cpu", "--threads", 1)
    facts = dict(line.split("\t") for line in ran.lines)
    assert facts["parameters"] == "310,273"
    assert facts["license"] == "not stated"
    assert facts["runs_on"] == f"torch cpu bf16, 1 threads, kernels {kernels_level()}"


def test_languages_and_license_come_from_the_model_card(
    polyrank: Run, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "carded"
    shutil.copytree(tiny_model, folder)
    card = "---\nlicense: apache-2.0\nlanguage:\n- de\n- no\n---\n# A model\n"
    (folder / "README.md").write_text(card)
    facts = json.loads(polyrank("info", folder, "--json").out)
    assert (facts["languages"], facts["license"]) == (["de", "no"], "apache-2.0")


@pytest.mark.parametrize(
    ("text", "languages", "license"),
    [
        ("---\nlanguage: [en, 'zh']\nlicense: \"mit\"\n---\n", ("en", "zh"), "mit"),
        ("---\nlanguage: multilingual # all\n---\n", ("multilingual",), None),
        ("---\r\nlicense: mit\r\nlanguage:\r\n  - en\r\n---\r\n", ("en",), "mit"),
        ("---\nlicense: other\nlicense_name: own\n---\n", None, "own"),
        ("---\ntags:\n- en\nmodel-index:\n- name: x\n  results:\n  - task: y\n---\n", None, None),
        ("---\nlicense: mit\n", None, None),
        ("# License: mit\n---\nlicense: mit\n---\n", None, None),
        ("", None, None),
    ],
)
def test_front_matter_is_read_as_model_cards_write_it(
    tmp_path: Path, text: str, languages: tuple[str, ...] | None, license: str | None
) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_model_card(tmp_path) == ModelCard(languages=languages, license=license)


def test_a_model_that_cannot_be_used_is_an_error(polyrank: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    ran = polyrank("info", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert "model_type" in ran.err


def test_a_backend_that_is_not_there_is_an_error(polyrank: Run, tiny_model: Path) -> None:
    for options in (["--device", "abacus"], ["--dtype", "fp3"], ["--backend", "abacus"]):
        ran = polyrank("info", tiny_model, *options)
        assert ran.code == 1
        assert options[1] in ran.err
