"""The command line: one small function per command.

``train``, ``sweep``, ``evaluate``, ``label`` and ``rules audit`` take Hydra overrides; the others
take plain options. Nothing
heavy is imported before a command's configuration has been checked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.config_files import config_dir, sweeps_dir
from rmexp.errors import UserError

if TYPE_CHECKING:
    import optuna
    from omegaconf import DictConfig

    from rmexp.sweep.job import Executor
    from rmexp.sweep.study import StudyFolder

USAGE = """\
usage: rmexp COMMAND ...

  train      one trial; with -m and ranges, a study     rmexp train gamma=0.5 r=3
  sweep      a named study                              rmexp sweep sweep=starter
  best       the best trial of a study                  rmexp best STUDY [--json]
  rerun      a stored trial again                       rmexp rerun STUDY [--trial N]
  status     where a study stands                       rmexp status STUDY [--watch]
  report     one HTML file about a study                rmexp report STUDY [--out FILE]
  confirm    the top trials on fresh seeds              rmexp confirm STUDY [--top K] [--seeds M]
  dashboard  W&B workspace and report of a study        rmexp dashboard STUDY [--dry-run]
  sync       upload a study's offline W&B runs          rmexp sync STUDY
  ui         a read-only page of all studies            rmexp ui [--port 8080]
  studies    the studies below the output folder        rmexp studies
  evaluate   a reward model on judged responses         rmexp evaluate model.path=FOLDER
  compare    models or trials, row by row               rmexp compare A B suite=hh
  label      a file of labelled pairs for any trainer   rmexp label out=labels.parquet
  rules      what is wrong with a rule set              rmexp rules audit rules=core20
  doctor     what is installed, and what is missing     rmexp doctor

train, sweep, evaluate, compare, label and rules audit take Hydra overrides and flags: KEY=VALUE,
--cfg job, --config-dir DIR.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; user errors are one line and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "sweep": sweep,
        "evaluate": evaluate,
        "compare": compare,
        "label": label,
        "rules": rules,
        "best": best,
        "rerun": rerun,
        "status": status,
        "report": report,
        "confirm": confirm,
        "dashboard": dashboard,
        "sync": sync,
        "ui": ui,
        "studies": studies,
        "doctor": doctor,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if words[0] == "--version":
        import rmexp

        print(f"rmexp {rmexp.__version__}")
        return
    if words[0] not in commands:
        _fail(f"no command '{words[0]}'; use one of {', '.join(commands)}")
    try:
        commands[words[0]](words[1:])
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(
            "\nrmexp: interrupted; the same command goes on where this one stopped", file=sys.stderr
        )
        sys.exit(130)


def train(words: list[str]) -> None:
    """One trial, or with -m a study."""
    _hydra("train", words, _train)


def sweep(words: list[str]) -> None:
    """A study, by name or with ranges on the command line."""
    _hydra("train", [*words, *([] if _asks_only(words) else ["--multirun"])], _train)


def evaluate(words: list[str]) -> None:
    """Score a reward model on judged responses."""
    _hydra("evaluate", words, _evaluate)


def compare(words: list[str]) -> None:
    """Models or trials on one set, row by row."""
    flags = ("-", "+", "~")
    models: list[str] = []
    # Models come first: what follows a flag of Hydra's is the flag's.
    while words[len(models) :] and not words[len(models)].startswith(flags):
        if "=" in words[len(models)] and not Path(words[len(models)]).exists():
            break
        models.append(words[len(models)])
    _hydra("compare", words[len(models) :], lambda config: _compare(config, models))


def label(words: list[str]) -> None:
    """Label pairs by their critical rules, into a file."""
    _hydra("label", words, _label)


