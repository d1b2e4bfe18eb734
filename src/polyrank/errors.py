"""Every exception that polyrank raises on purpose. It knows no other room.

PolyrankError
├── InputError (ValueError)              what the caller passed cannot be scored
│   └── TooLongError                     a pair is over the token limit and cutting was not allowed
├── ModelError                           a model cannot be used
│   ├── ModelNotFoundError               no folder, hub repository or embedded model of that name
│   └── CheckpointError                  files are broken, incomplete or of an unknown kind
├── BackendError (RuntimeError)          a device, dtype or kernel cannot do what was asked
│   └── MissingDependencyError (ImportError)   an optional package is not installed
└── EngineError (RuntimeError)           the engine could not answer
    ├── EngineStoppedError               it was not started, was closed, or its worker died
    └── QueueFullError                   the queue is at its limit in tokens; try again later
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CheckpointError",
    "EngineError",
    "EngineStoppedError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "ModelNotFoundError",
    "PolyrankError",
    "QueueFullError",
    "TooLongError",
]


class PolyrankError(Exception):
    """Base of every error that polyrank raises on purpose."""


class InputError(PolyrankError, ValueError):
    """What the caller passed cannot be scored; the message names the place."""


class TooLongError(InputError):
    """A pair is longer than the limit in tokens and `on_overflow="error"` forbids cutting."""


class ModelError(PolyrankError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError):
    """No local folder, hub repository or embedded model has that name."""


class CheckpointError(ModelError):
    """A checkpoint's files are broken, incomplete, or of a kind polyrank does not know."""


class BackendError(PolyrankError, RuntimeError):
    """A device, dtype or kernel cannot do what was asked."""


class MissingDependencyError(BackendError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class EngineError(PolyrankError, RuntimeError):
    """The engine could not answer."""


class EngineStoppedError(EngineError):
    """The engine is not running: never started, closed, or its worker died."""


class QueueFullError(EngineError):
    """The queue is at its limit in tokens; nothing of the request was admitted."""
