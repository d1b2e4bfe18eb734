"""What a graph reads by token: embeddings, and the rotations of positions.

T packed tokens, D width, K head width
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from polyrank.checkpoint import BLOCK, Array, Checkpoint, quantize_int4
from polyrank.onnx_backend.parts import Parts

__all__ = ["Rope", "Table", "Tables"]

Table = Literal["stored", "fp16", "int4"]
Rope = tuple[str, str]
"""[positions, K / 2] cosines and sines"""


class Tables(Parts):
    """A graph's parts, and the weights of its network."""

    def __init__(self, checkpoint: Checkpoint, table: Table) -> None:
        super().__init__()
        self.config = checkpoint.config
        self.arrays: Mapping[str, Array] = checkpoint.arrays
        self.table = table

    def embed(self) -> str:
        """[T, D] embeddings of the tokens, normed."""
        x = self.word_rows()
        if self.config.type_vocab_size > 1:
            x = self.node("Add", [x, self.rows("embeddings.token_type.weight", "types")])
        elif self.config.type_vocab_size == 1:
            x = self.node("Add", [x, self.weight("embeddings.token_type.weight")])
        if self.config.rope_theta is None:
            offset = self.constant("offset", np.array(self.config.position_offset, np.int64))
            at = self.node("Add", [self.counted(self.config.position_offset), offset])
            x = self.node("Add", [x, self.rows("embeddings.position.weight", at)])
        return self.node(
            "LayerNormalization",
            [x, self.weight("embeddings.norm.weight"), self.weight("embeddings.norm.bias")],
            epsilon=self.config.layer_norm_eps,
        )

    def rope_caches(self) -> Rope | None:
        """The rotations, where the network has them."""
        if self.config.rope_theta is None:
            return None
        angles = np.outer(np.arange(self.config.max_positions), self.config.inv_freq())
        cos = self.stored("rope.cos", np.cos(angles).astype(np.float32))
        return cos, self.stored("rope.sin", np.sin(angles).astype(np.float32))

    def word_rows(self) -> str:
        """[T, D] word embeddings of the tokens."""
        name = "embeddings.word.weight"
        if self.table == "int4":
            return self.int4_rows(name)
        array = self.arrays[name]
        table = array.float32() if array.bf16 else array.data
        table = table.astype(np.float16) if self.table == "fp16" else table
        rows = self.node("Gather", [self.stored(name, table), "ids"], axis=0)
        return rows if table.dtype == np.float32 else self.cast(rows)

    def int4_rows(self, name: str) -> str:
        bytes_, scales = quantize_int4(self.arrays[name].float32())
        D, blocks = self.config.hidden_size, scales.shape[1]
        packed = self.node("Gather", [self.stored(f"{name}.int4", bytes_), "ids"], axis=0)
        scale = self.node("Gather", [self.stored(f"{name}.scales", scales), "ids"], axis=0)
        halves = []
        for op, by, options in (
            ("BitwiseAnd", np.uint8(15), {}),
            ("BitShift", np.uint8(4), {"direction": "RIGHT"}),
        ):
            half = self.node(op, [packed, self.constant(f"{op}.by", by)], **options)
            halves.append(self.node("Reshape", [half, self.integers(-1, blocks, BLOCK // 2)]))
        values = self.cast(self.node("Concat", halves, axis=2))
        values = self.node("Sub", [values, self.constant("eight", np.float32(8))])
        scale = self.node("Unsqueeze", [self.cast(scale), self.integers(-1)])
        values = self.node("Mul", [values, scale])
        return self.node("Reshape", [values, self.integers(-1, D)])

    def cast(self, x: str) -> str:
        return self.node("Cast", [x], to=TensorProto.FLOAT)

    def rows(self, table: str, at: str) -> str:
        return self.node("Gather", [self.weight(table), at], axis=0)

    def values(self, name: str) -> npt.NDArray[np.float32]:
        return self.arrays[name].float32()

    def weight(self, name: str) -> str:
        return self.stored(name, self.values(name))
