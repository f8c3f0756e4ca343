"""Every config that ships composes, and its result is a valid trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rmexp.config_files import config_dir, sweeps_dir
from rmexp.sweep.config_store import register
from rmexp.sweep.launch import plain_config, split_config
from rmexp.sweep.schema import StudyConfig
from rmexp.trial.compare import CompareConfig
from rmexp.trial.evaluate import EvaluateConfig
from rmexp.trial.schema import checked, trial_config

# What a user must give, so that the option can be tried at all.
GIVEN = {
    "data/jsonl": ["data.path=x.jsonl"],
    "data/parquet": ["data.path=x.parquet"],
    "data/pku_saferlhf": ["data.path=x.json"],
    "data/hub": ["data.name=owner/name"],
    "rules/file": ["rules.path=x.yaml"],
    "rater/probe": ["rater.path=x"],
    "rater/causal_lm": ["rater.model=x"],
    "rater/openai": ["rater.model=x"],
    "rater/recorded": ["rater.path=x"],
    "rater/custom": ["rater.target=a:B"],
    "selection/fixed": ["selection.rules=[a]"],
    "selection/adapter": ["selection.path=x"],
    "model/path": ["model.name=x"],
    "peft/qlora": ["trainer=gpu"],
    "suite/llmbar": ["suite.path=x"],
    "suite/pku": ["suite.path=x"],
    "suite/file": ["suite.path=x", "suite.name=mine", "suite.licence=MIT"],
}
OPTIONS = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in config_dir().glob("*/*.yaml")
    if path.parent.name not in ("hydra", "suite")
)
SUITES = sorted(path.stem for path in (config_dir() / "suite").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _hydra():
    GlobalHydra.instance().clear()
    register(sweeps_dir())
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_into_a_valid_trial(option: str) -> None:
    group, name = option.split("/")
    overrides = [f"{group}={name}", *GIVEN.get(option, [])]
    trial, rest = split_config(compose("train", overrides))
    trial_config(trial)
    checked(StudyConfig, rest)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_composes_into_a_valid_evaluation(name: str) -> None:
    overrides = [f"suite={name}", *GIVEN.get(f"suite/{name}", [])]
    plain = plain_config(compose("evaluate", [*overrides, "model.path=x"]))
    assert checked(EvaluateConfig, plain).suite.kind == name
    plain = plain_config(compose("compare", overrides))
    checked(CompareConfig, {**plain, "models": ["x", "y"], "names": ["x", "y"]})


@pytest.mark.parametrize("path", sorted(sweeps_dir().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_composes(path: Path) -> None:
    trial, rest = split_config(compose("train", [f"sweep={path.stem}"]))
    trial_config(trial)
    assert checked(StudyConfig, rest).sweep.space


@pytest.mark.parametrize("sweep", sorted(path.stem for path in sweeps_dir().glob("*.yaml")))
def test_an_option_given_beside_a_sweep_is_the_one_that_counts(sweep: str) -> None:
    assert compose("train", [f"sweep={sweep}"]).peft.kind == "last_k"
    assert compose("train", [f"sweep={sweep}", "peft=lora"]).peft.kind == "lora"
