from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from synthetic_study import make_study

from rmexp.trial.record import TrialRecord
from rmexp.views.server import App, make_app

CHOSEN = {"HTTP_COOKIE": "rmexp_study=synthetic"}


def request(
    app: App, path: str, method: str = "GET", query: str = "", **headers: str
) -> tuple[str, dict[str, str], bytes]:
    environ: dict = {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": query}
    environ |= {"wsgi.input": io.BytesIO(b""), "CONTENT_LENGTH": "0", **headers}
    setup_testing_defaults(environ)
    answer: list = []

    def start(status: str, headers: list, error: object = None) -> object:
        answer[:] = [status, dict(headers)]
        return lambda data: None

    parts = app(environ, start)
    body = b"".join(parts)
    close = getattr(parts, "close", None)
    if close is not None:
        close()
    return answer[0], answer[1], body


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    output_dir = tmp_path_factory.mktemp("ui")
    study, folder = make_study(output_dir)
    record = TrialRecord.read(folder.trial(0))
    record.report["labelled_pairs"] = {
        "columns": ["pair", "prompt", "margin"],
        "rows": [["p1", "<script>alert(1)</script>", 0.25]],
    }
    record.report["critical_rules"] = {
        "columns": ["rule", "critical in", "mean discrepancy", "speaks for the label"],
        "rows": [["no_insults", 12, 0.5, 0.75]],
    }
    record.write(folder.trial(0))
    return study, folder, make_app(output_dir)


def test_the_first_page_lists_studies_and_filters_them(made) -> None:
    study, _, app = made
    status, headers, body = request(app, "/")
    assert status == "200 OK"
    assert 'href="/study/synthetic"' in body.decode()
    assert f"{study.best_value:.4f}" in body.decode()
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert b"synthetic" in request(app, "/", query="filter=SYNTH")[2]
    assert b"/study/synthetic" not in request(app, "/", query="filter=other")[2]


def test_a_study_shows_the_report_with_plotly_from_here(made) -> None:
    _, _, app = made
    body = request(app, "/study/synthetic")[2].decode()
    assert '<script src="/plotly.js">' in body
    assert 'id="plot-gamma-r"' in body
    assert 'href="/study/synthetic/trial/3"' in body
    assert len(body) < 400_000
    assert b"plotly.js v" in request(app, "/plotly.js")[2]


def test_a_trial_shows_config_curves_pairs_and_log(made) -> None:
    _, _, app = made
    body = request(app, "/study/synthetic/trial/0")[2].decode()
    assert "learning_rate:" in body
    assert 'id="plot-curves"' in body
    assert "trial 0\n" in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "<td>no_insults</td><td class=n>12</td>" in body
    assert "<script>alert(1)" not in body
    failed = request(app, "/study/synthetic/trial/3")[2].decode()
    assert "Traceback" in failed
    running = request(app, "/study/synthetic/trial/19")[2].decode()
    assert 'class="running"' in running
    assert 'id="plot-curves"' in running


def test_two_trials_are_compared_where_they_differ(made) -> None:
    study, _, app = made
    body = request(app, "/study/synthetic/compare", query="a=0&b=1")[2].decode()
    first, second = study.get_trials()[:2]
    assert f"{first.params['learning_rate']:.4g}" in body
    assert f"{second.params['learning_rate']:.4g}" in body
    assert "label_smoothing" not in body
    assert b"<select" in request(app, "/study/synthetic/compare")[2]


@pytest.mark.parametrize(
    "path",
    [
        "/study/unheard_of",
        "/study/synthetic/trial/99",
        "/study/synthetic/trial/x",
        "/study/..",
        "/study/..%2f..",
        "/nothing",
        "/optuna/unheard_of",
    ],
)
def test_what_is_not_there_is_404(made, path: str) -> None:
    assert request(made[2], path)[0] == "404 Not Found"


def test_optuna_dashboard_reads_the_same_study(made) -> None:
    pytest.importorskip("optuna_dashboard")
    app = made[2]
    assert request(app, "/api/studies")[0].startswith("404")
    status, headers, _ = request(app, "/optuna/synthetic")
    assert status.startswith("303")
    chosen = {"HTTP_COOKIE": headers["Set-Cookie"].split(";")[0]}
    status, _, body = request(app, "/api/studies", **chosen)
    assert status.startswith("200")
    (summary,) = json.loads(body)["study_summaries"]
    assert summary["study_name"] == "synthetic"
    assert headers["Location"] == f"/dashboard/studies/{summary['study_id']}"
    detail = request(app, f"/api/studies/{summary['study_id']}", **chosen)[2]
    assert len(json.loads(detail)["trials"]) == 20
    assert b"bundle.js" in request(app, headers["Location"], **chosen)[2]
    assert request(app, "/api/studies", HTTP_COOKIE="rmexp_study=..")[0].startswith("404")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/", "/study/synthetic", "/optuna/synthetic", "/api/studies", "/api/studies/1"],
)
def test_nothing_can_be_changed(made, method: str, path: str) -> None:
    """Trap 31: optuna-dashboard has routes that rename, tell and delete."""
    study, _, app = made
    before = [(t.state, t.values, t.user_attrs) for t in study.get_trials()]
    assert request(app, path, method, **CHOSEN)[0].startswith("405")
    assert [(t.state, t.values, t.user_attrs) for t in study.get_trials()] == before


