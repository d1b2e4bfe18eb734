"""Canonical arrays -> an ONNX graph over packed pairs, fp32 or int8. No tracing, no PyTorch.

The graph reads pairs laid end to end, without padding: linear layers and norms run on `[T, D]`;
around attention alone the tokens are gathered into `[G, L, D]`, pairs of like length side by side.
The last layer computes keys and values for all tokens and the rest for each pair's first one.

T packed tokens, G pairs, L longest pair, D width, F intermediate width, K head width

int8: weights per output channel, activations per token (each row scaled by its own largest
magnitude), so that a pair's logit does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from polyrank.checkpoint import Array, Checkpoint
from polyrank.config import EncoderConfig

__all__ = ["INPUTS", "Precision", "build_graph"]

Precision = Literal["fp32", "int8"]
INPUTS = ("ids", "types", "positions", "pad", "unpad", "lengths")
_OPSET = 21
_IR_VERSION = 10
_MICROSOFT = "com.microsoft"


def build_graph(
    checkpoint: Checkpoint, precision: Precision, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Build the graph of a cross-encoder.

    Inputs, those of them that the family reads: `ids`, `types`, `positions` [T] int64; `pad`
    [G, L] int64, the token in each padded place; `unpad` [T] int64, each token's place in the
    flattened [G * L]; `lengths` [G] int32. Output: `logits` [G] fp32.
    """
    return _Builder(checkpoint, precision).build(dict(metadata or {}))


