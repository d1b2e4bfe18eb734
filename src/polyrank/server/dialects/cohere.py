"""Cohere v2 at `/v2/rerank`; v1 to the letter at `/cohere/v1/rerank`, and at `/v1/rerank` as part
of the common form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import (
    Body,
    Call,
    Dialect,
    Document,
    Documents,
    Endpoint,
    Ignored,
    Reply,
    Texts,
    check_texts,
    fields_texts,
    repeated,
)
from polyrank.server.problems import STATUS, Problem
from polyrank.server.scored import Scored

__all__ = ["dialect"]

TopN = Annotated[int, Field(ge=1)]
Priority = Annotated[int, Field(ge=0, le=999)]


def _if_enabled(spans: dict[str, Any] | None) -> dict[str, Any] | None:
    """Spans that are switched off are not asked for."""
    return spans if spans and spans.get("mode") == "enabled" else None


class RerankV2(Body):
    model: str | None = None
    query: str
    documents: Texts
    top_n: TopN | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    priority: Priority | None = None
    relevant_spans: Annotated[Ignored[dict[str, Any]], AfterValidator(_if_enabled)] = None
    return_documents: bool | None = None


class RerankV1(Body):
    model: str | None = None
    query: str
    documents: Documents
    top_n: TopN | None = None
    rank_fields: Texts | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: Ignored[Annotated[int, Field(ge=1)]] = None


class Result(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[Document]


class Version(TypedDict):
    version: Literal["1", "2"]


class Units(TypedDict):
    search_units: int


class Tokens(TypedDict):
    input_tokens: int


class Meta(TypedDict):
    api_version: Version
    billed_units: Units
    tokens: NotRequired[Tokens]
    warnings: NotRequired[list[str]]


class RerankResponse(TypedDict):
    id: str
    results: list[Result]
    meta: Meta


class Error(TypedDict):
    id: str
    message: str


async def _rerank_v2(body: RerankV2, call: Call) -> Reply:
    if not body.model:
        raise Problem("no_model", "a model parameter is required for this endpoint.")
    call.about.check_model(body.model)
    check_texts(body.query, body.documents, empty_texts=False)
    scored = await call.score(
        [(body.query, text) for text in body.documents],
        max_text_tokens=body.max_tokens_per_doc,
        priority=body.priority or 0,
    )
    response = _response("2", scored, body.documents, body, call)
    response["meta"]["tokens"] = {"input_tokens": scored.total_tokens}
    if body.relevant_spans:
        response["meta"]["warnings"] = ["relevant_spans is not supported by this model"]
    return Reply(content=response)


async def _rerank_v1(body: RerankV1, call: Call) -> Reply:
    call.about.check_model(body.model)
    texts = fields_texts(body.documents, body.rank_fields)
    check_texts(body.query, texts, empty_texts=False)
    scored = await call.score([(body.query, text) for text in texts])
    return Reply(content=_response("1", scored, texts, body, call))


def _billed_units(documents: int) -> Units:
    """A search unit is a query with up to a hundred documents."""
    return {"search_units": math.ceil(documents / 100)}


def _response(
    version: Literal["1", "2"],
    scored: Scored,
    texts: Sequence[str],
    body: RerankV1 | RerankV2,
    call: Call,
) -> RerankResponse:
    scores = scored.scores
    results: list[Result] = [
        {"index": i, "relevance_score": float(scores[i])} for i in scored.best(body.top_n)
    ]
    if body.return_documents:
        for result in results:
            i = result["index"]
            result["document"] = repeated(body.documents[i], texts[i])
    return {
        "id": call.request_id,
        "results": results,
        "meta": {"api_version": {"version": version}, "billed_units": _billed_units(len(texts))},
    }


def _error(problem: Problem, request_id: str) -> Reply:
    body: Error = {"id": request_id, "message": _message(problem)}
    return Reply(content=body, status=STATUS[problem.kind])


def _message(problem: Problem) -> str:
    match problem.kind:
        case "no_model":
            return problem.message
        case "no_key":
            return "no api key supplied"
        case "bad_key":
            return "invalid api token"
        case "unknown_model":
            return (
                f"model '{problem.name}' not found, make sure the correct model ID was used and "
                "that you have access to the model."
            )
        case "empty" | "blank_query" | "empty_document" | "missing" | "invalid" | "malformed":
            return f"invalid request: {problem.message.removeprefix('invalid request: ')}"
        case "too_many":
            return (
                f"invalid request: number of documents must be at most {problem.limit}, got "
                f"{problem.count}"
            )
    return problem.message


dialect = Dialect(
    name="cohere",
    about="Cohere",
    endpoints=(
        Endpoint(path="/v2/rerank", body=RerankV2, response=RerankResponse, answer=_rerank_v2),
        Endpoint(
            path="/v1/rerank",
            body=RerankV1,
            response=RerankResponse,
            answer=_rerank_v1,
            at_root=False,
        ),
    ),
    error=_error,
    error_body=Error,
)
