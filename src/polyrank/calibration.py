"""From a raw logit to a score in [0, 1]: the plain sigmoid, or a curve fitted to judgements."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError

__all__ = ["Calibration", "sigmoid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """score = sigmoid(scale * logit + shift). It moves scores, never the order.

    Fitted by `polyrank calibrate`, a score is the probability that a pair like those judged is
    relevant (Platt, 1999); unfitted, it is the sigmoid of the logit.
    """

    scale: float = 1.0
    """Above 0."""
    shift: float = 0.0
    fingerprint: str | None = None
    """Of the model it was fitted for: logits of another mean something else. None: of any."""

    def __post_init__(self) -> None:
        numbers = isinstance(self.scale, Real) and isinstance(self.shift, Real)
        if not (numbers and 0.0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise InputError(
                "expected a scale above 0 and a finite shift in a calibration, got "
                f"{self.scale!r} and {self.shift!r}"
            )

    def scores(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """[N] scores in fp64: no two fp32 logits from -16 to 16 become one score."""
        return sigmoid(self.scale * logits.astype(np.float64) + self.shift)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `write` wrote. Raises InputError for a file that is no calibration."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            numbers = float(found["scale"]), float(found["shift"])
            fingerprint = found["fingerprint"]
        except OSError as error:
            raise InputError(f"expected a calibration in {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            names = ", ".join(f.name for f in fields(cls))
            raise InputError(
                f"expected a JSON object with {names} in {path}, as `polyrank calibrate` writes "
                f"it: {error}"
            ) from error
        return cls(scale=numbers[0], shift=numbers[1], fingerprint=fingerprint)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check(self, fingerprint: str, model: str) -> None:
        """Raise InputError where it was fitted for another model than this one."""
        if self.fingerprint not in (None, fingerprint):
            raise InputError(
                f"expected a calibration for {model} ({fingerprint}), got one for the model "
                f"{self.fingerprint}; make one with: polyrank calibrate -m {shlex.quote(model)}"
            )


def sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), through tanh, which cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
