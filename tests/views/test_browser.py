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
  const say = (name, value) => {
    const note = document.createElement("p");
    note.dataset.probe = name;
    note.textContent = value;
    document.body.append(note);
  };
  const mine = [...document.querySelectorAll("a, button, input, select, summary, .scroll, pre")]
    .filter(element => !element.closest(".js-plotly-plot"));
  say("overflow", document.documentElement.scrollWidth - innerWidth);
  say("back", getComputedStyle(document.body).backgroundColor);
  say("ink", document.querySelector(".js-plotly-plot").layout.font.color);
  say("interactive", mine.length);
  say("unreachable", mine.filter(element => element.tabIndex < 0).length);
}, 1500));
</script></body>"""


def probed(seen: str, name: str) -> str:
    """What the probe said about one thing."""
    (value,) = re.findall(rf'<p data-probe="{name}">(.*?)</p>', seen)
    return str(value)


def document(url: str, profile: Path, width: int = 1200, scheme: str = "light") -> str:
    """The page after its scripts have run, for a reader who prefers light or dark."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}",
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


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A study's report with the probe in it."""
    study, folder = make_study(tmp_path)
    path = tmp_path / "report.html"
    head, tail = study_report(study, folder).rsplit("</body>", 1)
    path.write_text(head + PROBE + tail)
    return path


@pytest.mark.parametrize("width", [1200, 500])
def test_the_report_opens_from_a_file(report: Path, tmp_path: Path, width: int) -> None:
    seen = without_scripts(document(report.as_uri(), tmp_path / "profile", width))
    for name in PICTURES:
        start = seen.index(f'id="plot-{name}"')
        assert "main-svg" in seen[start : start + 3000], name
    assert int(probed(seen, "overflow")) <= 0


@pytest.mark.parametrize(
    ("scheme", "back", "ink"),
    [("light", "rgb(255, 255, 255)", "#1f2933"), ("dark", "rgb(20, 24, 29)", "#e4e9ee")],
)
def test_page_and_pictures_follow_the_readers_scheme(
    report: Path, tmp_path: Path, scheme: str, back: str, ink: str
) -> None:
    seen = without_scripts(document(report.as_uri(), tmp_path / "profile", scheme=scheme))
    assert probed(seen, "back") == back
    assert probed(seen, "ink") == ink


def test_keys_reach_all_that_can_be_opened_or_scrolled(report: Path, tmp_path: Path) -> None:
    seen = without_scripts(document(report.as_uri(), tmp_path / "profile"))
    assert int(probed(seen, "interactive")) > 0
    assert probed(seen, "unreachable") == "0"


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
