"""Hugging Face text-embeddings-inference 1.9: `/rerank` with `texts`, `/predict`, `/info`..."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from polyrank.server.dialect import Body, Call, Dialect, Endpoint, Page, Reply, Texts, check_texts
from polyrank.server.problems import STATUS, Kind, Problem
from polyrank.server.scored import About, Scored

__all__ = ["dialect"]

Direction = Literal["Left", "Right", "left", "right"]

_STATUS: dict[Kind, int] = {
    **STATUS, "missing": 422, "invalid": 422, "blank_query": 422, "too_many": 422,
    "too_long": 422, "too_many_tokens": 422, "backend": 424,
}  # fmt: skip
_TYPES: dict[Kind, str] = {
    "empty": "Empty", "overloaded": "Overloaded", "unavailable": "Unhealthy",
    "backend": "Backend", "internal": "Backend", "timeout": "Overloaded",
}  # fmt: skip
_PLAIN: tuple[Kind, ...] = ("malformed", "missing", "invalid", "media_type", "too_large")
_LABEL = "LABEL_0"


class RerankRequest(Body):
    query: str
    texts: Texts
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None


class Rank(TypedDict):
    index: int
    score: float
    text: NotRequired[str]


class PredictRequest(Body):
    inputs: str | Texts | Annotated[list[Texts], Field(fail_fast=True)]
    """`["a", "b"]` is one pair; `[["a", "b"], ["a", "c"]]` are two."""
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    raw_scores: bool | None = None


class Prediction(TypedDict):
    score: float
    label: str


class Error(TypedDict):
    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class Labels(TypedDict):
    id2label: dict[str, str]
    label2id: dict[str, int]


class Info(TypedDict):
    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: dict[Literal["reranker"], Labels]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int | None
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


async def _rerank(body: RerankRequest, call: Call) -> Reply:
    check_texts(body.query, body.texts)
    scored = await call.score(
        [(body.query, text) for text in body.texts],
        truncate=body.truncate is not False,
        left=body.truncation_direction in ("Left", "left"),
    )
    values = scored.logits if body.raw_scores else scored.scores
    # Ties come in descending index order there: an ascending sort, read backwards.
    order = np.argsort(scored.logits, kind="stable")[::-1]
    ranks: list[Rank] = [{"index": int(i), "score": float(values[i])} for i in order]
    if body.return_text:
        for rank in ranks:
            rank["text"] = body.texts[rank["index"]]
    return Reply(content=ranks, headers=_compute_headers(scored, call.about))


async def _predict(body: PredictRequest, call: Call) -> Reply:
    inputs = body.inputs
    many = isinstance(inputs, list) and all(isinstance(i, list) for i in inputs)
    groups: list[Any] = inputs if many and isinstance(inputs, list) else [inputs]
    if not groups or groups == [[]]:
        raise Problem("empty", "`inputs` cannot be empty")
    for group in groups:
        if not isinstance(group, list) or len(group) != 2:
            raise Problem(  # the body's types are right: no plain text, as for "invalid"
                "too_long", "`inputs` must be pairs of texts: this model reads two together"
            )
    scored = await call.score(
        [(a, b) for a, b in groups],
        truncate=body.truncate is not False,
        left=body.truncation_direction in ("Left", "left"),
    )
    values = scored.logits if body.raw_scores else scored.scores
    predictions: list[list[Prediction]] = [[{"score": float(v), "label": _LABEL}] for v in values]
    return Reply(
        content=predictions if many else predictions[0],
        headers=_compute_headers(scored, call.about),
    )


def _compute_headers(scored: Scored, about: About) -> dict[str, str]:
    times = scored.times
    total = times.tokenize + times.queue + times.forward
    milliseconds = {
        "x-compute-time": total,
        "x-total-time": total,
        "x-tokenization-time": times.tokenize,
        "x-queue-time": times.queue,
        "x-inference-time": times.forward,
    }
    return {
        "x-compute-type": "cpu" if about.device == "cpu" else "gpu",
        "x-compute-characters": str(scored.characters),
        "x-compute-tokens": str(scored.total_tokens),
        **{name: str(round(1000 * seconds)) for name, seconds in milliseconds.items()},
    }


def _info(about: About) -> Reply:
    info: Info = {
        "model_id": about.name,
        "model_sha": about.revision or about.fingerprint,
        "model_dtype": about.dtype,
        "served_model_name": about.name,
        "model_type": {"reranker": {"id2label": {"0": _LABEL}, "label2id": {_LABEL: 0}}},
        "max_concurrent_requests": about.max_requests,
        "max_input_length": about.max_length,
        "max_batch_tokens": about.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": about.max_documents,
        "auto_truncate": True,
        "tokenization_workers": about.tokenizer_threads,
        "version": about.version,
        "sha": None,
        "docker_label": None,
    }
    return Reply(content=info)


def _health(about: About) -> Reply:
    """Whether requests are answered: not while loading or draining, nor with a dead engine."""
    if about.state == "ready":
        return Reply(content="", media_type="text/plain")
    return Reply(content=_unhealthy(f"the server is {about.state}"), status=503)


def _live(about: About) -> Reply:
    """Whether to leave the process alone: only a dead engine asks for a new one."""
    if about.state != "dead":
        return Reply(content="", media_type="text/plain")
    return Reply(content=_unhealthy("the engine is dead"), status=503)


def _unhealthy(message: str) -> Error:
    return {"error": message, "error_type": "Unhealthy"}


def _metrics(about: About) -> Reply:
    return Reply(content=about.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _error(problem: Problem, request_id: str) -> Reply:
    status = _STATUS[problem.kind]
    if problem.kind in ("no_key", "bad_key"):
        return Reply(content="", status=status, media_type="text/plain")
    if problem.kind in _PLAIN:
        return Reply(content=_plain(problem), status=status, media_type="text/plain; charset=utf-8")
    body: Error = {
        "error": _message(problem),
        "error_type": _TYPES.get(problem.kind, "Validation"),  # type: ignore[typeddict-item]
    }
    return Reply(content=body, status=status)


def _plain(problem: Problem) -> str:
    match problem.kind:
        case "malformed":
            return f"Failed to parse the request body as JSON: {problem.message}"
        case "media_type":
            return "Expected request with `Content-Type: application/json`"
        case "too_large":
            return f"Failed to buffer the request body: {problem.message}"
    return f"Failed to deserialize the JSON body into the target type: {problem.message}"


def _message(problem: Problem) -> str:
    match problem.kind:
        case "empty" if "inputs" not in problem.message:
            return "`texts` cannot be empty"
        case "blank_query":
            return "`query` cannot be empty"
        case "too_many":
            return f"batch size {problem.count} > maximum allowed batch size {problem.limit}"
        case "too_long" if problem.limit:
            return (
                f"Input validation error: `inputs` must have less than {problem.limit} tokens. "
                f"Given: {problem.count}"
            )
        case "overloaded":
            return "Model is overloaded"
        case "backend":
            return f"Backend error: {problem.message}"
    return problem.message


dialect = Dialect(
    name="tei",
    about="Hugging Face text-embeddings-inference",
    endpoints=(
        Endpoint(path="/rerank", body=RerankRequest, response=list[Rank], answer=_rerank),
        Endpoint(path="/invocations", body=RerankRequest, response=list[Rank], answer=_rerank),
        Endpoint(
            path="/predict",
            body=PredictRequest,
            response=list[Prediction] | list[list[Prediction]],
            answer=_predict,
        ),
    ),
    pages=(
        Page(path="/info", answer=_info, response=Info, about="The model and its limits."),
        Page(path="/health", answer=_health, about="Readiness.", public=True),
        Page(path="/live", answer=_live, about="Liveness.", public=True),
        Page(path="/ping", answer=_health, about="Readiness, for SageMaker.", public=True),
        Page(path="/metrics", answer=_metrics, about="Prometheus' text format.", public=True),
    ),
    error=_error,
    error_body=Error | str,
    needs_json_type=True,
)
