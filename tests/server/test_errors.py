"""What each dialect says when there are no scores: status, body, headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from polyrank import Reranker
from server.conftest import DOCUMENTS, QUERY, Client

DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"
GOOD: dict[str, dict[str, Any]] = {
    "/rerank": {"query": QUERY, "texts": DOCUMENTS},
    "/vllm/rerank": {"model": "m", "query": QUERY, "documents": DOCUMENTS},
    "/v1/rerank": {"model": "m", "query": QUERY, "documents": DOCUMENTS},
    "/voyage/v1/rerank": {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_k": 2},
    "/v2/rerank": {"model": "m", "query": QUERY, "documents": DOCUMENTS},
    "/cohere/v1/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/infinity/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/reranks": {"model": "m", "query": QUERY, "documents": DOCUMENTS},
    DASHSCOPE: {"model": "m", "input": {"query": QUERY, "documents": DOCUMENTS}},
    "/v1/score": {"model": "m", "text_1": QUERY, "text_2": DOCUMENTS},
    "/predict": {"inputs": [QUERY, DOCUMENTS[0]]},
}
PATHS = list(GOOD)
INVALID = {  # the status of a body that is JSON, but of wrong types
    "/rerank": 422, "/predict": 422, "/v1/rerank": 422, "/infinity/rerank": 422,
}  # fmt: skip


def form(path: str, response: httpx.Response) -> bool:
    """Whether an error has the form of the path's dialect."""
    if path in ("/rerank", "/predict"):
        if not response.headers["content-type"].startswith("application/json"):
            return response.headers["content-type"].startswith("text/plain")
        return set(response.json()) == {"error", "error_type"}
    body = response.json()
    if path in ("/reranks", DASHSCOPE):
        return set(body) == {"code", "message", "request_id"} and bool(body["code"])
    if path in ("/v2/rerank", "/cohere/v1/rerank"):
        return set(body) == {"id", "message"}
    if path == "/voyage/v1/rerank":
        return set(body) == {"detail"} and isinstance(body["detail"], str)
    if path == "/v1/rerank":
        common = {"detail", "request_id", "id", "message", "error"}
        return common <= set(body) and isinstance(body["detail"], str)
    if response.status_code == 401:
        return body in ({"error": "Unauthorized"}, {"detail": "Unauthorized"})
    if path == "/infinity/rerank" and response.status_code == 422:
        return all({"type", "loc", "msg", "input"} == set(d) for d in body["detail"])
    return set(body["error"]) == {"message", "type", "param", "code"}


def without(path: str, **changed: Any) -> dict[str, Any]:
    """A good body with its query or documents replaced."""
    names = {
        "query": {"/v1/score": "text_1"}.get(path, "query"),
        "documents": {"/rerank": "texts", "/v1/score": "text_2"}.get(path, "documents"),
    }
    if path == "/predict":
        first, second = GOOD[path]["inputs"]
        texts = changed.get("documents", [second])
        query = changed.get("query", first)
        return {"inputs": [[query, t] for t in texts] if isinstance(texts, list) else texts}
    body: dict[str, Any] = json.loads(json.dumps(GOOD[path]))
    target = body["input"] if path == DASHSCOPE else body
    target.update({names[name]: value for name, value in changed.items()})
    return body


@pytest.mark.parametrize("path", PATHS)
def test_a_good_body_is_good(client: Client, path: str) -> None:
    assert client.post(path, GOOD[path]).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"query": NaN}', b"[" * 5000, b"\xef\xbb"])
def test_a_body_that_is_no_json_is_refused(client: Client, path: str, body: bytes) -> None:
    r = client.post(path, body, headers={"content-type": "application/json"})
    assert r.status_code == (422 if path in ("/v1/rerank", "/infinity/rerank") else 400)
    assert form(path, r)


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"\x1f\x8b\x08", {"content-encoding": "gzip"}, "as it is, got Content-Encoding gzip"),
        (b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"}, "got multipart/form-"),
        (b'{"query": "caf\xe9"}', {}, "expected UTF-8, got byte 0xe9 at 14"),
        ("{}".encode("utf-16-le"), {}, "expected UTF-8, got a zero byte, as UTF-16 has them"),
        (
            json.dumps(json.dumps({"query": "w1"})).encode(),
            {},
            "got a string; was the body encoded",
        ),
        (b"[]", {}, "expected a JSON object, got a list"),
    ],
)
def test_what_came_instead_of_json_is_named(
    client: Client, body: bytes, headers: dict[str, str], words: str
) -> None:
    r = client.post("/reranks", body, headers=headers)
    assert r.status_code == 400
    assert words in r.json()["message"]


