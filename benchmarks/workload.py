"""The workload of the CPU benchmarks: the official shape, random weights, 64 ragged pairs."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

OFFICIAL_CONFIG = Path(__file__).parent.parent / "tests" / "data" / "official_config.json"


def lengths(pairs: int = 64, seed: int = 0) -> list[int]:
    """Lognormal lengths in tokens: median 140, from 24 to 512."""
    draws = np.random.default_rng(seed).lognormal(np.log(140), 0.6, pairs)
    return [int(n) for n in np.clip(draws, 24, 512)]


def token_ids(lengths: list[int], vocab: int, seed: int = 0) -> list[list[int]]:
    """`<s> ... </s>` of each length, with random tokens inside."""
    rng = np.random.default_rng(seed)
    return [[0, *rng.integers(4, vocab - 4, n - 2).tolist(), 2] for n in lengths]


def official_folder(folder: Path) -> Path:
    """Write a checkpoint of the official shape with random weights in transformers' layout."""
    from polyrank.checkpoint import Checkpoint, save_checkpoint
    from polyrank.config import parse_config
    from polyrank.torch_backend import CrossEncoder

    if not (folder / "model.safetensors").exists():
        source = json.loads(OFFICIAL_CONFIG.read_text())
        config = parse_config(source)
        arrays = CrossEncoder.random(config).arrays()
        save_checkpoint(
            folder, Checkpoint(config=config, arrays=arrays, source=source), layout="native"
        )
    return folder


def peak_rss_gb() -> float:
    """Most memory this process ever held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
