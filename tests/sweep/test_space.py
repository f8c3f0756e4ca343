from __future__ import annotations

import math

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rmexp.errors import UserError
from rmexp.sweep.samplers import listed_points
from rmexp.sweep.schema import SamplerConfig, SweepConfig
from rmexp.sweep.space import Space, build_space, quoted


def _space(expressions: dict, command: tuple[str, ...] = (), groups: dict | None = None) -> Space:
    overrides = OverridesParser.create().parse_overrides(list(command))
    return build_space(expressions, overrides, lambda key: (groups or {}).get(key, []))[0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("choice(1, 2, x)", CategoricalDistribution([1, 2, "x"])),
        ([1, 2.5, "a, b"], CategoricalDistribution([1, 2.5, "a, b"])),
        ("range(1, 4)", IntDistribution(1, 3)),
        ("range(0, 10, 3)", IntDistribution(0, 9, step=3)),
        ("range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("range(0, 1, 0.3)", FloatDistribution(0.0, 0.9, step=0.3)),
        ("range(0.1, 3, 0.3)", FloatDistribution(0.1, 2.8, step=0.3)),
        ("interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("tag(log, interval(1e-5, 1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("tag(log, int(interval(1, 8)))", IntDistribution(1, 8, log=True)),
    ],
)
def test_hydras_grammar_becomes_optunas_distributions(expression: object, expected: object) -> None:
    assert _space({"x": expression}).distributions == {"x": expected}


@pytest.mark.parametrize("text", ["a, b", "it's", 'say "hi"', "a=b", " x ", "\\", "${y}", "[1,2]"])
def test_any_text_survives_the_way_into_a_value(text: str) -> None:
    space = _space({"x": [text, "other"]})
    assert space.values({"x": text}) == {"x": text}
    override = OverridesParser.create().parse_override(f"x={quoted(text)}")
    assert override.value() == text


def test_lists_and_mappings_stand_behind_labels_that_optuna_can_store() -> None:
    space = _space({"x": "choice([1, 2], {a: 1})"})
    choices = space.dimensions[0].distribution.choices
    assert all(isinstance(choice, str) for choice in choices)
    assert [space.values({"x": c})["x"] for c in choices] == [[1, 2], {"a": 1}]


def test_the_command_line_wins_over_the_file() -> None:
    space, fixed = build_space(
        {"a": "choice(1, 2)", "b": "choice(1, 2)", "c": "choice(1, 2)"},
        OverridesParser.create().parse_overrides(["a=7", "b=range(0,3)", "d=1"]),
        lambda key: [],
    )
    assert [d.key for d in space.dimensions] == ["b", "c"]
    assert space.distributions["b"] == IntDistribution(0, 2)
    assert [o.input_line for o in fixed] == ["a=7", "d=1"]


def test_groups_choose_among_their_options() -> None:
    groups = {"rules": ["core20", "safety100"]}
    space = _space({"rules": "choice(core20, safety100)"}, groups=groups)
    assert space.dimensions[0].is_group
    assert _space({}, ("rules=glob(*)",), groups).size == 2
    with pytest.raises(UserError, match=r"sweep\.space\.rules: no option 'nope'"):
        _space({"rules": "choice(nope)"}, groups=groups)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("range(3, 3)", "its stop is exclusive"),
        ("interval(1, 1)", "start below end"),
        ("tag(log, interval(0, 1))", "above 0"),
        ("5", "no range"),
        ("choice(1, 1)", "stands twice"),
        ("choice(1, ", "cannot read"),
        ("intervall(0, 1)", r"unknown function intervall; did you mean interval\(...\)\?"),
    ],
)
def test_a_wrong_expression_names_its_key(expression: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"sweep\.space\.gamma.*{message}"):
        _space({"gamma": expression})


def test_the_size_of_a_space() -> None:
    assert _space({"a": "choice(1, 2)", "b": "range(0, 3)"}).size == 6
    assert _space({"a": "range(0, 1, 0.25)"}).size == 4
    assert math.isinf(_space({"a": "interval(0, 1)"}).size)


PEFT = {"peft": "choice(full, lora, last_k)"}


def test_a_condition_searches_a_key_only_beside_its_value() -> None:
    space = _space({**PEFT, "peft.rank": {"when": "peft=lora", "space": "choice(4, 8)"}})
    assert space.size == 4
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        params = space.suggest(study.ask())
        assert ("peft.rank" in params) == (params["peft"] == "lora")
        assert "peft.rank" not in space.values({"peft": "full"})
        seen.add(tuple(params.values()))
    assert len(seen) == 4
    # Every branch is composed before anything runs.
    assert {"peft": "lora", "peft.rank": 4} in list(space.edges())


def test_a_condition_may_name_several_values_and_hang_on_another_condition() -> None:
    space = _space(
        {
            **PEFT,
            "a": {"when": "peft=choice(lora,last_k)", "space": "choice(1, 2)"},
            "b": {"when": "a=2", "space": "choice(1, 2, 3)"},
        }
    )
    assert space.size == 1 + 2 * (1 + 3)


def test_a_fixed_value_settles_a_condition() -> None:
    rank = {"peft.rank": {"when": "peft=lora", "space": "choice(4, 8)"}}
    assert _space({**PEFT, **rank}, ("peft=lora",)).size == 2
    assert _space({**PEFT, **rank}, ("peft=full",)).dimensions == ()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"when": "peft=lora"}, "has the keys"),
        ({"when": "model=tiny", "space": "choice(1, 2)"}, "no earlier choice"),
        ({"when": "peft=nope", "space": "choice(1, 2)"}, "is none of"),
        ({"when": "peft", "space": "choice(1, 2)"}, "cannot read"),
    ],
)
def test_a_wrong_condition_names_its_key(condition: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"sweep\.space\.rank.*{message}"):
        _space({**PEFT, "rank": condition})


def test_enqueued_values_become_labels_or_are_refused() -> None:
    space = _space({"x": "choice([1, 2], [3])", "y": "interval(0, 1)"})
    assert space.values({"x": space.label("x", [1, 2])}) == {"x": [1, 2]}
    assert space.label("y", 0.5) == 0.5
    with pytest.raises(UserError, match=r"y=2 is outside 0 to 1"):
        space.label("y", 2)
    with pytest.raises(UserError, match="'z' is not searched"):
        space.label("z", 2)


def test_a_grid_refuses_conditions_by_name() -> None:
    space = _space({**PEFT, "rank": {"when": "peft=lora", "space": "choice(4, 8)"}})
    with pytest.raises(UserError, match="cannot search a space with 'when'"):
        listed_points(SweepConfig(sampler=SamplerConfig(kind="grid")), space)
