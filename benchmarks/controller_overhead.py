"""What the controller costs a trial beside the sampler, and whether 1,000 workers keep busy.

Two parts, both with the real controller, ledger, claims and storage; only the trials are not run.

1. Overhead: 50 trials are run in studies that hold 10 and 10,000 trials already. Told apart are the
   time inside the sampler (Optuna's own: what any program that asks Optuna pays), inside Optuna's
   bare ask and tell on a storage of the same kind and size (the peer), and the rest, which is the
   controller's. `Opening` is paid once a command: up to the first trial, with all trials read.
2. Simulation: 1,000 workers, trials of 60 to 600 seconds. Time is virtual: a trial ends at its
   moment, and what the controller really computes passes on the same clock. Busy is the share of
   worker seconds spent in trials from the moment that all are first busy to the end.

    python benchmarks/controller_overhead.py
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from results_file import ResultsFile

from rmexp.sweep import controller as controller_module
from rmexp.sweep.controller import Controller
from rmexp.sweep.job import Ended, ReportHandler, TrialJob
from rmexp.sweep.samplers import make_sampler
from rmexp.sweep.schema import SamplerConfig, SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import StudyFolder, open_study
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrialConfig

SPACE = Space(
    (
        Dimension("gamma", FloatDistribution(0.0, 2.0)),
        Dimension("r", IntDistribution(1, 20)),
        Dimension("learning_rate", FloatDistribution(1e-5, 1e-3, log=True)),
        Dimension("epochs", IntDistribution(1, 3)),
    )
)
MEASURED = 50
_SAMPLING = (
    "infer_relative_search_space",
    "sample_relative",
    "sample_independent",
    "before_trial",
    "after_trial",
)


class Stopwatch:
    """Seconds inside the sampler, however often its methods call each other."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def around(self, sampler: Any) -> Any:
        """The same sampler, timed."""
        for name in _SAMPLING:
            setattr(sampler, name, self._timed(getattr(sampler, name)))
        return sampler

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


