"""Plain text for language modelling: lines of files by language, drawn by (seed, number)."""

from __future__ import annotations

import gzip
import lzma
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer
from polyrank.training.readers import decode
from polyrank.values import Encoding

__all__ = ["TextMixture", "find_texts", "unpack"]

_ENDINGS = (".txt", ".txt.gz", ".txt.xz")


def find_texts(folder: str | Path, unpacked: str | Path) -> dict[str, Path]:
    """Language -> the plain file of each LANGUAGE.txt, .txt.gz or .txt.xz in a folder.

    Compressed ones are unpacked into `unpacked`, once. Raises InputError where there is none.
    """
    found = sorted(p for p in Path(folder).glob("*.txt*") if p.name.endswith(_ENDINGS))
    if not found:
        raise InputError(
            f"expected LANGUAGE.txt, .txt.gz or .txt.xz in {folder}, found none; a file is one "
            "language's text, in lines"
        )
    languages = [p.name.partition(".txt")[0] for p in found]
    if twice := {name for name in languages if languages.count(name) > 1}:
        raise InputError(f"expected one file of each language in {folder}, got two of {min(twice)}")
    return {name: unpack(p, unpacked) for name, p in zip(languages, found, strict=True)}


def unpack(path: str | Path, folder: str | Path) -> Path:
    """A plain copy of a compressed file, for random access; made once.

    Raises InputError for a file that is cut off or damaged.
    """
    path, folder = Path(path), Path(folder)
    if path.suffix not in (".gz", ".xz"):
        return path
    plain = folder / path.stem
    if not plain.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = plain.with_name(plain.name + ".part")
        opener = gzip.GzipFile if path.suffix == ".gz" else lzma.LZMAFile
        try:
            with opener(path) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"expected a whole compressed file at {path}: {error}") from error
        part.replace(plain)
    return plain


class _Lines:
    """Random access to the lines of a file that stays on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        offsets, offset = [], 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if decode(line, f"{path}:{number}").strip():
                        offsets.append(offset)
                    offset += len(line)
        except OSError as error:
            raise InputError(f"expected a text file at {path}: {error.strerror}") from error
        if not offsets:
            raise InputError(f"expected at least one line of text in {path}, found none")
        self.offsets: npt.NDArray[np.int64] = np.array(offsets, np.int64)

    def run(self, row: int, characters: int) -> list[str]:
        """Lines from one on, until there are enough characters or the file ends."""
        lines: list[str] = []
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[row]))
            while sum(map(len, lines)) < characters and (line := file.readline()):
                lines.append(line.decode("utf-8").strip())
        return [line for line in lines if line]


class TextMixture:
    """An endless, reproducible stream of sequences; languages by size to a power.

    Raises InputError without a file, for a file that cannot be read, and for one without a line.
    """

    def __init__(
        self,
        paths: Mapping[str, str | Path],
        tokenizer: PairTokenizer,
        *,
        max_length: int,
        seed: int,
        exponent: float = 0.5,
    ) -> None:
        if not paths:
            raise InputError("expected at least one text file, got none")
        self._files = [_Lines(Path(p)) for _, p in sorted(paths.items())]
        shares = np.array([len(f.offsets) for f in self._files], np.float64) ** exponent
        self._shares: npt.NDArray[np.float64] = shares / shares.sum()
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._seed = seed

    def step(self, step: int, sequences: int, max_batch_tokens: int) -> list[list[Encoding]]:
        """A step's sequences in batches of at most so many tokens, shortest first."""
        drawn = sorted((self.draw(step * sequences + i) for i in range(sequences)), key=len)
        chunks: list[list[Encoding]] = [[]]
        for sequence in drawn:
            if chunks[-1] and sum(map(len, chunks[-1])) + len(sequence) > max_batch_tokens:
                chunks.append([])
            chunks[-1].append(sequence)
        return chunks

    def draw(self, number: int) -> Encoding:
        """Lines from a random one on, as one sequence of at most `max_length` tokens; of a longer
        line, a random part."""
        rng = np.random.default_rng((self._seed, number))
        file = self._files[int(rng.choice(len(self._files), p=self._shares))]
        # A token is one character at least, and four on average.
        characters = 4 * self._max_length
        lines = file.run(int(rng.integers(len(file.offsets))), characters)
        if len(lines[0]) > characters:
            start = int(rng.integers(len(lines[0]) - characters + 1))
            lines = [lines[0][start : start + characters]]
        t = self._tokenizer.template
        room = self._max_length - len(t.prefix) - len(t.suffix)
        ids = self._tokenizer.tokenize(["\n".join(lines)])[0][:room]
        whole = np.concatenate([t.prefix, ids, t.suffix], dtype=np.int32)
        return Encoding(ids=whole, type_split=len(whole), tokens_given=len(whole))
