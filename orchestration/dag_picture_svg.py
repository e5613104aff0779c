"""DAGs as a picture: tasks become boxes from left to right, those of a group from its top down, in an SVG.

Pure, and the same bytes for the same DAGs. Lengths are pixels of a picture about 900 wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Edge = tuple[str, str]
DATAFLOW, VERTEX, WORKER = "Dataflow", "Vertex AI", "Airflow's worker"


@dataclass(frozen=True)
class Task:
    """``ends_run``: whether it may have all behind it skipped."""

    name: str
    place: str
    mapped: bool
    ends_run: bool


@dataclass(frozen=True)
class Group:
    """Its ``edges`` are between the names of its ``children``."""

    name: str
    children: Sequence[Task | Group]
    edges: Sequence[Edge]


@dataclass(frozen=True)
class Dag:
    """One DAG.

    Attributes:
      outlets: the URIs of the assets that a task makes events of.
      started_by: the URIs of the assets whose events start a run.
    """

    name: str
    schedule: str
    body: Group
    outlets: Mapping[str, Sequence[str]]
    started_by: Sequence[str]


@dataclass(frozen=True)
class Box:
    """A task or group in its place; ``inside`` are a group's own boxes."""

    what: Task | Group
    x: float
    y: float
    width: float
    height: float
    inside: tuple[Box, ...] = ()

    def moved(self, x: float, y: float) -> Box:
        inside = tuple(box.moved(x, y) for box in self.inside)
        return Box(self.what, self.x + x, self.y + y, self.width, self.height, inside)

    def all(self) -> Iterator[Box]:
        yield self
        for box in self.inside:
            yield from box.all()


_SIZE, _CHARACTER = 12.5, 6.7  # of the letters, and how wide one is at most on average
_HEIGHT, _PADDING, _LABEL = 30.0, 12.0, 22.0  # of a task; around a group's boxes; of a group's name above them
_ACROSS, _DOWN = 26.0, 18.0  # room for an arrow
_BESIDE = 12.0  # between boxes that wait for the same ones
_MARGIN, _TITLE, _BETWEEN = 16.0, 46.0, 58.0  # around it all; of a DAG's name; from one DAG to the next
_STACK = 4.0  # by which a mapped task's boxes stand out
_COLOURS = {DATAFLOW: ("#dbeafe", "#2563eb"), VERTEX: ("#ede9fe", "#7c3aed"), WORKER: ("#f1f5f9", "#64748b")}
_INK, _PALE, _ASSET, _GOLD = "#1e293b", "#64748b", "#fef3c7", "#d97706"


def svg(dags: Sequence[Dag]) -> str:
    """The picture of the DAGs, one below the other, and of the assets by which one starts another."""
    bodies = [_arranged(dag.body, down=False) for dag in dags]
    inner = max(box.x + box.width for body in bodies for box in body) + _BESIDE + _MARGIN
    width, y = max(inner + 3 * _MARGIN, _LEGEND_WIDTH), _MARGIN
    lines, assets = list[str](), dict[str, float]()
    for dag, body in zip(dags, bodies, strict=True):
        top, bottom = min(box.y for box in body), max(box.y + box.height for box in body)
        height = _TITLE + bottom - top + _MARGIN
        lines += _panel(dag, y, width - 2 * _MARGIN, height)
        placed = [box.moved(2 * _MARGIN, y + _TITLE - top) for box in body]
        for uri in dag.started_by:
            if uri in assets:
                lines += _asset(uri, assets[uri], y)
        lines += _arrows(dag.body, placed, down=False)
        for box in placed:
            lines += _drawn(box)
        for box in (each for one in placed for each in one.all() if each.what.name in dag.outlets):
            right = max(one.x + one.width for one in placed if box in one.all()) + _BESIDE
            assets |= dict.fromkeys(dag.outlets[box.what.name], right)
            middle = box.y + box.height / 2
            corners = [(box.x + box.width, middle), (right, middle), (right, y + height + _BETWEEN / 2)]
            lines.append(_line(corners, _GOLD))
        y += height + _BETWEEN
    lines += _legend(y - _BETWEEN + 2 * _MARGIN)
    return _page(width, y - _BETWEEN + 4 * _MARGIN, dags, lines)


