"""From a composed command to a running study, and what is said at its end."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rmexp.errors import UserError
from rmexp.sweep.controller import Controller
from rmexp.sweep.drift import refuse_drift, refuse_other_content
from rmexp.sweep.executors import make_executor
from rmexp.sweep.lost_runs import LostRuns
from rmexp.sweep.progress import Progress
from rmexp.sweep.samplers import check_sampler, listed_points, target_of
from rmexp.sweep.schema import StudyConfig
from rmexp.sweep.space import GroupOptions, Space, build_space, quoted
from rmexp.sweep.study import EXECUTOR, StudyFolder, open_study
from rmexp.sweep.warm_start import learn_from_others
from rmexp.trial.assembly import check_before_anything_heavy
from rmexp.trial.mistakes import config_keys, did_you_mean
from rmexp.trial.schema import TrackerConfig, TrainerConfig, TrialConfig, checked, trial_config

TRIAL_KEYS = frozenset(TrialConfig.model_fields)

Compose = Callable[[Sequence[str]], DictConfig]
OptionKeys = Callable[[str, str], Mapping[str, Any]]


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

    @functools.cached_property
    def _own(self) -> TrialConfig:
        """The config of the command itself, before any point is chosen."""
        return trial_config(split_config(self.base)[0])

    @property
    def guards(self) -> list[str]:
        """Expressions that a trial must keep."""
        return self._own.evaluation.guards

    @property
    def seeds(self) -> list[int]:
        """That every trial trains with; empty for one."""
        return self._own.seeds

    @property
    def trainer(self) -> TrainerConfig:
        """Of the command itself."""
        return self._own.trainer

    @property
    def target(self) -> int:
        """Finished trials to come to."""
        return target_of(self.study.sweep, listed_points(self.study.sweep, self.space))

    @property
    def tracker(self) -> TrackerConfig:
        """Of the command itself."""
        return self._own.tracker

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
    """The composed config as plain data: the trial's keys, and the study's.

    Raises:
        UserError: naming a key that is neither's.
    """
    plain = plain_config(config)
    for key in plain.keys() - TRIAL_KEYS - StudyConfig.model_fields.keys():
        meant = did_you_mean(key, config_keys(TrialConfig, StudyConfig))
        raise UserError(f"{key}: unknown key{meant}")
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
    group_options: GroupOptions,
    option_keys: OptionKeys,
    sweep_name: str | None,
) -> SweepPlan:
    """Check the whole sweep before anything heavy is imported or written.

    Args:
        overrides: the parsed command line.
        compose: composes the command's config under override strings.
        group_options: options of a config group.
        option_keys: the keys that an option of a config group sets, with their values.
        sweep_name: the chosen ``sweep=NAME``; names the study where ``study`` is null.

    Raises:
        UserError: naming the key.
    """
    for override in overrides:
        _refuse_study_range(override)
    fixed = [o for o in overrides if not o.is_sweep_override()]
    composed = compose([_text(o) for o in fixed])
    _, rest = split_config(composed)
    study = checked(StudyConfig, rest)
    if study.ckpt_path is not None:
        raise UserError(
            "ckpt_path: is for rmexp train alone; a sweep's trials go on by themselves where they "
            "are run again (trainer.checkpoint_steps)"
        )
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
    _refuse_hidden_options(plan, fixed, group_options, option_keys)
    _check_points(plan)
    return plan


def _refuse_study_range(override: Override) -> None:
    """A range is for a trial's key: one for the study's own keys would search nothing."""
    key = override.key_or_group.lstrip("+")
    if not override.is_sweep_override() or key.split(".")[0] not in StudyConfig.model_fields:
        return
    own = key.removeprefix("sweep.space.")
    if own != key:
        text = _text(override).partition("=")[2]
        raise UserError(f"{key}: give the range to the key that is searched: '{own}={text}'")
    raise UserError(f"{key}: belongs to the whole study and cannot be searched; give one value")


def _refuse_hidden_options(
    plan: SweepPlan,
    fixed: Sequence[Override],
    group_options: GroupOptions,
    option_keys: OptionKeys,
) -> None:
    """Keys of a sweep or experiment win over the option of a group: no option may lose by that."""
    groups = [d for d in plan.space.dimensions if d.is_group]
    chosen = [(d.key, option) for d in groups for option in d.distribution.choices]
    chosen += [(o.key_or_group, str(o.value())) for o in fixed if group_options(o.key_or_group)]
    given = {override.key_or_group.lstrip("+") for override in fixed}
    given |= {dimension.key for dimension in plan.space.dimensions}
    for group, option in chosen:
        wanted = _flat(option_keys(group, option))
        if not wanted:
            continue
        config = plan.compose([*plan.fixed, f"{group}={quoted(option)}"])
        found = _flat(OmegaConf.to_container(config[group]))
        for key, value in wanted.items():
            name, other = f"{group}.{key}", found.get(key)
            if other != value and name not in given:
                raise UserError(
                    f"{group}={option}: the sweep or experiment sets {name}={other} itself, which "
                    f"wins; give {name}={value}, or in its file write 'defaults: [override "
                    f"/{group}: NAME]' in place of the key"
                )


def _flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys."""
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    nested = (_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in plain.items())
    return {key: value for part in nested for key, value in part.items()}


