"""`polyrank pretrain`: plain text in, an encoder out."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyrank.checkpoint import load_checkpoint
from polyrank.cli.runs import alone

from .conftest import Ran
from .test_mine import files_of
from .test_train import interrupt, logged, write

Run = Callable[..., Ran]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two languages, one of them compressed."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [" ".join(f"w{20 + (i + j) % 12}" for j in range(8)) for i in range(40)]
    (folder / "de.txt").write_text("\n".join(lines))
    with lzma.open(folder / "sw.txt.xz", "wt") as file:
        file.write("\n".join(lines[:20]))
    return folder


@pytest.fixture
def config(tmp_path: Path, texts: Path, model: str) -> Path:
    """A run of two stages with few sequences a step."""
    loop = {"steps": 3, "learning_rate": 1e-3, "dtype": "fp32", "log_every": 1}
    stage = {"loop": loop, "max_length": 16, "sequences_per_step": 4}
    long = {**stage, "max_length": 32, "rope_theta": 160000.0}
    run = {"model": model, "text": str(texts), "stages": [stage, long], "mask_token": "<unk>"}
    return write(tmp_path / "config.json", run)


def test_options_make_an_encoder_that_training_takes(
    polyrank: Run, texts: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--mask-token", "<unk>", "--max-length", 12, "--steps", 2, "--rope-theta", 5e5]
    ran = polyrank("pretrain", "--model", model, "--text", texts, *options, "--out", out)
    assert (ran.code, ran.err) == (0, f"wrote {out}/encoder\n")
    encoder = load_checkpoint(out / "encoder", require_head=False)
    assert not encoder.has_head
    assert encoder.config.rope_theta == 5e5
    groups = tmp_path / "groups.jsonl"
    groups.write_text('{"query": "w20", "texts": ["w20 w21", "w9"]}\n')
    recipe = ["--recipe", "encoder", "--model", out / "encoder", "--data", groups]
    assert polyrank("train", *recipe, "--steps", 1, "--out", tmp_path / "run").code == 0


def test_a_config_goes_through_its_stages(polyrank: Run, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert polyrank("pretrain", config, "--out", out).code == 0
    for stage in ("stage-1", "stage-2"):
        assert list(logged(out / stage, "train", "mlm")) == [1, 2, 3]
    encoder = load_checkpoint(out / "encoder", require_head=False)
    assert encoder.config.rope_theta == 160000.0


def test_a_dry_run_shows_texts_tokens_and_duration_and_writes_nothing(
    polyrank: Run, config: Path, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    ran = polyrank("pretrain", config, "--dry-run", "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    assert files_of(tmp_path) == before
    assert ran.lines[0].startswith("text: <s> ")
    assert "<unk>" in "".join(ran.lines[:4])
    assert [line.partition(":")[0] for line in ran.lines[4:]] == ["stage 1", "stage 2", "the run"]
    short, long, whole = (int(line.split(": ")[1].split()[0]) for line in ran.lines[4:])
    assert 4 * 3 <= short <= 4 * 16
    assert short < long <= 4 * 32
    assert whole == 3 * (short + long)
    assert " tokens, about " in ran.lines[-1]


def test_ctrl_c_keeps_the_step_and_the_same_command_goes_on(
    polyrank: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert polyrank("pretrain", config, "--out", tmp_path / "whole").code == 0
    cut = tmp_path / "cut"
    with monkeypatch.context() as patched:
        interrupt(patched, step=2)
        stopped = polyrank("pretrain", config, "--out", cut)
    assert stopped.code == 130
    assert stopped.err == "stopped after step 2 of 3; the same command goes on from there\n"
    assert torch.load(cut / "stage-1" / "state.pt", weights_only=True)["step"] == 2
    assert not (cut / "stage-2").exists()
    assert polyrank("pretrain", config, "--out", cut).code == 0
    for stage in ("stage-1", "stage-2"):
        assert logged(cut / stage, "train", "mlm") == logged(
            tmp_path / "whole" / stage, "train", "mlm"
        )
    assert "has taken all its steps" in polyrank("pretrain", config, "--out", cut).err


def test_from_scratch_only_shape_and_tokenizer_are_used(
    polyrank: Run, config: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shape = tmp_path / "shape"
    shape.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, shape / name)
    run = json.loads(config.read_text()) | {"model": str(shape), "from_scratch": True}
    out = tmp_path / "out"
    assert polyrank("pretrain", write(config, run), "--out", out).code == 0
    made, tiny = load_checkpoint(out / "encoder", require_head=False), load_checkpoint(tiny_model)
    assert made.config.hidden_size == tiny.config.hidden_size
    name = "layers.0.qkv.weight"
    both = np.stack([a.arrays[name].float32().ravel() for a in (made, tiny)])
    assert abs(np.corrcoef(both)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": [{"loop": {"steps": 1}, "max_lenght": 8}]}, "did you mean 'max_length'?"),
        ({"stages": []}, "a list of at least one at {}: stages, got []"),
        ({"texts": "t"}, "did you mean 'text'?"),
        ({"mask_token": "<mask>"}, "expected the token '<mask>'"),
        ({"text": "nowhere"}, "LANGUAGE.txt, .txt.gz or .txt.xz in nowhere"),
        ({"stages": [{"loop": {"steps": 1}, "max_length": 9000}]}, "at most 8192 tokens"),
        (
            {"stages": [{"loop": {"steps": 0}, "max_length": 9}]},
            "{}: stages[0]: loop: steps, got 0",
        ),
        ({"stages": [{"loop": {"steps": 1}, "max_length": 2}]}, "of at least 8 at {}: stages[0]"),
    ],
)
def test_a_wrong_config_names_the_place(
    polyrank: Run, config: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write(config, json.loads(config.read_text()) | change)
    for how in (["--dry-run"], ["--out", tmp_path / "out"]):
        ran = polyrank("pretrain", config, *how)
        assert ran.code == 1
        assert words.format(config) in ran.err


def test_another_config_does_not_go_on(polyrank: Run, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert polyrank("pretrain", config, "--out", out).code == 0
    run = json.loads(config.read_text())
    run["stages"][1]["max_length"] = 24
    ran = polyrank("pretrain", write(config, run), "--out", out)
    assert ran.code == 1
    assert "stages.1.max_length 32 then and 24 now" in ran.err


def test_a_second_run_into_one_folder_and_a_rate_of_nothing_are_refused(
    polyrank: Run, config: Path, texts: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with alone(out):
        ran = polyrank("pretrain", config, "--out", out)
    assert ran.code == 1
    assert f"expected to be the only run that writes {out}" in ran.err
    assert files_of(out) == [".lock"]
    given = ["--model", model, "--text", texts, "--learning-rate", 0, "--out", out]
    ran = polyrank("pretrain", *given)
    assert ran.code == 1
    assert "the options: stages[0]: loop: learning_rate, got 0" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "o"], "CONFIG, or --model and --text"),
        (["--model", "m", "--out", "o"], "CONFIG, or --model and --text"),
        (["c.json", "--steps", "3", "--out", "o"], "got options beside it"),
        (["c.json", "--from-scratch", "--out", "o"], "got options beside it"),
        (["c.json"], "--out FOLDER, or --dry-run"),
    ],
)
def test_wrong_usage_says_what_was_expected(polyrank: Run, options: list[str], words: str) -> None:
    ran = polyrank("pretrain", *options)
    assert ran.code == 2
    assert words in " ".join(ran.err.replace("│", " ").split())
