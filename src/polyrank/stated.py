"""What the JSON files of a model's folder state, or an error that says what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import CheckpointError

__all__ = [
    "COMPANIONS",
    "SHARD_INDEX",
    "Stated",
    "pointer_hint",
    "read_json",
    "read_stated",
    "stages_of",
    "weight_map_of",
]

COMPANIONS = (
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "modules.json",
)
"""Files that say how a tokenizer.json is meant to be used: transformers' own, and those of
sentence-transformers."""
SHARD_INDEX = "model.safetensors.index.json"
"""Which file has which tensor, where the weights are in several."""
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
# What transformers tells a network where `model_input_names` is left out: no token types.
_TYPELESS = ("TokenizersBackend", "DistilBertTokenizer", "DistilBertTokenizerFast")


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
    """Whether the network is told the text's token type."""
    tokenizer: Mapping[str, Any]
    """tokenizer_config.json, whose keys overrule tokenizer.json in transformers."""


def read_stated(folder: Path) -> Stated:
    """Read a folder's COMPANIONS, as far as it has them. Raises CheckpointError."""
    at, bert_at, sentences_at, _ = (folder / name for name in COMPANIONS)
    tokenizer, bert, sentences = (
        read_json(path) if path.exists() else {} for path in (at, bert_at, sentences_at)
    )
    names = tokenizer.get("model_input_names")
    if not isinstance(names, list):
        typeless = tokenizer.get("tokenizer_class") in _TYPELESS
        names = [] if typeless else ["token_type_ids"]
    limits = (  # sentence-transformers' own come first
        _tokens(_within(bert, "processing_kwargs", "text"), "max_length", bert_at),
        _tokens(bert, "max_seq_length", bert_at),
        _tokens(tokenizer, "model_max_length", at),
    )
    return Stated(
        max_length=next((n for n in limits if n is not None), None),
        window=_tokens(tokenizer, "polyrank_window", at),
        prompt=_prompt(sentences, sentences_at),
        lower_case=bert.get("do_lower_case") is True,
        token_types="token_type_ids" in names,
        tokenizer=tokenizer,
    )


def stages_of(folder: Path) -> list[str]:
    """The folders of what sentence-transformers runs one after another for a CrossEncoder, "" being
    the network in the folder itself; [] where nothing is stated. Raises CheckpointError."""
    sentences, path = (folder / name for name in COMPANIONS[-2:])
    # Beside an encoder they are an embedding model's, which a CrossEncoder does not run.
    own = sentences.exists() and read_json(sentences).get("model_type") == "CrossEncoder"
    if not own or not path.exists():
        return []
    stages = _load(path)
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise CheckpointError(f"expected a list of modules in {path}")
    return [str(stage.get("path") or "") for stage in stages]


def weight_map_of(folder: Path) -> dict[str, str]:
    """Tensor -> the file that has it, where a folder's weights are in several; else nothing.

    Raises CheckpointError.
    """
    index = folder / SHARD_INDEX
    if (folder / "model.safetensors").exists() or not index.exists():
        return {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"expected a weight_map in {index}")
    if wrong := [shard for shard in map(str, weight_map.values()) if not _SHARD.fullmatch(shard)]:
        raise CheckpointError(f"expected safetensors files beside {index}, it names {wrong[0]!r}")
    return weight_map


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError that says what is wrong with it."""
    value = _load(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def pointer_hint(path: Path) -> str:
    """What to do about a file that cannot be read because it is a pointer of Git LFS; else ""."""
    with path.open("rb") as file:
        pointer = file.read(20).startswith(b"version https://git")
    return "; it is a pointer of Git LFS: run `git lfs pull` beside it" if pointer else ""


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        adapter = (path.parent / "adapter_config.json").exists()
        hint = "; the folder has an adapter: merge it into its model first" if adapter else ""
        raise CheckpointError(f"expected a file at {path}: {error.strerror}{hint}") from error
    except ValueError as error:
        raise CheckpointError(f"expected JSON in {path}: {error}") from error


def _within(stated: Any, *names: str) -> Mapping[str, Any]:
    """An object inside of others; empty where there is none."""
    for name in names:
        stated = stated.get(name) if isinstance(stated, Mapping) else None
    return stated if isinstance(stated, Mapping) else {}


def _prompt(sentences: Mapping[str, Any], path: Path) -> str:
    prompts, chosen = _within(sentences, "prompts"), sentences.get("default_prompt_name")
    if chosen is None:
        return ""
    prompt = prompts.get(chosen) if isinstance(chosen, str) else None
    if not isinstance(prompt, str):
        names = ", ".join(map(repr, prompts)) or "none"
        raise CheckpointError(
            f"expected default_prompt_name to name a text of prompts in {path}, got {chosen!r}; "
            f"there are {names}"
        )
    return prompt


def _tokens(stated: Mapping[str, Any], name: str, path: Path) -> int | None:
    """A number of tokens; None where there is none, or where it means "no limit"."""
    value = stated.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise CheckpointError(f"expected {name} as a number of tokens, got {value!r} in {path}")
    return int(value) if value < 1e9 else None  # transformers writes 1e30 for "no limit"
