"""What a user gets wrong is one line that names it, exit code 2, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rmexp.cli import main
from rmexp.cli.help import HELP

Told = Callable[..., str]

GOOD = {"prompt": "Q", "response_a": "Yes, gladly.", "response_b": "No.", "preference": "a"}
RULE = "- id: {0}\n  sentence: The response is {0}.\n  category: own\n"


def rows(*changes: dict, count: int = 20) -> str:
    """Good pairs, the first of them with the changes."""
    made = [{**GOOD, "prompt": f"Question {n}?"} for n in range(count)]
    for row, change in zip(made, changes, strict=False):
        row.update(change)
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    """Run a command that must fail on the user's mistake; what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMEXP_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capsys.readouterr()
        assert ended.value.code == 2, err
        assert len(err.splitlines()) == 1, err
        assert out == ""
        assert err.startswith("rmexp: ")
        written = {*tmp_path.iterdir()} - {*before, tmp_path / "cache"}
        assert not written
        return err.removeprefix("rmexp: ").strip()

    return run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.jsonl: the file is empty"),
        ("{\n", "pairs.jsonl:1: not JSON"),
        ("[1]\n", "pairs.jsonl:1: expected a JSON object"),
        (rows({"response_b": None}), "pairs.jsonl:1: missing field 'response_b'"),
        (rows({}, {"response_b": GOOD["response_a"]}), "pairs.jsonl:2: the two responses are id"),
        (rows({"prompt": " "}), "pairs.jsonl:1: the prompt is empty"),
        (rows({"preference": "left"}), 'pairs.jsonl:1: \'preference\' must be "a", "b"'),
        (rows({"prompt": 3}), "pairs.jsonl:1: 'prompt' must be a text"),
        (rows(*[{"preference": None}] * 20), "no validation pair has a human preference"),
        (rows(count=1), "data.split.validation: no pair falls into it"),
    ],
)
@pytest.mark.parametrize("command", [("train",), ("sweep", "gamma=choice(0,1)")])
def test_bad_data_is_told_before_a_run_or_a_study_is_made(
    told: Told, tmp_path: Path, command: tuple[str, ...], text: str, message: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text(text)
    assert message in told(*command, "data=jsonl", "data.path=pairs.jsonl")


def test_the_remedy_for_pairs_without_preferences_works(
    told: Told, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.jsonl").write_text(rows(*[{"preference": None}] * 20))
    words = [*quick, "data=jsonl", "data.path=pairs.jsonl"]
    remedy = told("train", *words).split("'")[-2]
    main(["train", *words, remedy])
    assert "nothing was measured: no pair outside training has a preference" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Keys and values
        (["gama=1"], "gama: unknown key; did you mean gamma?"),
        (["+gama=1"], "gama: unknown key; did you mean gamma?"),
        (["-m", "gama=choice(0,1)"], "gama: unknown key; did you mean gamma?"),
        (["trainer.batch=1"], "trainer.batch: unknown key; did you mean trainer.batch_pairs?"),
        (["batch_pairs=1"], "did you mean trainer.batch_pairs?"),
        (["lr=1"], "did you mean learning_rate?"),
        (["peft.foo=1"], "peft.foo: unknown key; peft has kind, rank"),
        (["trainer={devises:1}"], "trainer.devises: unknown key; did you mean trainer.devices?"),
        (["rater.model=x"], "rater.model: not a key of this rater; rater=causal_lm, openai have"),
        (["model=minilmm"], "model: no option 'minilmm'; did you mean minilm? use one of gemma3"),
        (["-m", "sweep=nope"], "sweep: no option 'nope'; use one of hh_rlhf, starter"),
        (["trainer=3"], "takes the name of an option, got trainer=3"),
        (["gamma=choice(0,1)"], "gamma: several values: use rmexp train -m, or rmexp sweep"),
        (["gamma=0,1"], "gamma: several values: use rmexp train -m, or rmexp sweep"),
        (["+gamma=1"], "gamma: stands there already"),
        (["gamma"], "gamma: write KEY=VALUE"),
        (
            ["gamma=choise(0,1)"],
            "cannot read gamma=choise(0,1): unknown function choise; did you mean choice(...)? "
            "there are choice, range, interval, tag,",
        ),
        (["gamma=interval(0)"], "gamma=interval(0): missing a required argument: 'end'"),
        (["data.path=my (1).jsonl"], "put text with signs into quotes: 'data.path="),
        (["--dryrun"], "train: no flag --dryrun; see 'rmexp train --help'"),
        (["--cfg", "jobb"], "train: --cfg takes job, hydra or all"),
        (["gamma=1", "--cfg"], "train: --cfg takes job, hydra or all"),
        (["--config-dir"], "train: argument --config-dir/-cd: expected one argument"),
        (["gamma=nan"], "gamma: must be 0 or more, got nan"),
        (["epochs=two"], "epochs: must be a whole number, got 'two'"),
        (["data.split=0.5"], "data.split: give its keys, such as data.split.train=VALUE (train,"),
        # Rules
        (["rules=file"], "rules.path: rules=file needs it"),
        (["rules.ids=[nope]"], "rules.ids: no rule 'nope' in 'core20'; known: "),
        (["selection=fixed", "selection.rules=[no_insult]"], "did you mean 'no_insults'"),
        (["r=21"], "use r=20 or less"),
        (
            ["-m", "gamma=choice(0,1)", "data.split={train:1.0,validation:0.0,test:0.0}"],
            "leave a sweep nothing to choose by",
        ),
        # What is known of the trial before it runs
        (["evaluation.objective=acuracy"], "unknown metric 'acuracy', did you mean 'accuracy'"),
        (["evaluation.guards=['los <= 1']"], "did you mean 'loss'"),
        (["trainer=mps"], "trainer.accelerator=mps: torch sees no MPS device; use trainer=cpu"),
        (["peft=last_k", "peft.last_k=100"], "peft.last_k=100: this model has 6 layers; use 6 or"),
        (["model.max_length=9999"], "model.max_length=9999: this model has positions for 512"),
        (["model=path", "model.name=org/nothere"], "model.name: org/nothere is not in the local"),
        (["rater.encoder=org/nothere"], "rater.encoder: org/nothere is not in the local hub"),
    ],
)
def test_a_mistake_in_a_trial_names_key_and_remedy(
    told: Told, words: list[str], message: str
) -> None:
    assert message in told("train", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["best"], "best: give the name of a study; 'rmexp studies' lists them"),
        (["report", "x", "--foo"], "report: unrecognized arguments: --foo"),
        (["ui", "--port", "x"], "ui: argument --port: invalid int value"),
        (["evaluate", "gamma=1"], "gamma: unknown key"),
        (["label", "out=x.jsonl", "r=21"], "use r=20 or less"),
        (["label", "out=x.jsonl", "r=1,2"], "r: several values: rmexp label takes one"),
        (["rules", "audit", "r=101"], "use r=100 or less"),
        (["prepare", "f", "gamma=choise(0,1)"], "unknown function choise; did you mean choice("),
    ],
)
def test_a_mistake_in_another_command(told: Told, words: list[str], message: str) -> None:
    assert message in told(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "model.target=plain_scorer:NanScorer"],
        ["compare", "plain_scorer:LengthScorer", "plain_scorer:NanScorer"],
    ],
)
def test_a_score_that_is_no_number_is_told_by_its_row(told: Told, words: list[str]) -> None:
    message = told(*words)
    assert message.startswith("row ")
    assert message.endswith("the score is nan, not a finite number")


