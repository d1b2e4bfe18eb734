"""Checkpoint files as other tools, other versions and broken downloads leave them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import encoding_of
from polyrank.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from polyrank.config import parse_config
from polyrank.errors import CheckpointError
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend import CrossEncoder, TorchBackend
from polyrank.values import pack

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]

ENCODERS = {"gte": "gte.", "bert": "bert.", "xlm-roberta": "roberta."}
HEADS = {
    "gte": ("gte.pooler.dense", "classifier"),
    "bert": ("bert.pooler.dense", "classifier"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
}


@pytest.fixture(scope="module", params=ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint in the layout that transformers writes for the family."""
    source = {
        "model_type": family,
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 42,
    }
    config = parse_config(source)
    network = CrossEncoder.random(config, std=0.3)
    folder = tmp_path_factory.mktemp(family)
    checkpoint = Checkpoint(config=config, arrays=network.arrays(), source=source)
    save_checkpoint(folder, checkpoint, layout="native")
    return folder


def logits(folder: Path) -> Any:
    rows = [encoding_of(list(range(5, 5 + n))) for n in (1, 9, 40)]
    return TorchBackend(load_checkpoint(folder)).forward(pack(rows))


def same(folder: Path, source: Path) -> bool:
    # Not to the bit: tensors are used where they lie in the file, and kernels mind alignment.
    return bool(np.allclose(logits(folder), logits(source), rtol=0, atol=1e-6))


def edited(source: Path, folder: Path, change: Change, **config: Any) -> Path:
    """A copy whose tensors, and keys of whose config, are changed (None: left out)."""
    shutil.copytree(source, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    old = json.loads((folder / "config.json").read_text())
    new = {k: v for k, v in {**old, **config}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(new))
    return folder


def without(*starts: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(starts)}


def plus(**more: torch.Tensor) -> Change:
    return lambda tensors: {**tensors, **{n.replace("__", "."): t for n, t in more.items()}}


# ---------------------------------------------------------------- what loads


def test_a_file_without_metadata_labels_or_prefixes_loads(
    family: str, whole: Path, tmp_path: Path
) -> None:
    def strip(tensors: Tensors) -> Tensors:
        return {n.removeprefix(ENCODERS[family]): t for n, t in tensors.items()}

    folder = edited(whole, tmp_path / "m", strip, id2label=None, label2id=None)
    assert b"__metadata__" not in (folder / "model.safetensors").read_bytes()
    assert same(folder, whole)


def test_old_names_and_buffers_load(family: str, whole: Path, tmp_path: Path) -> None:
    def age(tensors: Tensors) -> Tensors:
        old = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in tensors.items()}
        old = {n.replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in old.items()}
        return {**old, ENCODERS[family] + "embeddings.position_ids": torch.arange(42)[None]}

    assert same(edited(whole, tmp_path / "m", age), whole)


def test_an_official_file_under_a_native_prefix_loads(tiny_model: Path, tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> Tensors:
        names = {n: n.replace("new.", "gte.", 1) for n in tensors}
        return {names[n]: t for n, t in tensors.items()}

    folder = edited(tiny_model, tmp_path / "m", rename)
    assert same(folder, tiny_model)


def test_query_key_and_value_stored_apart_load(tiny_model: Path, tmp_path: Path) -> None:
    def split(tensors: Tensors) -> Tensors:
        apart: Tensors = {}
        for name, tensor in tensors.items():
            if "qkv_proj" not in name:
                apart[name] = tensor
                continue
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                apart[name.replace("qkv_proj", f"{letter}_proj")] = part.contiguous()
        return apart

    folder = edited(tiny_model, tmp_path / "m", split, pack_qkv=False)
    assert same(folder, tiny_model)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_names_behind_what_wrapped_the_network_load(
    whole: Path, tmp_path: Path, wrapper: str
) -> None:
    folder = edited(whole, tmp_path / "m", lambda t: {wrapper + n: x for n, x in t.items()})
    assert same(folder, whole)


# ---------------------------------------------------------------- what must not


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_a_missing_part_of_the_head_is_named(
    family: str, whole: Path, tmp_path: Path, part: int, kind: str
) -> None:
    name = f"{HEADS[family][part]}.{kind}"
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(edited(whole, tmp_path / "m", without(name)))
    assert f"1 of its tensors are missing: {name};" in str(caught.value)


def test_a_missing_head_is_named_and_never_invented(
    family: str, whole: Path, tmp_path: Path
) -> None:
    folder = edited(whole, tmp_path / "m", without(*HEADS[family]))
    with pytest.raises(CheckpointError, match="never invents a head") as caught:
        load_checkpoint(folder)
    assert all(name in str(caught.value) for name in HEADS[family])
    assert not load_checkpoint(folder, require_head=False).has_head


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (plus(lm_head__bias=torch.zeros(3)), "1 more in .*: lm_head.bias"),
        (plus(classifier__bias=torch.zeros(2)), r"\[1\] for classifier.bias, got \[2\]"),
        (plus(classifier__weight=torch.zeros(2, 96)), r"\[1, 96\] for classifier.weight, got \[2"),
        (plus(classifier__bias=torch.zeros(1, dtype=torch.int32)), "classifier.bias .* got I32"),
        (without("new.encoder.layer.1.mlp_ln.bias"), "1 are missing: new.encoder.layer.1.mlp_ln.b"),
        (without("new.embeddings.word"), "1 are missing: new.embeddings.word_embeddings.weight"),
        (without(""), "56 are missing"),
    ],
)
def test_a_tensor_too_many_too_few_or_misshapen_is_named(
    tiny_model: Path, tmp_path: Path, change: Change, named: str
) -> None:
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(edited(tiny_model, tmp_path / "m", change))


