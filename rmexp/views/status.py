"""`rmexp status`: where a study stands, once or live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import optuna
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rmexp.sweep.console import console, failures_table, span
from rmexp.sweep.study import StudyFolder
from rmexp.views.html import short
from rmexp.views.study_view import StudyView, TrialView, view_study

_STEPS = ("read", "rate", "label", "train", "evaluate")
_PERIOD = 2.0


def print_status(study: optuna.Study, folder: StudyFolder) -> None:
    """The state of the study now."""
    console().print(status(view_study(study, folder)))


def watch(
    study: optuna.Study, folder: StudyFolder, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show the state until the target is reached and nothing runs.

    A table on a terminal; elsewhere one plain line each time that something has changed.
    """
    out = console()
    view = view_study(study, folder)
    if out.is_terminal:
        with Live(status(view), console=out, auto_refresh=False) as live:
            while not _is_over(view):
                sleep(_PERIOD)
                view = view_study(study, folder)
                live.update(status(view), refresh=True)
        return
    told = ""
    while True:
        line = summary(view)
        if line != told:
            out.print(line, markup=False)
            told = line
        if _is_over(view):
            return
        sleep(_PERIOD)
        view = view_study(study, folder)


def status(view: StudyView) -> Group:
    """Summary, the running trials, and why others failed."""
    running = view.of_state("running")
    parts: list[Text | Table] = [Text(f"study {view.name}"), Text(summary(view))]
    if left := seconds_left(view):
        parts.append(Text(f"about {span(left)} left"))
    if running:
        table = Table("running", "step", "epoch", view.objectives[0], *view.keys)
        for trial in running:
            epoch = max(trial.curve, default=None)
            table.add_row(
                str(trial.number),
                step_of(trial),
                "" if epoch is None else f"{epoch} of {view.epochs_of(trial) or '?'}",
                "" if epoch is None else f"{trial.curve[epoch]:.4f}",
                *[short(trial.params.get(key)) for key in view.keys],
            )
        parts.append(table)
    if view.failures:
        parts.append(failures_table(view.failures))
    return Group(*parts)


def summary(view: StudyView) -> str:
    """The counts and the best, on one line."""
    counts = view.counts()
    finished = counts["complete"] + counts["pruned"]
    target = "" if view.target is None else f" of {view.target}"
    text = (
        f"{finished}{target} done (complete {counts['complete']}, pruned {counts['pruned']}), "
        f"failed {counts['failed']}, running {counts['running']}"
    )
    reached = view.target is not None and finished >= view.target
    if not counts["running"] and counts["interrupted"] and not reached:
        text += f" (stopped; {counts['interrupted']} interrupted, the same command goes on)"
    if len(view.objectives) == 1 and view.best:
        best = view.trial(view.best[0])
        text += f", best {view.objectives[0]} {best.values[0]:.4f} (trial {best.number})"
    elif view.best:
        text += f", Pareto front: trials {', '.join(map(str, view.best))}"
    return text


def step_of(trial: TrialView) -> str:
    """The step that a running trial is in, from the end of its log; empty where unknown."""
    if trial.directory is None:
        return ""
    for line in reversed(_tail(trial.directory / "log.txt")):
        # Of a trial of several seeds "seed N: " stands before it.
        if line.strip().rpartition(": ")[2] in _STEPS:
            return line.strip()
    return ""


def seconds_left(view: StudyView) -> float | None:
    """Estimate from the mean duration; None where nothing has ended or nothing runs."""
    running = len(view.of_state("running"))
    durations = [
        t.seconds
        for t in view.of_state("complete", "pruned")
        if t.seconds is not None and t.duplicate_of is None
    ]
    if view.target is None or not durations or not running:
        return None
    left = view.target - len(view.of_state("complete", "pruned"))
    return max(0, left) * sum(durations) / len(durations) / running


def _is_over(view: StudyView) -> bool:
    finished = len(view.of_state("complete", "pruned"))
    running = view.of_state("running")
    return not running and (view.target is None or finished >= view.target)


def _tail(path: Path, size: int = 4096) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
