"""Why a request got no scores: kinds that every dialect words in its own way. Knows no dialect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from polyrank.errors import PolyrankError

__all__ = ["STATUS", "FieldError", "Kind", "Problem", "invalid_fields", "json_type"]

Kind = Literal[
    "malformed", "media_type", "invalid", "missing", "empty", "blank_query", "empty_document",
    "no_model", "unknown_model", "too_many", "too_long", "too_many_tokens", "too_large",
    "too_slow", "no_key", "bad_key", "overloaded", "unavailable", "timeout", "backend",
    "internal", "not_found", "method",
]  # fmt: skip

STATUS: dict[Kind, int] = {
    "malformed": 400,  # the body is no JSON
    "media_type": 415,  # the dialect insists on application/json
    "invalid": 400,  # a field of the wrong type or range
    "missing": 400,  # a field that must be there
    "empty": 400,  # no documents
    "blank_query": 400,
    "empty_document": 400,
    "no_model": 400,  # the dialect insists on a model's name
    "unknown_model": 404,
    "too_many": 400,  # documents
    "too_long": 400,  # a pair, where the client forbids cutting
    "too_many_tokens": 400,  # in all pairs together
    "too_large": 413,  # bytes
    "too_slow": 408,  # the body did not arrive in time
    "no_key": 401,
    "bad_key": 401,
    "overloaded": 429,
    "unavailable": 503,  # loading, draining, or the engine is dead
    "timeout": 504,
    "backend": 500,  # the network gave no numbers
    "internal": 500,
    "not_found": 404,
    "method": 405,
}  # fmt: skip
"""The status of each kind, where a dialect has no other."""

_JSON_TYPES = {
    dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip
_SHOWN = 200  # characters of what a client sent that an error repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldError:
    """One thing that is wrong with a body."""

    path: tuple[str | int, ...]
    message: str
    type: str
    """What pydantic calls it: `string_type`, `missing`..."""
    given: Any = None
    """What was there, if it is short."""

    @property
    def field(self) -> str:
        """The path as people write it: `documents[3].text`."""
        parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path)
        return "".join(parts).removeprefix(".")


class Problem(PolyrankError):  # noqa: N818  half of them are no errors of anybody
    """A request that gets no scores. Dialects turn it into a status, headers and a body."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        fields: Sequence[FieldError] = (),
        count: int | None = None,
        limit: int | None = None,
        name: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.fields = tuple(fields)
        self.count = count
        """How much there was of what is limited, or the number of the document."""
        self.limit = limit
        self.name = name
        """The model that was asked for."""
        if kind in ("overloaded", "unavailable") and retry_after_seconds is None:
            retry_after_seconds = 1
        self.retry_after_seconds = retry_after_seconds


def json_type(value: object) -> str:
    """What a value is in JSON, with its article: `an object`."""
    return _JSON_TYPES[type(value)]


def invalid_fields(error: ValidationError, body: object) -> Problem:
    """What pydantic found in a body, the innermost of it as the message.

    Of a field that may be this or that each kind has its errors; those of the right one lie deeper.
    """
    found = [
        FieldError(
            path=_path(e["loc"], body, missing=e["type"] == "missing"),
            message=e["msg"],
            type=e["type"],
            given=_brief(e.get("input")),
        )
        for e in error.errors(include_url=False, include_context=False)[:10]
    ]
    found.sort(key=lambda e: -len(e.path))
    first = found[0]
    if first.type == "missing":
        return Problem("missing", f"missing field `{first.field}`", fields=found)
    return Problem("invalid", f"{first.field}: {first.message}", fields=found)


def _path(loc: tuple[Any, ...], body: Any, *, missing: bool) -> tuple[str | int, ...]:
    """Where in the body that is: pydantic also names the kind that it tried."""
    path: list[str | int] = []
    for part in loc:
        with suppress(LookupError, TypeError):
            body = body[part]
            path.append(part)
    return (*path, loc[-1]) if missing else tuple(path)


def _brief(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else None
    if isinstance(value, int) and abs(value) < 1 << 63:  # and no longer: few readers take it
        return value
    return None
