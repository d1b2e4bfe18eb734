"""infinity 0.0.78, under `/infinity`: its documents are plain texts, where vLLM's are objects."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from polyrank.server.dialect import (
    Body,
    Call,
    Dialect,
    Endpoint,
    ErrorObject,
    Page,
    Reply,
    Texts,
    check_texts,
)
from polyrank.server.problems import STATUS, Kind, Problem
from polyrank.server.scored import About

__all__ = ["dialect"]

_ANY_MODEL = "default/not-specified"
_AS_FASTAPI: tuple[Kind, ...] = (
    "malformed", "invalid", "missing", "empty", "blank_query", "too_many", "too_many_tokens",
)  # fmt: skip


class RerankRequest(Body):
    query: str
    documents: Texts
    return_documents: bool | None = None
    raw_scores: bool | None = None
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None


class Result(TypedDict):
    relevance_score: float
    index: int
    document: str | None


class Usage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class RerankResponse(TypedDict):
    object: Literal["rerank"]
    results: list[Result]
    model: str
    usage: Usage
    id: str
    created: int


class Model(TypedDict):
    id: str
    stats: dict[str, Any]
    object: Literal["model"]
    owned_by: str
    created: int
    backend: str
    capabilities: list[str]


class Models(TypedDict):
    data: list[Model]
    object: Literal["list"]


class Health(TypedDict):
    unix: float


class Detail(TypedDict):
    type: str
    loc: list[str | int]
    msg: str
    input: Any


class InvalidBody(TypedDict):
    detail: list[Detail]


class Unauthorized(TypedDict):
    detail: str


class Error(TypedDict):
    error: ErrorObject


async def _rerank(body: RerankRequest, call: Call) -> Reply:
    call.about.check_model(None if body.model == _ANY_MODEL else body.model)
    check_texts(body.query, body.documents)
    scored = await call.score([(body.query, text) for text in body.documents])
    values = scored.logits if body.raw_scores else scored.scores
    response: RerankResponse = {
        "object": "rerank",
        "results": [
            {
                "relevance_score": float(values[i]),
                "index": i,
                "document": body.documents[i] if body.return_documents else None,
            }
            for i in scored.best(body.top_n)
        ],
        "model": call.about.name,
        "usage": {"prompt_tokens": scored.total_tokens, "total_tokens": scored.total_tokens},
        "id": f"infinity-{call.request_id}",
        "created": int(time.time()),
    }
    return Reply(content=response)


def _models(about: About) -> Reply:
    models: Models = {
        "data": [
            {
                "id": name,
                "stats": {},
                "object": "model",
                "owned_by": "infinity",
                "created": about.started,
                "backend": about.backend,
                "capabilities": ["rerank"],
            }
            for name in about.names
        ],
        "object": "list",
    }
    return Reply(content=models)


def _health(about: About) -> Reply:
    health: Health = {"unix": time.time()}
    return Reply(content=health, status=200 if about.state == "ready" else 503)


def _error(problem: Problem, request_id: str) -> Reply:
    status = STATUS[problem.kind]
    if problem.kind in ("no_key", "bad_key"):
        unauthorized: Unauthorized = {"detail": "Unauthorized"}
        return Reply(content=unauthorized, status=status, headers={"www-authenticate": "Bearer"})
    if problem.kind in _AS_FASTAPI:
        return Reply(content=_invalid_body(problem), status=422)
    body: Error = {
        "error": {"message": problem.message, "type": problem.kind, "param": None, "code": status}
    }
    return Reply(content=body, status=status)


def _invalid_body(problem: Problem) -> InvalidBody:
    details: list[Detail] = [
        {"type": f.type, "loc": ["body", *f.path], "msg": f.message, "input": f.given}
        for f in problem.fields
    ]
    plain: Detail = {
        "type": "json_invalid" if problem.kind == "malformed" else "value_error",
        "loc": ["body"],
        "msg": problem.message,
        "input": None,
    }
    return {"detail": details or [plain]}


dialect = Dialect(
    name="infinity",
    about="infinity",
    endpoints=(
        Endpoint(
            path="/rerank",
            body=RerankRequest,
            response=RerankResponse,
            answer=_rerank,
            at_root=False,
        ),
    ),
    pages=(
        Page(path="/models", answer=_models, response=Models, about="The model.", at_root=False),
        Page(
            path="/health",
            answer=_health,
            response=Health,
            about="Readiness.",
            public=True,
            at_root=False,
        ),
    ),
    error=_error,
    error_body=Error | InvalidBody | Unauthorized,
)
