"""Masked language modelling: an encoder from text alone (mGTE, arXiv 2407.19669, section 2.2).

No next-sentence task; packed sequences; the vocabulary's logits are computed at the masked places
only, which is most of what a large vocabulary costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from polyrank.checkpoint import Checkpoint
from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.config import LoopConfig
from polyrank.training.loop import Progress, train
from polyrank.training.objective import forward_inputs
from polyrank.training.parallel import rank, wait
from polyrank.training.state import export_model
from polyrank.training.texts import TextMixture
from polyrank.training.typed import Count, Natural, Positive, Rule, Share
from polyrank.values import Batch, pack

__all__ = [
    "MaskedBatch",
    "MaskedLanguageModel",
    "MaskedText",
    "Stage",
    "build_masked",
    "build_objective",
    "check_stages",
    "pretrain",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of pre-training: short texts first, then long ones with a larger RoPE base."""

    loop: LoopConfig
    max_length: Annotated[int, Rule("an integer of at least 8", lambda n: n >= 8)]
    """Of a sequence, in tokens."""
    rope_theta: Positive | None = None
    """RoPE's base; None: the checkpoint's own."""
    sequences_per_step: Count = 64
    max_batch_tokens: Count = 8192
    """Tokens of one forward pass; a step is as many as its sequences need."""
    masked_share: Share = 0.3
    """Of the tokens that are not special ones."""
    seed: Natural = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedBatch:
    """A packed batch with places to guess. M of them."""

    batch: Batch
    places: npt.NDArray[np.int64]
    """[M] index of each masked token in the batch."""
    answers: npt.NDArray[np.int32]
    """[M] what stood there."""


class MaskedLanguageModel(nn.Module):
    """An encoder and BERT's head for it; the output matrix is the word table."""

    def __init__(self, encoder: CrossEncoder) -> None:
        super().__init__()
        D = encoder.config.hidden_size
        self.encoder = encoder
        self.dense = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=encoder.config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    def forward(self, batch: MaskedBatch) -> torch.Tensor:
        """[M, V] logits at the masked places."""
        device = self.bias.device
        x_TD = self.encoder.hidden_states(*forward_inputs(batch.batch, device))[-1]
        x_MD = x_TD[torch.from_numpy(batch.places).to(device)]
        x_MD = self.norm(functional.gelu(self.dense(x_MD)))
        return functional.linear(x_MD, self.encoder.embeddings.word.weight, self.bias)


class MaskedText:
    """The objective: guess the masked tokens of texts from a mixture."""

    def __init__(
        self, texts: TextMixture, stage: Stage, *, mask_id: int, special: Sequence[int]
    ) -> None:
        self._texts, self._stage = texts, stage
        self._mask_id = mask_id
        self._special = np.array(sorted(set(special)), np.int32)

    def batches(self, step: int) -> list[MaskedBatch]:
        """The step's sequences, masked anew each time they come."""
        stage = self._stage
        rng = np.random.default_rng((stage.seed, 3, step))
        chunks = self._texts.step(step, stage.sequences_per_step, stage.max_batch_tokens)
        return [self._mask(pack(chunk), rng) for chunk in chunks]

    def size(self, batch: MaskedBatch) -> tuple[int, int]:
        """(masked tokens, tokens)"""
        return len(batch.places), len(batch.batch.ids)

    def loss(self, model: Any, batch: MaskedBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the cross-entropies of the masked tokens."""
        logits_MV = model(batch).float()
        answers_M = torch.from_numpy(batch.answers).to(logits_MV.device, torch.long)
        total = functional.cross_entropy(logits_MV, answers_M, reduction="sum")
        hits = float((logits_MV.argmax(1) == answers_M).sum())
        return total, {"mlm": float(total.detach()), "hits": hits, "masked": len(answers_M)}

    def _mask(self, batch: Batch, rng: np.random.Generator) -> MaskedBatch:
        """Of the masked places 80 % read <mask>, 10 % a token from elsewhere, 10 % themselves."""
        open_places = np.flatnonzero(~np.isin(batch.ids, self._special))
        # At least one, so that no batch is without items.
        n = max(1, round(len(open_places) * self._stage.masked_share)) if len(open_places) else 0
        places = np.sort(rng.choice(open_places, n, replace=False)) if n else open_places[:0]
        kind = rng.random(n)
        ids = batch.ids.copy()
        ids[places[kind < 0.8]] = self._mask_id
        random = places[(kind >= 0.8) & (kind < 0.9)]
        ids[random] = batch.ids[rng.choice(open_places, len(random))] if len(random) else []
        return MaskedBatch(batch=replace(batch, ids=ids), places=places, answers=batch.ids[places])


def build_masked(start: Checkpoint, *, device: str, seed: int) -> MaskedLanguageModel:
    """The encoder of a checkpoint, without its head if it has one, under a new vocabulary head."""
    arrays = {n: a for n, a in start.arrays.items() if not n.startswith("head.")}
    encoder = CrossEncoder.from_checkpoint(replace(start, arrays=arrays), device=device)
    torch.manual_seed(seed)
    return MaskedLanguageModel(encoder).to(device)


def build_objective(
    stage: Stage, texts: Mapping[str, str | Path], tokenizer: PairTokenizer, mask_token: str
) -> MaskedText:
    """A stage's texts and masks. Raises CheckpointError where there is no such mask token, and
    InputError for a text file that cannot be read."""
    t = tokenizer.template
    mixture = TextMixture(texts, tokenizer, max_length=stage.max_length, seed=stage.seed)
    special = (*t.prefix, *t.middle, *t.suffix)
    return MaskedText(mixture, stage, mask_id=tokenizer.token_id(mask_token), special=special)


def pretrain(
    start: Checkpoint,
    tokenizer_folder: str | Path,
    texts: Mapping[str, str | Path],
    stages: Sequence[Stage],
    folder: str | Path,
    *,
    mask_token: str = "<mask>",
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> CrossEncoder:
    """Train an encoder on text, stage after stage; each stage resumes by itself.

    `texts` is language -> a plain file. The last stage's encoder is written to `folder`/encoder.
    Raises InputError without a stage and for sequences the model has no room for, CheckpointError
    where the vocabulary lacks `mask_token`, and what `polyrank.training.loop.train` raises.
    """
    folder = Path(folder)
    tokenizer = PairTokenizer.from_folder(tokenizer_folder)
    check_stages(stages, start)
    model = build_masked(start, device=device, seed=stages[0].seed)
    encoder = model.encoder
    for i, stage in enumerate(stages):
        if stage.rope_theta is not None:
            encoder.config = replace(encoder.config, rope_theta=stage.rope_theta)
        objective = build_objective(stage, texts, tokenizer, mask_token)
        train(model, objective, stage.loop, folder / f"stage-{i + 1}", say=say, progress=progress)
    if rank() == 0:
        export_model(folder / "encoder", encoder, start, Path(tokenizer_folder))
    wait()
    return encoder


def check_stages(stages: Sequence[Stage], start: Checkpoint) -> None:
    """Raise InputError for stages that the model cannot go through."""
    if not stages:
        raise InputError("expected at least one stage of pre-training, got none")
    most = start.config.max_positions
    for number, stage in enumerate(stages, 1):
        if stage.max_length > most:
            raise InputError(
                f"expected a max_length of at most {most} tokens, the model's limit, got "
                f"{stage.max_length} in stage {number}"
            )
        if stage.rope_theta is not None and start.config.rope_theta is None:
            raise InputError(
                f"expected no rope_theta for a {start.config.family} model, which has no RoPE, got "
                f"{stage.rope_theta} in stage {number}"
            )
