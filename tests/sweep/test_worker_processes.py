"""Worker processes of this machine: their GPUs, and what ends them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cluster_jobs import is_alive, job_of

from rmexp.errors import UserError
from rmexp.sweep.job import TrialJob
from rmexp.sweep.worker_processes import ProcessExecutor
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig


def _which_gpus(config, *, directory: Path, identity: TrialIdentity, report, **ignored) -> None:
    record = TrialRecord(
        "complete", os.environ.get("CUDA_VISIBLE_DEVICES", ""), 0.0, config.to_plain(), identity
    )
    time.sleep(0.3)
    record.write(directory)


@pytest.mark.slow
def test_each_slot_has_gpus_of_its_own(tmp_path: Path) -> None:
    executor = ProcessExecutor(None, ranks=2, gpus=("0", "1", "2", "5"), run=_which_gpus)
    assert executor.slots == 2
    plain = TrialConfig(cache_dir="c").to_plain()
    for number in (0, 1):
        executor.submit(TrialJob(TrialIdentity("s", number), plain, tmp_path / str(number)))
    ended = []
    while len(ended) < 2:
        ended += executor.wait(lambda *report: False, 1.0)
    executor.close()
    assert [TrialRecord.read(tmp_path / str(n)).reason for n in (0, 1)] == ["0,1", "2,5"]


def test_more_gpus_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"executor\.slots: 2 trials of trainer.devices=2"):
        ProcessExecutor(2, ranks=2, gpus=("0", "1", "2"))


def _asks(config, *, directory: Path, report, **ignored) -> None:
    (directory / "asked").write_text(str(os.getpid()))
    report(1, 0.5)


def test_a_report_that_the_storage_does_not_take_is_told_and_keeps_no_worker_waiting(
    tmp_path: Path,
) -> None:
    def on_report(*report: float) -> bool:
        raise OSError("No space left on device")

    executor = ProcessExecutor(1, run=_asks)
    executor.submit(job_of(tmp_path / "trial"))
    deadline = time.monotonic() + 30

    def wait() -> None:
        while time.monotonic() < deadline and not executor.wait(on_report, 1.0):
            pass

    with pytest.raises(OSError, match="No space left"):
        wait()
    executor.close()
    assert not is_alive(int((tmp_path / "trial" / "asked").read_text()))
