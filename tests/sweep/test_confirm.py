from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from rmexp.cli import main
from rmexp.errors import DriftError, UserError
from rmexp.fingerprint import fingerprint
from rmexp.preferences import pairs_fingerprint
from rmexp.sweep.confirm import confirm, read_confirmation, signed_rank, top_trials
from rmexp.sweep.console import print_confirmation
from rmexp.sweep.drift import found_today
from rmexp.sweep.job import Ended, TrialJob
from rmexp.sweep.seed_runs import fresh_seeds, rerun_seeds
from rmexp.sweep.study import StudyFolder, as_good_as, best_trial
from rmexp.trial.held_out import test_pairs as held_out_pairs
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.trial.versions import library_versions

# The share of test pairs that each trial gets right, by its gamma.
SKILL = {0.0: 0.9, 0.25: 0.88, 0.5: 0.3}


class ScriptedExecutor:
    """Writes records with test scores of a known skill."""

    slots = 2
    threads = 1

    def __init__(self, lose: int | None = None, fail: bool = False):
        self.jobs: deque[TrialJob] = deque()
        self.ran: list[tuple[int, int]] = []
        self.lose, self.fail, self.closed = lose, fail, False

    def submit(self, job: TrialJob) -> None:
        self.jobs.append(job)

    def wait(self, on_report, timeout: float) -> list[Ended]:
        job = self.jobs.popleft()
        if self.lose is not None and len(self.ran) == self.lose:
            raise KeyboardInterrupt
        self.ran.append((job.number, job.config["seed"]))
        write_record(job.directory, job, failed=self.fail)
        return [Ended(job)]

    def close(self) -> None:
        self.closed = True


def write_record(directory: Path, job: TrialJob, failed: bool = False) -> None:
    config = TrialConfig(**job.config)
    pairs = held_out_pairs(config)
    draw = np.random.default_rng([config.seed, int(config.gamma * 100)])
    right = draw.random(len(pairs)) < SKILL[config.gamma]
    samples = [
        {"id": p.id, "chosen": float(ok), "rejected": 0.0}
        for p, ok in zip(pairs, right, strict=True)
    ]
    prints = {"test": pairs_fingerprint(pairs)}
    prints |= {name: make() for name, make in found_today(config).items()}
    (directory / MODEL).mkdir(parents=True)
    TrialRecord(
        "failed" if failed else "complete",
        "ran out of luck" if failed else "",
        None if failed else 0.5,
        job.config,
        job.identity,
        metrics={"test/accuracy": float(right.mean())},
        fingerprints={name: value.to_plain() for name, value in prints.items()},
        versions=library_versions(),
        report={"test": {"samples": samples}},
    ).write(directory)


@pytest.fixture
def searched(tmp_path: Path) -> tuple[optuna.Study, StudyFolder]:
    folder = StudyFolder.of(tmp_path, "s")
    folder.make()
    study = optuna.create_study(
        study_name="s", storage=folder.storage_url(None), direction="maximize"
    )
    space = {"gamma": optuna.distributions.CategoricalDistribution(list(SKILL))}
    # The search liked the worst one best.
    for gamma, value in ((0.5, 0.99), (0.0, 0.9), (0.25, 0.8), (0.0, 0.9)):
        study.enqueue_trial({"gamma": gamma})
        trial = study.ask(space)
        if trial.number == 3:
            trial.set_user_attr("duplicate_of", 1)
        else:
            config = TrialConfig(cache_dir="c", gamma=gamma)
            job = TrialJob(
                TrialIdentity("s", trial.number), config.to_plain(), folder.trial(trial.number)
            )
            write_record(job.directory, job)
        study.tell(trial, value)
    return study, folder


def test_the_confirmation_ranks_by_what_the_search_never_saw(searched) -> None:
    study, folder = searched
    executor = ScriptedExecutor()
    result = confirm(study, folder, executor, top=3, seeds=4)
    assert executor.closed
    # The same fresh seeds for each: paired.
    assert sorted(executor.ran) == [(n, s) for n in (0, 1, 2) for s in range(1000, 1004)]
    assert [c.number for c in result.ranking][-1] == 0
    first, second, last = result.ranking
    assert {first.number, second.number} == {1, 2}
    assert second.not_separable_from == (first.number,)
    assert f"not separable from trial {first.number}" in second.verdict
    assert last.not_separable_from == ()
    assert last.behind is not None
    assert last.behind.low > 0.4
    assert last.searched == 0.99
    assert np.mean(last.by_seed) == pytest.approx(last.accuracy.estimate)
    assert last.objective == pytest.approx(last.accuracy.estimate)
    assert read_confirmation(folder) == result
    # The trained models do not pile up.
    assert not list((folder.root / "confirm").glob(f"*/{MODEL}"))