def test_a_byte_order_mark_is_passed_over(client: Client) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(GOOD["/v2/rerank"]).encode()
    assert client.post("/v2/rerank", body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/vllm/rerank", {"query": "w1", "documents": ["w1", "w2", None]}, "documents[2]"),
        ("/v1/rerank", {"query": "w1", "documents": ["w1", None]}, "documents[1]"),
        ("/v1/rerank", {"query": "w1", "documents": [{"text": "a", "n": [1e999]}]},
         "documents[0].n[0]"),
        ("/score", {"text_1": "w1", "text_2": [{"content": [{"type": "image_url"}]}]},
         "text_2[0].content[0].type"),
        ("/score", {"text_1": "w1", "text_2": [{"text": "a"}]}, "text_2[0].content"),
        ("/vllm/rerank", {"query": "w1"}, "documents"),
    ],
)  # fmt: skip
def test_an_error_says_where_the_wrong_thing_is(
    client: Client, path: str, body: Any, param: str
) -> None:
    sent = json.dumps(body).replace("Infinity", "1e999").encode()
    error = client.post(path, sent, headers={"content-type": "application/json"}).json()["error"]
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("documents", [[], "w1", [1], [None], [["w1"]], {"a": 1}, None])
def test_documents_of_another_kind_are_refused(client: Client, path: str, documents: Any) -> None:
    single = documents == "w1" and path in ("/vllm/rerank", "/v1/score")  # a list of one, there
    r = client.post(path, without(path, documents=documents))
    empty = documents == []
    expected = 400 if empty and path in ("/rerank", "/predict") else INVALID.get(path, 400)
    assert r.status_code == (200 if single else expected)
    assert single or form(path, r)


@pytest.mark.parametrize("path", [p for p in PATHS if p != "/predict"])
@pytest.mark.parametrize("query", ["", " \n\u3000"])
def test_a_blank_query_is_refused(client: Client, path: str, query: str) -> None:
    r = client.post(path, without(path, query=query))
    assert r.status_code == INVALID.get(path, 400)
    assert form(path, r)


def test_the_words_are_the_vendors_own(client: Client) -> None:
    def said(path: str, body: Any) -> Any:
        r = client.post(path, body)
        return (r.status_code, r.text if "text/plain" in r.headers["content-type"] else r.json())

    assert said("/rerank", {"query": QUERY, "texts": []}) == (
        400, {"error": "`texts` cannot be empty", "error_type": "Empty"},
    )  # fmt: skip
    status, text = said("/rerank", {"query": QUERY})
    assert (status, text) == (
        422, "Failed to deserialize the JSON body into the target type: missing field `texts`",
    )  # fmt: skip
    cohere = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
    for changed, words in (
        ({"documents": []}, "invalid request: list of documents must not be empty"),
        ({"query": " "}, "invalid request: query must not be empty or be only whitespace"),
        ({"documents": [""]}, "invalid request: document at index 0 cannot be empty"),
        ({"model": None}, "a model parameter is required for this endpoint."),
    ):
        status, body = said("/v2/rerank", {**cohere, **changed})
        assert (status, body["message"]) == (400, words)
    status, body = said("/v1/rerank", {"query": 1, "documents": DOCUMENTS})
    assert body["errors"] == [
        {"field": "query", "message": "Input should be a valid string", "type": "string_type",
         "input": 1},
    ]  # fmt: skip
    status, body = said(DASHSCOPE, {"model": "m", "input": {"query": QUERY, "documents": []}})
    assert (status, body["code"]) == (400, "InvalidParameter")


def test_tei_wants_json_to_be_called_json(client: Client) -> None:
    body = json.dumps(GOOD["/rerank"]).encode()
    for headers in ({}, {"content-type": "text/plain"}):
        assert client.post("/rerank", body, headers=headers).status_code == 415
    other = json.dumps(GOOD["/v2/rerank"]).encode()
    assert client.post("/v2/rerank", other).status_code == 200


def test_a_pair_over_the_limit_is_refused_where_the_client_forbids_cutting(
    client: Client, reranker: Reranker
) -> None:
    long = ["w1 " * (reranker.max_length + 10)]
    limit = reranker.max_length
    body = {"query": "w1", "texts": long}
    assert client.post("/rerank", body).status_code == 200
    r = client.post("/rerank", {**body, "truncate": False})
    assert r.status_code == 422
    assert f"must have less than {limit} tokens. Given: " in r.json()["error"]
    r = client.post("/rerank", {**body, "truncation_direction": "left"})
    assert r.status_code == 422
    r = client.post("/score", {"text_1": "w1", "text_2": long})
    assert "maximum context length" in r.json()["error"]["message"]
    r = client.post("/score", {"text_1": "w1", "text_2": long, "truncate_prompt_tokens": -1})
    assert r.status_code == 200
    r = client.post("/v1/rerank", {"query": "w1", "documents": long, "truncation": False})
    assert r.status_code == 422


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/rerank", "max_doc_length"),
        ("/v1/rerank", "max_tokens_per_doc"),
        ("/vllm/rerank", "max_tokens_per_doc"),
    ],
)
def test_a_text_that_the_client_cuts_itself_is_not_too_long(
    client: Client, reranker: Reranker, path: str, limit: str
) -> None:
    for words in (20, reranker.max_length + 10):
        body = {"query": "w1", "documents": ["w2 " * words], "truncation": False}
        r = client.post(path, {**body, limit: 5})
        assert (r.status_code, r.headers["x-truncated-pairs"]) == (200, "0")
    r = client.post(path, {**body, limit: 5, "truncation_side": "left"})
    assert r.status_code == (400 if path == "/vllm/rerank" else 200)
    r = client.post(path, {**body, limit: reranker.max_length})
    if path == "/v1/rerank":
        assert (r.status_code, "tokens per pair" in r.json()["message"]) == (422, True)
    else:
        assert "maximum context length" in r.json()["error"]["message"]


