"""Commands about the Rule Adapter: adapter train, adapter check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmexp.cli.composed import run_composed
from rmexp.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rmexp.trial.adapter import AdapterReport


def adapter(words: list[str]) -> None:
    """Train a Rule Adapter, or check one on prompts never seen."""
    tasks = {"train": _train, "check": _check}
    if words[:1] not in ([name] for name in tasks):
        raise UserError("adapter: use 'rmexp adapter train out=FOLDER' or 'rmexp adapter check'")
    run_composed("adapter", words[1:], tasks[words[0]])


def _train(config: DictConfig) -> None:
    from rmexp.cli.progress import rating_progress
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.adapter import AdapterConfig, train
    from rmexp.trial.schema import checked

    options = checked(AdapterConfig, plain_config(config))
    with rating_progress() as progress:
        text, report = train(options, progress)
    print(text)
    _print(report)
    print(f"adapter: {options.out} (use it: selection=adapter selection.path={options.out})")


def _check(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.adapter import AdapterConfig, check
    from rmexp.trial.schema import checked

    _print(check(checked(AdapterConfig, plain_config(config))))


def _print(report: AdapterReport) -> None:
    from rich.table import Table

    from rmexp.sweep.console import console
    from rmexp.trial.adapter import MEASURES

    titles = (f"precision@{report.r}", "Jaccard", "top rule found", "same label")
    table = Table("who chooses", *titles)
    for who, measures in report.quality.items():
        table.add_row(who, *(str(measures[m]) for m in MEASURES))
    for who, measures in report.gain.items():
        table.add_row(f"adapter minus {who}", *(str(measures[m]) for m in MEASURES))
    out = console()
    out.print(table)
    out.print(
        f"{report.pairs} pairs of part {report.part}, 95% intervals over prompts; left out: "
        f"{report.seen} of prompts trained on, {report.unrated} not fully rated",
        markup=False,
    )
