"""What each dialect answers, key by key, and that its scores are those of the library."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from polyrank import Reranker
from polyrank.server.dialect import Dialect
from polyrank.server.dialects import find_dialects
from server.conftest import DOCUMENTS, QUERY, Client, best_first
from server.malformed import good_bodies
from server.test_errors import DASHSCOPE, GOOD, PATHS, without


def keys(text: str) -> str:
    """JSON with every number replaced by 0 and ids by ID, to compare bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: "ID" if k in ("id", "request_id") else plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    return json.dumps(plain(json.loads(text)), separators=(",", ":"))


def test_tei_ranks_in_a_bare_array(client: Client, scores: list[float]) -> None:
    r = client.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    assert (r.status_code, r.headers["content-type"]) == (200, "application/json")
    assert [row["index"] for row in r.json()] == best_first(scores)
    assert [row["score"] for row in r.json()] == pytest.approx(sorted(scores)[::-1], abs=1e-5)
    assert keys(r.text) == "[" + ",".join(['{"index":0,"score":0}'] * 4) + "]"
    for name in ("time", "characters", "tokens"):
        assert int(r.headers[f"x-compute-{name}"]) >= 0
    for name in ("total", "tokenization", "queue", "inference"):
        assert int(r.headers[f"x-{name}-time"]) >= 0
    assert r.headers["x-compute-type"] == "cpu"


def test_tei_returns_texts_and_logits_when_asked(client: Client, reranker: Reranker) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": True}
    rows = client.post("/rerank", {**body, "truncate": None, "top_n": 1}).json()
    logits = reranker.logits([(QUERY, d) for d in DOCUMENTS])
    assert len(rows) == 4  # top_n is not of this dialect
    for row in rows:
        assert row["text"] == DOCUMENTS[row["index"]]
        assert row["score"] == pytest.approx(float(logits[row["index"]]), abs=1e-5)


def test_tei_ties_come_in_descending_order(client: Client) -> None:
    rows = client.post("/rerank", {"query": QUERY, "texts": ["w1", "w1", "w1"]}).json()
    assert [row["index"] for row in rows] == [2, 1, 0]


def test_tei_predicts_one_pair_or_several(client: Client, scores: list[float]) -> None:
    one = client.post("/predict", {"inputs": [QUERY, DOCUMENTS[0]]})
    assert one.json() == [{"score": pytest.approx(scores[0], abs=1e-5), "label": "LABEL_0"}]
    many = client.post("/predict", {"inputs": [[QUERY, d] for d in DOCUMENTS]})
    assert [row[0]["score"] for row in many.json()] == pytest.approx(scores, abs=1e-5)
    alone = client.post("/predict", {"inputs": "w1"})
    assert (alone.status_code, alone.json()["error_type"]) == (422, "Validation")


def test_tei_says_what_it_serves(client: Client) -> None:
    info = client.get("/info").json()
    assert list(info) == [
        "model_id", "model_sha", "model_dtype", "served_model_name", "model_type",
        "max_concurrent_requests", "max_input_length", "max_batch_tokens", "max_batch_requests",
        "max_client_batch_size", "auto_truncate", "tokenization_workers", "version", "sha",
        "docker_label",
    ]  # fmt: skip
    assert info["model_id"] == "tiny"
    assert list(info["model_type"]) == ["reranker"]
    assert client.get("/health").status_code == client.get("/ping").status_code == 200
    assert "te_request_count" in client.get("/metrics").text


def test_cohere_v2(client: Client, scores: list[float]) -> None:
    body = {
        "model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "top_n": 2,
        "max_tokens_per_doc": None, "priority": None, "unknown": [1],
    }  # fmt: skip
    r = client.post("/v2/rerank", body)
    assert r.status_code == 200
    assert keys(r.text) == (
        '{"id":"ID","results":[{"index":0,"relevance_score":0},{"index":0,"relevance_score":0}],'
        '"meta":{"api_version":{"version":"2"},"billed_units":{"search_units":0},'
        '"tokens":{"input_tokens":0}}}'
    )
    results = r.json()["results"]
    assert [row["index"] for row in results] == best_first(scores)[:2]
    assert [row["relevance_score"] for row in results] == pytest.approx(
        sorted(scores)[::-1][:2], abs=1e-5
    )
    uuid.UUID(r.json()["id"])
    full = client.post("/v2/rerank", {**body, "return_documents": True}).json()["results"][0]
    assert full["document"] == {"text": DOCUMENTS[full["index"]]}


