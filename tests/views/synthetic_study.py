"""A study as a sweep leaves it, without any training: Optuna's storage and written records."""

from __future__ import annotations

import atexit
import functools
import math
import random
import shutil
import tempfile
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from rmexp.sweep.samplers import VIOLATIONS
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord, write_json
from rmexp.trial.schema import TrialConfig

SPACE = {
    "gamma": CategoricalDistribution([0.0, 0.5, 1.0, 2.0]),
    "r": CategoricalDistribution([1, 3, 5, 10]),
    "learning_rate": FloatDistribution(5e-5, 1e-3, log=True),
    "epochs": IntDistribution(1, 3),
}


def make_study(
    output_dir: Path,
    name: str = "synthetic",
    trials: int = 20,
    objectives: int = 1,
    guarded: bool = False,
) -> tuple[optuna.Study, StudyFolder]:
    """Trials by number: every 5th pruned, trials 3 and 11 failed, the last one still running.

    ``guarded``: every second one breaks a guard.
    """
    folder = StudyFolder.of(output_dir, name)
    shutil.copytree(_template(name, trials, objectives, guarded), folder.root)
    return optuna.load_study(study_name=name, storage=folder.storage_url(None)), folder


@functools.cache
def _template(name: str, trials: int, objectives: int, guarded: bool) -> Path:
    """Made once and copied: each change of an SQLite study waits for the disk."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = StudyFolder.of(tempfile.mkdtemp(), name)
    atexit.register(shutil.rmtree, folder.root.parent.parent, ignore_errors=True)
    folder.make()
    study = optuna.create_study(
        study_name=name,
        storage=folder.storage_url(None),
        directions=["maximize"] * objectives,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    if objectives > 1:
        study.set_metric_names(["accuracy", "over_refusal_accuracy"][:objectives])
    study.set_user_attr("target", trials)
    draw = random.Random(0)
    for number in range(trials):
        trial = study.ask(SPACE)
        directory = folder.trial(number)
        trial.set_user_attr("directory", f"trials/{number:04d}")
        if guarded:
            broken = [0.1 if number % 2 else -0.1]
            trial.set_user_attr(VIOLATIONS, broken)
            # As Optuna's samplers write it.
            trial.storage.set_trial_system_attr(trial._trial_id, "constraints", broken)
        config = TrialConfig(cache_dir="cache", **trial.params)
        quality = 0.6 + 0.05 * trial.params["gamma"] + 0.03 * math.log(trial.params["r"] + 1)
        values = [round(quality + draw.gauss(0, 0.02) + 0.02 * e, 4) for e in range(config.epochs)]
        if objectives == 1:
            for epoch, value in enumerate(values, 1):
                trial.report(value, epoch)
        directory.mkdir(parents=True)
        if number == trials - 1:
            (directory / "log.txt").write_text("read\nrate\nlabel\ntrain\n")
            continue
        state, reason, text = "complete", "", ""
        if number in (3, 11):
            state, reason = "failed", "ValueError: <b>NaN</b> in row 7 & more"
            text = "Traceback (most recent call last):\nValueError: <b>NaN</b> in row 7"
        elif number % 5 == 4 and objectives == 1:
            state, reason = "pruned", "pruned after epoch 1"
        metrics = {"validation/accuracy": values[-1], "labels/kept": 100.0}
        objective = None if state == "failed" else values[-1]
        (directory / "log.txt").write_text(f"read\nrate\nlabel\ntrain\ntrial {number}\n")
        TrialRecord(
            state=state,
            reason=reason,
            objective=objective,
            config=config.to_plain(),
            identity=TrialIdentity(name, number),
            metrics=metrics,
            history=[
                {"epoch": e, "validation/accuracy": v, "train/loss": 1.0 / e}
                for e, v in enumerate(values, 1)
            ],
            report={"split": {"train": 100, "validation": 50, "test": 50}},
            traceback=text,
        ).write(directory)
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("metrics", metrics)
        if state == "failed":
            study.tell(trial, state=TrialState.FAIL)
        elif state == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            (directory / MODEL).mkdir()
            study.tell(trial, [objective, 1 - objective / 2][:objectives])
    return folder.root


def add_test_result(folder: StudyFolder, number: int, accuracy: float = 0.7) -> None:
    """What ``rmexp best`` stores once it has measured a trial on the test part."""
    metrics = {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.05,
        "accuracy_high": accuracy + 0.05,
        "pairs": 120.0,
        "baseline_longer": 0.45,
        "baseline_shorter": 0.55,
        "baseline_majority": 0.52,
        "over_length_baseline": accuracy - 0.55,
        "over_length_baseline_low": accuracy - 0.6,
        "over_length_baseline_high": accuracy - 0.5,
    }
    write_json(folder.trial(number) / "test.json", {"metrics": metrics})
