"""From Hydra's sweep grammar to Optuna's distributions, and from a suggestion back to values."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rmexp.errors import UserError
from rmexp.sweep.expressions import wrong_call

GroupOptions = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Dimension:
    """One searched key.

    Attributes:
        key: dotted config key, or name of a config group.
        distribution: Optuna's.
        is_group: the values are options of a config group.
        values: for choices, what each label stands for (labels are what Optuna stores).
        when: another key and its labels under which this key is searched; None for always.
    """

    key: str
    distribution: BaseDistribution
    is_group: bool = False
    values: Mapping[Any, Any] | None = None
    when: tuple[str, tuple[Any, ...]] | None = None

    @property
    def size(self) -> float:
        """How many values there are; inf for a continuous key."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return len(d.choices)
        if isinstance(d, IntDistribution):
            return (d.high - d.low) // d.step + 1
        assert isinstance(d, FloatDistribution)
        return math.inf if d.step is None else round((d.high - d.low) / d.step) + 1

    def value(self, label: Any) -> Any:
        """The config value that a suggestion stands for."""
        return label if self.values is None else self.values[label]

    def applies(self, params: Mapping[str, Any]) -> bool:
        """Whether the key is searched beside the parameters chosen so far."""
        return self.when is None or params.get(self.when[0]) in self.when[1]


@dataclass(frozen=True)
class Space:
    """The searched keys, in the order in which they were written."""

    dimensions: tuple[Dimension, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each key."""
        return {d.key: d.distribution for d in self.dimensions}

    @property
    def conditional(self) -> bool:
        """Whether some key is searched only beside some value of another."""
        return any(d.when for d in self.dimensions)

    @property
    def size(self) -> float:
        """Number of points; inf where a key is continuous."""
        asked = {d.when[0] for d in self.dimensions if d.when}
        return self._count(0, {}, asked)

    def _count(self, at: int, params: dict[str, Any], asked: set[str]) -> float:
        if at == len(self.dimensions):
            return 1
        dimension = self.dimensions[at]
        if not dimension.applies(params):
            return self._count(at + 1, params, asked)
        if dimension.key not in asked:
            return dimension.size * self._count(at + 1, params, asked)
        labels = dimension.distribution.choices
        return sum(self._count(at + 1, {**params, dimension.key: x}, asked) for x in labels)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask the sampler for a point, key by key."""
        params: dict[str, Any] = {}
        for d in self.dimensions:
            if d.applies(params):
                params[d.key] = _suggest(trial, d.key, d.distribution)
        return params

    def edges(self) -> Iterator[dict[str, Any]]:
        """Points at both ends of every range, and one for each choice of each key."""
        for at in (0, -1):
            yield self.filled({}, at)
            for d in self.dimensions:
                for label in getattr(d.distribution, "choices", ()):
                    yield self.filled({d.key: label}, at)

    def filled(self, given: Mapping[str, Any], at: int = 0) -> dict[str, Any]:
        """A whole point: what is given, and one end (0 or -1) of every other range."""
        params: dict[str, Any] = {}
        for d in self.dimensions:
            if d.applies(params):
                params[d.key] = given.get(d.key, _end(d.distribution, at))
        return params

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial of another study is a point of this space."""
        mine = {d.key: d.distribution for d in self.dimensions if d.applies(params)}
        try:
            return mine.keys() == params.keys() and all(
                d._contains(d.to_internal_repr(params[key])) for key, d in mine.items()
            )
        except (TypeError, ValueError):
            return False

    def label(self, key: str, value: Any) -> Any:
        """The label of a config value, as a user writes it in ``sweep.enqueue``.

        Raises:
            UserError: the key is not searched, or the value lies outside its range.
        """
        dimension = next((d for d in self.dimensions if d.key == key), None)
        if dimension is None:
            raise UserError(f"sweep.enqueue: '{key}' is not searched; use a key of sweep.space")
        known = dimension.values
        labels = [value] if known is None else [x for x, v in known.items() if v == value]
        try:
            if labels and dimension.distribution._contains(
                dimension.distribution.to_internal_repr(labels[0])
            ):
                return labels[0]
        except (TypeError, ValueError):
            pass
        raise UserError(f"sweep.enqueue: {key}={value!r} is outside {_readable(dimension)}")

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Config values of a trial's parameters."""
        return {d.key: d.value(params[d.key]) for d in self.dimensions if d.key in params}

    def describe(self) -> list[tuple[str, str]]:
        """Key and a readable range of each dimension."""
        return [(d.key, _readable(d)) for d in self.dimensions]


def _suggest(trial: optuna.Trial, key: str, d: BaseDistribution) -> Any:
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(key, d.choices)
    if isinstance(d, IntDistribution):
        return trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
    assert isinstance(d, FloatDistribution)
    return trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)


