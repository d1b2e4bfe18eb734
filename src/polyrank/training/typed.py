"""JSON -> a dataclass, by its annotations, or an error that names the key. Knows no config."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from polyrank.errors import InputError

__all__ = [
    "Count",
    "Natural",
    "NotNegative",
    "Positive",
    "Rule",
    "Share",
    "from_mapping",
]

C = TypeVar("C")
_NAMES = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be besides its type."""

    words: str
    """What an error says was expected."""
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("an integer of at least 1", lambda n: n >= 1)]
Natural = Annotated[int, Rule("an integer of at least 0", lambda n: n >= 0)]
Positive = Annotated[float, Rule("a number above 0", lambda x: x > 0)]
NotNegative = Annotated[float, Rule("a number of at least 0", lambda x: x >= 0)]
Share = Annotated[float, Rule("a number from 0 to 1", lambda x: 0 <= x <= 1)]


def from_mapping(kind: type[C], row: Mapping[str, Any], *, where: str) -> C:
    """Build a dataclass from JSON.

    Raises InputError for a missing key, for an unknown one, naming the nearest known key, and for
    a value of another type or against a Rule.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"expected an object at {where}, got {type(row).__name__}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise InputError(f"expected a key of {kind.__name__}, got {key!r} in {where}{hint}")
    hints = get_type_hints(kind, include_extras=True)
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in row.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"expected every key of {kind.__name__} in {where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as an annotation wants it."""
    kind, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return from_mapping(hint, value, where=where)  # type: ignore[arg-type]
    if kind is Annotated:
        made, rule = _value(args[0], value, where), args[1]
        if not rule.holds(made):
            raise _wrong(rule.words, value, where)
        return made
    if kind in (Union, UnionType):  # X | None
        return None if value is None else _value(args[0], value, where)
    if kind is Literal:
        if value not in args:
            raise _wrong(f"one of {', '.join(args)}", value, where)
        return value
    if kind is tuple:
        return _tuple(args, value, where)
    if not _is(hint, value):
        raise _wrong(_NAMES[hint], value, where)
    return value


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong("a list", value, where)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise _wrong(f"a list of {len(hints)}", value, where)
    return tuple(
        _value(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )


def _is(kind: type, value: Any) -> bool:
    """Whether a value is of that type; an integer is a number too, true and false are none."""
    if isinstance(value, bool):
        return kind is bool
    if kind is not float:
        return isinstance(value, kind)
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _wrong(expected: str, got: Any, where: str) -> InputError:
    return InputError(f"expected {expected} at {where}, got {got!r:.80}")
