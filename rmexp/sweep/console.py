"""What a sweep says in the terminal: its progress and its end."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from rmexp.errors import UserError
from rmexp.evaluation.headline import headline

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from rmexp.sweep.confirm import Confirmation
    from rmexp.sweep.failures import FailureRow
    from rmexp.sweep.launch import SweepPlan
    from rmexp.sweep.progress import Progress
    from rmexp.sweep.study import StudyFolder


def console(stderr: bool = False) -> Console:
    """A console that never wraps what another program may read."""
    out = sys.stderr if stderr else sys.stdout
    return Console(file=out, width=None if out.isatty() else 160, highlight=False, soft_wrap=True)


class ProgressLines:
    """A bar on a terminal, one plain line an event elsewhere."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> ProgressLines:
        if self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("trials", total=None, state="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, plan: SweepPlan) -> None:
        """Say what begins: the first trial's own line waits for its process and its libraries."""
        keys = ", ".join(key for key, _ in plan.space.describe())
        text = f"study {plan.folder.name}: {plan.target} trials over {keys}; starting ..."
        out = self._console if self._bar is None else self._bar.console
        out.print(text, markup=False)

    def __call__(self, progress: Progress) -> None:
        """Show an event and where the sweep stands."""
        finished = progress.complete + progress.pruned
        state = (
            f"running {progress.running}, pruned {progress.pruned}, failed {progress.failed}"
            + (
                ""
                if progress.best is None
                else f", best {progress.best:.4f} (trial {progress.best_number})"
            )
            + (
                ""
                if progress.seconds_left is None
                else f", about {span(progress.seconds_left)} left"
            )
        )
        if self._bar is None:
            now = datetime.datetime.now().strftime("%H:%M:%S")
            self._console.print(
                f"{now} [{finished}/{progress.target}] {progress.event} ({state})", markup=False
            )
        else:
            self._bar.console.print(progress.event, markup=False)
            self._bar.update(self._task, completed=finished, total=progress.target, state=state)


def print_end(plan: SweepPlan) -> None:
    """The table of trials, the best one with its test accuracy, and what to do next."""
    from rmexp.sweep.failures import failure_rows
    from rmexp.sweep.study import load_study

    assert plan.study.study is not None
    study = load_study(plan.study.output_dir, plan.study.study, plan.study.sweep.storage)
    out = console()
    trials = study.get_trials(deepcopy=False)
    keys = [k for k, _ in plan.space.describe()]
    out.print(trials_table(trials, keys))
    if rows := failure_rows(trials):
        out.print(failures_table(rows))
    if len(study.directions) > 1:
        print_front(study, keys)
    else:
        print_best(study, plan.folder)


def trials_table(trials: list[FrozenTrial], keys: list[str]) -> Table:
    """One row a trial."""
    from rmexp.sweep.ledger import state_of

    table = Table("trial", "state", "objective", *keys, "agreement", "rated", "seconds")
    for trial in trials:
        # Points of other studies and withdrawn claims are no trials of this one.
        if {"warm_start", "withdrawn"} & trial.user_attrs.keys():
            continue
        metrics = trial.user_attrs.get("metrics", {})
        seconds = trial.duration.total_seconds() if trial.duration else None
        agreement = metrics.get("labels/agreement_with_human")
        table.add_row(
            str(trial.number),
            state_of(trial),
            ", ".join(f"{value:.4f}" for value in trial.values or ()),
            *[short(trial.params.get(k, "")) for k in keys],
            "" if agreement is None else f"{agreement:.3f}",
            short(metrics.get("ratings/rated", "")),
            "" if seconds is None else f"{seconds:.0f}",
        )
    return table


def failures_table(rows: Sequence[FailureRow]) -> Table:
    """One row a kind of failure."""
    table = Table("failure", "trials", "run again", "latest", title="failures")
    for row in rows:
        reason = str(row.latest.user_attrs.get("reason", ""))[:100]
        latest = f"trial {row.latest.number}: {reason}"
        table.add_row(row.kind, str(row.count), str(row.retried), Text(latest))
    return table


def print_front(study: Any, keys: list[str]) -> None:
    """The trials that no other beats in every objective."""
    from rmexp.sweep.study import front

    out = console()
    best = front(study)
    if not best:
        out.print("no trial is complete and keeps the guards")
        return
    out.print("\nfront: trials that no other beats in every objective")
    out.print(trials_table(best, keys))
    out.print("run one again: rmexp rerun STUDY --trial NUMBER", markup=False)


def print_best(study: Any, folder: StudyFolder) -> None:
    """The best trial: its parameters, validation and test accuracy, and the command to rerun."""
    from rmexp.sweep.confirm import read_confirmation
    from rmexp.sweep.rerun import measure_kept
    from rmexp.sweep.study import as_good_as, best_trial
    from rmexp.trial.record import TrialRecord
    from rmexp.trial.seeds import seed_lines

    out = console()
    best = best_trial(study)
    directory = folder.root / best.user_attrs["directory"]
    out.print(f"\nbest of study {folder.name}: trial {best.number}")
    for key, value in best.params.items():
        out.print(f"  {key} = {short(value)}")
    if others := as_good_as(study, best):
        named = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
        word = "trial" if len(others) == 1 else "trials"
        out.print(f"  {word} {named} came to the same; rmexp confirm tells them apart")
    record = TrialRecord.read(directory)
    for line in record.report.get("warnings", ()):
        out.print(f"  note: {line}", markup=False)
    out.print(f"  validation objective {best.value:.4f} (chosen by it, so optimistic)")
    for line in seed_lines(record):
        out.print(f"  {line}", markup=False)
    try:
        metrics = measure_kept(folder, int(directory.name))["metrics"]
    except UserError as error:
        out.print(f"  test: {error}", markup=False)
    else:
        for line in headline(metrics, "test", "pairs the search never saw"):
            out.print(f"  {line}", markup=False)
    confirmation = read_confirmation(folder)
    if confirmation is not None:
        print_confirmation(confirmation)
    out.print(f"  model and record: {directory}")
    if (directory / "wandb").is_dir():
        out.print(f"  W&B files: {folder.root / 'trials'}/*/wandb")
        out.print(f"  rmexp sync {folder.name} uploads them")
    where = (
        ""
        if str(folder.root.parent.parent) == "outputs"
        else (f" --output-dir {folder.root.parent.parent}")
    )
    out.print(f"\nrun the best trial again: rmexp rerun {folder.name}{where}")


def print_confirmation(confirmation: Confirmation) -> None:
    """The confirmed trials, best first, and what can be told apart."""
    out = console()
    seeds = ", ".join(map(str, confirmation.seeds))
    out.print(
        f"\nconfirmation: {len(confirmation.seeds)} fresh seeds ({seeds}), "
        f"{confirmation.pairs} test pairs the search never used"
    )
    columns = ["trial", "mean test accuracy", "95% interval", "behind the first"]
    tested = any(trial.wilcoxon is not None for trial in confirmation.ranking)
    table = Table(*columns, *(["Wilcoxon p"] if tested else []), "verdict")
    for trial in confirmation.ranking:
        table.add_row(
            str(trial.number),
            f"{trial.accuracy.estimate:.4f}",
            trial.accuracy.ends,
            "" if trial.behind is None else str(trial.behind),
            *([_p_value(trial.wilcoxon)] if tested else []),
            trial.verdict,
        )
    out.print(table)


def _p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def short(value: Any) -> str:
    """A value for a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def span(seconds: float) -> str:
    """A time for people.

    >>> span(3700)
    '1 h 1 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