def _arranged(group: Group, down: bool) -> list[Box]:
    """A group's boxes, those of a rank behind those they wait for.

    The first rank begins at 0. Across, a rank is centred on 0 where they go down, else its first box is: the main line.
    """
    ranks, boxes, along = _ranks(group), list[Box](), 0.0
    for rank in range(max(ranks.values()) + 1):
        row = [_box(child) for child in _by_weight(group) if ranks[child.name] == rank]
        if down:
            total = sum(box.width for box in row) + _BESIDE * (len(row) - 1)
            across = -total / 2
        else:
            across = -row[0].height / 2
        for box in row:
            boxes.append(box.moved(across, along) if down else box.moved(along, across))
            across += (box.width if down else box.height) + _BESIDE
        along += max((each.height if down else each.width) for each in row) + (_DOWN if down else _ACROSS)
    return boxes


def _box(what: Task | Group) -> Box:
    """At 0, 0."""
    if isinstance(what, Task):
        name = what.name.rpartition(".")[2]
        return Box(what, 0, 0, math.ceil(len(name) * _CHARACTER + 2 * _PADDING), _HEIGHT)
    boxes = _arranged(what, down=True)
    left, right = min(box.x for box in boxes), max(box.x + box.width for box in boxes)
    bottom = max(box.y + box.height for box in boxes)
    inside = tuple(box.moved(_PADDING - left, _LABEL + _PADDING / 2) for box in boxes)
    return Box(what, 0, 0, right - left + 2 * _PADDING, bottom + _LABEL + 1.5 * _PADDING, inside)


def _ranks(group: Group) -> dict[str, int]:
    """By a child's name the length of the longest way to it."""
    before: dict[str, list[str]] = {child.name: [] for child in group.children}
    for first, second in group.edges:
        before[second].append(first)

    def rank(name: str) -> int:
        return max((1 + rank(each) for each in before[name]), default=0)

    return {name: rank(name) for name in before}


def _by_weight(group: Group) -> list[Task | Group]:
    """The children with the longest way behind them first: that is the main line."""
    after = {child.name: [behind for before, behind in group.edges if before == child.name] for child in group.children}

    def rest(name: str) -> int:
        return max((1 + rest(each) for each in after[name]), default=0)

    return sorted(group.children, key=lambda child: (-rest(child.name), isinstance(child, Task), child.name))


def _panel(dag: Dag, y: float, width: float, height: float) -> list[str]:
    when = dag.schedule + (", and when the asset has a new event" if dag.started_by else "")
    return [
        f'<rect x="{_MARGIN:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" fill="#ffffff" stroke="#cbd5e1"/>',
        _text(2 * _MARGIN, y + 28, dag.name, 'font-weight="600" font-size="15"'),
        _text(2 * _MARGIN + len(dag.name) * 8.6 + 14, y + 28, when, f'fill="{_PALE}"'),
    ]


def _drawn(box: Box) -> list[str]:
    place = f'x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}"'
    if isinstance(box.what, Group):
        return [
            f'<rect {place} rx="9" fill="#f8fafc" stroke="#cbd5e1"/>',
            _text(box.x + _PADDING, box.y + 16, box.what.name, f'fill="{_PALE}" font-size="11.5"'),
            *_arrows(box.what, box.inside, down=True),
            *(line for each in box.inside for line in _drawn(each)),
        ]
    return _task(box.what, box)


