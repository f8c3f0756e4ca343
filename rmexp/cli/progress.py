"""How far a command is: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Steps:
    """A bar a step on a terminal; elsewhere a line a step, how far it is, and its end.

    Args:
        every: seconds between two plain lines of one step.
        out: where to write; the standard error.
    """

    def __init__(self, every: float = 10.0, out: Console | None = None) -> None:
        from rmexp.sweep.console import console

        self._console = out or console(stderr=True)
        self._every = every
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._step = ""
        self._said = 0.0
        # When the step first said how far it was, and how far: what was there before is no pace.
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Steps:
        if self._console.is_terminal:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description:14s}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(elapsed_when_finished=False),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            if kind is None:
                self._end_task()
            self._bars.stop()

    def __call__(self, step: str) -> None:
        """A step begins, and the one before it has ended."""
        self._step, self._said, self._first = step, time.monotonic(), None
        if self._bars is None:
            self._console.print(f"{step} ...", markup=False)
        else:
            self._end_task()
            self._task = self._bars.add_task(step, total=None)

    def advance(self, done: int, total: int) -> None:
        """The step has come so far."""
        if self._bars is not None:
            if self._task is not None:
                self._bars.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        if now - self._said >= self._every or done == total:
            self._said = now
            text = f"{self._step}: {done} of {total}{self._pace(now, done, total)}"
            self._console.print(text, markup=False)

    def _pace(self, now: float, done: int, total: int) -> str:
        from rmexp.sweep.console import span

        assert self._first is not None
        seconds, since = now - self._first[0], done - self._first[1]
        if seconds <= 0 or since <= 0:
            return ""
        rate = since / seconds
        return f", {rate:.3g} a second, about {span((total - done) / rate)} left"

    def advance_in(self, step: str, done: int, total: int) -> None:
        """A step that may be new has come so far."""
        if step != self._step:
            self(step)
        self.advance(done, total)

    def _end_task(self) -> None:
        if self._bars is None or self._task is None:
            return
        task = next(task for task in self._bars.tasks if task.id == self._task)
        total = task.total or 1
        self._bars.update(self._task, completed=total, total=total)


@contextmanager
def rating_progress() -> Iterator[Callable[[int, int], None]]:
    """How far a command's rating is, from the first that is missing: mistakes stay one line."""
    with Steps() as steps:
        yield partial(steps.advance_in, "rate")
