"""Commands about studies: best, rerun, status, report, confirm, dashboard, sync, ui, studies."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rmexp.cli.options import OptionParser
from rmexp.errors import UserError

if TYPE_CHECKING:
    import optuna

    from rmexp.sweep.job import Executor
    from rmexp.sweep.study import StudyFolder
    from rmexp.trial.schema import TrainerConfig


def best(words: list[str]) -> None:
    """The best trial of a study."""
    parser = _parser("best", "the best trial of a study")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(words)
    from rmexp.sweep.confirm import read_confirmation
    from rmexp.sweep.study import best_trial

    study, folder = _study(options)
    if not options.json:
        from rmexp.sweep.console import print_best

        print_best(study, folder)
        return
    from rmexp.sweep.rerun import measure_kept
    from rmexp.trial.record import TrialRecord

    trial = best_trial(study)
    directory = folder.root / trial.user_attrs["directory"]
    record = TrialRecord.read(directory)
    confirmation = read_confirmation(folder)
    test, unmeasured = None, ""
    try:
        test = measure_kept(folder, int(directory.name))["metrics"]
    except UserError as error:
        unmeasured = str(error)
    print(
        json.dumps(
            {
                "study": options.study,
                "trial": trial.number,
                "objective": trial.value,
                "params": trial.params,
                "metrics": record.metrics,
                "test": test,
                "test_unmeasured": unmeasured,
                "config": record.config,
                "directory": str(directory),
                "confirmation": None if confirmation is None else confirmation.to_plain(),
            },
            indent=2,
        )
    )


def rerun(words: list[str]) -> None:
    """A stored trial again."""
    parser = _parser("rerun", "run a stored trial again and compare")
    parser.add_argument("--trial", type=int, help="number; the best by default")
    _add_on_drift(parser)
    parser.add_argument("--tracker", choices=["none", "wandb"], help="instead of the stored one")
    parser.add_argument(
        "--seeds", type=int, help="instead: run it on this many fresh seeds, measured on test pairs"
    )
    _add_runner(parser)
    options = parser.parse_args(words)
    from rmexp.sweep.rerun import refuse_without_record
    from rmexp.sweep.rerun import rerun as run_again
    from rmexp.sweep.study import best_trial

    study, folder = _study(options)
    number = best_trial(study).number if options.trial is None else options.trial
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if number not in trials:
        raise UserError(f"--trial: study '{options.study}' has no trial {number}")
    # A copied duplicate has no directory of its own.
    source = trials[number].user_attrs.get("duplicate_of", number)
    refuse_without_record(study, folder, source)
    if options.seeds is not None:
        _rerun_seeds(study, folder, source, options)
        return
    result = run_again(folder, source, on_drift=options.on_drift, tracker=options.tracker)
    for line in result.drift:
        print(f"drift: {line}")
    if result.new.state == "failed":
        raise UserError(f"the rerun failed: {result.new.reason} (record: {result.directory})")
    print(f"trial {number} of study {options.study}, run again in {result.directory}")
    if result.new.state != result.old.state:
        print(f"  {result.old.state} then, {result.new.state} now")
    print(f"  objective then {result.old.objective!r}")
    print(f"  objective now  {result.new.objective!r}")
    for name, (old, new) in result.unequal.items():
        print(f"  differs: {name}: {old!r} then, {new!r} now")
    print(f"  {result.verdict}")
    if not result.equal and not result.drift:
        sys.exit(1)


def _rerun_seeds(
    study: optuna.Study, folder: StudyFolder, number: int, options: argparse.Namespace
) -> None:
    from rmexp.sweep.confirm import accuracy_interval
    from rmexp.sweep.console import console
    from rmexp.sweep.seed_runs import rerun_seeds
    from rmexp.trial.record import TrialRecord

    trainer = TrialRecord.read(folder.trial(number)).trial_config.trainer
    with folder.controlled():
        seeds, runs = rerun_seeds(
            folder,
            number,
            _executor(options, study, folder, trainer),
            seeds=options.seeds,
            on_drift=options.on_drift,
            tracker=options.tracker,
            on_event=lambda event: console(stderr=True).print(event, markup=False),
        )
    print(f"trial {number} of study {folder.name} on {len(seeds)} fresh seeds, test pairs:")
    for seed, record in zip(seeds, runs, strict=True):
        print(f"  seed {seed}: accuracy {record.metrics['test/accuracy']:.4f}")
    print(f"  mean {accuracy_interval(runs)} (95% interval over seeds and pairs)")


def status(words: list[str]) -> None:
    """Where a study stands."""
    parser = _parser("status", "where a study stands: running trials, done, best, time left")
    parser.add_argument("--watch", action="store_true", help="go on until the target is reached")
    options = parser.parse_args(words)
    from rmexp.views.status import print_status, watch

    study, folder = _study(options)
    if options.watch:
        watch(study, folder)
    else:
        print_status(study, folder)


def report(words: list[str]) -> None:
    """One HTML file about a study."""
    parser = _parser("report", "one self-contained HTML file about a study")
    parser.add_argument("--out", help="the file; report.html in the study's folder by default")
    options = parser.parse_args(words)
    study, folder = _study(options)
    out = folder.root / "report.html" if options.out is None else Path(options.out)
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: no folder {out.absolute().parent} to write into")
    from rmexp.views.report import study_report

    out.write_text(study_report(study, folder), encoding="utf-8")
    print(f"report: {out}")


def confirm(words: list[str]) -> None:
    """The top trials on fresh seeds, measured on the test part."""
    parser = _parser("confirm", "run the top trials on fresh seeds and rank them on test pairs")
    parser.add_argument("--top", type=int, default=3, help="trials to confirm (3)")
    parser.add_argument("--seeds", type=int, default=5, help="fresh seeds, the same for each (5)")
    _add_on_drift(parser)
    _add_runner(parser)
    options = parser.parse_args(words)
    from rmexp.sweep.confirm import confirm as run_confirmation
    from rmexp.sweep.confirm import top_trials
    from rmexp.sweep.console import console, print_confirmation
    from rmexp.trial.record import TrialRecord

    study, folder = _study(options)
    first = TrialRecord.read(folder.trial(top_trials(study, 1)[0].number))
    with folder.controlled():
        result = run_confirmation(
            study,
            folder,
            _executor(options, study, folder, first.trial_config.trainer),
            top=options.top,
            seeds=options.seeds,
            on_drift=options.on_drift,
            on_event=lambda event: console(stderr=True).print(event, markup=False),
        )
    print_confirmation(result)


def dashboard(words: list[str]) -> None:
    """W&B workspace and report of a study."""
    parser = _parser("dashboard", "a W&B workspace and report, written as code")
    parser.add_argument("--dry-run", action="store_true", help="write their JSON, need no account")
    parser.add_argument("--out", help="the dry run's file; dashboard.json in the study's folder")
    options = parser.parse_args(words)
    from rmexp.views.dashboard import save_dashboard, write_dashboard
    from rmexp.views.study_view import view_study

    study, folder = _study(options)
    view = view_study(study, folder)
    if options.dry_run:
        out = folder.root / "dashboard.json" if options.out is None else Path(options.out)
        write_dashboard(view, out)
        print(f"dashboard: {out}")
        print(
            "it is what W&B would show: a workspace and a report, as W&B's own JSON; to make them "
            f"online: wandb login, rmexp sync {options.study}, rmexp dashboard {options.study}"
        )
        return
    workspace, report = save_dashboard(view)
    print(f"workspace: {workspace}\nreport: {report}")


def sync(words: list[str]) -> None:
    """Upload a study's offline W&B runs."""
    parser = _parser("sync", "upload what was logged offline; what is uploaded stays uploaded")
    options = parser.parse_args(words)
    from rmexp.views.sync import sync as upload

    study, folder = _study(options)
    result = upload(study, folder, on_event=print)
    print(
        f"uploaded {result.uploaded}, already there {result.known}, still running {result.running}"
    )


