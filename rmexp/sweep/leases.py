"""Who runs what: controllers register, beat, and watch each other.

A trial belongs to the controller named in its attribute ``controller``, written in the same
transaction that creates the trial. A controller lives as long as its counter in the study's
storage moves. Clocks of several hosts are never compared: each observer measures by its own
monotonic clock how long a counter has stood still.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

_PREFIX = "controller:"
BEATS_PER_LEASE = 6


@dataclass
class Registration:
    """This controller's place in a study.

    Attributes:
        id: unique for ever, so that a dead controller's trials are never taken for another's.
        alone: no other controller had registered and not left when this one came.
    """

    study: optuna.Study
    locks: Path
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    alone: bool = True
    _beat: int = 0

    @contextmanager
    def held(self, lease: float) -> Iterator[Registration]:
        """Register, beat from a thread, and say at the end that we left.

        Args:
            lease: seconds of silence after which others may take this controller for dead; they
                read it here, whatever their own is.
        """
        self.locks.mkdir(parents=True, exist_ok=True)
        lock = self.locks / f"{self.id}.lock"
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        stop = threading.Event()
        try:
            # The lock dies with the process: on the same host a death is seen at once.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._tell(lease)
            others = registered(self.study).items()
            self.alone = not any(i != self.id and not c.get("left") for i, c in others)
            thread = threading.Thread(target=self._keep_beating, args=(stop, lease), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                stop.set()
                thread.join()
                self._tell(lease, left=True)
        finally:
            lock.unlink(missing_ok=True)
            os.close(handle)

    def _keep_beating(self, stop: threading.Event, lease: float) -> None:
        while not stop.wait(lease / BEATS_PER_LEASE):
            try:
                self._tell(lease)
            except Exception:
                # A busy or restarting database: the next beat tries again. Should it stay away,
                # the others take over, which is right.
                continue

    def _tell(self, lease: float, left: bool = False) -> None:
        self._beat += 1
        about = {"host": socket.gethostname(), "pid": os.getpid(), "beat": self._beat}
        ended = {"left": True} if left else {}
        self.study.set_user_attr(_PREFIX + self.id, {**about, "lease": lease, **ended})


def registered(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Every controller that ever ran the study: id to host, pid, beat, lease and, at last, left."""
    return {
        key.removeprefix(_PREFIX): about
        for key, about in study.user_attrs.items()
        if key.startswith(_PREFIX)
    }


def gone(study: optuna.Study, locks: Path) -> set[str]:
    """Ids of the controllers that ended, as far as that is known without waiting.

    A controller that was killed on another host is not among them.
    """
    return {
        name
        for name, about in registered(study).items()
        if about.get("left")
        or (about["host"] == socket.gethostname() and _is_free(locks / f"{name}.lock"))
    }


@dataclass
class Observer:
    """Tells the living controllers from the dead.

    Attributes:
        me: id of the controller that looks.
        locks: folder of the controllers' lock files.
        lease: seconds for which the counter of a controller may stand still that has not told its
            own lease.
        clock: monotonic seconds.
    """

    me: str
    locks: Path
    lease: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Silence] = field(default_factory=dict)

    def living(self, study: optuna.Study) -> set[str]:
        """Ids of the controllers that must be taken for alive, this one among them."""
        now = self.clock()
        alive = {self.me}
        for name, about in registered(study).items():
            if name != self.me and not self._is_dead(name, about, now):
                alive.add(name)
        return alive

    def _is_dead(self, name: str, about: dict[str, Any], now: float) -> bool:
        if about.get("left"):
            return True
        if about["host"] == socket.gethostname() and _is_free(self.locks / f"{name}.lock"):
            return True
        silence = self._seen.get(name)
        if silence is None or silence.beat != about["beat"]:
            self._seen[name] = _Silence(about["beat"], now)
            return False
        # By the lease of the one that beats: it beats no more often than that asks for.
        lease = about.get("lease", self.lease)
        # An observer that was itself stopped must not count the time of its own absence: between
        # two of its looks at most one beat's time passes.
        silence.seconds += min(now - silence.last_look, lease / BEATS_PER_LEASE)
        silence.last_look = now
        return bool(silence.seconds >= lease)


@dataclass
class _Silence:
    """For how long a counter has been seen to stand still."""

    beat: int
    last_look: float
    seconds: float = 0.0


def _is_free(lock: Path) -> bool:
    """Whether nobody holds the lock file; a controller makes it before it registers."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
