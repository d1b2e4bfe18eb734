"""Two processes do what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from polyrank.training.config import LoopConfig, MixtureConfig, PartConfig, RerankConfig, to_mapping
from polyrank.training.rerank import train_reranker

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from polyrank.training.config import read_config
from polyrank.training.parallel import joined
from polyrank.training.rerank import train_reranker
with joined() as device:
    train_reranker(read_config(sys.argv[1]), sys.argv[2], device=device)
"""


def test_two_processes_train_as_one(
    encoder_folder: Path, matching_file: Path, tmp_path: Path
) -> None:
    loop = LoopConfig(steps=1, learning_rate=1e-3, dtype="fp32", log_every=1, checkpoint_every=1)
    part = PartConfig(path=str(matching_file), max_length=32)
    # Three batches a step: the two processes have different numbers of them.
    data = MixtureConfig(parts=(part,), groups_per_step=6, max_batch_tokens=90)
    config = RerankConfig(model=str(encoder_folder), data=data, loop=loop)
    (tmp_path / "config.json").write_text(json.dumps(to_mapping(config)))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "script.py"), str(tmp_path / "config.json"), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    train_reranker(config, tmp_path / "one")
    two, one = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("two", "one")
    )
    assert two["weights"].keys() == one["weights"].keys()
    moments = [state["optimizer"]["state"].values() for state in (one, two)]
    for a, b in zip(*moments, strict=True):
        # After one step the first moment is a tenth of the clipped gradient.
        torch.testing.assert_close(b["exp_avg"], a["exp_avg"], rtol=1e-3, atol=1e-7)
