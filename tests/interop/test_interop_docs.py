"""Every Python block of docs/interop.md runs and is right, on the tiny checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.torch import load_file

from polyrank import Reranker

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
NAME = "Alibaba-NLP/gte-multilingual-reranker-base"
TRANSFORMERS = "Use it from transformers"
CROSS_ENCODER = "Use it from sentence-transformers' CrossEncoder"
OFFLINE = "Use it offline"


def blocks(heading: str) -> list[str]:
    """The Python blocks of one section."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a block with the tiny checkpoint for the hub's, without a connection; its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards, whatever a block sets
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("expected no connection"))

    def run(code: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(code.replace(NAME, str(tiny_model)), str(PAGE), "exec"), names)
        return names

    return run


def test_every_block_of_the_page_is_run_here() -> None:
    counted = [len(blocks(heading)) for heading in (TRANSFORMERS, CROSS_ENCODER, OFFLINE)]
    assert counted == [2, 1, 2]
    assert sum(counted) == PAGE.read_text(encoding="utf-8").count("```python")


def test_the_model_cards_snippet_gives_polyranks_logits(run: Any, reranker: Reranker) -> None:
    names = run(blocks(TRANSFORMERS)[0])
    assert names["scores"].tolist() == pytest.approx(reranker.logits(names["pairs"]), abs=1e-4)


def test_what_is_saved_is_native_and_is_ranked(run: Any) -> None:
    run(blocks(TRANSFORMERS)[1])
    assert "gte.layers.0.self_attn.q_proj.weight" in load_file("reranker-native/model.safetensors")


def test_cross_encoder_gives_polyranks_scores(run: Any, reranker: Reranker) -> None:
    names = run(blocks(CROSS_ENCODER)[0])
    pairs = [(names["query"], document) for document in names["documents"]]
    assert names["scores"].tolist() == pytest.approx(reranker.score(pairs), abs=1e-5)
    assert names["hit"]["corpus_id"] == reranker.rank(names["query"], names["documents"])[0].index


def test_the_folder_is_all_that_is_read_offline(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The download alone is not tested here: it gives the folder that the name stands for.
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: name)
    online, offline = blocks(OFFLINE)
    run(online)
    run(offline)
    ours, theirs = (float(line.strip("[]")) for line in capsys.readouterr().out.splitlines())
    assert ours == pytest.approx(theirs, abs=1e-5)