def test_six_seeds_are_tested_by_their_ranks(searched, capsys) -> None:
    study, folder = searched
    result = confirm(study, folder, ScriptedExecutor(), top=3, seeds=6)
    first, second, last = result.ranking
    assert first.wilcoxon is None
    # Ahead on all six seeds: 2 of the 64 orders of signs are as clear.
    assert last.wilcoxon == pytest.approx(2 / 64)
    assert second.wilcoxon is not None
    assert second.wilcoxon > 0.05
    assert read_confirmation(folder) == result
    print_confirmation(result)
    assert re.search(r"Wilcoxon p.*0\.031.*worse than all above", capsys.readouterr().out, re.S)


def test_fewer_than_six_seeds_are_not_tested(searched, capsys) -> None:
    study, folder = searched
    result = confirm(study, folder, ScriptedExecutor(), top=3, seeds=5)
    assert [trial.wilcoxon for trial in result.ranking] == [None] * 3
    print_confirmation(result)
    assert "Wilcoxon" not in capsys.readouterr().out


def test_the_rank_test_knows_seeds_without_a_difference() -> None:
    even = np.full(6, 0.5)
    assert signed_rank(even, even) == 1.0
    ahead = even + np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4])
    p = signed_rank(ahead, even)
    assert p == signed_rank(even, ahead)
    assert p is not None
    assert 0.05 < p < 1.0
    assert signed_rank(even[:5], ahead[:5]) is None


def test_a_confirmation_from_before_the_rank_test_is_read(searched) -> None:
    study, folder = searched
    result = confirm(study, folder, ScriptedExecutor(), top=2, seeds=2)
    plain = json.loads((folder.root / "confirmation.json").read_text())
    for row in plain["ranking"]:
        del row["wilcoxon"]
    (folder.root / "confirmation.json").write_text(json.dumps(plain))
    assert read_confirmation(folder) == result


def test_finished_runs_are_not_run_again(searched) -> None:
    study, folder = searched
    first = ScriptedExecutor(lose=3)
    with pytest.raises(KeyboardInterrupt):
        confirm(study, folder, first, top=2, seeds=3)
    assert first.closed
    assert read_confirmation(folder) is None
    second = ScriptedExecutor()
    result = confirm(study, folder, second, top=2, seeds=3)
    assert len(first.ran) == 3
    assert sorted([*first.ran, *second.ran]) == [(n, s) for n in (0, 1) for s in (1000, 1001, 1002)]
    third = ScriptedExecutor()
    assert confirm(study, folder, third, top=2, seeds=3) == result
    assert not third.ran
    # One seed more costs one run a trial.
    fourth = ScriptedExecutor()
    confirm(study, folder, fourth, top=2, seeds=4)
    assert fourth.ran == [(0, 1003), (1, 1003)]


def _made_of(record: TrialRecord, what: str) -> TrialRecord:
    if what == "torch":
        return replace(record, versions={**record.versions, "torch": "0.4.1"})
    other = fingerprint(what, part="as it was").to_plain()
    return replace(record, fingerprints={**record.fingerprints, what: other})


@pytest.mark.parametrize("what", ["torch", "code", "pairs", "rules", "rater", "model"])
def test_a_run_that_was_made_of_something_else_is_run_again(searched, what: str) -> None:
    study, folder = searched
    confirm(study, folder, ScriptedExecutor(), top=1, seeds=3)
    older = folder.root / "confirm" / "0000-seed1001"
    _made_of(TrialRecord.read(older), what).write(older)
    executor = ScriptedExecutor()
    confirm(study, folder, executor, top=1, seeds=3)
    assert executor.ran == [(0, 1001)]


def test_runs_of_one_trial_tell_drift_and_may_log_elsewhere(searched) -> None:
    study, folder = searched
    confirm(study, folder, ScriptedExecutor(), top=1, seeds=2)
    executor = ScriptedExecutor()
    seeds, runs = rerun_seeds(folder, 0, executor, seeds=3, tracker="none")
    assert seeds == (1000, 1001, 1002)
    assert [run.config["seed"] for run in runs] == [1000, 1001, 1002]
    assert executor.ran == [(0, 1002)]  # another tracker gives the same numbers
    assert runs[-1].config["tracker"]["kind"] == "none"
    _made_of(TrialRecord.read(folder.trial(0)), "rater").write(folder.trial(0))
    with pytest.raises(DriftError, match=r"rater changed .*--on-drift warn"):
        rerun_seeds(folder, 0, ScriptedExecutor(), seeds=2)
    events: list[str] = []
    rerun_seeds(folder, 0, ScriptedExecutor(), seeds=2, on_drift="warn", on_event=events.append)
    assert events[0].startswith("drift: rater changed")
    with pytest.raises(UserError, match="--seeds"):
        rerun_seeds(folder, 0, ScriptedExecutor(), seeds=1)


