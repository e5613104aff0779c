"""The report's comparison of the customers to forecast with those learned from: small charts from sketches alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from trainer import report_charts, report_page
from trainer.metrics import Array
from trainer.report_page import Html, html
from transforms.schema import Type
from transforms.sketches import Numbers, Sketch, Texts, upper_end
from transforms.statistics import DESCRIBED, Split, Statistics

TITLE = "Are these the customers it learned from?"
_MEASURES = (
    "Missing, zeros and categories are differences of shares; divergence compares the values other than 0 (Jensen-Shannon: "
    "0 = alike, 1 = nothing in common). Each is less what chance makes of equal customers."
)
TEXTS_SHOWN = 8
MISSING, ZERO, OTHERS = "missing", "0", "others"
_LEVELS = ("fail", "warn", "ok")
# Within it lies nearly everybody; the ends of the axis take who does not.
_SHOWN = (0.01, 0.99)
# A wider range is cut at 1, 2, 5, 10, ...: evenly cut, nearly everybody would be in its first bin.
_EVEN_UP_TO_RATIO = 15
_EVEN_BINS = 10
_FEW = 0.02


@dataclass(frozen=True)
class Compared:
    """Statistics of the training and of the serving customers, and ``skew.json``."""

    training: Statistics
    serving: Statistics
    comparison: dict[str, Any]


@dataclass(frozen=True)
class Bars:
    """Shares of all customers in each bin, missing values included: (n,) training, (n,) serving."""

    labels: list[str]
    training: Array
    serving: Array


def section(compared: Compared | None, absent: str) -> Html:
    """The section; ``absent`` is said where there is nothing to compare."""
    if compared is None:
        return report_page.section("skew", TITLE, report_page.paragraph(absent))
    training, serving = compared.training.whole(), compared.serving.whole()
    charts, plain = [], []
    for name, differences in _by_alarm(compared.comparison):
        if _differs_within(training.column(name), serving.column(name)):
            charts.append(_multiple(name, differences, bars(name, training, serving)))
        else:
            plain.append(name)
    aid = Html(
        "Each chart shows how the customers share out over a feature's values: "
        f'<span class="key" style="background:{report_charts.ACTUAL_COLOUR}"></span> those it learned from, '
        f'<span class="key" style="background:{report_charts.MODEL_COLOUR}"></span> those it forecasts. '
        "What changed most comes first."
    )
    parts = [_verdict(compared.comparison, training, serving), report_page.paragraph(aid)]
    parts.append(Html(f'<div class="multiples">{report_page.joined(charts)}</div>'))
    parts.append(report_page.paragraph(_MEASURES, "small"))
    if plain:
        text = f"Not shown, since nobody or everybody has the same value: {', '.join(sorted(plain))}."
        parts.append(report_page.paragraph(text, "small"))
    return report_page.section("skew", TITLE, *parts)


def _verdict(comparison: dict[str, Any], training: Split, serving: Split) -> Html:
    count = f"{serving.rows:,} customers to forecast beside {training.rows:,} it learned from"
    alarms = comparison["alarms"]
    if not alarms:
        return report_page.paragraph(f"{count}: they are alike, no difference is beyond its threshold.")
    items = "".join(f"<li>{html(alarm)}</li>" for alarm in alarms)
    end = "Not to be used." if comparison["failed"] else "Worth knowing, but within what is accepted."
    intro = (
        f"{count}: {len(alarms)} {'difference is' if len(alarms) == 1 else 'differences are'} beyond a threshold. {end}"
    )
    return report_page.joined([report_page.paragraph(intro), Html(f'<ul class="alarms">{items}</ul>')])


def _by_alarm(comparison: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Features with their differences: failures, warnings, the others; the largest first within each."""
    by_feature: dict[str, list[dict[str, Any]]] = {}
    for difference in comparison["differences"]:
        if difference["feature"] in DESCRIBED:
            by_feature.setdefault(difference["feature"], []).append(difference)
    for differences in by_feature.values():
        differences.sort(key=lambda difference: (_LEVELS.index(difference["level"]), -difference["value"]))
    return sorted(
        by_feature.items(), key=lambda item: (_LEVELS.index(item[1][0]["level"]), -item[1][0]["value"], item[0])
    )


