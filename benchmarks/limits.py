"""What matrix products this machine does at best, in 10^9 operations a second, as JSON.

    python benchmarks/limits.py

The products of `polyrank bench`, of the sizes that the official shape has: ONNX Runtime's int8
(uint8 x int8 with a scale per column) and fp32, PyTorch's bf16.
"""

from __future__ import annotations

import json

from polyrank.bench.limits import best_rates
from polyrank.bench.values import Setting

LAYERS = ((768, 768), (768, 3072), (3072, 768))
"""What is summed over, columns."""
LIBRARIES = {"int8": "onnx", "fp32": "onnx", "bf16": "torch"}


def measure() -> dict[str, float]:
    """Best rate over all shapes, by dtype."""
    settings = [Setting(backend=b, device="cpu", dtype=d) for d, b in LIBRARIES.items()]
    rates = best_rates(settings, LAYERS)
    return {s.dtype: rates[s.computes] for s in settings}


if __name__ == "__main__":
    print(json.dumps(measure()))
