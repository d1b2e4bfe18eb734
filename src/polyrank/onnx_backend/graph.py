"""Canonical arrays -> an ONNX graph over packed pairs, fp32 or int8. No tracing, no PyTorch.

The graph reads pairs laid end to end, without padding: linear layers and norms run on `[T, D]`.
Attention loops over the pairs, each by itself, without padding or mask: on CPUs that is up to twice
as fast as one padded call with a mask, and a pair's logit cannot depend on its company. The last
layer computes keys and values for all tokens and the rest for each pair's first one.

T packed tokens, S pairs, L tokens of one pair, D width, F intermediate width, K head width

int8: weights per output channel, activations per token (each row scaled by its own largest
magnitude), so that a pair's logit does not depend on what else is in the batch. The word table
is gathered as it is stored, a row a token, and widened after.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from polyrank.checkpoint import BLOCK, Array, Checkpoint, quantize_int4, quantize_int8
from polyrank.config import EncoderConfig
from polyrank.onnx_backend.layout import INPUTS, PROBE, Precision
from polyrank.onnx_backend.parts import Parts

__all__ = ["Graph", "Table", "build_graph"]

Table = Literal["stored", "fp16", "int4"]
_OPSET = 21
_IR_VERSION = 10
_MICROSOFT = "com.microsoft"
_LAST = 2**31 - 1  # Slice: up to the end
Rope = tuple[str, str, str]
"""[T, 1] positions, and the cosine and sine at each"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A graph, and its weights, which lie in a file beside it."""

    model: onnx.ModelProto
    tensors: Mapping[str, npt.NDArray[Any]]


def build_graph(
    checkpoint: Checkpoint,
    precision: Precision,
    metadata: Mapping[str, str] | None = None,
    *,
    table: Table = "stored",
    exact: Collection[str] = (),
) -> Graph:
    """Build the graph of a cross-encoder.

    `table` is how the word embeddings are kept: in the checkpoint's own dtype (bf16 as fp32), in
    fp16, or in 4 bits. `exact` names linear layers that stay fp32 in an int8 graph, such as
    `layers.11.mlp_out`.

    Inputs, those of them that the family reads: `ids`, `types`, `positions` [T] int64; `starts`
    [S + 1] int64, where each pair begins, and T. Output: `logits` [S] fp32.
    """
    return _Builder(checkpoint, precision, table, exact).build(dict(metadata or {}))