class _Builder:
    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        self.config: EncoderConfig = checkpoint.config
        self.arrays: Mapping[str, Array] = checkpoint.arrays
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.quantized: dict[str, tuple[str, str]] = {}

    def build(self, metadata: dict[str, str]) -> onnx.ModelProto:
        x = self.embed()
        rope = self.rope_caches()
        for n in range(self.config.num_layers):
            x = self.layer(f"layers.{n}", x, rope, last=n == self.config.num_layers - 1)
        logits = self.head(x)
        self.node("Identity", [logits], "logits")
        graph = helper.make_graph(
            self.nodes,
            "polyrank",
            [helper.make_tensor_value_info(*i) for i in self.inputs()],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["G"])],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="polyrank",
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)],
        )
        model.ir_version = _IR_VERSION
        helper.set_model_props(model, {**metadata, "polyrank.precision": self.precision})
        return model

    def inputs(self) -> list[tuple[str, int, list[str]]]:
        used = {name for node in self.nodes for name in node.input}
        shapes = {"pad": ["G", "L"], "lengths": ["G"]}
        kinds = {"lengths": TensorProto.INT32}
        return [
            (name, kinds.get(name, TensorProto.INT64), shapes.get(name, ["T"]))
            for name in INPUTS
            if name in used
        ]

    # ------------------------------------------------------------ the network

    def embed(self) -> str:
        x = self.rows("embeddings.word.weight", "ids")
        if self.config.type_vocab_size > 1:
            x = self.node("Add", [x, self.rows("embeddings.token_type.weight", "types")])
        elif self.config.type_vocab_size == 1:
            x = self.node("Add", [x, self.weight("embeddings.token_type.weight")])
        if self.config.rope_theta is None:
            offset = self.constant("offset", np.array(self.config.position_offset, np.int64))
            at = self.node("Add", ["positions", offset])
            x = self.node("Add", [x, self.rows("embeddings.position.weight", at)])
        return self.node(
            "LayerNormalization",
            [x, self.weight("embeddings.norm.weight"), self.weight("embeddings.norm.bias")],
            epsilon=self.config.layer_norm_eps,
        )

    def layer(self, name: str, x: str, rope: tuple[str, str] | None, *, last: bool) -> str:
        D = self.config.hidden_size
        w = self.values(f"{name}.qkv.weight")
        b = self.values(f"{name}.qkv.bias")
        k = self.linear(f"{name}.k", x, w[D : 2 * D], b[D : 2 * D])
        v = self.linear(f"{name}.v", x, w[2 * D :], b[2 * D :])
        if last:
            zero = self.constant("zero", np.array(0, np.int64))
            x = self.node("Gather", [x, self.node("Gather", ["pad", zero], axis=1)], axis=0)
        q = self.linear(f"{name}.q", x, w[:D], b[:D])
        a = self.attend(q, k, v, rope, first_only=last)
        a = self.linear(f"{name}.attn_out", a, self.values(f"{name}.attn_out.weight"))
        x = self.skip_norm(x, a, f"{name}.attn_norm", self.weight(f"{name}.attn_out.bias"))
        h = self.mlp(name, x)
        return self.skip_norm(x, h, f"{name}.mlp_norm", self.weight(f"{name}.mlp_out.bias"))

    def attend(
        self, q: str, k: str, v: str, rope: tuple[str, str] | None, *, first_only: bool
    ) -> str:
        k, v = (self.node("Gather", [t, "pad"], axis=0) for t in (k, v))
        if first_only:
            one = self.constant("one", np.array([1], np.int64))
            q = self.node("Unsqueeze", [q, one])
        else:
            q = self.node("Gather", [q, "pad"], axis=0)
        if rope is not None:
            k = self.rotate(k, rope)
            # A pair's first token is at position 0, where RoPE turns nothing.
            q = q if first_only else self.rotate(q, rope)
        out = self.node(
            "MultiHeadAttention",
            [q, k, v, "", "lengths"],
            domain=_MICROSOFT,
            num_heads=self.config.num_heads,
        )
        shape = self.constant("flat", np.array([-1, self.config.hidden_size], np.int64))
        out = self.node("Reshape", [out, shape])
        return out if first_only else self.node("Gather", [out, "unpad"], axis=0)

    def mlp(self, name: str, x: str) -> str:
        w = self.values(f"{name}.mlp_in.weight")
        if self.config.gated:
            F = self.config.intermediate_size
            parts = {"up": slice(F), "gate": slice(F, None)}
            up, gate = (self.linear(f"{name}.{n}", x, w[i]) for n, i in parts.items())
            h = self.node("Mul", [self.activate(gate), up])
        else:
            bias = self.values(f"{name}.mlp_in.bias")
            h = self.activate(self.linear(f"{name}.mlp_in", x, w, bias))
        return self.linear(f"{name}.mlp_out", h, self.values(f"{name}.mlp_out.weight"))

    def activate(self, x: str) -> str:
        if self.config.activation == "relu":
            return self.node("Relu", [x])
        tanh = self.config.activation == "gelu_tanh"
        return self.node("Gelu", [x], approximate="tanh" if tanh else "none")

    def head(self, cls: str) -> str:
        pooled = self.float_linear("head.dense", cls)
        logit = self.float_linear("head.out", self.node("Tanh", [pooled]))
        one = self.constant("one", np.array([1], np.int64))
        return self.node("Squeeze", [logit, one])

    # ------------------------------------------------------------ its parts

    def rope_caches(self) -> tuple[str, str] | None:
        if self.config.rope_theta is None:
            return None
        angles = np.outer(np.arange(self.config.max_positions), self.config.inv_freq())
        cos = self.constant("rope.cos", np.cos(angles).astype(np.float32))
        return cos, self.constant("rope.sin", np.sin(angles).astype(np.float32))

    def rotate(self, x: str, rope: tuple[str, str]) -> str:
        """RoPE on [G, L, D]; positions count from 0 in every row, padded places included."""
        return self.node(
            "RotaryEmbedding",
            [x, self.constant("start", np.array([0], np.int64)), *rope],
            domain=_MICROSOFT,
            num_heads=self.config.num_heads,
            interleaved=0,
        )

    def skip_norm(self, x: str, skip: str, norm: str, bias: str) -> str:
        # SkipLayerNormalization does this in one node, and three times as slowly on CPUs; run
        # the session with ORT_ENABLE_BASIC, or it is fused back.
        scale, shift = self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias")
        total = self.node("Add", [self.node("Add", [skip, bias]), x])
        return self.node(
            "LayerNormalization", [total, scale, shift], epsilon=self.config.layer_norm_eps
        )

    def float_linear(self, name: str, x: str) -> str:
        w = self.constant(f"{name}.weight", self.values(f"{name}.weight"))
        return self.node("Gemm", [x, w, self.weight(f"{name}.bias")], transB=1)

    def linear(
        self, name: str, x: str, w: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None
    ) -> str:
        """x @ w.T + bias for w [out, in], in the graph's precision."""
        y = self.int8_matmul(name, x, w) if self.precision == "int8" else self.matmul(name, x, w)
        if bias is None:
            return y
        return self.node("Add", [y, self.constant(f"{name}.bias", bias)])

    def matmul(self, name: str, x: str, w: npt.NDArray[Any]) -> str:
        return self.node("MatMul", [x, self.constant(name, np.ascontiguousarray(w.T))])

    def int8_matmul(self, name: str, x: str, w: npt.NDArray[Any]) -> str:
        scale_out = np.maximum(np.abs(w).max(axis=1), 1e-12) / 127
        quantized = np.rint(w / scale_out[:, None]).astype(np.int8)
        weight = self.constant(f"{name}.int8", np.ascontiguousarray(quantized.T))
        scale = self.constant(f"{name}.scale", scale_out.astype(np.float32))
        zeros = self.constant(f"zeros.{len(w)}", np.zeros(len(w), np.int8))
        q, row_scale = self.quantize_rows(x)
        one = self.constant("unit", np.float32(1))
        middle = self.constant("middle", np.uint8(128))
        y = self.node(
            "MatMulIntegerToFloat", [q, weight, one, scale, middle, zeros], domain=_MICROSOFT
        )
        return self.node("Mul", [y, row_scale])

    def quantize_rows(self, x: str) -> tuple[str, str]:
        """[T, D] -> uint8 around 128, and [T, 1] what one step of each row is worth."""
        if x not in self.quantized:
            last = self.constant("last", np.array([-1], np.int64))
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

    def rows(self, table: str, at: str) -> str:
        return self.node("Gather", [self.weight(table), at], axis=0)

    # ------------------------------------------------------------ nodes and constants

    def node(
        self,
        op: str,
        inputs: list[str],
        output: str | None = None,
        *,
        domain: str = "",
        **attr: Any,
    ) -> str:
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attr))
        return output

    def values(self, name: str) -> npt.NDArray[np.float32]:
        return self.arrays[name].float32()

    def weight(self, name: str) -> str:
        return self.constant(name, self.values(name))

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name
