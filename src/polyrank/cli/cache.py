"""`polyrank cache`: conversions for the CPU engine that are kept on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import json_line, note
from polyrank.errors import InputError

__all__ = ["cache"]

cache = typer.Typer(
    name="cache",
    help="Show or remove conversions: a model that runs on the CPU is converted once, and kept.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@cache.command("list")
def list_(as_json: o.AsJson = False) -> None:
    """List the conversions: model, dtype, size, folder."""
    from polyrank.onnx_backend.conversions import cached_conversions

    total = 0
    for c in cached_conversions():
        total += c.bytes
        if as_json:
            row = {"model": c.model, "revision": c.revision, "dtype": c.dtype}
            print(json_line({**row, "bytes": c.bytes, "path": str(c.path)}))
        else:
            print(f"{c.model}\t{c.dtype}\t{c.bytes / 1e6:.0f} MB\t{c.path}")
    note(f"{total / 1e6:.0f} MB in all")


@cache.command()
def clear(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Only those of this model.", show_default=False),
    ] = None,
) -> None:
    """Remove conversions; they are made again when they are needed."""
    from polyrank.onnx_backend.conversions import clear_conversions

    removed = clear_conversions(model)
    if model is not None and not removed:
        raise InputError(
            f"expected a conversion of {model} to remove, found none; `polyrank cache list` shows "
            "what there is"
        )
    note(f"removed {len(removed)} conversions, {sum(c.bytes for c in removed) / 1e6:.0f} MB")
