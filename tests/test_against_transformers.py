"""Our network and checkpoint room against transformers' own implementations, on random weights.

D = 32 wide: small enough to be quick, with weights large enough that every part shows in the logit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from conftest import encoding_of
from polyrank.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from polyrank.errors import CheckpointError
from polyrank.torch_backend import CrossEncoder, TorchBackend
from polyrank.torch_backend.attention import Layout
from polyrank.values import Encoding, pack

FAMILIES = ("gte", "bert", "xlm-roberta")
CLASSES = {"gte": "Gte", "bert": "Bert", "xlm-roberta": "XLMRoberta"}
VOCAB = 300
LENGTHS = [1, 1, 2, 3, 7, 7, 8, 16, 33, 64, 100, 128]


def build(family: str, *, kind: str = "ForSequenceClassification", **changes: Any) -> Any:
    """A transformers model with random weights: the same ones each time."""
    config = getattr(transformers, CLASSES[family] + "Config")(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 130,
            "type_vocab_size": 2 if family == "bert" else 1,
            "pad_token_id": 0 if family == "bert" else 1,
            "num_labels": 1,
            **({"rope_parameters": ROPE} if family == "gte" else {}),
            **changes,
        }
    )
    model = getattr(transformers, CLASSES[family] + kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.15, generator=generator)
            if "norm.weight" in name.lower():
                parameter.add_(1.0)
    return model


ROPE = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 8 ** (1 / 4)}


def encodings(family: str, lengths: list[int], *, seed: int = 0) -> list[Encoding]:
    """Random token ids; in BERT the second text starts anywhere."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(5, VOCAB, n).tolist() for n in lengths]
    return [
        encoding_of(ids, int(rng.integers(0, len(ids) + 1)) if family == "bert" else None)
        for ids in rows
    ]


@torch.inference_mode()
def theirs(model: Any, encoding: Encoding, *, hidden: bool = False) -> Any:
    """transformers' logit of one pair alone, or its hidden states, [layers + 1, L, D]."""
    types = torch.zeros(1, len(encoding), dtype=torch.long)
    types[:, encoding.type_split :] = 1
    output = model(
        input_ids=torch.from_numpy(encoding.ids).long()[None],
        token_type_ids=types,
        output_hidden_states=hidden,
    )
    return torch.cat(output.hidden_states).numpy() if hidden else output.logits.item()


def ours(folder: Path, rows: list[Encoding], *, dtype: str = "fp32") -> Any:
    """[S] logits of one packed batch."""
    return TorchBackend(load_checkpoint(folder), dtype=dtype).forward(pack(rows))


@torch.inference_mode()
def our_hidden_states(checkpoint: Checkpoint, rows: list[Encoding]) -> Any:
    """[layers + 1, T, D] of one packed batch."""
    batch = pack(rows)
    at = Layout.of(batch.cu_lengths, torch.device("cpu"), torch.float32)
    ids, types = (torch.from_numpy(x).long() for x in (batch.ids, batch.type_ids))
    model = CrossEncoder.from_checkpoint(checkpoint).eval()
    return torch.stack(model.hidden_states(ids, types, at)).numpy()


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


@dataclass
class Both:
    """One network in both libraries, and pairs with transformers' logits, each run alone."""

    family: str
    model: Any
    folder: Path
    rows: list[Encoding]
    logits: list[float]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    family = request.param
    model = build(family)
    rows = encodings(family, LENGTHS)
    folder = save(model, tmp_path_factory.mktemp(family))
    return Both(family, model, folder, rows, [theirs(model, row) for row in rows])


# ---------------------------------------------------------------- the network


def test_the_test_can_tell_pairs_apart(both: Both) -> None:
    assert np.std(both.logits) > 0.1