def rules(words: list[str]) -> None:
    """What is wrong with a rule set."""
    if words[:1] != ["audit"]:
        raise UserError("rules: use 'rmexp rules audit [KEY=VALUE ...]'")
    _hydra("audit", words[1:], _audit)


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
    from rmexp.trial.record import TrialRecord

    trial = best_trial(study)
    directory = folder.root / trial.user_attrs["directory"]
    record = TrialRecord.read(directory)
    confirmation = read_confirmation(folder)
    print(
        json.dumps(
            {
                "study": options.study,
                "trial": trial.number,
                "objective": trial.value,
                "params": trial.params,
                "metrics": record.metrics,
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
    parser.add_argument(
        "--on-drift",
        choices=["refuse", "warn"],
        default="refuse",
        help="what to do where code, data or versions have changed",
    )
    parser.add_argument("--tracker", choices=["none", "wandb"], help="instead of the stored one")
    parser.add_argument(
        "--seeds", type=int, help="instead: run it on this many fresh seeds, measured on test pairs"
    )
    _add_runner(parser)
    options = parser.parse_args(words)
    from rmexp.sweep.rerun import rerun as run_again
    from rmexp.sweep.study import best_trial

    study, folder = _study(options)
    number = best_trial(study).number if options.trial is None else options.trial
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if number not in trials:
        raise UserError(f"--trial: study '{options.study}' has no trial {number}")
    # A copied duplicate has no directory of its own.
    source = trials[number].user_attrs.get("duplicate_of", number)
    if options.seeds is not None:
        _rerun_seeds(folder, source, options)
        return
    result = run_again(folder, source, on_drift=options.on_drift, tracker=options.tracker)
    for line in result.drift:
        print(f"drift: {line}")
    if result.new.state == "failed":
        raise UserError(f"the rerun failed: {result.new.reason} (record: {result.directory})")
    print(f"trial {number} of study {options.study}, run again in {result.directory}")
    print(f"  objective then {result.old.objective!r}")
    print(f"  objective now  {result.new.objective!r}")
    for name, (old, new) in result.unequal.items():
        print(f"  differs: {name}: {old!r} then, {new!r} now")
    print("  equal to the last digit" if result.equal else "  NOT equal")
    if not result.equal and not result.drift:
        sys.exit(1)


def _rerun_seeds(folder: StudyFolder, number: int, options: argparse.Namespace) -> None:
    from rmexp.sweep.confirm import accuracy_interval, fresh_seeds, run_seeds
    from rmexp.sweep.console import console
    from rmexp.trial.record import TrialRecord

    if options.seeds < 2:
        raise UserError("--seeds: give 2 or more; one seed says nothing about other seeds")
    config = TrialRecord.read(folder.trial(number)).trial_config
    seeds = fresh_seeds([config.seed], options.seeds)
    with folder.controlled():
        runs = run_seeds(
            folder,
            {number: config},
            seeds,
            _executor(options),
            on_event=lambda event: console(stderr=True).print(event, markup=False),
        )[number]
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
    _add_runner(parser)
    options = parser.parse_args(words)
    from rmexp.sweep.confirm import confirm as run_confirmation
    from rmexp.sweep.console import console, print_confirmation

    study, folder = _study(options)
    with folder.controlled():
        result = run_confirmation(
            study,
            folder,
            _executor(options),
            top=options.top,
            seeds=options.seeds,
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
    parser = argparse.ArgumentParser("rmexp ui", description="a read-only page of all studies")
    parser.add_argument("--output-dir", default="outputs", help="where studies lie")
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback a token is needed")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(words)
    from rmexp.views.server import serve

    serve(Path(options.output_dir), options.host, options.port)


def studies(words: list[str]) -> None:
    """The studies below the output folder."""
    parser = argparse.ArgumentParser("rmexp studies", description="studies, newest first")
    parser.add_argument("--output-dir", default="outputs")
    options = parser.parse_args(words)
    from rich.table import Table

    from rmexp.sweep.console import console
    from rmexp.sweep.study import load_study

    found = sorted(
        Path(options.output_dir).glob("studies/*/study.db"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    if not found:
        raise UserError(f"no study below {options.output_dir}; rmexp sweep sweep=starter makes one")
    table = Table("study", "complete", "pruned", "failed", "best", "last change")
    for path in found:
        name = path.parent.name
        study = load_study(options.output_dir, name)
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        value = f"{study.best_value:.4f}" if "COMPLETE" in states else ""
        changed = datetime.datetime.fromtimestamp(path.stat().st_mtime)
        table.add_row(
            name,
            *[str(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")],
            value,
            changed.strftime("%Y-%m-%d %H:%M"),
        )
    console().print(table)


def doctor(words: list[str]) -> None:
    """What is installed, and what is missing."""
    argparse.ArgumentParser("rmexp doctor").parse_args(words)
    from rmexp.doctor import report

    sys.exit(report())


def _train(config: DictConfig) -> None:
    from rmexp.sweep.launch import split_config
    from rmexp.sweep.schema import StudyConfig
    from rmexp.trial.assembly import check_before_anything_heavy
    from rmexp.trial.schema import checked, trial_config

    plain, rest = split_config(config)
    trial = trial_config(plain)
    study = checked(StudyConfig, rest)
    check_before_anything_heavy(trial)
    directory = _fresh_run_directory(Path(study.output_dir))

    from rmexp.trial.run import run_trial

    record = run_trial(
        trial, directory=directory, progress=lambda step: print(f"{step} ...", file=sys.stderr)
    )
    if record.state == "failed":
        where = f" (record: {directory})"
        if record.traceback:
            print(record.traceback, file=sys.stderr)
        _fail(record.reason + where)
    for name, value in sorted(record.metrics.items()):
        print(f"{name:42s} {value:.6g}")
    print(f"objective {trial.evaluation.objective} = {record.objective}")
    print(f"model and record: {directory}")


def _evaluate(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.evaluate import EvaluateConfig
    from rmexp.trial.evaluate import evaluate as run_evaluation
    from rmexp.trial.schema import checked

    result, written = run_evaluation(checked(EvaluateConfig, plain_config(config)))

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
    comparison = compare_models(options)

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


def _label(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.label import LabelConfig, label_file
    from rmexp.trial.schema import checked

    options = checked(LabelConfig, plain_config(config))
    report, labelled = label_file(options)
    print(report)
    for name, value in labelled.metrics().items():
        print(f"{name:42s} {value:.6g}")
    print(f"labels: {options.out}")


def _audit(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.audit import AuditConfig, audit
    from rmexp.trial.schema import checked

    options = checked(AuditConfig, plain_config(config))
    report, audited, result = audit(options)

    from rmexp.sweep.console import console
    from rmexp.views.audit import categories_table, findings, picture, rules_table

    out = console()
    out.print(rules_table(result))
    out.print(categories_table(result))
    out.print(report, *findings(result), sep="\n", markup=False)
    if options.picture is not None:
        Path(options.picture).write_text(picture(result, audited), encoding="utf-8")
    for path in (options.out, options.picture):
        if path is not None:
            out.print(f"written: {path}", markup=False)


def _fresh_run_directory(output_dir: Path) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = output_dir / "runs" / stamp
    directory, n = base, 1
    while directory.exists():
        n += 1
        directory = base.with_name(f"{stamp}-{n}")
    return directory


def _hydra(config_name: str, words: list[str], task: Callable[[DictConfig], None]) -> None:
    # Hydra prints a hint instead of the error unless told to let it through.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rmexp.sweep.config_store import register

    register(sweeps_dir(), Path.cwd() / "sweeps")
    sys.argv = [f"rmexp {config_name}", *words]
    composed: list[DictConfig] = []
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(
            composed.append
        )()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_lines(error)) from error
    # Outside Hydra, which would print lines of its own above an error. Empty for --cfg and -m.
    for config in composed:
        task(config)


def _first_lines(error: BaseException) -> str:
    """Hydra's message on one line, without its hints over several lines."""
    cause = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(
        line for line in lines if not line.startswith(("Set the env", "full_key:", "object_type"))
    )
    if cause is not None and str(cause) and str(cause).splitlines()[0] not in text:
        text += f" ({str(cause).splitlines()[0]})"
    return text


def _asks_only(words: list[str]) -> bool:
    return any(
        w in ("--cfg", "-c", "--help", "--hydra-help", "--info", "-i", "-m", "--multirun")
        or w.startswith("--cfg=")
        for w in words
    )


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"rmexp {command}", description=description)
    parser.add_argument("study", help="name of the study")
    parser.add_argument("--output-dir", default="outputs", help="where studies lie")
    parser.add_argument("--storage", help="Optuna storage URL, where it is not the study's SQLite")
    return parser


def _study(options: argparse.Namespace) -> tuple[optuna.Study, StudyFolder]:
    from rmexp.sweep.study import StudyFolder, load_study

    study = load_study(options.output_dir, options.study, options.storage)
    return study, StudyFolder.of(options.output_dir, options.study)


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slots", type=int, help="runs at once; chosen by the cores by default")
    parser.add_argument("--inline", action="store_true", help="one after the other, here")


def _executor(options: argparse.Namespace) -> Executor:
    from rmexp.sweep.executors import make_executor
    from rmexp.sweep.schema import InlineExecutorConfig, ProcessExecutorConfig
    from rmexp.trial.schema import checked

    if options.inline:
        return make_executor(InlineExecutorConfig(kind="inline"))
    return make_executor(checked(ProcessExecutorConfig, {"slots": options.slots}))


def _fail(message: str) -> Any:
    print(f"rmexp: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
