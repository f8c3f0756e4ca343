"""Evaluations and comparisons for the eye: tables, and one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.table import Table

from rmexp.evaluation.compare import Comparison
from rmexp.evaluation.figures import Figure
from rmexp.evaluation.published import PUBLISHED
from rmexp.evaluation.sets import SetResult
from rmexp.statistics import Interval

_COLOURS = ("#1f6f8b", "#c0392b", "#1b7f5c", "#8e7cc3", "#d68910", "#5d6d7e")
ALL_ALIKE = (
    "all alike: every row has the same value, so the interval is Wilson's score interval "
    "(of a difference, what Wilson's bound on other rows leaves open), not the bootstrap's"
)
_PUBLISHED = "#9aa5b1"


def heading(result: SetResult) -> str:
    """The set's name, licence and size, in one line."""
    of = result.of
    licence = f" ({of.licence})" if of.licence else ""
    sample = f", a random sample of {of.sampled[1]}" if of.sampled else ""
    return f"{of.name}{licence}: {len(of.rows)} rows{sample}"


def figures_table(result: SetResult) -> Table:
    """One row a figure, with its interval; what lacks rows of the published set says so."""
    table = Table("figure", "estimate", "95% interval", "rows")
    for figure in result.figures:
        interval = figure.interval()
        table.add_row(
            escape_markup(figure.name),
            f"{interval.estimate:.3f}",
            interval.ends,
            _rows(figure),
        )
    return table


def all_alike_note(result: SetResult) -> str:
    """What ``all alike`` means in a table of figures; empty where it does not stand there."""
    return ALL_ALIKE if any(f.interval().unanimous for f in result.figures) else ""


def other_metrics(result: SetResult) -> dict[str, float]:
    """What the table does not hold: biases, baselines, calibration, distribution."""
    held = {figure.name for figure in result.figures}
    held |= {f"{name}{end}" for name in held for end in ("_low", "_high")}
    held |= {f"category/{name}" for name in held}
    return {name: value for name, value in result.metrics.items() if name not in held}


def scoring_line(result: SetResult) -> str:
    """How the texts were scored and how many of them were cut, in one line; empty where unknown."""
    how = result.scored
    if how is None:
        return ""
    precision = {"32": "float32"}.get(how["precision"], how["precision"])
    return (
        f"scored with template {how['template']}, at most {how['max_length']} tokens, {precision}: "
        f"{_cut(how)}"
    )


def _cut(how: Mapping[str, Any]) -> str:
    within = f", {how['responses_cut']} of them in the response" if how["responses_cut"] else ""
    return f"{how['texts_cut']} of {how['texts']} texts cut{within}"


def cut_warning(how: Mapping[str, Any] | None, reference: bool = False) -> str:
    """What to do about texts that were cut; empty where none was.

    Args:
        how: as :func:`~rmexp.evaluation.scorer.how_scored` has it.
        reference: whether RewardBench's own code scores the set too.
    """
    if how is None or not how["texts_cut"]:
        return ""
    return (
        f"warning: {how['texts_cut']} of {how['texts']} texts are "
        f"longer than {how['max_length']} tokens and were cut; model.max_length=N reads more of "
        f"them{' (the reference reads 2048)' if reference else ''}"
    )


def comparison_table(comparison: Comparison) -> Table:
    """One block a figure, one row a model; published rows last, marked so."""
    table = Table("figure", "model", "estimate", "95% interval", "difference", "rows")
    for name in _figure_names(comparison):
        label = escape_markup(name)
        for model, result in comparison.results.items():
            found = next(figure for figure in result.figures if figure.name == name)
            interval = found.interval()
            change = comparison.differences.get(model, {}).get(name)
            table.add_row(
                label,
                escape_markup(model),
                f"{interval.estimate:.3f}",
                interval.ends,
                "" if change is None else _signed(change),
                _rows(found),
            )
            label = ""
        for model, figures in comparison.published.items():
            if name in figures:
                row = (label, f"{escape_markup(model)} (published)", f"{figures[name]:.3f}")
                table.add_row(*row, "", "", "whole set", style="dim")
        table.add_section()
    return table