def _differs_within(*sketches: Sketch) -> bool:
    """Whether there are two different values, or a value and a missing one, among all the customers."""
    values: set[Any] = set()
    for sketch in sketches:
        values |= set(sketch.counts if isinstance(sketch, Texts) else sketch.histogram)
        values |= {None} if sketch.missing else set()
    return len(values) > 1


def _multiple(name: str, differences: list[dict[str, Any]], shown: Bars) -> Html:
    largest = differences[0]
    said = f"{largest['metric']} {largest['value']:.2g}: {largest['detail']}"
    if not largest["value"]:
        said = "no difference beyond chance"
    mark = "" if largest["level"] == "ok" else f"{largest['level']}: "
    chart = report_charts.small_pair(shown.labels, shown.training, shown.serving)
    figure = report_page.figure(chart, f"skew-{name}", f"{mark}{said}", name)
    return Html(f'<div class="multiple {largest["level"]}">{figure}</div>')


def bars(name: str, training: Split, serving: Split) -> Bars:
    """One feature's values in bins that people read: single values, even steps, or 1, 2, 5, 10, ..."""
    sketches = (training.column(name), serving.column(name))
    if DESCRIBED[name].type is Type.STRING:
        labels, counted = _text_counts([sketch for sketch in sketches if isinstance(sketch, Texts)])
    else:
        numbers = [sketch for sketch in sketches if isinstance(sketch, Numbers)]
        labels, counted = _number_counts(numbers, DESCRIBED[name].type is Type.INT)
    if any(sketch.missing for sketch in sketches):
        labels = [MISSING, *labels]
        counted = [np.append(sketch.missing, part) for sketch, part in zip(sketches, counted, strict=True)]
    shares = [part / max(1, sketch.rows) for sketch, part in zip(sketches, counted, strict=True)]
    return Bars(labels, *shares)


def _text_counts(sketches: Sequence[Texts]) -> tuple[list[str], list[Array]]:
    """The most frequent values by their larger share, and all others together."""
    largest: dict[str, float] = {}
    for sketch in sketches:
        for text, count in sketch.counts.items():
            largest[text] = max(largest.get(text, 0.0), count / sketch.count)
    labels = sorted(largest, key=lambda text: (-largest[text], text))[:TEXTS_SHOWN]
    counted = [np.array([sketch.counts.get(text, 0) for text in labels], np.float64) for sketch in sketches]
    rest = [sketch.count - part.sum() for sketch, part in zip(sketches, counted, strict=True)]
    if any(rest):
        counted = [np.append(part, other) for part, other in zip(counted, rest, strict=True)]
        # A value may have this very name; two bars must not become one.
        labels.append(OTHERS if OTHERS not in labels else f"({OTHERS})")
    return labels, counted


@dataclass(frozen=True)
class _Side:
    """A sketch's positive values, or the sizes of its negative ones: (n,) buckets from ``starts`` to ``ends``, ascending."""

    starts: Array
    ends: Array
    counts: Array

    @classmethod
    def of(cls, sketch: Numbers, sign: int, whole: bool) -> _Side:
        keys = sorted(abs(key) for key in sketch.histogram if key * sign > 0)
        counts = np.array([sketch.histogram[sign * key] for key in keys], np.float64)
        smallest, largest = sorted((sketch.minimum * sign, sketch.maximum * sign))
        starts = np.array([max(upper_end(key - 1), smallest) if key > 1 else 0.0 for key in keys])
        ends = np.array([min(upper_end(key), largest) for key in keys])
        if whole:
            # The whole numbers of a bucket; the end of one may itself be one, but for a last digit.
            inner = np.floor(starts * (1 + 1e-9)) + 1
            inner = np.where(starts == smallest, smallest, inner)
            starts, ends = inner, np.maximum(np.floor(ends * (1 + 1e-9)), inner)
            return cls(starts - 0.5, ends + 0.5, counts)
        return cls(starts, np.maximum(ends, starts * (1 + 1e-12)), counts)

    def below(self, sizes: Array) -> Array:
        """How many are smaller, (m,): as if each bucket's values were spread evenly over it."""
        if not self.counts.size:
            return np.zeros(sizes.size)
        before = np.append(0.0, np.cumsum(self.counts))
        at = np.searchsorted(self.ends, sizes)
        last = np.minimum(at, self.counts.size - 1)
        inside = np.clip((sizes - self.starts[last]) / (self.ends - self.starts)[last], 0, 1)
        return np.where(at < self.counts.size, before[last] + inside * self.counts[last], before[-1])