def test_no_gpu_is_told_before_anything_is_made(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "trainer.accelerator=gpu: torch sees no GPU; use trainer=cpu"
    assert told("train", "trainer=gpu") == message
    assert told("sweep", "trainer=gpu", "gamma=choice(0,1)") == message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "trainer.devices=2: torch sees 1 GPU; use trainer.devices=1 or less"
    assert told("train", "trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=2") == message


@pytest.mark.parametrize("count", [2, 4])
def test_an_audit_takes_a_set_of_any_size(
    count: int, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        "rules:\n" + "".join(RULE.format(f"word{n}") for n in range(count))
    )
    taken = ("rater", "data.", "cache_dir")
    words = [word for word in quick if word.startswith(taken)]
    main(["rules", "audit", "rules=file", "rules.path=own.yaml", "picture=null", *words])
    assert json.loads((tmp_path / "rule-audit.json").read_text())["r"] == count


@pytest.mark.parametrize("command", sorted(HELP))
def test_help_is_short_and_our_own(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = command.split()[0]
    for words in ([first, "--help"], [*command.split(), "-h"]):
        main(words)
        text = capsys.readouterr().out
        assert text.startswith(f"usage: rmexp {command}")
        assert "examples:" in text
        lines = text.splitlines()
        assert len(lines) < 30
        assert max(map(len, lines)) <= 110
        assert "Hydra is" not in text


@pytest.mark.parametrize("option", ["peft=full", "peft=choice(full,last_k)"])
def test_an_option_that_a_sweeps_own_keys_would_hide_is_refused(
    option: str, told: Told, tmp_path: Path
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "peft: {kind: last_k, last_k: 3}\ntrainer: {batch_pairs: 8}\n"
        "sweep: {space: {gamma: 'choice(0, 1)'}}\n"
    )
    message = told("sweep", "sweep=mine", "trainer=ddp", option)
    assert "peft=full: the sweep or experiment sets peft.kind=last_k itself" in message
    assert "give peft.kind=full" in message


def test_a_key_on_the_command_line_settles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "peft: {kind: last_k}\nsweep: {space: {gamma: 'choice(0, 1)'}}\n"
    )
    main(["sweep", "sweep=mine", "peft=full", "peft.kind=full", "--dry-run"])
    assert "2 points" in capsys.readouterr().out


def test_a_rule_that_the_exemplar_rater_cannot_learn_is_told_at_once(
    told: Told, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n" + RULE.format("polite"))
    for command in (["train"], ["sweep", "gamma=choice(0,1)"]):
        message = told(*command, "rules=file", "rules.path=rules.yaml", "r=1")
        assert "rule 'polite': the exemplar rater needs at least one example under" in message


def test_a_torn_sweep_file_stops_only_the_command_that_names_it(
    told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "torn.yaml").write_text("sweep:\n  space: [1,\n")
    main(["train", "--cfg", "job"])
    capsys.readouterr()
    assert "torn.yaml:3: not YAML" in told("sweep", "sweep=torn")


@pytest.mark.parametrize("entry", ["override peft", "peft", "/peft"])
def test_a_sweeps_defaults_are_told_how_to_name_a_group(
    entry: str, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "mine.yaml"
    text = "defaults:\n- {}: lora\nsweep: {{space: {{gamma: 'choice(0, 1)'}}}}\n"
    file.write_text(text.format(entry))
    message = told("sweep", "sweep=mine", "--dry-run")
    assert message.endswith("in a file's defaults, write 'override /peft: lora', with the slash")
    file.write_text(text.format("override /peft"))
    main(["sweep", "sweep=mine", "--dry-run"])
    assert "2 points" in capsys.readouterr().out


def test_flags_may_stand_between_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "gamma=3", "-m", "gamma=1", "r=choice(1,2)", "sweep.dry_run=true"])
    assert "2 points" in capsys.readouterr().out
    main(["train", "gamma=3", "--cfg", "job", "gamma=1"])
    assert "gamma: 1\n" in capsys.readouterr().out