def _task(task: Task, box: Box) -> list[str]:
    fill, stroke = _COLOURS[task.place]
    dashed = ' stroke-dasharray="5 3"' if task.ends_run else ""
    shifts = (2 * _STACK, _STACK, 0) if task.mapped else (0,)
    boxes = [
        f'<rect x="{box.x + by:g}" y="{box.y + by:g}" width="{box.width:g}" height="{box.height:g}" rx="6" fill="{fill}" '
        f'stroke="{stroke}"{dashed}/>'
        for by in shifts
    ]
    name = task.name.rpartition(".")[2]
    return [*boxes, _text(box.x + box.width / 2, box.y + box.height / 2 + 4.5, name, 'text-anchor="middle"')]


def _arrows(group: Group, boxes: Sequence[Box], down: bool) -> list[str]:
    at = {box.what.name: box for box in boxes}
    return [_arrow(at[before], at[behind], down) for before, behind in group.edges]


def _arrow(before: Box, behind: Box, down: bool) -> str:
    if down:
        x, y = before.x + before.width / 2, before.y + before.height
        to_x, to_y = behind.x + behind.width / 2, behind.y
        bend = (to_y - y) / 2
        path = f"M{x:g} {y:g} C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y - 1:g}"
    else:
        x, y = before.x + before.width, before.y + before.height / 2
        to_x, to_y = behind.x, behind.y + behind.height / 2
        bend = (to_x - x) / 2
        path = f"M{x:g} {y:g} C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x - 1:g} {to_y:g}"
    return f'<path d="{path}" fill="none" stroke="{_PALE}" stroke-width="1.4" marker-end="url(#arrow)"/>'


def _line(points: Sequence[tuple[float, float]], colour: str, more: str = "") -> str:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" stroke-dasharray="4 3"{more}/>'


def _asset(uri: str, x: float, bottom: float) -> list[str]:
    """The asset between the DAG that makes its events and the one below that they start."""
    name = "asset " + "/".join(uri.split("/")[-3:])
    width, middle = len(name) * _CHARACTER + 2 * _PADDING, bottom - _BETWEEN / 2
    left = x - width + _PADDING
    return [
        _line([(x, middle), (x, bottom - 1)], _GOLD, ' marker-end="url(#event)"'),
        f'<rect x="{left:g}" y="{middle - 13:g}" width="{width:g}" height="26" rx="13" fill="{_ASSET}" stroke="{_GOLD}"/>',
        _text(left + width / 2, middle + 4.5, name, 'text-anchor="middle"'),
    ]


def _legend(y: float) -> list[str]:
    x, lines = 2 * _MARGIN, list[str]()
    for mark in _MARKS:
        lines += _task(Task("", mark.place, mark.mapped, mark.ends_run), Box(mark, x, y - 10, 22, 14))
        lines.append(_text(x + 36, y + 2, mark.name, f'fill="{_PALE}"'))
        x += _mark_width(mark)
    return lines


def _mark_width(mark: Task) -> float:
    return 36 + len(mark.name) * _CHARACTER + 22


_MARKS = [
    *(Task(place, place, False, False) for place in _COLOURS),
    Task("one for each snapshot", DATAFLOW, True, False),
    Task("may skip the rest", WORKER, False, True),
]
_LEGEND_WIDTH = 4 * _MARGIN + sum(map(_mark_width, _MARKS))


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


def _page(width: float, height: float, dags: Sequence[Dag], lines: Sequence[str]) -> str:
    marker = (
        '<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="{}"/></marker>'
    )
    title = escape("The Airflow DAGs " + " and ".join(dag.name for dag in dags))
    page = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" '
        f'font-size="{_SIZE:g}" fill="{_INK}">'
    )
    return "\n".join([
        page,
        f"<title>{title}</title>",
        f'<defs>{marker.format("arrow", _PALE)}{marker.format("event", _GOLD)}</defs>',
        f'<rect width="{width:g}" height="{height:g}" rx="12" fill="#f1f5f9"/>',
        *lines,
        "</svg>",
        "",
    ])  # fmt: skip