def _number_counts(sketches: Sequence[Numbers], whole: bool) -> tuple[list[str], list[Array]]:
    """Bins of the negative values, of 0 and of the positive ones, ascending; empty ones at both ends left out."""
    everybody = sum(sketch.count for sketch in sketches)
    labels, counted = [ZERO], np.array([[float(sketch.zeros)] for sketch in sketches])
    for sign in (-1, 1):
        sides = [_Side.of(sketch, sign, whole) for sketch in sketches]
        customers = sum(side.counts.sum() for side in sides)
        if not customers:
            continue
        # A handful of returns would else take half of the chart.
        edges = np.array([0.0, np.inf]) if customers < _FEW * everybody else _edges(sides, whole)
        below = np.array([side.below(edges[1:-1] - 0.5 * whole) for side in sides])
        totals = np.array([[side.counts.sum()] for side in sides])
        found = np.diff(below, axis=1, prepend=0.0, append=totals)
        names = _labels(edges, sides, sign, whole)
        labels = [*labels, *names] if sign > 0 else [*reversed(names), *labels]
        counted = np.hstack([counted, found] if sign > 0 else [found[:, ::-1], counted])
    filled = np.flatnonzero(counted.sum(axis=0))
    kept = slice(filled[0], filled[-1] + 1) if filled.size else slice(0, 0)
    return labels[kept], [part[kept] for part in counted]


def _edges(sides: Sequence[_Side], whole: bool) -> Array:
    """Ends of at least one bin, ascending; a bin holds its lower end, not its upper one."""
    sizes = np.concatenate([(side.starts + side.ends) / 2 for side in sides])
    # Each side counts as much as the other, however many more customers it has.
    weights = np.concatenate([side.counts / max(1.0, side.counts.sum()) for side in sides])
    order = np.argsort(sizes)
    ends = np.cumsum(weights[order]) / weights.sum()
    low, high = sizes[order][np.minimum(np.searchsorted(ends, _SHOWN), sizes.size - 1)].tolist()
    if high <= low * _EVEN_UP_TO_RATIO:
        step = max(_nice((high - low) / _EVEN_BINS or high / _EVEN_BINS), 1.0 if whole else 0.0)
        return np.arange(math.floor(low / step), math.floor(high / step) + 2) * step
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    steps = np.array([digit * 10.0**power for power in powers for digit in (1, 2, 5)])
    first, last = np.searchsorted(steps, [low, high], "right")
    return steps[first - 1 : last + 1]


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, ... from here on."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))


def _labels(edges: Array, sides: Sequence[_Side], sign: int, whole: bool) -> list[str]:
    """Of the bins by size; the outer ones say that they hold what is beyond, where there is some."""
    if np.isinf(edges[-1]):
        return ["above 0" if sign > 0 else "below 0"]
    labels = [_label(low, high, sign, whole) for low, high in pairwise(edges.tolist())]
    small, large = (f"{sign * edge:,.6g}" for edge in (edges[1], edges[-2]))
    present = [side for side in sides if side.counts.size]
    if len(labels) > 1 and min(side.starts[0] for side in present) < edges[0] - 0.5 * whole:
        labels[0] = f"{'under' if sign > 0 else 'above'} {small}"
    if max(side.ends[-1] for side in present) > edges[-1] - 0.5 * whole:
        labels[-1] = f"{large} and {'more' if sign > 0 else 'less'}"
    return labels


def _label(low: float, high: float, sign: int, whole: bool) -> str:
    if whole:
        low, high = max(low, 1.0), high - 1
    ends = (low,) if low == high else (low, high) if sign > 0 else (high, low)
    return " to ".join(f"{sign * end:,.6g}" for end in ends)
