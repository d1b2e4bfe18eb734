"""vLLM 0.33: `/rerank` with `documents`, `/score`, `/v1/score`; its `/v1/rerank` is in the common
form, and its own form is at `/vllm/v1/rerank`. Text only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import (
    Body,
    Call,
    Dialect,
    Endpoint,
    ErrorObject,
    Ignored,
    Page,
    Reply,
    check_texts,
)
from polyrank.server.problems import STATUS, Kind, Problem
from polyrank.server.scored import About, Scored

__all__ = ["dialect"]

_TYPES = {
    401: "Unauthorized", 404: "NotFoundError", 429: "RateLimitError",
    503: "ServiceUnavailableError", 504: "TimeoutError",
}  # fmt: skip
_KEYLESS: tuple[Kind, ...] = ("no_key", "bad_key")


class Part(Body):
    type: Literal["text"]
    text: str


class Content(Body):
    """A text in parts, as chats have it; parts of other kinds are refused."""

    content: str | Annotated[list[Part], Field(fail_fast=True)]


Item = str | Content
Items = Annotated[list[Item], Field(fail_fast=True)]
Limit = Annotated[int, Field(ge=1)] | None


class Options(Body):
    model: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    """Cut pairs to the limit of the model; a smaller limit is not supported."""
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_doc: Limit = None
    max_tokens_per_query: Ignored[int] = None
    instruction: Ignored[str] = None
    use_activation: bool | None = None
    """False: logits instead of scores."""
    priority: int | None = None


class RerankRequest(Options):
    query: Item
    documents: Item | Items
    top_n: Annotated[int, Field(ge=0)] | None = 0


class ScoreRequest(Options):
    text_1: Item | Items | None = None
    text_2: Item | Items | None = None
    queries: Item | Items | None = None
    documents: Item | Items | None = None
    items: Item | Items | None = None
    data_1: Item | Items | None = None
    data_2: Item | Items | None = None


class Document(TypedDict):
    text: str
    multi_modal: None


class Result(TypedDict):
    index: int
    document: Document
    relevance_score: float


class RerankUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class RerankResponse(TypedDict):
    id: str
    model: str
    usage: RerankUsage
    results: list[Result]


class Score(TypedDict):
    index: int
    object: Literal["score"]
    score: float


class ScoreUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: None


class ScoreResponse(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: ScoreUsage


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: NotRequired[int]


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Error(TypedDict):
    error: ErrorObject


class Unauthorized(TypedDict):
    error: Literal["Unauthorized"]


async def _rerank(body: RerankRequest, call: Call) -> Reply:
    query, documents = _text(body.query), _texts(body.documents)
    check_texts(query, documents)
    scored = await _score_pairs([(query, text) for text in documents], body, call)
    values = _values(scored, body)
    response: RerankResponse = {
        "id": f"score-{call.request_id}",
        "model": call.about.name,
        "usage": {"prompt_tokens": scored.total_tokens, "total_tokens": scored.total_tokens},
        "results": [
            {
                "index": i,
                "document": {"text": documents[i], "multi_modal": None},
                "relevance_score": values[i],
            }
            for i in scored.best(body.top_n or None)
        ],
    }
    return Reply(content=response)


async def _score(body: ScoreRequest, call: Call) -> Reply:
    ways = (
        (body.text_1, body.text_2),
        (body.queries, body.documents),
        (body.queries, body.items),
        (body.data_1, body.data_2),
    )
    given = next(((a, b) for a, b in ways if a is not None and b is not None), None)
    if given is None:
        raise Problem("missing", "missing field `text_1` or `text_2`, `queries` or `documents`")
    left, right = _texts(given[0]), _texts(given[1])
    if not left or not right:
        raise Problem("empty", "At least one text element must be given")
    if len(left) not in (1, len(right)):
        raise Problem("invalid", "Input lengths must be either 1:1, 1:N or N:N")
    if len(left) == 1:
        left = left * len(right)
    for query in left:
        check_texts(query, right)
    scored = await _score_pairs(list(zip(left, right, strict=True)), body, call)
    data: list[Score] = [
        {"index": i, "object": "score", "score": v} for i, v in enumerate(_values(scored, body))
    ]
    response: ScoreResponse = {
        "id": f"score-{call.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": call.about.name,
        "data": data,
        "usage": {
            "prompt_tokens": scored.total_tokens,
            "total_tokens": scored.total_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
    return Reply(content=response)


async def _score_pairs(pairs: Sequence[tuple[str, str]], body: Options, call: Call) -> Scored:
    call.about.check_model(body.model)
    limit = body.truncate_prompt_tokens
    if limit is not None and 0 <= limit < call.about.max_length:
        raise Problem(
            "invalid",
            f"truncate_prompt_tokens must be -1 or at least {call.about.max_length}, got {limit}",
        )
    return await call.score(
        pairs,
        truncate=limit is not None,
        left=body.truncation_side == "left",
        max_text_tokens=body.max_tokens_per_doc,
        priority=body.priority or 0,
    )


def _values(scored: Scored, body: Options) -> list[float]:
    values = scored.logits if body.use_activation is False else scored.scores
    return [float(v) for v in values]


def _texts(given: Any) -> list[str]:
    return [_text(item) for item in given] if isinstance(given, list) else [_text(given)]


def _text(item: Any) -> str:
    if isinstance(item, Content):
        parts = item.content
        return parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
    return str(item)


def _models(about: About) -> Reply:
    data: list[Model] = [
        {
            "id": name,
            "object": "model",
            "created": about.started,
            "owned_by": "polyrank",
            "max_model_len": about.max_length,
        }
        for name in about.names
    ]
    models: Models = {"object": "list", "data": data}
    return Reply(content=models)


def _error(problem: Problem, request_id: str) -> Reply:
    status = STATUS[problem.kind]
    if problem.kind in _KEYLESS:
        unauthorized: Unauthorized = {"error": "Unauthorized"}
        return Reply(content=unauthorized, status=status)
    message = problem.message
    if problem.kind == "unknown_model":
        message = f"The model `{problem.name}` does not exist."
    elif problem.kind == "too_long" and problem.limit:
        message = (
            f"This model's maximum context length is {problem.limit} tokens. However, you "
            f"requested {problem.count} tokens. Please reduce the length of the input, or pass "
            "truncate_prompt_tokens=-1."
        )
    default = "BadRequestError" if status < 500 else "InternalServerError"
    body: Error = {
        "error": {
            "message": message,
            "type": _TYPES.get(status, default),
            "param": problem.fields[0].field if problem.fields else None,
            "code": status,
        }
    }
    return Reply(content=body, status=status)


dialect = Dialect(
    name="vllm",
    about="vLLM",
    endpoints=(
        Endpoint(
            path="/rerank",
            body=RerankRequest,
            response=RerankResponse,
            answer=_rerank,
            claims=lambda body: body.get("documents") is not None and body.get("texts") is None,
        ),
        Endpoint(
            path="/v1/rerank",
            body=RerankRequest,
            response=RerankResponse,
            answer=_rerank,
            at_root=False,
        ),
        Endpoint(path="/score", body=ScoreRequest, response=ScoreResponse, answer=_score),
        Endpoint(path="/v1/score", body=ScoreRequest, response=ScoreResponse, answer=_score),
    ),
    pages=(Page(path="/v1/models", answer=_models, response=Models, about="The model's names."),),
    error=_error,
    error_body=Error | Unauthorized,
)
