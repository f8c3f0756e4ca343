"""A trial for the terminal: what was read, the accuracy beside its baselines, the rest by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rmexp.evaluation.headline import headline
from rmexp.preferences.report import ReadReport
from rmexp.trial.record import TrialRecord
from rmexp.trial.seeds import seed_lines

# What the first lines say already.
_TOLD = (
    "accuracy",
    "pairs",
    "baseline_longer",
    "baseline_shorter",
    "baseline_majority",
    "over_length_baseline",
)
_LABELS = ("labels/kept", "labels/dropped_ties", "labels/agreement_with_human")


def trial_lines(record: TrialRecord) -> list[str]:
    """The lines that ``rmexp train`` ends with, but for where the record lies."""
    lines = [*_reading(record.report), *_labels(record.metrics), *_contamination(record.report)]
    told = {*_LABELS, *(name for name in record.metrics if name.startswith("contamination/"))}
    for part in ("validation", "test"):
        own = _below(record.metrics, f"{part}/")
        if "accuracy" in own:
            lines += ["", *headline(own, part)]
            ends = ("", "_low", "_high")
            told |= {f"{part}/{name}{end}" for name in _TOLD for end in ends}
    rest = {name: value for name, value in record.metrics.items() if name not in told}
    for group in sorted({name.partition("/")[0] for name in rest}):
        lines += ["", f"{group}:"]
        lines += [f"  {n:38s} {text}" for n, text in metric_rows(_below(rest, f"{group}/"))]
    lines += _drift(record.report)
    if record.objective is None:
        return [*lines, "", "nothing was measured: no pair outside training has a preference"]
    formula = record.config["evaluation"]["objective"]
    return [*lines, "", f"objective {formula} = {record.objective}", *seed_lines(record)]


def metric_rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Names in order with their values, the ends of an interval beside what it is of.

    >>> list(metric_rows({"b": 2.0, "a": 0.5, "a_low": 0.25, "a_high": 0.75}))
    [('a', '0.5 (95% interval 0.25 to 0.75)'), ('b', '2')]
    """
    whole = {n for n in metrics if {f"{n}_low", f"{n}_high"} <= metrics.keys()}
    ends = {f"{name}{end}" for name in whole for end in ("_low", "_high")}
    for name in sorted(metrics.keys() - ends):
        text = f"{metrics[name]:.6g}"
        if name in whole:
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            text += f" (95% interval {low:.6g} to {high:.6g})"
        yield name, text


def _reading(report: Mapping[str, Any]) -> list[str]:
    lines = [str(ReadReport(**report["data"]))] if "data" in report else []
    if "split" in report:
        split = report["split"]
        parts = ", ".join(f"{part} {split[part]}" for part in ("train", "validation", "test"))
        lines.append(f"split by prompt: {parts}")
    return lines


def _labels(metrics: Mapping[str, float]) -> list[str]:
    if "labels/kept" not in metrics:
        return []
    ties = metrics.get("labels/dropped_ties", 0)
    agreement = metrics.get("labels/agreement_with_human")
    text = f"labels: {metrics['labels/kept']:.0f} training pairs"
    text += f", {ties:.0f} ties dropped" if ties else ""
    unrated = metrics.get("labels/dropped_unrated", 0)
    text += f", {unrated:.0f} not rated enough" if unrated else ""
    if agreement is not None:
        text += f", agreement with the human preference {agreement:.3f}"
    return [text]


def _contamination(report: Mapping[str, Any]) -> list[str]:
    """What a count of contaminated prompts means; sets without any are not named."""
    lines = []
    for name, found in report.get("contamination", {}).items():
        if found["contaminated"]:
            lines.append(
                f"contamination: {found['contaminated']} of {found['prompts']} {name} prompts "
                f"share {found['threshold']:.0%} or more of their words with a training prompt, in "
                f"runs of {found['n_gram']} ({found['exact']} word for word); "
                "record.json names them"
            )
    return lines


def _drift(report: Mapping[str, Any]) -> list[str]:
    """How scores have moved, a line for each set."""
    lines = []
    for key, than in (
        ("drift_between_epochs", "by the epoch before"),
        ("drift", "by the model before training"),
    ):
        for name, numbers in report.get(key, {}).items():
            shown = ", ".join(f"{n.replace('_', ' ')} {v:.3f}" for n, v in numbers.items())
            lines.append(f"{name} scores against those {than}: {shown}")
    return ["", *lines] if lines else []


def _below(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}
