"""The report's segments: how good the forecast is for parts of the customers, see ``trainer.segments``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer import report_page
from trainer.evaluation_text import format_interval, format_metric
from trainer.report_page import Html, html, money

TITLE = "Is it right for everybody?"
_DIMENSIONS = {
    "history": "By history",
    "newness": "Among them, new ones",
    "country": "By country",
    "cohort": "By month of the first order",
}
_NAMES = {
    "today": "first seen on the last day",
    "one-time": "bought on one day, longer ago",
    "repeat": "bought on two days or more",
    "new": "first order in the last 30 days",
}
_LOSSES = {"rmse_capped": "value", "poisson_deviance": "orders"}
_HEAD = [
    "", "Customers", "Bought", "Value happened", "Value forecast", "Forecast too high by", "Ranking (Gini)",
    "Above their p90", "Better than the average",
]  # fmt: skip


def section(segments: Mapping[str, Mapping[str, Any]] | None) -> Html:
    if not segments:
        text = "Not known: the model was judged by an earlier version of this code."
        return report_page.section("segments", TITLE, report_page.paragraph(text))
    rows: list[list[object]] = []
    for dimension, parts in segments.items():
        rows.append([Html(f"<strong>{html(_DIMENSIONS.get(dimension, dimension))}</strong>"), *[""] * (len(_HEAD) - 1)])
        rows += [
            _row(_NAMES.get(name, name) if dimension in ("history", "newness") else name, of)
            for name, of in parts.items()
        ]
    aid = (
        "Each line is judged by itself: a forecast that is too high or too low by much, or no ✓ in the last column, says that the forecast knows little "
        "about these customers."
    )
    note = (
        "Better than the average: whether the customers' own forecasts of value and of orders beat giving each of them the mean "
        "of everybody's (✓ clearly better, ✗ clearly worse, ≈ no clear difference, by paired bootstrap). Below a "
        "percentage: its 95% interval; below 0% the forecast is too low. Money is in the orders' currency."
    )
    return report_page.section(
        "segments", TITLE, report_page.paragraph(aid), report_page.table(_HEAD, rows, "segments"),
        report_page.paragraph(note, "small"),
    )  # fmt: skip


def _row(name: str, of: Mapping[str, Any]) -> list[object]:
    measured, intervals = of["metrics"], of["intervals"]
    interval = format_interval("total_bias", intervals["total_bias"])
    return [
        Html(f'<span class="indent">{html(name)}</span>'),
        f"{of['customers']:,}",
        f"{of['buyers']:,}",
        money(of["actual_total"]),
        money(of["predicted_total"]),
        Html(
            f'{html(format_metric("total_bias", measured["total_bias"]))}<span class="interval">{html(interval)}</span>'
        ),
        format_metric("normalised_gini", measured["normalised_gini"]),
        format_metric("share_above_p90", measured["share_above_p90"]),
        _against_average(of["paired"]),
    ]


def _against_average(paired: Mapping[str, list[float | None]]) -> Html:
    """Marks for both losses, of which less is better; in words where the customers are too few."""
    if any(None in interval for interval in paired.values()):
        return html("too few to say")
    return Html("<br>".join(f"{html(spoken)} {_mark(paired[loss])}" for loss, spoken in _LOSSES.items()))


def _mark(interval: list[float | None]) -> Html:
    low, high = interval
    if high is not None and high < 0:
        return report_page.mark("better")
    return report_page.mark("worse" if low is not None and low > 0 else "equal")