class VirtualWorkers:
    """An executor whose trials end at their moment of a clock that also counts real computing."""

    threads = 1

    def __init__(self, slots: int, duration: Callable[[], float]) -> None:
        self.slots = slots
        self.now = 0.0
        self.busy = 0.0
        self.waiting = 0.0
        self.first_submit: float | None = None
        self.full_since: float | None = None
        self._duration = duration
        self._left = time.perf_counter()
        self._ends: list[tuple[float, int, TrialJob, float]] = []

    def submit(self, job: TrialJob) -> None:
        """The trial runs from now."""
        self._pass()
        self.first_submit = self.first_submit or time.perf_counter()
        seconds = self._duration()
        heapq.heappush(self._ends, (self.now + seconds, job.number, job, seconds))
        if self.full_since is None and len(self._ends) == self.slots:
            self.full_since = self.now

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        """Go on to the next end, and return what has ended by then."""
        self._pass()
        start = time.perf_counter()
        self.now = max(self.now, self._ends[0][0])
        ended = []
        while self._ends and self._ends[0][0] <= self.now:
            end, _, job, seconds = heapq.heappop(self._ends)
            if self.full_since is not None:
                self.busy += min(seconds, end - self.full_since)
            job.directory.mkdir(parents=True, exist_ok=True)
            value = random.Random(job.number).random()
            TrialRecord("complete", "", value, job.config, job.identity, objectives=[value]).write(
                job.directory
            )
            ended.append(Ended(job))
        # Writing the record is the worker's work.
        self.waiting += time.perf_counter() - start
        self._left = time.perf_counter()
        return ended

    def has_begun(self, number: int) -> bool:
        return True

    def cancel(self, number: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    @property
    def running(self) -> list[tuple[float, float]]:
        """Start and length of what still runs."""
        return [(end - seconds, seconds) for end, _, _, seconds in self._ends]

    def _pass(self) -> None:
        now = time.perf_counter()
        self.now += now - self._left
        self._left = now


def _controller(root: Path, storage: str | None, sampler: str, trials: int, executor: Any) -> Any:
    folder = StudyFolder(root)
    folder.make()
    config = SweepConfig(trials=trials, storage=storage, sampler=SamplerConfig(kind=sampler))
    return Controller(
        study=open_study(folder, config),
        folder=folder,
        config=config,
        space=SPACE,
        config_for=lambda values: TrialConfig(cache_dir="unused", **values),
        executor=executor,
    )


def _fill(study: optuna.Study, count: int) -> None:
    draw = random.Random(0)
    for _ in range(count):
        params = {
            "gamma": draw.uniform(0, 2),
            "r": draw.randint(1, 20),
            "learning_rate": 10 ** draw.uniform(-5, -3),
            "epochs": draw.randint(1, 3),
        }
        study._storage.create_new_trial(
            study._study_id,
            optuna.trial.create_trial(
                value=draw.random(), params=params, distributions=SPACE.distributions
            ),
        )


def overhead(root: Path, storage: str | None, sampler: str, held: int) -> tuple[float, ...]:
    """Seconds of opening, then milliseconds a trial: of the sampler, and of the controller."""
    executor = VirtualWorkers(1, lambda: 1.0)
    _fill(_controller(root, storage, sampler, 1, executor).study, held)
    controller = _controller(root, storage, sampler, held + 1 + MEASURED, executor)
    watch = Stopwatch()
    controller_module.make_sampler = lambda *a, **k: watch.around(make_sampler(*a, **k))
    start = time.perf_counter()
    controller.run()
    end = time.perf_counter()
    assert executor.first_submit is not None
    # The sampler's part in the first trial is left out of the opening, and counts in its own time.
    rest = end - executor.first_submit - executor.waiting
    sampling = watch.seconds / (1 + MEASURED)
    return executor.first_submit - start, 1e3 * sampling, 1e3 * (rest / MEASURED - sampling)


def bare(root: Path, storage: str | None, sampler: str, held: int) -> tuple[float, float]:
    """Seconds of opening, then milliseconds a trial, of Optuna's own ask and tell.

    The sampler is left out.
    """
    _fill(_controller(root, storage, sampler, 1, None).study, held)
    study = _controller(root, storage, sampler, 1, None).study
    watch = Stopwatch()
    study.sampler = watch.around(make_sampler(SamplerConfig(kind=sampler), SPACE, held))

    def run_one(number: int) -> None:
        trial = study.ask()
        SPACE.suggest(trial)
        study.tell(trial, random.Random(number).random())

    start = time.perf_counter()
    run_one(0)
    opened = time.perf_counter()
    watch.seconds = 0.0
    for number in range(MEASURED):
        run_one(number)
    each = (time.perf_counter() - opened - watch.seconds) / MEASURED
    return opened - start, 1e3 * each


def simulate(root: Path, storage: str | None, sampler: str, workers: int, trials: int) -> float:
    """Share of worker seconds spent in trials, once all workers are busy, until the last start."""
    draw = random.Random(1)
    executor = VirtualWorkers(workers, lambda: draw.uniform(60, 600))
    controller = _controller(root, storage, sampler, trials, executor)
    last_start = 0.0
    submit = executor.submit

    def submitted(job: TrialJob) -> None:
        nonlocal last_start
        submit(job)
        last_start = executor.now

    controller.executor.submit = submitted
    controller_module.make_sampler = make_sampler
    busy_at_last_start: list[float] = []
    wait = executor.wait

    def waited(on_report: ReportHandler, timeout: float) -> list[Ended]:
        if not busy_at_last_start and controller.study and not controller._claims.free:
            part = sum(
                max(0.0, executor.now - max(start, executor.full_since or 0.0))
                for start, _ in executor.running
            )
            busy_at_last_start.append(executor.busy + part)
        return wait(on_report, timeout)

    controller.executor.wait = waited
    controller.run()
    assert executor.full_since is not None
    return busy_at_last_start[0] / (workers * (last_start - executor.full_since))


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 10_000])
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--trials", type=int, default=5_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ResultsFile("controller_overhead") as results, tempfile.TemporaryDirectory() as scratch:
        results.line()
        results.line(
            f"{'':23s}{'opening, s':^20s}{'milliseconds a trial':^36s}\n"
            f"{'':23s}{'Optuna':>8s}{'controller':>12s}"
            f"{'sampler':>10s}{'ask and tell':>14s}{'controller':>12s}"
        )
        for name in options.storages:
            storage = None if name == "sqlite" else name
            for sampler in options.samplers:
                for held in options.sizes:
                    root = Path(scratch) / f"{name}-{sampler}-{held}" / "studies"
                    opened, peer = bare(root / "bare", storage, sampler, held)
                    opening, sampling, ours = overhead(root / "ours", storage, sampler, held)
                    results.line(
                        f"{name:8s}{sampler:8s}{held:7,d}{opened:8.2f}{opening:12.2f}"
                        f"{sampling:10.1f}{peer:14.1f}{ours:12.1f}"
                    )
        results.line()
        for sampler in options.samplers:
            root = Path(scratch) / f"simulation-{sampler}" / "studies" / "s"
            share = simulate(root, "journal", sampler, options.workers, options.trials)
            results.line(
                f"{options.workers:,d} workers, {options.trials:,d} trials of 60 to 600 s, "
                f"journal, {sampler}: busy {share:.1%}"
            )


if __name__ == "__main__":
    main()
