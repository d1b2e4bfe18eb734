"""Pairs of many callers, batched together and run by its workers."""

from polyrank.engine.engine import Engine, Forward, Health, OnForward

__all__ = ["Engine", "Forward", "Health", "OnForward"]
