"""The page in a real browser: it draws, asks nothing of the network, and fits a small window."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import make_server

import pytest
from synthetic_study import make_study

from rmexp.views.report import study_report
from rmexp.views.server import _Quiet, _Server, make_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]
PICTURES = ("history", "importance", "parallel", "gamma-r", "learning_rate-epochs", "curves")
# Says in the document what a look at it would tell.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const note = document.createElement("p");
  note.id = "probe";
  note.textContent = "overflow " + (document.documentElement.scrollWidth - innerWidth);
  document.body.append(note);
}, 1500));
</script></body>"""


def document(url: str, profile: Path, width: int = 1200) -> str:
    """The page after its scripts have run."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            "--virtual-time-budget=8000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def without_scripts(html: str) -> str:
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


@pytest.mark.parametrize("width", [1200, 500])
def test_the_report_opens_from_a_file(tmp_path: Path, width: int) -> None:
    study, folder = make_study(tmp_path)
    path = tmp_path / "report.html"
    head, tail = study_report(study, folder).rsplit("</body>", 1)
    path.write_text(head + PROBE + tail)
    seen = without_scripts(document(path.as_uri(), tmp_path / "profile", width))
    for name in PICTURES:
        start = seen.index(f'id="plot-{name}"')
        assert "main-svg" in seen[start : start + 3000], name
    assert "overflow 0" in seen or re.search(r"overflow -\d", seen)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    make_study(tmp_path)
    app = make_app(tmp_path)
    server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_served_pages_draw(address: str, tmp_path: Path) -> None:
    study = without_scripts(document(f"{address}/study/synthetic", tmp_path / "p1"))
    assert study.count("main-svg") >= len(PICTURES)
    trial = without_scripts(document(f"{address}/study/synthetic/trial/0", tmp_path / "p2"))
    assert "main-svg" in trial
    assert "Trial 0 of synthetic" in trial


def test_optuna_dashboard_opens(address: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    seen = document(f"{address}/optuna/synthetic", tmp_path / "p3")
    assert "synthetic" in without_scripts(seen)
    assert "Trials" in without_scripts(seen)
