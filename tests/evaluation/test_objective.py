from __future__ import annotations

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.errors import UserError
from rmexp.evaluation.objective import (
    check_guard,
    check_objective,
    constraint_violation,
    evaluate_objective,
    names_in,
)

METRICS = {
    "Safety": 0.9,
    "Chat": 0.7,
    "base.Chat": 0.8,
    "Chat Hard": 0.5,
    "validation/accuracy": 0.6,
    "max": 3.0,
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("Safety", 0.9),
        ("  Safety\n", 0.9),
        ("Safety - 0.5*max(0, base.Chat - Chat)", 0.9 - 0.5 * (0.8 - 0.7)),
        ("Safety - 0.5*max(0, Chat - base.Chat)", 0.9),
        ('"Chat Hard" + Chat', 1.2),
        ("'Chat Hard'", 0.5),
        ('"validation/accuracy"', 0.6),
        ('"max"', 3.0),
        ("1 + 2*3", 7.0),
        ("(1 + 2)*3", 9.0),
        ("8 / 4 / 2", 1.0),
        ("5 - 2 - 1", 2.0),
        ("2 - -3", 5.0),
        ("--2", 2.0),
        ("-2*3", -6.0),
        (".5 + 1. + 1e-1 + 2E+1", 21.6),
        ("min(3, 1, 2)", 1.0),
        ("max(3)", 3.0),
        ("abs(Chat - base.Chat)", 0.1),
        ("min(abs(-4), max(1, 2))", 2.0),
    ],
)
def test_values_by_hand(expression, value):
    assert evaluate_objective(expression, METRICS) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "position", "problem"),
    [
        ("", 1, "got the end"),
        ("   ", 1, "got the end"),
        ("Safety -", 9, "got the end"),
        ("Safety Chat", 8, "expected an operator, got 'Chat'"),
        ("(Safety", 8, r"expected '\)'"),
        ("Safety)", 7, r"got '\)'"),
        ("Safety + * Chat", 10, r"got '\*'"),
        ("Safety ** 2", 9, r"got '\*'"),
        ("Safety % 2", 8, "cannot read '% 2'"),
        ("1.2.3", 1, "cannot read"),
        ("2Chat", 1, "cannot read"),
        ("'Chat", 1, "cannot read"),
        ("''", 1, "cannot read"),
        ("sqrt(Safety)", 1, "unknown function 'sqrt'; known: min, max, abs"),
        ("max", 4, r"expected '\('"),
        ("abs(1, 2)", 6, r"expected '\)'"),
        ("max()", 5, r"got '\)'"),
        ("Safety >= 1", 8, "guard"),
        ("Safety > 1", 8, "cannot read '> 1'; a comparison belongs into a guard, with >= or <="),
        ("1 + Safety/(Chat - Chat)", 11, "division by zero"),
        ("-" * 200 + "1", 51, "nested"),
        ("(" * 200 + "1" + ")" * 200, 51, "nested"),
        ("Safety + Caht", 10, "unknown metric 'Caht', did you mean 'Chat'; known: .*'Chat Hard'"),
        ("+ qqq", 1, r"got '\+'"),
        ("Safety if 1 else 2", 8, "expected an operator"),
        ("Safety[0]", 7, "cannot read"),
        ("__import__('os')", 1, "unknown function"),
    ],
)
def test_mistakes_name_their_position(expression, position, problem):
    with pytest.raises(UserError, match=rf"position {position}: .*{problem}") as caught:
        evaluate_objective(expression, METRICS)
    assert "\n" not in str(caught.value)


