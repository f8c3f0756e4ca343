"""A trial's page, and two trials side by side."""

from __future__ import annotations

from html import escape
from typing import Any

import yaml

from rmexp.tracking.tracker import flatten
from rmexp.trial.record import TrialRecord
from rmexp.views.figures import Picture, trial_curves
from rmexp.views.html import card, drawn, page, picture_card, preformatted, table
from rmexp.views.study_view import StudyView, TrialView

_LOG_BYTES = 40_000
_RULES_NOTE = (
    "Over all training pairs: in how many a rule is critical, how far it tells the two responses "
    "apart there, and how often it speaks for the side that the label prefers."
)


def trial_page(view: StudyView, number: int, *, base: str, plotly: str | None) -> str:
    """Everything about one trial: result, config, curves, labels, log.

    Raises:
        UserError: the study has no trial of that number.
    """
    trial = view.trial(number)
    record = trial.record()
    curves = _curves(trial, record)
    body = [
        f'<header><a href="{escape(base)}">study {escape(view.name)}</a>'
        f"<h1>Trial {number} of {escape(view.name)}</h1>",
        f'<p><span class="{trial.state}">{trial.state}</span> {escape(trial.reason)}</p></header>',
        _neighbours(view, number, base),
        "<main class='grid'>",
        card("parameters", table(["key", "value"], list(trial.params.items()), [1]), id="params"),
        picture_card(curves),
        card("critical rules", _sample(record, "critical_rules"), id="rules", note=_RULES_NOTE),
        card("metrics", _metrics(trial), id="metrics"),
        card("labelled pairs", _sample(record, "labelled_pairs"), id="pairs", wide=True),
        card(
            "wrongly ranked validation pairs",
            _sample(record, "wrongly_ranked"),
            id="wrong",
            note="Those that the model ranks against people, the clearest first.",
            wide=True,
        ),
        card("config", _config(record), id="config"),
        card("log", _log(trial, record), id="log"),
        "</main>",
    ]
    title = f"rmexp: {view.name}, trial {number}"
    return page(title, "\n".join(body), figures=drawn([curves]), plotly=plotly)


def comparison_page(view: StudyView, numbers: list[int], *, base: str, plotly: str | None) -> str:
    """What differs between two trials; without two numbers, a form to choose them."""
    chosen = [view.trial(n) for n in numbers]
    boxes = []
    for name, at in (("a", 0), ("b", 1)):
        options = "".join(
            f"<option{' selected' if at < len(chosen) and chosen[at].number == t.number else ''}>"
            f"{t.number}</option>"
            for t in view.trials
        )
        boxes.append(f'<label>trial <select name="{name}">{options}</select></label> ')
    body = [
        f'<header><a href="{escape(base)}">study {escape(view.name)}</a>',
        f"<h1>Two trials of {escape(view.name)}</h1></header>",
        f"<form>{''.join(boxes)}<button>compare</button></form>",
    ]
    pictures = []
    if len(chosen) == 2:
        records = [t.record() for t in chosen]
        configs = [
            flatten(r.config) if r is not None else dict(t.params)
            for t, r in zip(chosen, records, strict=True)
        ]
        pictures = [
            Picture(f"curves-{i}", f"trial {t.number}: curves", _curves(t, r).figure)
            for i, (t, r) in enumerate(zip(chosen, records, strict=True))
        ]
        columns = ["", *[f"trial {t.number}" for t in chosen]]
        body += [
            "<main class='grid'>",
            card("config, where it differs", table(columns, _differing(*configs), [1, 2])),
            card(
                "metrics, where they differ",
                table(columns, _differing(*[dict(t.metrics) for t in chosen]), [1, 2]),
            ),
            *[picture_card(p) for p in pictures],
            "</main>",
        ]
    return page(
        f"rmexp: {view.name}, two trials", "\n".join(body), figures=drawn(pictures), plotly=plotly
    )


def _differing(first: dict[str, Any], second: dict[str, Any]) -> list[list[Any]]:
    keys = dict.fromkeys([*first, *second])
    return [
        [key, first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)
    ]


def _neighbours(view: StudyView, number: int, base: str) -> str:
    links = [
        f'<a href="{escape(base)}/trial/{n}">{word} trial {n}</a>'
        for word, n in (("previous", number - 1), ("next", number + 1))
        if any(t.number == n for t in view.trials)
    ]
    if view.best and view.best[0] != number:
        links.append(
            f'<a href="{escape(base)}/compare?a={number}&amp;b={view.best[0]}">compare with the '
            f"best, trial {view.best[0]}</a>"
        )
    return f"<nav>{''.join(links)}</nav>"


def _curves(trial: TrialView, record: TrialRecord | None) -> Picture:
    history = record.history if record is not None else []
    if not history:
        history = [{"epoch": e, "objective": v} for e, v in trial.curve.items()]
    figure = trial_curves(history)
    note = "" if figure is None else "A click in the legend shows or hides a metric."
    return Picture("curves", "curves", figure, note or "no epoch has ended")


def _metrics(trial: TrialView) -> str:
    if not trial.metrics:
        return "<p>None yet.</p>"
    return table(["metric", "value"], sorted(trial.metrics.items()), [1])


def _config(record: TrialRecord | None) -> str:
    if record is None:
        return "<p>Stored when the trial ends.</p>"
    text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    return preformatted(text)


def _sample(record: TrialRecord | None, name: str) -> str:
    stored = record.report.get(name) if record is not None else None
    if not stored:
        return "<p>Nothing is stored for this trial.</p>"
    columns, rows = stored["columns"], stored["rows"]
    if not rows:
        return "<p>None.</p>"
    numbers = [i for i, value in enumerate(rows[0]) if isinstance(value, (int, float))]
    return table(columns, rows, numbers)


def _log(trial: TrialView, record: TrialRecord | None) -> str:
    text = ""
    if trial.directory is not None and (trial.directory / "log.txt").exists():
        with (trial.directory / "log.txt").open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _LOG_BYTES))
            text = stream.read().decode("utf-8", "replace")
    if record is not None and record.traceback:
        text += f"\n{record.traceback}"
    return preformatted(text) if text.strip() else "<p>Empty.</p>"
