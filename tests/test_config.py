from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import DATA
from polyrank.config import parse_config
from polyrank.errors import CheckpointError

OFFICIAL = json.loads((DATA / "official_config.json").read_text())
BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}


def test_the_official_config_gives_the_published_rope_frequencies() -> None:
    config = parse_config(OFFICIAL)
    frequencies = config.inv_freq()
    assert len(frequencies) == 32
    assert frequencies[0] == pytest.approx(0.9370838170551499, rel=1e-12)
    assert frequencies[1] == pytest.approx(0.6443913298545279, rel=1e-12)
    assert frequencies[31] == pytest.approx(8.517010932480342e-06, rel=1e-12)
    assert config.max_positions == 8192


def test_the_native_form_says_the_same_rope_as_the_official_one() -> None:
    rope = {"rope_type": "linear", "rope_theta": 160000, "factor": 8 ** (1 / 32)}
    dropped = {"rope_scaling", "rope_theta", "position_embedding_type"}
    native = {k: v for k, v in OFFICIAL.items() if k not in dropped}
    native |= {"model_type": "gte", "rope_parameters": rope}
    assert parse_config(native).inv_freq() == pytest.approx(parse_config(OFFICIAL).inv_freq())


def test_rope_without_scaling_is_plain() -> None:
    config = parse_config({**OFFICIAL, "rope_scaling": None})
    assert (config.rope_theta, config.rope_factor) == (20000.0, 1.0)


def test_xlm_roberta_positions_start_after_the_padding_id() -> None:
    config = parse_config(
        {**BERT, "model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": 514}
    )
    assert (config.position_offset, config.max_positions) == (2, 512)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "modernbert"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"num_labels": 3}, "num_labels"),
        ({"id2label": {"0": "no", "1": "yes"}}, "num_labels"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type"),
        ({"logn_attention_scale": True}, "logn_attention_scale"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"hidden_dropout_prob": [0.1]}, "hidden_dropout_prob"),
        ({"type_vocab_size": -1}, "type_vocab_size"),
    ],
)
def test_a_config_of_another_network_is_refused_by_the_key(
    change: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError, match=named):
        parse_config({**BERT, **change})


def test_null_is_a_key_left_out() -> None:
    keys = ("layer_norm_eps", "hidden_dropout_prob", "type_vocab_size")
    without = {key: value for key, value in BERT.items() if key not in keys}
    assert parse_config({**BERT, **dict.fromkeys(keys)}) == parse_config(without)


def test_roberta_has_two_token_types_unless_it_says_otherwise() -> None:
    config = {k: v for k, v in BERT.items() if k != "type_vocab_size"}
    assert parse_config({**config, "model_type": "roberta"}).type_vocab_size == 2
    assert parse_config({**OFFICIAL, "type_vocab_size": None}).type_vocab_size == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": "abc"},
        {"rope_theta": -5},
        {"rope_scaling": [1]},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"num_attention_heads": OFFICIAL["hidden_size"]},
    ],
)
def test_a_rope_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"rope|RoPE"):
        parse_config({**OFFICIAL, **change})


def test_the_official_type_has_rope_unless_it_says_otherwise() -> None:
    config = {k: v for k, v in OFFICIAL.items() if k != "position_embedding_type"}
    assert parse_config(config) == parse_config(OFFICIAL)


@pytest.mark.parametrize(
    "scaling", [{"type": "dynamic", "factor": 2.0}, {"type": "ntk", "factor": 8.0, "mixed_b": 0.5}]
)
def test_an_unknown_rope_scaling_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="rope scaling"):
        parse_config({**OFFICIAL, "rope_scaling": scaling})
