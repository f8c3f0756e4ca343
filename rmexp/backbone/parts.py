"""Reading a checkpoint that several ranks wrote, without running what a foreign one asks for."""

from __future__ import annotations

import pickle
import warnings
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from rmexp.errors import UserError

TABLE_OF_CONTENTS = ".metadata"


def read_parts(state: dict[str, Any], folder: Path, *, alone: bool = False) -> None:
    """Fill what a state holds from a folder of parts, in place.

    Args:
        state: nested dicts of tensors and plain data, as it was saved.
        folder: of the checkpoint.
        alone: this one process reads all; else every rank calls this and reads its own shards.

    Raises:
        UserError: the folder lacks something, or holds anything but tensors and plain data.
    """
    import torch.distributed.checkpoint as parts
    from torch.distributed.checkpoint.api import CheckpointException

    _contents(folder)  # what cannot be read is told here, not as a failure of several ranks
    reader, planner = _plain_classes()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            parts.load(state, storage_reader=reader(folder), planner=planner(), no_dist=alone)
    except CheckpointException as error:
        # Not an Exception: nothing but this would catch it.
        first = next(iter(error.failures.values()))[0]
        raise UserError(f"{folder}: cannot go on from this checkpoint: {first}") from error


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors in one piece, empty, of the names, shapes and dtypes that a folder of parts holds.

    Raises:
        UserError: its table of contents cannot be read, or asks for anything but plain data.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _contents(folder).state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _contents(folder: Path) -> Any:
    try:
        with (folder / TABLE_OF_CONTENTS).open("rb") as stream:
            return _PlainMetadata(stream).load()
    except (OSError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{folder}: not a checkpoint of rmexp: {error}") from error


@cache
def _plain_classes() -> tuple[type, type]:
    """PyTorch's reader and planner, but for what they would unpickle as it comes."""
    import torch.distributed.checkpoint as parts

    class Reader(parts.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            metadata = _contents(Path(self.path))
            metadata.storage_meta.load_id = self.load_id
            return metadata

    class Planner(parts.DefaultLoadPlanner):
        def load_bytes(self, read_item: Any, value: Any) -> None:
            torch.load(value, weights_only=True)  # refuses what the next line would run
            value.seek(0)
            super().load_bytes(read_item, value)

    return Reader, Planner


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
