from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper

from polyrank import Reranker
from polyrank.errors import BackendError, CheckpointError, InputError, ModelNotFoundError
from polyrank.evaluation import ScorerSpec, evaluate, read_collection
from polyrank.evaluation.scorers import open_judge
from polyrank.evaluation.scorers.http import HttpJudge
from polyrank.evaluation.scorers.onnx_folder import OnnxJudge

PAIRS = [("w10 w11", "w10 w11 w12"), ("w10 w11", {"id": "b", "title": "w9", "text": "w5"})]


@pytest.fixture
def onnx_folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A graph whose logit is the sum of a pair's unmasked token ids."""
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in names]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1])
    nodes = [
        helper.make_node("Mul", list(names), ["kept"]),
        helper.make_node("Cast", ["kept"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axes"], ["logits"], keepdims=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "sum", inputs, [output], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    return tmp_path


def test_an_onnx_folder_is_a_scorer(onnx_folder: Path, reranker: Reranker) -> None:
    judged = OnnxJudge(onnx_folder, threads=1).judge(PAIRS)
    encodings = reranker.encode(PAIRS)
    assert judged.scores.tolist() == [float(e.ids.sum()) for e in encodings]
    assert judged.tokens is not None
    assert judged.tokens.tolist() == [len(e) for e in encodings]


def test_an_onnx_scorer_cuts_to_its_limit_and_tells(onnx_folder: Path) -> None:
    judged = OnnxJudge(onnx_folder, max_length=7, threads=1).judge([("w1", "w2 " * 50)])
    assert judged.tokens is not None
    assert judged.tokens_given is not None
    assert judged.tokens.tolist() == [7]
    assert judged.tokens_given[0] > 50


def test_an_onnx_folder_without_a_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.onnx"):
        OnnxJudge(tmp_path)


def test_the_hash_of_an_onnx_scorer_follows_its_files(onnx_folder: Path) -> None:
    before = OnnxJudge(onnx_folder, threads=1).identity
    path = onnx_folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert OnnxJudge(onnx_folder, threads=1).identity["fingerprint"] != before["fingerprint"]


@contextmanager
def server(answer: Any, info: Any = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A reranking server; `answer(body)` gives (status, JSON). Yields its URL and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply(200 if info else 404, info or {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append({"path": self.path, "key": self.headers["authorization"], **body})
            self.reply(*answer(body))

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", got
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def tei(body: dict[str, Any]) -> tuple[int, Any]:
    scores = [{"index": i, "score": float(len(t))} for i, t in enumerate(body["texts"])]
    return 200, sorted(scores, key=lambda s: -s["score"])


def cohere(body: dict[str, Any]) -> tuple[int, Any]:
    rows = [{"index": i, "relevance_score": len(t)} for i, t in enumerate(body["documents"])]
    return 200, {"results": rows[::-1]}


def test_a_tei_server_is_a_scorer() -> None:
    pairs = [("q", "t" * n) for n in range(40)] + [("other", "tt")]
    with server(tei, {"model_id": "a/model", "model_sha": "abc"}) as (url, got):
        judge = HttpJudge(url)
        assert judge.judge(pairs).scores.tolist() == [*map(float, range(40)), 2.0]
    assert [len(g["texts"]) for g in got] == [32, 8, 1]
    assert {g["path"] for g in got} == {"/rerank"}
    assert (judge.name, judge.identity["revision"]) == ("a/model", "abc")


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_a_server_like_coheres_is_a_scorer(path: str) -> None:
    with server(cohere) as (url, got):
        judge = HttpJudge(f"{url}{path}#a-model", api_key="secret")
        assert judge.judge(PAIRS).scores.tolist() == [11.0, 5.0]
    assert got[0]["model"] == "a-model"
    assert got[0]["top_n"] == 2
    assert got[0]["key"] == "Bearer secret"
    assert "secret" not in json.dumps(dict(judge.identity))
    assert judge.identity["cached"] is False


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, {"error": "out of memory"}), "got status 500: .*out of memory"),
        ((200, {"scores": [1.0]}), "expected a list of `index` and `score`"),
        ((200, [{"index": 0, "score": 1.0}]), "expected one score for each of 2 texts"),
        ((200, [{"index": 0, "score": "high"}]), "expected a list of"),
    ],
)
def test_a_server_that_answers_otherwise_is_an_error(answer: Any, message: str) -> None:
    with server(lambda body: answer) as (url, _), pytest.raises(BackendError, match=message):
        HttpJudge(url).judge(PAIRS)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BackendError, match="check that the server runs"):
        HttpJudge("http://127.0.0.1:9/v1/rerank").judge(PAIRS)


@pytest.fixture
def cross_encoder(tmp_path: Path, tiny_model: Path) -> Path:
    """A BERT with random weights and the tiny checkpoint's tokenizer."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=2000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_model / "tokenizer.json"), model_max_length=64, pad_token="<pad>"
    )
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_cross_encoder_of_sentence_transformers_gives_logits(
    cross_encoder: Path, folder: Path
) -> None:
    spec = ScorerSpec(text=f"sentence-transformers:{cross_encoder}", device="cpu", offline=True)
    judge = open_judge(spec, read_collection(folder))
    judged = judge.judge(PAIRS)
    model = transformers.BertForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)
    with torch.no_grad():
        fed = tokenizer(["w10 w11"], ["w10 w11 w12"], return_tensors="pt")
        expected = model(**fed).logits.item()
    assert judged.scores[0] == pytest.approx(expected, abs=1e-5)
    assert judged.tokens is not None
    assert judged.tokens[0] == fed["input_ids"].shape[1]
    judge.close()


def test_a_cross_encoder_that_is_not_there_is_an_error(folder: Path) -> None:
    spec = ScorerSpec(text="sentence-transformers:no/such-model", offline=True)
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        open_judge(spec, read_collection(folder))


def test_a_model_by_folder_is_named_by_its_hash(tiny_model: Path, folder: Path) -> None:
    judge = open_judge(ScorerSpec(text=f"model:{tiny_model}"), read_collection(folder))
    assert len(judge.identity["fingerprint"]) == 16
    with Reranker(tiny_model) as reranker:
        np.testing.assert_allclose(judge.judge(PAIRS).scores, reranker.logits(PAIRS), atol=1e-5)
    judge.close()


def test_bm25_scores_candidates_that_have_no_order(folder: Path) -> None:
    run = {"q1": {"d1": 0.0, "d2": 0.0, "d3": 0.0}}
    e = evaluate(read_collection(folder), [ScorerSpec(text="bm25")], run=run)
    assert e.systems[1].top[0][0] == "d1"


@pytest.mark.parametrize("text", ["bm26", "onnx:", "bm25:x", "onnx", "model:", ""])
def test_an_unknown_scorer_is_an_error(text: str, folder: Path) -> None:
    with pytest.raises(InputError, match="expected a scorer bm25, model:NAME"):
        open_judge(ScorerSpec(text=text), read_collection(folder))
