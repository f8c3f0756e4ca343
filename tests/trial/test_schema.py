from __future__ import annotations

import math

import pytest

from rmexp.errors import UserError
from rmexp.sweep.config_store import schema_defaults
from rmexp.trial.schema import TrialConfig, trial_config

MINIMAL = {"cache_dir": "cache"}


def test_plain_data_reads_back_equal() -> None:
    config = trial_config({**MINIMAL, "gamma": "inf", "r": 3})
    assert math.isinf(config.gamma)
    assert trial_config(config.to_plain()) == config


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        ({"gamma": -1}, "gamma"),
        ({"gamma": "nan"}, "gamma"),
        ({"r": 0}, "r"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": "inf"}, "learning_rate"),
        ({"epochs": "abc"}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"unheard_of": 1}, "unheard_of: unknown key"),
        ({"data": {"unheard_of": 1}}, "data.unheard_of: unknown key"),
        ({"data": {"source": "files"}}, "data.path"),
        ({"data": {"path": "x"}}, "data.path"),
        ({"data": {"split": {"train": 0.9}}}, "data.split"),
        ({"rater": {"kind": "probe"}}, "rater.path: missing"),
        ({"rater": {"kind": "exemplar", "path": "x"}}, "rater.path: unknown key"),
        ({"selection": {"strategy": "fixed"}}, "selection.rules"),
        ({"selection": {"rules": ["a"]}}, "selection.rules"),
        ({"trainer": {"devices": 2}}, "trainer.devices"),
        ({"loss": {"label_smoothing": 0.5}}, "loss.label_smoothing"),
        (
            {"loss": {"weight_by_margin": True}, "selection": {"tie": "half"}},
            "selection.tie=half contradicts loss.weight_by_margin=true",
        ),
        ({"loss": {"weight_by_margin": True}, "selection": {"tie": "a"}}, "selection.tie=a"),
    ],
)
def test_wrong_values_are_named_on_one_line(plain: dict, key: str) -> None:
    with pytest.raises(UserError) as error:
        trial_config({**MINIMAL, **plain})
    assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"gamma.*;.*epochs"):
        trial_config({**MINIMAL, "gamma": -1, "epochs": 0})


def test_the_command_line_knows_every_key_of_the_schema() -> None:
    assert set(schema_defaults()) == set(TrialConfig.model_fields) - {"rater"}


def test_every_field_of_every_section_is_described() -> None:
    def undescribed(model: type, prefix: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                missing += undescribed(inner, f"{prefix}{name}.")
            elif not field.description and name not in ("kind", "rater"):
                missing.append(prefix + name)
        return missing

    allowed = {"tracker.project", "tracker.entity", "trainer.accelerator", "trainer.devices"}
    allowed |= {"trainer.strategy", "trainer.precision"}
    assert set(undescribed(TrialConfig, "")) <= allowed
