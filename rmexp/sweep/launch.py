"""From a composed command to a running study, and what is said at its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rmexp.errors import UserError
from rmexp.sweep.controller import Controller, Progress
from rmexp.sweep.executors import make_executor
from rmexp.sweep.schema import StudyConfig
from rmexp.sweep.space import Space, build_space, quoted
from rmexp.sweep.study import StudyFolder, open_study
from rmexp.trial.assembly import check_before_anything_heavy
from rmexp.trial.schema import TrialConfig, checked, trial_config

TRIAL_KEYS = frozenset(TrialConfig.model_fields)

Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that is ready to run: everything checked, nothing written yet."""

    study: StudyConfig
    space: Space
    base: DictConfig
    compose: Compose
    fixed: tuple[str, ...]

    @property
    def folder(self) -> StudyFolder:
        """Of the study."""
        assert self.study.study is not None
        return StudyFolder.of(self.study.output_dir, self.study.study)

    def config_for(self, values: Mapping[str, Any]) -> TrialConfig:
        """The resolved config of one point.

        Group choices go through Hydra; plain keys are set in the composed config itself, so that
        no value is ever written into a string and parsed again.
        """
        groups = {d.key for d in self.space.dimensions if d.is_group}
        chosen = [f"{key}={quoted(values[key])}" for key in values if key in groups]
        config = self.compose([*self.fixed, *chosen]) if chosen else self.base.copy()
        for key, value in values.items():
            if key not in groups:
                OmegaConf.update(config, key, value, force_add=False)
        return trial_config(split_config(config)[0])


def split_config(config: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The composed config as plain data: the trial's keys, and the study's."""
    plain = plain_config(config)
    trial = {k: v for k, v in plain.items() if k in TRIAL_KEYS}
    rest = {k: v for k, v in plain.items() if k not in TRIAL_KEYS}
    return trial, rest


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain data, without Hydra's own part.

    Raises:
        UserError: naming a key that must be given and is not.
    """
    # Hydra's own part holds interpolations that resolve only inside a job.
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain = OmegaConf.to_container(ours, resolve=True)
    assert isinstance(plain, dict)
    for key, value in plain.items():
        _refuse_missing(str(key), value)
    return {str(key): value for key, value in plain.items()}


def _refuse_missing(key: str, value: Any) -> None:
    if value == "???":
        raise UserError(f"{key}: missing; give {key}=VALUE")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_missing(f"{key}.{name}", inner)


def plan_sweep(
    overrides: Sequence[Override],
    compose: Compose,
    group_options: Callable[[str], Sequence[str]],
    sweep_name: str | None,
) -> SweepPlan:
    """Check the whole sweep before anything heavy is imported or written.

    Args:
        overrides: the parsed command line.
        compose: composes the command's config under override strings.
        group_options: options of a config group.
        sweep_name: the chosen ``sweep=NAME``; names the study where ``study`` is null.

    Raises:
        UserError: naming the key.
    """
    fixed = [o for o in overrides if not o.is_sweep_override()]
    composed = compose([_text(o) for o in fixed])
    _, rest = split_config(composed)
    study = checked(StudyConfig, rest)
    if study.study is None:
        study = study.model_copy(update={"study": sweep_name or "default"})
    space, fixed = build_space(study.sweep.space, overrides, group_options)
    if not space.dimensions:
        raise UserError(
            "sweep.space: nothing is searched; choose sweep=NAME, or give ranges such as "
            "'gamma=choice(0,1)' on the command line"
        )
    strings = tuple(_text(o) for o in fixed)
    plan = SweepPlan(study, space, composed, compose, strings)
    _check_points(plan)
    return plan


def _check_points(plan: SweepPlan) -> None:
    """Compose one point of each edge of the space, so that a mistake is told now."""
    first = {d.key: _edge(d.distribution, 0) for d in plan.space.dimensions}
    last = {d.key: _edge(d.distribution, -1) for d in plan.space.dimensions}
    for params in (first, last):
        check_before_anything_heavy(plan.config_for(plan.space.values(params)))


def _edge(distribution: Any, at: int) -> Any:
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return choices[at]
    return distribution.low if at == 0 else distribution.high


def run_sweep(plan: SweepPlan, on_progress: Callable[[Progress], None]) -> None:
    """Run the study to its target."""
    folder = plan.folder
    folder.make()
    with folder.controlled():
        study = open_study(folder, plan.study.sweep, plan.space)
        study.set_user_attr("target", plan.study.sweep.trials)
        study.set_user_attr("command", shlex.join(["rmexp", "train", "-m", *plan.fixed]))
        controller = Controller(
            study=study,
            folder=folder,
            config=plan.study.sweep,
            space=plan.space,
            config_for=plan.config_for,
            executor=make_executor(plan.study.executor),
            on_progress=on_progress,
        )
        controller.run()


def _text(override: Override) -> str:
    return str(override.input_line)
