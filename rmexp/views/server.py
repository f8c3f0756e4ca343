"""`rmexp ui`: one read-only page for all studies, optuna-dashboard's beside our own."""

from __future__ import annotations

import hmac
import html as html_module
import ipaddress
import secrets
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rmexp.errors import UserError
from rmexp.sweep.study import StudyFolder, load_study, studies_below
from rmexp.views.html import Raw, page, table
from rmexp.views.report import study_report
from rmexp.views.study_view import view_study
from rmexp.views.trial_page import comparison_page, trial_page

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_PLOTLY = "/plotly.js"
_COOKIE = "rmexp_token"
# optuna-dashboard's own addresses, which its script has built in, so it cannot live below another
# one. It shows one storage, a study has one each: a cookie says whose.
_OPTUNA_PATHS = ("dashboard", "api", "static", "csv")
_CHOSEN = "rmexp_study"
# Nothing of a page may come from elsewhere, whatever a trial's texts contain.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; frame-ancestors 'none'"
)
_HTML = "text/html; charset=utf-8"


class _NotFound(Exception):
    pass


def serve(output_dir: Path, host: str, port: int) -> None:
    """Serve until interrupted; says its address, with the token where one is needed.

    Raises:
        UserError: the port is taken.
    """
    token = None if _is_loopback(host) else secrets.token_urlsafe(24)
    app = make_app(output_dir, token=token)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise UserError(f"--port: cannot listen on {host}:{port}: {error.strerror}") from error
    query = "" if token is None else f"/?token={token}"
    print(f"rmexp ui: http://{host}:{server.server_port}{query} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()


def make_app(output_dir: Path, *, token: str | None = None) -> App:
    """The page as a WSGI application.

    Args:
        output_dir: the studies lie below it.
        token: asked of every request where given, as ``?token=`` once and as a cookie from then;
            without one, only requests to a loopback address are answered.
    """
    app = _read_only(_Pages(output_dir))
    return _for_loopback(app) if token is None else _with_token(app, token)


class _Pages:
    """``/``, ``/study/NAME`` with ``/trial/N`` and ``/compare``, ``/optuna/NAME``."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._dashboards: dict[str, App] = {}

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        parts = [part for part in environ.get("PATH_INFO", "/").split("/") if part]
        query = parse_qs(environ.get("QUERY_STRING", ""))
        try:
            if parts[:1] == ["optuna"] and len(parts) == 2:
                return self._choose(parts[1], start)
            if parts and parts[0] in _OPTUNA_PATHS:
                return self._optuna(_cookie(environ, _CHOSEN))(environ, start)
            kind, body = self._page(parts, query)
        except (_NotFound, UserError) as error:
            text = html_module.escape(str(error) or "no such page")
            return _answer(start, HTTPStatus.NOT_FOUND, page("not found", f"<p>{text}</p>"))
        return _answer(start, HTTPStatus.OK, body, kind)

    def _page(self, parts: list[str], query: dict[str, list[str]]) -> tuple[str, str]:
        if not parts:
            return _HTML, self._index(query.get("filter", [""])[0])
        if parts == [_PLOTLY[1:]]:
            from plotly.offline import get_plotlyjs

            return "text/javascript; charset=utf-8", get_plotlyjs()
        if parts[0] != "study" or len(parts) < 2:
            raise _NotFound
        name = parts[1]
        study, folder = self._study(name)
        base = f"/study/{quote(name)}"
        if len(parts) == 2:
            navigation = (
                f'<a href="/">all studies</a> &middot; <a href="/optuna/{quote(name)}">'
                f'optuna-dashboard</a> &middot; <a href="{base}/compare">compare two trials</a>'
            )
            return _HTML, study_report(
                study,
                folder,
                plotly=_PLOTLY,
                navigation=navigation,
                trial_link=base + "/trial/{}",
            )
        view = view_study(study, folder)
        if len(parts) == 4 and parts[2] == "trial" and parts[3].isdigit():
            return _HTML, trial_page(view, int(parts[3]), base=base, plotly=_PLOTLY)
        if len(parts) == 3 and parts[2] == "compare":
            chosen = [int(n) for key in ("a", "b") for n in query.get(key, []) if n.isdigit()]
            return _HTML, comparison_page(view, chosen[:2], base=base, plotly=_PLOTLY)
        raise _NotFound

    def _index(self, wanted: str) -> str:
        rows: list[list[Any]] = []
        for folder in studies_below(self.output_dir):
            name = folder.name
            if wanted.lower() not in name.lower():
                continue
            try:
                view = view_study(*self._study(name))
            except UserError as error:
                # One database that does not answer must not hide the other studies.
                rows.append([name, "", "", "", "", "", str(error), ""])
                continue
            counts = view.counts()
            best = view.trial(view.best[0]) if view.best else None
            rows.append(
                [
                    Raw(f'<a href="/study/{quote(name)}">{html_module.escape(name)}</a>'),
                    *[counts[s] for s in ("complete", "pruned", "failed", "running")],
                    "" if best is None else ", ".join(f"{v:.4f}" for v in best.values),
                    ", ".join(view.objectives),
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.changed)),
                ]
            )
        columns = ["study", "complete", "pruned", "failed", "running", "best", "", "last change"]
        form = (
            '<form><label>filter <input name="filter" type="search" '
            f'value="{html_module.escape(wanted)}"></label></form>'
        )
        listed = table(columns, rows, range(1, 6)) if rows else "<p>No study.</p>"
        return page("rmexp: studies", f"<h1>Studies</h1>{form}<main class='card'>{listed}</main>")

    def _study(self, name: str) -> tuple[Any, StudyFolder]:
        folder = StudyFolder.of(self.output_dir, name)
        if name in (".", "..") or folder.changed is None:
            raise UserError(f"no study '{name}'")
        return load_study(self.output_dir, name), folder

    def _choose(self, name: str, start: StartResponse) -> Iterable[bytes]:
        """Make a study the one that optuna-dashboard shows, and go there."""
        study, _ = self._study(name)
        self._optuna(name)
        cookie = f"{_CHOSEN}={quote(name)}; HttpOnly; SameSite=Strict; Path=/"
        location = f"/dashboard/studies/{study._study_id}"
        start("303 See Other", [("Set-Cookie", cookie), ("Location", location)])
        return [b""]

    def _optuna(self, name: str) -> App:
        app = self._dashboards.get(name)
        if app is None:
            try:
                from optuna_dashboard import wsgi
            except ImportError as error:
                raise UserError("pip install 'rmexp[ui]' shows optuna-dashboard here") from error
            study, _ = self._study(name)
            app = self._dashboards[name] = wsgi(study._storage)
        return app


def _read_only(app: App) -> App:
    """Pass GET and HEAD only: optuna-dashboard has routes that delete studies (trap 31)."""

    def filtered(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            body = b"this page is read-only\n"
            headers = [("Allow", "GET, HEAD"), ("Content-Type", "text/plain")]
            start("405 Method Not Allowed", [*headers, ("Content-Length", str(len(body)))])
            return [body]
        # A routing library that honours X-HTTP-Method-Override must not see another method.
        clean = {k: v for k, v in environ.items() if k != "HTTP_X_HTTP_METHOD_OVERRIDE"}
        if method == "GET":
            return app(clean, start)
        parts = app({**clean, "REQUEST_METHOD": "GET"}, start)
        close = getattr(parts, "close", None)
        if close is not None:
            close()
        return []

    return filtered


def _with_token(app: App, token: str) -> App:
    """Ask for the token, in the address first and in a cookie afterwards."""

    def guarded(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        given = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        if hmac.compare_digest(given.encode(), token.encode()):
            cookie = f"{_COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            # Out of the address bar, so that it is not in histories and referrers.
            location = environ.get("PATH_INFO") or "/"
            start("303 See Other", [("Set-Cookie", cookie), ("Location", location)])
            return [b""]
        if not hmac.compare_digest(_cookie(environ, _COOKIE).encode(), token.encode()):
            return _answer(
                start,
                HTTPStatus.FORBIDDEN,
                page("token", "<p>Open the address with its token.</p>"),
            )
        return app(environ, start)

    return guarded


def _for_loopback(app: App) -> App:
    """Refuse other names of this host: a website could point its own at it and read the pages."""

    def guarded(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        host = urlsplit(f"//{environ.get('HTTP_HOST', 'localhost')}").hostname or ""
        if not _is_loopback(host):
            text = page("refused", "<p>Open this page as http://127.0.0.1 or http://localhost.</p>")
            return _answer(start, HTTPStatus.MISDIRECTED_REQUEST, text)
        return app(environ, start)

    return guarded


def _cookie(environ: Environ, name: str) -> str:
    try:
        found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _answer(
    start: StartResponse, status: HTTPStatus, text: str, kind: str = _HTML
) -> Iterable[bytes]:
    body = text.encode("utf-8", "replace")
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "max-age=3600" if "javascript" in kind else "no-store"),
    ]
    start(f"{status.value} {status.phrase}", headers)
    return [body]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the token would stand in the log."""
