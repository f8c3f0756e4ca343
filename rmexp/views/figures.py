"""The pictures of a study, by optuna.visualization where it has the picture, as plotly figures."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna

from rmexp.sweep.ledger import WARM_START
from rmexp.views.study_view import StudyView, TrialView

# Okabe and Ito's colours: told apart by colour-blind readers, on white and on black.
STATE_COLOURS = {
    "complete": "#009e73",
    "running": "#56b4e9",
    "pruned": "#e69f00",
    "failed": "#d55e00",
    "interrupted": "#98a0ab",
}
# Up to here an axis names each value.
_FEW = 8
# Both ends are seen on a light page and on a dark one.
_SCALE: list[list[Any]] = [[0.0, "#4a6fe3"], [0.5, "#98a0ab"], [1.0, "#e6720e"]]
_SHOWN = ("/accuracy", "/loss", "objective")
PLANES = (("gamma", "r"), ("learning_rate", "epochs"))


@dataclass(frozen=True)
class Picture:
    """A figure with its heading, or the reason why there is none.

    Attributes:
        id: of the element, also its deep link.
        title: heading.
        figure: plotly's; None where there is nothing to draw.
        note: what to know when reading it, or why it is missing.
    """

    id: str
    title: str
    figure: Any
    note: str = ""


def study_pictures(study: optuna.Study, view: StudyView) -> list[Picture]:
    """All pictures of a study, each with data or with the reason why not."""
    study = _own_trials(study)
    pictures = [_history(study, view, i) for i in range(len(view.objectives))]
    if len(view.objectives) > 1:
        pictures.append(_front(study, view))
    pictures += [_importance(study, view), _parallel(study, view)]
    pictures += [plane(view, x, y) for x, y in PLANES]
    pictures.append(learning_curves(view))
    return pictures


def _own_trials(study: optuna.Study) -> optuna.Study:
    """The study as if a warm start had taken nothing from others, with the trials' own numbers."""
    own = copy.copy(study)
    get_trials = study.get_trials

    def own_only(*args: Any, **kwargs: Any) -> list[optuna.trial.FrozenTrial]:
        return [t for t in get_trials(*args, **kwargs) if WARM_START not in t.user_attrs]

    own.get_trials = own_only
    return own


def plane(view: StudyView, x: str, y: str) -> Picture:
    """The measured points over two keys, coloured by the first objective."""
    import plotly.graph_objects as go

    title = f"{_word(x)} x {_word(y)}"
    trials = [t for t in view.of_state("complete") if x in t.params and y in t.params]
    # Of points on each other the best is on top.
    trials.sort(key=lambda t: t.values[0], reverse=not view.maximize[0])
    if not trials:
        why = f"no complete trial searched both {x} and {y}"
        return Picture(f"{x}-{y}", title, None, why)
    figure = go.Figure(
        go.Scatter(
            x=[_axis_value(t.params[x]) for t in trials],
            y=[_axis_value(t.params[y]) for t in trials],
            mode="markers",
            customdata=[[t.number, t.values[0]] for t in trials],
            hovertemplate=(
                f"trial %{{customdata[0]}}<br>{x} %{{x}}<br>{y} %{{y}}<br>"
                f"{view.objectives[0]} %{{customdata[1]:.4f}}<extra></extra>"
            ),
            marker={
                "size": 13,
                "opacity": 0.85,
                "color": [t.values[0] for t in trials],
                "colorscale": _SCALE,
                "reversescale": not view.maximize[0],
                "line": {"width": 1, "color": "#888"},
                "colorbar": {"title": {"text": view.objectives[0]}, "thickness": 12},
            },
        )
    )
    for key, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        values = sorted({t.params[key] for t in trials}, key=str)
        update(
            title=_word(key),
            type="log" if key in view.log_keys else None,
            exponentformat="power",
            tickvals=(
                [_axis_value(v) for v in values]
                if len(values) <= _FEW and key not in view.log_keys
                else None
            ),
        )
    note = "Every point is a trial; of equal points the best is on top."
    return Picture(f"{x}-{y}", title, figure, note)


def learning_curves(view: StudyView) -> Picture:
    """The objective after each epoch, coloured by the trial's state."""
    import plotly.graph_objects as go

    title = "learning curves by state"
    shown = [t for t in view.trials if t.curve]
    if not shown:
        return Picture("curves", title, None, "no trial has reported an epoch")
    figure = go.Figure()
    told: set[str] = set()
    for trial in shown:
        epochs = sorted(trial.curve)
        figure.add_scatter(
            x=epochs,
            y=[trial.curve[e] for e in epochs],
            name=trial.state,
            legendgroup=trial.state,
            showlegend=trial.state not in told,
            mode="lines+markers",
            opacity=0.75,
            line={"color": STATE_COLOURS.get(trial.state, "#888"), "width": 1.5},
            hovertemplate=f"trial {trial.number}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            meta={"trial": trial.number},
        )
        told.add(trial.state)
    figure.update_xaxes(title="epoch", dtick=1 if max(map(_last, shown)) <= 20 else None)
    figure.update_yaxes(title=view.objectives[0])
    figure.update_layout(legend={"orientation": "h", "y": 1.12})
    return Picture("curves", title, figure, "A click on a state in the legend hides its trials.")


