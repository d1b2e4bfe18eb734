"""What the JSON files of a model's folder state, or an error that says what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import CheckpointError

__all__ = ["COMPANIONS", "Stated", "read_json", "read_stated"]

COMPANIONS = (
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Files that say how a tokenizer.json is meant to be used: transformers' own, and those of
sentence-transformers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stated:
    """How a folder's tokenizer is meant to be used."""

    max_length: int | None = None
    """Limit of a pair in tokens; None: they state none."""
    window: int | None = None
    """What the model should read at once, in tokens: `polyrank_window`."""
    prompt: str = ""
    """What stands before each query: the default prompt of a sentence-transformers CrossEncoder."""
    lower_case: bool = False
    """Whether texts are lower-cased before they are tokenised, as sentence-transformers may."""
    token_types: bool = True
    """Whether the network is told the text's token type: `model_input_names` may leave it out."""
    tokenizer: Mapping[str, Any]
    """tokenizer_config.json, whose keys overrule tokenizer.json in transformers."""


def read_stated(folder: Path) -> Stated:
    """Read a folder's COMPANIONS, as far as it has them. Raises CheckpointError."""
    tokenizer, bert, sentences = (
        read_json(folder / name) if (folder / name).exists() else {} for name in COMPANIONS
    )
    limits = [
        _tokens(tokenizer, "model_max_length", folder / COMPANIONS[0]),
        _tokens(bert, "max_seq_length", folder / COMPANIONS[1]),
    ]
    prompts, chosen = sentences.get("prompts"), sentences.get("default_prompt_name")
    names = tokenizer.get("model_input_names")
    return Stated(
        max_length=min((n for n in limits if n is not None), default=None),
        window=_tokens(tokenizer, "polyrank_window", folder / COMPANIONS[0]),
        prompt=str(prompts.get(chosen) or "") if isinstance(prompts, Mapping) else "",
        lower_case=bert.get("do_lower_case") is True,
        token_types=not isinstance(names, list) or "token_type_ids" in names,
        tokenizer=tokenizer,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError that says what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"expected a file at {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"expected JSON in {path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def _tokens(stated: Mapping[str, Any], name: str, path: Path) -> int | None:
    """A number of tokens; None where there is none, or where it means "no limit"."""
    value = stated.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise CheckpointError(f"expected {name} as a number of tokens, got {value!r} in {path}")
    return int(value) if value < 1e9 else None  # transformers writes 1e30 for "no limit"
