"""Bodies that are wrong in every way a client can think of, and what an answer to them must be.

Seeded: the same source of chance gives the same bodies. Sends nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from pydantic import TypeAdapter

from polyrank.server.dialect import Dialect
from polyrank.server.dialects import find_dialects

__all__ = ["Body", "bodies", "check_answer", "good_bodies"]

_TEXTS = {"query": "w10 w11 w12", "documents": ["w20 w21", "w10 w12 w30 w31", "w40"]}
_TEI = {"query": "w10 w11 w12", "texts": ["w20 w21", "w10 w12 w30 w31", "w40"]}
_NAMED = {"model": "m", **_TEXTS}
GOOD: dict[str, dict[str, Any]] = {
    "/tei/rerank": _TEI,
    "/tei/invocations": {**_TEI, "raw_scores": True},
    "/tei/predict": {"inputs": [["w10 w11", "w20"], ["w10 w11", "w12"]]},
    "/cohere/v2/rerank": {**_NAMED, "top_n": 2, "max_tokens_per_doc": 10},
    "/cohere/v1/rerank": {**_TEXTS, "documents": [{"text": "w20"}, "w10"], "rank_fields": ["text"]},
    "/jina/v1/rerank": {**_NAMED, "top_n": 2, "return_documents": True},
    "/voyage/v1/rerank": {**_NAMED, "top_k": 2},
    "/dashscope/api/v1/services/rerank/text-rerank/text-rerank": {
        "model": "m", "input": _TEXTS, "parameters": {"top_n": 2},
    },
    "/dashscope/reranks": {**_NAMED, "top_n": 2},
    "/dashscope/compatible-api/v1/reranks": _NAMED,
    "/vllm/rerank": _NAMED,
    "/vllm/v1/rerank": {**_NAMED, "query": {"content": [{"type": "text", "text": "w10"}]}},
    "/vllm/score": {"queries": "w10", "documents": ["w11", "w12"]},
    "/vllm/v1/score": {"model": "m", "text_1": ["w10", "w11"], "text_2": ["w11", "w12"]},
    "/infinity/rerank": _TEXTS,
}  # fmt: skip
"""A right body for each path under a dialect's name."""

