"""`polyrank pretrain`: plain text in, an encoder out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.runs import check_begun, require_torch, running

if TYPE_CHECKING:
    from polyrank.training.pretraining import PretrainConfig

__all__ = ["pretrain"]


def pretrain(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="A run of one or more stages as JSON: `model`, `text`, `stages`; or one stage by "
            "the options.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The encoder to start from: a folder, a hub id or a short name."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FOLDER", help="LANGUAGE.txt files, also .gz and .xz."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where encoder, state and log go."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of the run; 1000, unless given.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", min=8, metavar="TOKENS", help="Of a sequence; 256, unless given."
        ),
    ] = None,
    rope_theta: Annotated[
        float | None,
        typer.Option("--rope-theta", min=1, help="RoPE's base; the model's own, unless given."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", min=0, help="The highest one of the run; 0.0002, unless given."
        ),
    ] = None,
    mask_token: Annotated[
        str | None,
        typer.Option(
            "--mask-token", help="As the vocabulary has it, [MASK] for BERT; <mask>, unless given."
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Begin with random weights; of the model only shape and tokenizer are used.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the first texts as the network reads them, tokens, duration; write nothing.",
        ),
    ] = False,
    device: o.Device = "auto",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Train an encoder on plain text by guessing masked words, before it learns to rerank.

    FOLDER/encoder is the model that `polyrank train --recipe encoder --model FOLDER/encoder` takes.
    Long texts come last, in a second stage with a larger RoPE base: a CONFIG of two stages, or a
    second run that starts from the first one's encoder.

    The same command goes on where an interrupted one stopped. Ctrl-C waits for the end of the step
    and keeps it; after a kill, the last checkpoint counts.

    Examples:

      polyrank pretrain --model my-encoder --text texts --max-length 512 --out short

      polyrank pretrain --model short/encoder --text texts --max-length 2048 --rope-theta 160000
      --out long
    """
    stage = (steps, max_length, rope_theta, learning_rate, mask_token, from_scratch or None)
    if config is not None and any(option is not None for option in (model, text, *stage)):
        raise typer.BadParameter(
            "expected a CONFIG that says all of the run, got options beside it"
        )
    if config is None and (model is None or text is None):
        raise typer.BadParameter("expected CONFIG, or --model and --text")
    if out is None and not dry_run:
        raise typer.BadParameter("expected --out FOLDER, or --dry-run to only look, got neither")
    require_torch()
    from dataclasses import replace

    from polyrank.models import find_model
    from polyrank.torch_backend.runner import choose_device, limit_threads
    from polyrank.training.config import to_mapping
    from polyrank.training.pretraining import (
        PretrainConfig,
        preview_pretraining,
        read_pretrain_config,
    )
    from polyrank.training.typed import from_mapping

    device = str(choose_device(device))
    limit_threads(threads)
    if config is not None:
        run = read_pretrain_config(config)
    else:
        loop = {
            "steps": steps or 1000,
            "learning_rate": 2e-4 if learning_rate is None else learning_rate,
            "train_embeddings": True,
        }
        row = {
            "model": model,
            "text": str(text),
            "stages": [{"loop": loop, "max_length": max_length or 256, "rope_theta": rope_theta}],
            "mask_token": mask_token or "<mask>",
            "from_scratch": from_scratch,
        }
        run = from_mapping(PretrainConfig, row, where="the options")
    run = replace(run, model=str(find_model(run.model, offline=offline or None).path))
    if out is None or dry_run:
        for line in preview_pretraining(run, device=device).lines():
            print(line)
        return
    check_begun(out, to_mapping(run))
    _pretrain(run, out, device)


def _pretrain(run: PretrainConfig, out: Path, device: str) -> None:
    from polyrank.training.pretraining import train_encoder

    with running(out, device) as (own, watch):
        train_encoder(run, out, device=own, say=watch.say, progress=watch.progress)
    watch.finished(out / "encoder")
