"""Checkpoints that tests share. None needs a network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from polyrank import Reranker
from polyrank.values import Encoding

# Conversions and downloads go here, and with it; the hub client, imported later, reads it once.
_home = tempfile.TemporaryDirectory(prefix="polyrank-tests-")
os.environ["HF_HOME"] = _home.name

# The networks here are tiny: more threads would only wait for each other.
torch.set_num_threads(1)

# A shell's background jobs ignore Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
settings.register_profile("polyrank", deadline=None)
settings.load_profile("polyrank")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A complete checkpoint folder: 3 layers, random weights, word `wN` is token N."""
    return DATA / "tiny"


@pytest.fixture(scope="session")
def narrow_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, which says that it reads 24 tokens at once."""
    folder = tmp_path_factory.mktemp("models") / "narrow"
    shutil.copytree(tiny_model, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "polyrank_window": 24}))
    return folder


@pytest.fixture(scope="session")
def tiny_cases(tiny_model: Path) -> list[dict[str, Any]]:
    """Token ids with the reference code's logit and hidden states."""
    return json.loads((tiny_model / "cases.json").read_text())


@pytest.fixture(scope="session")
def tiny_pairs(tiny_model: Path) -> list[dict[str, Any]]:
    """Text pairs with the reference code's logit and token count."""
    return json.loads((tiny_model / "pairs.json").read_text())


@pytest.fixture(scope="session")
def reranker(tiny_model: Path) -> Iterator[Reranker]:
    """The tiny checkpoint, running."""
    with Reranker(tiny_model) as running:
        yield running


def encoding_of(ids: list[int], type_split: int | None = None) -> Encoding:
    """An encoding of bare token ids."""
    return Encoding(
        ids=np.array(ids, np.int32),
        type_split=len(ids) if type_split is None else type_split,
        tokens_given=len(ids),
    )
