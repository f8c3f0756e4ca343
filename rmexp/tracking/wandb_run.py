"""A run at Weights & Biases: offline unless the user is logged in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import wandb

from rmexp.tracking.tracker import RunInfo, flatten

# Metrics of one axis share a prefix, so that W&B draws each over the step that it belongs to.
_AXES = {
    "epoch": ("train/*", "validation/*"),
    "ratings/done": ("ratings/seconds", "ratings/wanted"),
}


class WandbTracker:
    """One W&B run of one trial.

    Args:
        info: identity, group and flat config of the run.
        project: the W&B project.
        entity: user or team; None for the default.
        mode: ``online``, ``offline``, or ``auto``: online where a login is found, else offline.
    """

    def __init__(self, info: RunInfo, *, project: str, entity: str | None, mode: str) -> None:
        info.directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            id=info.id,
            name=info.name,
            group=info.group,
            job_type=info.job_type,
            project=project,
            entity=entity,
            config=flatten(info.config),
            tags=[*info.tags, info.job_type],
            # wandb's service outlives a run and keeps its own working directory.
            dir=str(info.directory.absolute()),
            mode=cast(Any, _resolved_mode(mode)),
            resume="allow",
            # A second init in one process returns the first run unless told otherwise (trap 26).
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        for axis, patterns in _AXES.items():
            self._run.define_metric(axis, hidden=True)
            for pattern in patterns:
                self._run.define_metric(pattern, step_metric=axis)

    def log(self, metrics: Mapping[str, float], *, step_metric: str, step: float) -> None:
        """Log metrics over the given axis."""
        self._run.log({step_metric: step, **metrics})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def artifact(self, artifact: wandb.Artifact, aliases: Sequence[str]) -> None:
        """Attach files to the run under some aliases."""
        self._run.log_artifact(artifact, aliases=list(aliases))

    def finish(self, state: str, reason: str, summary: Mapping[str, Any]) -> None:
        """Close the run; W&B has no pruned state, so summary and tags carry it (trap 32)."""
        self._run.summary.update({**summary, "state": state, "reason": reason})
        self._run.tags = (*(self._run.tags or ()), f"state:{state}")
        self._run.finish(exit_code=1 if state == "failed" else 0)


def _resolved_mode(mode: str) -> str:
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    return "online" if _logged_in() else "offline"


def _logged_in() -> bool:
    """Whether W&B knows a login, without asking for one as ``wandb.Api`` does on a terminal."""
    from wandb.sdk.lib import wbauth

    try:
        found = wbauth.authenticate_session(
            host=wandb.setup().settings.base_url,
            source="rmexp",
            prompt=False,
            update_session=False,
        )
    except wandb.errors.Error:  # a key of a wrong form
        return False
    return found is not None
