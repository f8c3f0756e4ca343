"""Take the README's pictures of report and page from a study, with headless Chromium.

python docs/images/make_screenshots.py outputs starter
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from wsgiref.simple_server import make_server

from rmexp.sweep.study import StudyFolder, load_study
from rmexp.views.report import study_report
from rmexp.views.server import _Quiet, _Server, make_app

HERE = Path(__file__).parent
# Each ends below a row of boxes.
REPORT_WINDOW, PAGE_WINDOW = (1280, 1666), (1280, 1352)


def take(address: str, picture: Path, window: tuple[int, int]) -> None:
    """Save one page as it looks once its scripts have run."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-sync", "--hide-scrollbars"),
                f"--user-data-dir={profile}",
                f"--window-size={window[0]},{window[1]}",
                "--virtual-time-budget=8000",
                f"--screenshot={picture}",
                address,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def main(output_dir: str, name: str) -> None:
    """The report from its file, and a trial's page from the server."""
    study, folder = load_study(output_dir, name), StudyFolder.of(output_dir, name)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.html"
        report.write_text(study_report(study, folder), encoding="utf-8")
        take(report.as_uri(), HERE / "report.png", REPORT_WINDOW)
    server = make_server(
        "127.0.0.1", 0, make_app(Path(output_dir)), server_class=_Server, handler_class=_Quiet
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/study/{name}/trial/{study.best_trial.number}"
    take(address, HERE / "page.png", PAGE_WINDOW)
    server.shutdown()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT_DIR STUDY")
    main(sys.argv[1], sys.argv[2])
