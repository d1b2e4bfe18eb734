"""The OpenAPI document, from the same types that the dialects read and write. Serves nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

from pydantic import TypeAdapter

from polyrank.server.dialect import Dialect, Endpoint, Page

__all__ = ["openapi_document"]

Paths = Mapping[str, Sequence[tuple[Dialect, Endpoint]]]
Pages = Mapping[str, tuple[Dialect, Page]]


class _Schemas:
    """Schemas of types, each under its dialect's name."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def of(self, dialect: Dialect, kind: Any, mode: Literal["validation", "serialization"]) -> Any:
        """Where the type's schema is."""
        schema = TypeAdapter(kind).json_schema(
            mode=mode, ref_template=f"#/components/schemas/{dialect.name}.{{model}}"
        )
        for name, own in schema.pop("$defs", {}).items():
            self.found[f"{dialect.name}.{name}"] = own
        name = schema.get("title")
        if schema.get("type") != "object" or not name:
            return schema
        self.found[f"{dialect.name}.{name}"] = schema
        return {"$ref": f"#/components/schemas/{dialect.name}.{name}"}


def openapi_document(paths: Paths, pages: Pages, *, keys_needed: bool) -> dict[str, Any]:
    """The document for the endpoints and pages that are served."""
    schemas = _Schemas()
    operations: dict[str, dict[str, Any]] = {}
    for path, offers in paths.items():
        operations.setdefault(path, {})["post"] = _post(path, offers, schemas, keys_needed)
    for path, (dialect, page) in pages.items():
        operations.setdefault(path, {})["get"] = _get(path, dialect, page, schemas, keys_needed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "polyrank",
            "version": version("polyrank"),
            "description": "Reranking, in the wire formats that clients already speak.",
        },
        "paths": operations,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(
    path: str, offers: Sequence[tuple[Dialect, Endpoint]], schemas: _Schemas, keys: bool
) -> dict[str, Any]:
    bodies = [schemas.of(d, e.body, "validation") for d, e in offers]
    answers = [schemas.of(d, e.response, "serialization") for d, e in offers]
    errors = [schemas.of(d, d.error_body, "serialization") for d, _ in offers]
    return {
        "operationId": _identifier("post", path),
        "tags": [d.name for d, _ in offers],
        "summary": " or ".join(d.about for d, _ in offers),
        "requestBody": {"required": True, "content": _json(bodies)},
        "responses": {
            "200": {"description": "Scores.", "content": _json(answers)},
            "default": {
                "description": "No scores, and why.",
                "content": _json(errors) | {"text/plain": {"schema": {"type": "string"}}},
            },
        },
        **({"security": [{"key": []}]} if keys else {}),
    }


def _get(path: str, dialect: Dialect, page: Page, schemas: _Schemas, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if page.response is not None:
        content = _json([schemas.of(dialect, page.response, "serialization")])
    errors = _json([schemas.of(dialect, dialect.error_body, "serialization")])
    return {
        "operationId": _identifier("get", path),
        "tags": [dialect.name],
        "summary": page.about,
        "responses": {
            "200": {"description": page.about, "content": content},
            "default": {"description": "Not so, and why.", "content": errors},
        },
        **({"security": [{"key": []}]} if keys and not page.public else {}),
    }


def _json(schemas: Iterable[Any]) -> dict[str, Any]:
    several = list(schemas)
    return {"application/json": {"schema": several[0] if len(several) == 1 else {"anyOf": several}}}


def _identifier(method: str, path: str) -> str:
    return "_".join([method, *(part.replace("-", "_") for part in path.split("/") if part)])