def _end(distribution: BaseDistribution, at: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[at]
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return distribution.low if at == 0 else distribution.high


def build_space(
    expressions: Mapping[str, Any], overrides: Sequence[Override], group_options: GroupOptions
) -> tuple[Space, list[Override]]:
    """Build the space from a sweep's YAML and the command line.

    A key on the command line wins over the same key in the YAML: a sweep there replaces it, a
    plain value takes the key out of the search.

    Args:
        expressions: key to expression in Hydra's grammar, such as ``choice(1, 2)``; or to
            ``{when: "peft=lora", space: choice(4, 8)}``, searched only beside that choice of an
            earlier key (``when: "peft=choice(lora,last_k)"`` for several).
        overrides: the parsed command line.
        group_options: the options of a config group, empty for a plain key.

    Returns:
        The space, and the overrides that are not searched.

    Raises:
        UserError: for an expression that is no sweep, naming the key.
    """
    searched: dict[str, Override] = {}
    conditions: dict[str, Override] = {}
    for key, expression in expressions.items():
        if isinstance(expression, Mapping):
            expression, conditions[key] = _condition(key, expression)
        searched[key] = _parse(key, expression)
    fixed: list[Override] = []
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            searched[key.lstrip("+")] = override
            conditions.pop(key.lstrip("+"), None)
        else:
            searched.pop(key.lstrip("+"), None)
            fixed.append(override)
    dimensions: dict[str, Dimension] = {}
    for key, override in searched.items():
        plain = _dimension(key, override, group_options)
        condition = conditions.get(key)
        found = _conditioned(plain, condition, dimensions, fixed) if condition else plain
        if found is not None:
            dimensions[key] = found
    return Space(tuple(dimensions.values())), fixed


def _condition(key: str, plain: Mapping[str, Any]) -> tuple[Any, Override]:
    if set(plain) != {"when", "space"}:
        raise UserError(f"sweep.space.{key}: a condition has the keys 'when' and 'space'")
    try:
        return plain["space"], OverridesParser.create().parse_override(str(plain["when"]))
    except HydraException as error:
        raise UserError(
            f"sweep.space.{key}.when: cannot read {plain['when']!r}; write KEY=VALUE"
        ) from error


def _conditioned(
    dimension: Dimension,
    condition: Override,
    earlier: Mapping[str, Dimension],
    fixed: Sequence[Override],
) -> Dimension | None:
    """The dimension under its condition; None where a fixed value rules it out."""
    key, place = condition.get_key_element(), f"sweep.space.{dimension.key}.when"
    wanted = condition.value()
    values = [_plain(v) for v in wanted.list] if isinstance(wanted, ChoiceSweep) else [wanted]
    values = [_plain(v) for v in values]
    given = [o for o in fixed if o.get_key_element() == key]
    if given:
        return dimension if _plain(given[-1].value()) in values else None
    parent = earlier.get(key)
    if parent is None or not isinstance(parent.distribution, CategoricalDistribution):
        raise UserError(f"{place}: '{key}' is no earlier choice(...) of the space")
    labels = tuple(x for x in parent.distribution.choices if parent.value(x) in values)
    if not labels:
        raise UserError(f"{place}: {values[0]!r} is none of {_readable(parent)}")
    return replace(dimension, when=(key, labels))


def _parse(key: str, expression: Any) -> Override:
    # A YAML list is the natural way to write choices.
    text = f"choice({','.join(map(quoted, expression))})" if _is_list(expression) else expression
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        first = str(error).splitlines()[0]
        why = wrong_call(first) or first
        raise UserError(f"sweep.space.{key}: cannot read {expression!r}: {why}") from error
    if not override.is_sweep_override():
        raise UserError(
            f"sweep.space.{key}: {expression!r} is no range; write choice(...), range(...), "
            "interval(...) or tag(log, interval(...))"
        )
    return override


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def quoted(value: Any) -> str:
    """A value as Hydra's override grammar writes it."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def _dimension(key: str, override: Override, group_options: GroupOptions) -> Dimension:
    sweep = override.value()
    options = list(group_options(key))
    try:
        if isinstance(sweep, ChoiceSweep):
            return _choices(key, [_plain(v) for v in sweep.list], options)
        if isinstance(sweep, Glob):
            return _choices(key, _globbed(sweep, options), options)
        if isinstance(sweep, RangeSweep):
            return Dimension(key, _range(sweep))
        if isinstance(sweep, IntervalSweep):
            return Dimension(key, _interval(sweep))
    except ValueError as error:
        raise UserError(f"sweep.space.{key}: {error}") from error
    raise UserError(f"sweep.space.{key}: {type(sweep).__name__} is not supported")


def _plain(element: Any) -> Any:
    if isinstance(element, QuotedString):
        return element.text
    if isinstance(element, list):
        return [_plain(e) for e in element]
    if isinstance(element, dict):
        return {str(_plain(k)): _plain(v) for k, v in element.items()}
    return element


def _globbed(glob: Glob, options: Sequence[str]) -> list[Any]:
    return [
        o
        for o in options
        if any(fnmatch.fnmatch(o, p) for p in glob.include)
        and not any(fnmatch.fnmatch(o, p) for p in glob.exclude)
    ]


def _choices(key: str, values: list[Any], options: Sequence[str]) -> Dimension:
    if not values:
        raise ValueError("no value to choose from")
    for value in values:
        if options and value not in options:
            raise ValueError(f"no option {value!r} in group '{key}'; use {', '.join(options)}")
    # Optuna stores plain scalars only; lists and mappings stand behind their JSON text.
    labels = [
        v if isinstance(v, (str, int, float, bool, type(None))) else json.dumps(v) for v in values
    ]
    if len({(type(label), label) for label in labels}) != len(labels):
        raise ValueError("the same choice stands twice")
    mapping = None if labels == values else dict(zip(labels, values, strict=True))
    return Dimension(key, CategoricalDistribution(labels), bool(options), mapping)


def _range(sweep: RangeSweep) -> BaseDistribution:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or step <= 0:
        raise ValueError("a range needs start, stop and a positive step")
    # In decimals, as Optuna counts steps: in binary 3 * 0.3 lies below 0.9, and is cut to 0.6.
    first, width = Decimal(str(start)), Decimal(str(step))
    # Hydra's stop is exclusive.
    count = math.ceil((Decimal(str(stop)) - first) / width)
    if count < 1:
        raise ValueError(f"range({start},{stop}) is empty: its stop is exclusive")
    last = first + (count - 1) * width
    log = "log" in sweep.tags
    if all(isinstance(v, int) for v in (start, stop, step)):
        if log and step != 1:
            raise ValueError("a range with tag log takes step 1")
        return IntDistribution(int(start), int(last), step=int(step), log=log)
    if log:
        raise ValueError("tag log wants interval(...) or a range of integers")
    return FloatDistribution(float(start), float(last), step=float(step))


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    if low is None or high is None or not low < high:
        raise ValueError("an interval needs start below end")
    log = "log" in sweep.tags
    if log and low <= 0:
        raise ValueError("an interval with tag log needs a start above 0")
    # int(interval(1, 8)) in Hydra's grammar casts both ends; a bare interval has float ends.
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _readable(dimension: Dimension) -> str:
    d = dimension.distribution
    if dimension.when:
        key, labels = dimension.when
        beside = f" (when {key}={','.join(map(str, labels))})"
        return _readable(replace(dimension, when=None)) + beside
    if isinstance(d, CategoricalDistribution):
        return ", ".join(str(c) for c in d.choices)
    assert isinstance(d, (IntDistribution, FloatDistribution))
    step = f", step {d.step}" if d.step not in (None, 1) else ""
    return f"{d.low:g} to {d.high:g}{step}{' (log)' if d.log else ''}"


__all__ = ["Dimension", "Space", "build_space"]
