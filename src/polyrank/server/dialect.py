"""What a dialect is: paths, the bodies it takes and gives, and its words for problems.

The contract between the dialects and the server. Knows no dialect and no socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, with_config
from typing_extensions import TypedDict

from polyrank.server.problems import FieldError, Problem, json_type
from polyrank.server.scored import About, Scored

__all__ = [
    "Body",
    "Call",
    "Claim",
    "Dialect",
    "Document",
    "Documents",
    "Endpoint",
    "ErrorObject",
    "Ignored",
    "Page",
    "Reply",
    "Texts",
    "check_texts",
    "fields_texts",
    "ignored_parameters",
    "repeated",
]

T = TypeVar("T")

_IGNORED = object()
Ignored = Annotated[T | None, _IGNORED]
"""A field that asks for what this model cannot do; the answer's header says that it was given."""
Texts = Annotated[list[str], Field(fail_fast=True)]
Documents = Annotated[list[str | dict[str, JsonValue]], Field(fail_fast=True)]
"""Texts, or objects with fields."""


class ErrorObject(TypedDict):
    """What OpenAI's format and those after it have as `error`."""

    message: str
    type: str
    param: str | None
    code: int


@with_config(ConfigDict(extra="allow"))
class Document(TypedDict):
    """A document as answers repeat it: one that came as an object has all of its fields."""

    text: str


class Body(BaseModel):
    """A request's body: types are exact, fields that a dialect does not know are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer before it is bytes. `content`: JSON, or a text where `media_type` is not JSON."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


class Call(Protocol):
    """One request, as a dialect sees it."""

    @property
    def about(self) -> About:
        """The model and the limits it is served with."""
        ...

    @property
    def request_id(self) -> str:
        """The client's `x-request-id`, or one of ours."""
        ...

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        truncate: bool = True,
        left: bool = False,
        max_text_tokens: int | None = None,
        priority: int = 0,
    ) -> Scored:
        """Score pairs in the engine that all requests share.

        truncate: False raises Problem where a pair is over the limit.
        left: the client wants texts cut at their start; we cannot, and raise Problem then.
        max_text_tokens: cut longer texts to this.
        priority: requests of a greater number wait for those of a smaller one.
        """
        ...


Claim = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A POST that answers with scores."""

    path: str
    body: type[Body]
    response: Any
    """The answer's type, for the OpenAPI document."""
    answer: Callable[[Any, Call], Awaitable[Reply]]
    """From a valid body and the call."""
    claims: Claim | None = None
    """Where dialects share a path, whether a JSON object is for this one; None: it takes what no
    other claims, and words what is wrong before a body is read."""
    at_root: bool = True
    """Whether it is also served without the dialect's name in front."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A GET that says something of the server."""

    path: str
    answer: Callable[[About], Reply]
    about: str
    response: Any = None
    """The answer's type, for the OpenAPI document; None: no JSON."""
    public: bool = False
    """Whether it is answered without a key."""
    at_root: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """A wire format. Its module calls it `dialect`; it is served under `/NAME` as well."""

    name: str
    about: str
    endpoints: tuple[Endpoint, ...]
    error: Callable[[Problem, str], Reply]
    """From a problem and the request id."""
    error_body: Any
    """The type of an error's body, for the OpenAPI document."""
    pages: tuple[Page, ...] = ()
    needs_json_type: bool = False
    """Whether a body without `Content-Type: application/json` is refused."""


def ignored_parameters(body: Body) -> list[str]:
    """The `Ignored` fields of a body that were given: not null, not empty, not false."""
    found = []
    for name, field_info in type(body).model_fields.items():
        value = getattr(body, name)
        if isinstance(value, Body):
            found += ignored_parameters(value)
        elif value and _IGNORED in field_info.metadata:
            found.append(name)
    return found


def check_texts(query: str, texts: Sequence[str], *, empty_texts: bool = True) -> None:
    """Raise Problem for a blank query, no texts, or, unless `empty_texts`, a blank one."""
    if not query.strip():
        raise Problem("blank_query", "query must not be empty or be only whitespace")
    if not texts:
        raise Problem("empty", "list of documents must not be empty")
    if not empty_texts:
        for i, text in enumerate(texts):
            if not text.strip():
                raise Problem("empty_document", f"document at index {i} cannot be empty", count=i)


def fields_texts(
    documents: Sequence[str | Mapping[str, Any]], names: Sequence[str] | None
) -> list[str]:
    """What is read of each document: the fields that `rank_fields` names, a line each, or `text`.

    A field that is named twice is read once, so that this takes no longer than the body is large.
    """
    wanted = tuple(dict.fromkeys(names or ("text",)))
    return [_fields_text(document, i, wanted) for i, document in enumerate(documents)]


def _fields_text(document: str | Mapping[str, Any], index: int, names: Sequence[str]) -> str:
    if isinstance(document, str):
        return document
    values = []
    for name in names:
        value = document.get(name)
        if not isinstance(value, str):
            came = json_type(value) if name in document else "none"
            message = f"expected a text in field `{name[:200]}` of a document, got {came}"
            at = FieldError(path=("documents", index, name), message=message, type="string_type")
            raise Problem("invalid", f"document at index {index}: {message}", fields=[at])
        values.append(value)
    return "\n".join(values)


def repeated(document: str | Mapping[str, Any], text: str) -> Document:
    """A document for an answer; `text` is what was read of it."""
    fields = {} if isinstance(document, str) else document
    return cast("Document", {"text": text, **fields})
