"""A checkpoint as transformers and what is built on it read one, for rivals to run."""

from __future__ import annotations

import json
from pathlib import Path

from polyrank.checkpoint import Checkpoint, save_checkpoint

SPECIAL = {
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
    "pad_token": "<pad>", "unk_token": "<unk>",
}  # fmt: skip
"""What transformers is told of the tokenizer; for a BERT it would make up tokens of its own."""


def write_for_transformers(
    folder: Path, checkpoint: Checkpoint, tokenizer: Path, max_length: int
) -> None:
    """Weights in the native layout, and `tokenizer`, a tokenizer.json of XLM-R's pieces."""
    save_checkpoint(folder, checkpoint, layout="native")
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | SPECIAL))
