"""Groups -> packed batches with what the losses need. Tokens and NumPy; no network.

A group is never split: its texts compete with each other in one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.tokenization import PairTokenizer, Truncation
from polyrank.training.groups import Group
from polyrank.training.sampling import Part
from polyrank.values import Batch, Encoding, pack

__all__ = ["GroupBatch", "pack_groups", "share_cut"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupBatch:
    """Whole groups laid end to end: G groups, S pairs."""

    batch: Batch
    groups: tuple[Group, ...]
    """[G] in the order of the batch."""
    cut: int = 0
    """How many of the pairs were cut to their part's limit."""

    @property
    def sizes(self) -> list[int]:
        """[G] pairs of each group; they add up to S."""
        return [len(g.texts) for g in self.groups]

    @property
    def tokens(self) -> int:
        """What the batch costs."""
        return len(self.batch.ids)


def share_cut(batches: Sequence[GroupBatch]) -> float:
    """The share of the batches' pairs that were cut."""
    return sum(b.cut for b in batches) / max(1, sum(sum(b.sizes) for b in batches))


def pack_groups(
    drawn: Sequence[tuple[Group, Part]], tokenizer: PairTokenizer, max_batch_tokens: int
) -> list[GroupBatch]:
    """Tokenise groups and pack them, longest first, each batch filled up to the budget.

    A group over the budget makes a batch of its own.
    """
    encoded: list[list[Encoding]] = []
    prompt = tokenizer.stated.prompt
    ids = tokenizer.tokenize([text for g, _ in drawn for text in (prompt + g.query, *g.texts)])
    at = 0
    for group, part in drawn:
        truncation = Truncation(max_length=part.max_length)
        query, *texts = ids[at : at + 1 + len(group.texts)]
        encoded.append([tokenizer.assemble(query, text, truncation) for text in texts])
        at += 1 + len(group.texts)
    lengths = [sum(map(len, pairs)) for pairs in encoded]
    # Groups of like pair length share a batch, so that attention pads least.
    order = sorted(range(len(drawn)), key=lambda g: (-max(map(len, encoded[g])), g))
    batches, chosen = [], list[int]()
    for g in order:
        if chosen and sum(lengths[c] for c in chosen) + lengths[g] > max_batch_tokens:
            batches.append(chosen)
            chosen = []
        chosen.append(g)
    batches.append(chosen)
    return [
        GroupBatch(
            batch=pack([pair for g in chosen for pair in encoded[g]]),
            groups=tuple(drawn[g][0] for g in chosen),
            cut=sum(pair.truncated for g in chosen for pair in encoded[g]),
        )
        for chosen in batches
    ]
