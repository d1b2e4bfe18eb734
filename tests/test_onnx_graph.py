"""The ONNX graph against the reference logits and against the PyTorch network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from conftest import encoding_of
from polyrank.checkpoint import Checkpoint, load_checkpoint
from polyrank.config import EncoderConfig, Family
from polyrank.onnx_backend.graph import Precision, build_graph
from polyrank.torch_backend import CrossEncoder, TorchBackend
from polyrank.values import Encoding, pack

Cases = list[dict[str, Any]]


class Graph:
    """A graph in a session, fed with encodings."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        model = build_graph(checkpoint, precision, {"source": "test"})
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, encodings: list[Encoding]) -> npt.NDArray[np.float32]:
        batch = pack(encodings)
        lengths, starts = batch.lengths, batch.cu_lengths[:-1].astype(np.int64)
        places = np.arange(lengths.max())
        inside = places < lengths[:, None]
        feeds = {
            "ids": batch.ids.astype(np.int64),
            "types": batch.type_ids.astype(np.int64),
            "positions": np.concatenate([np.arange(n) for n in lengths]),
            "pad": starts[:, None] + np.where(inside, places, 0),
            "unpad": np.flatnonzero(inside),
            "lengths": lengths,
        }
        used = {i.name for i in self.session.get_inputs()}
        (found,) = self.session.run(None, {k: v for k, v in feeds.items() if k in used})
        return np.asarray(found)


def random_checkpoint(family: Family) -> Checkpoint:
    config = EncoderConfig(
        family=family,
        vocab_size=300,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        intermediate_size=96,
        max_positions=200,
        type_vocab_size=2 if family == "bert" else 1,
        layer_norm_eps=1e-12,
        position_offset=2 if family == "xlm-roberta" else 0,
        rope_theta=10_000.0 if family == "gte" else None,
    )
    arrays = CrossEncoder.random(config, std=0.08).arrays()
    return Checkpoint(config=config, arrays=arrays, source={})


def random_encodings(lengths: list[int]) -> list[Encoding]:
    rng = np.random.default_rng(0)
    return [encoding_of(rng.integers(4, 300, n).tolist(), type_split=n // 2) for n in lengths]


def test_fp32_gives_the_reference_logits(tiny_model: Path, tiny_cases: Cases) -> None:
    graph = Graph(load_checkpoint(tiny_model), "fp32")
    encodings = [encoding_of(c["input_ids"]) for c in tiny_cases]
    wanted = [c["logit"] for c in tiny_cases]
    np.testing.assert_allclose(graph.logits(encodings), wanted, atol=1e-4)
    alone = [graph.logits([e])[0] for e in encodings]
    np.testing.assert_allclose(alone, wanted, atol=1e-4)


@pytest.mark.parametrize("family", ["gte", "bert", "xlm-roberta"])
def test_fp32_gives_the_logits_of_the_pytorch_network(family: Family) -> None:
    checkpoint = random_checkpoint(family)
    encodings = random_encodings([3, 17, 200, 64, 64, 5])
    if family != "bert":
        encodings = [encoding_of(e.ids.tolist()) for e in encodings]
    found = Graph(checkpoint, "fp32").logits(encodings)
    np.testing.assert_allclose(found, TorchBackend(checkpoint).forward(pack(encodings)), atol=2e-4)


@pytest.mark.parametrize("family", ["gte", "bert", "xlm-roberta"])
def test_int8_gives_a_pair_the_same_logit_in_any_company(family: Family) -> None:
    graph = Graph(random_checkpoint(family), "int8")
    encodings = random_encodings([3, 17, 200, 64, 64, 5, 120])
    together = graph.logits(encodings)
    np.testing.assert_allclose(graph.logits(encodings[::-1])[::-1], together, atol=1e-5)
    alone = [graph.logits([e])[0] for e in encodings]
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_int8_stays_near_fp32(tiny_model: Path, tiny_cases: Cases) -> None:
    checkpoint = load_checkpoint(tiny_model)
    encodings = [encoding_of(c["input_ids"]) for c in tiny_cases]
    exact = Graph(checkpoint, "fp32").logits(encodings)
    np.testing.assert_allclose(Graph(checkpoint, "int8").logits(encodings), exact, atol=0.2)


def test_the_graph_carries_what_it_was_made_of(tiny_model: Path) -> None:
    model = build_graph(load_checkpoint(tiny_model), "int8", {"polyrank.source": "tiny"})
    found = {p.key: p.value for p in model.metadata_props}
    assert found == {"polyrank.source": "tiny", "polyrank.precision": "int8"}
