from __future__ import annotations

from pathlib import Path

import pytest
from wandb_files import run_of

from rmexp.tracking import RunInfo
from rmexp.tracking.tracker import flatten
from rmexp.tracking.wandb_run import WandbTracker, _resolved_mode


def _info(directory: Path, run_id: str) -> RunInfo:
    return RunInfo(
        id=run_id,
        name=run_id,
        group="study",
        job_type="trial",
        config={"gamma": 1.0, "data": {"source": "starter", "limit": None}},
        directory=directory,
        tags=("mine",),
    )


def _run(directory: Path, run_id: str, state: str, reason: str = "") -> dict:
    tracker = WandbTracker(_info(directory, run_id), project="p", entity=None, mode="offline")
    tracker.log({"validation/accuracy": 0.5}, step_metric="epoch", step=1)
    tracker.log({"validation/accuracy": 0.75}, step_metric="epoch", step=2)
    tracker.table("pairs", ["a", "b"], [[1, "x"]])
    tracker.finish(state, reason, {"objective": 0.75})
    return run_of(directory)


def test_a_run_is_written_offline_with_its_identity(tmp_path: Path) -> None:
    run = _run(tmp_path, "study-trial-3-0", "complete")
    assert run["id"] == "study-trial-3-0"
    assert run["group"] == "study"
    assert run["job_type"] == "trial"
    assert run["config"]["gamma"] == 1.0
    assert run["config"]["data.source"] == "starter"
    assert [row["validation/accuracy"] for row in run["history"] if "epoch" in row] == [0.5, 0.75]
    assert run["summary"]["state"] == "complete"
    assert run["summary"]["objective"] == 0.75
    assert "state:complete" in run["tags"]
    assert run["exit_code"] == 0


@pytest.mark.parametrize(("state", "code"), [("pruned", 0), ("failed", 1)])
def test_the_state_is_told_as_it_is(tmp_path: Path, state: str, code: int) -> None:
    run = _run(tmp_path, f"run-{state}", state, "for a reason")
    assert run["exit_code"] == code
    assert run["summary"]["state"] == state
    assert run["summary"]["reason"] == "for a reason"
    assert f"state:{state}" in run["tags"]


def test_two_trials_of_one_process_are_two_runs(tmp_path: Path) -> None:
    first = WandbTracker(_info(tmp_path / "1", "one"), project="p", entity=None, mode="offline")
    second = WandbTracker(_info(tmp_path / "2", "two"), project="p", entity=None, mode="offline")
    first.log({"validation/x": 1.0}, step_metric="epoch", step=1)
    second.log({"validation/x": 2.0}, step_metric="epoch", step=1)
    second.finish("complete", "", {})
    first.finish("complete", "", {})
    for folder, value in (("1", 1.0), ("2", 2.0)):
        rows = [r for r in run_of(tmp_path / folder)["history"] if "validation/x" in r]
        assert [row["validation/x"] for row in rows] == [value]


def test_a_run_lies_where_this_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service that writes the files may have been started in another directory."""
    monkeypatch.chdir(tmp_path)
    first = WandbTracker(_info(Path("a"), "one"), project="p", entity=None, mode="offline")
    first.finish("complete", "", {})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    second = WandbTracker(_info(Path("b"), "two"), project="p", entity=None, mode="offline")
    second.finish("complete", "", {})
    assert run_of(elsewhere / "b")["id"] == "two"


def test_a_nested_config_becomes_one_level() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": []}) == {"a.b.c": 1, "d": []}


@pytest.mark.parametrize(("netrc", "mode"), [("", "offline"), ("machine {host}", "online")])
def test_the_mode_follows_the_login_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netrc: str, mode: str
) -> None:
    """On a terminal wandb would ask for a key, and a sweep would wait for the answer."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    host = wandb.setup().settings.base_url.split("//")[1]
    path = tmp_path / "netrc"
    path.write_text(netrc.format(host=host) + (f" login user password {'k' * 40}" if netrc else ""))
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.setattr("wandb.sdk.lib.wbauth.auth.prompt", None, raising=False)
    monkeypatch.setattr("sys.stdin", None)
    assert _resolved_mode("auto") == mode
