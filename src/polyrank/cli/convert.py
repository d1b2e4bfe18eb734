"""`polyrank convert`: a model's folder in the layout that another tool reads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import note
from polyrank.errors import InputError
from polyrank.stated import COMPANIONS, read_json

__all__ = ["Layout", "Packed", "convert"]

_COPIED = (
    "tokenizer.json",
    *COMPANIONS,
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "README.md",
    "LICENSE",
)


class Layout(str, Enum):
    """Names of tensors and keys of config.json."""

    official = "official"
    native = "native"


class Packed(str, Enum):
    """Dtypes of the linear layers of a packed model."""

    fp32 = "fp32"
    int8 = "int8"


def convert(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, a hub id (owner/name) or a short name."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="official: the one of the mGTE release. native: the one of transformers.",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Packed | None,
        typer.Option(
            "--onnx",
            help="Pack the model for the CPU engine, in this dtype.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace OUT where it is a model's folder.")
    ] = False,
    revision: o.Revision = None,
    offline: o.Offline = False,
    debug: o.Debug = False,
) -> None:
    """Write a model's folder in the layout that another tool reads, or packed for the CPU engine.

    With --layout the numbers stay what they are; bf16 weights are written in fp32, which is exact.
    With --onnx the folder holds the packed graph and its weights, int8 or fp32, compared with a
    plain computation on sample pairs before it is put in place; every backend reads it.
    Tokenizer files, README.md and LICENSE are copied. OUT appears complete or not at all.

    Examples:

      polyrank convert gte-multilingual-reranker-base ./gte-native --layout native

      polyrank convert gte-multilingual-reranker-base ./gte-int8 --onnx int8
    """
    if (layout is None) == (onnx is None):
        raise typer.BadParameter("expected --layout or --onnx, one of them")
    from polyrank.checkpoint import load_checkpoint, save_checkpoint
    from polyrank.models import find_model, fingerprint

    found = find_model(model, revision=revision, offline=offline or None)
    source = found.path
    _check_out(out, source, force)
    checkpoint = load_checkpoint(source)
    with _written_aside(out) as folder:
        for name in _COPIED:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        if layout is not None:
            save_checkpoint(folder, checkpoint, layout=layout.value)
            done = f"in the {layout.value} layout"
        else:
            assert onnx is not None
            from polyrank.onnx_backend.files import write_packed

            shutil.copyfile(source / "config.json", folder / "config.json")
            written = write_packed(
                folder,
                checkpoint,
                onnx.value,
                source=found.name,
                source_hash=fingerprint(source),
                say=note,
            )
            done = (
                f"packed in {onnx.value}: {written.bytes / 1e6:.0f} MB, logits within "
                f"{written.largest_difference:.1e} on {written.pairs} sample pairs"
            )
    note(f"wrote {out} {done}")


def _check_out(out: Path, source: Path, force: bool) -> None:
    """Raise InputError where writing OUT would destroy more than an earlier conversion."""
    if out.exists() and not out.is_dir():
        raise InputError(f"expected a folder to write at {out}, got a file")
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"expected OUT outside of the model, got {out}, which holds {source}")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise InputError(f"expected a new or empty folder at {out}, got files; pass --force")
    if not (out / "config.json").is_file() or "model_type" not in read_json(out / "config.json"):
        raise InputError(
            f"expected a model's folder to replace at {out}, found no config.json of a model"
        )
    if folders := sorted(p.name for p in out.iterdir() if p.is_dir()):
        raise InputError(
            f"expected a model's folder without others in it to replace at {out}, found "
            f"{', '.join(folders[:3])}; remove {out} yourself, or give another OUT"
        )


@contextmanager
def _written_aside(out: Path) -> Iterator[Path]:
    """A folder beside OUT that takes its place when everything in it is written."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
        new, old = Path(aside, "new"), Path(aside, "old")
        new.mkdir()
        yield new
        try:
            if out.exists():
                out.rename(old)
            new.rename(out)
        except BaseException:
            if old.exists() and not out.exists():
                old.rename(out)
            raise
