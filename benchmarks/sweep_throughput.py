"""The same 24 trials here and by hydra-optuna-sweeper 1.3 with a plain Lightning script.

Starter data, MiniLM with its last two layers trained, precomputed ratings on both sides, no
tracker on either. The peer lives in an environment of its own, since it pins optuna<3:

    python -m venv ../venv-hos
    ../venv-hos/bin/pip install hydra-optuna-sweeper==1.3.0 hydra-core==1.3.8 "sqlalchemy<2" \
        "alembic<1.14" "setuptools<81" torch==2.13.0 pytorch-lightning==2.6.6 transformers==5.24.0
    python benchmarks/sweep_throughput.py --peer-python ../venv-hos/bin/python

Told are wall seconds from the command's start to its end, imports included. `equal trials`: all 24
points to their end. `with pruning`: the same points, ASHA stops the weak ones, and the caches are
those that the first sweep left, as for any further sweep over the same data. Then the best point
of each side is trained on fresh seeds by one and the same trainer and measured on test pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results_file import ResultsFile

from rmexp.preferences import prompt_text
from rmexp.statistics.bootstrap import bootstrap_mean
from rmexp.trial import assembly, reading
from rmexp.trial.held_out import test_pairs
from rmexp.trial.labelled import part_of, rate
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrialConfig, trial_config

HERE = Path(__file__).resolve().parent
SETTINGS = ["peft=last_k", "peft.last_k=2", "tracker=none", "rating.on_missing=error"]


def points(count: int) -> list[dict[str, Any]]:
    """Drawn once by a seed from the space of sweep=starter."""
    draw = random.Random(7)
    return [
        {
            "gamma": draw.choice([0.0, 0.25, 0.5, 1.0, 2.0]),
            "r": draw.choice([1, 3, 5, 10, 20]),
            "learning_rate": round(10 ** draw.uniform(-4.3, -3), 7),
            "epochs": draw.randint(1, 3),
        }
        for _ in range(count)
    ]


def prepare(folder: Path, cache: Path, model: Path, count: int, threads: int) -> None:
    """Ratings into the store (ours) and into a file (the peer's), with the pairs in words."""
    config = TrialConfig(cache_dir=str(cache), gamma=1.0, r=5)
    data = reading.read_pairs(config.data)
    rules = assembly.rule_set(config)
    train = part_of(data, config.data, "train")
    rated = rate(config, train, rules).ratings
    np.savez(
        folder / "ratings.npz",
        psi_a=rated.psi_a,
        psi_b=rated.psi_b,
        relevance=rated.relevance,
    )

    def rows(pairs: Any) -> list[dict[str, Any]]:
        return [
            {
                "prompt": prompt_text(p.prompt),
                "a": p.response_a,
                "b": p.response_b,
                "preference": p.preference,
            }
            for p in pairs
        ]

    job = {
        "model": str(model),
        "threads": threads,
        "points": points(count),
        "train": rows(train),
        "validation": rows(part_of(data, config.data, "validation")),
    }
    (folder / "job.json").write_text(json.dumps(job))


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Wall seconds of a command; its output goes to a file that an error names."""
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("w") as out:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=out)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ...: exit {done.returncode}\n{log.read_text()}")
    return time.perf_counter() - start


def ours(folder: Path, study: str, environment: dict[str, str], count: int, *more: str) -> float:
    """Seconds of `rmexp sweep` over the points."""
    listed = json.dumps(points(count)).replace('"', "")
    command = [sys.executable, "-m", "rmexp", "sweep", f"study={study}", f"sweep.trials={count}"]
    command += ["gamma=interval(0,2)", "r=range(1,21)", "epochs=range(1,4)"]
    command += ["learning_rate=tag(log,interval(1e-5,1e-3))", f"sweep.enqueue={listed}"]
    return timed([*command, *SETTINGS, *more], folder, environment)


def peer(folder: Path, python: Path, environment: dict[str, str], count: int) -> float:
    """Seconds of hydra-optuna-sweeper over the points, each once."""
    listed = ",".join(map(str, range(count)))
    command = [str(python), str(HERE / "sweep_throughput_peer.py"), "-m", "hydra/sweeper=optuna"]
    command += ["hydra/sweeper/sampler=grid", "hydra.sweeper.direction=maximize"]
    command += [f"hydra.sweeper.n_trials={count}", f"folder={folder}"]
    command += [f"point=choice({listed})"]
    environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    return timed(command, folder, environment)


def best_of_study(folder: Path, study: str) -> dict[str, Any]:
    """The params of our best trial."""
    command = [sys.executable, "-m", "rmexp", "best", study, "--json"]
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout)["params"])


def on_fresh_seeds(folder: Path, cache: Path, point: dict[str, Any], seeds: int) -> np.ndarray:
    """``[seeds, pairs]``: whether each test pair is ranked rightly, by one and the same trainer."""
    from rmexp.reward.model import load_reward_model
    from rmexp.trial.run import run_trial

    rows = []
    for seed in range(101, 101 + seeds):
        plain = {
            **point,
            "seed": seed,
            "cache_dir": str(cache),
            "peft": {"kind": "last_k", "last_k": 2},
            "tracker": {"kind": "none"},
        }
        config = trial_config(plain)
        directory = folder / f"seed-{point['gamma']}-{point['learning_rate']}-{seed}"
        record: TrialRecord = run_trial(config, directory=directory)
        if record.state != "complete":
            raise SystemExit(f"{directory}: {record.reason}")
        pairs = [p for p in test_pairs(config) if p.preference is not None]
        model = load_reward_model(directory / "model")
        chosen = model.score([p.prompt for p in pairs], [p.chosen for p in pairs])
        rejected = model.score([p.prompt for p in pairs], [p.rejected for p in pairs])
        rows.append((chosen > rejected).astype(float))
    return np.array(rows)


def main() -> None:
    """Both sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, default=Path("../venv-hos/bin/python"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    from rmexp.backbone.sources import resolve_model

    with ResultsFile("sweep_throughput") as results, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cache = folder / "cache"
        prepare(folder, cache, resolve_model("minilm", cache), options.trials, threads)
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "RMEXP_CACHE_DIR": str(cache),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        peers = peer(folder, options.peer_python.absolute(), environment, options.trials)
        equal = ours(folder, "equal", environment, options.trials)
        asha = ["sweep.pruner.kind=asha"]
        pruned = ours(folder, "pruned", environment, options.trials, *asha)
        told = [json.loads(line) for line in (folder / "peer.jsonl").read_text().splitlines()]
        assert sorted(row["point"] for row in told) == list(range(options.trials))
        inside = sum(row["s"] for row in told)
        results.line()
        results.line(f"{options.trials} trials, {threads} cores            seconds   peer / it")
        results.line(f"hydra-optuna-sweeper 1.3, Lightning {peers:>8.1f}   (trials {inside:.1f})")
        results.line(f"rmexp, equal trials                 {equal:>8.1f}{peers / equal:>12.2f}")
        results.line(f"rmexp, caches and ASHA pruning      {pruned:>8.1f}{peers / pruned:>12.2f}")
        results.line()
        theirs = points(options.trials)[max(told, key=lambda row: row["value"])["point"]]
        wanted = on_fresh_seeds(folder, cache, theirs, options.seeds)
        for study in ("equal", "pruned"):
            mine = on_fresh_seeds(folder, cache, best_of_study(folder, study), options.seeds)
            interval = bootstrap_mean((mine - wanted).mean(axis=0))
            results.line(
                f"best of {study:7s} on {options.seeds} fresh seeds, test: {mine.mean():.3f}, "
                f"peer's {wanted.mean():.3f}, difference {mine.mean() - wanted.mean():+.3f} "
                f"({interval.low:+.3f} to {interval.high:+.3f})"
            )


if __name__ == "__main__":
    main()
