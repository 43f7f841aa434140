"""One HTML page, self-contained: its style, its sections, tables and figures in a row. No script, no other file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from disttrain.report.svg import COLORS

_LIGHT = {
    "ink": "#1b1f24", "soft": "#5b6570", "faint": "#dde2e7", "paper": "#ffffff", "card": "#f5f7f9",
    "accent": "#0b62a8", "good": "#1f7a3d", "bad": "#b3372f", "mark": "#b3372f", "changed": "#fff1c9",
    "c0": "#0b62a8", "c1": "#d1660b", "c2": "#1f8a5b", "c3": "#a13d9b", "c4": "#8a6d00", "c5": "#c2314e",
    "c6": "#2f8ca3", "c7": "#6b6f76",
}  # fmt: skip
_DARK = {
    "ink": "#e4e8ec", "soft": "#9aa5b1", "faint": "#343c45", "paper": "#14181d", "card": "#1c2229",
    "accent": "#63b0f0", "good": "#6cc98a", "bad": "#f08a80", "mark": "#f08a80", "changed": "#4a3d12",
    "c0": "#63b0f0", "c1": "#f2a057", "c2": "#66cf9d", "c3": "#dd93d8", "c4": "#d9bf4e", "c5": "#f58aa0",
    "c6": "#74cfe4", "c7": "#a9afb7",
}  # fmt: skip


def _variables(colors: dict[str, str]) -> str:
    return "{" + ";".join(f"--{name}:{value}" for name, value in colors.items()) + "}"


_SVG_STYLE = """
svg text{font-family:system-ui,sans-serif;font-size:11px;fill:var(--ink)}svg .name{font-weight:600}
svg .grid{stroke:var(--faint)}svg .axis{stroke:var(--ink);stroke-opacity:.5}svg .bar{fill:var(--accent)}
svg .mark{stroke-dasharray:4 3;stroke-width:1.3}svg .area{fill-opacity:.8}
"""
STYLE = f"""
:root{_variables(_LIGHT)}
@media(prefers-color-scheme:dark){{:root{_variables(_DARK)}}}
:root{{color-scheme:light dark}}*{{box-sizing:border-box}}
body{{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}}
body{{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 3rem}}
h1{{font-size:1.5rem;margin:0 0 .2rem;overflow-wrap:anywhere}}h2{{font-size:1.15rem;margin:2.2rem 0 .5rem}}
h3{{font-size:.95rem;margin:.6rem 0 .2rem}}p{{margin:.3rem 0 .8rem;max-width:46rem}}.soft{{color:var(--soft)}}
svg{{max-width:100%;height:auto;display:block}}.charts svg{{width:100%}}
.charts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr));gap:.6rem 2rem}}
.wide{{overflow-x:auto}}figure{{margin:0;min-width:0}}table{{border-collapse:collapse;font-size:13px}}
td,th{{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--faint);vertical-align:top}}
th{{font-weight:600}}td:first-child,th:first-child{{text-align:left;padding-left:0}}
table.text td,table.text th{{text-align:left}}table.text td+td{{overflow-wrap:anywhere;min-width:5rem}}
tr.changed td{{background:var(--changed)}}tr.failed td{{color:var(--bad)}}
.tiles{{display:flex;flex-wrap:wrap;gap:.8rem 2rem;margin:1rem 0}}
.tiles div{{border-left:3px solid var(--accent);padding-left:.7rem;color:var(--soft);font-size:13px}}
.tiles b{{display:block;font-size:1.35rem;font-weight:600;color:var(--ink);line-height:1.2}}
.legend{{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:13px;margin:.2rem 0}}
.legend i{{display:inline-block;width:1rem;height:.28rem;border-radius:2px;margin-right:.4rem;vertical-align:.2rem}}
.matrix td,.matrix th{{text-align:center;border:0;padding:.45rem .8rem}}
.matrix td{{border-radius:3px;min-width:4.2rem}}
.matrix th:first-child{{text-align:right}}
.mistakes{{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:.7rem}}
.mistakes img{{width:100%;image-rendering:pixelated;border-radius:4px;display:block;aspect-ratio:1;object-fit:contain}}
.mistakes figcaption{{font-size:12px;line-height:1.3;margin-top:.2rem}}
.events{{list-style:none;margin:0;padding:0 0 0 1.1rem;border-left:2px solid var(--faint)}}
.events li{{position:relative;margin:0 0 .55rem;max-width:60rem;overflow-wrap:anywhere;white-space:pre-line}}
.events li::before{{content:"";position:absolute;left:-1.47rem;top:.45rem;width:.65rem;height:.65rem;border-radius:50%;
background:var(--accent)}}
.events .warn::before{{background:var(--c1)}}.events .bad::before{{background:var(--bad)}}
.events .good::before{{background:var(--good)}}.events time{{color:var(--soft);font-size:12px;margin-right:.5rem}}
details{{margin:.6rem 0}}summary{{cursor:pointer;color:var(--accent)}}
{_SVG_STYLE}
@media(max-width:600px){{body{{padding:1rem .7rem 2rem}}svg text{{font-size:15px}}.tiles b{{font-size:1.15rem}}}}
@media print{{section{{break-inside:avoid}}}}
"""


class Tile(NamedTuple):
    """A figure that matters, and what it is."""

    value: str
    label: str


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"/>'
        f"<style>{STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A heading and what stands below it; nothing where that is nothing."""
    inner = "".join(content)
    return f"<section><h2>{escape(title)}</h2>{inner}</section>\n" if inner else ""


def tiles(chosen: Sequence[Tile]) -> str:
    """Figures in a row."""
    return '<div class="tiles">' + "".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in chosen) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str] = (), is_text: bool = False) -> str:
    """A table that scrolls sideways where the screen is narrow; rows of the kinds `changed` and `failed` stand out."""
    lines = ["<tr>" + "".join(f"<th>{escape(one)}</th>" for one in head) + "</tr>"]
    for number, row in enumerate(rows):
        mark = f' class="{kinds[number]}"' if number < len(kinds) and kinds[number] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(one)}</td>" for one in row) + "</tr>")
    kind = ' class="text"' if is_text else ""
    return f'<div class="wide"><table{kind}>{"".join(lines)}</table></div>'


def charts(drawn: Iterable[str]) -> str:
    """Charts beside each other, as many as the screen is wide."""
    inner = "".join(f"<figure>{one}</figure>" for one in drawn)
    return f'<div class="charts">{inner}</div>' if inner else ""


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Which colour is what: (name, colour)."""
    inner = "".join(f'<span><i style="background:{color}"></i>{escape(name)}</span>' for name, color in names)
    return f'<div class="legend">{inner}</div>'


def note(text: str) -> str:
    """A sentence in a softer colour."""
    return f'<p class="soft">{escape(text)}</p>'


def folded(title: str, content: str) -> str:
    """What is shown on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def standalone(svg: str) -> str:
    """A chart outside of the page: its style within, in the colours of the light page."""

    def value(found: re.Match[str]) -> str:
        return _LIGHT[found.group(1)]

    inner = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    inner = inner.replace(">", f"><style>{_SVG_STYLE}</style>", 1)
    return re.sub(r"var\(--(\w+)\)", value, inner)


def color_of(number: int) -> str:
    """The colour of a run, a rank or a class."""
    return COLORS[number % len(COLORS)]
