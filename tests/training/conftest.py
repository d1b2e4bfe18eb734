"""An encoder and a task small enough to train in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from polyrank.checkpoint import Checkpoint, save_checkpoint
from polyrank.config import EncoderConfig
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.groups import write_groups
from training.matching import matching_groups


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A random BERT encoder without a head, with the tiny tokenizer."""
    config = EncoderConfig(
        family="bert",
        vocab_size=512,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_positions=64,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )
    torch.manual_seed(3)
    model = CrossEncoder.random(config, seed=3, std=0.2)
    arrays = {n: a for n, a in model.arrays().items() if not n.startswith("head.")}
    folder = tmp_path_factory.mktemp("encoder")
    source = {"model_type": "bert"}
    save_checkpoint(
        folder, Checkpoint(config=config, arrays=arrays, source=source), layout="native"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def matching_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A groups file of the matching task."""
    path = tmp_path_factory.mktemp("groups") / "matching.jsonl"
    write_groups(path, matching_groups(400, seed=1))
    return path
