"""Models that lie in trials' folders: their data, their names, their cards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.sweep.rerun import kept_folder
from rmexp.sweep.study import StudyFolder
from rmexp.trial.evaluate import chosen_data, model_of
from rmexp.trial.evaluation_schema import SuiteConfig
from rmexp.trial.model_card import add_to_card
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.reference_files import ReferenceFiles, planned
from rmexp.trial.schema import DataConfig, TrialConfig

STARTER = DataConfig()


def trial(folder: Path, data: DataConfig, kept: bool = True, **more) -> Path:
    record = TrialRecord(
        state="complete",
        reason="",
        objective=0.5,
        config=TrialConfig(cache_dir="cache", data=data, gamma=0.5, r=3).to_plain(),
        identity=TrialIdentity("mine", int(folder.name.partition("-")[0])),
        **more,
    )
    folder.mkdir(parents=True)
    record.write(folder)
    if kept:
        (folder / "model").mkdir()
    return folder


def mine(limit: int = 20) -> DataConfig:
    return DataConfig(source="files", path="mine.jsonl", limit=limit)


@pytest.mark.parametrize("inside", ["", "model"])
def test_the_data_of_a_model_are_those_of_its_trial(tmp_path: Path, inside: str) -> None:
    model = str(trial(tmp_path / "0000", mine()) / inside)
    data, note = chosen_data(SuiteConfig(), STARTER, [model, "owner/name"])
    assert data == mine()
    assert "trial's record" in note


def test_other_models_and_other_suites_keep_the_given_data(tmp_path: Path) -> None:
    model = str(trial(tmp_path / "0000", mine()))
    bench = SuiteConfig(kind="rewardbench")
    assert chosen_data(bench, STARTER, [model]) == (STARTER, "")
    assert chosen_data(SuiteConfig(), STARTER, ["owner/name", str(tmp_path)]) == (STARTER, "")


def test_trials_of_different_data_must_be_told_which(tmp_path: Path) -> None:
    models = [str(trial(tmp_path / f"000{i}", mine(20 + i))) for i in range(2)]
    with pytest.raises(UserError, match=r"different data or splits; .*data=\.\.\."):
        chosen_data(SuiteConfig(), STARTER, models)


def test_a_trial_without_its_model_names_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = trial(tmp_path / "0003", mine(), kept=False)
    with pytest.raises(UserError, match=r"rmexp rerun mine --trial 3 .*for mine:3"):
        model_of(str(folder))
    kept = trial(tmp_path / "0004", mine())
    assert model_of(str(kept)) == str(kept / "model")
    assert model_of("owner/name") == "owner/name"


def test_a_rerun_that_keeps_its_model_stands_in_for_the_trial(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "mine")
    own = trial(folder.trial(3), mine(), kept=False)
    assert kept_folder(folder, 3) == own
    for attempt, kept in ((1, True), (9, True), (10, True), (11, False)):
        trial(folder.root / "reruns" / f"0003-{attempt}", mine(), kept=kept)
    trial(folder.root / "reruns" / "0004-1", mine())
    assert kept_folder(folder, 3) == folder.root / "reruns" / "0003-10"
    (own / "model").mkdir()
    assert kept_folder(folder, 3) == own


@pytest.mark.parametrize(
    ("model", "wanted"), [("mine/0", "mine:0"), ("mine/trials/0012", "mine:12"), ("mine", "mine:N")]
)
@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_a_study_is_not_asked_for_at_the_hub(
    command: str, model: str, wanted: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "studies" / "mine").mkdir(parents=True)
    words = [model, "owner/other"] if command == "compare" else [f"model.path={model}"]
    with pytest.raises(SystemExit) as stop:
        main([command, *words])
    assert stop.value.code == 2
    assert f"a trial of study 'mine' is named {wanted}" in capsys.readouterr().err


def test_the_card_says_how_the_model_was_made(tmp_path: Path) -> None:
    folder = trial(tmp_path / "0007", mine(), metrics={"train/pairs": 10.0})
    (folder / "model" / "README.md").write_text("# Reward model\n")
    record = TrialRecord.read(folder)
    measured = {
        "accuracy": 0.5,
        "accuracy_low": 0.25,
        "accuracy_high": 0.75,
        "pairs": 8.0,
        "baseline_longer": 0.4,
        "baseline_shorter": 0.6,
        "baseline_majority": 0.5,
    }
    record.metrics.update({f"validation/{name}": value for name, value in measured.items()})
    for _ in range(2):  # what stands there already is not said twice
        add_to_card(record, folder / "model")
    card = (folder / "model" / "README.md").read_text()
    assert card.startswith("# Reward model\n\n## How it was made\n")
    for words in (
        "study `mine`, trial 7",
        "`mine.jsonl`, 10 training pairs",
        "Rules: `core20`; rated by `exemplar`",
        "r = 3, gamma = 0.5",
        "Validation accuracy 0.500 (95% interval 0.250 to 0.750, 8 pairs)",
    ):
        assert card.count(words) == 1, words


def test_a_pruned_trial_does_not_send_for_a_rerun_that_keeps_no_model(tmp_path: Path) -> None:
    folder = trial(tmp_path / "0003", mine(), kept=False)
    replace(TrialRecord.read(folder), state="pruned").write(folder)
    with pytest.raises(UserError, match=r"was pruned, .*rmexp train with its config"):
        model_of(str(folder))


def test_the_reference_files_of_two_trials_and_two_folders_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = StudyFolder(tmp_path / "outputs" / "studies" / "mine")
    paths = [str(trial(study.trial(number), mine()) / "model") for number in (0, 1)]
    for name in ("one", "two"):
        (tmp_path / name / "model").mkdir(parents=True)
        paths.append(f"{name}/model")

    def files(path: str, kind: str = "rewardbench") -> ReferenceFiles:
        found = planned("results", kind, path, None, {})
        assert found is not None
        return found

    names = [files(path).name for path in paths]
    assert names == ["mine/0000", "mine/0001", "one-model", "two-model"]
    # Wherever it is called from, and whichever folder of the trial is named.
    assert files("outputs/studies/mine/trials/0000").name == "mine/0000"
    assert [files(path).model for path in paths] == [str(Path(path).resolve()) for path in paths]
    assert planned("results", "llmbar", paths[0], None, {}) is None
    assert planned(None, "rewardbench", paths[0], None, {}) is None

    def of_class(sign: int) -> ReferenceFiles | None:
        return planned("results", "rewardbench", None, "my:Scorer", {"sign": sign})

    file = tmp_path / "results" / "rewardbench" / "eval-set" / "my:Scorer.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"model": 'my:Scorer {"sign": 1}'}))
    assert of_class(1) is not None
    with pytest.raises(UserError, match=r'another model, my:Scorer \{"sign": 1\}'):
        of_class(-1)
    # The other benchmark's files lie elsewhere.
    assert planned("results", "rewardbench2", None, "my:Scorer", {"sign": -1}) is not None
