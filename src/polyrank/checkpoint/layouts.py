"""Names of a network's arrays: ours, and those of every layout in the wild. Knows no file.

Canonical names (D width, F intermediate width, V vocabulary):

    embeddings.word.weight [V, D]   embeddings.position.weight   embeddings.token_type.weight
    embeddings.norm.{weight,bias} [D]
    layers.N.qkv.{weight [3D, D], bias [3D]}            query, key, value in that order
    layers.N.attn_out.{weight,bias}                     layers.N.attn_norm.{weight,bias}
    layers.N.mlp_in.{weight,bias}                       gated: [2F, D], up then gate, no bias
    layers.N.mlp_out.{weight,bias}                      layers.N.mlp_norm.{weight,bias}
    head.dense.{weight [D, D], bias}                    head.out.{weight [1, D], bias [1]}
"""

from __future__ import annotations

from polyrank.config import EncoderConfig

__all__ = ["BUFFERS", "LAYOUTS", "canonical_shapes", "name_map"]


def canonical_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every array that a network of this configuration has, head included."""
    D, F = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (D,)

    shapes["embeddings.word.weight"] = (config.vocab_size, D)
    if config.rope_theta is None:
        rows = config.max_positions + config.position_offset
        shapes["embeddings.position.weight"] = (rows, D)
    if config.type_vocab_size:
        shapes["embeddings.token_type.weight"] = (config.type_vocab_size, D)
    norm("embeddings.norm")
    for n in range(config.num_layers):
        linear(f"layers.{n}.qkv", 3 * D, D)
        linear(f"layers.{n}.attn_out", D, D)
        norm(f"layers.{n}.attn_norm")
        linear(f"layers.{n}.mlp_in", 2 * F if config.gated else F, D, bias=not config.gated)
        linear(f"layers.{n}.mlp_out", D, F)
        norm(f"layers.{n}.mlp_norm")
    linear("head.dense", D, D)
    linear("head.out", 1, D)
    return shapes


_LayerNames = dict[str, tuple[str, ...]]

_OFFICIAL_LAYER: _LayerNames = {
    "qkv": ("attention.qkv_proj",),
    "attn_out": ("attention.o_proj",),
    "attn_norm": ("attn_ln",),
    "mlp_in": ("mlp.up_gate_proj",),
    "mlp_out": ("mlp.down_proj",),
    "mlp_norm": ("mlp_ln",),
}
_NATIVE_LAYER: _LayerNames = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "attn_norm": ("post_attention_layernorm",),
    "mlp_in": ("mlp.up_proj", "mlp.gate_proj"),
    "mlp_out": ("mlp.down_proj",),
    "mlp_norm": ("post_mlp_layernorm",),
}
_BERT_LAYER: _LayerNames = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attn_out": ("attention.output.dense",),
    "attn_norm": ("attention.output.LayerNorm",),
    "mlp_in": ("intermediate.dense",),
    "mlp_out": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}
_EMBEDDINGS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
# model_type -> (prefix of the encoder's tensors, prefix of a layer, layer table, head.dense)
LAYOUTS: dict[str, tuple[str, str, _LayerNames, str]] = {
    "new": ("new.", "encoder.layer", _OFFICIAL_LAYER, "{p}pooler.dense"),
    "gte": ("gte.", "layers", _NATIVE_LAYER, "{p}pooler.dense"),
    "bert": ("bert.", "encoder.layer", _BERT_LAYER, "{p}pooler.dense"),
    "xlm-roberta": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
    "roberta": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
    "camembert": ("roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense"),
}
# Constant buffers that some versions of transformers wrote beside the weights.
BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq", "original_inv_freq")


def name_map(
    config: EncoderConfig, model_type: str, prefix: str, *, packed: bool = True
) -> dict[str, tuple[str, ...]]:
    """Canonical name -> the foreign tensors that, stacked on axis 0, make it."""
    _, layer_prefix, layer_table, dense = LAYOUTS[model_type]
    if model_type == "new" and not packed:
        split = tuple(f"attention.{c}_proj" for c in "qkv")
        layer_table = {**layer_table, "qkv": split}
    out = "classifier.out_proj" if config.family == "xlm-roberta" else "classifier"
    head = {"head.dense": dense.format(p=prefix), "head.out": out}
    names = {}
    for canonical in canonical_shapes(config):
        owner, _, kind = canonical.rpartition(".")
        if owner.startswith("layers."):
            _, n, part = owner.split(".")
            foreign = tuple(f"{prefix}{layer_prefix}.{n}.{f}" for f in layer_table[part])
        elif owner in head:
            foreign = (head[owner],)
        else:
            foreign = (prefix + _EMBEDDINGS[owner],)
        names[canonical] = tuple(f"{f}.{kind}" for f in foreign)
    return names
