"""Claims: what one process is rating now, others leave to it.

A claim is a POSIX lock on one byte of a lock file, at the offset that is the item's hash. The
kernel drops the locks of a process that dies, however it dies: there is no lease to wait for.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rmexp.errors import UserError

FILE = "claims.lock"
_OFFSETS = (1 << 62) - 1

# POSIX locks belong to the process: its threads take turns here instead.
_turn = threading.Lock()


def _new_turn() -> None:
    global _turn
    _turn = threading.Lock()


os.register_at_fork(after_in_child=_new_turn)


class Claims:
    """Claims of this process on items of one store; from :func:`claiming`."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def take(self, key: bytes) -> bool:
        """Claim an item, unless another process has."""
        try:
            self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def wait(self, key: bytes) -> None:
        """Wait until no other process claims an item; call it while holding no claim."""
        self._lock(key, fcntl.LOCK_EX)
        self._lock(key, fcntl.LOCK_UN)

    def drop(self) -> None:
        """Give up all claims."""
        fcntl.lockf(self._stream, fcntl.LOCK_UN)

    def _lock(self, key: bytes, operation: int) -> None:
        offset = int.from_bytes(key[:8], "little") & _OFFSETS
        fcntl.lockf(self._stream, operation, 1, offset)


@contextmanager
def claiming(directory: Path) -> Iterator[Claims]:
    """Open the claims of the store in ``directory``; all are given up at the end.

    Raises:
        UserError: the lock file cannot be written.
    """
    path = directory / FILE
    with _turn:
        try:
            stream = path.open("ab")
        except OSError as error:
            raise UserError(f"{path}: cannot write it: {error.strerror}") from error
        with stream:
            yield Claims(stream)
