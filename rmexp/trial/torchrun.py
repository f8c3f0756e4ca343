"""A trial on several machines: torchrun has started its ranks, each a process of the command.

The ranks share a file system, for the cache and the trial's directory, and torchrun's store.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rmexp.errors import UserError
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.run import join_training, run_here
from rmexp.trial.schema import TrialConfig

if TYPE_CHECKING:
    from torch.distributed import Store

# Rating may take long; should rank 0 die meanwhile, torchrun ends the others.
_PATIENCE = datetime.timedelta(days=30)
_DIRECTORY, _RESUME, _TRAIN = "directory", "resume", "train"


def run_under_torchrun(
    config: TrialConfig,
    *,
    directory: Path,
    progress: Callable[[str], None],
    advance: Callable[[int, int], None],
    resume_from: Path | None = None,
    must_resume: bool = False,
) -> TrialRecord | None:
    """This rank's part of the trial; the record on rank 0, None on the others.

    Rank 0 alone rates, evaluates and writes; the others wait for it and join the training.

    Args:
        config: the resolved config.
        directory: of the trial; that of rank 0 counts.
        progress: as of ``run_trial``, on rank 0.
        advance: as of ``run_trial``, on rank 0.
        resume_from: as of ``run_trial``; that of rank 0 counts.
        must_resume: as of ``run_trial``, on rank 0.

    Raises:
        UserError: torchrun has started another number of ranks than the config asks for.
    """
    if config.seeds:
        raise UserError(
            "seeds: under torchrun a run trains with one seed; give seed=N, a run for each"
        )
    wanted, found = config.trainer.devices, int(os.environ["LOCAL_WORLD_SIZE"])
    nodes, groups = config.trainer.nodes, int(os.environ["WORLD_SIZE"]) // found
    if (wanted, nodes) != (found, groups):
        raise UserError(
            f"trainer.devices={wanted}, trainer.nodes={nodes}: torchrun has started {found} on "
            f"each of {groups} machines; use --nproc-per-node={wanted} --nnodes={nodes}"
        )
    store = _store()
    if int(os.environ["RANK"]) > 0:
        directory = Path(store.get(_DIRECTORY).decode())
        if store.get(_TRAIN) == b"yes":
            join_training(config, directory=directory, resume=store.get(_RESUME) == b"yes")
        return None
    directory.mkdir(parents=True, exist_ok=True)
    store.set(_DIRECTORY, str(directory))
    store.set(_RESUME, "no" if resume_from is None else "yes")

    def step(name: str) -> None:
        if name == "train":
            store.set(_TRAIN, "yes")
        progress(name)

    record = run_here(
        config,
        directory=directory,
        identity=TrialIdentity(),
        report=None,
        progress=step,
        resume_from=resume_from,
        must_resume=must_resume,
        advance=advance,
    )
    if "train" not in record.times:
        store.set(_TRAIN, "no")
    return record


def _store() -> Store:
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    store.set_timeout(_PATIENCE)
    return PrefixStore("rmexp", store)
