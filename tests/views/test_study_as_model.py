"""A study's folder given as a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_study import make_study

from rmexp.cli import main


@pytest.mark.parametrize("command", [["evaluate"], ["score", "in=x.jsonl", "out=y.jsonl"]])
def test_the_best_trials_folder_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, folder = make_study(tmp_path / "outputs")
    best = study.best_trial.number
    with pytest.raises(SystemExit):
        main([*command, "model.path=outputs/studies/synthetic"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"a study's folder; its best trial is {best}: give " in line
    given = Path(line.rpartition("give ")[2])
    assert given.resolve() == folder.trial(best).resolve()


def test_of_several_objectives_no_trial_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "outputs", objectives=2)
    with pytest.raises(SystemExit):
        main(["compare", "outputs/studies/synthetic", "b"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "give one of its trials, outputs/studies/synthetic/trials/NUMBER (" in line
    assert "several objectives" in line