def ui(words: list[str]) -> None:
    """A read-only page of all studies."""
    parser = OptionParser("ui", "a read-only page of all studies")
    parser.add_argument("--output-dir", default="outputs", help="where studies lie")
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback a token is needed")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(words)
    from rmexp.views.server import serve

    serve(Path(options.output_dir), options.host, options.port)


def studies(words: list[str]) -> None:
    """The studies below the output folder."""
    parser = OptionParser("studies", "studies, newest first")
    parser.add_argument("--output-dir", default="outputs")
    options = parser.parse_args(words)
    from rich.table import Table
    from rich.text import Text

    from rmexp.sweep.console import console
    from rmexp.sweep.study import load_study, studies_below
    from rmexp.views.study_view import view_study

    found = studies_below(options.output_dir)
    if not found:
        raise UserError(f"no study below {options.output_dir}; rmexp sweep sweep=starter makes one")
    table = Table("study", "complete", "pruned", "failed", "best", "last change")
    for folder in found:
        try:
            view = view_study(load_study(options.output_dir, folder.name), folder)
        except UserError as error:
            # One database that does not answer must not hide the other studies.
            table.add_row(folder.name, "", "", "", Text(str(error)), "")
            continue
        counts = view.counts()
        best = view.trial(view.best[0]).values if len(view.best) == 1 else ()
        changed = datetime.datetime.fromtimestamp(folder.changed or 0)
        table.add_row(
            folder.name,
            *[str(counts[state]) for state in ("complete", "pruned", "failed")],
            ", ".join(f"{value:.4f}" for value in best),
            changed.strftime("%Y-%m-%d %H:%M"),
        )
    console().print(table)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = OptionParser(command, description)
    parser.add_argument("study", help="name of the study")
    parser.add_argument("--output-dir", default="outputs", help="where studies lie")
    parser.add_argument(
        "--storage", help="Optuna storage URL, where it has moved or needs a password"
    )
    return parser


def _study(options: argparse.Namespace) -> tuple[optuna.Study, StudyFolder]:
    from rmexp.sweep.study import StudyFolder, load_study

    study = load_study(options.output_dir, options.study, options.storage)
    return study, StudyFolder.of(options.output_dir, options.study)


def _add_on_drift(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-drift",
        choices=["refuse", "warn"],
        default="refuse",
        help="what to do where code, data or versions have changed",
    )


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slots", type=int, help="runs at once; chosen by the cores by default")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--inline", action="store_true", help="one after the other, here")
    where.add_argument(
        "--as-swept",
        action="store_true",
        help="where the sweep ran its trials, such as on its cluster; on this machine by default",
    )


def _executor(
    options: argparse.Namespace, study: optuna.Study, folder: StudyFolder, trainer: TrainerConfig
) -> Executor:
    from rmexp.sweep.executors import make_executor
    from rmexp.sweep.schema import StudyConfig
    from rmexp.sweep.study import EXECUTOR
    from rmexp.trial.schema import checked

    plain = {"kind": "inline" if options.inline else "process"}
    if options.as_swept:
        if EXECUTOR not in study.user_attrs:
            raise UserError(
                f"--as-swept: study '{folder.name}' does not say where its trials ran; leave it out"
            )
        plain = dict(study.user_attrs[EXECUTOR])
    if options.slots is not None and plain["kind"] != "inline":
        plain["slots"] = options.slots
    config = checked(StudyConfig, {"executor": plain}).executor
    return make_executor(config, trainer, folder.root)
