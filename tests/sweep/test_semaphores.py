from __future__ import annotations

import subprocess
import sys

import pytest

_KILLED = """
import multiprocessing, sys

def draw(pipe):
    from tqdm.auto import tqdm
    for _ in tqdm(range(3)):
        pass
    pipe.send("drawn")
    pipe.recv()

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sys.argv[1:])
    # The controller's, so that what is left behind is told at its end.
    multiprocessing.resource_tracker.ensure_running()
    ours, theirs = context.Pipe()
    worker = context.Process(target=draw, args=(theirs,))
    worker.start()
    ours.recv()
    worker.kill()
    worker.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("preload", "leaks"), [("rmexp.sweep.warm", False), ("json", True)])
def test_a_killed_trial_leaves_no_semaphore(preload: str, leaks: bool, tmp_path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    done = subprocess.run(
        [sys.executable, str(script), preload], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert ("leaked semaphore" in done.stderr) == leaks, done.stderr
