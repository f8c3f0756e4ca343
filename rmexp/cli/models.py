"""Commands about training and measuring models: train, sweep, evaluate, compare."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.cli.composed import fail, run_composed
from rmexp.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rmexp.sweep.launch import SweepPlan


def train(words: list[str]) -> None:
    """One trial, or with -m a study."""
    from rmexp.sweep.hydra_sweeper import StudySweeper

    StudySweeper.at_end = staticmethod(_log_study)
    run_composed("train", words, _train)


def sweep(words: list[str]) -> None:
    """A study, by name or with ranges on the command line."""
    words = ["sweep.dry_run=true" if word == "--dry-run" else word for word in words]
    train([*words, *([] if _asks_only(words) else ["--multirun"])])


def evaluate(words: list[str]) -> None:
    """Score a reward model on judged responses."""
    run_composed("evaluate", words, _evaluate)


def compare(words: list[str]) -> None:
    """Models or trials on one set, row by row."""
    flags = ("-", "+", "~")
    models: list[str] = []
    # Models come first: what follows a flag of Hydra's is the flag's.
    while words[len(models) :] and not words[len(models)].startswith(flags):
        if "=" in words[len(models)] and not Path(words[len(models)]).exists():
            break
        models.append(words[len(models)])
    run_composed("compare", words[len(models) :], lambda config: _compare(config, models))


def prepare(words: list[str]) -> None:
    """Gather what a machine without a network needs for a trial or a sweep."""
    if not words or words[0].startswith(("-", "+", "~")) or "=" in words[0]:
        raise UserError("prepare: use 'rmexp prepare FOLDER [KEY=VALUE ...]'")
    folder, rest = Path(words[0]), words[1:]
    flags = [word for word in rest if word.startswith("-")]
    if flags:
        raise UserError(f"prepare: takes KEY=VALUE only, as train and sweep do; drop {flags[0]}")
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        parsed = [parser.parse_override(word) for word in rest]
    except HydraException as error:
        raise UserError(f"prepare: {' '.join(str(error).split())}") from error
    swept = {o.key_or_group: o.input_line for o in parsed if o.is_sweep_override()}
    fixed = [word for word, o in zip(rest, parsed, strict=True) if not o.is_sweep_override()]
    run_composed("train", fixed, lambda config: _prepare(config, folder, rest, swept))


def _prepare(config: DictConfig, folder: Path, words: list[str], swept: dict[str, str]) -> None:
    from rmexp.sweep.launch import split_config
    from rmexp.sweep.schema import StudyConfig
    from rmexp.trial.prepare import prepare as gather
    from rmexp.trial.schema import checked, trial_config

    plain, rest = split_config(config)
    space = checked(StudyConfig, rest).sweep.space
    found = gather(trial_config(plain), folder, words, {**space, **swept})
    print(*found.notes, sep="\n")
    print(f"prepared: {folder}; copy it anywhere, with rmexp installed run there:\n{found.line}")


def _train(config: DictConfig) -> None:
    from rmexp.sweep.launch import split_config
    from rmexp.sweep.schema import StudyConfig
    from rmexp.trial.assembly import check_before_anything_heavy
    from rmexp.trial.early import check_device
    from rmexp.trial.schema import checked, trial_config

    plain, rest = split_config(config)
    trial = trial_config(plain)
    study = checked(StudyConfig, rest)
    check_before_anything_heavy(trial)
    check_device(trial.trainer)
    directory = _fresh_run_directory(Path(study.output_dir))

    from rmexp.cli.progress import Steps
    from rmexp.trial.run import run_trial

    with Steps() as steps:
        record = run_trial(trial, directory=directory, progress=steps, advance=steps.advance)
    if record.state == "failed":
        where = f" (record: {directory})"
        if record.traceback:
            print(record.traceback, file=sys.stderr)
        fail(record.reason + where)
    for name, value in sorted(record.metrics.items()):
        print(f"{name:42s} {value:.6g}")
    if record.objective is None:
        print("nothing was measured: no pair outside training has a preference")
    else:
        print(f"objective {trial.evaluation.objective} = {record.objective}")
    print(f"model and record: {directory}")


def _log_study(plan: SweepPlan) -> None:
    """The study's own run at the tracker; what goes wrong there is no fault of the sweep."""
    if plan.tracker.kind == "none":
        return
    from rmexp.sweep.study import load_study
    from rmexp.views.controller_run import write_controller_run
    from rmexp.views.study_view import view_study

    study = load_study(plan.study.output_dir, plan.folder.name, plan.study.sweep.storage)
    try:
        write_controller_run(study, view_study(study, plan.folder), mode=plan.tracker.mode)
    except Exception as error:
        text = " ".join(str(error).split())
        print(f"rmexp: the study's run was not logged to W&B: {text}", file=sys.stderr)


def _evaluate(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.evaluate import EvaluateConfig
    from rmexp.trial.evaluate import evaluate as run_evaluation
    from rmexp.trial.schema import checked

    options = checked(EvaluateConfig, plain_config(config))

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        steps("evaluate")
        result, written = run_evaluation(options, steps.advance)

    from rmexp.sweep.console import console
    from rmexp.views.evaluation import figures_table, heading, other_metrics

    out = console()
    out.print(heading(result), markup=False)
    out.print(figures_table(result))
    for name, value in other_metrics(result).items():
        print(f"{name:42s} {value:.6g}")
    for path in written:
        print(f"written: {path}")


def _compare(config: DictConfig, models: list[str]) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.compare import CompareConfig, compare_models
    from rmexp.trial.schema import checked

    plain = plain_config(config)
    found = [_trial_folder(model, plain) for model in models]
    options = checked(CompareConfig, {**plain, "models": found, "names": models})

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        comparison = compare_models(options, steps.advance_in)

    from rmexp.sweep.console import console
    from rmexp.views.evaluation import (
        comparison_notes,
        comparison_picture,
        comparison_table,
        heading,
    )

    out = console()
    out.print(heading(comparison.results[comparison.first]), markup=False)
    out.print(comparison_table(comparison))
    out.print(*comparison_notes(comparison), sep="\n", markup=False)
    if options.picture is not None:
        Path(options.picture).write_text(comparison_picture(comparison), encoding="utf-8")
    for path in (options.out, options.picture):
        if path is not None:
            out.print(f"written: {path}", markup=False)


def _trial_folder(model: str, plain: dict[str, Any]) -> str:
    """STUDY:N as the trial's folder; anything else as it is."""
    study, _, number = model.rpartition(":")
    if not study or not number.isdecimal() or Path(model).exists():
        return model
    from rmexp.sweep.study import StudyFolder, load_study

    output_dir = str(plain.get("output_dir", "outputs"))
    folder = StudyFolder.of(output_dir, study)
    trials = {t.number: t for t in load_study(output_dir, study).get_trials(deepcopy=False)}
    directory = trials[int(number)].user_attrs.get("directory") if int(number) in trials else None
    if directory is None:
        raise UserError(f"{model}: study '{study}' has no trial {number} with a folder of its own")
    return str(folder.root / directory)


def _fresh_run_directory(output_dir: Path) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = output_dir / "runs" / stamp
    directory, n = base, 1
    while directory.exists():
        n += 1
        directory = base.with_name(f"{stamp}-{n}")
    return directory


def _asks_only(words: list[str]) -> bool:
    return any(
        w in ("--cfg", "-c", "--help", "--hydra-help", "--info", "-i", "-m", "--multirun")
        or w.startswith("--cfg=")
        for w in words
    )
