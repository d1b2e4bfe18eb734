"""How many operations a network needs for pairs, and the shapes of its products. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence

from polyrank.config import EncoderConfig

__all__ = ["layer_shapes", "operations"]


def operations(config: EncoderConfig, lengths: Sequence[int]) -> int:
    """Operations of matrix products for pairs of these lengths in tokens, none left out.

    A product of [m, k] by [k, n] counts 2 m k n. The last layer counts in full, though all but a
    pair's first token can be left out there: so a backend that saves work shows a higher rate.
    """
    D, F = config.hidden_size, config.intermediate_size
    weights = 4 * D * D + (3 if config.gated else 2) * D * F
    linear = 2 * sum(lengths) * weights
    attention = 4 * sum(n * n for n in lengths) * D
    return (linear + attention) * config.num_layers


def layer_shapes(config: EncoderConfig) -> list[tuple[int, int]]:
    """(what is summed over, columns) of the products of tokens with a layer's weights."""
    D, F = config.hidden_size, config.intermediate_size
    return [(D, D), (D, F), (F, D)]
