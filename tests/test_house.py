"""What the house promises of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polyrank

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_these() -> None:
    assert sorted(polyrank.__all__) == [
        "Calibration",
        "InputError",
        "ModelError",
        "PolyrankError",
        "Ranked",
        "Ranking",
        "Reranker",
        "TooLongError",
        "__version__",
    ]
    assert all(getattr(polyrank, name) is not None for name in polyrank.__all__)
    assert sorted(dir(polyrank)) == sorted(polyrank.__all__)


def test_importing_loads_no_engine() -> None:
    code = "import polyrank, sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(out.stdout))
    heavy = {"torch", "onnxruntime", "transformers", "tokenizers", "numpy", "huggingface_hub"}
    assert not loaded & heavy


def test_no_file_is_over_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("src", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