@pytest.mark.parametrize("on_overflow", ["truncate", "windows"])
def test_what_the_limit_leaves_whole_is_not_too_long(
    serving: Callable[..., Client], tiny_model: Path, on_overflow: Literal["truncate", "windows"]
) -> None:
    with Reranker(tiny_model, max_length=32, on_overflow=on_overflow) as reranker:
        client = serving(reranker)
        body = {"query": "w1", "documents": ["w2 " * 100]}
        room = 32 - len(reranker.encode([("w1", "")])[0])
        statuses = [
            client.post("/vllm/rerank", {**body, "max_tokens_per_doc": n}).status_code
            for n in (room - 1, room, room + 1)
        ]
    assert statuses == ([200] * 3 if on_overflow == "windows" else [200, 200, 400])


@pytest.fixture(scope="module")
def narrow(serving: Callable[..., Client], reranker: Reranker) -> Client:
    """A server that takes little, from those who have a key, for its own model."""
    return serving(
        reranker,
        max_documents=4,
        max_body_bytes=2000,
        max_request_tokens=60,
        api_key=("one", "two"),
        served_name=("ours",),
        unknown_models="refuse",
    )


def key(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, key("three"), key(""), {"authorization": "Basic one"}])
def test_every_path_wants_a_key(narrow: Client, path: str, headers: dict[str, str]) -> None:
    r = narrow.post(path, GOOD[path], headers=headers)
    assert r.status_code == 401
    assert r.headers["www-authenticate"] == "Bearer"
    assert r.text == "" if path in ("/rerank", "/predict") else form(path, r)


def test_no_alias_is_open(narrow: Client) -> None:
    document = narrow.get("/openapi.json").json()
    public = {"/health", "/live", "/ping", "/metrics"}
    for path, methods in document["paths"].items():
        for method in methods:
            status = narrow.request(method.upper(), path).status_code
            assert status == (200 if path.removeprefix("/tei").removeprefix("/infinity") in public
                              else 401), path  # fmt: skip


def test_either_key_is_good(narrow: Client) -> None:
    body = {**GOOD["/v2/rerank"], "model": "ours"}
    for good in ("one", "two"):
        assert narrow.post("/v2/rerank", body, headers=key(good)).status_code == 200
    assert narrow.post("/v2/rerank", body, headers={"authorization": "bearer one"}).is_success


@pytest.mark.parametrize("path", [p for p in PATHS if "model" in GOOD[p]])
def test_another_model_is_refused_where_the_settings_say_so(narrow: Client, path: str) -> None:
    r = narrow.post(path, GOOD[path], headers=key("one"))
    assert r.status_code == (400 if path == "/v1/rerank" else 404)
    assert form(path, r)
    assert narrow.post(path, {**GOOD[path], "model": "ours"}, headers=key("one")).is_success
    assert narrow.post(path, {**GOOD[path], "model": "tiny"}, headers=key("one")).is_success


@pytest.mark.parametrize("path", PATHS)
def test_too_many_documents_tokens_or_bytes_are_refused(narrow: Client, path: str) -> None:
    def send(documents: list[str]) -> httpx.Response:
        body = without(path, documents=documents)
        if "model" in body:
            body["model"] = "ours"
        return narrow.post(path, body, headers=key("one"))

    many, long, large = send(["w1"] * 5), send(["w1 " * 60]), send(["w1 " * 1000])
    for response in (many, long):
        assert response.status_code == INVALID.get(path, 400)
        assert form(path, response)
    assert large.status_code == 413
    assert form(path, large)
    if path == "/rerank":
        assert many.json()["error"] == "batch size 5 > maximum allowed batch size 4"


def test_a_body_of_unknown_length_is_counted_as_it_comes(narrow: Client) -> None:
    async def pieces() -> Any:
        yield b'{"query": "'
        for _ in range(1000):
            yield b"w" * 100

    r = narrow.request("POST", "/v2/rerank", content=pieces(), headers=key("one"))
    assert r.status_code == 413


def test_other_paths_and_methods_are_told_apart(client: Client) -> None:
    assert client.post("/nothing", {}).json()["error"]["code"] == 404
    for path in ("/v2/rerank/", "/health/"):
        r = client.post(path, {})
        assert (r.status_code, r.json()["error"]["code"]) == (404, 404)
    r = client.get("/v2/rerank")
    assert (r.status_code, r.headers["allow"]) == (405, "POST")
    assert client.post("/info", {}).headers["allow"] == "GET, HEAD"
    assert client.request("HEAD", "/health").status_code == 200
