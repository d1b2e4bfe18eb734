"""`polyrank serve`, but where a file is put, it refuses a request as when it is overloaded.

python tests/clients/stand.py MODEL FOLDER

It takes `FOLDER/refuse` away, answers 429, and writes into `FOLDER/waited` after how many seconds
the next request came.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from polyrank.server import read_settings, run

MODEL, FOLDER = sys.argv[1], Path(sys.argv[2])


class Service(run.Service):
    """A service that can be told to refuse."""

    refused = 0.0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        if self.refused:
            (FOLDER / "waited").write_text(str(monotonic() - self.refused))
            self.refused = 0.0
        if (FOLDER / "refuse").exists():
            (FOLDER / "refuse").unlink()
            self.refused = monotonic()
            raise self._overloaded("too many requests are under way")
        with super().admitted():
            yield


run.Service = Service  # type: ignore[misc]
run.serve(
    read_settings({"model": MODEL, "port": 0, "threads": 1, "log_level": "error"}, os.environ),
    say=lambda line: print(line, flush=True),  # noqa: T201
)
