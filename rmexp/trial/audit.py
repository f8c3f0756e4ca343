"""The command `rules audit`: a rule set's faults on some pairs by some rater."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.rules import load_rule_set
from rmexp.trial.schema import LabellingConfig, RulesConfig, checked

if TYPE_CHECKING:
    from rmexp.labelling.audit import PoolAudit
    from rmexp.rules import RuleSet


class AuditConfig(LabellingConfig):
    """What is audited, and where the findings go."""

    part: Literal["train", "validation", "test", "all"] = Field(
        "train", description="which part of the split; rules mended by it have seen that part"
    )
    out: str | None = Field(None, description="a .json file for the findings")
    picture: str | None = Field(None, description="an .html file for the picture")

    @model_validator(mode="before")
    @classmethod
    def _r_fits_the_rules(cls, plain: Any) -> Any:
        """Where ``r`` is null it is the default, or every rule of a smaller set."""
        if not isinstance(plain, dict) or plain.get("r", 0) is not None:
            return plain
        of = checked(RulesConfig, plain.get("rules", {}), "rules")
        default = int(cls.model_fields["r"].default)
        return {**plain, "r": min(default, len(load_rule_set(of.name, of.path, of.ids)))}

    @model_validator(mode="after")
    def _every_rule_is_rated(self) -> AuditConfig:
        if self.selection.strategy == "adapter":
            raise ValueError("selection: an audit needs the ratings of every rule; use adaptive")
        return self


def audit(
    config: AuditConfig, progress: Callable[[int, int], None] | None = None
) -> tuple[str, RuleSet, PoolAudit]:
    """Read, rate, select, and audit; writes the findings to ``config.out``.

    Args:
        config: of the command.
        progress: called with (ratings done, ratings wanted).

    Returns:
        What was read and dropped, as text; the rules; the audit.

    Raises:
        UserError: naming what cannot be used, before anything is rated where that can be told.
    """
    from rmexp.labelling.audit import audit_rules
    from rmexp.trial import assembly, reading
    from rmexp.trial.labelled import label, part_of, rate
    from rmexp.trial.record import write_json

    assembly.check_before_anything_heavy(config)
    for key, path in (("out", config.out), ("picture", config.picture)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise UserError(f"{key}: no folder {Path(path).absolute().parent} to write into")
    rules = assembly.rule_set(config)
    data = reading.read_pairs(config.data)
    pairs = part_of(data, config.data, config.part)
    labelled = label(config, rate(config, pairs, rules, progress, every_rule=True))
    rated = labelled.rated
    result = audit_rules(
        rules, rated.pairs, rated.ratings.psi_a, rated.ratings.psi_b, labelled.critical
    )
    if config.out is not None:
        write_json(
            Path(config.out),
            {
                "rules_name": rules.name,
                "part": config.part,
                "gamma": config.gamma,
                "r": config.r,
                "rater": str(rated.rater),
                "data": data.report.to_plain(),
                **result.to_plain(),
            },
        )
    return "\n".join(filter(None, [str(data.report), labelled.left_out])), rules, result
