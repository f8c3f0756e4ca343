"""Commands about training and using models: train, sweep, evaluate, compare, score, export."""

from __future__ import annotations

import datetime
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.cli.composed import fail, run_composed
from rmexp.cli.hydra_errors import explain
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
    run_composed("evaluate", words, lambda config: _evaluate(config, not _names_data(words)))


def compare(words: list[str]) -> None:
    """Models or trials on one set, row by row."""
    flags = ("-", "+", "~")
    models: list[str] = []
    # Models come first: what follows a flag of Hydra's is the flag's.
    while words[len(models) :] and not words[len(models)].startswith(flags):
        if "=" in words[len(models)] and not Path(words[len(models)]).exists():
            break
        models.append(words[len(models)])
    rest = words[len(models) :]
    run_composed("compare", rest, lambda config: _compare(config, models, not _names_data(rest)))


def score(words: list[str]) -> None:
    """Rewards for the rows of a file."""
    run_composed("score", words, _score)


def export(words: list[str]) -> None:
    """A model, or a run's checkpoint, as one folder."""
    run_composed("export", words, _export)


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

    try:
        parsed = OverridesParser.create().parse_overrides(rest)
    except HydraException as error:
        raise UserError(f"prepare: {explain(error, 'prepare', ())}") from error
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
    from rmexp.trial.going_on import forget_checkpoints, run_to_go_on
    from rmexp.trial.schema import checked, trial_config
    from rmexp.trial.unfinished import has_progress, remove_progress

    plain, rest = split_config(config)
    trial = trial_config(plain)
    study = checked(StudyConfig, rest)
    check_before_anything_heavy(trial)
    check_device(trial.trainer)
    output_dir = Path(study.output_dir)
    old = None
    if study.ckpt_path is not None:
        old = run_to_go_on(study.ckpt_path, output_dir, trial)
        print(f"rmexp: goes on from {old}", file=sys.stderr)
    directory = _fresh_run_directory(output_dir)

    from rmexp.cli.progress import Steps
    from rmexp.trial.ranks import under_torchrun
    from rmexp.trial.run import run_trial
    from rmexp.trial.torchrun import run_under_torchrun

    run = run_under_torchrun if under_torchrun() else run_trial
    try:
        with Steps() as steps:
            record = run(
                trial,
                directory=directory,
                progress=steps,
                advance=steps.advance,
                resume_from=old,
                must_resume=old is not None,
            )
    except KeyboardInterrupt:
        how = "goes on with ckpt_path=last" if has_progress(directory) else "begins again"
        print(f"\nrmexp: interrupted; the same command {how}", file=sys.stderr)
        sys.exit(130)
    if record is None:
        return  # Rank 0 tells.
    if record.state == "failed":
        if old is not None and record.failure == "user_error":
            # No further than those that it began with.
            remove_progress(directory)
        where = f" (record: {directory})"
        if record.traceback:
            print(record.traceback, file=sys.stderr)
        fail(record.reason + where)
    if old is not None:
        forget_checkpoints(old, output_dir)
    from rmexp.views.trial_text import trial_lines

    print(*trial_lines(record), sep="\n")
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


def _names_data(words: list[str]) -> bool:
    """Whether the command line chooses data, as a group or by a key of it."""
    return any(re.match(r"[+~]*data(@|\.|=|$)", word) for word in words)


def _evaluate(config: DictConfig, of_record: bool) -> None:
    from rmexp.trial.evaluate import EvaluateConfig
    from rmexp.trial.evaluate import evaluate as run_evaluation
    from rmexp.trial.schema import checked

    plain = _plain_of_a_model(config)
    options = checked(EvaluateConfig, plain)

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        # Begun by the first advance: what is wrong before it stays one line.
        advance = partial(steps.advance_in, "evaluate")
        found = run_evaluation(options, advance, of_record=of_record)

    from rmexp.sweep.console import console
    from rmexp.trial.reference_files import BENCHMARKS
    from rmexp.views.evaluation import (
        all_alike_note,
        contamination_line,
        cut_warning,
        evaluation_picture,
        figures_table,
        heading,
        other_metrics,
        scoring_line,
    )
    from rmexp.views.trial_text import metric_rows

    out, result = console(), found.result
    out.print(heading(result), markup=False)
    if scored := scoring_line(result):
        out.print(scored, markup=False)
    if warning := cut_warning(result.scored, result.of.kind in BENCHMARKS):
        print(warning, file=sys.stderr)
    out.print(figures_table(result))
    if note := all_alike_note(result):
        out.print(note, markup=False)
    for name, text in metric_rows(other_metrics(result)):
        print(f"{name:42s} {text}")
    if found.contamination is not None:
        print(contamination_line(found.contamination))
    written = [str(path) for path in found.written]
    if options.picture is not None:
        page = evaluation_picture(found.name, result)
        Path(options.picture).write_text(page, encoding="utf-8")
        written.append(options.picture)
    for path in written:
        print(f"written: {path}")


