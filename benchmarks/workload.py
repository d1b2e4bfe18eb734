"""The workload of the CPU benchmarks: the official shape, random weights, ragged pairs.

Word `wN` is token N, so that texts have exact lengths and every contender reads text.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

OFFICIAL_CONFIG = Path(__file__).parent.parent / "tests" / "data" / "official_config.json"
WORDS = 250_000
LAYERS = 12
QUERY_TOKENS = 8
OWN_WORDS = 3
SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


def lengths(pairs: int = 64, seed: int = 0) -> list[int]:
    """Lognormal lengths in tokens, special tokens included: median 140, from 24 to 512."""
    draws = np.random.default_rng(seed).lognormal(np.log(140), 0.6, pairs)
    return [int(n) for n in np.clip(draws, 24, 512)]


def skewed_lengths(pairs: int = 64, seed: int = 0) -> list[int]:
    """One document of 4,096 tokens in the middle of short ones, from 24 to 64."""
    short = np.random.default_rng(seed).integers(24, 65, pairs)
    short[pairs // 2] = 4096
    return [int(n) for n in short]


def short_lengths(pairs: int = 8, seed: int = 0) -> list[int]:
    """What a search box asks for: few documents of about 40 tokens."""
    return [int(n) for n in np.random.default_rng(seed).integers(36, 45, pairs)]


def text_pairs(lengths: list[int], seed: int = 0) -> list[tuple[str, str]]:
    """One query with a document for each length.

    A document repeats a few words of its own: random weights give texts of many random words
    nearly the same logit, so that rounding to bf16 or int8 would reorder them.
    """
    rng = np.random.default_rng(seed)

    def words(n: int, distinct: int) -> str:
        return " ".join(f"w{i}" for i in rng.choice(rng.integers(4, WORDS, distinct), n))

    query = words(QUERY_TOKENS, QUERY_TOKENS)
    return [(query, words(n - QUERY_TOKENS - 4, OWN_WORDS)) for n in lengths]


def official_folder(folder: Path, layers: int = LAYERS) -> Path:
    """Write a checkpoint of the official shape with random weights, once, native layout."""
    from polyrank.checkpoint import Checkpoint, save_checkpoint
    from polyrank.config import parse_config
    from polyrank.torch_backend import CrossEncoder

    if (folder / "tokenizer.json").exists():
        return folder
    source = json.loads(OFFICIAL_CONFIG.read_text()) | {"num_hidden_layers": layers}
    config = parse_config(source)
    # 0.03: at 0.02 all texts have nearly the same logit, at 0.04 rounding to bf16 reorders them.
    arrays = CrossEncoder.random(config, std=0.03).arrays()
    checkpoint = Checkpoint(config=config, arrays=arrays, source=source)
    save_checkpoint(folder, checkpoint, layout="native")
    vocabulary = SPECIAL | {f"w{n}": n for n in range(4, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def gflop(lengths: list[int], layers: int = LAYERS) -> float:
    """Work of the official shape on these pairs, last layer in full, in 10^9 operations."""
    D, F = 768, 3072
    linear = 2 * sum(lengths) * (4 * D * D + 3 * D * F) * layers
    attention = 4 * sum(n * n for n in lengths) * D * layers
    return (linear + attention) / 1e9


def peak_rss_gb() -> float:
    """Most memory this process ever held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
