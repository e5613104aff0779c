"""The report's weeks and months: the purchases that happened beside those expected, see ``trainer.tracking``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from trainer import report_charts, report_page
from trainer.activity import WEEK_DAYS
from trainer.report_page import Html

TITLE = "Do the purchases come when expected?"
ABSENT = (
    "Not known: it takes a model that was judged on later days, on all the customers of a snapshot that holds their daily "
    "activity, and customers who have bought again."
)
_PURCHASES = {"pareto": "Pareto/NBD", "mbgnbd": "MBG/NBD", "bgnbd": "BG/NBD"}
_HISTORY = "history"


def section(evaluation: dict[str, Any]) -> Html:
    if not evaluation.get("weeks"):
        return report_page.section("weeks", TITLE, report_page.paragraph(ABSENT))
    weeks, purchases = evaluation["weeks"], _PURCHASES[evaluation["tracked_by"]]
    aid = (
        "The dark line is what happened, the others what was expected: the closer, the better. Right of the dotted line lie the "
        "days that were forecast; there a dark line above the blue one means that customers bought more often than forecast."
    )
    note = (
        "Counted are days on which a customer bought again; first purchases are nobody's to forecast here. Left of the line "
        f"{purchases} is asked what it expects of customers of whom it knows nothing but the first day, right of it what "
        "it expects of the same customers given all they did. The model's line has the model's own total and that one's course."
    )
    return report_page.section(
        "weeks", TITLE,
        report_page.figure(chart(weeks, purchases), "weeks", aid, "Repeat purchases a week"),
        report_page.paragraph(note, "small"),
        *_months(evaluation["months"]),
    )  # fmt: skip


def chart(weeks: Sequence[dict[str, Any]], purchases: str) -> go.Figure:
    """Weeks of ``trainer.tracking.weeks``; a short last one is shown as if it went on alike."""
    result = report_charts.blank("", "Repeat purchases a week", 440)
    lines = (
        ("what happened", "repeat", report_charts.ACTUAL_COLOUR, 2.5, "solid"),
        (f"expected by {purchases}", "expected", report_charts.BEST_COLOUR, 2, "dash"),
        ("expected by the model", "model", report_charts.MODEL_COLOUR, 3, "solid"),
    )
    for name, key, colour, width, dash in lines:
        shown = [week for week in weeks if week[key] is not None]
        result.add_scatter(
            x=[week["start"] for week in shown], y=[_a_week(week, key) for week in shown], name=name, mode="lines",
            line={"color": colour, "width": width, "dash": dash}, connectgaps=False,
            customdata=[week["days"] for week in shown],
            hovertemplate="%{customdata} days from %{x}: %{y:,.0f} a week<extra>" + name + "</extra>",
        )  # fmt: skip
    cutoff = next(week["start"] for week in weeks if week["window"] != _HISTORY)
    result.add_shape(
        type="line",
        x0=cutoff,
        x1=cutoff,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": "#5b6875", "width": 1.5, "dash": "dot"},
    )
    result.update_yaxes(rangemode="tozero", tickformat=",~g")
    return result


def _a_week(week: dict[str, Any], key: str) -> float:
    return round(float(week[key]) * WEEK_DAYS / week["days"], 2)


def _months(months: Sequence[dict[str, Any]]) -> list[Html]:
    rows = [
        [
            month["month"] if month["complete"] else f"{month['month']} ({month['days']} days)",
            f"{month['order_days']:,}",
            f"{month['expected']:,.0f}",
            "-" if month["ratio"] is None else f"{month['ratio']:.0%}",
        ]
        for month in months
    ]
    aid = "The same by month: at 100% customers bought as often as the model expected, above it more often."
    head = ["Month", "Order days", "Expected", "Happened / expected"]
    return [report_page.paragraph(aid), report_page.table(head, rows)]
