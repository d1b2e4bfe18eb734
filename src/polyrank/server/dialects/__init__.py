"""One file per wire format. A new one is its file: the `dialect` of every module here is served."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from polyrank.server.dialect import Dialect

__all__ = ["find_dialects"]


def find_dialects() -> list[Dialect]:
    """Every dialect of this package, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [import_module(f"{__name__}.{name}").dialect for name in names]
