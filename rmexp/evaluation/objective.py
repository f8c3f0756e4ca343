"""Objectives and guards: arithmetic over a trial's metrics in a small grammar of its own.

    guard      = expression (">=" | "<=") expression
    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = "-" factor | number | name | quoted name | "(" expression ")"
               | ("min" | "max") "(" expression ("," expression)* ")" | "abs" "(" expression ")"

A name is letters, digits and underscores, with dots between its parts (``base.Chat``). Any other
name stands in quotes: ``"Chat Hard"``, ``'validation/accuracy'``. Nothing is handed to ``eval``.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from rmexp.errors import UserError

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z0-9_.]))
      | (?P<name>[^\W\d]\w*(?:\.\w+)*)
      | (?P<quoted>"[^"]+"|'[^']+')
      | (?P<sign>>=|<=|[-+*/(),])
    )""",
    re.VERBOSE,
)
# Of signs that Python or mathematics knows, and what is meant by them in a guard.
_COMPARISON = re.compile(r"=[<>]|[<>=!]=?|[≤≥]")
_MEANT = {">": ">=", "<": "<=", "=>": ">=", "=<": "<=", "≥": ">=", "≤": "<="}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
_ADDING = {"+": operator.add, "-": operator.sub}
_MULTIPLYING = {"*": operator.mul, "/": operator.truediv}
# Recursion is in parentheses, calls and signs only; nobody writes an objective nested this deep.
_MOST_NESTED = 50


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


@dataclass(frozen=True)
class _Metric:
    name: str
    position: int


@dataclass(frozen=True)
class _Apply:
    function: Callable[..., float]
    operands: int
    position: int


# In postfix order: a number or a metric is pushed, an application takes its operands off.
_Program = list[float | _Metric | _Apply]


def evaluate_objective(expression: str, metrics: Mapping[str, float]) -> float:
    """The value of an objective.

    Args:
        expression: see the grammar of this module.
        metrics: name to number.

    Raises:
        UserError: for a mistake in the expression, with its position; for a name that is not in
            ``metrics``; for a NaN among the metrics used; for a division by zero; for a result
            that is no finite number.

    >>> evaluate_objective("Safety - 0.5*max(0, base.Chat - Chat)",
    ...                    {"Safety": 0.9, "Chat": 0.7, "base.Chat": 0.8})
    0.85
    """
    return _run(_Parser(expression, "objective").objective(), expression, "objective", metrics)


def constraint_violation(expression: str, metrics: Mapping[str, float]) -> float:
    """By how much a guard such as ``Chat >= base.Chat - 0.01`` is violated; 0 or less is feasible.

    The number is the lesser side subtracted from the one that must not exceed it, as Optuna's
    constraints want it. Accuracies and scores of suites are shares: a point is 0.01.

    Raises:
        UserError: as :func:`evaluate_objective`, or where there is no comparison.

    >>> guard = "Chat >= base.Chat - 0.01"
    >>> round(constraint_violation(guard, {"Chat": 0.90, "base.Chat": 0.94}), 6)
    0.03
    """
    return _run(_Parser(expression, "guard").guard(), expression, "guard", metrics)


def check_objective(expression: str, known: Iterable[str] | None = None) -> None:
    """Find mistakes before anything is trained.

    Args:
        expression: of an objective.
        known: the names that there will be; None where that is not known yet.

    Raises:
        UserError: for a mistake in the expression, or a name that is not known.
    """
    _check_names(_Parser(expression, "objective").objective(), expression, "objective", known)


def check_guard(expression: str, known: Iterable[str] | None = None) -> None:
    """The same for a guard."""
    _check_names(_Parser(expression, "guard").guard(), expression, "guard", known)


def names_in(expression: str) -> tuple[str, ...]:
    """The metrics that an objective or a guard looks at, in order, each once.

    >>> names_in("'Chat Hard' >= base.Chat - 0.01")
    ('Chat Hard', 'base.Chat')
    """
    parser = _Parser(expression, "objective")
    program = parser.guard() if parser.compares else parser.objective()
    return tuple(dict.fromkeys(step.name for step in program if isinstance(step, _Metric)))


