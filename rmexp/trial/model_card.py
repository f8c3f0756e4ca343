"""What a trained model's card says about the trial that made it."""

from __future__ import annotations

from pathlib import Path

from rmexp.evaluation.headline import headline
from rmexp.reward.model import CARD, HOW_IT_WAS_MADE
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrialConfig


def add_to_card(record: TrialRecord, model: Path) -> None:
    """Append study, data, rules, rater, gamma, r and the scores to the model's card.

    Args:
        record: of a trial that trained the model.
        model: folder that :meth:`~rmexp.reward.model.RewardModel.save` wrote.
    """
    path = model / CARD
    written = path.read_text(encoding="utf-8").partition(f"\n{HOW_IT_WAS_MADE}\n")[0]
    text = "\n".join([HOW_IT_WAS_MADE, "", *_lines(record), ""])
    path.write_text(f"{written}\n{text}", encoding="utf-8")


def _seed(config: TrialConfig) -> str:
    if not config.seeds:
        return f"seed {config.seed}"
    named = ", ".join(map(str, config.seeds))
    return f"seed {config.seeds[0]} of the seeds {named}, over which the numbers below are means"


def _lines(record: TrialRecord) -> list[str]:
    config, metrics = record.trial_config, record.metrics
    data, identity = config.data, record.identity
    trial = "a single run"
    if identity.study is not None:
        kind = "" if identity.job_type == "trial" else f" ({identity.job_type})"
        trial = f"study `{identity.study}`, trial {identity.number}{kind}"
    source = data.name or data.path or data.source
    rater = record.fingerprints.get("rater", {}).get("kind", config.rater.kind)
    rules = config.rules.name if config.rules.path is None else config.rules.path
    lines = [
        f"- Trial: {trial}, {record.times.get('started', '')}, {_seed(config)}.",
        f"- Data: `{source}`, {metrics.get('train/pairs', 0):.0f} training pairs.",
        f"- Rules: `{rules}`; rated by `{rater}`; selection `{config.selection.strategy}`, "
        f"r = {config.r}, gamma = {config.gamma:g}. The labels are the rules', not people's.",
        f"- Training: learning rate {config.learning_rate:g}, {config.epochs} epochs, "
        f"peft `{config.peft.kind}`.",
    ]
    agreement = metrics.get("labels/agreement_with_human")
    if agreement is not None:
        lines.append(f"- The labels agree with the human preference in {agreement:.3f} of pairs.")
    for part in ("validation", "test"):
        own = {
            name.removeprefix(f"{part}/"): value
            for name, value in metrics.items()
            if name.startswith(f"{part}/")
        }
        if "accuracy" in own:
            lines += [f"- {line[0].upper()}{line[1:]}." for line in headline(own, part)]
    if "test/accuracy" not in metrics:
        lines.append(
            "- The search saw the validation pairs; what it is worth on others, `rmexp best` says."
        )
    return lines