class _Builder(Parts):
    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        table: Table,
        exact: Collection[str],
    ) -> None:
        super().__init__()
        self.config: EncoderConfig = checkpoint.config
        self.arrays: Mapping[str, Array] = checkpoint.arrays
        self.precision = precision
        self.table = table
        self.exact = frozenset(exact)
        self.quantized: dict[str, tuple[str, str]] = {}
        self.firsts = ""
        """[S] where each pair begins"""
        self.bounds = "", ""
        """[S, 1] where each pair begins, and where it ends"""
        self.pairs = ""
        """S"""

    def build(self, metadata: dict[str, str]) -> Graph:
        zero, one = self.integers(0), self.integers(1)
        self.firsts = self.node("Slice", ["starts", zero, self.integers(-1), zero, one])
        self.pairs = self.node("Squeeze", [self.node("Shape", [self.firsts]), zero])
        ends = self.node("Slice", ["starts", one, self.integers(_LAST), zero])
        first, end = (self.node("Unsqueeze", [x, one]) for x in (self.firsts, ends))
        self.bounds = first, end
        x = self.embed()
        rope = self.rope_caches()
        for n in range(self.config.num_layers):
            x = self.layer(f"layers.{n}", x, rope, last=n == self.config.num_layers - 1)
        logits = self.head(x)
        self.node("Identity", [logits], "logits")
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["S"])]
        if self.precision == "int8":
            outputs.append(self.probe())
        graph = helper.make_graph(
            self.nodes,
            "polyrank",
            self.inputs(),
            outputs,
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="polyrank",
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)],
        )
        model.ir_version = _IR_VERSION
        helper.set_model_props(model, {**metadata, "polyrank.dtype": self.precision})
        return Graph(model=model, tensors=self.tensors)

    def inputs(self) -> list[onnx.ValueInfoProto]:
        used = {name for node in self.nodes for name in node.input}
        return [
            helper.make_tensor_value_info(
                name, TensorProto.INT64, ["ends" if name == "starts" else "T"]
            )
            for name in INPUTS
            if name in used
        ]

    # ------------------------------------------------------------ the network

    def embed(self) -> str:
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

    def layer(self, name: str, x: str, rope: Rope | None, *, last: bool) -> str:
        D = self.config.hidden_size
        w, b = self.values(f"{name}.qkv.weight"), self.values(f"{name}.qkv.bias")
        out = self.values(f"{name}.attn_out.weight")
        out_bias = self.values(f"{name}.attn_out.bias")
        if rope is None:  # attention adds them itself
            bias, q_bias, k_bias = self.stored(f"{name}.qkv.bias", b), None, None
        else:  # a row of attention sums up to 1, so that v's bias goes through it
            bias, q_bias, k_bias = "", b[:D], b[D : 2 * D]
            out_bias = out_bias + out @ b[2 * D :]
        k = self.linear(f"{name}.k", x, w[D : 2 * D], k_bias)
        v = self.linear(f"{name}.v", x, w[2 * D :])
        if last:
            x = self.node("Gather", [x, self.firsts], axis=0)
        q = self.linear(f"{name}.q", x, w[:D], q_bias)
        a = self.attend(q, k, v, bias, rope, first_only=last)
        a = self.linear(f"{name}.attn_out", a, out)
        x = self.skip_norm(
            x, a, f"{name}.attn_norm", self.stored(f"{name}.attn_out.bias", out_bias)
        )
        h = self.mlp(name, x)
        return self.skip_norm(x, h, f"{name}.mlp_norm", self.weight(f"{name}.mlp_out.bias"))

    def attend(
        self, q: str, k: str, v: str, bias: str, rope: Rope | None, *, first_only: bool
    ) -> str:
        """Attention within each pair of [T, D] keys and values; with `first_only` of [S, D]
        queries. `bias` of all three, where no rotation comes before it."""
        zero = self.integers(0)
        # A pair's first token is at position 0, where RoPE turns nothing.
        if first_only:
            q = self.node("Unsqueeze", [q, self.integers(1, 2)])
        else:
            q = self.node("Unsqueeze", [self.rotate(q, rope), zero])
        k = self.node("Unsqueeze", [self.rotate(k, rope), zero])
        v = self.node("Unsqueeze", [v, zero])
        body = self.pair_attention(q, k, v, bias, first_only=first_only)
        empty = self.node("SequenceEmpty", [], dtype=TensorProto.FLOAT)
        outputs = self.node("Loop", [self.pairs, "", empty], body=body)
        return self.node("Squeeze", [self.node("ConcatFromSequence", [outputs], axis=1), zero])

    def pair_attention(
        self, q: str, k: str, v: str, bias: str, *, first_only: bool
    ) -> onnx.GraphProto:
        """The loop's body: one pair's attention, put behind those of the pairs before it.

        Little is done here but attention itself: a node costs its time once for each pair.
        """
        outer, self.nodes = self.nodes, []
        at = f"{q}.pair"
        first, end = (
            self.node("Gather", [b, at], f"{at}.{n}", axis=0) for n, b in enumerate(self.bounds)
        )

        def rows(x: str, name: str) -> str:
            return self.node("Slice", [x, first, end, self.integers(1)], f"{at}.{name}")

        inputs = [
            self.node("Gather", [q, at], f"{at}.q", axis=0) if first_only else rows(q, "q"),
            rows(k, "k"),
            rows(v, "v"),
            *([bias] if bias else []),
        ]
        out = self.node(
            "MultiHeadAttention",
            inputs,
            f"{at}.out",
            domain=_MICROSOFT,
            num_heads=self.config.num_heads,
        )
        self.node("SequenceInsert", [f"{at}.before", out], f"{at}.done")
        self.node("Identity", [f"{at}.going"], f"{at}.go")
        nodes, self.nodes = self.nodes, outer
        D = self.config.hidden_size
        value, sequence = helper.make_tensor_value_info, helper.make_tensor_sequence_value_info
        return helper.make_graph(
            nodes,
            at,
            [
                value(at, TensorProto.INT64, []),
                value(f"{at}.going", TensorProto.BOOL, []),
                sequence(f"{at}.before", TensorProto.FLOAT, [1, "L", D]),
            ],
            [
                value(f"{at}.go", TensorProto.BOOL, []),
                sequence(f"{at}.done", TensorProto.FLOAT, [1, "L", D]),
            ],
        )

    def mlp(self, name: str, x: str) -> str:
        w = self.values(f"{name}.mlp_in.weight")
        out = self.values(f"{name}.mlp_out.weight")
        if not self.config.gated:
            bias = self.values(f"{name}.mlp_in.bias")
            h = self.activate(self.linear(f"{name}.mlp_in", x, w, bias))
            return self.linear(f"{name}.mlp_out", h, out)
        F = self.config.intermediate_size
        gate = self.activate(self.linear(f"{name}.gate", x, w[F:]))
        up, row_scale = self.product(f"{name}.up", x, w[:F])
        # A row's scale passes through the product of gate and up, and through rounding to a
        # row's own largest magnitude: it is multiplied in once, after mlp_out.
        y, step = self.product(f"{name}.mlp_out", self.node("Mul", [gate, up]), out)
        return self.scaled(y, self.scaled(row_scale, step))

    def activate(self, x: str) -> str:
        if self.config.activation == "relu":
            return self.node("Relu", [x])
        tanh = self.config.activation == "gelu_tanh"
        return self.node("Gelu", [x], approximate="tanh" if tanh else "none")

    def head(self, cls: str) -> str:
        pooled = self.float_linear("head.dense", cls)
        logit = self.float_linear("head.out", self.node("Tanh", [pooled]))
        return self.node("Squeeze", [logit, self.integers(1)])

    # ------------------------------------------------------------ its parts

    def rope_caches(self) -> Rope | None:
        if self.config.rope_theta is None:
            return None
        angles = np.outer(np.arange(self.config.max_positions), self.config.inv_freq())
        positions = self.node("Unsqueeze", ["positions", self.integers(1)])
        cos = self.stored("rope.cos", np.cos(angles).astype(np.float32))
        return positions, cos, self.stored("rope.sin", np.sin(angles).astype(np.float32))

    def rotate(self, x: str, rope: Rope | None) -> str:
        """RoPE on [T, D], where the network has it."""
        if rope is None:
            return x
        # Each token as a sequence of its own: no sequence may be longer than the caches.
        one = self.integers(1)
        turned = self.node(
            "RotaryEmbedding",
            [self.node("Unsqueeze", [x, one]), *rope],
            domain=_MICROSOFT,
            num_heads=self.config.num_heads,
            interleaved=0,
        )
        return self.node("Squeeze", [turned, one])

    def skip_norm(self, x: str, skip: str, norm: str, bias: str) -> str:
        # SkipLayerNormalization does this in one node, and three times as slowly on CPUs; run
        # the session with ORT_ENABLE_BASIC, or it is fused back.
        scale, shift = self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias")
        total = self.node("Add", [self.node("Add", [skip, bias]), x])
        return self.node(
            "LayerNormalization", [total, scale, shift], epsilon=self.config.layer_norm_eps
        )

    def float_linear(self, name: str, x: str) -> str:
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.node("Gemm", inputs, transB=1)

    def linear(
        self, name: str, x: str, w: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None
    ) -> str:
        """x @ w.T + bias for w [out, in], in the graph's precision."""
        y = self.scaled(*self.product(name, x, w))
        if bias is None:
            return y
        return self.node("Add", [y, self.stored(f"{name}.bias", bias)])

    def product(self, name: str, x: str, w: npt.NDArray[Any]) -> tuple[str, str]:
        """x @ w.T, and the [T, 1] scale that its rows still lack; "" where they lack none."""
        if self.precision == "fp32" or name in self.exact:
            weight = self.stored(f"{name}.transposed", np.ascontiguousarray(w.T))
            return self.node("MatMul", [x, weight]), ""
        quantized, channel_scale = quantize_int8(w)
        weight = self.stored(f"{name}.int8", np.ascontiguousarray(quantized.T))
        scale = self.stored(f"{name}.scale", channel_scale)
        # One for each layer: the runtime may rewrite it with its weight.
        zeros = self.constant(f"{name}.zeros", np.zeros(len(w), np.int8))
        q, row_scale = self.quantize_rows(x)
        one = self.constant("unit", np.float32(1))
        middle = self.constant("middle", np.uint8(128))
        # Unsigned activations: with signed ones the runtime falls back to a reference kernel.
        inputs = [q, weight, one, scale, middle, zeros]
        return self.node("MatMulIntegerToFloat", inputs, domain=_MICROSOFT), row_scale

    def scaled(self, x: str, scale: str) -> str:
        return self.node("Mul", [x, scale]) if x and scale else x or scale

    def quantize_rows(self, x: str) -> tuple[str, str]:
        """[T, D] -> uint8 around 128, and [T, 1] what one step of each row is worth."""
        if x not in self.quantized:
            last = self.integers(-1)
            most = self.node("ReduceMax", [x, last], keepdims=1)
            least = self.node("Neg", [self.node("ReduceMin", [x, last], keepdims=1)])
            tiny = self.constant("tiny", np.float32(1e-30))
            largest = self.node("Max", [most, least, tiny])
            step = self.node("Mul", [largest, self.constant("127th", np.float32(1 / 127))])
            flat = self.node("Squeeze", [step, last])
            middle = self.node(
                "Expand", [self.constant("middle", np.uint8(128)), self.node("Shape", [flat])]
            )
            q = self.node("QuantizeLinear", [x, flat, middle], axis=0)
            self.quantized[x] = q, step
        return self.quantized[x]

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

    def probe(self) -> onnx.ValueInfoProto:
        """What the machine that runs the graph loses of the largest sum that a layer may meet."""
        K, most, largest = 64, 255, 127
        q = self.constant(f"{PROBE}.q", np.full((1, K), most, np.uint8))
        w = self.constant(f"{PROBE}.w", np.full((K, 1), largest, np.int8))
        exact = self.constant(f"{PROBE}.exact", np.int32(most * largest * K))
        self.node("Sub", [exact, self.node("MatMulInteger", [q, w])], PROBE)
        return helper.make_tensor_value_info(PROBE, TensorProto.INT32, [1, 1])

    def values(self, name: str) -> npt.NDArray[np.float32]:
        return self.arrays[name].float32()

    def weight(self, name: str) -> str:
        return self.stored(name, self.values(name))
