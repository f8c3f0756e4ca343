"""What a trial tells the outside: the Tracker protocol and its implementations."""

from rmexp.tracking.tracker import NullTracker, RunInfo, Tracker

__all__ = ["NullTracker", "RunInfo", "Tracker"]
