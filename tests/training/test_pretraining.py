"""Masked language modelling, the conversion to the gated architecture, and distillation."""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyrank.checkpoint import Array, Checkpoint, load_checkpoint, save_checkpoint
from polyrank.config import EncoderConfig
from polyrank.errors import CheckpointError, InputError
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import LoopConfig
from polyrank.training.convert import bert_to_gte, constant_one, measure_activity
from polyrank.training.distill import HiddenStates
from polyrank.training.loop import train
from polyrank.training.masked import MaskedText, Stage, pretrain
from polyrank.training.objective import forward_inputs
from polyrank.training.rerank import with_head
from polyrank.training.texts import TextMixture, find_texts, unpack
from polyrank.values import Batch, pack

LOOP = LoopConfig(
    steps=150,
    learning_rate=1e-2,
    dtype="fp32",
    train_embeddings=True,
    checkpoint_every=50,
    log_every=10,
)
GTE = EncoderConfig(
    family="gte",
    vocab_size=512,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    max_positions=64,
    type_vocab_size=1,
    layer_norm_eps=1e-12,
    rope_theta=10_000.0,
)

BATCH = Batch(
    ids=np.random.default_rng(4).integers(10, 400, 200).astype(np.int32),
    type_ids=np.zeros(200, np.int32),
    cu_lengths=np.array([0, 17, 48, 72, 100, 127, 160, 200], np.int32),
)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language whose sentences are stretches of one cycle of 12 words."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        start, length = rng.integers(12), rng.integers(6, 14)
        lines.append(" ".join(f"w{20 + (start + i) % 12}" for i in range(length)))
    path = tmp_path_factory.mktemp("text") / "xx.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _start() -> Checkpoint:
    model = CrossEncoder.random(GTE, seed=0, std=0.1)
    arrays = {n: a for n, a in model.arrays().items() if not n.startswith("head.")}
    return Checkpoint(config=GTE, arrays=arrays, source={"model_type": "gte"})


def _hits(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["hits"] for line in lines]


