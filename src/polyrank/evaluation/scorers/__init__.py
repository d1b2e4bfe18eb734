"""Anything that scores pairs, as the evaluation drives it. One file for each kind."""

from polyrank.evaluation.scorers.opening import ScorerSpec, open_judge

__all__ = ["ScorerSpec", "open_judge"]
