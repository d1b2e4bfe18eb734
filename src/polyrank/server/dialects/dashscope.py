"""Alibaba DashScope: text-rerank, and its twin `/reranks` in OpenAI's manner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import (
    Body,
    Call,
    Dialect,
    Endpoint,
    Ignored,
    Reply,
    Texts,
    check_texts,
)
from polyrank.server.problems import STATUS, Kind, Problem

__all__ = ["dialect"]

_CODES: dict[Kind, str] = {
    "no_key": "InvalidApiKey",
    "bad_key": "InvalidApiKey",
    "unknown_model": "ModelNotFound",
    "not_found": "ModelNotFound",
    "overloaded": "Throttling.RateQuota",
    "unavailable": "ServiceUnavailable",
    "timeout": "GatewayTimeout",
    "backend": "InternalError",
    "internal": "InternalError",
}

TopN = Annotated[int, Field(ge=1)]


class Input(Body):
    query: str
    documents: Texts


class Parameters(Body):
    top_n: TopN | None = None
    return_documents: bool | None = None
    instruct: Ignored[str] = None


class TextRerank(Body):
    model: str
    input: Input
    parameters: Parameters | None = None


class Reranks(Body):
    model: str
    query: str
    documents: Texts
    top_n: TopN | None = None
    return_documents: bool | None = None
    instruct: Ignored[str] = None


class Text(TypedDict):
    text: str


class Result(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[Text]


class Output(TypedDict):
    results: list[Result]


class Usage(TypedDict):
    total_tokens: int


class TextRerankResponse(TypedDict):
    request_id: str
    output: Output
    usage: Usage


class ReranksResponse(TypedDict):
    id: str
    object: Literal["list"]
    model: str
    results: list[Result]
    usage: Usage


class Error(TypedDict):
    code: str
    message: str
    request_id: str


async def _text_rerank(body: TextRerank, call: Call) -> Reply:
    given, parameters = body.input, body.parameters or Parameters()
    results, usage = await _rank(
        body.model,
        given.query,
        given.documents,
        parameters.top_n,
        bool(parameters.return_documents),
        call,
    )
    response: TextRerankResponse = {
        "request_id": call.request_id,
        "output": {"results": results},
        "usage": usage,
    }
    return Reply(content=response)


async def _reranks(body: Reranks, call: Call) -> Reply:
    results, usage = await _rank(
        body.model, body.query, body.documents, body.top_n, bool(body.return_documents), call
    )
    response: ReranksResponse = {
        "id": call.request_id,
        "object": "list",
        "model": call.about.name,
        "results": results,
        "usage": usage,
    }
    return Reply(content=response)


async def _rank(
    model: str,
    query: str,
    documents: list[str],
    top_n: int | None,
    return_documents: bool,
    call: Call,
) -> tuple[list[Result], Usage]:
    call.about.check_model(model)
    check_texts(query, documents)
    scored = await call.score([(query, text) for text in documents])
    scores = scored.scores
    results: list[Result] = [
        {"index": i, "relevance_score": float(scores[i])} for i in scored.best(top_n)
    ]
    if return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return results, {"total_tokens": scored.total_tokens}


def _error(problem: Problem, request_id: str) -> Reply:
    keyless = problem.kind in ("no_key", "bad_key")
    body: Error = {
        "code": _CODES.get(problem.kind, "InvalidParameter"),
        "message": "Invalid API-key provided." if keyless else problem.message,
        "request_id": request_id,
    }
    return Reply(content=body, status=STATUS[problem.kind])


dialect = Dialect(
    name="dashscope",
    about="Alibaba DashScope text-rerank",
    endpoints=(
        Endpoint(
            path="/api/v1/services/rerank/text-rerank/text-rerank",
            body=TextRerank,
            response=TextRerankResponse,
            answer=_text_rerank,
        ),
        Endpoint(path="/reranks", body=Reranks, response=ReranksResponse, answer=_reranks),
        Endpoint(
            path="/compatible-api/v1/reranks",
            body=Reranks,
            response=ReranksResponse,
            answer=_reranks,
        ),
    ),
    error=_error,
    error_body=Error,
)
