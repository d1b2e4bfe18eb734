"""safetensors + config.json <-> named arrays in one canonical naming.

The only door to `safetensors`, and the only room with weight names in quotes. Weights are
memory-mapped: an array is read from disk when, and in the dtype in which, it is used.
"""

from polyrank.checkpoint.files import Array
from polyrank.checkpoint.layouts import canonical_shapes
from polyrank.checkpoint.lowbit import BLOCK, dequantize_int8, quantize_int4, quantize_int8
from polyrank.checkpoint.packed import (
    PACKED_FILE,
    packed_dtypes,
    packed_metadata,
    products,
    save_packed,
)
from polyrank.checkpoint.reading import Checkpoint, load_checkpoint, read_config
from polyrank.checkpoint.writing import save_checkpoint

__all__ = [
    "BLOCK",
    "PACKED_FILE",
    "Array",
    "Checkpoint",
    "canonical_shapes",
    "dequantize_int8",
    "load_checkpoint",
    "packed_dtypes",
    "packed_metadata",
    "products",
    "quantize_int4",
    "quantize_int8",
    "read_config",
    "save_checkpoint",
    "save_packed",
]
