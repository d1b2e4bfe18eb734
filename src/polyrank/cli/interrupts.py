"""SIGTERM ends a command as Ctrl-C does: what is begun is cleared away or kept for the next run."""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["Terminated", "exit_code", "heed_sigterm", "interrupt"]


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def interrupt(number: int) -> KeyboardInterrupt:
    """What a signal is raised as."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count: 143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def heed_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise interrupt(number)