def comparison_notes(comparison: Comparison) -> list[str]:
    """What the table's marks mean, and what an accuracy hides, a line each."""
    lines = [
        f"difference: from {comparison.first}, paired over rows, 95% interval; * where it "
        "excludes 0"
    ]
    changes = [d for figures in comparison.differences.values() for d in figures.values()]
    if any(map(all_alike_note, comparison.results.values())) or any(d.unanimous for d in changes):
        lines.append(ALL_ALIKE)
    if comparison.published:
        lines.append(
            "published: figures of the RuleAdapter paper on the whole set, not measured here; a "
            "difference from them has no paired interval"
        )
    for model, result in comparison.results.items():
        shown = [
            f"{name.replace('_', ' ')} {result.metrics[name]:.3f}"
            for name in (
                "accuracy_where_longer_preferred",
                "accuracy_where_shorter_preferred",
                "length_correlation",
                "over_refusal_accuracy",
                "under_refusal_accuracy",
                "style_gap",
                "calibration_error",
            )
            if name in result.metrics
        ]
        lines.append(f"{model}: {', '.join(shown)}")
        if result.scored is not None and result.scored["texts_cut"]:
            lines.append(f"{model}: {_cut(result.scored)}")
    for model, drift in comparison.drift.items():
        numbers = ", ".join(f"{n.replace('_', ' ')} {v:.3f}" for n, v in drift.metrics().items())
        lines.append(f"{model}, scores against {comparison.first}'s: {numbers}")
    return [*lines, *_model_notes(comparison)]


def _model_notes(comparison: Comparison) -> list[str]:
    """How each model read the texts, where they differ in it, and what it has seen in training."""
    lines = [
        f"{model}: template {how['template']}, at most {how['max_length']} tokens, "
        f"precision {how['precision']}"
        for model, how in comparison.read_as.items()
    ]
    forms = list(comparison.read_as.values())
    differing = [key for key in (forms[0] if forms else ()) if len({f[key] for f in forms}) > 1]
    if differing:
        alike = " ".join(f"{key}={forms[0][key]}" for key in differing)
        lines.append(
            f"the models differ in {', '.join(differing)}, which may be part of a difference "
            f"between them; with {alike} all read as {next(iter(comparison.read_as))} does"
        )
    for model, found in comparison.contamination.items():
        lines.append(f"{model}, {contamination_line(found)}")
    return lines


def contamination_line(found: Mapping[str, Any]) -> str:
    """What a model has seen of the set, in one line."""
    if "unknown" in found:
        return f"contamination: unknown: {found['unknown']}"
    return (
        f"contamination: {found['contaminated']} of {found['prompts']} prompts overlap with the "
        f"training prompts, {found['exact']} of them whole"
    )


def comparison_picture(comparison: Comparison) -> str:
    """One HTML page that needs nothing else: figures with intervals, and reliability."""
    notes = comparison_notes(comparison)[1:]
    return _page(comparison.results, comparison.published, notes)


def evaluation_picture(model: str, result: SetResult) -> str:
    """The same of one model."""
    notes = [line for line in (scoring_line(result),) if line]
    notes += [f"{name}: {value:.4g}" for name, value in other_metrics(result).items()]
    return _page({model: result}, PUBLISHED.get(result.of.kind, {}), notes)


def _page(
    results: Mapping[str, SetResult],
    published: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> str:
    first = next(iter(results.values()))
    title = escape(f"{first.of.name}: {', '.join(results)}")
    about = f"<p>Data: {escape(heading(first))}</p>"
    body = _picture(results, published).to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True}
    )
    listed = "".join(f"<li>{escape(line)}</li>" for line in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;"
        "padding:0 1rem;color:#1f2933}h1{font-size:1.4rem}li{overflow-wrap:anywhere}</style>"
        f"</head><body><h1>{title}</h1>{about}{body}<ul>{listed}</ul></body></html>\n"
    )


