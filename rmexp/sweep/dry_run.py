"""The dry run of a sweep: its space, the points that come first, the time it may take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import optuna
from rich.table import Table

from rmexp.sweep.claims import Claims
from rmexp.sweep.console import console, short, span
from rmexp.sweep.executors import make_executor
from rmexp.sweep.failures import Failure
from rmexp.sweep.leases import gone
from rmexp.sweep.ledger import CONTROLLER, INTERRUPTED, Ledger, params_key
from rmexp.sweep.samplers import listed_points, make_sampler
from rmexp.sweep.storages import NoStudy
from rmexp.sweep.study import check_directions, finished_trials, load_study
from rmexp.sweep.warm_start import learn_from_others

if TYPE_CHECKING:
    from rmexp.sweep.launch import SweepPlan


def print_dry_run(plan: SweepPlan, points: int = 5) -> None:
    """The space, its size, the points that would come next, and the expected time.

    Nothing of a study is written, neither a file nor a table of a database.

    Raises:
        UserError: the study is there but cannot be read, or was made otherwise.
    """
    out = console()
    sweep = plan.study.sweep
    size = "continuous" if math.isinf(plan.space.size) else f"of {plan.space.size:g} points"
    out.print(
        f"study {plan.study.study}: {plan.target} trials, sampler {sweep.sampler.kind}, "
        f"pruner {sweep.pruner.kind}, space {size}"
    )
    table = Table("key", "range")
    for key, text in plan.space.describe():
        table.add_row(key, text)
    out.print(table)
    stored = _stored(plan)
    study = _copy(plan, stored)
    for line in learn_from_others(study, plan.folder, sweep, plan.space, plan.guards):
        out.print(line, markup=False)
    first = _next_points(plan, study, points)
    table = Table(
        *[d.key for d in plan.space.dimensions],
        title="next points" if stored else "first points",
    )
    for params in first:
        table.add_row(*[short(params.get(d.key, "")) for d in plan.space.dimensions])
    out.print(table if first else "no point to draw: the trials wanted have finished or run now")
    out.print(_expected_time(plan, study))


def _stored(plan: SweepPlan) -> optuna.Study | None:
    """The study as it stands; None where there is none yet."""
    sweep = plan.study.sweep
    try:
        study = load_study(plan.study.output_dir, plan.folder.name, sweep.storage)
    except NoStudy:
        return None
    check_directions(study, sweep)
    return study


def _copy(plan: SweepPlan, stored: optuna.Study | None) -> optuna.Study:
    """The study in memory, where it may be asked for points."""
    study = optuna.create_study(directions=plan.study.sweep.directions)
    if stored is None:
        return study
    study.add_trials(stored.get_trials(deepcopy=False))
    # Some samplers count there what they have proposed.
    for name, value in stored._storage.get_study_system_attrs(stored._study_id).items():
        study._storage.set_study_system_attr(study._study_id, name, value)
    # Trials that nobody runs any more are the first that a controller takes up.
    ended = gone(stored, plan.folder.locks)
    claims = Claims(study, Ledger(study), "dry run", plan.target)
    claims.ledger.refresh()
    for orphan in claims.ledger.running.values():
        if orphan.user_attrs.get(CONTROLLER) in ended:
            claims.fail(orphan, Failure(INTERRUPTED, "its controller ended"), 0)
    return study


def _next_points(plan: SweepPlan, study: optuna.Study, most: int) -> list[dict[str, Any]]:
    """What a controller would claim one after the other while none has ended."""
    sweep = plan.study.sweep
    ledger = Ledger(study)
    ledger.refresh()
    listed = {params_key(point): point for point in listed_points(sweep, plan.space)}
    ledger.forgive(listed)
    study.sampler = make_sampler(
        sweep.sampler,
        plan.space,
        len(ledger.trials),
        guarded=bool(plan.guards),
        objectives=len(sweep.directions),
    )
    claims = Claims(study, ledger, "dry run", plan.target)
    points: list[dict[str, Any]] = []
    while len(points) < most and claims.free:
        point = ledger.owed(listed)
        if point is None and sweep.sampler.kind == "grid":
            break
        trial = claims.start(point)
        if trial is None:
            break
        claims.draw(trial, plan.space)
        points.append(trial.params)
    return points


def _expected_time(plan: SweepPlan, study: optuna.Study) -> str:
    """From the trials of the same study so far, on the slots of the executor."""
    done = finished_trials(study)
    left = max(0, plan.target - len(done))
    if not left:
        return f"expected time: none, as {len(done)} trials have finished"
    times = [
        t.duration.total_seconds()
        for t in done
        if t.duration and "duplicate_of" not in t.user_attrs
    ]
    if not times:
        return "expected time: unknown until trials of this study have finished"
    executor = make_executor(plan.study.executor, plan.trainer, plan.folder.root)
    slots = executor.slots
    executor.close()
    mean = sum(times) / len(times)
    return (
        f"expected time: about {span(left * mean / slots)} for {left} trials "
        f"({mean:.0f} s a trial over {len(times)} so far, {slots} at once)"
    )
