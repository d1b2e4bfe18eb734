"""The OpenAPI document says what the server does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank import Reranker
from polyrank.server import dialects
from polyrank.server.app import build_app
from server.conftest import Client
from server.malformed import check_answer
from server.test_errors import GOOD, PATHS


def test_every_path_of_the_application_is_in_the_document(client: Client) -> None:
    document = client.get("/openapi.json").json()
    paths = {route.path for route in build_app(client.service).routes}  # type: ignore[attr-defined]
    assert set(document["paths"]) == paths - {"/openapi.json"}
    text = json.dumps(document)
    for reference in set(text.split('"$ref": "#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in document["components"]["schemas"]
    names = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", PATHS)
def test_answers_and_errors_are_of_the_types_that_the_document_states(
    client: Client, path: str
) -> None:
    for body in (GOOD[path], {**GOOD[path], "return_documents": True, "return_text": True}, {}):
        r = client.post(path, body)
        assert r.is_success == bool(body)
        check_answer(path, r.status_code, r.headers["content-type"], r.content)


def test_a_key_is_in_the_document_where_one_is_needed(
    serving: Callable[..., Client], reranker: Reranker
) -> None:
    document = serving(reranker, api_key=("k",)).get("/openapi.json").json()
    assert document["paths"]["/rerank"]["post"]["security"] == [{"key": []}]
    assert document["paths"]["/info"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]


def test_pages_of_other_origins_are_let_in_only_where_they_are_named(
    serving: Callable[..., Client], reranker: Reranker
) -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed = serving(reranker)
    assert closed.request("OPTIONS", "/rerank", headers=headers).status_code == 405
    assert "access-control-allow-origin" not in closed.get("/health", headers=headers).headers
    opened = serving(reranker, cors_origin=("https://a.example",))
    allowed = opened.request("OPTIONS", "/rerank", headers=headers)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    private = {**headers, "access-control-request-private-network": "true"}
    assert opened.request("OPTIONS", "/rerank", headers=private).status_code == 200
    own = {**headers, "access-control-request-headers": "traceparent, x-stainless-os"}
    assert opened.request("OPTIONS", "/rerank", headers=own).status_code == 200
    exposed = opened.get("/health", headers=headers).headers["access-control-expose-headers"]
    assert "x-ignored-parameters" in exposed
    other = {**headers, "origin": "https://b.example"}
    assert opened.request("OPTIONS", "/rerank", headers=other).status_code == 400


_ANOTHER = """
from polyrank.server.dialect import Body, Dialect, Endpoint, Reply
from polyrank.server.problems import STATUS


class Request(Body):
    q: str
    d: str


async def _answer(body, call):
    scored = await call.score([(body.q, body.d)])
    return Reply(content={"s": float(scored.scores[0])})


dialect = Dialect(
    name="another",
    about="Another",
    endpoints=(Endpoint(path="/judge", body=Request, response=dict[str, float], answer=_answer),),
    error=lambda problem, id: Reply(content={"e": problem.kind}, status=STATUS[problem.kind]),
    error_body=dict[str, str],
)
"""


def test_a_dialect_is_one_file(
    serving: Callable[..., Client],
    reranker: Reranker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "another.py").write_text(_ANOTHER)
    monkeypatch.setattr(dialects, "__path__", [*dialects.__path__, str(tmp_path)])
    client = serving(reranker)
    answer = client.post("/judge", {"q": "w10", "d": "w11"}).json()
    assert answer == {"s": pytest.approx(float(reranker.score([("w10", "w11")])[0]), abs=1e-5)}
    assert client.post("/another/judge", {"q": 1}).json() == {"e": "invalid"}
    assert "/judge" in client.get("/openapi.json").json()["paths"]
    monkeypatch.delitem(sys.modules, f"{dialects.__name__}.another")