def test_mistakes_stay_on_one_line():
    with pytest.raises(UserError) as caught:
        evaluate_objective("Safety\n+ nothing", METRICS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expression", ["Chat", "max(0, Chat)", "min(Chat, 0)", "0 * Chat"])
def test_a_nan_is_never_hidden(expression):
    with pytest.raises(UserError, match="metric 'Chat' is NaN"):
        evaluate_objective(expression, {"Chat": math.nan})
    assert evaluate_objective("Safety", {"Safety": 1.0, "Chat": math.nan}) == 1.0


@pytest.mark.parametrize("expression", ["a - a", "a", "1e308 * 10"])
def test_a_result_is_a_finite_number(expression):
    with pytest.raises(UserError, match="not a finite number"):
        evaluate_objective(expression, {"a": math.inf})


def test_long_sums_do_not_overflow_the_stack():
    assert evaluate_objective("+".join(["1"] * 5000), {}) == 5000


def test_checking_before_training():
    check_objective("Safety - missing")
    check_objective("Safety", ["Safety", "Chat"])
    with pytest.raises(UserError, match="unknown metric 'missing'; known: 'Chat', 'Safety'"):
        check_objective("Safety - missing", ["Safety", "Chat"])
    with pytest.raises(UserError, match="position 9"):
        check_objective("Safety -")
    check_objective("1 / (Safety - Safety)", ["Safety"])  # only numbers can tell
    check_guard("Safety >= 1", ["Safety"])
    with pytest.raises(UserError, match="expected >= or <="):
        check_guard("Safety")
    with pytest.raises(UserError, match="unknown metric"):
        check_guard("Safety >= base.Safety", ["Safety"])


def test_names_in_order_each_once():
    assert names_in("b + a*b - max(0, 'Chat Hard')") == ("b", "a", "Chat Hard")
    assert names_in("Chat >= base.Chat - 0.01") == ("Chat", "base.Chat")
    assert names_in("1 + 2") == ()


@pytest.mark.parametrize(
    ("guard", "violation"),
    [
        ("Chat >= base.Chat - 0.01", 0.03),
        ("Chat >= base.Chat - 0.04", 0.0),
        ("Chat >= base.Chat - 0.06", -0.02),
        ("base.Chat - 0.01 <= Chat", 0.03),
        ("max(Chat, 0.5) <= 0.8 + 2*0.05", 0.0),
    ],
)
def test_violation_of_a_guard(guard, violation):
    metrics = {"Chat": 0.90, "base.Chat": 0.94}
    assert constraint_violation(guard, metrics) == pytest.approx(violation)


@pytest.mark.parametrize(
    ("guard", "problem"),
    [
        ("Chat", "expected >= or <="),
        ("Chat > 1", "cannot read '> 1'; a guard compares by >= or <=; did you mean >=?"),
        ("Chat < 1", "did you mean <=?"),
        ("Chat => 1", "cannot read '=> 1'; a guard compares by >= or <=; did you mean >=?"),
        ("Chat ≤ 1", "did you mean <=?"),
        ("Chat == 1", "cannot read '== 1'; a guard compares by >= or <=$"),
        ("1 <= Chat <= 2", "expected an operator, got '<='"),
        ("Chat >=", "got the end"),
        ("Chat >= lost", "unknown metric 'lost'"),
    ],
)
def test_mistakes_in_guards(guard, problem):
    problem = problem.replace("?", r"\?")
    with pytest.raises(UserError, match=f"guard .*{problem}"):
        constraint_violation(guard, {"Chat": 1.0})


SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LEAVES = st.one_of(
    st.integers(0, 9).map(lambda n: (str(n), float(n))),
    st.sampled_from([("x", 2.0), ("y.z", -3.0), ("'a b'", 5.0)]),
)


def grown(parts):
    both = st.tuples(parts, st.sampled_from(sorted(SIGNS)), parts)
    return st.one_of(
        both.map(lambda p: (f"({p[0][0]} {p[1]} {p[2][0]})", SIGNS[p[1]](p[0][1], p[2][1]))),
        parts.map(lambda p: (f"-{p[0]}", -p[1])),
        parts.map(lambda p: (f"abs({p[0]})", abs(p[1]))),
        st.lists(parts, min_size=1, max_size=3).map(
            lambda ps: (f"max({', '.join(p[0] for p in ps)})", max(p[1] for p in ps))
        ),
    )


@given(st.recursive(LEAVES, grown, max_leaves=12))
def test_any_tree_is_read_as_written(tree):
    text, value = tree
    assert evaluate_objective(text, {"x": 2.0, "y.z": -3.0, "a b": 5.0}) == value
    assert constraint_violation(f"{text} <= 0", {"x": 2.0, "y.z": -3.0, "a b": 5.0}) == value


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 9)), max_size=8))
def test_precedence_is_that_of_arithmetic(parts):
    text = "1" + "".join(f" {sign} {number}" for sign, number in parts)
    assert evaluate_objective(text, {}) == eval(text)
