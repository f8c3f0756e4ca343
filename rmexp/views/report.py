"""`rmexp report`: one HTML file about a study that opens without a network."""

from __future__ import annotations

import datetime
from html import escape
from typing import Any

import optuna
import yaml

from rmexp.evaluation.headline import headline
from rmexp.sweep.confirm import Confirmation, read_confirmation
from rmexp.sweep.study import StudyFolder
from rmexp.views.figures import study_pictures
from rmexp.views.html import Raw, card, drawn, folded, page, picture_card, short, table, tile
from rmexp.views.study_view import StudyView, TrialView, stored_test, view_study

_WIDE = {"parallel"}


def study_report(
    study: optuna.Study,
    folder: StudyFolder,
    *,
    plotly: str | None = None,
    navigation: str = "",
    trial_link: str | None = None,
) -> str:
    """The report as one HTML page.

    Args:
        study: read as it stands; it may be running.
        folder: of the study.
        plotly: address of plotly.js; None puts the library into the page.
        navigation: HTML above the heading.
        trial_link: address of a trial's page, with ``{}`` for its number.
    """
    view = view_study(study, folder)
    pictures = study_pictures(study, view)
    confirmation = read_confirmation(folder)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    links = [("best", "best trial")] if len(view.objectives) == 1 and view.best else []
    links += [(p.id, p.title) for p in pictures]
    links += [("confirmation", "confirmation")] if confirmation else []
    links += [("failures", "failures"), ("trials", "all trials")]
    body = [
        f"<header>{navigation}<h1>Study {escape(view.name)}</h1>",
        f'<p class="soft">{escape(_summary(view))}; as of {escape(now)}</p></header>',
        "<nav>" + "".join(f'<a href="#{i}">{escape(t)}</a>' for i, t in links) + "</nav>",
        f"<main>{_tiles(view)}<div class='grid'>",
        *[_best_card(view.trial(n), view, trial_link) for n in view.best[:5]],
        _confirmation_card(confirmation) if confirmation else "",
        *[picture_card(p, wide=p.id in _WIDE) for p in pictures],
        _failures_card(view, trial_link),
        _trials_card(view, trial_link),
        "</div></main>",
    ]
    data = {
        "study": view.name,
        "objectives": view.objectives,
        "maximize": view.maximize,
        "counts": view.counts(),
        "best": view.best,
        "trials": [t.to_plain() for t in view.trials],
        "confirmation": confirmation.to_plain() if confirmation else None,
    }
    return page(
        f"rmexp: {view.name}",
        "\n".join(body),
        figures=drawn(pictures),
        data=data,
        plotly=plotly,
    )


def _summary(view: StudyView) -> str:
    aims = [
        f"{'maximise' if up else 'minimise'} {name}"
        for name, up in zip(view.objectives, view.maximize, strict=True)
    ]
    target = "" if view.target is None else f", target {view.target} finished trials"
    return f"{' and '.join(aims)} over {', '.join(view.keys) or 'nothing'}{target}"


def _tiles(view: StudyView) -> str:
    tiles = [
        tile(count, state, state)
        for state, count in view.counts().items()
        if count or state in ("complete", "pruned", "failed")
    ]
    if len(view.objectives) == 1 and view.best:
        best = view.trial(view.best[0])
        tiles.append(tile(f"{best.values[0]:.4f}", f"best {view.objectives[0]}, validation"))
        test = stored_test(best)
        if test is not None:
            tiles.append(tile(f"{test['metrics']['accuracy']:.3f}", "its accuracy on test pairs"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _best_card(trial: TrialView, view: StudyView, link: str | None) -> str:
    front = len(view.objectives) > 1
    rows = [(k, v) for k, v in trial.params.items()]
    values = ", ".join(f"{n} {v:.4f}" for n, v in zip(view.objectives, trial.values, strict=True))
    parts = [
        f"<p>Trial {_trial_name(trial.number, link)}: {escape(values)} on the validation pairs "
        "(chosen by it, so optimistic).</p>",
        _test_text(stored_test(trial)),
        table(["key", "value"], rows, numeric=[1]),
    ]
    record = trial.record()
    if record is not None:
        text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
        parts.append(folded("whole config", text))
    title = f"on the Pareto front: trial {trial.number}" if front else "best trial"
    return card(title, "".join(parts), id=f"front-{trial.number}" if front else "best")


def _test_text(test: dict[str, Any] | None) -> str:
    if test is None:
        return '<p class="soft">Test accuracy: not measured yet (rmexp best measures it).</p>'
    lines = headline(test["metrics"], "Test", "pairs the search never saw")
    return f"<p>{'; '.join(map(escape, lines))}.</p>"


def _confirmation_card(confirmation: Confirmation) -> str:
    rows = [
        [
            f"{place}",
            f"{c.number}",
            f"{c.accuracy.estimate:.3f}",
            c.accuracy.ends,
            "" if c.behind is None else str(c.behind),
            "" if c.wilcoxon is None else f"{c.wilcoxon:.3f}",
            c.verdict,
        ]
        for place, c in enumerate(confirmation.ranking, 1)
    ]
    columns = ["place", "trial", "mean test accuracy", "95% interval", "behind the first"]
    columns += ["Wilcoxon p", ""]
    note = (
        f"{len(confirmation.seeds)} fresh seeds ({', '.join(map(str, confirmation.seeds))}), "
        f"{confirmation.pairs} test pairs the search never used; intervals are over other "
        "pairs and other seeds together. Wilcoxon p: signed-rank test over the seeds, from six on."
    )
    return card(
        "confirmation", table(columns, rows, numeric=[0, 1, 2]), id="confirmation", note=note
    )


def _failures_card(view: StudyView, link: str | None) -> str:
    failed = view.of_state("failed")
    if not failed:
        return card("failures", "<p>No trial failed.</p>", id="failures", wide=True)
    rows = []
    for trial in failed:
        record = trial.record()
        reason = escape(trial.reason or "no reason was stored")
        if record is not None and record.traceback:
            reason += folded("traceback", record.traceback)
        params = ", ".join(f"{k}={short(v)}" for k, v in trial.params.items())
        rows.append([Raw(_trial_name(trial.number, link)), Raw(reason), params, trial.seconds])
    content = table(["trial", "reason", "parameters", "seconds"], rows, numeric=[3])
    return card("failures", content, id="failures", wide=True)


def _trials_card(view: StudyView, link: str | None) -> str:
    keys = view.keys
    rows = [
        [
            Raw(_trial_name(t.number, link)),
            Raw(f'<span class="{t.state}">{t.state}</span>'),
            *([f"{v:.4f}" for v in t.values] or [""] * len(view.objectives)),
            *[t.params.get(k) for k in keys],
            t.seconds,
            t.reason if t.duplicate_of is None else f"repeats trial {t.duplicate_of}",
        ]
        for t in view.trials
    ]
    columns = ["trial", "state", *view.objectives, *keys, "seconds", ""]
    first = 2
    numeric = [0, *range(first, first + len(view.objectives) + len(keys) + 1)]
    return card("all trials", table(columns, rows, numeric), id="trials", wide=True)


def _trial_name(number: int, link: str | None) -> str:
    return str(number) if link is None else f'<a href="{escape(link.format(number))}">{number}</a>'
