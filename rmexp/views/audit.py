"""The audit of a rule set for the eye: tables, and one picture."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from rich.table import Table

from rmexp.labelling.audit import ALIKE_ABOVE, PoolAudit, RuleAudit
from rmexp.rules import RuleSet

_COLOURS = {
    "informative": "#1b7f5c",
    "uninformative": "#b9bec5",
    "against": "#c0392b",
    "unknown": "#8e7cc3",
}
_MEANING = {
    "informative": "AUC interval above 0.5",
    "uninformative": "AUC interval covers 0.5",
    "against": "AUC interval below 0.5",
    "unknown": "no human preference",
}
_ROW = 11  # pixels a rule


def rules_table(audit: PoolAudit) -> Table:
    """One row a rule, by category."""
    table = Table("rule", "category", "critical", "AUC", "AUC where critical", "verdict")
    for rule in _by_category(audit):
        where = (
            "" if rule.auc_critical is None else f"{rule.auc_critical:.2f} ({rule.judged_critical})"
        )
        table.add_row(
            rule.id,
            rule.category,
            f"{rule.critical:.1%}",
            "" if rule.auc is None else str(rule.auc),
            where,
            rule.verdict,
        )
    return table


def categories_table(audit: PoolAudit) -> Table:
    """One row a category of rules."""
    # Pairs without a category, or with others than the rules', have nothing to say there.
    matched = any(category.pairs for category in audit.categories)
    columns = ["pairs", "covered"] if matched else []
    table = Table("category", "rules", "informative", "share of critical", *columns)
    for category in audit.categories:
        covered = "" if category.covered is None else f"{category.covered:.0%}"
        of_pairs = [str(category.pairs) if category.pairs else "", covered]
        table.add_row(
            category.category,
            str(category.rules),
            str(category.informative),
            f"{category.places:.1%}",
            *(of_pairs if matched else []),
        )
    return table


def findings(audit: PoolAudit) -> list[str]:
    """The faults, a line each."""
    alike = [f"{a} ~ {b} ({c:.3f})" for a, b, c in audit.alike]
    lines = [
        f"rules: {len(audit.rules)}; pairs: {audit.pairs}, with a human preference: {audit.judged}",
        f"pairs of rules whose ratings correlate above {ALIKE_ABOVE}: {_counted(alike)}",
        f"rules that never become critical: {_counted(audit.never_critical)}",
    ]
    if audit.judged:
        interval = f"{audit.level:.0%} interval of the AUC"
        lines += [
            f"rules that speak for the human preference ({interval} above 0.5): "
            f"{len(audit.with_verdict('informative'))}",
            f"rules without information about it (covers 0.5): "
            f"{len(audit.with_verdict('uninformative'))}",
            f"rules that speak against it (below 0.5): {_counted(audit.with_verdict('against'))}",
        ]
    if audit.uncovered:
        uncovered = [f"{name} ({n} pairs)" for name, n in audit.uncovered.items()]
        lines.append(f"categories of pairs without rules of their own: {_counted(uncovered)}")
    return lines


def picture(audit: PoolAudit, rules: RuleSet) -> str:
    """One HTML page that needs nothing else: correlation map and share of critical pairs."""
    title = f"Rule set {escape(rules.name)} on {audit.pairs} pairs"
    body = _figure(audit, rules).to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True}
    )
    notes = "".join(f"<li>{escape(line)}</li>" for line in findings(audit))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1500px;"
        "padding:0 1rem;color:#1f2933}h1{font-size:1.4rem}li{overflow-wrap:anywhere}</style>"
        f"</head><body><h1>{title}</h1><ul>{notes}</ul>{body}</body></html>\n"
    )


def _figure(audit: PoolAudit, rules: RuleSet) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    ordered = _by_category(audit)
    place = {rule.id: i for i, rule in enumerate(audit.rules)}
    order = [place[rule.id] for rule in ordered]
    ids = [rule.id for rule in ordered]
    sentence = {rule.id: rule.sentence for rule in rules}
    height = max(360, _ROW * len(ids)) + 190
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        column_widths=[0.66, 0.34],
        horizontal_spacing=0.02,
        subplot_titles=("correlation of ratings", "share of pairs in which the rule is critical"),
    )
    figure.add_trace(
        go.Heatmap(
            z=np.round(audit.correlation[np.ix_(order, order)], 3),
            x=ids,
            y=ids,
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            colorbar={
                "orientation": "h",
                "y": -0.02,
                "yanchor": "top",
                "x": 0.0,
                "xanchor": "left",
                "len": 0.4,
                "thickness": 12,
            },
            hovertemplate="%{x}<br>%{y}<br>%{z:.2f}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    for verdict, colour in _COLOURS.items():
        shown = [rule for rule in ordered if rule.verdict == verdict]
        if not shown:
            continue
        figure.add_trace(
            go.Bar(
                name=f"{_MEANING[verdict]} ({len(shown)})",
                x=[rule.critical for rule in shown],
                y=[rule.id for rule in shown],
                customdata=[[escape(sentence[r.id]), _auc_text(r)] for r in shown],
                orientation="h",
                marker_color=colour,
                hovertemplate="%{y}<br>%{customdata[0]}<br>critical in %{x:.1%}, AUC "
                "%{customdata[1]}<extra></extra>",
            ),
            row=1,
            col=2,
        )
    _mark_categories(figure, ordered)
    figure.update_yaxes(categoryorder="array", categoryarray=ids, autorange="reversed")
    figure.update_yaxes(showticklabels=False, row=1, col=2)
    figure.update_xaxes(showticklabels=False, row=1, col=1)
    figure.update_xaxes(tickformat=".0%", gridcolor="#e4e7eb", row=1, col=2)
    figure.update_layout(
        height=height,
        template="plotly_white",
        margin={"l": 150, "r": 20, "t": 60, "b": 110},
        bargap=0.15,
        barmode="overlay",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.03, "yanchor": "top"},
    )
    return figure


def _mark_categories(figure: Any, ordered: list[RuleAudit]) -> None:
    """Name each category at its first axis, and draw lines between them."""
    starts = [
        i for i, rule in enumerate(ordered) if i == 0 or rule.category != ordered[i - 1].category
    ]
    ends = [*starts[1:], len(ordered)]
    for start in starts[1:]:
        line = {"color": "#52606d", "width": 0.6}
        figure.add_hline(y=start - 0.5, line=line)
        figure.add_vline(x=start - 0.5, line=line, row=1, col=1)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    figure.update_yaxes(
        tickmode="array",
        tickvals=middles,
        ticktext=[ordered[start].category.replace("_", " ") for start in starts],
        row=1,
        col=1,
    )


def _by_category(audit: PoolAudit) -> list[RuleAudit]:
    return sorted(audit.rules, key=lambda rule: rule.category)


def _auc_text(rule: RuleAudit) -> str:
    return "unknown" if rule.auc is None else str(rule.auc)


def _counted(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "0"