def test_logits_agree_packed_and_one_by_one(both: Both) -> None:
    np.testing.assert_allclose(ours(both.folder, both.rows), both.logits, atol=1e-4)
    backend = TorchBackend(load_checkpoint(both.folder))
    alone = [backend.forward(pack([row]))[0] for row in both.rows]
    np.testing.assert_allclose(alone, both.logits, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_logits_agree_in_any_batch_and_order(both: Both, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(both.rows))
    backend = TorchBackend(load_checkpoint(both.folder))
    for batch in np.array_split(order, rng.integers(1, 6)):
        logits = backend.forward(pack([both.rows[i] for i in batch]))
        np.testing.assert_allclose(logits, [both.logits[i] for i in batch], atol=1e-4)


def test_hidden_states_agree_after_every_layer(both: Both) -> None:
    states = our_hidden_states(load_checkpoint(both.folder), both.rows)
    ends = np.cumsum([len(row) for row in both.rows])
    for row, end in zip(both.rows, ends, strict=True):
        expected = theirs(both.model, row, hidden=True)
        np.testing.assert_allclose(states[:, end - len(row) : end], expected, atol=1e-3)


def test_bf16_stays_near(both: Both) -> None:
    near = ours(both.folder, both.rows, dtype="bf16")
    np.testing.assert_allclose(near, both.logits, atol=0.1)


def test_a_pair_of_8192_tokens_agrees(tmp_path: Path) -> None:
    model = build("gte", num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8192)
    rows = encodings("gte", [8192, 5])
    logits = ours(save(model, tmp_path), rows)
    np.testing.assert_allclose(logits, [theirs(model, row) for row in rows], atol=1e-4)


def test_bert_token_types_count(tmp_path: Path) -> None:
    model = build("bert")
    ids = list(range(5, 25))
    rows = [encoding_of(ids, split) for split in (0, 7, 20)]
    logits = ours(save(model, tmp_path), rows)
    np.testing.assert_allclose(logits, [theirs(model, row) for row in rows], atol=1e-4)
    assert len(set(logits.round(3).tolist())) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_tokens_in_a_text_agree(tmp_path: Path, family: str) -> None:
    model = build(family)
    pad = model.config.pad_token_id
    rows = [encoding_of(ids) for ids in ([5, pad, 7, 8], [pad, pad, 9], [6, 7, 8, pad], [5, 6])]
    logits = ours(save(model, tmp_path), rows)
    np.testing.assert_allclose(logits, [theirs(model, row) for row in rows], atol=1e-4)


@pytest.mark.parametrize("family", ["xlm-roberta", "gte"])
def test_one_token_type_is_that_of_all_tokens(tmp_path: Path, family: str) -> None:
    model = build(family, type_vocab_size=1)
    folder = save(model, tmp_path)
    typed, untyped = encoding_of([5, 6, 7, 8], 2), encoding_of([5, 6, 7, 8])
    assert (ours(folder, [typed]) == ours(folder, [untyped])).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
def test_other_activations_agree(tmp_path: Path, family: str, activation: str) -> None:
    model = build(family, hidden_act=activation, num_hidden_layers=2)
    row = encodings(family, [40])
    logits = ours(save(model, tmp_path), row)
    np.testing.assert_allclose(logits, [theirs(model, row[0])], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"type_vocab_size": 0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        {"rope_parameters": None},
        {"layer_norm_eps": 1e-2},
    ],
)
def test_other_gte_configurations_agree(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = build("gte", **changes)
    rows = encodings("gte", [50])
    if "type_vocab_size" in changes:
        assert model.gte.embeddings.token_type_embeddings is None
    logits = ours(save(model, tmp_path), rows)
    np.testing.assert_allclose(logits, [theirs(model, rows[0])], atol=1e-4)


def test_a_native_config_that_leaves_out_its_rope_means_transformers_default(
    tmp_path: Path,
) -> None:
    save(build("gte", rope_parameters=None), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = encodings("gte", [50])
    np.testing.assert_allclose(ours(tmp_path, rows), [theirs(model, rows[0])], atol=1e-4)


# ---------------------------------------------------------------- checkpoints by transformers


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_sharded_files_load_exactly(
    both: Both, tmp_path: Path, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    folder = save(build(both.family).to(dtype), tmp_path, **options)
    assert (folder / "model.safetensors.index.json").exists() == bool(options)
    widened = type(both.model).from_pretrained(folder, dtype=torch.float32)
    expected = [theirs(widened, row) for row in both.rows]
    np.testing.assert_allclose(ours(folder, both.rows), expected, atol=1e-4)


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("loaded_from", ["official", "native"])
def test_every_gte_layout_that_transformers_writes_loads(
    tmp_path: Path, original: bool, loaded_from: str
) -> None:
    # Asked for the original format, it keeps the names that it read, behind prefixes of its own.
    model = build("gte")
    save(model, tmp_path / "native", save_original_format=False)
    save_checkpoint(tmp_path / "official", load_checkpoint(tmp_path / "native"))
    again = type(model).from_pretrained(tmp_path / loaded_from, config=model.config)
    again.save_pretrained(tmp_path / "again", save_original_format=original)
    rows = encodings("gte", LENGTHS)
    expected = [theirs(model, row) for row in rows]
    np.testing.assert_allclose(ours(tmp_path / "again", rows), expected, atol=1e-4)


def test_a_pooler_that_the_head_does_not_read_is_left_out(tmp_path: Path) -> None:
    model = build("xlm-roberta")
    folder = save(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["roberta.pooler.dense.weight"] = torch.ones(32, 32)
    tensors["roberta.pooler.dense.bias"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors")
    rows = encodings("xlm-roberta", [30])
    np.testing.assert_allclose(ours(folder, rows), [theirs(model, rows[0])], atol=1e-4)
    tensors["roberta.another.weight"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="got 1 more"):
        load_checkpoint(folder)


def test_a_classifier_of_two_labels_is_no_reranker(tmp_path: Path) -> None:
    folder = save(build("bert", num_labels=2), tmp_path)
    with pytest.raises(CheckpointError, match="several labels"):
        load_checkpoint(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
def test_an_encoder_loads_alone_and_is_no_reranker(tmp_path: Path, family: str, kind: str) -> None:
    folder = save(build(family, kind=kind), tmp_path)
    with pytest.raises(CheckpointError, match=r"classif|pooler"):
        load_checkpoint(folder)
    checkpoint = load_checkpoint(folder, require_head=False)
    assert not checkpoint.has_head
    rows = encodings(family, [30])
    states = our_hidden_states(checkpoint, rows)
    save_checkpoint(tmp_path / "saved", checkpoint, layout="native")
    for stored in (folder, tmp_path / "saved"):
        model = getattr(transformers, CLASSES[family] + "Model").from_pretrained(stored).eval()
        np.testing.assert_allclose(states, theirs(model, rows[0], hidden=True), atol=1e-3)


# ---------------------------------------------------------------- round trips


def test_ours_saved_natively_loads_in_transformers(both: Both, tmp_path: Path) -> None:
    model = CrossEncoder.from_checkpoint(load_checkpoint(both.folder))
    trained = replace(load_checkpoint(both.folder), arrays=model.arrays())
    save_checkpoint(tmp_path, trained, layout="native")
    again, info = type(both.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert [theirs(again, row) for row in both.rows] == pytest.approx(both.logits, abs=1e-5)


def test_the_official_layout_becomes_native_and_transformers_agrees(
    tiny_model: Path, tiny_cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, load_checkpoint(tiny_model), layout="native")
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    for case in tiny_cases:
        logit = theirs(model, encoding_of(case["input_ids"]))
        assert logit == pytest.approx(case["logit"], abs=1e-4)


def test_native_becomes_the_official_layout_again_to_the_bit(
    tiny_model: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "native", load_checkpoint(tiny_model), layout="native")
    save_checkpoint(tmp_path / "official", load_checkpoint(tmp_path / "native"))
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "official" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config, again = (
        json.loads((folder / "config.json").read_text())
        for folder in (tiny_model, tmp_path / "official")
    )
    assert again["rope_theta"] == pytest.approx(config["rope_theta"])
    assert again["rope_scaling"]["factor"] == pytest.approx(config["rope_scaling"]["factor"])
    meant = {k: config[k] for k in config if k not in ("auto_map", "rope_theta", "rope_scaling")}
    assert {k: again.get(k) for k in meant} == meant


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_the_config_names_the_dtype_of_the_file(
    both: Both, tmp_path: Path, stored: torch.dtype
) -> None:
    save(build(both.family).to(stored), tmp_path / "half")
    save_checkpoint(tmp_path / "saved", load_checkpoint(tmp_path / "half"), layout="native")
    dtypes = {t.dtype for t in load_file(tmp_path / "saved" / "model.safetensors").values()}
    assert {type(both.model).from_pretrained(tmp_path / "saved").dtype} == dtypes