def _picture(results: Mapping[str, SetResult], published: Mapping[str, Mapping[str, float]]) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    first = next(iter(results.values())).figures
    names = [figure.name for figure in first]
    partial = {figure.name for figure in first if figure.partial}
    figure = make_subplots(
        cols=2,
        column_widths=[0.64, 0.36],
        horizontal_spacing=0.1,
        subplot_titles=("score with 95% interval", "reliability of sigmoid(margin)"),
    )
    rows = [*results, *published]
    # Models side by side around each name's line.
    step = 0.7 / max(1, len(rows))
    offset = {row: (i - (len(rows) - 1) / 2) * step for i, row in enumerate(rows)}
    for number, (model, result) in enumerate(results.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        intervals = {f.name: f.interval() for f in result.figures}
        shown = [n for n in names if n in intervals]
        figure.add_trace(
            go.Scatter(
                name=escape(model),
                legendgroup=model,
                x=[intervals[n].estimate for n in shown],
                y=[names.index(n) + offset[model] for n in shown],
                error_x={
                    "array": [intervals[n].high - intervals[n].estimate for n in shown],
                    "arrayminus": [intervals[n].estimate - intervals[n].low for n in shown],
                },
                customdata=[[n, str(intervals[n])] for n in shown],
                mode="markers",
                marker={
                    "color": colour,
                    "size": 9,
                    "symbol": ["circle-open" if n in partial else "circle" for n in shown],
                },
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra>"
                + escape(model)
                + "</extra>",
            ),
            row=1,
            col=1,
        )
        calibration = result.detail.calibration
        figure.add_trace(
            go.Scatter(
                name=escape(model),
                legendgroup=model,
                showlegend=False,
                x=calibration.confidence,
                y=calibration.accuracy,
                customdata=calibration.count,
                mode="lines+markers",
                marker={"color": colour},
                hovertemplate="said %{x:.2f}, was right %{y:.2f}, %{customdata} pairs<extra>"
                + escape(model)
                + "</extra>",
            ),
            row=1,
            col=2,
        )
    for number, (model, numbers) in enumerate(published.items()):
        shown = [n for n in names if n in numbers]
        figure.add_trace(
            go.Scatter(
                name=f"{escape(model)} (published{', whole set' if partial else ''})",
                x=[numbers[n] for n in shown],
                y=[names.index(n) + offset[model] for n in shown],
                mode="markers",
                marker={
                    "color": _PUBLISHED,
                    "size": 9,
                    "symbol": ("diamond-open", "square-open", "triangle-up-open")[number % 3],
                },
                hovertemplate="%{x:.3f}<extra>" + escape(model) + " (published)</extra>",
            ),
            row=1,
            col=1,
        )
    line = {"color": "#b9bec5", "dash": "dot", "width": 1}
    figure.add_shape(type="line", x0=0.5, y0=0.5, x1=1, y1=1, line=line, row=1, col=2)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[_tick(figure) for figure in first],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        row=1,
        col=1,
    )
    figure.update_xaxes(tickformat=".0%", row=1, col=1)
    figure.update_xaxes(title="confidence", range=[0.48, 1.02], row=1, col=2)
    figure.update_yaxes(title="accuracy", range=[-0.02, 1.02], row=1, col=2)
    figure.update_layout(
        height=max(420, 34 * len(names) * max(1, len(rows)) // 2 + 180),
        template="plotly_white",
        margin={"l": 20, "r": 20, "t": 50, "b": 40},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0},
    )
    return figure


def _figure_names(comparison: Comparison) -> list[str]:
    return [figure.name for figure in comparison.results[comparison.first].figures]


def _tick(figure: Figure) -> str:
    """The name, and below it what the figure lacks: no legend tells a part from the whole."""
    return escape(figure.name) + (f"<br><i>{_rows(figure)}</i>" if figure.partial else "")


def _rows(figure: Figure) -> str:
    if figure.of_published is not None and figure.partial:
        return f"{figure.of_published[0]} of {figure.of_published[1]}, partial"
    return str(figure.rows)


def _signed(change: Interval) -> str:
    clear = " *" if change.low > 0 or change.high < 0 else ""
    alike = ", all alike" if change.unanimous else ""
    return f"{change.estimate:+.3f} ({change.low:+.3f} to {change.high:+.3f}{alike}){clear}"


def escape_markup(text: str) -> str:
    """Text as rich prints it, brackets and all."""
    from rich.markup import escape as escape_rich

    return escape_rich(text)
