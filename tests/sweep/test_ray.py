"""Trials as Ray tasks, on Ray's own cluster of two nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_trials
import pytest
from cluster_jobs import GRID, is_alive, job_of, until
from sweep_doubles import controller_of

from rmexp.errors import UserError
from rmexp.sweep.cluster import ClusterExecutor
from rmexp.sweep.schema import RayExecutorConfig
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrainerConfig


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="executor=ray needs the package ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def ray_executor(run: Callable[..., Any], **options: Any) -> ClusterExecutor:
    from rmexp.sweep.ray_cluster import RayCluster

    cluster = RayCluster(RayExecutorConfig(kind="ray", **options), TrainerConfig())
    return ClusterExecutor(cluster, threads=1, grace=0.5, run=run)


class KillsANode(ClusterExecutor):
    """Once both nodes hold a trial, the one that is not the head's dies."""

    trials: Path
    nodes: Any

    def wait(self, on_report: Any, timeout: float) -> Any:
        held = [p for p in self.trials.glob("*/held") if p.read_text()]
        if len(held) == 2 and self.nodes.worker_nodes:
            (node,) = self.nodes.worker_nodes
            self.nodes.remove_node(node, allow_graceful=False)
        elif len(held) == 2 and any(not is_alive(int(p.read_text())) for p in held):
            (self.trials / "go").touch()
        return super().wait(on_report, min(timeout, 0.3))


@pytest.mark.slow
def test_a_killed_node_of_ray_loses_only_its_own_trial(tmp_path: Path, two_nodes: Any) -> None:
    executor = ray_executor(cluster_trials.held_trial)
    assert executor.slots == 2
    executor.__class__ = KillsANode
    executor.trials, executor.nodes = tmp_path / "studies/s/trials", two_nodes
    controller, study, _ = controller_of(
        tmp_path, executor, trials=4, sampler={"kind": "grid"}, space=GRID
    )
    controller.run()
    trials = study.get_trials()
    done = [t.params["gamma"] for t in trials if t.state.name == "COMPLETE"]
    assert sorted(done) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    (lost,) = [t for t in trials if t.state.name == "FAIL"]
    assert lost.user_attrs["failure"] == "lost_worker"
    assert "Node" in lost.user_attrs["reason"]


@pytest.mark.slow
def test_ray_stops_a_cancelled_trial_and_leaves_no_process(tmp_path: Path, two_nodes: Any) -> None:
    executor = ray_executor(cluster_trials.held_trial)
    executor.submit(job_of(tmp_path / "trial", gamma=0.1))
    held = tmp_path / "trial" / "held"
    pid = int(until(lambda: held.exists() and held.read_text()))
    executor.cancel(0)
    (ended,) = until(lambda: executor.wait(lambda *report: False, 1))
    assert ended.lost
    until(lambda: not is_alive(pid), 15)
    executor.close()
    # What no node has is told at once; Ray would let the trial wait for ever.
    with pytest.raises(UserError, match="no node has room for a trial of 2 CPUs and 0 GPUs"):
        ray_executor(cluster_trials.held_trial, cpus=2)


@pytest.mark.slow
def test_a_task_of_ray_runs_where_the_controller_does(
    tmp_path: Path, two_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = ray_executor(cluster_trials.cheap_trial)
    executor.submit(job_of(tmp_path / "trial"))
    (ended,) = until(lambda: executor.wait(lambda *report: False, 1))
    assert not ended.lost
    assert TrialRecord.read(tmp_path / "trial").report["folder"] == str(tmp_path)
    executor.close()


@pytest.mark.slow
def test_without_an_address_ray_is_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would join the cluster that RAY_ADDRESS names."""
    ray = pytest.importorskip("ray", reason="executor=ray needs the package ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        executor = ray_executor(cluster_trials.cheap_trial)
        assert ray.get_runtime_context().gcs_address != cluster.address
        executor.close()
        assert not ray.is_initialized()
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_cluster_of_ray_must_answer() -> None:
    pytest.importorskip("ray", reason="executor=ray needs the package ray")
    from rmexp.sweep.ray_cluster import RayCluster

    with pytest.raises(UserError, match=r"executor\.address=127\.0\.0\.1:1: no Ray cluster"):
        RayCluster(RayExecutorConfig(kind="ray", address="127.0.0.1:1"), TrainerConfig())
