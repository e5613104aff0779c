"""The HTML of the report: page, sections, tables, figures. Everything a page needs is inside it.

Text given to these functions is escaped here; only ``Html`` is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Html(str):
    """Text that is HTML already."""


def html(text: object) -> Html:
    return text if isinstance(text, Html) else Html(escape(str(text)))


def joined(parts: Iterable[object]) -> Html:
    return Html("".join(html(part) for part in parts))


def money(value: float) -> str:
    """Thousands separators; decimals only where they matter."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def paragraph(text: object, css: str = "") -> Html:
    return Html(f'<p class="{css}">{html(text)}</p>' if css else f"<p>{html(text)}</p>")


def section(identifier: str, title: str, *parts: object) -> Html:
    return Html(f'<section id="{identifier}"><h2>{escape(title)}</h2>{joined(parts)}</section>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], css: str = "") -> Html:
    """The first column holds names, the others numbers; scrolls sideways on a narrow screen."""
    titles = "".join(f'<th scope="col">{html(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{html(name)}</th>' + "".join(f"<td>{html(cell)}</td>" for cell in cells) + "</tr>"
        for name, *cells in rows
    )
    return Html(
        f'<div class="scroll"><table class="{css}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


@dataclass(frozen=True)
class Card:
    """One key figure."""

    title: str
    figure: str
    note: str


def cards(content: Iterable[Card]) -> Html:
    boxes = "".join(
        f'<div class="card"><div class="what">{escape(card.title)}</div><div class="figure">{escape(card.figure)}</div>'
        f'<div class="note">{escape(card.note)}</div></div>'
        for card in content
    )
    return Html(f'<div class="cards">{boxes}</div>')


def figure(chart: go.Figure, identifier: str, reading_aid: str, title: str = "") -> Html:
    """A chart under one sentence that says how to read it."""
    body = chart.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"chart-{identifier}",
        default_height=f"{chart.layout.height}px",
        config={"responsive": True, "displayModeBar": False},
    )
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return Html(f"<figure>{heading}<figcaption>{escape(reading_aid)}</figcaption>{body}</figure>")


def side_by_side(*figures: Html) -> Html:
    return Html(f'<div class="pair">{joined(figures)}</div>')


def bullets(lines: Iterable[object]) -> Html:
    return Html(f"<ul>{''.join(f'<li>{html(line)}</li>' for line in lines)}</ul>")


def facts(content: Mapping[str, object]) -> Html:
    """Names and values."""
    return Html(
        f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{html(value)}</dd>' for name, value in content.items())}</dl>"
    )


_MARKS = {
    "better": ("✓", "the model is clearly better"),
    "worse": ("✗", "the model is clearly worse"),
    "equal": ("≈", "no clear difference"),
}


def mark(kind: str = "") -> Html:
    """better, worse or equal as one sign; without kind the room it would take."""
    if not kind:
        return Html('<span class="mark"></span>')
    sign, meaning = _MARKS[kind]
    return Html(f'<span class="mark {kind}" title="{meaning}">{sign}</span>')


def details(title: str, content: Mapping[str, object], unfolded: bool = False) -> Html:
    """Names and values that fold away."""
    state = " open" if unfolded else ""
    return Html(f"<details{state}><summary>{escape(title)}</summary>{facts(content)}</details>")


_STYLE = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #dde3e9; --wash: #f5f7f9; --blue: #0072b2; --warm: #fff6e0; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Liberation Sans", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .2rem; }
p { margin: 0 0 .8rem; max-width: 44rem; }
.subtitle, .small, figcaption { color: var(--soft); }
.small { font-size: .875rem; }
.verdict { font-size: 1.2rem; line-height: 1.45; margin: 1.4rem 0; padding-left: 1rem;
  border-left: 4px solid var(--blue); }
.warning { background: var(--warm); border: 1px solid #ecd9a0; border-radius: 6px; padding: .6rem .9rem;
  max-width: none; }
section { margin-top: 2.75rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: .8rem; margin-bottom: 1rem; }
.card { background: var(--wash); border-radius: 8px; padding: .9rem 1rem; }
.card .what, .card .note { color: var(--soft); font-size: .875rem; line-height: 1.4; }
.card .figure { font-size: 1.6rem; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 1rem; min-width: 0; }
figcaption { max-width: 44rem; margin-bottom: .4rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .8rem 1.2rem; }
.multiple { border-top: 3px solid var(--line); padding-top: .5rem; min-width: 0; }
.multiple.warn { border-color: #e69f00; } .multiple.fail { border-color: #d55e00; }
.multiple figure { margin: 0; }
.multiple h3 { overflow-wrap: anywhere; }
.multiple figcaption { font-size: .8rem; line-height: 1.35; min-height: 2.7em; overflow-wrap: anywhere; }
.multiple.warn figcaption, .multiple.fail figcaption { color: var(--ink); font-weight: 500; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.alarms { margin: 0 0 1rem; padding-left: 1.2rem; font-size: .925rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-bottom: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .925rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line);
  white-space: normal; }
th:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
tbody th { font-weight: 500; }
table.metrics tbody th { min-width: 13rem; }
.indent { display: block; padding-left: 1rem; color: var(--soft); font-weight: 400; }
table.metrics th, table.metrics td, table.segments th, table.segments td { padding-left: .45rem; padding-right: .45rem; }
table.metrics th:first-child, table.segments th:first-child { padding-left: 0; }
table.segments strong { white-space: nowrap; }
table.metrics td:nth-child(2) { font-weight: 600; background: var(--wash); }
.explain { display: block; color: var(--soft); font-weight: 400; font-size: .825rem; line-height: 1.35; }
.interval { display: block; color: var(--soft); font-weight: 400; font-size: .8rem; }
.mark { display: inline-block; width: 1.1em; text-align: center; font-weight: 600; }
.better { color: #00694c; } .worse { color: #b34700; } .equal { color: var(--soft); }
tr.total th, tr.total td { font-weight: 600; }
details { margin-bottom: .8rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(9rem, 16rem) 1fr; gap: .15rem 1rem; margin: .5rem 0 0;
  font-size: .875rem; }
dl + h3, ul + h3, .scroll + h3 { margin-top: 1.4rem; }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 720px) {
  main { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .verdict { font-size: 1.08rem; }
  .pair { grid-template-columns: minmax(0, 1fr); }
  .cards { grid-template-columns: 1fr 1fr; }
  .card { padding: .7rem .75rem; }
  .card .figure { font-size: 1.3rem; }
  dl { grid-template-columns: minmax(0, 8.5rem) minmax(0, 1fr); }
  .multiples { grid-template-columns: minmax(0, 1fr); }
  th:first-child { position: sticky; left: 0; background: #fff; min-width: 7rem; }
  table.metrics tbody th { min-width: 9.5rem; }
  th, td { padding: .4rem .5rem; }
}
@media print { section { break-inside: avoid; } }
"""

# The browser itself refuses every connection: the page can be mailed and opened anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, *parts: object) -> str:
    """A whole document with the chart library in it, once (about 4.7 MB)."""
    from plotly.offline import get_plotlyjs

    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><main>{joined(parts)}</main></body></html>\n"
    )
