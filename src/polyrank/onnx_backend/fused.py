"""What graphs do to rows, as operators made of ONNX's own.

A graph carries these definitions, so that any ONNX Runtime runs it. Where the compiled kernels of
`native/` are registered, the runtime takes those for whole operators of int8 graphs: one pass over
a row instead of five or more, and on AMX one operator for a product and what follows it.

T packed tokens, D width. A row that is rounded: uint8 around 128 [T, D], and what a step of it is
worth [T, 1]. A product still lacks the steps of the rows that went into it.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

__all__ = ["DOMAIN", "fused_operators"]

DOMAIN = "polyrank"
_IMPORTS = 'opset_import: ["" : 21, "com.microsoft" : 1, "polyrank" : 1], domain: "polyrank"'
_OPERATORS = {
    # Each row is scaled by its own largest magnitude: no row depends on another.
    "QuantizeRows": """
        QuantizeRows (x) => (q, step) {
            last = Constant <value_ints = [-1]> ()
            tiny = Constant <value_float = 1e-30> ()
            part = Constant <value_float = 0.007874015748031496> ()
            middle = Constant <value = uint8 {128}> ()
            most = ReduceMax <keepdims = 1> (x, last)
            least = ReduceMin <keepdims = 1> (x, last)
            other = Neg (least)
            largest = Max (most, other, tiny)
            step = Mul (largest, part)
            flat = Squeeze (step, last)
            shape = Shape (flat)
            middles = Expand (middle, shape)
            q = QuantizeLinear <axis = 0> (x, flat, middles)
        }
    """,
    # y a product and its bias; x what goes around it. SkipLayerNormalization does this in one node,
    # and three times as slowly on CPUs; run the session with ORT_ENABLE_BASIC, or it is fused back.
    "AddNorm": """
        AddNorm <epsilon> (y, bias, x, weight, shift) => (out) {
            own = Add (y, bias)
            total = Add (own, x)
            out = LayerNormalization <epsilon: float = @epsilon> (total, weight, shift)
        }
    """,
    "AddNormQuantizeRows": """
        AddNormQuantizeRows <epsilon> (y, step, bias, x, weight, shift) => (out, q, out_step) {
            scaled = Mul (y, step)
            out = polyrank.AddNorm <epsilon: float = @epsilon> (scaled, bias, x, weight, shift)
            q, out_step = polyrank.QuantizeRows (out)
        }
    """,
    # GELU(gate) * up, two products of the same rows. The steps of up pass through rounding to a
    # row's own largest magnitude.
    "GateQuantizeRows": """
        GateQuantizeRows (gate, step, up) => (q, out_step) {
            scaled = Mul (gate, step)
            active = Gelu <approximate = "none"> (scaled)
            h = Mul (active, up)
            q, own = polyrank.QuantizeRows (h)
            out_step = Mul (own, step)
        }
    """,
    "GeluQuantizeRows": """
        GeluQuantizeRows (y, step, bias) => (q, out_step) {
            scaled = Mul (y, step)
            total = Add (scaled, bias)
            active = Gelu <approximate = "none"> (total)
            q, out_step = polyrank.QuantizeRows (active)
        }
    """,
    # RoPE; each token as a sequence of its own: no sequence may be longer than the caches.
    "Rotate": """
        Rotate <num_heads> (x, positions, cos, sin) => (out) {
            one = Constant <value_ints = [1]> ()
            tokens = Unsqueeze (x, one)
            places = Unsqueeze (positions, one)
            turned = com.microsoft.RotaryEmbedding <num_heads: int = @num_heads, interleaved = 0>
                (tokens, places, cos, sin)
            out = Squeeze (turned, one)
        }
    """,
    "RotateRows": """
        RotateRows <num_heads> (y, step, bias, positions, cos, sin) => (out) {
            scaled = Mul (y, step)
            total = Add (scaled, bias)
            out = polyrank.Rotate <num_heads: int = @num_heads> (total, positions, cos, sin)
        }
    """,
    # Rows that are rounded times weights [K, D], each of whose columns has a scale. Activations are
    # unsigned: with signed ones the runtime falls back to a reference kernel.
    "Product": """
        Product (q, weight, scale) => (y) {
            one = Constant <value_float = 1.0> ()
            middle = Constant <value = uint8 {128}> ()
            zero = Constant <value = int8 {0}> ()
            y = com.microsoft.MatMulIntegerToFloat (q, weight, one, scale, middle, zero)
        }
    """,
    "ProductRows": """
        ProductRows (q, weight, scale, step) => (out) {
            y = polyrank.Product (q, weight, scale)
            out = Mul (y, step)
        }
    """,
    "ProductAddNormQuantizeRows": """
        ProductAddNormQuantizeRows <epsilon> (q, weight, scale, step, bias, x, by, shift)
            => (out, out_q, out_step)
        {
            y = polyrank.Product (q, weight, scale)
            out, out_q, out_step = polyrank.AddNormQuantizeRows <epsilon: float = @epsilon>
                (y, step, bias, x, by, shift)
        }
    """,
    "ProductsGateQuantizeRows": """
        ProductsGateQuantizeRows (q, gate, gate_scale, up, up_scale, step) => (out_q, out_step) {
            gates = polyrank.Product (q, gate, gate_scale)
            ups = polyrank.Product (q, up, up_scale)
            out_q, out_step = polyrank.GateQuantizeRows (gates, step, ups)
        }
    """,
    "ProductGeluQuantizeRows": """
        ProductGeluQuantizeRows (q, weight, scale, step, bias) => (out_q, out_step) {
            y = polyrank.Product (q, weight, scale)
            out_q, out_step = polyrank.GeluQuantizeRows (y, step, bias)
        }
    """,
    "ProductRotateRows": """
        ProductRotateRows <num_heads> (q, weight, scale, step, bias, positions, cos, sin) => (out) {
            y = polyrank.Product (q, weight, scale)
            out = polyrank.RotateRows <num_heads: int = @num_heads>
                (y, step, bias, positions, cos, sin)
        }
    """,
    # Attention within each pair: queries q[q_starts[n] : q_starts[n + 1]] over the keys and values
    # from starts[n] on. The bias is of all three, where no rotation comes before it. Pair by pair,
    # without padding or mask, it is up to twice as fast as one padded call on CPUs, and a pair's
    # logit cannot depend on its company. A node in the loop costs its time once for each pair.
    "PairAttention": """
        PairAttention <num_heads> (q, k, v, q_starts, starts, bias) => (out) {
            zero = Constant <value_ints = [0]> ()
            one = Constant <value_ints = [1]> ()
            minus = Constant <value_ints = [-1]> ()
            end = Constant <value_ints = [2147483647]> ()
            q_tokens = Unsqueeze (q, zero)
            k_tokens = Unsqueeze (k, zero)
            v_tokens = Unsqueeze (v, zero)
            q_first = Slice (q_starts, zero, minus)
            q_last = Slice (q_starts, one, end)
            first = Slice (starts, zero, minus)
            last = Slice (starts, one, end)
            q_firsts = Unsqueeze (q_first, one)
            q_lasts = Unsqueeze (q_last, one)
            firsts = Unsqueeze (first, one)
            lasts = Unsqueeze (last, one)
            pairs = Size (first)
            empty = SequenceEmpty <dtype = 1> ()
            outputs = Loop <body = pair (
                int64 n, bool going, seq(float[1, L, D]) before
            ) => (bool go, seq(float[1, L, D]) done) {
                q_from = Gather <axis = 0> (q_firsts, n)
                q_to = Gather <axis = 0> (q_lasts, n)
                from = Gather <axis = 0> (firsts, n)
                to = Gather <axis = 0> (lasts, n)
                q_own = Slice (q_tokens, q_from, q_to, one)
                k_own = Slice (k_tokens, from, to, one)
                v_own = Slice (v_tokens, from, to, one)
                attended = com.microsoft.MultiHeadAttention <num_heads: int = @num_heads>
                    (q_own, k_own, v_own, bias)
                done = SequenceInsert (before, attended)
                go = Identity (going)
            }> (pairs, , empty)
            joined = ConcatFromSequence <axis = 1> (outputs)
            out = Squeeze (joined, zero)
        }
    """,
    # The same, of whose products the kernels round the inputs to bf16.
    "RoundedPairAttention": """
        RoundedPairAttention <num_heads> (q, k, v, q_starts, starts, bias) => (out) {
            out = polyrank.PairAttention <num_heads: int = @num_heads>
                (q, k, v, q_starts, starts, bias)
        }
    """,
}


def fused_operators(used: Collection[str]) -> list[onnx.FunctionProto]:
    """The definitions of the operators of this domain that a graph uses, and of those in them."""
    needed = set(used)
    for op, text in reversed(_OPERATORS.items()):  # those that others are made of come first
        if op in needed:
            needed |= {inner for inner in _OPERATORS if f"{DOMAIN}.{inner} " in text}
    return [
        onnx.parser.parse_function(f"<{_IMPORTS}> {text}")
        for op, text in _OPERATORS.items()
        if op in needed
    ]
