"""The report's map of customers by frequency and recency: what each kind is forecast, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from trainer import report_charts, report_page
from trainer.metrics import Array
from trainer.report_page import Html

TITLE = "Which customers are worth most?"
COLUMNS = ("frequency", "days_since_last")
ABSENT = "Not shown: the evaluation of this model does not hold how often and how lately its customers bought."
# The mean of fewer is hardly more than the luck of one of them.
LEAST_CUSTOMERS = 20
_FREQUENCIES = (0, 1, 2, 3, 4, 6, 10, 20)
_DAYS = (1, 8, 31, 61, 91, 181, 366, 731)
_SHADES = [[0, "#eef4f9"], [0.5, "#7db3d8"], [1, "#0b5c8f"]]
_DARK_FROM = 0.6  # of the scale: from there on dark text cannot be read


@dataclass(frozen=True)
class Cells:
    """[rows, columns] of customers, and sums of what they were forecast and of what they brought (money).

    ``rows``: by repeat order days, ``columns``: by days since the last order.
    """

    rows: list[str]
    columns: list[str]
    customers: Array
    predicted: Array
    actual: Array

    def means(self, total: Array) -> Array:
        """Money per customer; NaN where there are fewer than ``LEAST_CUSTOMERS``."""
        enough = self.customers >= LEAST_CUSTOMERS
        return np.where(enough, total / np.maximum(self.customers, 1), np.nan)


def section(columns: Mapping[str, Array] | None) -> Html:
    """``columns``: frequency, days_since_last, predicted_value and future_value of the judged customers, (n,) each."""
    if columns is None:
        return report_page.section("frequency", TITLE, report_page.paragraph(ABSENT))
    found = cells(columns)
    predicted, actual = found.means(found.predicted), found.means(found.actual)
    if np.isnan(predicted).all():
        text = (
            f"Not shown: nowhere are there {LEAST_CUSTOMERS} customers who bought as often and as lately as each other."
        )
        return report_page.section("frequency", TITLE, report_page.paragraph(text))
    aid = "Darker is more money per customer; numbers next to each other should be alike in both."
    charts = [
        report_page.figure(heat_map(found, means, (predicted, actual)), f"frequency-{name}", aid_of, title)
        for name, title, means, aid_of in (
            ("forecast", "Forecast", predicted, aid),
            ("actual", "What happened", actual, "The same customers, what they spent in the days that were forecast."),
        )
    ]
    note = (
        "Up: on how many further days a customer has bought; to the right: how long ago the last was. Empty fields have fewer than "
        f"{LEAST_CUSTOMERS} customers. Someone who bought often and then no more has probably left: the upper right."
    )
    return report_page.section(
        "frequency", TITLE, report_page.side_by_side(*charts), report_page.paragraph(note, "small")
    )


def cells(columns: Mapping[str, Array]) -> Cells:
    """Sums over the fields; rows and columns without a customer at either end are left out."""
    row = np.searchsorted(_FREQUENCIES, columns["frequency"], "right") - 1
    column = np.searchsorted(_DAYS, columns["days_since_last"], "right") - 1
    shape = (len(_FREQUENCIES), len(_DAYS))

    def summed(values: Array | None = None) -> Array:
        place = row * shape[1] + np.maximum(column, 0)
        return np.bincount(place, values, shape[0] * shape[1]).reshape(shape).astype(np.float64)

    customers = summed()
    rows, days = _filled(customers.sum(axis=1)), _filled(customers.sum(axis=0))
    kept = (rows, days)
    return Cells(
        _labels(_FREQUENCIES)[rows], _labels(_DAYS)[days], customers[kept],
        summed(columns["predicted_value"])[kept], summed(columns["future_value"])[kept],
    )  # fmt: skip


def _filled(counts: Array) -> slice:
    present = np.flatnonzero(counts)
    return slice(int(present[0]), int(present[-1]) + 1)


def _labels(edges: tuple[int, ...]) -> list[str]:
    inner = [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    return [*inner, f"{edges[-1]}+"]


def heat_map(found: Cells, means: Array, shown: tuple[Array, ...]) -> go.Figure:
    """Means of each field; one logarithmic scale of colour for all maps ``shown``."""
    chart = report_charts.blank("Days since the last order", "Repeat order days", 420)
    every = np.concatenate([part.ravel() for part in shown])
    positive = every[every > 0]
    low, high = (float(np.log10(positive.min())), float(np.log10(positive.max()))) if positive.size else (0.0, 1.0)
    shade = np.log10(np.maximum(means, 10**low))
    chart.add_heatmap(
        x=found.columns, y=found.rows, z=_or_none(np.round(shade, 4)), zmin=low, zmax=max(high, low + 1e-9),
        colorscale=_SHADES, showscale=False, xgap=2, ygap=2, hoverongaps=False,
        customdata=np.dstack([found.customers, np.nan_to_num(means)]),
        hovertemplate="%{customdata[0]:,} customers, %{customdata[1]:,.2f} each<extra></extra>",
    )  # fmt: skip
    for i, name in enumerate(found.rows):
        for j, column in enumerate(found.columns):
            if not np.isnan(means[i, j]):
                dark = shade[i, j] > low + _DARK_FROM * (high - low)
                chart.add_annotation(
                    x=column, y=name, text=_short(means[i, j]), showarrow=False,
                    font={"size": 11, "color": "#ffffff" if dark else "#1c2733"},
                )  # fmt: skip
    chart.update_xaxes(type="category", showgrid=False, tickangle=0, tickfont={"size": 11})
    chart.update_yaxes(type="category", showgrid=False)
    return chart


def _short(value: float) -> str:
    """As many digits as a field has room for."""
    if value >= 9_999.5:
        return f"{value / 1e6:.1f}M" if value >= 999_500 else f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _or_none(values: NDArray[Any]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]