def _check_points(plan: SweepPlan) -> None:
    """Compose every choice, the ends of the ranges and the user's own points: mistakes show now."""
    listed = listed_points(plan.study.sweep, plan.space)[: len(plan.study.sweep.enqueue)]
    own = [plan.space.filled(point) for point in listed]
    for params in (*plan.space.edges(), *own):
        config = plan.config_for(plan.space.values(params))
        check_before_anything_heavy(config)
        _check_objectives(plan.study, config)
        if config.trainer.devices != plan.trainer.devices:
            raise UserError(
                f"trainer.devices: {config.trainer.devices} at some points and "
                f"{plan.trainer.devices} at others; slots are cut for one number of ranks, so "
                "sweep each number in a study of its own"
            )
        if config.seeds != plan.seeds:
            raise UserError(
                f"seeds: {config.seeds} at some points and {plan.seeds} at others; trials are "
                "comparable on the same seeds, so give seeds=[...] once, outside the space"
            )


def _check_objectives(study: StudyConfig, config: TrialConfig) -> None:
    sweep, objectives = study.sweep, config.evaluation.objectives
    if config.trainer.nodes > 1:
        raise UserError(
            f"trainer.nodes={config.trainer.nodes}: a trial of a sweep runs on one machine; "
            "use trainer.devices, or a single 'rmexp train' under torchrun"
        )
    if not config.data.split.validation and not config.evaluation.suites:
        raise UserError(
            "data.split.validation: 0 and no evaluation.suites leave a sweep nothing to choose by; "
            "keep validation pairs with a preference, or name a suite"
        )
    if len(sweep.directions) != len(objectives):
        raise UserError(
            f"sweep.direction: {len(sweep.directions)} for {len(objectives)} objectives "
            f"({', '.join(objectives)}); give one direction for each"
        )
    if len(objectives) > 1 and sweep.pruner.kind != "none":
        raise UserError(
            f"sweep.pruner.kind: {sweep.pruner.kind} cannot prune by several objectives; "
            "use pruner none, or one objective"
        )
    if sweep.trial_timeout is not None and study.executor.kind == "inline":
        raise UserError(
            "sweep.trial_timeout: executor=inline cannot stop a trial; use executor=process"
        )
    check_sampler(sweep.sampler, len(objectives))


def run_sweep(
    plan: SweepPlan,
    on_progress: Callable[[Progress], None],
    on_begin: Callable[[SweepPlan], None] = lambda plan: None,
) -> None:
    """Run the study to its target.

    Args:
        plan: what to run.
        on_progress: called with each event.
        on_begin: called once nothing is refused any more, before a trial's process is made.
    """
    folder = plan.folder
    executor = make_executor(plan.study.executor, plan.trainer, folder.root)
    folder.make()
    study = open_study(folder, plan.study.sweep)
    refuse_drift(study, split_config(plan.base)[0], plan.space)
    refuse_other_content(folder, study)
    on_begin(plan)
    with folder.opened():
        learned = learn_from_others(study, folder, plan.study.sweep, plan.space, plan.guards)
    study.set_user_attr("target", plan.target)
    study.set_user_attr(EXECUTOR, plan.study.executor.model_dump(mode="json"))
    study.set_user_attr("command", shlex.join(["rmexp", "train", "-m", *plan.fixed]))
    lost = LostRuns()
    controller = Controller(
        study=study,
        folder=folder,
        config=plan.study.sweep,
        space=plan.space,
        config_for=plan.config_for,
        executor=executor,
        guarded=bool(plan.guards),
        notes=learned,
        on_progress=on_progress,
        on_lost=lost,
    )
    try:
        controller.run()
    finally:
        lost.finish()


def _text(override: Override) -> str:
    return str(override.input_line)
