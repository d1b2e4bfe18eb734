"""Pairs of many callers, batched together and run by one worker."""

from polyrank.engine.engine import Engine, Health

__all__ = ["Engine", "Health"]
