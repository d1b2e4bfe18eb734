"""Options that commands share, and the Reranker they ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from polyrank.reranker import Reranker
    from polyrank.tokenization import OnOverflow as OnOverflowName

__all__ = [
    "AsJson",
    "Backend",
    "CalibrationFile",
    "Debug",
    "Device",
    "Dtype",
    "MaxLength",
    "Model",
    "Offline",
    "OnOverflow",
    "Query",
    "Revision",
    "Threads",
    "open_reranker",
    "overflow",
    "wants_debug",
]

_PANEL = "Model"
_DEBUG = "polyrank.debug"


def _keep_debug(ctx: typer.Context, debug: bool) -> bool:
    if debug:
        ctx.meta[_DEBUG] = True  # shared by a command and its group
    return debug


def wants_debug(ctx: typer.Context) -> bool:
    """Whether --debug was given, before or after the command's name."""
    return bool(ctx.meta.get(_DEBUG))


def _as_utf8(query: str) -> str:
    """The argument's bytes as UTF-8, whatever the locale made of them."""
    try:
        query = os.fsencode(query).decode("utf-8")
    except UnicodeError:
        raise typer.BadParameter("expected UTF-8, got other bytes") from None
    if not query.strip():
        raise typer.BadParameter("expected a query, got a blank one")
    return query


Query = Annotated[
    str,
    typer.Argument(
        metavar="QUERY", callback=_as_utf8, help="What is looked for.", show_default=False
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        rich_help_panel=_PANEL,
        help="A folder, a hub id (owner/name) or a short name; without it, the embedded model.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(rich_help_panel=_PANEL, help="Branch, tag or commit of a hub model."),
]
Backend = Annotated[str, typer.Option(rich_help_panel=_PANEL, help="auto, onnx (CPUs) or torch.")]
Dtype = Annotated[
    str,
    typer.Option(
        rich_help_panel=_PANEL,
        help="auto (fp16 on GPUs; on CPUs what the model came packed in, else fp32), fp32, int8 "
        "(onnx), bf16 or fp16 (torch).",
    ),
]
Device = Annotated[
    str, typer.Option(rich_help_panel=_PANEL, help="auto, cpu, cuda, cuda:N or mps.")
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="TOKENS",
        rich_help_panel=_PANEL,
        help="Limit of a pair; what is over it is cut from the document, and from a query that is "
        "over half of it. The model's own limit, unless given.",
    ),
]
OnOverflow = Annotated[
    str,
    typer.Option(
        "--on-overflow",
        rich_help_panel=_PANEL,
        help="What is done with a pair over the limit. truncate: its document is cut, which is "
        "told. windows: the document is read in overlapping parts, and the best one counts. "
        "error: the run ends.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", rich_help_panel=_PANEL, help="Never connect; use what is on this machine."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_PANEL,
        help="CPU threads; POLYRANK_THREADS, or as many as affinity and the container allow, "
        "unless given.",
    ),
]
CalibrationFile = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="What `polyrank calibrate` wrote for this model: scores are probabilities.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_keep_debug, help="Show the traceback of an error.")
]


def overflow(given: str) -> OnOverflowName:
    """--on-overflow as the library has it."""
    if given not in ("truncate", "windows", "error"):
        raise typer.BadParameter(
            f"expected truncate, windows or error, got {given!r}", param_hint="--on-overflow"
        )
    return cast("OnOverflowName", given)


def open_reranker(
    model: str | None,
    *,
    revision: str | None,
    backend: str,
    device: str,
    dtype: str,
    max_length: int | None,
    offline: bool,
    threads: int | None,
    on_overflow: str = "truncate",
    calibration: str | None = None,
) -> Reranker:
    """Load what the model options ask for. Imports the engine, which takes its time."""
    from polyrank.reranker import Reranker

    return Reranker(
        model,
        revision=revision,
        backend=backend,
        device=device,
        dtype=dtype,
        max_length=max_length,
        offline=offline or None,  # without the flag, HF_HUB_OFFLINE decides
        threads=threads,
        on_overflow=overflow(on_overflow),
        calibration=calibration,
    )
