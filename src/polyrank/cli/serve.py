"""`polyrank serve`: a model behind HTTP."""

from __future__ import annotations

import inspect
import os
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from polyrank.cli import options as o
from polyrank.errors import MissingDependencyError
from polyrank.server import ServerSettings, read_settings
from polyrank.server.settings import kind_of

__all__ = ["serve"]


def serve(**given: Any) -> None:
    """Serve a model over HTTP, in the formats that rerank clients already speak.

    One port answers as Hugging Face TEI (/rerank with `texts`, /predict, /info), Cohere
    (/v2/rerank, /v1/rerank), Jina (/v1/rerank), DashScope (text-rerank, /reranks), vLLM (/rerank
    with `documents`, /score), Voyage (/v1/rerank with `top_k`) and infinity (/infinity/rerank).
    Each is also under its own name: /cohere/v1/rerank. /health, /live and /metrics need no key;
    /openapi.json lists all.

    A setting is a flag, else its variable (POLYRANK_MAX_DOCUMENTS), else its line in the TOML
    file of --config or POLYRANK_CONFIG (max_documents = 500), else its default.

    Ctrl-C and SIGTERM end it once the requests under way are answered; new ones get 503
    meanwhile. A second signal ends it at once.

    Examples:

      polyrank serve

      polyrank serve -m bge-reranker-v2-m3 --dtype int8 --port 8080

      POLYRANK_API_KEY=secret polyrank serve --host 0.0.0.0 --config server.toml
    """
    config = given.pop("config")
    given.pop("debug")
    flags = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    settings = read_settings(
        {name: value for name, value in flags.items() if value != ()}, os.environ, config=config
    )
    try:
        from polyrank.server.run import serve as run_server
    except ImportError as error:
        raise MissingDependencyError(
            f"expected the server's packages, but {error.name} is not installed; install them "
            'with: pip install "polyrank[serve]"'
        ) from error
    run_server(settings, say=lambda line: print(line, flush=True))


def _parameter(setting: Field[Any]) -> inspect.Parameter:
    """A setting as an option of the same name; None: not given."""
    kind, _ = kind_of(setting)
    flag = f"--{setting.name.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    if setting.name == "model":
        names.append("-m")
    default = setting.default
    shown = "" if default in (None, ()) else f" (default: {str(default).lower()})"
    option = typer.Option(
        *names,
        help=setting.metadata["help"] + shown,
        rich_help_panel=setting.metadata["group"],
        show_default=False,
    )
    value = list[str] | None if kind is tuple else kind | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[value, option],
    )


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Settings as TOML.", show_default=False
        ),
    ],
)
_DEBUG = inspect.Parameter(
    "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=o.Debug
)
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_CONFIG, *map(_parameter, fields(ServerSettings)), _DEBUG]
)
