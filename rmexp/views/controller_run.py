"""The study's own W&B run: what no single trial can say."""

from __future__ import annotations

import fcntl
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import optuna

from rmexp.fingerprint import fingerprint
from rmexp.sweep.storages import gather
from rmexp.tracking import RunInfo
from rmexp.tracking.tracker import flatten
from rmexp.trial.record import MODEL
from rmexp.trial.schema import TrackerConfig
from rmexp.views.study_view import StudyView

FOLDER = "controller"
_MARK = "content.txt"


def write_controller_run(
    study: optuna.Study, view: StudyView, *, mode: str = "offline"
) -> Path | None:
    """Log the study as a run of its own, offline ready for ``wandb sync``.

    It holds the table of trials, the importances, the best config, and as artifacts the study's
    database and the best model, with aliases ``best`` and the study's name.

    Args:
        study: as it stands.
        view: of the same study.
        mode: of the run, as a trial's ``tracker.mode``.

    Returns:
        The folder of the run, which stays as it is while the study does not change; None where
        the trials are not tracked by W&B.
    """
    record = next((r for t in view.trials if (r := t.record()) is not None), None)
    if record is None or record.trial_config.tracker.kind != "wandb":
        return None
    folder = view.folder.root / FOLDER
    content = fingerprint("controller", trials=[json.dumps(t.to_plain()) for t in view.trials])
    mark = folder / _MARK
    view.folder.locks.mkdir(parents=True, exist_ok=True)
    # Two controllers may end at the same moment.
    with (view.folder.locks / "controller_run.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text(encoding="utf-8") == content.hexdigest:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        _log(study, view, folder, record.trial_config.tracker, mode)
        mark.write_text(content.hexdigest, encoding="utf-8")
    return folder


def _log(
    study: optuna.Study, view: StudyView, folder: Path, config: TrackerConfig, mode: str
) -> None:
    import wandb

    from rmexp.tracking.wandb_run import WandbTracker

    best = view.trial(view.best[0]) if view.best else None
    best_record = best.record() if best is not None else None
    info = RunInfo(
        id=f"{view.name}-controller",
        name=f"{view.name}-controller",
        group=view.name,
        job_type="controller",
        config={"best": flatten(best_record.config)} if best_record is not None else {},
        directory=folder,
    )
    tracker = WandbTracker(info, project=config.project, entity=config.entity, mode=mode)
    columns = ["trial", "state", *view.objectives, *view.keys, "seconds", "reason"]
    tracker.table("trials", columns, [_row(t, view) for t in view.trials])
    importance = _importance(study, view)
    if importance:
        tracker.table("importance", ["parameter", "importance"], list(importance.items()))
    for name, path in _artifacts(view):
        artifact = wandb.Artifact(f"{view.name}-{name}", type=name)
        if path.is_dir():
            # Immutable: not copied, as a model may be large. File by file, as add_dir prints.
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                artifact.add_file(str(file), str(file.relative_to(path)), policy="immutable")
        else:
            artifact.add_file(str(path))
        tracker.artifact(artifact, aliases=["best", view.name] if name == "model" else [view.name])
    summary: dict[str, Any] = {f"trials/{s}": n for s, n in view.counts().items()}
    if best is not None:
        summary |= {"best/trial": best.number}
        summary |= {f"best/{n}": v for n, v in zip(view.objectives, best.values, strict=True)}
    tracker.finish("complete", "", summary)
    # finish() returns before the file is whole; wandb's own process writes it to its end.
    wandb.teardown()


def _row(trial: Any, view: StudyView) -> list[Any]:
    values = list(trial.values) or [None] * len(view.objectives)
    params = [trial.params.get(key) for key in view.keys]
    return [trial.number, trial.state, *values, *params, trial.seconds, trial.reason]


def _importance(study: optuna.Study, view: StudyView) -> dict[str, float]:
    if len(view.of_state("complete")) < 4:
        return {}
    target = None if len(view.objectives) == 1 else lambda t: t.values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(optuna.importance.get_param_importances(study, target=target))
        except (ValueError, RuntimeError):
            return {}  # No parameter in common, or all objectives equal.


def _artifacts(view: StudyView) -> list[tuple[str, Path]]:
    found = []
    if view.folder.database.exists():
        gather(view.folder.database)
        found.append(("study", view.folder.database))
    best = view.trial(view.best[0]).directory if view.best else None
    if best is not None and any((best / MODEL).glob("*")):
        found.append(("model", best / MODEL))
    return found