def trial_curves(history: list[dict[str, float]]) -> Any:
    """Every metric of one trial over its epochs, a line a seed; None where it has none."""
    import plotly.graph_objects as go

    # Those shown first come first, so that their colours differ.
    names = sorted(
        {name for row in history for name in row} - {"epoch", "step", "seed"},
        key=lambda name: (not name.endswith(_SHOWN), name),
    )
    if not names:
        return None
    figure = go.Figure()
    for name in names:
        rows = [row for row in history if name in row]
        # Nothing is drawn to a point without a value: from one seed's end to the next one's start.
        points = [
            point
            for _, of_seed in itertools.groupby(rows, lambda row: row.get("seed"))
            for point in (*((row["epoch"], row[name]) for row in of_seed), (None, None))
        ][:-1]
        figure.add_scatter(
            x=[epoch for epoch, _ in points],
            y=[value for _, value in points],
            name=name,
            mode="lines+markers",
            visible=True if name.endswith(_SHOWN) else "legendonly",
        )
    several = len({row.get("seed") for row in history}) > 1
    title = "epoch, counted on over the seeds" if several else "epoch"
    figure.update_xaxes(title=title, dtick=1 if len(history) <= 20 else None)
    return figure


def _history(study: optuna.Study, view: StudyView, objective: int) -> Picture:
    name = view.objectives[objective]
    title = f"history of {name}" if len(view.objectives) > 1 else "optimisation history"
    target = None if len(view.objectives) == 1 else lambda t: t.values[objective]
    return _drawn(
        f"history-{objective}" if objective else "history",
        title,
        view,
        lambda: optuna.visualization.plot_optimization_history(
            study, target=target, target_name=name
        ),
    )


def _importance(study: optuna.Study, view: StudyView) -> Picture:
    picture = _drawn(
        "importance",
        "parameter importance",
        view,
        lambda: optuna.visualization.plot_param_importances(study, **_first_objective(view)),
        at_least=4,
    )
    note = ""
    if picture.figure is not None:
        picture.figure.update_yaxes(title=None)
        note = "PED-ANOVA over the complete trials, summing to 1."
    return Picture(picture.id, picture.title, picture.figure, note or picture.note)


def _parallel(study: optuna.Study, view: StudyView) -> Picture:
    picture = _drawn(
        "parallel",
        "parallel coordinates",
        view,
        lambda: optuna.visualization.plot_parallel_coordinate(study, **_first_objective(view)),
    )
    if picture.figure is not None:
        _recolour(picture.figure, view.maximize[0])
    return picture


def _recolour(figure: Any, maximize: bool) -> None:
    """Optuna's palest lines vanish on a light page and its darkest on a dark one."""
    from plotly.colors import sample_colorscale

    scale = _SCALE
    if not maximize:
        scale = [[1 - at, colour] for at, colour in reversed(scale)]
    # Optuna writes the objective into each line's first label; with guards there are two lines
    # without one, for the legend.
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.customdata]
    values = [float(trace.customdata[0][1]) for trace in lines]
    low, high = min(values), max(values)
    for trace, value in zip(lines, values, strict=True):
        place = (value - low) / (high - low) if high > low else 1.0
        trace.line.color = sample_colorscale(scale, [place])[0]
    figure.update_traces(
        marker={"colorscale": scale, "reversescale": False}, selector={"mode": "markers"}
    )


def _front(study: optuna.Study, view: StudyView) -> Picture:
    if len(view.objectives) > 3:
        return Picture("front", "Pareto front", None, "drawn for two or three objectives")
    picture = _drawn(
        "front",
        "Pareto front",
        view,
        lambda: optuna.visualization.plot_pareto_front(study, target_names=list(view.objectives)),
    )
    if picture.figure is not None:
        # Optuna's palest points need an outline on a light page.
        picture.figure.update_traces(marker={"line": {"width": 1, "color": "#888"}})
    return picture


def _first_objective(view: StudyView) -> dict[str, Any]:
    if len(view.objectives) == 1:
        return {"target_name": view.objectives[0]}
    return {"target": lambda t: t.values[0], "target_name": view.objectives[0]}


def _drawn(
    id: str, title: str, view: StudyView, draw: Callable[[], Any], at_least: int = 1
) -> Picture:
    complete = len(view.of_state("complete"))
    if complete < at_least:
        return Picture(id, title, None, f"needs {at_least} complete trials, there are {complete}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            figure = draw()
        except (ValueError, RuntimeError) as error:
            # Optuna says so where trials share no parameter or all objectives are equal.
            return Picture(id, title, None, str(error))
    # The heading above the picture says it already.
    figure.update_layout(title=None)
    return Picture(id, title, figure)


def _last(trial: TrialView) -> int:
    return max(trial.curve)


def _word(key: str) -> str:
    return key.replace("_", " ")


def _axis_value(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
