"""An installed rmexp works outside its checkout, with its configs and data."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_works_in_any_folder(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("rmexp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = tmp_path / "site"
    assert (site / "rmexp" / "_conf" / "train.yaml").is_file()
    assert (site / "rmexp" / "preferences" / "starter" / "benign.jsonl").is_file()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "mine" / "loss").mkdir(parents=True)
    (elsewhere / "mine" / "loss" / "own.yaml").write_text("label_smoothing: 0.2\n")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rmexp", *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "label_smoothing: 0.2" in run(
        "train", "--config-dir", "mine", "loss=own", "--cfg", "job"
    )
    assert "12 trials" in run("sweep", "sweep=starter", "sweep.dry_run=true")
    code = "import rmexp, sys; from rmexp.rules import pool; print(rmexp.__file__, len(pool()))"
    printed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    ).stdout
    assert printed.split() == [str(site / "rmexp" / "__init__.py"), "100"]
