"""safetensors + config.json <-> named arrays in one canonical naming.

The only door to `safetensors`, and the only room with weight names in quotes. Weights are
memory-mapped: an array is read from disk when, and in the dtype in which, it is used.
"""

from polyrank.checkpoint.files import Array, read_json
from polyrank.checkpoint.layouts import canonical_shapes
from polyrank.checkpoint.reading import Checkpoint, load_checkpoint
from polyrank.checkpoint.writing import save_checkpoint

__all__ = [
    "Array",
    "Checkpoint",
    "canonical_shapes",
    "load_checkpoint",
    "read_json",
    "save_checkpoint",
]
