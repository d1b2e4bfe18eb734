from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from hub_stand_in import COMMIT, hub
from polyrank import Reranker
from polyrank.checkpoint import load_checkpoint
from polyrank.errors import CheckpointError, InputError, ModelNotFoundError
from polyrank.models import find_model, fingerprint
from polyrank.onnx_backend.files import write_packed

SHOW = """
import sys
from polyrank import PolyrankError, Reranker
revision, offline = sys.argv[2] or None, {"": None, "yes": True}[sys.argv[3]]
try:
    with Reranker(sys.argv[1], revision=revision, offline=offline) as r:
        print(r.name, r.revision, "%.4f" % r.logits([("w387 w486", "w77 w422")])[0])
except PolyrankError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def ask(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Load a model by name in a process of its own, with its own cache and endpoint."""

    def run(name: str, endpoint: str, *, revision: str = "", offline: str = "", **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SHOW, name, revision, offline],
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "OMP_NUM_THREADS": "1",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_hub_model_is_downloaded_once_pinned_and_found_again_offline(ask, tiny_model) -> None:  # type: ignore[no-untyped-def]
    with hub(tiny_model, "someone/tiny") as endpoint:
        online = ask("someone/tiny", endpoint)
        assert online.startswith(f"someone/tiny {COMMIT} ")
        assert ask("someone/tiny", endpoint, revision=COMMIT) == online
        missing = ask("someone/tiny", endpoint, revision="v9")
        assert missing.startswith("ModelNotFoundError expected someone/tiny at revision 'v9'")
        unknown = ask("someone/else", endpoint)
        assert unknown.startswith("ModelNotFoundError expected someone/else")
    gone = "http://127.0.0.1:9"
    assert ask("someone/tiny", gone, offline="yes") == online
    assert ask("someone/tiny", gone, HF_HUB_OFFLINE="1") == online
    assert "in the hub's cache" in ask("someone/new", gone, offline="yes")
    assert "in the hub's cache" in ask("someone/new", gone, HF_HUB_OFFLINE="1")


def test_weights_in_the_hubs_folder_that_are_not_a_models_are_left_alone(
    ask, tiny_model: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "repository"
    shutil.copytree(tiny_model, folder)
    (folder / "modeling.py").write_text("raise SystemExit('remote code ran')")
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    with hub(folder, "someone/tiny") as endpoint:
        assert ask("someone/tiny", endpoint).startswith("someone/tiny")
    fetched = {p.name for p in (tmp_path / "hf").rglob("*")}
    assert "model.safetensors" in fetched
    assert not fetched & {"modeling.py", "pytorch_model.bin"}


def test_a_packed_model_comes_from_the_hub_with_its_graph(
    ask, tiny_model: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "packed"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    checkpoint = load_checkpoint(tiny_model)
    write_packed(folder, checkpoint, "int8", source="tiny", source_hash="0")
    with Reranker(folder) as reranker:
        logit = reranker.logits([("w387 w486", "w77 w422")])[0]
    with hub(folder, "someone/packed") as endpoint:
        assert ask("someone/packed", endpoint) == f"someone/packed {COMMIT} {logit:.4f}"
    (folder / "polyrank.safetensors").unlink()
    with hub(folder, "someone/graph") as endpoint:  # a graph of somebody else's
        assert "CheckpointError" in ask("someone/graph", endpoint)
    fetched = [p.parent.parent.parent.name for p in (tmp_path / "hf").rglob("model.onnx")]
    assert fetched == ["models--someone--packed"]


def test_shards_of_any_name_decide_and_come_from_the_hub(
    ask, tiny_model: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "sharded"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "weights-a.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "weights-a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-other.safetensors").write_bytes(b"x")
    with hub(folder, "someone/sharded") as endpoint:
        assert ask("someone/sharded", endpoint).startswith("someone/sharded")
    fetched = {p.name for p in (tmp_path / "hf" / "hub").rglob("*.safetensors")}
    assert fetched == {"weights-a.safetensors"}
    before = fingerprint(folder)
    (folder / "weights-a.safetensors").write_bytes(b"x")
    assert fingerprint(folder) != before


def test_a_folder_is_used_as_it_is(tiny_model: Path) -> None:
    found = find_model(tiny_model)
    assert (found.name, found.path, found.revision) == ("tiny", tiny_model, None)
    with pytest.raises(ModelNotFoundError, match="no revision"):
        find_model(tiny_model, revision="main")


def test_the_embedded_model_has_no_revision() -> None:
    with pytest.raises(ModelNotFoundError, match="no revision for the model inside the package"):
        find_model(None, revision="v1")


@pytest.mark.parametrize("model", [123, b"x", ["a"]])
def test_what_is_no_text_is_no_model(model: Any) -> None:
    with pytest.raises(InputError, match="a model's name or folder"):
        find_model(model)


def test_a_home_of_nobody_is_no_model() -> None:
    with pytest.raises(ModelNotFoundError, match="~nobody-of-that-name"):
        find_model("~nobody-of-that-name/model")


@pytest.mark.parametrize("name", ["nothing-here", "./a/b", "a/b/c", "/no/such", "owner/", ""])
def test_what_is_no_name_is_an_error_that_lists_what_is(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="owner/name"):
        find_model(name)


def test_the_fingerprint_changes_with_what_decides_scores(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    assert fingerprint(folder) == fingerprint(tiny_model)
    (folder / "README.md").write_text("words")
    (folder / "eval_results.json").write_text("{}")
    (folder / "results.json").mkdir()
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    assert fingerprint(folder) == fingerprint(tiny_model)
    for name, count in (("modules.json", 1), ("modules.json", 2)):
        before = fingerprint(folder)
        (folder / name).write_text(json.dumps([{"path": ""}] * count))
        assert fingerprint(folder) != before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert fingerprint(folder) != fingerprint(tiny_model)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "nowhere")
    with pytest.raises(CheckpointError, match=r"expected to read .*model\.safetensors"):
        fingerprint(folder)
