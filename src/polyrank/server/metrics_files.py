"""The metrics of several workers as one text. Each leaves its own in a file that all may read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MetricsFiles", "merged"]

_HELP = "# HELP "
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(\{?)")


@dataclass(frozen=True)
class MetricsFiles:
    """One worker's file among those of all."""

    folder: Path
    worker: int

    def write(self, text: str) -> None:
        """Replace what this worker has said, at once or not at all."""
        new = self._file.with_suffix(".new")
        with suppress(OSError):  # a full disk is no reason to end
            new.write_text(text, encoding="utf-8")
            os.replace(new, self._file)

    def forget(self) -> None:
        """Take this worker's numbers away."""
        self._file.unlink(missing_ok=True)

    def text(self, own: str) -> str:
        """The numbers of all workers: of this one as they are now, of others as last written."""
        texts = {self.worker: own}
        for file in self.folder.glob("*.prom"):
            with suppress(FileNotFoundError):  # that worker has just ended
                texts.setdefault(int(file.stem), file.read_text(encoding="utf-8"))
        return merged(sorted(texts.items()))

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.worker}.prom"


def merged(texts: Iterable[tuple[int, str]]) -> str:
    """Texts in Prometheus' format as one, each sample with the number of its worker as a label."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith(_HELP):
                family = line.removeprefix(_HELP).partition(" ")[0]
                heads.setdefault(family, [])
            if line.startswith("#"):
                if line not in heads[family]:
                    heads[family].append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, worker))
    lines = [line for name, head in heads.items() for line in (*head, *samples.get(name, ()))]
    return "\n".join([*lines, ""])


def _labelled(line: str, worker: int) -> str:
    found = _SAMPLE.match(line)
    assert found is not None, line
    name, brace = found.groups()
    label = f'worker="{worker}"'
    return f"{name}{{{label}{',' if brace else '}'}{line[found.end() :]}"