def _score(config: DictConfig) -> None:
    from rmexp.trial.schema import checked
    from rmexp.trial.score import ScoreConfig, score_file

    plain = _plain_of_a_model(config)
    options = checked(ScoreConfig, plain)

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        found = score_file(options, partial(steps.advance_in, "score"))

    from rmexp.views.evaluation import cut_warning

    if warning := cut_warning(found.how):
        print(warning, file=sys.stderr)
    scores = found.scores
    low, mean, high = scores.min(), scores.mean(), scores.max()
    print(f"{len(scores)} scores from {low:.4g} to {high:.4g}, mean {mean:.4g}")
    print(f"written: {options.out}")


def _export(config: DictConfig) -> None:
    from rmexp.trial.export import ExportConfig, export_model
    from rmexp.trial.schema import checked

    plain = _plain_of_a_model(config)
    options = checked(ExportConfig, plain)

    def begin(source: str) -> None:
        print(f"export: loading {source} ...", file=sys.stderr, flush=True)

    print(f"written: {export_model(options, begin)}")


def _compare(config: DictConfig, models: list[str], of_record: bool) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.compare import CompareConfig, compare_models
    from rmexp.trial.schema import checked

    plain = plain_config(config)
    found = [_trial_folder(model, plain) for model in models]
    options = checked(CompareConfig, {**plain, "models": found, "names": models})
    old = [path for path in (options.out, options.picture) if path and Path(path).exists()]

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        comparison = compare_models(options, steps.advance_in, of_record=of_record)

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
            replaced = ", in place of the one that was there" if path in old else ""
            out.print(f"written: {path}{replaced}", markup=False)


def _plain_of_a_model(config: DictConfig) -> dict[str, Any]:
    """The config as plain data, with STUDY:N in ``model.path`` made a folder."""
    from rmexp.sweep.launch import plain_config

    plain = plain_config(config)
    model = plain["model"]
    if model.get("path") is not None:
        model["path"] = _trial_folder(str(model["path"]), plain)
    return plain


def _trial_folder(model: str, plain: dict[str, Any]) -> str:
    """STUDY:N as the trial's folder, or that of a rerun that keeps its model; else as it is."""
    if Path(model).exists():
        _refuse_study_folder(model)
        return model
    from rmexp.sweep.rerun import RERUNS, kept_folder
    from rmexp.sweep.study import StudyFolder, load_study

    output_dir = str(plain.get("output_dir", "outputs"))
    _refuse_other_spelling(model, output_dir)
    study, _, number = model.rpartition(":")
    if not study or not number.isdecimal():
        return model
    folder = StudyFolder.of(output_dir, study)
    trials = {t.number: t for t in load_study(output_dir, study).get_trials(deepcopy=False)}
    attrs = trials[int(number)].user_attrs if int(number) in trials else {}
    if "directory" not in attrs:
        raise UserError(f"{model}: study '{study}' has no trial {number} with a folder of its own")
    kept = kept_folder(folder, attrs.get("duplicate_of", int(number)))
    if kept.parent.name == RERUNS:
        print(f"{model}: the model of its rerun {kept}", file=sys.stderr)
    return str(kept)


def _refuse_study_folder(model: str) -> None:
    """A study is many models: the best one's folder is named."""
    root = Path(model)
    if not (root / "trials").is_dir() or root.absolute().parent.name != "studies":
        return
    from rmexp.sweep.rerun import kept_folder
    from rmexp.sweep.study import StudyFolder, best_trial, load_study

    folder = StudyFolder(root)
    try:
        best = best_trial(load_study(root.absolute().parent.parent, root.absolute().name))
    except UserError as error:
        raise UserError(
            f"{model}: a study's folder; give one of its trials, {folder.trials}/NUMBER ({error})"
        ) from error
    kept = kept_folder(folder, int(Path(best.user_attrs["directory"]).name))
    raise UserError(f"{model}: a study's folder; its best trial is {best.number}: give {kept}")


def _refuse_other_spelling(model: str, output_dir: str) -> None:
    """``mine`` and ``mine/0`` of a study here are no hub names, which are asked for at length."""
    study, _, number = model.partition("/")
    if not study or not (Path(output_dir) / "studies" / study).is_dir():
        return
    number = number.removeprefix("trials/").rstrip("/")
    if number and not number.isdecimal():
        return
    wanted = f"{study}:{int(number) if number else 'N'}"
    raise UserError(f"{model}: no such folder; a trial of study '{study}' is named {wanted}")


def _fresh_run_directory(output_dir: Path) -> Path:
    from rmexp.trial.going_on import RUNS

    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = output_dir / RUNS / stamp
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