def test_cohere_v1_reads_objects_and_their_fields(client: Client, reranker: Reranker) -> None:
    documents = [
        {"title": "w10", "text": "w20", "id": 7, "tags": ["a", None]},
        {"title": "w11", "text": "w21 w22"},
    ]
    body = {"query": QUERY, "documents": documents, "rank_fields": ["title", "text"]}
    r = client.post("/cohere/v1/rerank", {**body, "return_documents": True})
    assert keys(r.text).endswith(
        '"meta":{"api_version":{"version":"1"},"billed_units":{"search_units":0}}}'
    )
    expected = reranker.score([(QUERY, "w10\nw20"), (QUERY, "w11\nw21 w22")])
    for row in r.json()["results"]:
        assert row["relevance_score"] == pytest.approx(float(expected[row["index"]]), abs=1e-5)
        assert row["document"] == documents[row["index"]]
    r = client.post(
        "/v1/rerank", {"query": QUERY, "documents": [{"title": "w1"}], "rank_fields": ["title"]}
    )
    assert r.json()["results"][0]["document"] == {"text": "w1", "title": "w1"}
    for document, came in (({"title": "w1"}, "none"), ({"text": 5}, "a number")):
        bad = client.post("/cohere/v1/rerank", {"query": QUERY, "documents": ["w1", document]})
        assert bad.status_code == 400
        assert bad.json()["message"] == (
            "invalid request: document at index 1: expected a text in field `text` of a document, "
            f"got {came}"
        )


def test_ragflow_writes_booleans_as_strings(client: Client) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "return_len": "true"}
    for word, shown in (("true", True), ("false", False)):
        r = client.post("/v1/rerank", {**body, "return_documents": word})
        assert ["document" in row for row in r.json()["results"]] == [shown] * len(DOCUMENTS)
    assert client.post("/v1/rerank", {**body, "return_documents": "yes"}).status_code == 422


def test_the_common_form_suits_every_client_of_v1(client: Client, scores: list[float]) -> None:
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_n": 1}
    r = client.post("/v1/rerank", body)
    assert keys(r.text) == (
        '{"id":"ID","object":"list","model":"tiny","created":0,'
        '"usage":{"total_tokens":0,"prompt_tokens":0},'
        '"results":[{"index":0,"relevance_score":0,"document":{"text":"w11 w10 w12"}}],'
        '"data":[{"index":0,"relevance_score":0}],'
        '"meta":{"api_version":{"version":"1"},"billed_units":{"search_units":0},'
        '"tokens":{"input_tokens":0,"output_tokens":0}}}'
    ).replace("w11 w10 w12", DOCUMENTS[best_first(scores)[0]])
    for all_of_them in (None, 0, 9):
        rows = client.post("/v1/rerank", {**body, "top_n": all_of_them}).json()["results"]
        assert len(rows) == 4
    bare = client.post("/v1/rerank", {**body, "return_documents": False}).json()["results"][0]
    assert list(bare) == ["index", "relevance_score"]
    objects = [{"text": d} for d in DOCUMENTS]
    assert (
        client.post("/v1/rerank", {**body, "documents": objects}).json()["results"]
        == (r.json()["results"])
    )


def test_voyage_is_known_by_its_top_k(client: Client, scores: list[float]) -> None:
    body = {"model": "rerank-2", "query": QUERY, "documents": DOCUMENTS, "top_k": 2}
    r = client.post("/v1/rerank", body)
    assert keys(r.text) == (
        '{"object":"list","data":[{"index":0,"relevance_score":0},{"index":0,"relevance_score":0}],'
        '"model":"tiny","usage":{"total_tokens":0}}'
    )
    assert [row["index"] for row in r.json()["data"]] == best_first(scores)[:2]
    everything = {**body, "top_k": None, "return_documents": True}
    rows = client.post("/v1/rerank", everything).json()["data"]
    assert [row["document"] for row in rows] == [DOCUMENTS[i] for i in best_first(scores)]
    del everything["top_k"]
    assert client.post("/voyage/v1/rerank", everything).json()["data"] == rows


