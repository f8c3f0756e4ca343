"""Checkpoints within an epoch, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch

from rmexp.errors import UserError
from rmexp.reward.resume import LAST, PREVIOUS
from rmexp.reward.resume import last_checkpoint as last_checkpoint

MADE_OF = "rmexp_checkpoint.json"
_NEXT = "next.ckpt"
_DISTRIBUTED = ".metadata"


class KeepLast(pl.Callback):
    """Write ``last.ckpt`` every so many optimiser steps: a file, or a folder of every rank's part.

    Never behind an epoch's last batch: the epoch's validation and report stand between that and
    the next epoch, and a resumed run must not miss them.

    Args:
        folder: where it lies.
        every: steps between two checkpoints.
        made_of: plain data from which the model can be built again, written beside it.
    """

    def __init__(self, folder: Path, every: int, made_of: Mapping[str, Any]) -> None:
        self.folder = folder
        self.every = every
        self.made_of = made_of

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Write down what the checkpoints belong to."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MADE_OF).write_text(json.dumps(self.made_of, indent=2) + "\n")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Save where it is time; the old checkpoint stays until the new one is whole."""
        last = batch_index + 1 >= trainer.num_training_batches
        if last or trainer.global_step % self.every:
            return
        if trainer.is_global_zero:
            _remove(self.folder / _NEXT)
        trainer.strategy.barrier()
        trainer.save_checkpoint(self.folder / _NEXT)
        if trainer.is_global_zero:
            self._replace()
        trainer.strategy.barrier()

    def _replace(self) -> None:
        new, kept, old = (self.folder / name for name in (_NEXT, LAST, PREVIOUS))
        if new.is_file() and not kept.is_dir():
            new.replace(kept)
            return
        # Folders cannot be replaced in one step: at any moment one of the two is whole.
        if kept.exists():
            _remove(old)
            kept.rename(old)
        new.rename(kept)
        _remove(old)


def remove_checkpoints(folder: Path) -> None:
    """A finished run needs none."""
    shutil.rmtree(folder, ignore_errors=True)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint of a run: a file, or a folder of several ranks' parts."""
    return (path / _DISTRIBUTED).is_file() or (path.is_file() and path.suffix == ".ckpt")


def checkpoint_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, each in one piece on the CPU, by their names in the module.

    Parts that several ranks wrote are put together by this one process.

    Raises:
        UserError: it cannot be read, or holds anything but tensors and plain data.
    """
    try:
        if path.is_file():
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return dict(found["state_dict"])
        return _joined_parts(path)
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a checkpoint of rmexp: {error}") from error


def _joined_parts(path: Path) -> dict[str, torch.Tensor]:
    import torch.distributed.checkpoint as parts
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    class Reader(parts.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            # PyTorch's own reader would run whatever a foreign file asks for.
            with (path / _DISTRIBUTED).open("rb") as stream:
                metadata = _PlainMetadata(stream).load()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    reader = Reader(path)
    whole = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and not key.startswith("optimizer")
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        parts.load(whole, storage_reader=reader, no_dist=True)
    # The first part of a name is the strategy's own word for the model.
    return {key.split(".", 1)[1]: weight for key, weight in whole.items()}


class _PlainMetadata(pickle.Unpickler):
    """Reads the table of contents of a distributed checkpoint, and no other object."""

    _ALLOWED: ClassVar[dict[str, frozenset[str]]] = {
        "torch.distributed.checkpoint.metadata": frozenset(
            {
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "ChunkStorageMetadata",
                "TensorStorageMetadata",
                "BytesStorageMetadata",
                "TensorProperties",
                "_MEM_FORMAT_ENCODING",
            }
        ),
        "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo", "_StoragePrefix"}),
        "torch": frozenset({"Size"}),
        "torch.serialization": frozenset({"_get_layout"}),
        "pathlib": frozenset({"PosixPath"}),
        "pathlib._local": frozenset({"PosixPath"}),
    }

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in self._ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its table of contents asks for {module}.{name}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
