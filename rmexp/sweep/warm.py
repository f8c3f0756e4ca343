"""Imported once by the fork server, so that each trial's process starts with it loaded."""

import threading

import tqdm  # type: ignore[import-untyped]

import rmexp.backbone.load
import rmexp.evaluation.preferences
import rmexp.rating.exemplar
import rmexp.reward.train
import rmexp.trial.run  # noqa: F401

# tqdm's own lock is a named semaphore in a fork server's child, and a child that is killed leaves
# it behind: Python then warns of "leaked semaphore objects". A trial draws from one process only.
tqdm.tqdm.set_lock(threading.RLock())
