"""Voyage: `/v1/rerank` with `top_k`, null included, and always under `/voyage`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import Body, Call, Dialect, Endpoint, Reply, Texts, check_texts
from polyrank.server.problems import STATUS, Problem

__all__ = ["dialect"]


class RerankRequest(Body):
    query: str
    documents: Texts
    model: str
    top_k: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    truncation: bool | None = None


class Result(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[str]


class Usage(TypedDict):
    total_tokens: int


class RerankResponse(TypedDict):
    object: Literal["list"]
    data: list[Result]
    model: str
    usage: Usage


class Error(TypedDict):
    detail: str


async def _rerank(body: RerankRequest, call: Call) -> Reply:
    call.about.check_model(body.model)
    check_texts(body.query, body.documents)
    scored = await call.score(
        [(body.query, text) for text in body.documents], truncate=body.truncation is not False
    )
    scores = scored.scores
    data: list[Result] = [
        {"index": i, "relevance_score": float(scores[i])} for i in scored.best(body.top_k)
    ]
    if body.return_documents:
        for result in data:
            result["document"] = body.documents[result["index"]]
    response: RerankResponse = {
        "object": "list",
        "data": data,
        "model": call.about.name,
        "usage": {"total_tokens": scored.total_tokens},
    }
    return Reply(content=response)


def _error(problem: Problem, request_id: str) -> Reply:
    body: Error = {"detail": problem.message}
    return Reply(content=body, status=STATUS[problem.kind])


dialect = Dialect(
    name="voyage",
    about="Voyage",
    endpoints=(
        Endpoint(
            path="/v1/rerank",
            body=RerankRequest,
            response=RerankResponse,
            answer=_rerank,
            claims=lambda body: "top_k" in body,
        ),
    ),
    error=_error,
    error_body=Error,
)