class _Parser:
    """Recursive descent; every method appends its steps to the program."""

    def __init__(self, expression: str, what: str) -> None:
        self.expression, self.what = expression, what
        self.tokens = self._tokens()
        self.at = 0
        self.depth = 0
        self.program: _Program = []

    @property
    def compares(self) -> bool:
        return any(token.text in (">=", "<=") for token in self.tokens if token.kind == "sign")

    def objective(self) -> _Program:
        self._sum()
        if self._now.text in (">=", "<="):
            self._fail(self._now.position, "a comparison belongs into a guard")
        self._end()
        return self.program

    def guard(self) -> _Program:
        self._sum()
        comparison = self._now
        if comparison.kind != "sign" or comparison.text not in (">=", "<="):
            self._fail(comparison.position, "expected >= or <= with another expression")
        self.at += 1
        self._sum()
        self._end()
        over = {"<=": operator.sub, ">=": lambda left, right: right - left}[comparison.text]
        self.program.append(_Apply(over, 2, comparison.position))
        return self.program

    def _sum(self) -> None:
        self._chain(self._product, _ADDING)

    def _product(self) -> None:
        self._chain(self._factor, _MULTIPLYING)

    def _chain(self, part: Callable[[], None], operators: Mapping[str, Callable]) -> None:
        part()
        while self._now.kind == "sign" and self._now.text in operators:
            sign = self._take()
            part()
            self.program.append(_Apply(operators[sign.text], 2, sign.position))

    def _factor(self) -> None:
        token = self._take()
        self.depth += 1
        if self.depth > _MOST_NESTED:
            self._fail(token.position, f"nested more than {_MOST_NESTED} deep")
        if token.kind == "number":
            self.program.append(float(token.text))
        elif token.kind == "name" and token.text in _FUNCTIONS:
            self._call(token)
        elif token.kind == "name":
            if self._now.text == "(" and self._now.kind == "sign":
                functions = ", ".join(_FUNCTIONS)
                self._fail(token.position, f"unknown function '{token.text}'; known: {functions}")
            self.program.append(_Metric(token.text, token.position))
        elif token.kind == "quoted":
            self.program.append(_Metric(token.text[1:-1], token.position))
        elif token.text == "-":
            self._factor()
            self.program.append(_Apply(operator.neg, 1, token.position))
        elif token.text == "(":
            self._sum()
            self._expect(")")
        else:
            self._fail(token.position, f"expected a number, a name or '(', got {_shown(token)}")
        self.depth -= 1

    def _call(self, name: _Token) -> None:
        self._expect("(")
        self._sum()
        operands = 1
        while name.text != "abs" and self._now.text == "," and self._now.kind == "sign":
            self.at += 1
            self._sum()
            operands += 1
        self._expect(")")
        # Python's min and max of one number want a list: of one number they are that number.
        if operands > 1 or name.text == "abs":
            self.program.append(_Apply(_FUNCTIONS[name.text], operands, name.position))

    @property
    def _now(self) -> _Token:
        return self.tokens[self.at]

    def _take(self) -> _Token:
        token = self._now
        if token.kind != "end":
            self.at += 1
        return token

    def _expect(self, sign: str) -> None:
        token = self._take()
        if token.kind != "sign" or token.text != sign:
            self._fail(token.position, f"expected '{sign}', got {_shown(token)}")

    def _end(self) -> None:
        if self._now.kind != "end":
            self._fail(self._now.position, f"expected an operator, got {_shown(self._now)}")

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self.expression.rstrip())
        while at < end:
            match = _TOKEN.match(self.expression, at)
            if match is None:
                at += len(self.expression[at:]) - len(self.expression[at:].lstrip())
                problem = f"cannot read {self.expression[at:end][:20]!r}"
                self._fail(at + 1, problem + self._operators(at))
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
            at = match.end()
        return [*tokens, _Token("end", "", end + 1)]

    def _operators(self, at: int) -> str:
        """What may stand in the place of a comparison that is none of ours; else nothing."""
        wrong = _COMPARISON.match(self.expression, at)
        if wrong is None:
            return ""
        if self.what == "objective":
            return "; a comparison belongs into a guard, with >= or <="
        near = _MEANT.get(wrong[0])
        return "; a guard compares by >= or <=" + (f"; did you mean {near}?" if near else "")

    def _fail(self, position: int, problem: str) -> NoReturn:
        raise UserError(_told(self.what, self.expression, position, problem))


def _run(program: _Program, expression: str, what: str, metrics: Mapping[str, float]) -> float:
    _check_names(program, expression, what, metrics)
    stack: list[float] = []
    for step in program:
        if isinstance(step, _Metric):
            value = float(metrics[step.name])
            # Found here because max(0, NaN) would hide it.
            if math.isnan(value):
                problem = f"metric '{step.name}' is NaN"
                raise UserError(_told(what, expression, step.position, problem))
            stack.append(value)
        elif isinstance(step, _Apply):
            operands = stack[-step.operands :]
            del stack[-step.operands :]
            try:
                stack.append(step.function(*operands))
            except ZeroDivisionError as error:
                raise UserError(
                    _told(what, expression, step.position, "division by zero")
                ) from error
        else:
            stack.append(step)
    (result,) = stack
    if not math.isfinite(result):
        raise UserError(f"{what} '{expression}': the result is {result}, not a finite number")
    return result


def _check_names(
    program: _Program, expression: str, what: str, known: Iterable[str] | None
) -> None:
    if known is None:
        return
    names = sorted(known)
    for step in program:
        if isinstance(step, _Metric) and step.name not in names:
            near = difflib.get_close_matches(step.name, names, n=1)
            meant = f", did you mean '{near[0]}'" if near else ""
            problem = f"unknown metric '{step.name}'{meant}"
            listed = ", ".join(f"'{n}'" for n in names) or "none"
            raise UserError(_told(what, expression, step.position, f"{problem}; known: {listed}"))


def _told(what: str, expression: str, position: int, problem: str) -> str:
    one_line = re.sub(r"\s", " ", expression)
    return f"{what} '{one_line}', position {position}: {problem}"


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else f"'{token.text}'"
