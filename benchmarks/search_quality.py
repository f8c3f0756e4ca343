"""TPE with pruning beside random search on hh-rlhf harmless, with the same training time.

MiniLM with only its head trained, so that the frozen-trunk cache serves every trial: training is
cheap and the search is what differs. Both search the same space from the same seeds with the same
wall-clock limit on the same slots; the winner of each trains anew on fresh seeds and is measured
on test pairs that neither has seen. Differences are paired by repetition, seed and test pair; the
seeds of a repetition share its winner, so that the interval counts repetitions, not seeds.

    python benchmarks/search_quality.py [--repetitions 5] [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from results_file import ResultsFile

from rmexp.statistics import SHARE, bootstrap_crossed, of_differences
from rmexp.sweep.confirm import read_confirmation
from rmexp.sweep.study import StudyFolder, finished_trials, load_study
from rmexp.trial.record import TrialRecord

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("RMEXP_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
SPACE = [
    "gamma=interval(0,3)",
    "r=range(1,20)",
    "learning_rate=tag(log,interval(1e-4,1e-1))",
    "epochs=range(1,13)",
]
SEARCHES = {
    "TPE and ASHA": ["sweep.sampler.kind=tpe", "sweep.pruner.kind=asha"],
    "random": ["sweep.sampler.kind=random"],
}


def rmexp(folder: Path, environment: dict[str, str], *words: str) -> None:
    """Run a command; its output goes to a file that an error names."""
    log = folder / "log.txt"
    with log.open("w") as out:
        command = [sys.executable, "-m", "rmexp", *words]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=out)
    if done.returncode:
        raise SystemExit(f"rmexp {words[0]}: exit {done.returncode}\n{log.read_text()[-3000:]}")


def trained_seconds(study: StudyFolder) -> float:
    """Seconds of training in all finished trials."""
    trials = finished_trials(load_study(study.root.parent.parent, study.name))
    return sum(TrialRecord.read(study.trial(t.number)).times["train"] for t in trials)


def correct(study: StudyFolder) -> tuple[np.ndarray, list[str]]:
    """``[seeds, pairs]`` of the confirmed winner, and the pairs' prompts as groups."""
    confirmed = read_confirmation(study)
    assert confirmed is not None
    number = confirmed.ranking[0].number
    rows, ids = [], []
    for seed in confirmed.seeds:
        record = TrialRecord.read(study.root / "confirm" / f"{number:04d}-seed{seed}")
        samples = record.report["test"]["samples"]
        rows.append([float(s["chosen"] > s["rejected"]) for s in samples])
        ids = [s["id"] for s in samples]
    return np.array(rows), ids


def main() -> None:
    """All repetitions, the two searches of each one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="for each search")
    parser.add_argument("--pairs", type=int, default=600, help="training pairs")
    parser.add_argument("--seeds", type=int, default=3, help="fresh seeds of a winner")
    options = parser.parse_args()
    with ResultsFile("search_quality") as results, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "RMEXP_CACHE_DIR": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        fixed = ["data=hh_rlhf", f"data.path={DATA / 'hh-rlhf'}", "peft=head_only", "tracker=none"]
        fixed.append(f"data.train_limit={options.pairs}")
        # Ratings and frozen states are there before either search begins.
        rmexp(folder, environment, "train", *fixed, "gamma=1", "r=5", "epochs=1")
        results.line(
            f"{options.pairs} training pairs, head only, {options.seconds:g} s a search, "
            f"winners on {options.seeds} fresh seeds"
        )
        results.line(
            f"{'repetition':<12}{'search':<14}{'trials':>7}{'pruned':>8}{'trained s':>11}"
            f"{'validation':>12}{'confirmed on test':>22}"
        )
        tables: dict[str, list[Any]] = {name: [] for name in SEARCHES}
        ids: list[str] = []
        for repetition in range(options.repetitions):
            for name, words in SEARCHES.items():
                study = StudyFolder.of(folder / "outputs", f"{name.split()[0]}-{repetition}")
                search = [*words, f"sweep.sampler.seed={repetition}", "sweep.trials=100000"]
                search += [f"sweep.timeout={options.seconds}", f"study={study.name}"]
                rmexp(folder, environment, "train", "-m", *fixed, *SPACE, *search)
                seeds = ["--top", "1", "--seeds", str(options.seeds)]
                rmexp(folder, environment, "confirm", study.name, *seeds)
                confirmed = read_confirmation(study)
                assert confirmed is not None
                best = confirmed.ranking[0]
                trials = finished_trials(load_study(folder / "outputs", study.name))
                pruned = sum(t.state.name == "PRUNED" for t in trials)
                results.line(
                    f"{repetition:<12}{name:<14}{len(trials):>7}{pruned:>8}"
                    f"{trained_seconds(study):>11.1f}{best.searched:>12.4f}{best.accuracy!s:>32}"
                )
                table, ids = correct(study)
                # A mean over the seeds: they share the winner, so they are no draws of their own.
                tables[name].append(table.mean(0))
        tpe, rand = (np.stack(tables[name]) for name in SEARCHES)
        interval = bootstrap_crossed(tpe - rand, groups=ids, bounds=of_differences(SHARE))
        results.line()
        results.line(f"mean test accuracy: TPE and ASHA {tpe.mean():.4f}, random {rand.mean():.4f}")
        verdict = "not separable" if interval.low <= 0 <= interval.high else "separable"
        results.line(f"TPE and ASHA minus random, paired: {interval} ({verdict})")


if __name__ == "__main__":
    main()
