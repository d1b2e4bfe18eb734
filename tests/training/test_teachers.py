"""Rerankers that score groups as they are read are the teachers of another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyrank import Reranker
from polyrank.checkpoint import load_checkpoint, save_checkpoint
from polyrank.errors import InputError
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import RerankConfig, read_config, to_mapping
from polyrank.training.groups import write_groups
from polyrank.training.preview import preview_reranker
from polyrank.training.rerank import build_model, build_objective, train_reranker, with_head
from training.matching import matching_groups
from training.test_loop import LOOP, config_for, losses


@pytest.fixture(scope="module")
def teachers(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two rerankers whose heads differ, with the encoder's tokenizer."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("teacher")
        encoder = load_checkpoint(encoder_folder, require_head=False)
        save_checkpoint(folder, with_head(encoder, seed=seed, std=0.5), layout="native")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(encoder_folder / name, folder / name)
        folders.append(folder)
    return folders[0], folders[1]


def taught(config: RerankConfig, teachers: tuple[Path, ...], **loss: float) -> RerankConfig:
    """The run with teachers."""
    names = tuple(map(str, teachers))
    return replace(config, teachers=names, loss=replace(config.loss, **loss))


def test_their_mean_is_learned_as_scores_written_beforehand_would_be(
    encoder_folder: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = matching_groups(40, seed=4)
    own = [
        replace(g, scores=(4.0, -2.0, 1.0, 0.5)) if n % 3 == 0 else g for n, g in enumerate(rows)
    ]
    models = [Reranker(folder, device="cpu") for folder in teachers]
    beforehand = []
    for group in own:
        pairs = [(group.query, text) for text in group.texts]
        mean = np.mean([m.logits(pairs) for m in models], axis=0)
        if group.scores is not None:
            mean = (mean + 0.5 * np.array(group.scores)) / 2
        beforehand.append(replace(group, scores=tuple(map(float, mean))))
    for model in models:
        model.close()
    write_groups(tmp_path / "own.jsonl", own)
    write_groups(tmp_path / "beforehand.jsonl", beforehand)
    run = config_for(encoder_folder, tmp_path / "own.jsonl")
    train_reranker(taught(run, teachers, teacher_scale=0.5), tmp_path / "taught")
    train_reranker(config_for(encoder_folder, tmp_path / "beforehand.jsonl"), tmp_path / "written")
    found, wanted = losses(tmp_path / "taught"), losses(tmp_path / "written")
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=2e-3)
    assert len({round(v, 3) for v in wanted.values()}) > 1


def test_a_teacher_that_is_named_twice_counts_twice_and_is_run_once(
    encoder_folder: Path,
    teachers: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_groups(tmp_path / "groups.jsonl", matching_groups(8, seed=4))
    run = config_for(encoder_folder, tmp_path / "groups.jsonl")
    once, twice = (
        build_objective(taught(run, named), "cpu") for named in (teachers, (*teachers, teachers[0]))
    )
    batch = once.batches(0)[0]
    said: list[torch.Tensor] = []
    forward = CrossEncoder.forward
    monkeypatch.setattr(
        CrossEncoder,
        "forward",
        lambda self, *inputs: said.append(forward(self, *inputs)) or said[-1],
    )
    student, _ = build_model(run, "cpu")
    wanted: list[torch.Tensor] = []
    for objective in (once, twice):
        monkeypatch.setattr(
            objective, "wanted", lambda mean_S, batch: wanted.append(mean_S) or mean_S
        )
        objective.loss(student, batch)
    assert len(said) == 6
    first, second, _ = said[:3]
    torch.testing.assert_close(wanted[0], (first + second).float() / 2)
    torch.testing.assert_close(wanted[1], (2 * first + second).float() / 3)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3


def test_a_student_without_a_label_comes_to_rank_as_its_teachers_do(
    encoder_folder: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    groups = [replace(g, labelled=False) for g in matching_groups(300, seed=5)]
    write_groups(tmp_path / "groups.jsonl", groups)
    loop = replace(LOOP, steps=250, learning_rate=3e-3, checkpoint_every=250, log_every=250)
    run = config_for(encoder_folder, tmp_path / "groups.jsonl", loop, max_batch_tokens=2048)
    train_reranker(taught(run, teachers), tmp_path / "run")
    held_out = [(g.query, t) for g in matching_groups(40, seed=6) for t in g.texts]
    with Reranker(teachers[0]) as one, Reranker(teachers[1]) as two:
        wanted = (one.logits(held_out) + two.logits(held_out)) / 2
    with Reranker(tmp_path / "run/step-000250") as learned:
        found = learned.logits(held_out)
    margins = [x.reshape(40, 4) - x.reshape(40, 4).mean(1, keepdims=True) for x in (found, wanted)]
    assert np.corrcoef(margins[0].ravel(), margins[1].ravel())[0, 1] > 0.9


def test_who_is_its_own_teacher_has_nothing_to_learn(
    encoder_folder: Path, matching_file: Path, teachers: tuple[Path, Path]
) -> None:
    run = config_for(encoder_folder, matching_file)
    model = CrossEncoder.from_checkpoint(load_checkpoint(teachers[0]))
    for others, to_learn in ((teachers[:1], False), (teachers, True)):
        objective = build_objective(taught(run, others, contrastive=0.0), "cpu")
        total, _ = objective.loss(model, objective.batches(0)[0])
        assert (total.item() > 1e-4) == to_learn
        torch.autograd.backward(total)  # the teachers have no gradients, the student does


def test_teachers_are_part_of_a_run_s_config(
    encoder_folder: Path, matching_file: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    config = taught(config_for(encoder_folder, matching_file), teachers)
    (tmp_path / "c.json").write_text(json.dumps(to_mapping(config)))
    assert read_config(tmp_path / "c.json") == config
    assert preview_reranker(config).seconds is not None


def test_a_teacher_of_other_token_ids_or_shorter_pairs_is_refused(
    encoder_folder: Path, matching_file: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    run = config_for(encoder_folder, matching_file)
    other = tmp_path / "other"
    shutil.copytree(teachers[0], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = "w300", "w301"
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"expected teachers with the tokenizer of .*other has"):
        build_objective(taught(run, (teachers[0], other)), "cpu")
    part = replace(run.data.parts[0], max_length=65)
    long = replace(run, data=replace(run.data, parts=(part,)))
    with pytest.raises(InputError, match=r"at most 64 tokens, the limit of the teacher .* got 65"):
        build_objective(taught(long, teachers), "cpu")
