"""Canonical arrays -> an ONNX graph over packed pairs, fp32 or int8. No tracing, no PyTorch.

The graph reads pairs laid end to end, without padding: linear layers and norms run on `[T, D]`.
The last layer computes keys and values for all tokens and the rest for each pair's first one.
What happens between products is made of the operators of `fused.py`.

T packed tokens, S pairs, D width, F intermediate width

int8: weights per output channel, activations per token (each row scaled by its own largest
magnitude), so that a pair's logit does not depend on what else is in the batch. The word table
is gathered as it is stored, a row a token, and widened after.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from polyrank.checkpoint import Checkpoint, quantize_int8
from polyrank.onnx_backend.fused import DOMAIN, fused_operators
from polyrank.onnx_backend.layout import INPUTS, PROBE, Precision
from polyrank.onnx_backend.tables import Rope, Table, Tables

__all__ = ["Graph", "Table", "build_graph"]

_OPSET = 21
_IR_VERSION = 10
_MICROSOFT = "com.microsoft"


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


class _Builder(Tables):
    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        table: Table,
        exact: Collection[str],
    ) -> None:
        super().__init__(checkpoint, table)
        self.precision = precision
        self.exact = frozenset(exact)
        self.quantized: dict[str, tuple[str, str]] = {}
        self.firsts = ""
        """[S] where each pair begins"""
        self.counted_pairs = ""
        """[S + 1] as `starts`, where there is one token a pair"""

    def build(self, metadata: dict[str, str]) -> Graph:
        zero, one = self.integers(0), self.integers(1)
        self.firsts = self.node("Slice", ["starts", zero, self.integers(-1), zero, one])
        size = self.node("Size", ["starts"])
        self.counted_pairs = self.node("Range", [self.integer(0), size, self.integer(1)])
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
        domains = {"": _OPSET, _MICROSOFT: 1, DOMAIN: 1}
        model = helper.make_model(
            graph,
            producer_name="polyrank",
            opset_imports=[helper.make_opsetid(*domain) for domain in domains.items()],
            functions=fused_operators({node.op_type for node in self.nodes}),
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

    def layer(self, name: str, x: str, rope: Rope | None, *, last: bool) -> str:
        D = self.config.hidden_size
        w, b = self.values(f"{name}.qkv.weight"), self.values(f"{name}.qkv.bias")
        out = self.values(f"{name}.attn_out.weight")
        out_bias = self.values(f"{name}.attn_out.bias")
        if rope is None:  # attention adds them itself
            biases, q_bias, k_bias = [self.stored(f"{name}.qkv.bias", b)], None, None
        else:  # a row of attention sums up to 1, so that v's bias goes through it
            biases, q_bias, k_bias = [], b[:D], b[D : 2 * D]
            out_bias = out_bias + out @ b[2 * D :]
        k = self.turned(f"{name}.k", x, w[D : 2 * D], k_bias, rope)
        v = self.linear(f"{name}.v", x, w[2 * D :])
        if last:
            # A pair's first token is at position 0, where RoPE turns nothing.
            x = self.node("Gather", [x, self.firsts], axis=0)
            q, q_starts = self.linear(f"{name}.q", x, w[:D], q_bias), self.counted_pairs
        else:
            q, q_starts = self.turned(f"{name}.q", x, w[:D], q_bias, rope), "starts"
        op = "RoundedPairAttention" if self.precision == "int8" else "PairAttention"
        inputs = [q, k, v, q_starts, "starts", *biases]
        attended = self.fuse(op, inputs, num_heads=self.config.num_heads)
        x = self.skip_norm(x, attended, f"{name}.attn_out", out, out_bias, f"{name}.attn_norm")
        out, out_bias = self.values(f"{name}.mlp_out.weight"), self.values(f"{name}.mlp_out.bias")
        h = self.intermediate(name, x)
        return self.skip_norm(x, h, f"{name}.mlp_out", out, out_bias, f"{name}.mlp_norm")

    def intermediate(self, name: str, x: str) -> str:
        """What goes into mlp_out: [T, F], or its rounded rows alone."""
        w, F = self.values(f"{name}.mlp_in.weight"), self.config.intermediate_size
        parts = {"gate": w[F:], "up": w[:F]} if self.config.gated else {"mlp_in": w}
        named = {f"{name}.{part}": own for part, own in parts.items()}
        bias = None if self.config.gated else self.values(f"{name}.mlp_in.bias")
        fuses = self.config.activation == "gelu" and self.int8(f"{name}.mlp_out")
        if fuses and all(self.int8(linear) for linear in named):
            if bias is None:
                return self.product("ProductsGateQuantizeRows", x, named)
            biases = [self.stored(f"{name}.mlp_in.bias", bias)]
            return self.product("ProductGeluQuantizeRows", x, named, biases)
        first, *others = (self.linear(linear, x, own, bias) for linear, own in named.items())
        if fuses and others:
            unit = self.constant("unit row", np.ones((1, 1), np.float32))
            return self.fuse("GateQuantizeRows", [first, unit, *others])
        h = self.activate(first)
        return self.node("Mul", [h, *others]) if others else h

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

    def turned(
        self,
        name: str,
        x: str,
        w: npt.NDArray[Any],
        bias: npt.NDArray[Any] | None,
        rope: Rope | None,
    ) -> str:
        """A linear layer and RoPE on [T, D], where the network has it."""
        if rope is None or bias is None:
            return self.linear(name, x, w, bias)
        heads = self.config.num_heads
        if self.int8(name):
            inputs = [self.stored(f"{name}.bias", bias), "positions", *rope]
            return self.product("ProductRotateRows", x, {name: w}, inputs, num_heads=heads)
        inputs = [self.linear(name, x, w, bias), "positions", *rope]
        return self.fuse("Rotate", inputs, num_heads=heads)

    def skip_norm(
        self, x: str, y: str, name: str, w: npt.NDArray[Any], bias: npt.NDArray[Any], norm: str
    ) -> str:
        """The norm of x and y @ w.T + bias."""
        added = self.stored(f"{name}.bias", bias)
        inputs = [added, x, self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias")]
        epsilon = self.config.layer_norm_eps
        if self.int8(name):
            op = "ProductAddNormQuantizeRows"
            return self.product(op, y, {name: w}, inputs, epsilon=epsilon)
        return self.fuse("AddNorm", [self.linear(name, y, w), *inputs], epsilon=epsilon)

    def float_linear(self, name: str, x: str) -> str:
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.node("Gemm", inputs, transB=1)

    def linear(
        self, name: str, x: str, w: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None
    ) -> str:
        """x @ w.T + bias for w [out, in], in the graph's precision."""
        if self.int8(name):
            y = self.product("ProductRows", x, {name: w})
        else:
            weight = self.stored(f"{name}.transposed", np.ascontiguousarray(w.T))
            y = self.node("MatMul", [x, weight])
        if bias is None:
            return y
        return self.node("Add", [y, self.stored(f"{name}.bias", bias)])

    def product(
        self,
        op: str,
        x: str,
        weights: Mapping[str, npt.NDArray[Any]],
        rest: Collection[str] = (),
        **attr: Any,
    ) -> str:
        """An operator on x in 8 bits times weights, by name, in 8 bits."""
        q, step = self.quantize_rows(x)
        inputs = [q]
        for name, w in weights.items():
            quantized, scale = quantize_int8(w)
            inputs.append(self.stored(f"{name}.int8", np.ascontiguousarray(quantized.T)))
            inputs.append(self.stored(f"{name}.scale", scale))
        return self.fuse(op, [*inputs, step, *rest], **attr)

    def int8(self, name: str) -> bool:
        """Whether a linear layer is rounded to 8 bits."""
        return self.precision == "int8" and name not in self.exact

    def quantize_rows(self, x: str) -> tuple[str, str]:
        """[T, D] -> uint8 around 128, and [T, 1] what one step of each row is worth."""
        if x not in self.quantized:
            self.fuse("QuantizeRows", [x], x)
        return self.quantized[x]

    def fuse(self, op: str, inputs: list[str], x: str | None = None, **attr: Any) -> str:
        """One of `fused.py`'s operators. The name of its fp32 output, or of what its rounded
        rows stand for."""
        x = x or f"n{len(self.nodes)}"
        rounded = [f"{x}.rounded", f"{x}.step"] if "Quantize" in op else []
        outputs = rounded if rounded and "Norm" not in op else [x, *rounded]
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=DOMAIN, **attr))
        if rounded:
            self.quantized[x] = rounded[0], rounded[1]
        return x

    def probe(self) -> onnx.ValueInfoProto:
        """What the machine that runs the graph loses of the largest sum that a layer may meet."""
        K, most, largest = 64, 255, 127
        q = self.constant(f"{PROBE}.q", np.full((1, K), most, np.uint8))
        w = self.constant(f"{PROBE}.w", np.full((K, 1), largest, np.int8))
        exact = self.constant(f"{PROBE}.exact", np.int32(most * largest * K))
        self.node("Sub", [exact, self.node("MatMulInteger", [q, w])], PROBE)
        return helper.make_tensor_value_info(PROBE, TensorProto.INT32, [1, 1])