@pytest.mark.parametrize(
    "layers", [2, 4], ids=["fewer layers than the file", "more layers than the file"]
)
def test_a_config_of_another_checkpoint_is_refused(
    tiny_model: Path, tmp_path: Path, layers: int
) -> None:
    folder = edited(tiny_model, tmp_path / "m", without("none"), num_hidden_layers=layers)
    with pytest.raises(CheckpointError, match=rf"layer\.{min(layers, 3)}\."):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda b: b[:-1], id="one byte short"),
        pytest.param(lambda b: b[:100], id="header cut"),
        pytest.param(lambda b: b"", id="empty"),
        pytest.param(lambda b: b"<html>" * 99, id="an error page"),
        pytest.param(lambda b: b + b"x", id="one byte long"),
        pytest.param(lambda b: b[:8] + b"\xff" * 99 + b[107:], id="header garbled"),
    ],
)
def test_a_broken_file_is_named(
    tiny_model: Path, tmp_path: Path, broken: Callable[[bytes], bytes]
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    file = folder / "model.safetensors"
    file.write_bytes(broken(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(folder)


def shard(source: Path, folder: Path) -> tuple[Path, str, list[Path]]:
    """A copy in two shards: (folder, the first tensor of the second shard, the shards)."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    files = [folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for half, file in zip(halves, files, strict=True):
        save_file({n: tensors[n] for n in half}, file)
    weight_map = {n: f.name for half, f in zip(halves, files, strict=True) for n in half}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder, halves[1][0], files


def test_shards_load_and_a_missing_one_is_named(family: str, whole: Path, tmp_path: Path) -> None:
    folder, gone, files = shard(whole, tmp_path / "m")
    assert same(folder, whole)
    save_file(without(gone)(load_file(files[1])), files[1])
    with pytest.raises(CheckpointError, match=gone):
        load_checkpoint(folder)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=files[1].name):
        load_checkpoint(folder)


def test_an_index_that_points_outside_its_folder_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder, _, files = shard(tiny_model, tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    files[0].rename(tmp_path / files[0].name)
    index.write_text(index.read_text().replace(files[0].name, f"../{files[0].name}"))
    with pytest.raises(CheckpointError, match=r"safetensors files beside .* '\.\./model-00001"):
        load_checkpoint(folder)


def test_a_pointer_of_git_lfs_is_told_apart(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="pointer of Git LFS: run `git lfs pull`"):
        load_checkpoint(folder)
    (folder / "tokenizer.json").write_text(pointer)
    with pytest.raises(CheckpointError, match="pointer of Git LFS: run `git lfs pull`"):
        PairTokenizer.from_folder(folder)


def test_modules_behind_the_network_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    modules, sentences = folder / "modules.json", folder / "config_sentence_transformers.json"
    modules.write_text(json.dumps([{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]))
    for kind in ({}, {"model_type": "SentenceTransformer"}):  # an embedding model's, left behind
        sentences.write_text(json.dumps(kind))
        assert same(folder, tiny_model)
    sentences.write_text(json.dumps({"model_type": "CrossEncoder"}))
    modules.write_text(json.dumps([{"idx": 0, "path": ""}]))
    assert same(folder, tiny_model)
    modules.write_text(json.dumps([{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Dense"}]))
    with pytest.raises(CheckpointError, match=r"modules\.json has 1_Dense beside it"):
        load_checkpoint(folder)
    load_checkpoint(folder, require_head=False)
    for broken in ("{}", "[1]"):
        modules.write_text(broken)
        with pytest.raises(CheckpointError, match="expected a list of modules"):
            load_checkpoint(folder)


def test_a_folder_without_safetensors_says_what_it_found(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"found pytorch_model\.bin; .* save_pretrained"):
        load_checkpoint(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="found no weights"):
        load_checkpoint(folder)
