"""Multilingual, long-context reranking on your own machine.

>>> from polyrank import Reranker
>>> with Reranker(model) as reranker:
...     ranking = reranker.rank("w1 w2", ["w3 w4", "w1 w2 w5"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.calibration import Calibration
    from polyrank.errors import InputError, ModelError, PolyrankError, TooLongError
    from polyrank.reranker import Reranker
    from polyrank.values import Ranked, Ranking

    __version__: str

_HOMES = {
    "Calibration": "polyrank.calibration",
    "InputError": "polyrank.errors",
    "ModelError": "polyrank.errors",
    "PolyrankError": "polyrank.errors",
    "Ranked": "polyrank.values",
    "Ranking": "polyrank.values",
    "Reranker": "polyrank.reranker",
    "TooLongError": "polyrank.errors",
}

__all__ = [
    "Calibration",
    "InputError",
    "ModelError",
    "PolyrankError",
    "Ranked",
    "Ranking",
    "Reranker",
    "TooLongError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # PEP 562: a name's room is imported when it is first used, so that importing stays cheap.
    if name == "__version__":
        from importlib.metadata import version

        return version("polyrank")
    if name not in _HOMES:
        raise AttributeError(f"module 'polyrank' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
