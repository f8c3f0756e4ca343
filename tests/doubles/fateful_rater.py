"""The word rater, under which two trials of a study end badly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from word_rater import WordRater


class FatefulRater(WordRater):
    """Counts the trials in a folder: the fourth is killed outright, the seventh stumbles."""

    def __init__(self, folder: str):
        super().__init__()
        nth = _next(Path(folder))
        if nth == 4:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        if nth == 7:
            raise RuntimeError("the rater stumbled <here> & now")


def _next(folder: Path) -> int:
    nth = 1
    while True:
        try:
            (folder / str(nth)).touch(exist_ok=False)
        except FileExistsError:
            nth += 1
        else:
            return nth
