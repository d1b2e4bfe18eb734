"""Jina, and the common form of `/v1/rerank`: what Cohere v1, vLLM, Voyage, Xinference, SiliconFlow
and LocalAI answer there too, in one body that all of their clients take."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import (
    Body,
    Call,
    Dialect,
    Document,
    Documents,
    Endpoint,
    ErrorObject,
    Ignored,
    Reply,
    Texts,
    check_texts,
    fields_texts,
    repeated,
)
from polyrank.server.problems import STATUS, Kind, Problem

__all__ = ["dialect"]

_STATUS: dict[Kind, int] = {
    **STATUS, "malformed": 422, "missing": 422, "invalid": 422, "empty": 422, "blank_query": 422,
    "empty_document": 422, "too_many": 422, "too_long": 422, "too_many_tokens": 422,
    "unknown_model": 400,
}  # fmt: skip
_CODES: dict[Kind, str] = {
    "no_key": "AUTH_MISSING_API_KEY",
    "bad_key": "AUTH_INVALID_API_KEY",
    "unknown_model": "INPUT_MODEL_NOT_FOUND",
    "not_found": "RESOURCE_NOT_FOUND",
    "overloaded": "RATE_CONCURRENCY_LIMIT_EXCEEDED",
    "unavailable": "SERVICE_UNAVAILABLE",
    "timeout": "SERVICE_TIMEOUT",
    "backend": "INTERNAL_ERROR",
    "internal": "INTERNAL_ERROR",
}


def _from_word(given: Any) -> Any:
    """A boolean that came as a string: RAGFlow's client of Xinference writes it so."""
    return {"true": True, "false": False}.get(given, given) if isinstance(given, str) else given


class RerankRequest(Body):
    model: str | None = None
    query: str
    documents: Documents
    top_n: Annotated[int, Field(ge=0)] | None = None
    """None, and 0 as vLLM's clients send it: all."""
    return_documents: Annotated[bool | None, BeforeValidator(_from_word)] = None
    truncation: bool | None = None
    max_doc_length: Annotated[int, Field(ge=1)] | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    rank_fields: Texts | None = None
    priority: int | None = None
    return_embeddings: Ignored[bool] = None
    instruction: Ignored[str] = None
    max_tokens_per_query: Ignored[int] = None
    max_chunks_per_doc: Ignored[int] = None
    overlap_tokens: Ignored[int] = None


class Result(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[Document]


class Place(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[str]


class Usage(TypedDict):
    total_tokens: int
    prompt_tokens: int


class RerankResponse(TypedDict):
    id: str
    object: Literal["list"]
    model: str
    created: int
    usage: Usage
    results: list[Result]
    data: list[Place]
    """As Voyage has it, for its clients that leave `top_k` out."""
    meta: dict[str, Any]
    """As Cohere v1 has it, `api_version` and `billed_units`, and Xinference, `tokens`."""


class InvalidField(TypedDict):
    field: str
    message: str
    type: str
    input: Any


class Error(TypedDict):
    detail: str
    code: NotRequired[str]
    request_id: str
    errors: NotRequired[list[InvalidField]]
    id: str
    message: str
    error: ErrorObject


async def _rerank(body: RerankRequest, call: Call) -> Reply:
    call.about.check_model(body.model)
    texts = fields_texts(body.documents, body.rank_fields)
    check_texts(body.query, texts)
    limits = [n for n in (body.max_doc_length, body.max_tokens_per_doc) if n is not None]
    scored = await call.score(
        [(body.query, text) for text in texts],
        truncate=body.truncation is not False,
        max_text_tokens=min(limits, default=None),
        priority=body.priority or 0,
    )
    scores = scored.scores
    results: list[Result] = [
        {"index": i, "relevance_score": float(scores[i])} for i in scored.best(body.top_n or None)
    ]
    data: list[Place] = [
        {"index": r["index"], "relevance_score": r["relevance_score"]} for r in results
    ]
    if body.return_documents is not False:
        for result in results:
            i = result["index"]
            result["document"] = repeated(body.documents[i], texts[i])
    if body.return_documents:  # Voyage has none unless asked
        for place in data:
            place["document"] = texts[place["index"]]
    response: RerankResponse = {
        "id": call.request_id,
        "object": "list",
        "model": call.about.name,
        "created": int(time.time()),
        "usage": {"total_tokens": scored.total_tokens, "prompt_tokens": scored.total_tokens},
        "results": results,
        "data": data,
        "meta": {
            "api_version": {"version": "1"},
            "billed_units": {"search_units": math.ceil(len(texts) / 100)},
            "tokens": {"input_tokens": scored.total_tokens, "output_tokens": 0},
        },
    }
    return Reply(content=response)


def _error(problem: Problem, request_id: str) -> Reply:
    status = _STATUS[problem.kind]
    body: Error = {
        "detail": problem.message,
        "request_id": request_id,
        "id": request_id,
        "message": problem.message,
        "error": {
            "message": problem.message,
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": problem.fields[0].field if problem.fields else None,
            "code": status,
        },
    }
    if problem.kind in _CODES:
        body["code"] = _CODES[problem.kind]
    if status == 422:
        body["errors"] = [
            {"field": f.field, "message": f.message, "type": f.type, "input": f.given}
            for f in problem.fields
        ]
    return Reply(content=body, status=status)


dialect = Dialect(
    name="jina",
    about="Jina, and the common form of /v1/rerank",
    endpoints=(
        Endpoint(path="/v1/rerank", body=RerankRequest, response=RerankResponse, answer=_rerank),
    ),
    error=_error,
    error_body=Error,
)
