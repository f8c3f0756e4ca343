"""Draw flow.svg, the picture of one trial: python docs/images/make_flow.py"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path

OUT = Path(__file__).with_name("flow.svg")
WIDTH, BOX_W, BOX_H, GAP = 900, 156, 62, 30
STYLE = (
    "<style>text{font-family:system-ui,sans-serif;font-size:14px;fill:#1d2733}"
    ".small{font-size:11.5px;fill:#44505c}.note{font-size:12px;fill:#6b7782}"
    ".box{stroke-width:1.5}.data{fill:#e3ecf7;stroke:#4a6fe3}.made{fill:#e4f3ec;stroke:#009e73}"
    ".judge{fill:#fbeadb;stroke:#d97706}.arrow{stroke:#7b8794;stroke-width:1.8;fill:none;"
    "marker-end:url(#head)}.loop{stroke-dasharray:5 4}</style>"
    '<defs><marker id="head" markerWidth="9" markerHeight="9" refX="7" refY="3.5" orient="auto">'
    '<path d="M0,0 L7,3.5 L0,7 z" fill="#7b8794"/></marker></defs>'
)


def box(x: int, y: int, kind: str, title: str, under: str) -> str:
    """A rounded box with a title and a smaller line."""
    middle = x + BOX_W // 2
    return (
        f'<rect class="box {kind}" x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="8"/>'
        f'<text x="{middle}" y="{y + 27}" text-anchor="middle">{escape(title)}</text>'
        f'<text class="small" x="{middle}" y="{y + 46}" text-anchor="middle">{escape(under)}</text>'
    )


def arrow(path: str, kind: str = "") -> str:
    """A line that ends in a head."""
    return f'<path class="arrow {kind}" d="{path}"/>'


def note(x: int, y: int, text: str, anchor: str = "middle") -> str:
    """A small line beside an arrow."""
    return f'<text class="note" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def flow() -> str:
    """The whole picture."""
    step = BOX_W + GAP + 6
    top, low = 54, 210
    columns = [18 + i * (step + 44) for i in range(4)]
    upper = [
        ("data", "preference pairs", "prompt, response A, B"),
        ("made", "ratings", "psi: response x rule"),
        ("made", "critical rules", "r largest d + gamma rho"),
        ("made", "labels", "side, margin"),
    ]
    lower = [
        ("judge", "objective", "on validation pairs"),
        ("judge", "evaluation", "against people"),
        ("made", "reward model", "Bradley-Terry"),
    ]
    parts = [box(x, top, *of) for x, of in zip(columns, upper, strict=True)]
    below = [columns[0], columns[1], columns[3]]
    parts += [box(x, low, *of) for x, of in zip(below, lower, strict=True)]
    for left, right in pairwise(columns):
        parts.append(arrow(f"M{left + BOX_W + 4},{top + 31} H{right - 6}"))
    parts += [
        arrow(f"M{columns[3] + 78},{top + BOX_H + 4} V{low - 6}"),
        arrow(f"M{columns[3] - 4},{low + 31} H{columns[1] + BOX_W + 6}"),
        arrow(f"M{columns[1] - 4},{low + 31} H{columns[0] + BOX_W + 6}"),
        # The search closes the circle.
        arrow(
            f"M{columns[0] + 40},{low - 4} V{(top + low + BOX_H) // 2} "
            f"H{columns[2] + 40} V{top + BOX_H + 6}",
            "loop",
        ),
        arrow(f"M{columns[3] + 118},{(top + low + BOX_H) // 2} V{low - 6}", "loop"),
        f'<path class="arrow loop" style="marker-end:none" d="M{columns[2] + 40},'
        f'{(top + low + BOX_H) // 2} H{columns[3] + 118}"/>',
        note(columns[1] + 78, (top + low + BOX_H) // 2 - 8, "the search: other gamma and r,"),
        note(columns[1] + 78, (top + low + BOX_H) // 2 + 17, "other learning rate and epochs"),
        note(columns[1] + 78, top - 12, "rater, once; kept in the store"),
        note(columns[2] + 78, top - 12, "well under a second"),
        note(columns[0] + 78, top - 12, "split by prompt"),
        note(columns[2] + 78, low + 24, "test pairs wait"),
        note(columns[2] + 78, low + 50, "for the chosen trial"),
    ]
    height = low + BOX_H + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 36} {height}" role="img" '
        'aria-label="One trial: pairs, ratings, critical rules, labels, reward model, evaluation, '
        'objective; the search goes round with other parameters">'
        f'{STYLE}<rect width="100%" height="100%" rx="10" fill="#fbfcfd"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    OUT.write_text(flow(), encoding="utf-8")
