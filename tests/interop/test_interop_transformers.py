"""transformers' own classes on official files, without remote code."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import polyrank.interop.transformers
from polyrank import Reranker
from polyrank.errors import CheckpointError
from polyrank.tokenization import PairTokenizer, Truncation

Cases = list[dict[str, Any]]
Tensors = dict[str, torch.Tensor]
HEAD = ("new.pooler", "classifier")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("expected no connection")

    monkeypatch.setattr("socket.socket.connect", refuse)


def edited(
    source: Path, folder: Path, change: Callable[[Tensors], Tensors] = dict, **config: Any
) -> Path:
    """A copy whose tensors, and keys of whose config, are changed (None: left out)."""
    shutil.copytree(source, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    old = json.loads((folder / "config.json").read_text())
    new = {k: v for k, v in {**old, **config}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(new))
    return folder


def without(*starts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(starts)}


def bare(tensors: Tensors) -> Tensors:
    return {n.removeprefix("new."): t for n, t in tensors.items()}


@torch.inference_mode()
def logits(model: Any, cases: Cases) -> list[float]:
    return [model(torch.tensor([case["input_ids"]])).logits.item() for case in cases]


def expected(cases: Cases, tolerance: float = 1e-4) -> Any:
    return pytest.approx([case["logit"] for case in cases], abs=tolerance)


# ---------------------------------------------------------------- it loads, and it is right


@pytest.mark.parametrize(
    "options", [{}, {"trust_remote_code": True}, {"attn_implementation": "eager"}]
)
def test_official_files_give_their_logits(
    tiny_model: Path, tiny_cases: Cases, options: dict[str, Any]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, **options)
    assert type(model) is transformers.GteForSequenceClassification
    assert model.config._attn_implementation == options.get("attn_implementation", "sdpa")
    assert logits(model, tiny_cases) == expected(tiny_cases)


def test_padded_text_pairs_give_their_logits(tiny_model: Path, tiny_pairs: Cases) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    pairs = [[pair["query"], pair["text"]] for pair in tiny_pairs]
    inputs = tokenizer(pairs, padding=True, truncation=True, return_tensors="pt", max_length=8192)
    with torch.no_grad():
        scores = model(**inputs, return_dict=True).logits.view(-1).float()
    assert scores.tolist() == expected(tiny_pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_is_the_one_asked_for_or_the_files(
    tiny_model: Path, tiny_cases: Cases, tmp_path: Path, dtype: torch.dtype
) -> None:
    asked = AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    stored = edited(tiny_model, tmp_path / "m", torch_dtype=name)
    found = AutoModelForSequenceClassification.from_pretrained(stored)
    assert asked.dtype == found.dtype == dtype
    assert logits(asked, tiny_cases) == logits(found, tiny_cases) == expected(tiny_cases, 0.1)


def test_bare_names_and_absent_labels_load(
    tiny_model: Path, tiny_cases: Cases, tmp_path: Path
) -> None:
    nothing = {"id2label": None, "label2id": None, "num_labels": None}
    folder = edited(tiny_model, tmp_path / "m", bare, **nothing)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    assert logits(model, tiny_cases) == expected(tiny_cases)


def test_rope_follows_the_config_with_and_without_scaling(tiny_model: Path, tmp_path: Path) -> None:
    folder = edited(tiny_model, tmp_path / "m", rope_scaling=None, rope_theta=500_000)
    scaled, plain = (AutoConfig.from_pretrained(f).rope_parameters for f in (tiny_model, folder))
    width = 96 // 4
    assert scaled["rope_theta"] == pytest.approx(160_000)
    assert scaled["factor"] == pytest.approx(8 ** (2 / width))
    assert (plain["rope_theta"], plain["factor"]) == (500_000, 1.0)


def test_a_variant_that_gte_cannot_run_is_refused_by_its_key(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_model, tmp_path / "m", logn_attention_scale=True)
    with pytest.raises(CheckpointError, match=f"logn_attention_scale .* {folder}"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("change", [dict, bare])
@pytest.mark.parametrize("dropped", [(), HEAD])
def test_an_encoder_loads_with_automodel(
    tiny_model: Path,
    tiny_cases: Cases,
    tmp_path: Path,
    change: Callable[[Tensors], Tensors],
    dropped: tuple[str, ...],
) -> None:
    folder = edited(tiny_model, tmp_path / "m", lambda t: change(without(*dropped)(t)))
    encoder = AutoModel.from_pretrained(folder)
    for case in tiny_cases:
        with torch.inference_mode():
            last = encoder(torch.tensor([case["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(last[0, :8], case["cls_hidden_first8"], atol=1e-3)
        np.testing.assert_allclose(last[-1, :4], case["last_token_hidden_first4"], atol=1e-3)


def test_the_other_heads_of_the_family_load(tiny_model: Path, tmp_path: Path) -> None:
    def lm_head(tensors: Tensors) -> Tensors:
        shapes = {"norm.weight": (96,), "norm.bias": (96,), "decoder.bias": (512,)}
        shapes |= {"dense.weight": (96, 96), "dense.bias": (96,)}
        head = {f"lm_head.{name}": torch.full(shape, 2.0) for name, shape in shapes.items()}
        return {**without(*HEAD)(tensors), **head}

    lm = AutoModelForMaskedLM.from_pretrained(edited(tiny_model, tmp_path / "lm", lm_head))
    assert lm.lm_head.layer_norm.weight.unique().item() == 2.0
    assert lm.lm_head.decoder.weight is lm.gte.embeddings.word_embeddings.weight
    folder = edited(tiny_model, tmp_path / "tokens", without("new.pooler"))
    tokens = AutoModelForTokenClassification.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(tokens.classifier.weight, stored)


# ---------------------------------------------------------------- nothing is made up, nothing runs


@pytest.mark.parametrize("part", ["new.pooler", "classifier.bias", "new.encoder.layer.1.mlp_ln"])
def test_missing_weights_are_an_error_not_random(
    tiny_model: Path, tmp_path: Path, part: str
) -> None:
    folder = edited(tiny_model, tmp_path / "m", without(part))
    with pytest.raises(CheckpointError, match="would make them up at random") as caught:
        AutoModelForSequenceClassification.from_pretrained(folder)
    native = part.removeprefix("new.").replace("encoder.layer.1.mlp_ln", "layers.1.post_mlp")
    assert native in str(caught.value)


def test_code_in_the_folder_never_runs(tiny_model: Path, tiny_cases: Cases, tmp_path: Path) -> None:
    kinds = {"AutoModel": "NewModel", "AutoModelForSequenceClassification": "NewForSequence"}
    auto_map = {
        "AutoConfig": "official.NewConfig",
        **{k: f"official.{v}" for k, v in kinds.items()},
    }
    folder = edited(tiny_model, tmp_path / "m", auto_map=auto_map)
    (folder / "official.py").write_text("raise SystemExit('remote code ran')")
    options = {"trust_remote_code": True}
    assert AutoConfig.from_pretrained(folder, **options).rope_parameters["factor"] > 1
    AutoTokenizer.from_pretrained(folder, **options)
    AutoModel.from_pretrained(folder, **options)
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options)
    assert logits(model, tiny_cases) == expected(tiny_cases)
    model.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


def test_other_model_types_are_untouched(tmp_path: Path) -> None:
    small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    for name in ("Bert", "Gte"):
        config = getattr(transformers, f"{name}Config")(num_attention_heads=2, **small)
        encoder = getattr(transformers, f"{name}Model")(config)
        encoder.save_pretrained(tmp_path / name)
        head = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        assert type(head) is getattr(transformers, f"{name}ForSequenceClassification")


def test_importing_again_changes_nothing(tiny_model: Path, tiny_cases: Cases) -> None:
    importlib.reload(polyrank.interop.transformers)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    assert logits(model, tiny_cases) == expected(tiny_cases)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "200KB"}])
def test_saved_again_it_is_native_and_loads_everywhere(
    tiny_model: Path, tiny_cases: Cases, tmp_path: Path, options: dict[str, Any]
) -> None:
    AutoModelForSequenceClassification.from_pretrained(tiny_model).save_pretrained(
        tmp_path, **options
    )
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gte"
    names = [n for file in tmp_path.glob("*.safetensors") for n in load_file(file)]
    assert "gte.layers.2.self_attn.q_proj.weight" in names
    plain = transformers.GteForSequenceClassification.from_pretrained(tmp_path)
    assert logits(plain, tiny_cases) == expected(tiny_cases)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, tmp_path)
    with Reranker(tmp_path) as ours, Reranker(tiny_model) as before:
        pairs = [("w7 w8", "w9"), ("w10", "w11 w12")]
        np.testing.assert_allclose(ours.logits(pairs), before.logits(pairs), atol=1e-6)


def test_sharded_official_files_load(tiny_model: Path, tiny_cases: Cases, tmp_path: Path) -> None:
    tensors = load_file(tiny_model / "model.safetensors")
    shutil.copy(tiny_model / "config.json", tmp_path)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {name: files[i % 2] for i, name in enumerate(tensors)}
    for file in files:
        mine = {n: t for n, t in tensors.items() if weight_map[n] == file}
        save_file(mine, tmp_path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert logits(model, tiny_cases) == expected(tiny_cases)


def test_a_config_saved_alone_and_a_model_from_a_config_are_native(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_model)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is transformers.GteConfig
    assert again.rope_parameters == config.rope_parameters
    model = AutoModelForSequenceClassification.from_config(config)
    assert type(model) is transformers.GteForSequenceClassification
    assert type(model.config) is transformers.GteConfig


# ---------------------------------------------------------------- tokenizer


@pytest.mark.parametrize(
    "kind", ["XLMRobertaTokenizer", "XLMRobertaTokenizerFast", "PreTrainedTokenizerFast", None]
)
def test_the_folders_tokenizer_gives_polyranks_ids(
    tiny_model: Path, tmp_path: Path, kind: str | None
) -> None:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [
        *((s, 0.0) for s in specials),
        ("▁", -3.0),
        ("▁北京", -2.0),
        ("▁a", -1.0),
        ("b", -2.0),
    ]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([*specials, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(tiny_model / "config.json", tmp_path)
    stated = json.loads((tiny_model / "tokenizer_config.json").read_text())
    stated = {**stated, "tokenizer_class": kind, "mask_token": "<mask>"}
    stated = {key: value for key, value in stated.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    inputs = AutoTokenizer.from_pretrained(tmp_path)([["a 北京", "ab b"]])
    ours = PairTokenizer.from_folder(tmp_path).encode("a 北京", ["ab b"], Truncation(max_length=99))
    assert inputs["input_ids"] == [ours[0].ids.tolist()]
    assert len(set(inputs["input_ids"][0])) > 5
