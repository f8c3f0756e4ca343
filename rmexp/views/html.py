"""Pieces of a self-contained page: the frame, tables, embedded figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from rmexp.views.figures import Picture


class Raw(str):
    """Text that is HTML already."""


def page(
    title: str,
    body: str,
    *,
    figures: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    plotly: str | None = None,
) -> str:
    """A whole page that needs nothing else.

    Args:
        title: plain text.
        body: HTML.
        figures: id of an element to the plotly figure drawn into it.
        data: plain data embedded as ``<script id="data">``, for other programs.
        plotly: address of plotly.js; None puts the library itself into the page.
    """
    scripts = [_embedded("data", json.dumps(_finite(data)))] if data is not None else []
    if figures:
        scripts.append(f'<script src="{escape(plotly)}"></script>' if plotly else _plotly_inline())
        drawn = "{" + ",".join(f"{json.dumps(k)}:{f.to_json()}" for k, f in figures.items()) + "}"
        scripts += [_embedded("figures", drawn), f"<script>{_text('page.js')}</script>"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_text('page.css')}</style></head><body>\n{body}\n"
        + "\n".join(scripts)
        + "</body></html>\n"
    )


def card(title: str, content: str, *, id: str = "", note: str = "", wide: bool = False) -> str:
    """A box with a heading."""
    anchor = f' id="{escape(id)}"' if id else ""
    soft = f'<p class="soft">{escape(note)}</p>' if note else ""
    return (
        f'<section class="card{" wide" if wide else ""}"{anchor}>'
        f"<h2>{escape(title)}</h2>{content}{soft}</section>"
    )


def picture_card(picture: Picture, *, wide: bool = False) -> str:
    """The box of a picture; without a figure it says why."""
    place = f"plot-{picture.id}"
    content = "" if picture.figure is None else f'<div class="picture" id="{place}"></div>'
    return card(picture.title, content, id=picture.id, note=picture.note, wide=wide)


def drawn(pictures: Iterable[Picture]) -> dict[str, Any]:
    """The figures of :func:`picture_card` by the id of their element."""
    return {f"plot-{p.id}": p.figure for p in pictures if p.figure is not None}


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()
) -> str:
    """A table that scrolls inside its box; cells are escaped unless :class:`Raw`."""
    right = set(numeric)

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in right else ''}>{_cell(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def preformatted(text: str) -> str:
    """Text as it is, in a box that the keyboard can reach to scroll it."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def folded(title: str, text: str) -> str:
    """Text as it is, shown when its title is opened."""
    return f"<details><summary>{escape(title)}</summary>{preformatted(text)}</details>"


def tile(value: Any, name: str, css: str = "") -> str:
    """A number with its name."""
    return f'<div class="tile"><b class="{css}">{_cell(value)}</b>{escape(name)}</div>'


def short(value: Any) -> str:
    """A value as a person wants it: four digits, no Python quotes."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> str:
    return value if isinstance(value, Raw) else escape(short(value))


def _finite(value: Any) -> Any:
    # JSON has no NaN or infinity, and a browser refuses a page that has them.
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _embedded(id: str, text: str) -> str:
    # "</script>" or "<!--" in a value would end the element.
    safe = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{id}">{safe}</script>'


def _plotly_inline() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def _text(name: str) -> str:
    return files("rmexp.views").joinpath(name).read_text(encoding="utf-8")
