"""Each pruner prunes, samplers learn from guards, and what a kind would not heed is refused."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from sweep_doubles import GUARD, FakeExecutor, controller_of, guarded_trial, states

from rmexp.sweep.job import TrialJob
from rmexp.sweep.samplers import make_pruner
from rmexp.sweep.schema import PrunerConfig, SamplerConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import front
from rmexp.trial.record import TrialRecord

PLANE = Space(
    (
        Dimension("gamma", FloatDistribution(0.0, 1.0)),
        Dimension("learning_rate", FloatDistribution(0.1, 0.9)),
    )
)


def _last_epoch(study: optuna.Study) -> list[int]:
    return [max(t.intermediate_values) for t in study.get_trials()]


@pytest.mark.parametrize("kind", ["asha", "hyperband"])
def test_successive_halving_stops_the_worse_and_lets_the_best_through(
    tmp_path: Path, kind: str
) -> None:
    """Each trial is worse than the one before, from its first epoch on."""

    def outcome(job: TrialJob) -> list[float]:
        return [1 / (job.number + 1)] * 27

    controller, study, _ = controller_of(
        tmp_path,
        FakeExecutor(outcome),
        trials=20,
        storage="journal",
        pruner=PrunerConfig(kind=kind),
    )
    controller.run()
    found = states(study)
    assert found[0] == "COMPLETE"
    assert found.count("PRUNED") >= 10
    assert set(found) == {"COMPLETE", "PRUNED"}
    # It stopped them early, not at their end.
    pruned = [e for e, state in zip(_last_epoch(study), found, strict=True) if state == "PRUNED"]
    assert min(pruned) < 5


def test_successive_halving_waits_for_the_warm_up(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> list[float]:
        return [1 / (job.number + 1)] * 27

    pruner = PrunerConfig(kind="asha", warmup_epochs=6)
    controller, study, _ = controller_of(
        tmp_path, FakeExecutor(outcome), trials=20, storage="journal", pruner=pruner
    )
    controller.run()
    assert min(_last_epoch(study)) == 6


def test_patient_stops_what_makes_no_progress(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> list[float]:
        if job.number == 0:
            return [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        # The best is at epoch 2; with patience 2 the third epoch below it is the last.
        return [0.1, 0.9, 0.5, 0.5, 0.5, 0.5]

    pruner = PrunerConfig(kind="patient", patience=2)
    controller, study, _ = controller_of(tmp_path, FakeExecutor(outcome), trials=2, pruner=pruner)
    controller.run()
    assert states(study) == ["COMPLETE", "PRUNED"]
    assert _last_epoch(study) == [6, 5]


@pytest.mark.parametrize(
    ("section", "kind", "given"),
    [
        (PrunerConfig, "asha", {"startup_trials": 4}),
        (PrunerConfig, "hyperband", {"startup_trials": 4}),
        (PrunerConfig, "patient", {"startup_trials": 4}),
        (PrunerConfig, "patient", {"warmup_epochs": 2}),
        (SamplerConfig, "qmc", {"startup_trials": 4}),
        (SamplerConfig, "nsga2", {"startup_trials": 4}),
        (SamplerConfig, "nsga3", {"startup_trials": 4}),
    ],
)
def test_a_key_without_an_effect_is_refused_by_name(section, kind: str, given: dict) -> None:
    (key,) = given
    with pytest.raises(ValueError, match=rf"\.{key}: has no effect with kind={kind}"):
        section(kind=kind, **given)
    default = section.model_fields[key].default
    assert section(kind=kind, **{key: default}).kind == kind


def test_a_pruner_that_is_turned_off_on_the_command_line_needs_no_other_word() -> None:
    config = PrunerConfig(kind="none", startup_trials=2, warmup_epochs=1)
    assert isinstance(make_pruner(config), optuna.pruners.NopPruner)


@pytest.mark.parametrize("kind", ["gp", "nsga2", "nsga3"])
def test_guards_reach_every_sampler_that_takes_them(tmp_path: Path, kind: str) -> None:
    start = {"startup_trials": 4} if kind == "gp" else {}
    controller, study, _ = controller_of(
        tmp_path,
        FakeExecutor(guarded_trial),
        trials=9,
        storage="journal",
        guards=[GUARD],
        sampler=SamplerConfig(kind=kind, **start),
    )
    controller.run()
    trials = study.get_trials()
    assert states(study) == ["COMPLETE"] * 9
    assert [list(t.constraints.values()) for t in trials] == [
        t.user_attrs["violations"] for t in trials
    ]


def test_the_gp_searches_where_the_guard_is_kept(tmp_path: Path) -> None:
    """The objective rises towards 1, the guard ends it at 0.5."""
    points = [{"gamma": g} for g in (0.1, 0.3, 0.6, 0.8, 0.95)]
    sampler = SamplerConfig(kind="gp", startup_trials=5)
    drawn = {}
    for name, guards in (("guarded", [GUARD]), ("free", [])):
        controller, study, _ = controller_of(
            tmp_path,
            FakeExecutor(guarded_trial, slots=1),
            name=name,
            trials=8,
            storage="journal",
            guards=guards,
            enqueue=points,
            sampler=sampler,
        )
        controller.run()
        drawn[name] = [t.params["gamma"] for t in study.get_trials()[5:]]
    assert max(drawn["guarded"]) < 0.6
    assert max(drawn["free"]) > 0.9


@pytest.mark.parametrize("kind", ["nsga2", "nsga3"])
def test_a_genetic_sampler_finds_the_front_of_two_objectives(tmp_path: Path, kind: str) -> None:
    """Both objectives are best where gamma is 0.5; there they trade off."""

    def outcome(job: TrialJob) -> TrialRecord:
        x, y = job.config["gamma"], job.config["learning_rate"]
        far = abs(x - 0.5)
        values = [y - far, y + far]
        return TrialRecord("complete", "", values[0], job.config, job.identity, objectives=values)

    controller, study, _ = controller_of(
        tmp_path,
        FakeExecutor(outcome),
        PLANE,
        trials=200,
        storage="journal",
        direction=["maximize", "minimize"],
        sampler=SamplerConfig(kind=kind),
    )
    controller.run()
    assert states(study) == ["COMPLETE"] * 200
    best = front(study)
    assert [t.number for t in best] == sorted(t.number for t in study.best_trials)
    assert len(best) > 5
    # It learns: what it breeds lies nearer to the front than the 50 that it drew at first.
    far = [abs(t.params["gamma"] - 0.5) for t in study.get_trials()]
    assert sum(far[-50:]) < 0.9 * sum(far[:50])