def test_a_method_in_a_header_changes_nothing(made) -> None:
    study, _, app = made
    request(app, "/api/studies/1", HTTP_X_HTTP_METHOD_OVERRIDE="DELETE", **CHOSEN)
    assert len(study.get_trials()) == 20


def test_head_has_the_headers_and_no_body(made) -> None:
    status, headers, body = request(made[2], "/study/synthetic", "HEAD")
    assert status == "200 OK"
    assert int(headers["Content-Length"]) > 1000
    assert body == b""


def test_the_application_keeps_to_wsgi(made) -> None:
    environ: dict = {"PATH_INFO": "/study/synthetic", "QUERY_STRING": "", "SCRIPT_NAME": ""}
    setup_testing_defaults(environ)
    parts = validator(made[2])(environ, lambda status, headers, error=None: lambda data: None)
    assert b"".join(parts)
    parts.close()


def test_beyond_loopback_a_token_is_asked_for(made, tmp_path: Path) -> None:
    make_study(tmp_path, trials=2)
    app = make_app(tmp_path, token="secret")
    assert request(app, "/")[0].startswith("403")
    assert request(app, "/", query="token=wrong")[0].startswith("403")
    status, headers, _ = request(app, "/study/synthetic", query="token=secret")
    assert status.startswith("303")
    assert headers["Location"] == "/study/synthetic"
    cookie = headers["Set-Cookie"].split(";")[0]
    assert "HttpOnly" in headers["Set-Cookie"]
    assert request(app, "/study/synthetic", HTTP_COOKIE=cookie)[0] == "200 OK"
    assert request(app, "/study/synthetic", HTTP_COOKIE="rmexp_token=wrong")[0].startswith("403")
    assert request(app, "/", "POST", HTTP_COOKIE=cookie)[0].startswith("405")


def test_a_report_is_drawn_without_importing_torch(tmp_path: Path) -> None:
    make_study(tmp_path, trials=6)
    code = (
        "import sys\nfrom rmexp.cli import main\n"
        f"main(['report', 'synthetic', '--output-dir', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'transformers', 'wandb'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080"])
def test_loopback_is_answered_by_each_of_its_names(made, host: str) -> None:
    assert request(made[2], "/", HTTP_HOST=host)[0] == "200 OK"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"])
def test_a_name_that_a_website_pointed_here_reads_nothing(made, host: str) -> None:
    """DNS rebinding: the browser believes that these pages are the website's own."""
    status, _, body = request(made[2], "/", HTTP_HOST=host)
    assert status == "421 Misdirected Request"
    assert b"synthetic" not in body


def test_beyond_loopback_the_token_guards_and_any_name_is_right(made) -> None:
    app = make_app(made[1].root.parent.parent, token="secret")
    query = {"query": "token=secret", "HTTP_HOST": "gpu-box.example:8080"}
    assert request(app, "/", **query)[0] != "421 Misdirected Request"
