"""What begins is said before the seconds that the libraries take."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rmexp.cli import main
from rmexp.errors import UserError


def test_export_says_what_it_loads_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []

    def export_reward_model(source: str, target: Path, **how: Any) -> Path:
        said.append(capsys.readouterr().err)
        return target

    heavy = types.ModuleType("rmexp.reward.export")
    monkeypatch.setattr(heavy, "export_reward_model", export_reward_model, raising=False)
    monkeypatch.setitem(sys.modules, "rmexp.reward.export", heavy)
    Path("model").mkdir()
    main(["export", "model.path=model", "out=x"])
    assert said == ["export: loading model ...\n"]
    # A mistake stays one line.
    for words in (["model.path=model", "out=model"], ["model.path=/nowhere", "out=x"]):
        with pytest.raises(SystemExit):
            main(["export", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rmexp: ")


def test_a_sweep_says_what_begins_before_its_processes(
    quick: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []

    def learn_from_others(*given: Any) -> None:
        said.append(capsys.readouterr().err)
        raise UserError("enough")

    monkeypatch.setattr("rmexp.sweep.launch.learn_from_others", learn_from_others)
    with pytest.raises(SystemExit):
        main(["sweep", *quick, "study=s", "gamma=choice(0,1)", "sweep.trials=2"])
    assert said == ["study s: 2 trials over gamma; starting ...\n"]
