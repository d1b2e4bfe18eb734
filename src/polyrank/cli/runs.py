"""A long run as a terminal sees it: a bar or lines, Ctrl-C between two steps. Knows no network."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyrank.cli.interrupts import interrupt
from polyrank.cli.printing import note
from polyrank.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from polyrank.training.groups import BadLines

__all__ = [
    "Watch", "alone", "bad_lines_note", "check_begun", "count_bar", "not_alone",
    "require_torch", "running",
]  # fmt: skip

# What a run may change when it goes on: how long it is, how often it is kept, what a step costs.
_FREE = (
    "steps", "checkpoint_every", "keep_models", "evaluate_every", "log_every", "recompute",
    "dtype", "max_batch_tokens", "loader_processes", "compile",
)  # fmt: skip


def require_torch() -> None:
    """Raise MissingDependencyError where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            'expected PyTorch for this command; install it with: pip install "polyrank[train]"'
        )


def bad_lines_note(path: str | Path, bad: BadLines) -> None:
    """Say how many lines of a file were left out, if any, and what is wrong with the first."""
    if bad.count:
        note(f"{path}: left out {bad.count:,} bad {'line' if bad.count == 1 else 'lines'}")
        for problem in bad.first:
            note(f"  {problem}")
        if bad.count > len(bad.first):
            note(f"  and {bad.count - len(bad.first):,} more")


def check_begun(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError where the run in `folder` was begun with a config that makes other steps."""
    from polyrank.training.config import changes, read_object

    path = folder / "config.json"
    if not path.exists() or not _is_begun(folder):
        return
    as_json = json.loads(json.dumps(config))  # tuples become lists, as in the file
    before, now = (
        {name: value for name, value in _leaves(c) if name.rpartition(".")[2] not in _FREE}
        for c in (read_object(path), as_json)
    )
    if changed := changes(before, now):
        raise InputError(
            f"expected the config that the run in {folder} began with, got another one "
            f"({changed}); give a new --out, or delete {path} to go on with the new config"
        )


def _is_begun(folder: Path) -> bool:
    """Whether a run, or one of its stages, would go on from a state."""
    from polyrank.training.state import has_state

    return has_state(folder) or any(has_state(stage) for stage in folder.glob("stage-*"))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name with dots, value) of all that is no mapping and no list."""
    if isinstance(value, (dict, list)) and value:
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inside:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other runs from writing to a file or folder. Raises InputError where one does."""
    from filelock import FileLock, Timeout

    lock = output / ".lock" if output.is_dir() else output.with_name(f".{output.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            raise not_alone(str(output), "--out") from None
        yield


def not_alone(output: str, option: str) -> InputError:
    """The error of a second run into one output."""
    return InputError(
        f"expected to be the only run that writes {output}, found another one at work; wait for "
        f"its end, or give another {option}"
    )


class Watch:
    """What a run tells, and where it is asked to stop."""

    def __init__(self, bar: Progress | None, task: TaskID | None, *, silent: bool) -> None:
        self._bar, self._task, self._silent = bar, task, silent
        self.stopping: KeyboardInterrupt | None = None
        """What asked the run to stop: Ctrl-C or SIGTERM."""
        self.kept: tuple[int, int] | None = None
        """(step, steps of the run) of the state kept at the stop; None: it did not wait for one."""
        self.steps = 0
        """Steps that were taken."""

    def say(self, line: str) -> None:
        """A line of the log."""
        if not self._silent:
            print(line, flush=True)

    def progress(self, done: int, total: int) -> None:
        """A step was taken. Raises KeyboardInterrupt where it is asked to stop."""
        self.steps += 1
        self._show("step", done, total)
        if self.stopping is not None:
            self.kept = (done, total)
            raise self.stopping

    def pairs(self, done: int, total: int) -> None:
        """So many pairs of an evaluation are scored. Raises KeyboardInterrupt as `progress`."""
        self._show("evaluating", done, total)
        if self.stopping is not None:
            raise self.stopping

    def finished(self, model: Path) -> None:
        """Say where the model is."""
        if not self._silent:
            done = f"nothing to do: the run in {model.parent} has taken all its steps"
            note(f"wrote {model}" if self.steps else done)

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=done, total=total)


@contextmanager
def running(folder: Path, device: str) -> Iterator[tuple[str, Watch]]:
    """Watch a run into `folder`: its log on stdout, and a bar on stderr where that is a terminal.

    Joins the processes that torchrun started, of which the first one speaks; gives the device of
    this one. The first Ctrl-C or SIGTERM waits for the end of the step, a second one does not;
    where there are several processes none waits, since each would end another step.
    """
    from polyrank.training.parallel import joined, rank, world

    folder.mkdir(parents=True, exist_ok=True)
    with (
        joined(device) as own,
        alone(folder) if rank() == 0 else nullcontext(),
        _bar(silent=rank() > 0) as (bar, task),
    ):
        watch = Watch(bar, task, silent=rank() > 0)
        with _first_interrupt(watch, waits=world() == 1):
            try:
                yield own, watch
            except KeyboardInterrupt:
                if rank() == 0:
                    note(_farewell(watch, folder))
                raise


@contextmanager
def _first_interrupt(watch: Watch, *, waits: bool) -> Iterator[None]:
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def stop(number: int, frame: object) -> None:
        watch.stopping = interrupt(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        with suppress(OSError):  # not by print, which may be at work at this very moment
            os.write(2, b"stopping after this step; Ctrl-C once more stops at once\n")

    if waits:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as of a run behind a shell's `&`
                signal.signal(number, stop)
    else:  # a process that waits for another one in a collective hears only this
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(watch: Watch, folder: Path) -> str:
    if watch.kept is not None:
        return "stopped after step {} of {}; the same command goes on from there".format(
            *watch.kept
        )
    if _is_begun(folder):
        return "stopped; the same command goes on from the last checkpoint"
    return "stopped before the first checkpoint; the same command starts anew"


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal: so many done of so many."""
    with _bar() as (bar, task):

        def advance(done: int, total: int) -> None:
            if bar is not None and task is not None:
                bar.update(task, description=what, completed=done, total=total)

        yield advance


@contextmanager
def _bar(*, silent: bool = False) -> Iterator[tuple[Progress | None, TaskID | None]]:
    if silent or not sys.stderr.isatty():
        yield None, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines that go to a file must not be drawn around the bar.
    shared = sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        yield bar, bar.add_task("starting", total=None)