def test_the_command_refuses_drift_before_it_runs_other_seeds(searched, tmp_path, capsys) -> None:
    _, folder = searched
    _made_of(TrialRecord.read(folder.trial(0)), "rater").write(folder.trial(0))
    with pytest.raises(SystemExit) as stop:
        main(["rerun", "s", "--seeds", "2", "--inline", "--output-dir", str(tmp_path)])
    assert stop.value.code == 2
    assert "rater changed (kind); add --on-drift warn" in capsys.readouterr().err
    assert not (folder.root / "confirm").exists()


def test_a_study_that_does_not_say_where_it_ran_has_no_as_swept(searched, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["confirm", "s", "--seeds", "2", "--as-swept", "--output-dir", str(tmp_path)])
    assert stop.value.code == 2
    assert "--as-swept: study 's' does not say where its trials ran" in capsys.readouterr().err


def test_a_failed_run_is_told_and_run_again(searched) -> None:
    study, folder = searched
    with pytest.raises(UserError, match="confirming trial 0 with seed 1000: ran out of luck"):
        confirm(study, folder, ScriptedExecutor(fail=True), top=1, seeds=2)
    executor = ScriptedExecutor()
    confirm(study, folder, executor, top=1, seeds=2)
    assert len(executor.ran) == 2


def test_other_test_pairs_than_the_search_set_aside_are_refused(searched) -> None:
    study, folder = searched
    record = TrialRecord.read(folder.trial(0))
    record.fingerprints["test"]["hexdigest"] = "0" * 64
    record.write(folder.trial(0))
    with pytest.raises(UserError, match="the test pairs have changed"):
        confirm(study, folder, ScriptedExecutor(), top=1, seeds=2)


def test_copies_of_a_point_are_confirmed_once(searched) -> None:
    assert [t.number for t in top_trials(searched[0], 4)] == [0, 1, 2]


def test_the_seeds_are_not_those_of_the_search() -> None:
    assert fresh_seeds([1000, 1002], 2) == (1001, 1003)


@pytest.mark.parametrize(("top", "seeds", "message"), [(0, 2, "--top"), (1, 1, "--seeds")])
def test_wrong_numbers_are_told(searched, top: int, seeds: int, message: str) -> None:
    study, folder = searched
    with pytest.raises(UserError, match=message):
        confirm(study, folder, ScriptedExecutor(), top=top, seeds=seeds)


def test_what_has_changed_since_the_search_is_refused_or_told(searched) -> None:
    study, folder = searched
    number = top_trials(study, 1)[0].number
    record = TrialRecord.read(folder.trial(number))
    replace(record, versions={"torch": "0.4.1"}).write(folder.trial(number))
    with pytest.raises(DriftError, match=r"torch was 0\.4\.1.*--on-drift warn"):
        confirm(study, folder, ScriptedExecutor(), top=1, seeds=2)
    events: list[str] = []
    confirm(
        study, folder, ScriptedExecutor(), top=1, seeds=2, on_drift="warn", on_event=events.append
    )
    assert any("torch was 0.4.1" in event for event in events)


def test_trials_that_break_a_guard_are_not_confirmed(searched) -> None:
    study, _ = searched
    best = top_trials(study, 1)[0]
    study.add_trial(
        optuna.trial.create_trial(
            value=99.0,
            params=best.params,
            distributions=best.distributions,
            user_attrs={"violations": [0.1]},
        )
    )
    assert top_trials(study, 1)[0].number == best.number


def test_trials_that_came_to_the_same_as_the_best_are_known() -> None:
    study = optuna.create_study(direction="maximize")
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for value, x, broken in [
        (0.9, 0.1, 0),
        (0.9, 0.2, 0),
        (0.8, 0.3, 0),
        (0.9, 0.1, 0),
        (0.9, 0.4, 1),
    ]:
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params={"x": x},
                distributions=space,
                user_attrs={"violations": [broken]},
            )
        )
    # Trial 3 repeats the best one's point, and trial 4 breaks a guard.
    assert as_good_as(study, best_trial(study)) == [1]


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_a_study_with_nothing_to_confirm_says_why(directions: list[str]) -> None:
    study = optuna.create_study(study_name="s", directions=directions)
    with pytest.raises(UserError, match="no trial is complete yet"):
        top_trials(study, 1)
    values = [1.0] * len(directions)
    study.add_trial(optuna.trial.create_trial(values=values, user_attrs={"warm_start": "other/0"}))
    with pytest.raises(UserError, match="no trial is complete yet"):
        top_trials(study, 1)
    study.add_trial(optuna.trial.create_trial(values=values, user_attrs={"violations": [0.2]}))
    with pytest.raises(UserError, match="every complete trial breaks a guard"):
        top_trials(study, 1)
