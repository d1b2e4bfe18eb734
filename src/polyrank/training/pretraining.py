"""A pre-training run from its config: the front that a command calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from polyrank.checkpoint import Checkpoint, load_checkpoint
from polyrank.config import parse_config
from polyrank.stated import read_json
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import read_object, to_mapping
from polyrank.training.logs import duration_text
from polyrank.training.loop import Progress
from polyrank.training.masked import Stage, build_masked, build_objective, check_stages, pretrain
from polyrank.training.parallel import rank, wait
from polyrank.training.preview import tokens_per_second
from polyrank.training.state import write_json
from polyrank.training.texts import find_texts
from polyrank.training.typed import Rule, from_mapping

__all__ = [
    "PretrainConfig",
    "PretrainPreview",
    "preview_pretraining",
    "read_pretrain_config",
    "train_encoder",
]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A run that makes an encoder."""

    model: str
    """Folder with the shape, the tokenizer and, unless `from_scratch`, the weights."""
    text: str
    """Folder of LANGUAGE.txt, .txt.gz or .txt.xz."""
    stages: Annotated[tuple[Stage, ...], Rule("a list of at least one", bool)]
    """Short texts first, then long ones with a larger RoPE base."""
    mask_token: str = "<mask>"
    from_scratch: bool = False
    """Whether to begin with random weights."""


def read_pretrain_config(path: str | Path) -> PretrainConfig:
    """Read a JSON config. Raises InputError naming an unknown or missing key, or a wrong value."""
    return from_mapping(PretrainConfig, read_object(path), where=str(path))


def train_encoder(
    config: PretrainConfig,
    folder: str | Path,
    *,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> CrossEncoder:
    """Run, or go on with, the pre-training that `config` describes.

    Compressed texts are unpacked to `folder`/text; the encoder goes to `folder`/encoder. Raises
    InputError for texts that cannot be read, CheckpointError for such a model, and what
    `polyrank.training.masked.pretrain` raises.
    """
    folder = Path(folder)
    start = _start(config)
    check_stages(config.stages, start)
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        find_texts(config.text, folder / "text")
        write_json(folder / "config.json", to_mapping(config))
    wait()
    texts = find_texts(config.text, folder / "text")
    return pretrain(
        start, config.model, dict(texts), config.stages, folder,
        mask_token=config.mask_token, device=device, say=say, progress=progress,
    )  # fmt: skip


def _start(config: PretrainConfig) -> Checkpoint:
    if not config.from_scratch:
        return load_checkpoint(config.model, require_head=False)
    path = Path(config.model) / "config.json"
    source = read_json(path)
    shape = parse_config(source, where=str(path))
    seed = config.stages[0].seed if config.stages else 0
    return Checkpoint(
        config=shape, arrays=CrossEncoder.random(shape, seed=seed).arrays(), source=source
    )


@dataclass(frozen=True, kw_only=True)
class PretrainPreview:
    """The first step of each stage."""

    sequences: tuple[str, ...]
    """Of the first stage's first batch as the network reads them, decoded."""
    tokens_per_step: tuple[float, ...]
    """[stages]"""
    tokens: int
    """Of the whole run, as the first steps go."""
    seconds: float
    """Expected duration on this machine."""

    def lines(self) -> list[str]:
        """The preview as text."""
        stages = enumerate(self.tokens_per_step, 1)
        return [
            *(f"text: {text}" for text in self.sequences),
            *(f"stage {n}: {tokens:.0f} tokens a step" for n, tokens in stages),
            f"the run: {self.tokens:,} tokens, {duration_text(self.seconds)}",
        ]


def preview_pretraining(
    config: PretrainConfig, *, sequences: int = 4, device: str = "cpu"
) -> PretrainPreview:
    """Build the first step of every stage, and time a forward and backward pass of each.

    Writes nothing that stays; compressed texts are unpacked to a temporary folder. Raises what the
    run itself would raise before its first step.
    """
    start = _start(config)
    check_stages(config.stages, start)
    tokenizer = PairTokenizer.from_folder(config.model)
    model = build_masked(start, device=device, seed=config.stages[0].seed)
    shown: list[str] = []
    per_step: list[float] = []
    seconds = 0.0
    with tempfile.TemporaryDirectory() as unpacked:
        texts = find_texts(config.text, unpacked)
        for stage in config.stages:
            objective = build_objective(stage, texts, tokenizer, config.mask_token)
            batches = objective.batches(0)
            per_step.append(sum(objective.size(b)[1] for b in batches))
            rate = tokens_per_second(model, objective, stage.loop.dtype, device)
            seconds += per_step[-1] * stage.loop.steps / rate
            if not shown:
                first = batches[0].batch
                bounds = zip(first.cu_lengths[:-1], first.cu_lengths[1:], strict=True)
                shown = [tokenizer.decode(first.ids[a:b]) for a, b in list(bounds)[:sequences]]
    steps = [stage.loop.steps for stage in config.stages]
    return PretrainPreview(
        sequences=tuple(shown),
        tokens_per_step=tuple(per_step),
        tokens=int(sum(n * t for n, t in zip(steps, per_step, strict=True))),
        seconds=seconds,
    )