def test_a_client_of_voyage_that_leaves_top_k_out_finds_its_data(client: Client) -> None:
    body: dict[str, Any] = {"model": "rerank-2", "query": QUERY, "documents": DOCUMENTS}
    exact = client.post("/voyage/v1/rerank", body).json()
    common = client.post("/v1/rerank", body).json()
    assert common["data"] == exact["data"]
    assert common["usage"]["total_tokens"] == exact["usage"]["total_tokens"]
    body["return_documents"] = True
    exact = client.post("/voyage/v1/rerank", body).json()
    assert client.post("/v1/rerank", body).json()["data"] == exact["data"]
    assert exact["data"][0]["document"] in DOCUMENTS


def test_dashscope(client: Client, scores: list[float]) -> None:
    given = {"query": QUERY, "documents": DOCUMENTS}
    r = client.post(
        DASHSCOPE,
        json.dumps({"model": "gte-rerank-v2", "input": given, "parameters": {}}).encode(),
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert keys(r.text) == (
        '{"request_id":"ID","output":{"results":['
        + ",".join(['{"index":0,"relevance_score":0}'] * 4)
        + ']},"usage":{"total_tokens":0}}'
    )
    assert [row["index"] for row in r.json()["output"]["results"]] == best_first(scores)
    parameters = {"top_n": 1, "return_documents": True, "instruct": "w1"}
    best = client.post(DASHSCOPE, {"model": "m", "input": given, "parameters": parameters}).json()
    (row,) = best["output"]["results"]
    assert row["document"] == {"text": DOCUMENTS[row["index"]]}


@pytest.mark.parametrize("path", ["/reranks", "/compatible-api/v1/reranks"])
def test_the_twin_of_dashscope(client: Client, path: str) -> None:
    r = client.post(path, {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_n": 1})
    assert keys(r.text) == (
        '{"id":"ID","object":"list","model":"tiny","results":[{"index":0,"relevance_score":0}],'
        '"usage":{"total_tokens":0}}'
    )


@pytest.mark.parametrize("path", ["/rerank", "/vllm/rerank", "/vllm/v1/rerank"])
def test_vllm_ranks_with_the_documents_in_the_answer(
    client: Client, scores: list[float], path: str
) -> None:
    r = client.post(path, {"query": QUERY, "documents": DOCUMENTS, "top_n": 1, "user": "u"})
    assert keys(r.text) == (
        '{"id":"ID","model":"tiny","usage":{"prompt_tokens":0,"total_tokens":0},"results":'
        '[{"index":0,"document":{"text":"TEXT","multi_modal":null},"relevance_score":0}]}'
    ).replace("TEXT", DOCUMENTS[best_first(scores)[0]])
    assert r.json()["id"].startswith("score-")
    part = {"content": [{"type": "text", "text": QUERY}]}
    parts = client.post(path, {"query": part, "documents": DOCUMENTS, "top_n": 0}).json()["results"]
    assert [row["index"] for row in parts] == best_first(scores)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_vllm_scores_pairs_in_input_order(client: Client, scores: list[float], path: str) -> None:
    r = client.post(path, {"text_1": QUERY, "text_2": DOCUMENTS})
    assert keys(r.text) == (
        '{"id":"ID","object":"list","created":0,"model":"tiny","data":['
        + ",".join(['{"index":0,"object":"score","score":0}'] * 4)
        + '],"usage":{"prompt_tokens":0,"total_tokens":0,"completion_tokens":0,'
        '"prompt_tokens_details":null}}'
    )
    for body in (
        {"text_1": QUERY, "text_2": DOCUMENTS},
        {"queries": [QUERY] * 4, "documents": DOCUMENTS},
        {"queries": QUERY, "items": DOCUMENTS},
        {"data_1": [QUERY], "data_2": DOCUMENTS},
    ):
        data = client.post(path, body).json()["data"]
        assert [row["score"] for row in data] == pytest.approx(scores, abs=1e-5)
    unequal = client.post(path, {"text_1": ["w1", "w2"], "text_2": DOCUMENTS})
    assert unequal.json()["error"]["message"] == "Input lengths must be either 1:1, 1:N or N:N"


def test_vllm_lists_its_model(client: Client) -> None:
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_infinity_has_plain_documents(client: Client, scores: list[float]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 1}
    r = client.post("/infinity/rerank", body)
    assert keys(r.text) == (
        '{"object":"rerank","results":[{"relevance_score":0,"index":0,"document":null}],'
        '"model":"tiny","usage":{"prompt_tokens":0,"total_tokens":0},"id":"ID","created":0}'
    )
    row = client.post("/infinity/rerank", {**body, "return_documents": True}).json()["results"][0]
    assert row["document"] == DOCUMENTS[best_first(scores)[0]]
    assert client.get("/infinity/models").json()["data"][0]["capabilities"] == ["rerank"]
    assert client.get("/infinity/health").json()["unix"] > 0


@pytest.mark.parametrize("dialect", find_dialects(), ids=lambda dialect: dialect.name)
def test_null_stands_for_a_field_that_is_left_out(client: Client, dialect: Dialect) -> None:
    for path, good in good_bodies(dialect).items():
        endpoint = next(e for e in dialect.endpoints if path.endswith(e.path))
        fields = endpoint.body.model_fields
        nulls = dict.fromkeys(n for n, f in fields.items() if not f.is_required() and n not in good)
        r = client.post(path, {**good, **nulls})
        assert (path, r.status_code) == (path, 200)


def test_a_null_is_no_reason_to_take_a_body_for_another_dialect_s(client: Client) -> None:
    vllm = {"query": QUERY, "documents": DOCUMENTS, "texts": None}
    assert "results" in client.post("/rerank", vllm).json()
    tei = {"query": QUERY, "texts": DOCUMENTS, "documents": None}
    assert isinstance(client.post("/rerank", tei).json(), list)


@pytest.mark.parametrize("path", PATHS)
def test_no_dialect_cuts_what_the_model_can_read(client: Client, path: str) -> None:
    r = client.post(path, without(path, documents=["w20 " * 4200]))
    assert r.status_code == 200
    assert "x-truncated-pairs" not in r.headers


@pytest.mark.parametrize(
    ("path", "changed", "ignored"),
    [
        (DASHSCOPE, {"parameters": {"instruct": "w1"}}, "instruct"),
        (DASHSCOPE, {"parameters": {"instruct": ""}}, None),
        ("/reranks", {"instruct": "w1"}, "instruct"),
        ("/vllm/rerank", {"instruction": "w1", "max_tokens_per_query": 5},
         "max_tokens_per_query,instruction"),
        ("/v1/score", {"instruction": None, "max_tokens_per_query": 0}, None),
        ("/v1/rerank", {"return_embeddings": True, "instruction": "w1"},
         "return_embeddings,instruction"),
        ("/v1/rerank", {"return_embeddings": False}, None),
        ("/v2/rerank", {"relevant_spans": {"mode": "enabled"}}, "relevant_spans"),
        ("/v2/rerank", {"relevant_spans": {"mode": "disabled"}}, None),
    ],
)  # fmt: skip
def test_an_answer_names_the_parameters_that_the_model_cannot_follow(
    client: Client, path: str, changed: dict[str, Any], ignored: str | None
) -> None:
    r = client.post(path, {**GOOD[path], **changed})
    assert (r.status_code, r.headers.get("x-ignored-parameters")) == (200, ignored)
    if path == "/v2/rerank":
        assert ("warnings" in r.json()["meta"]) == (ignored is not None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/rerank", {"model": "m", "max_tokens_per_doc": 2}),
        ("/v1/rerank", {"max_doc_length": 2}),
        ("/rerank", {"max_tokens_per_doc": 2}),
    ],
)
def test_a_document_is_cut_to_the_tokens_that_the_client_grants(
    client: Client, reranker: Reranker, path: str, body: dict[str, Any]
) -> None:
    documents = ["w20 w21 w22 w23", "w30 w31", "w40"]
    rows = client.post(path, {"query": QUERY, "documents": documents, **body}).json()["results"]
    expected = reranker.score([(QUERY, d) for d in ("w20 w21", "w30 w31", "w40")])
    for row in rows:
        assert row["relevance_score"] == pytest.approx(float(expected[row["index"]]), abs=1e-5)


def test_the_client_s_request_id_comes_back(client: Client) -> None:
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
    r = client.post("/v2/rerank", body, headers={"x-request-id": "abc-1"})
    assert (r.headers["x-request-id"], r.json()["id"]) == ("abc-1", "abc-1")
    r = client.post("/v2/rerank", body, headers={"x-request-id": "a b\u00e9".encode("latin-1")})
    uuid.UUID(r.headers["x-request-id"])
