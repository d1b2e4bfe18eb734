"""Settings in turns, one process at a time, for several rounds; then their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from polyrank.bench.children import child, python_module
from polyrank.bench.costs import layer_shapes
from polyrank.bench.jobs import Job, LimitsJob, Turn
from polyrank.bench.rows import Outcome, rows_of
from polyrank.bench.values import Report, Setting
from polyrank.bench.workload import Workload
from polyrank.config import EncoderConfig
from polyrank.errors import BackendError

__all__ = ["ModelOptions", "Progress", "measure"]

Command = Callable[[Setting], Sequence[str]]
Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]
"""Steps done, steps in all, and what is being done now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """What every setting opens, in the words of `Reranker`. The model is on this machine."""

    model: str | None
    revision: str | None = None
    max_length: int | None = None
    threads: int | None = None


def measure(
    options: ModelOptions,
    config: EncoderConfig,
    settings: Sequence[Setting],
    workload: Workload,
    *,
    rounds: int,
    on_step: Progress = lambda done, total, text: None,
    say: Say = lambda line: None,
    contender: Command = lambda setting: python_module("polyrank.bench.contender"),
    limits_of: Sequence[str] = tuple(python_module("polyrank.bench.limits")),
) -> Report:
    """Measure the settings in turns; the machine's limits are measured in every round too.

    A setting that fails has its error in its row. `contender` and `limits_of` are the commands that
    start a turn's process and the one that measures the limits.
    """
    race = _Race(options, workload, say, contender)
    outcomes = [Outcome(setting=s) for s in settings]
    packed = [o for o in outcomes if o.setting.backend == "onnx"]
    total, done = len(packed) + rounds * (len(outcomes) + 1), 0
    for o in packed:
        on_step(done, total, f"opening {o.setting}")
        race.open(o)
        done += 1
    limits = _Limits(config, options.threads, limits_of)
    for n in range(1, rounds + 1):
        for o in outcomes:
            on_step(done, total, f"round {n} of {rounds}: {o.setting}")
            race.take_turn(o)
            done += 1
        on_step(done, total, f"round {n} of {rounds}: limits of this machine")
        limits.measure([o.setting for o in outcomes if o.error is None])
        done += 1
    last = next((o.turns[-1] for o in outcomes if o.turns), None)
    return Report(
        rows=rows_of(outcomes, config=config, queries=workload.queries, limits=limits.best),
        lengths=tuple(last.lengths) if last else (),
        cut=last.cut if last else 0,
        limits=limits.best,
        limits_error=limits.error,
    )


class _Race:
    """What the turns of all settings share."""

    def __init__(
        self, options: ModelOptions, workload: Workload, say: Say, command: Command
    ) -> None:
        self._options, self._workload = options, workload
        self._say, self._command = say, command

    def open(self, o: Outcome) -> None:
        """Open the model once, uncounted: a first time converts it."""
        job = replace(self._job(o.setting), pairs=[])
        try:
            with child(self._command(o.setting), asdict(job)) as messages:
                for message in messages:
                    self._say(message["say"])
        except BackendError as error:
            o.error = str(error)

    def take_turn(self, o: Outcome) -> None:
        """Start a process and let it score all pairs, unless the setting failed before."""
        if o.error is not None:
            return
        try:
            turn, cold_start = self._answer(o.setting)
        except BackendError as error:
            o.error = str(error)
            return
        o.turns.append(turn)
        o.cold_starts.append(cold_start)

    def _answer(self, setting: Setting) -> tuple[Turn, float]:
        job = asdict(self._job(setting))
        start, cold_start = time.perf_counter(), 0.0
        with child(self._command(setting), job) as messages:
            for message in messages:
                if "say" in message:
                    self._say(message["say"])
                elif "first_logit" in message:
                    cold_start = time.perf_counter() - start
                else:
                    return Turn(**message["turn"]), cold_start
        raise BackendError("the process ended without an answer")

    def _job(self, setting: Setting) -> Job:
        return Job(
            **asdict(self._options),
            **asdict(setting),
            pairs=list(self._workload.pairs),
            one_query=self._workload.one_query,
        )


class _Limits:
    """The best rates of matrix products seen so far."""

    def __init__(self, config: EncoderConfig, threads: int | None, command: Sequence[str]) -> None:
        self._layers, self._threads, self._command = layer_shapes(config), threads, command
        self.best: dict[str, float] = {}
        """In billions of operations a second, by `Setting.computes`."""
        self.error: str | None = None
        """Of the last attempt."""

    def measure(self, settings: Sequence[Setting]) -> None:
        """Try products in the libraries and dtypes of these settings, in a process of its own."""
        if not settings:
            return
        job = LimitsJob(
            layers=self._layers, settings=[asdict(s) for s in settings], threads=self._threads
        )
        try:
            with child(self._command, asdict(job)) as messages:
                for message in messages:
                    for name, rate in message["limits"].items():
                        self.best[name] = max(rate, self.best.get(name, 0.0))
        except BackendError as error:
            self.error = str(error)
