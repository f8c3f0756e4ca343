"""Kill and stop the processes of a sweep at random moments, then count what it has.

Two controllers share a study of cheap trials of two ranks each. At random moments a controller, a
trial's worker, one of its ranks, or controller and worker are killed (SIGKILL) or stopped (SIGSTOP)
and woken; dead controllers are started again. At the end exactly the wanted trials must have
finished, no point lost and none finished twice, no directory written by two processes, and no
process left. A lost trial is retried once, as by default: a point that is hit a second time is
given up, which is counted and no loss.

    python benchmarks/soak.py --storage sqlite --trials 200 --kills 100 --stops 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TOKEN = "RMEXP_SOAK"
_VICTIMS = ("controller", "worker", "rank", "both")


def cheap_trial(config: Any, *, directory: Path, **others: Any) -> Any:
    """Stands in for run_trial: ranks that wait, two reports, a record."""
    from rmexp.trial.ranks import run_ranks

    # A second process in this directory fails here, and its trial with it.
    with (directory / "owner").open("x") as stream:
        stream.write(str(os.getpid()))
    return run_ranks(
        config, directory=directory, advance=None, program="benchmarks.soak_rank", **others
    )


def cheap_config(gamma: float) -> Any:
    """Of such a trial."""
    from rmexp.trial.schema import TrainerConfig, TrialConfig

    return TrialConfig(
        cache_dir="unused", gamma=gamma, trainer=TrainerConfig(devices=2, strategy="ddp")
    )


def control(root: Path, storage: str | None, trials: int, lease: float) -> None:
    """One controller, until the study has its trials."""
    from optuna.distributions import FloatDistribution

    from rmexp.sweep.controller import Controller
    from rmexp.sweep.schema import SamplerConfig, SweepConfig
    from rmexp.sweep.space import Dimension, Space
    from rmexp.sweep.study import StudyFolder, open_study
    from rmexp.sweep.worker_processes import ProcessExecutor

    space = Space((Dimension("gamma", FloatDistribution(0.0, 1.0)),))
    folder = StudyFolder(root)
    folder.make()
    config = SweepConfig(
        trials=trials,
        storage=storage,
        lease=lease,
        sampler=SamplerConfig(kind="random"),
        max_failures=10**6,
    )
    Controller(
        study=open_study(folder, config),
        folder=folder,
        config=config,
        space=space,
        config_for=lambda values: cheap_config(**values),
        executor=ProcessExecutor(2, ranks=2, run=cheap_trial),
        on_progress=lambda progress: print(progress.event, flush=True),
    ).run()


@dataclass
class Soak:
    """A run of the soak.

    Attributes:
        root: folder of the study.
        storage: as ``sweep.storage``.
        trials, kills, stops: how many.
        stop_seconds: how long a stopped process sleeps.
        lease: of the controllers.
        seed: of the moments and the victims.
    """

    root: Path
    storage: str | None
    trials: int
    kills: int
    stops: int = 0
    stop_seconds: float = 60.0
    lease: float = 5.0
    seed: int = 0
    controllers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    _stopped: list[tuple[float, int]] = field(default_factory=list)

    def run(self, limit: float = 3600.0) -> dict[str, Any]:
        """Run to the end; returns the counts, in which ``faults`` must be empty."""
        self.root.mkdir(parents=True, exist_ok=True)
        chance = random.Random(self.seed)
        blows = [("kill", _VICTIMS[i % 4]) for i in range(self.kills)]
        blows += [("stop", _VICTIMS[i % 3]) for i in range(self.stops)]
        chance.shuffle(blows)
        start = time.monotonic()
        dealt = missed = 0
        try:
            while time.monotonic() - start < limit:
                self._wake(time.monotonic())
                self._keep_two_controllers(dealt < len(blows))
                finished = len(list(self.root.glob("trials/*/record.json")))
                if dealt < len(blows) and finished * len(blows) >= dealt * self.trials:
                    time.sleep(chance.uniform(0, 0.6))
                    # The last trials may have ended before one of them was hit.
                    blow, what = blows[dealt]
                    hit = self._deal(blow, "controller" if missed > 50 else what, chance)
                    dealt, missed = (dealt + 1, 0) if hit else (dealt, missed + 1)
                elif dealt == len(blows) and not self._stopped and self._all_controllers_ended():
                    break
                time.sleep(0.05)
        finally:
            left = self._processes()
            self._wake(float("inf"))
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = self._processes()
        counts = self._count(left)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return {**counts, "seconds": round(time.monotonic() - start)}

    def _all_controllers_ended(self) -> bool:
        return all(c.poll() is not None for c in self.controllers)

    def _keep_two_controllers(self, more_blows: bool) -> None:
        for controller in self.controllers[:]:
            code = controller.poll()
            if code is not None and code != 0:
                self.controllers.remove(controller)
                if code > 0:
                    said = (self.root / "controllers.txt").read_text(errors="replace")
                    self.errors.append(f"exit {code}: {said[-2000:]}")
            elif code == 0 and more_blows:
                self.controllers.remove(controller)
        while len(self.controllers) < 2:
            words = [sys.executable, __file__, "--control", str(self.root)]
            words += ["--trials", str(self.trials), "--lease", str(self.lease)]
            words += ["--storage", self.storage] if self.storage else []
            with (self.root / "controllers.txt").open("ab") as log:
                controller = subprocess.Popen(
                    words,
                    stdout=log,
                    stderr=log,
                    cwd=self.root,
                    env={**os.environ, "PYTHONPATH": str(ROOT), _TOKEN: str(self.root)},
                )
            self.controllers.append(controller)

    def _deal(self, blow: str, what: str, chance: random.Random) -> bool:
        """Hit what is there of that kind; whether there was any."""
        controllers = [c.pid for c in self.controllers if c.poll() is None]
        there = {
            "controller": controllers,
            "worker": self._running("owner"),
            "rank": self._running("rank-*"),
        }
        asleep = {pid for _, pid in self._stopped}
        victims = []
        for kind in ("controller", "worker") if what == "both" else (what,):
            awake = [pid for pid in there[kind] if pid not in asleep]
            if not awake:
                return False
            victims.append(chance.choice(awake))
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if blow == "kill" else signal.SIGSTOP)
            if blow == "stop":
                self._stopped.append((time.monotonic() + self.stop_seconds, pid))
        self.done[f"{blow} {what}"] += 1
        return True

    def _wake(self, now: float) -> None:
        for until, pid in self._stopped[:]:
            if until <= now:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                self._stopped.remove((until, pid))

    def _running(self, name: str) -> list[int]:
        """Processes that run a trial now, by the file in which they note themselves."""
        alive = set(self._processes())
        found = []
        for note in sorted(self.root.glob(f"trials/*/{name}")):
            text = note.read_text()
            if text and not (note.parent / "record.json").exists() and int(text) in alive:
                found.append(int(text))
        return found

    def _processes(self) -> list[int]:
        """Every living process of this soak, whoever its parent."""
        mark = f"{_TOKEN}={self.root}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def _count(self, left: list[int]) -> dict[str, Any]:
        from rmexp.sweep.ledger import (
            DIRECTORY,
            RETRY,
            RETRY_OF,
            USED,
            WITHDRAWN,
            params_key,
            point_of,
        )
        from rmexp.sweep.study import load_study

        study = load_study(self.root.parent.parent, self.root.name, self.storage)
        trials = study.get_trials()
        finished = [t for t in trials if t.state.name == "COMPLETE"]
        points = Counter(params_key(t.params) for t in finished)
        directories = Counter(t.user_attrs[DIRECTORY] for t in finished)
        failed = [
            t
            for t in trials
            if t.state.name == "FAIL" and not t.user_attrs.get(WITHDRAWN) and t.params
        ]
        # Hit again after its one retry: the study gives such a point up, and draws another.
        given_up = {
            params_key(point_of(t))
            for t in failed
            if not t.user_attrs.get(RETRY) and t.user_attrs.get(USED, {}).get("lost_worker", 0) == 1
        }
        lost = [t.number for t in failed if params_key(point_of(t)) not in points.keys() | given_up]
        overwritten = [
            t.number for t in trials if "FileExistsError" in str(t.user_attrs.get("reason"))
        ]
        states = Counter(t.state.name for t in trials)
        faults = {
            "finished, not the target": [len(finished)] if len(finished) != self.trials else [],
            "left running": [t.number for t in trials if t.state.name == "RUNNING"],
            "points lost": lost,
            "points finished twice": [p for p, n in points.items() if n > 1],
            "directories shared": [d for d, n in directories.items() if n > 1] + overwritten,
            "processes left": left,
            "controller errors": self.errors,
        }
        return {
            "trials": len(trials),
            "finished": len(finished),
            "interrupted and run again": sum(RETRY_OF in t.user_attrs for t in trials),
            "points given up after a retry": len(given_up),
            "claims withdrawn": sum(bool(t.user_attrs.get(WITHDRAWN)) for t in trials),
            "states": dict(states),
            "blows": dict(sorted(self.done.items())),
            "faults": {k: v for k, v in faults.items() if v},
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", help="sqlite (default), journal, postgresql or a URL")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--stop-seconds", type=float, default=60)
    parser.add_argument("--lease", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--control", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    storage = None if options.storage in (None, "sqlite") else options.storage
    if options.control:
        control(options.control, storage, options.trials, options.lease)
        return
    sys.path.insert(0, str(ROOT))
    with contextlib.ExitStack() as stack:
        if storage == "postgresql":
            from benchmarks.postgres_server import postgres

            storage = stack.enter_context(postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        result = Soak(
            folder / "studies" / "soak",
            storage,
            options.trials,
            options.kills,
            options.stops,
            options.stop_seconds,
            options.lease,
            options.seed,
        ).run()
    result = {"storage": options.storage or "sqlite", **result}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