def test_an_encoder_learns_a_small_text_and_resumes_by_stages(
    text_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    short = Stage(loop=LOOP, max_length=16, sequences_per_step=32)
    longer = replace(short, loop=replace(LOOP, steps=50), max_length=32, rope_theta=160_000.0)
    with pytest.raises(StopHereError):
        pretrain(
            _start(), tiny_model, {"xx": text_file}, [short, longer], tmp_path / "cut",
            mask_token="w9", say=_stop_at("step 60"),
        )  # fmt: skip
    for name in ("cut", "whole"):
        encoder = pretrain(
            _start(), tiny_model, {"xx": text_file}, [short, longer], tmp_path / name,
            mask_token="w9",
        )  # fmt: skip
    assert encoder.config.rope_theta == 160_000.0
    hits = _hits(tmp_path / "whole/stage-1")
    assert hits[0] < 0.1
    assert hits[-1] > 0.6
    assert _hits(tmp_path / "cut/stage-2") == _hits(tmp_path / "whole/stage-2")
    exported = load_checkpoint(tmp_path / "whole/encoder", require_head=False)
    assert exported.config.rope_theta == 160_000.0


class StopHereError(Exception):
    """Raised by a test to leave a run."""


def _stop_at(words: str):  # type: ignore[no-untyped-def]
    def say(line: str) -> None:
        if words in line:
            raise StopHereError

    return say


def _masked(text_file: Path, tiny_model: Path, share: float) -> MaskedText:
    tokenizer = PairTokenizer.from_folder(tiny_model)
    texts = TextMixture({"xx": text_file}, tokenizer, max_length=24, seed=0)
    stage = Stage(loop=LOOP, max_length=24, masked_share=share, max_batch_tokens=200)
    return MaskedText(texts, stage, mask_id=9, special=(0, 2))


def test_a_third_of_the_tokens_is_masked_and_never_a_special_one(
    text_file: Path, tiny_model: Path
) -> None:
    batches = _masked(text_file, tiny_model, 0.3).batches(0)
    tokens = sum(len(b.batch.ids) for b in batches)
    masked = sum(len(b.places) for b in batches)
    assert masked / (tokens - 2 * 64) == pytest.approx(0.3, abs=0.02)
    for batch in batches:
        assert len(batch.batch.ids) <= 200
        assert not np.isin(batch.answers, (0, 2)).any()
        changed = batch.batch.ids[batch.places] == 9
        assert 0.6 < changed.mean() <= 1.0


def test_masks_depend_on_the_step_alone(text_file: Path, tiny_model: Path) -> None:
    one, two = (_masked(text_file, tiny_model, 0.3) for _ in range(2))
    one.batches(4)
    for a, b in zip(one.batches(7), two.batches(7), strict=True):
        assert np.array_equal(a.batch.ids, b.batch.ids)
        assert np.array_equal(a.places, b.places)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "at least one stage"),
        ([Stage(loop=LOOP, max_length=65)], "at most 64 tokens, the model's limit, got 65"),
    ],
)
def test_stages_that_the_model_cannot_go_through_are_refused(
    text_file: Path, tiny_model: Path, tmp_path: Path, stages: list[Stage], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pretrain(_start(), tiny_model, {"xx": text_file}, stages, tmp_path, mask_token="w9")


def test_a_rope_base_for_a_model_without_rope_is_refused(
    encoder_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    start = load_checkpoint(encoder_folder, require_head=False)
    stage = Stage(loop=LOOP, max_length=16, rope_theta=1e5)
    with pytest.raises(InputError, match="no rope_theta for a bert model"):
        pretrain(start, encoder_folder, {"xx": text_file}, [stage], tmp_path, mask_token="w9")


def test_a_folder_of_texts_is_a_language_a_file(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("eins\n")
    with lzma.open(tmp_path / "pt-br.txt.xz", "wt", encoding="utf-8") as file:
        file.write("um\n")
    (tmp_path / "README.txt~").write_text("not a text\n")
    found = find_texts(tmp_path, tmp_path / "plain")
    assert list(found) == ["de", "pt-br"]
    assert found["pt-br"].read_text() == "um\n"
    with pytest.raises(InputError, match="found none"):
        find_texts(tmp_path / "plain" / "empty", tmp_path)


def test_two_files_of_a_language_and_other_encodings_are_errors(
    tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "de.txt").write_bytes(b"w1\n\xffw2\n")
    with pytest.raises(InputError, match=r"expected UTF-8, got the byte 0xff at .*de\.txt:2"):
        TextMixture(
            {"de": tmp_path / "de.txt"}, PairTokenizer.from_folder(tiny_model), max_length=8, seed=0
        )
    (tmp_path / "de.txt.xz").write_bytes(lzma.compress(b"w1\n"))
    with pytest.raises(InputError, match=r"expected one file of each language .* two of de"):
        find_texts(tmp_path, tmp_path / "unpacked")


def test_a_line_of_any_white_space_is_no_line(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "ja.txt").write_text("w10\n\u3000\nw11\n\u00a0")
    mixture = TextMixture(
        {"ja": tmp_path / "ja.txt"}, PairTokenizer.from_folder(tiny_model), max_length=32, seed=0
    )
    assert min(len(mixture.draw(number)) for number in range(50)) > 2


def test_all_of_a_long_line_is_read(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "en.txt").write_text(" ".join(f"w{n}" for n in range(10, 410)) + "\n")
    mixture = TextMixture(
        {"en": tmp_path / "en.txt"}, PairTokenizer.from_folder(tiny_model), max_length=32, seed=0
    )
    seen = {int(i) for number in range(100) for i in mixture.draw(number).ids}
    assert len(seen) > 350


def test_a_damaged_text_leaves_nothing_unpacked(tmp_path: Path) -> None:
    (tmp_path / "de.txt.xz").write_bytes(b"no xz at all")
    with pytest.raises(InputError, match="expected a whole compressed file"):
        unpack(tmp_path / "de.txt.xz", tmp_path / "plain")
    assert not (tmp_path / "plain" / "de.txt").exists()


def test_compressed_text_is_unpacked_once(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "de.txt.xz", "wt", encoding="utf-8") as file:
        file.write("eins\nzwei\n")
    plain = unpack(tmp_path / "de.txt.xz", tmp_path / "plain")
    assert plain.read_text() == "eins\nzwei\n"
    plain.write_text("kept")
    assert unpack(tmp_path / "de.txt.xz", tmp_path / "plain").read_text() == "kept"
    assert unpack(plain, tmp_path) == plain


def test_a_missing_or_empty_text_file_is_named(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = PairTokenizer.from_folder(tiny_model)
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, message in (("none.txt", "expected a text file"), ("empty.txt", "at least one line")):
        with pytest.raises(InputError, match=message):
            TextMixture({"xx": tmp_path / name}, tokenizer, max_length=8, seed=0)


# ---------------------------------------------------------------- conversion


def _bert(encoder_folder: Path, *, positions: bool) -> Checkpoint:
    checkpoint = load_checkpoint(encoder_folder, require_head=False)
    arrays = dict(checkpoint.arrays)
    rng = np.random.default_rng(0)
    for name, array in arrays.items():
        if name.endswith("norm.bias"):  # random ones may cancel out
            arrays[name] = Array(rng.uniform(0.1, 0.5, array.shape).astype(np.float32))
    if not positions:
        table = arrays["embeddings.position.weight"]
        arrays["embeddings.position.weight"] = Array(np.zeros(table.shape, np.float32))
    return replace(checkpoint, arrays=arrays)


def test_a_norms_output_times_w_is_one() -> None:
    rng = np.random.default_rng(1)
    gamma, beta = rng.normal(1, 0.2, 64), rng.normal(0, 0.3, 64)
    x = rng.normal(size=(10, 64))
    x -= x.mean(1, keepdims=True)
    h = gamma * x / x.std(1, keepdims=True) + beta
    np.testing.assert_allclose(h @ constant_one(gamma, beta), 1.0, atol=1e-12)


def test_a_norm_that_allows_no_constant_is_refused() -> None:
    with pytest.raises(CheckpointError, match="gains other than 0"):
        constant_one(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    with pytest.raises(CheckpointError, match="does not cancel out"):
        constant_one(np.array([1.0, 1.0]), np.array([1.0, -1.0]))


def test_the_converted_network_is_the_same_function_but_for_positions(
    encoder_folder: Path,
) -> None:
    bert = _bert(encoder_folder, positions=False)
    teacher = CrossEncoder.from_checkpoint(bert).eval()
    activity = measure_activity(teacher, [BATCH])
    inputs = forward_inputs(BATCH, torch.device("cpu"))
    for gte in (bert_to_gte(bert), bert_to_gte(bert, activity=activity)):
        # RoPE off: angles of nearly 0.
        still = replace(gte, config=replace(gte.config, rope_factor=1e12))
        with torch.no_grad():
            before = teacher.hidden_states(*inputs)
            after = CrossEncoder.from_checkpoint(still).eval().hidden_states(*inputs)
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-5)


def test_turned_heads_compare_most_where_rope_turns_least(encoder_folder: Path) -> None:
    bert = _bert(encoder_folder, positions=False)
    teacher = CrossEncoder.from_checkpoint(bert).eval()
    gte = bert_to_gte(bert, activity=measure_activity(teacher, [BATCH]))
    still = replace(gte, config=replace(gte.config, rope_factor=1e12))
    after = measure_activity(CrossEncoder.from_checkpoint(still).eval(), [BATCH])
    for moments in (after.queries, after.keys):
        sizes_LHK = np.diagonal(moments, axis1=2, axis2=3)
        pairs = sizes_LHK.reshape(*sizes_LHK.shape[:2], 2, -1).sum(2)
        assert (np.diff(pairs, axis=-1) > 0).all()  # the last pair is the slowest
        off = moments - np.einsum("lhk,kj->lhkj", sizes_LHK, np.eye(sizes_LHK.shape[-1]))
        # Balanced but for the ridge.
        assert np.abs(off).max() < 0.01 * sizes_LHK.max()


def test_the_least_active_neurons_are_left_out_and_their_mean_stays(
    encoder_folder: Path,
) -> None:
    bert = _bert(encoder_folder, positions=False)
    arrays = dict(bert.arrays)
    # Half of the neurons say the same whatever they read.
    still = np.arange(0, bert.config.intermediate_size, 2)
    for n in range(bert.config.num_layers):
        name = f"layers.{n}.mlp_in.weight"
        value = arrays[name].float32().copy()
        value[still] = 0.0
        arrays[name] = Array(value)
        out = arrays[f"layers.{n}.mlp_out.weight"].float32().copy()
        out[:, still] *= 1e-2
        arrays[f"layers.{n}.mlp_out.weight"] = Array(out)
    bert = replace(bert, arrays=arrays)
    teacher = CrossEncoder.from_checkpoint(bert).eval()
    activity = measure_activity(teacher, [BATCH])
    width = bert.config.intermediate_size - len(still)
    gte = bert_to_gte(bert, activity=activity, intermediate_size=width)
    assert gte.config.intermediate_size == width
    gte = replace(gte, config=replace(gte.config, rope_factor=1e12))
    inputs = forward_inputs(BATCH, torch.device("cpu"))
    with torch.no_grad():
        before = teacher.hidden_states(*inputs)[-1]
        after = CrossEncoder.from_checkpoint(gte).eval().hidden_states(*inputs)[-1]
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match="`activity` where it is less"):
        bert_to_gte(bert, intermediate_size=width)


def test_a_gte_encoder_is_not_converted_again(encoder_folder: Path) -> None:
    gte = bert_to_gte(_bert(encoder_folder, positions=True))
    with pytest.raises(CheckpointError, match="expected a bert or xlm-roberta encoder"):
        bert_to_gte(gte)


def test_a_converted_student_comes_closer_to_its_teacher(
    encoder_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    bert = _bert(encoder_folder, positions=True)
    student = CrossEncoder.from_checkpoint(bert_to_gte(bert))
    teacher = CrossEncoder.from_checkpoint(bert)
    tokenizer = PairTokenizer.from_folder(encoder_folder)
    texts = TextMixture({"xx": text_file}, tokenizer, max_length=16, seed=0)
    objective = HiddenStates(teacher, lambda n: [pack(c) for c in texts.step(n, 16, 128)])
    loop = replace(LOOP, steps=80, learning_rate=3e-3, checkpoint_every=80, log_every=20)
    train(student, objective, loop, tmp_path)
    errors = [
        json.loads(line)["hidden"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert errors[-1] < 0.6 * errors[0]


def test_the_recipe_converts_a_reranker_that_trains_on(
    encoder_folder: Path, matching_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "recipes" / "polyrank_mini"))
    import convert
    import train as recipe

    bert = with_head(_bert(encoder_folder, positions=True), seed=0)
    save_checkpoint(tmp_path / "bert", bert, layout="native")
    shutil.copy(encoder_folder / "tokenizer.json", tmp_path / "bert")
    parts = ((matching_file.name, 0.9, 4, 8192), (matching_file.name, 0.1, 4, 8192))
    groups = ["--groups", str(matching_file.parent), "--groups-per-step", "4"]
    monkeypatch.setattr(convert, "LONG_PARTS", parts)
    monkeypatch.setitem(recipe.MIXTURES, "long", parts)
    width = bert.config.intermediate_size // 2
    argv = ["convert", "--model", str(tmp_path / "bert"), "--out", str(tmp_path / "converted")]
    argv += [*groups, "--steps", "5", "--intermediate-size", str(width)]
    monkeypatch.setattr(sys, "argv", argv)
    convert.main()
    argv = [
        "train",
        "--seed-model",
        str(tmp_path / "converted/model"),
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", [*argv, *groups, "--steps", "2", "--checkpoint-every", "5"])
    recipe.main()
    made = load_checkpoint(tmp_path / "run/step-000002").config
    assert (made.family, made.intermediate_size, made.max_positions) == ("gte", width, 8192)
