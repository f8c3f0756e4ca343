"""What a study learns from others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
import pytest
from sweep_doubles import GUARD, SPACE, FakeExecutor, controller_of, guarded_trial

from rmexp.errors import UserError
from rmexp.sweep.ledger import WARM_START
from rmexp.sweep.schema import SamplerConfig, SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import best_trial, load_study


def _run(tmp_path: Path, name: str, trials: int, space: Space = SPACE, **more) -> optuna.Study:
    executor = more.pop("executor", None) or FakeExecutor()
    controller, study, _ = controller_of(
        tmp_path, executor, space, name=name, trials=trials, **more
    )
    controller.run()
    return study


def _sources(study: optuna.Study) -> Counter[str]:
    found = (t.user_attrs.get(WARM_START) for t in study.get_trials())
    return Counter(source for source in found if source)


def test_what_was_learned_is_none_of_the_studys_own_trials(tmp_path: Path) -> None:
    _run(tmp_path, "s", 3)
    study = _run(tmp_path, "second", 2, warm_start=["s"])
    own = [t for t in study.get_trials() if WARM_START not in t.user_attrs]
    assert len(own) == 2
    assert best_trial(study).number in {t.number for t in own}
    assert _sources(load_study(tmp_path, "second")) == {"s/0": 1, "s/1": 1, "s/2": 1}


def test_a_warm_start_looks_at_all_studies_before_it_takes_any(tmp_path: Path) -> None:
    _run(tmp_path, "one", 2)
    with pytest.raises(UserError, match="no study 'typo'"):
        controller_of(tmp_path, FakeExecutor(), name="new", warm_start=["one", "typo"])
    assert not load_study(tmp_path, "new").get_trials()
    _run(tmp_path, "two", 1)
    _, study, _ = controller_of(tmp_path, FakeExecutor(), name="new", warm_start=["one", "two"])
    assert _sources(study) == {"one/0": 1, "one/1": 1, "two/0": 1}


def test_a_warm_start_that_was_killed_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path, "s", 4)
    add = optuna.Study.add_trial

    def dies(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(study.get_trials()) == 2:
            raise KeyboardInterrupt
        add(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", dies)
        with pytest.raises(KeyboardInterrupt):
            controller_of(tmp_path, FakeExecutor(), name="new", warm_start=["s"])
    assert len(_sources(load_study(tmp_path, "new"))) == 2
    study = _run(tmp_path, "new", 1, warm_start=["s"])
    assert _sources(study) == {f"s/{number}": 1 for number in range(4)}


def test_a_study_that_has_begun_learns_as_well_and_says_so(tmp_path: Path) -> None:
    _run(tmp_path, "s", 2)
    _run(tmp_path, "new", 1)
    controller, study, events = controller_of(
        tmp_path, FakeExecutor(), name="new", trials=2, warm_start=["s"]
    )
    controller.run()
    assert events[0].event == "warm start: 2 trials of study 's' added"
    assert _sources(study) == {"s/0": 1, "s/1": 1}
    again, _, events = controller_of(
        tmp_path, FakeExecutor(), name="new", trials=3, warm_start=["s"]
    )
    again.run()
    assert not any("warm start" in e.event for e in events)


def test_points_outside_the_space_are_told(tmp_path: Path) -> None:
    _run(tmp_path, "s", 2, enqueue=[{"gamma": 0.25}, {"gamma": 0.75}])
    low = Space((Dimension("gamma", optuna.distributions.FloatDistribution(0.0, 0.5)),))
    controller, _, events = controller_of(
        tmp_path, FakeExecutor(), low, name="new", trials=1, warm_start=["s"]
    )
    controller.run()
    assert events[0].event == ("warm start: 1 trials of study 's' added; 1 lie outside this space")
    other = Space((Dimension("r", optuna.distributions.IntDistribution(1, 9)),))
    with pytest.raises(UserError, match="none of the 2 finished trials of study 's' lies in"):
        controller_of(tmp_path, FakeExecutor(), other, name="third", warm_start=["s"])


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_guards_of_what_was_learned_reach_the_sampler(tmp_path: Path, kind: str) -> None:
    """Without them TPE takes a trial that breaks a guard for a good one, and GP stops."""
    sampler = SamplerConfig(kind=kind, startup_trials=2)
    guarded = {"guards": [GUARD], "sampler": sampler}
    first = _run(tmp_path, "s", 4, executor=FakeExecutor(guarded_trial), **guarded)
    broken = {f"s/{t.number}": t.user_attrs["violations"] for t in first.get_trials()}
    study = _run(
        tmp_path, "new", 4, executor=FakeExecutor(guarded_trial), warm_start=["s"], **guarded
    )
    learned = {
        t.user_attrs[WARM_START]: list(t.constraints.values())
        for t in study.get_trials()
        if WARM_START in t.user_attrs
    }
    assert learned == broken
    assert any(values[0] > 0 for values in broken.values())


def test_trials_that_were_measured_with_other_guards_are_refused(tmp_path: Path) -> None:
    _run(tmp_path, "free", 1)
    with pytest.raises(UserError, match=r"trial 0 of study 'free' .* the guards none"):
        controller_of(tmp_path, FakeExecutor(), name="new", guards=[GUARD], warm_start=["free"])
    _run(tmp_path, "guarded", 1, executor=FakeExecutor(guarded_trial), guards=[GUARD])
    study = _run(tmp_path, "new", 1, warm_start=["guarded"])
    assert not study.get_trials()[0].constraints


@pytest.mark.parametrize("kind", ["random", "grid", "qmc", "cmaes", "nsga2", "nsga3"])
def test_a_sampler_that_would_not_learn_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"sweep\.warm_start: the sampler {kind} "):
        SweepConfig(warm_start=["s"], sampler=SamplerConfig(kind=kind))
