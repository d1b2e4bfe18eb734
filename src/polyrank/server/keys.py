"""Which API keys are good: those of the settings, and of a file that is read again on change."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable
from pathlib import Path

from polyrank.errors import InputError

__all__ = ["Keys"]

_log = logging.getLogger(__name__)


class Keys:
    """Good keys. Comparing takes as long for a bad one as for a good one."""

    def __init__(self, keys: Iterable[str] = (), file: str | None = None) -> None:
        self._fixed = [_digest(key.strip()) for key in keys]
        self._file = Path(file) if file else None
        self._from_file: list[bytes] = []
        self._stamp: tuple[int, int, int] | None = None
        if self._file is not None:
            try:
                self._read(self._file)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"expected API keys in {self._file}: {error}") from error

    @property
    def needed(self) -> bool:
        """Whether clients must send one: also where the file has none, and so none is good."""
        return bool(self._fixed) or self._file is not None

    def good(self, key: str) -> bool:
        """Whether a key is one of ours."""
        self._refresh()
        digest = _digest(key)
        found = False
        for known in (*self._fixed, *self._from_file):
            found |= hmac.compare_digest(digest, known)
        return found

    def _refresh(self) -> None:
        """Read the file where it changed; keep what we had where it cannot be read."""
        if self._file is None:
            return
        try:
            if _stamp(self._file) != self._stamp:
                self._read(self._file)
                _log.info("read API keys again", extra={"keys": len(self._from_file)})
        except (OSError, UnicodeDecodeError, InputError) as error:
            _log.warning("cannot read the file of API keys", extra={"error": str(error)})

    def _read(self, file: Path) -> None:
        stamp = _stamp(file)
        # Editors on Windows begin a file with a byte order mark.
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        found = []
        for number, line in enumerate(lines, 1):
            if not line or line.startswith("#"):
                continue
            if not line.isascii():  # headers are; it is not repeated, for it may be a secret
                raise InputError(
                    f"expected API keys in ASCII in {file}, got other characters in line {number}; "
                    "a comment begins with #"
                )
            found.append(_digest(line))
        self._from_file = found
        self._stamp = stamp


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _digest(key: str) -> bytes:
    # Of one length, so that comparing tells nothing of a key's own.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
