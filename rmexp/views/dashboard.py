"""`rmexp dashboard`: a W&B workspace and report for a study, written as code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.tracking.tracker import flatten
from rmexp.views.figures import PLANES
from rmexp.views.study_view import StudyView

# What rules can buy safety with: needless refusals, and harmful answers preferred.
_SAFETY = ("validation/under_refusal_accuracy", "validation/over_refusal_accuracy")
_STATES = ("complete", "pruned", "failed")
_RANDOM_ID = re.compile(r"[a-z0-9]{8,}")


def dashboard_json(view: StudyView) -> dict[str, Any]:
    """Workspace and report as W&B's own JSON, with stable ids; needs no account.

    Raises:
        UserError: the extra is not installed, or no trial has ended.
    """
    entity, project = _place(view)
    workspace, report = build(view, entity or "entity", project)
    return {"workspace": _plain(workspace), "report": _plain(report)}


def save_dashboard(view: StudyView) -> tuple[str, str]:
    """Save both at W&B; their addresses.

    Raises:
        UserError: as :func:`dashboard_json`, or W&B could not be reached.
    """
    import wandb

    entity, project = _place(view)
    try:
        entity = entity or wandb.Api().default_entity
        workspace, report = build(view, entity, project)
        workspace.save()
        report.save()
    except Exception as error:  # wandb raises many kinds for no login, no network, no project.
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"dashboard: W&B did not take it ({line}); log in with 'wandb login', or use --dry-run"
        ) from error
    return workspace.url, report.url


def build(view: StudyView, entity: str, project: str) -> tuple[Any, Any]:
    """The workspace and the report as objects of wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError("dashboard: pip install 'rmexp[dashboards]' first") from error

    keys = _config_keys(view)
    objective = wr.SummaryMetric("objective")

    def search_panels() -> list[Any]:
        columns = [
            wr.ParallelCoordinatesPlotColumn(
                wr.Config(keys[key]), display_name=key, log=True if key in view.log_keys else None
            )
            for key in view.keys
        ]
        columns.append(wr.ParallelCoordinatesPlotColumn(objective, display_name="objective"))
        planes = [
            wr.ScatterPlot(
                title=f"{x} x {y}",
                x=wr.Config(keys[x]),
                y=wr.Config(keys[y]),
                z=objective,
                log_x=True if x in view.log_keys else None,
                layout=_box(wr, i, 1),
            )
            for i, (x, y) in enumerate((x, y) for x, y in PLANES if {x, y} <= keys.keys())
        ]
        return [
            wr.ParallelCoordinatesPlot(columns=columns, layout=_box(wr, 0, 0, wide=True)),
            *planes,
            wr.ParameterImportancePlot(with_respect_to="objective", layout=_box(wr, 0, 2)),
            wr.ScatterPlot(
                title="safety against over-refusal",
                x=wr.SummaryMetric(_SAFETY[0]),
                y=wr.SummaryMetric(_SAFETY[1]),
                z=objective,
                layout=_box(wr, 1, 2),
            ),
        ]

    def curves() -> list[Any]:
        metrics = ("validation/accuracy", "train/loss")
        return [
            wr.LinePlot(title=name, x="epoch", y=[name], layout=_box(wr, i, 0))
            for i, name in enumerate(metrics)
        ]

    def trials_only(state: str | None = None) -> list[Any]:
        filters = [ws.Metric("Group") == view.name, ws.Metric("JobType") == "trial"]
        # By tag: wandb-workspaces writes a summary key "state" as W&B's own "State".
        return filters if state is None else [*filters, ws.Tags().isin([f"state:{state}"])]

    def runs(state: str | None = None) -> Any:
        # Without an entity it is the report's own project, and W&B need not be asked for its id.
        return wr.Runset(name=state or view.name, filters=trials_only(state))

    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"study {view.name}",
        sections=[
            ws.Section(name="search", panels=search_panels(), is_open=True),
            ws.Section(name="learning curves", panels=curves(), is_open=True),
            ws.Section(name="runs", panels=[wr.RunComparer(diff_only="split")]),
        ],
        runset_settings=ws.RunsetSettings(filters=trials_only()),
    )
    report = wr.Report(
        entity=entity,
        project=project,
        title=f"Study {view.name}",
        description=f"{len(view.trials)} trials over {', '.join(view.keys)}",
        blocks=[
            wr.TableOfContents(),
            wr.H1("Search"),
            wr.PanelGrid(runsets=[runs()], panels=search_panels()),
            wr.H1("Learning curves by state"),
            wr.P("W&B knows no pruned state; each run says its own in the summary."),
            wr.PanelGrid(runsets=[runs(state) for state in _STATES], panels=curves()),
            wr.H1("Runs side by side"),
            wr.PanelGrid(runsets=[runs()], panels=[wr.RunComparer(diff_only="split")]),
        ],
    )
    return workspace, report


def write_dashboard(view: StudyView, out: Path) -> None:
    """The dry run's file."""
    text = json.dumps(dashboard_json(view), indent=2, sort_keys=True)
    out.write_text(text + "\n", encoding="utf-8")


def _box(wr: Any, column: int, row: int, wide: bool = False) -> Any:
    return wr.Layout(x=12 * column, y=8 * row, w=24 if wide else 12, h=8)


def _place(view: StudyView) -> tuple[str | None, str]:
    """Entity and project of the study's runs."""
    for trial in view.trials:
        record = trial.record()
        if record is not None:
            tracker = record.trial_config.tracker
            return tracker.entity, tracker.project
    raise UserError(f"study '{view.name}': no trial has ended, so nothing has been logged yet")


def _config_keys(view: StudyView) -> dict[str, str]:
    """Searched key to the key in the runs' flat config; a group is known by its name."""
    flat: dict[str, Any] = {}
    for trial in view.trials:
        record = trial.record()
        if record is not None:
            flat = flatten(record.config)
            break

    def found(key: str) -> str:
        names = (key, f"{key}.name", f"{key}.kind", f"{key}.source")
        return next((n for n in names if n in flat), key)

    return {key: found(key) for key in view.keys}


def _plain(model: Any) -> Any:
    plain = json.loads(model._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return _stable(plain, {})


def _stable(value: Any, names: dict[str, str]) -> Any:
    """wandb-workspaces draws its ids at random: number them, so that equal studies are equal."""
    if isinstance(value, dict):
        return {
            k: names.setdefault(v, f"id-{len(names):03d}")
            if k in ("__id__", "id", "viewId") and isinstance(v, str) and _RANDOM_ID.fullmatch(v)
            else _stable(v, names)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_stable(v, names) for v in value]
    return value