JSON = "application/json"
FIELDS = (
    "query", "documents", "texts", "inputs", "input", "parameters", "model", "top_n", "top_k",
    "truncate", "truncation", "truncation_direction", "truncation_side", "priority", "rank_fields",
    "return_documents", "return_text", "raw_scores", "max_tokens_per_doc", "max_doc_length",
    "max_chunks_per_doc", "truncate_prompt_tokens", "use_activation", "relevant_spans", "text_1",
    "text_2", "queries", "items", "data_1", "data_2", "instruct", "instruction",
    "max_tokens_per_query", "return_embeddings", "", "\x00", "__class__", "$ref",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 1.5, -0.0, 10**30, -(10**400), 1 << 63, 1e308, 5e-324, "", " ",
    "\x00", "\u3000\n", "\ud800", "w1\udfff", "\ufeffw1", "w1 " * 50, "\U0010ffff", [], {}, [[]],
    [None], [{}], {"text": 1}, {"text": "w1"}, ["w1", 2], ["w1", ["w1"]], {"": ""},
    {"content": [{"type": "x"}]}, {"content": [{"type": "text", "text": "w1"}]},
)  # fmt: skip
TYPES = (
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=utf-16", "application/octet-stream", "\xff", "application/json, x",
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """What is sent. `content_type`: None for none."""

    data: bytes
    content_type: str | None = JSON
    kind: str = ""


def bodies(good: dict[str, Any], source: Random) -> Iterator[Body]:
    """Bodies without end, from one that is right."""
    while True:
        kind = source.choice(list(_WAYS))
        data = _WAYS[kind](good, source)
        yield Body(data, source.choice(TYPES) if kind == "content_type" else JSON, kind)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _wrong_types(value: Any, source: Random) -> Any:
    if source.random() < 0.2:
        return source.choice(ODD)
    if isinstance(value, dict):
        row = {k: _wrong_types(v, source) for k, v in value.items() if source.random() > 0.1}
        return row | {source.choice(FIELDS): source.choice(ODD)}
    return [_wrong_types(v, source) for v in value] if isinstance(value, list) else value


def _nulls(value: Any, source: Random) -> Any:
    if source.random() < 0.4:
        return None
    if isinstance(value, dict):
        return {k: _nulls(v, source) for k, v in value.items()}
    return [_nulls(v, source) for v in value] if isinstance(value, list) else value


def _cut(good: dict[str, Any], source: Random) -> bytes:
    data = _dump(good)
    return data[: source.randrange(len(data))]


def _bytes_between(good: dict[str, Any], source: Random) -> bytes:
    data = _dump(good)
    for _ in range(source.randint(1, 3)):
        at = source.randrange(len(data) + 1)
        odd = source.choice(
            [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"}", b"]", b'"', b","]
        )
        data = data[:at] + odd + data[at + source.randint(0, 1) :]
    return data


def _raw_value(good: dict[str, Any], source: Random) -> bytes:
    """A field whose value json.dumps would not write."""
    raw = source.choice([
        b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"0x10", b"01", b"+1",
        b"1.", b".5", b"1_000", b"1" * 5000, b"-" + b"9" * 4000, b"1e4000", b"'w1'", b"undefined",
        b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u12"', b'"\\x41"', b'"\t"', b'"\\ud83d\\ude00"',
        b"tru", b"nulll", b"/* */1", b"[1,]", b'{"a":1,}', b"{a:1}",
    ])  # fmt: skip
    name = _dump(source.choice([*good, *FIELDS]))
    data = _dump(good)
    if source.random() < 0.3:  # within a list
        raw = b'["w1",' + raw + b"]"
    return data[:-1] + b"," + name + b":" + raw + b"}"


def _duplicate_keys(good: dict[str, Any], source: Random) -> bytes:
    rows = [*good.items()] + [(source.choice(list(good)), source.choice(ODD)) for _ in range(3)]
    source.shuffle(rows)
    return b"{" + b",".join(_dump(k) + b":" + _dump(v) for k, v in rows) + b"}"


def _deep(good: dict[str, Any], source: Random) -> bytes:
    levels = source.choice([50, 199, 201, 1000, 100_000])
    opened, closed = source.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"text":', b"}]")])
    deep = opened * levels + b'"w1"' + closed * source.choice([levels, levels - 1, 0])
    if source.random() < 0.3:
        return deep
    return _dump(good)[:-1] + b"," + _dump(source.choice([*good, *FIELDS])) + b":" + deep + b"}"


def _giant(good: dict[str, Any], source: Random) -> bytes:
    many = source.choice([1000, 20_000])
    giant = source.choice(
        ["w" * many, " " * many, "w1 " * many, "\x00" * many, "\u0301" * many, "\U0001f600" * many,
         [1] * many, [None] * many, [[]] * many, [""] * many, [{}] * many, {"text": ["w1"] * many},
         {"content": [{"type": "x"}] * many}, {str(n): n for n in range(many)}]
    )  # fmt: skip
    return _dump({**good, source.choice([*good, *FIELDS]): giant})


def _no_object(good: dict[str, Any], source: Random) -> bytes:
    return source.choice(
        [b"", b" \n", b"null", b"true", b"1", b'"w1"', b"[]", b"{}", b"[[]]", b"{}{}", b"\x00",
         b"[" + _dump(good) + b"]", _dump(good) * 2, b"query=w1&documents=w2", b"--x\r\n\r\n--x--"]
    )  # fmt: skip


def _encoded(good: dict[str, Any], source: Random) -> bytes:
    text = json.dumps(good)
    return source.choice(
        [b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.encode("utf-16-be"),
         text.encode("utf-32"), text.encode() + b"\xe2\x82", text.encode("cp037")]
    )  # fmt: skip


_WAYS: dict[str, Callable[[dict[str, Any], Random], bytes]] = {
    "wrong_types": lambda good, source: _dump(_wrong_types(good, source)),
    "more_wrong_types": lambda good, source: _dump(
        _wrong_types(_wrong_types(good, source), source)
    ),
    "nulls": lambda good, source: _dump(_nulls(good, source)),
    "unexpected_fields": lambda good, source: _dump(
        good | {source.choice(FIELDS): source.choice(ODD) for _ in range(4)}
    ),
    "cut": _cut,
    "bytes_between": _bytes_between,
    "raw_value": _raw_value,
    "duplicate_keys": _duplicate_keys,
    "deep": _deep,
    "giant": _giant,
    "no_object": _no_object,
    "encoded": _encoded,
    "content_type": lambda good, source: _dump(good),
}


def good_bodies(dialect: Dialect) -> dict[str, dict[str, Any]]:
    """A right body for each path of a dialect: under its name, and at the root where it likes."""
    named = {f"/{dialect.name}{e.path}": e for e in dialect.endpoints}
    found = {path: GOOD[path] for path in named}
    return found | {e.path: GOOD[path] for path, e in named.items() if e.at_root}


def check_answer(path: str, status: int, content_type: str, data: bytes) -> None:
    """Raise AssertionError unless an answer is of the form of a dialect that is served there."""
    assert status == 200 or 400 <= status < 500, status
    assert b"Traceback" not in data
    text = data.decode("utf-8")
    value = json.loads(text) if content_type.startswith(JSON) else text
    for adapter in _forms(path, status == 200):
        try:
            valid = adapter.validate_python(value, strict=True)
        except ValueError:
            continue
        if valid == value:  # unknown keys would be gone
            return
    raise AssertionError(f"{status} {text[:500]} has the form of no dialect at {path}")


@cache
def _forms(path: str, answered: bool) -> list[TypeAdapter[Any]]:
    """The types of answers, or of errors, at a path: to the letter, no number as a text."""
    return [
        TypeAdapter(e.response if answered else d.error_body)
        for d in find_dialects()
        for e in d.endpoints
        if path == f"/{d.name}{e.path}" or (e.at_root and path == e.path)
    ]
