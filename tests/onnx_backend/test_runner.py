"""The packed graph in ONNX Runtime against the reference logits and the PyTorch network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from conftest import encoding_of
from polyrank.checkpoint import PACKED_FILE, Array, Checkpoint, load_checkpoint
from polyrank.config import EncoderConfig, Family
from polyrank.errors import BackendError, CheckpointError
from polyrank.onnx_backend import files
from polyrank.onnx_backend.files import write_packed
from polyrank.onnx_backend.layout import PROBE, Precision
from polyrank.onnx_backend.reference import reference_logits, sample_encodings
from polyrank.onnx_backend.rounding import Inputs, centred, rounding_errors
from polyrank.onnx_backend.runner import OnnxBackend
from polyrank.torch_backend import CrossEncoder, TorchBackend
from polyrank.values import Encoding, pack

Cases = list[dict[str, Any]]
Packed = Callable[..., Path]
FAMILIES: tuple[Family, ...] = ("gte", "bert", "xlm-roberta")


def random_checkpoint(
    family: Family, *, activation: Any = "gelu", max_positions: int = 1200
) -> Checkpoint:
    config = EncoderConfig(
        family=family,
        vocab_size=300,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        intermediate_size=96,
        max_positions=max_positions,
        type_vocab_size=2 if family == "bert" else 1,
        layer_norm_eps=1e-12,
        activation=activation,
        position_offset=2 if family == "xlm-roberta" else 0,
        rope_theta=10_000.0 if family == "gte" else None,
    )
    arrays = CrossEncoder.random(config, std=0.08).arrays()
    return Checkpoint(config=config, arrays=arrays, source={})


def random_encodings(lengths: list[int], *, two_types: bool = False) -> list[Encoding]:
    rng = np.random.default_rng(0)
    return [
        encoding_of(rng.integers(4, 300, n).tolist(), type_split=n // 2 if two_types else None)
        for n in lengths
    ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Packs a checkpoint; returns the folder."""

    def write(checkpoint: Checkpoint, precision: Precision, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("packed")
        write_packed(folder, checkpoint, precision, source="test", source_hash="0", **options)
        return folder

    return write


@pytest.fixture(scope="module")
def int8_backends(packed: Packed) -> Iterator[dict[Family, OnnxBackend]]:
    backends = {f: OnnxBackend(packed(random_checkpoint(f), "int8"), threads=2) for f in FAMILIES}
    yield backends
    for backend in backends.values():
        backend.close()


def test_fp32_gives_the_reference_logits(
    packed: Packed, tiny_model: Path, tiny_cases: Cases
) -> None:
    backend = OnnxBackend(packed(load_checkpoint(tiny_model), "fp32"))
    encodings = [encoding_of(c["input_ids"]) for c in tiny_cases]
    wanted = [c["logit"] for c in tiny_cases]
    np.testing.assert_allclose(backend.forward(pack(encodings)), wanted, atol=1e-4)
    alone = [backend.forward(pack([e]))[0] for e in encodings]
    np.testing.assert_allclose(alone, wanted, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_fp32_gives_the_logits_of_the_pytorch_network(
    packed: Packed, family: Family, activation: str
) -> None:
    checkpoint = random_checkpoint(family, activation=activation)
    lengths = [3, 17, 200, 64, 64, 5, 513, 1200, 512]
    encodings = random_encodings(lengths, two_types=family == "bert")
    found = OnnxBackend(packed(checkpoint, "fp32")).forward(pack(encodings))
    np.testing.assert_allclose(found, TorchBackend(checkpoint).forward(pack(encodings)), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_may_be_as_long_as_the_network_reads(packed: Packed, family: Family) -> None:
    checkpoint = random_checkpoint(family, max_positions=45)
    encodings = random_encodings([45, 2, 44])
    found = OnnxBackend(packed(checkpoint, "fp32")).forward(pack(encodings))
    np.testing.assert_allclose(found, TorchBackend(checkpoint).forward(pack(encodings)), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_int8_gives_a_pair_the_same_bits_in_any_company(
    int8_backends: dict[Family, OnnxBackend], family: Family, data: st.DataObject
) -> None:
    backend = int8_backends[family]
    lengths = data.draw(st.lists(st.integers(2, 600), min_size=1, max_size=9))
    encodings = random_encodings(lengths)
    together = backend.forward(pack(encodings))
    other_order = backend.forward(pack(encodings[::-1]), all_threads=False)
    assert (other_order[::-1] == together).all()
    chosen = data.draw(st.integers(0, len(encodings) - 1))
    assert backend.forward(pack([encodings[chosen]]))[0] == together[chosen]


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_stays_near_fp32(int8_backends: dict[Family, OnnxBackend], family: Family) -> None:
    encodings = random_encodings([5, 40, 90, 300, 700], two_types=family == "bert")
    exact = TorchBackend(random_checkpoint(family)).forward(pack(encodings))
    found = int8_backends[family].forward(pack(encodings))
    np.testing.assert_allclose(found, exact, atol=0.1 * max(1.0, np.abs(exact).max()))


def test_the_safe_kernel_gives_the_same_bits(packed: Packed) -> None:
    folder = packed(random_checkpoint("gte"), "int8")
    encodings = pack(random_encodings([5, 40, 90, 300]))
    fast, safe = (OnnxBackend(folder, safe=s).forward(encodings) for s in (False, True))
    assert (fast == safe).all()


def test_a_cpu_that_clips_int8_products_gets_the_safe_kernel(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    original = OnnxBackend._open

    def spy(self: OnnxBackend, threads: int) -> Any:
        opened.append(self._safe)
        return original(self, threads)

    monkeypatch.setattr(OnnxBackend, "_open", spy)
    folder = packed(random_checkpoint("gte"), "int8")
    opened.clear()
    OnnxBackend(folder)
    on_this_cpu = list(opened)
    opened.clear()
    # As if the sum had been clipped: one short of what the graph expects.
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    (exact,) = (i for i in graph.graph.initializer if i.name == f"{PROBE}.exact")
    exact.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(exact) + 1, exact.name))
    onnx.save(graph, folder / "model.onnx")
    backend = OnnxBackend(folder, threads=2)
    backend.forward(pack(random_encodings([9])), all_threads=False)
    assert (on_this_cpu[0], opened) == (False, [False, True, True])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_computation_gives_the_logits_of_the_pytorch_network(family: Family) -> None:
    checkpoint = random_checkpoint(family)
    samples = sample_encodings(checkpoint.config, 5)
    found = [reference_logits(checkpoint, e) for e in samples]
    np.testing.assert_allclose(found, TorchBackend(checkpoint).forward(pack(samples)), atol=1e-5)


def test_padding_tokens_in_a_text_are_passed_over_as_in_roberta(packed: Packed) -> None:
    checkpoint = random_checkpoint("xlm-roberta")  # whose padding token is 1
    rows = [[0, 5, 1, 7, 2], [0, 9, 2, 2, 8, 2], [0, 1, 1, 6, 2, 2, 1, 2]]
    encodings = [encoding_of(row) for row in rows]
    exact = TorchBackend(checkpoint).forward(pack(encodings))
    found = OnnxBackend(packed(checkpoint, "fp32")).forward(pack(encodings))
    np.testing.assert_allclose(found, exact, atol=1e-4)
    plain = [reference_logits(checkpoint, e) for e in encodings]
    np.testing.assert_allclose(plain, exact, atol=1e-4)


@pytest.mark.parametrize("table", ["stored", "fp16", "int4"])
def test_a_packed_model_is_a_checkpoint_for_every_backend(
    packed: Packed, tmp_path: Path, tiny_model: Path, tiny_cases: Cases, table: Any
) -> None:
    folder = packed(load_checkpoint(tiny_model), "int8", table=table)
    (folder / "config.json").write_text((tiny_model / "config.json").read_text())
    batch = pack([encoding_of(c["input_ids"]) for c in tiny_cases])
    widened = load_checkpoint(folder)
    exact = TorchBackend(widened).forward(batch)
    # The same weights, so what is left is the rounding of activations.
    np.testing.assert_allclose(OnnxBackend(folder).forward(batch), exact, atol=0.2)
    again = packed(widened, "int8", table=table)
    one, two = (load_file(f / PACKED_FILE) for f in (folder, again))
    assert all((two[n] == one[n]).all() for n in one if not n.endswith(("bias", ".scale")))
    np.testing.assert_allclose(OnnxBackend(again).forward(batch), exact, atol=0.2)


def inputs_of_samples(checkpoint: Checkpoint) -> Inputs:
    seen: dict[str, list[Any]] = defaultdict(list)
    for encoding in sample_encodings(checkpoint.config, 4):
        reference_logits(checkpoint, encoding, lambda name, x: seen[name].append(x))
    return {name: np.concatenate(x) for name, x in seen.items()}


def errors_of_samples(checkpoint: Checkpoint) -> dict[str, float]:
    return rounding_errors(checkpoint, inputs_of_samples(checkpoint))


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_moved_around_zero_without_changing_a_logit(
    packed: Packed, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = random_checkpoint(family)
    arrays = dict(checkpoint.arrays)
    # Two channels that are far from zero for every token, as trained encoders have them.
    norms = (
        "embeddings.norm.bias",
        "mlp_norm.bias",
        *(["attn_norm.bias"] if family != "gte" else []),
    )
    for name in (n for n in arrays if n.endswith(norms)):
        bias = arrays[name].float32().copy()
        bias[[3, 40]] += 25, -15
        arrays[name] = Array(bias)
    shifted = replace(checkpoint, arrays=arrays)
    moved, inputs = centred(shifted, inputs_of_samples(shifted))
    around_zero = [n for n, x in inputs.items() if np.abs(x.mean(axis=0)).max() < 1e-5]
    assert len(around_zero) == (3 if family == "gte" else 6)
    encodings = random_encodings([5, 40, 90, *range(10, 30)])
    exact = [reference_logits(shifted, e) for e in encodings]
    np.testing.assert_allclose([reference_logits(moved, e) for e in encodings], exact, atol=1e-5)
    mean_off = []
    for step in (centred, lambda *unmoved: unmoved):
        monkeypatch.setattr(files, "centred", step)
        found = OnnxBackend(packed(shifted, "int8")).forward(pack(encodings))
        mean_off.append(np.abs(found - exact).mean())
    assert mean_off[0] < 0.8 * mean_off[1], mean_off


def test_a_product_that_8_bits_would_spoil_stays_fp32(packed: Packed) -> None:
    checkpoint = random_checkpoint("gte")
    arrays = dict(checkpoint.arrays)
    # What a norm gives sums up to 0: a large number in every place of a row changes nothing but
    # what there is to round.
    for n in (1, 2):  # the last one runs for first tokens only
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            flat = arrays[f"layers.{n}.attn_norm.{name}"].float32()
            arrays[f"layers.{n}.attn_norm.{name}"] = Array(np.full_like(flat, value))
        weight = arrays[f"layers.{n}.mlp_in.weight"].float32().copy()
        weight[: len(weight) // 2] += 50
        arrays[f"layers.{n}.mlp_in.weight"] = Array(weight)
    touchy = replace(checkpoint, arrays=arrays)
    assert errors_of_samples(touchy)["layers.1.up"] > 1
    assert errors_of_samples(checkpoint)["layers.1.up"] < 0.02
    folder = packed(touchy, "int8")
    kept = {name for name in load_file(folder / PACKED_FILE) if name.endswith(".transposed")}
    assert kept == {"layers.1.up.transposed", "layers.2.up.transposed"}
    encodings = random_encodings([5, 40, 90])
    exact = [reference_logits(touchy, e) for e in encodings]
    backend = OnnxBackend(folder)
    together = backend.forward(pack(encodings))
    np.testing.assert_allclose(together, exact, atol=0.05)
    assert [backend.forward(pack([e]))[0] for e in encodings] == list(together)


def test_the_graph_carries_what_it_was_made_of(packed: Packed, tiny_model: Path) -> None:
    folder = packed(load_checkpoint(tiny_model), "int8")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    found = {p.key: p.value for p in model.metadata_props}
    assert found["polyrank.source"] == "test"
    assert found["polyrank.dtype"] == "int8"
    assert set(found) == {
        f"polyrank.{k}" for k in ("source", "source_hash", "dtype", "version", "format")
    }


def test_a_graph_with_other_logits_is_not_left_behind(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "reference_logits", lambda *given: 100 + reference_logits(*given))
    with pytest.raises(BackendError, match="within"):
        write_packed(tmp_path, load_checkpoint(tiny_model), "int8", source="t", source_hash="0")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_graph_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        OnnxBackend(tmp_path)
