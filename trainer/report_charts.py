"""The report's charts: arrays in, plotly figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from trainer.metrics import DECILES, Array, GainCurve

# Okabe and Ito (2008), "Color universal design": told apart with every kind of colour vision.
MODEL_COLOUR, ACTUAL_COLOUR, BEST_COLOUR = "#0072B2", "#3B4754", "#E69F00"
OTHER_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00")
_GRID = "#E6EAEE"
_BY_TENTH = "Tenth of customers, best first"
_CURVE_POINTS = 101
# Bars of a hundredth of the height cannot be read; from there on the axis is logarithmic.
_LOG_FROM_RATIO = 100
_MIN_BIN = 20
_SMALL_TICKS, _SMALL_TEXT = 4, 10  # what fits below a small chart


def colours(baselines: Sequence[str], best: str) -> dict[str, str]:
    """A colour for each baseline, the same in every chart."""
    others = [name for name in baselines if name != best]
    return {best: BEST_COLOUR, **{name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}}


def blank(x_title: str, y_title: str, height: int = 400) -> go.Figure:
    """A chart without content; heights in pixels, titles can be empty."""
    chart = go.Figure()
    chart.update_layout(
        height=height,
        margin={"l": 10, "r": 22, "t": 10, "b": 10},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={
            "family": "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, Arial, sans-serif",
            "size": 13,
            "color": "#1c2733",
        },
        legend={"orientation": "h", "traceorder": "normal", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"},
        bargap=0.25,
        hovermode="closest",
    )
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True, "fixedrange": True, "ticks": "outside"}
    axis |= {"ticklen": 5, "tickcolor": "white", "ticklabeloverflow": "allow"}
    chart.update_xaxes(title={"text": x_title, "font": {"size": 13}}, **axis)
    chart.update_yaxes(title={"text": y_title, "font": {"size": 13}}, **axis)
    return chart


def needs_log(values: Array) -> bool:
    positive = values[values > 0]
    return positive.size > 1 and positive.max() > _LOG_FROM_RATIO * np.median(positive)


def decile_means(curve: GainCurve) -> tuple[Array, Array]:
    """Mean actual and predicted value of a customer in each tenth by prediction, (10,) each."""
    actual, predicted = curve.by_decile()
    size = curve.customers[-1] / DECILES
    return actual / size, predicted / size


def decile_calibration(curve: GainCurve, name: str, colour: str, shown: Array) -> go.Figure:
    """Forecast beside what happened, per tenth by this forecast.

    ``shown`` is every mean on this chart and on those beside it: they get the same axis.
    """
    log = needs_log(shown)
    chart = blank(_BY_TENTH, "Money per customer", 380)
    tenths = list(range(1, DECILES + 1))
    actual, predicted = decile_means(curve)
    for title, values, paint in ((f"{name}: forecast", predicted, colour), ("what happened", actual, ACTUAL_COLOUR)):
        hover = "tenth %{x}: %{y:,.2f}<extra>" + title + "</extra>"
        if log:
            # A logarithmic axis has no zero for a bar to stand on.
            positive = [value if value > 0 else None for value in values.tolist()]
            chart.add_scatter(
                x=tenths, y=positive, name=title, mode="lines+markers", hovertemplate=hover,
                marker={"color": paint, "size": 9}, line={"color": paint, "width": 2},
            )  # fmt: skip
        else:
            chart.add_bar(x=tenths, y=values.tolist(), name=title, marker_color=paint, hovertemplate=hover)
    chart.update_xaxes(tickvals=tenths, showgrid=False)
    if log:
        low, high = np.log10([shown[shown > 0].min(), shown.max()])
        chart.update_yaxes(type="log", dtick=1, tickformat=",~g", range=[low - 0.15, high + 0.15])
    else:
        chart.update_yaxes(range=[0, float(shown.max()) * 1.05 or 1], tickformat=",~g")
    return chart


def gain(
    curves: Mapping[str, GainCurve], perfect: GainCurve, paint: Mapping[str, str], rivals: Set[str]
) -> go.Figure:  # fmt: skip
    """Share of the actual value found in the customers ranked highest, for each forecast; the rivals' lines stand out."""
    chart = blank("Share of customers, best first", "Share of all value found", 460)
    shares = np.linspace(0, 1, _CURVE_POINTS)

    def line(name: str, y: Array, colour: str, width: float, dash: str = "solid") -> None:
        chart.add_scatter(
            x=shares, y=np.round(y, 5), name=name, mode="lines",
            line={"color": colour, "width": width, "dash": dash},
            hovertemplate="%{x:.0%} of customers: %{y:.1%}<extra>" + name + "</extra>",
        )  # fmt: skip

    total = perfect.actual[-1]
    line("perfect knowledge", perfect.at(shares)[0] / total, ACTUAL_COLOUR, 2, "dash")
    for name, curve in curves.items():
        if len(curve.customers) == 2:
            continue  # one forecast for all orders nobody: it is the line "at random"
        width = 3.0 if paint[name] == MODEL_COLOUR else 2.0 if name in rivals else 1.2
        line(name, curve.at(shares)[0] / total, paint[name], width)
    line("at random", shares, "#9AA5B1", 1.5, "dot")
    chart.update_xaxes(range=[0, 1], tickformat=".0%", dtick=0.2)
    chart.update_yaxes(range=[0, 1.01], tickformat=".0%", dtick=0.2)
    return chart


def reliability_bins(probability: Array, bought: Array) -> tuple[Array, Array, Array]:
    """Mean probability, share that bought and its 95% half-width in up to 10 groups of equal size."""
    groups = int(np.clip(len(probability) // _MIN_BIN, 1, DECILES))
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, groups)
    size = np.array([len(part) for part in parts])
    promised = np.array([probability[part].mean() for part in parts])
    share = np.array([bought[part].mean() for part in parts])
    return promised, share, 1.96 * np.sqrt(share * (1 - share) / size)


def reliability(probability: Array, bought: Array) -> go.Figure:
    chart = blank("Forecast probability of buying", "Share that bought", 420)
    promised, share, half = reliability_bins(probability, bought)
    chart.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="perfectly calibrated",
        line={"color": "#9AA5B1", "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    chart.add_scatter(
        x=promised, y=share, mode="lines+markers", name="model", error_y={"array": half, "color": MODEL_COLOUR},
        marker={"color": MODEL_COLOUR, "size": 9}, line={"color": MODEL_COLOUR},
        hovertemplate="forecast %{x:.1%}, bought %{y:.1%}<extra></extra>",
    )  # fmt: skip
    top = min(1.0, 1.08 * float(max(promised.max(), (share + half).max(), 0.05)))
    chart.update_xaxes(range=[0, top], tickformat=".0%")
    chart.update_yaxes(range=[0, top], tickformat=".0%")
    return chart


def quantile_shares(observed: Array, expected: Array) -> go.Figure:
    """Share of customers in each of the four ranges that the three quantiles make, (4,) each."""
    chart = blank("Where the customer ended up", "Share of customers", 420)
    ranges = ["below<br>p10", "p10 to<br>p50", "p50 to<br>p90", "above<br>p90"]
    for name, values, paint in (("promised", expected, "#C3CBD3"), ("what happened", observed, MODEL_COLOUR)):
        chart.add_bar(
            x=ranges, y=values, name=name, marker_color=paint, hovertemplate="%{y:.1%}<extra>" + name + "</extra>",
            text=[f"{value:.1%}" if values is observed else "" for value in values],
            textposition="outside", textangle=0, constraintext="none", textfont={"size": 12}, cliponaxis=False,
        )  # fmt: skip
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(tickformat=".0%", range=[0, max(0.1, float(max(observed.max(), expected.max()))) * 1.12])
    return chart


def pit_histogram(edges: Array, shares: Array) -> go.Figure:
    """Density of the customers over bins of the PIT, edges (b + 1,), shares (b,); 1 where a forecast is calibrated."""
    chart = blank("Where in their forecast range customers ended up", "Customers against what was promised", 420)
    widths = np.diff(edges)
    density = shares / widths
    chart.add_bar(
        x=(edges[:-1] + widths / 2).tolist(), y=np.round(density, 4).tolist(), width=widths.tolist(), name="what happened",
        marker={"color": MODEL_COLOUR, "line": {"color": "white", "width": 1.5}},
        customdata=[f"{low:.0%} to {high:.0%} of the range: {share:.1%}" for (low, high), share in zip(pairwise(edges), shares, strict=True)],
        hovertemplate="%{customdata} of customers<extra></extra>",
    )  # fmt: skip
    chart.add_scatter(
        x=[0, 1], y=[1, 1], mode="lines", name="promised", line={"color": ACTUAL_COLOUR, "width": 2, "dash": "dash"},
        hoverinfo="skip",
    )  # fmt: skip
    chart.update_xaxes(range=[0, 1], tickvals=edges.tolist(), tickformat=".0%", showgrid=False)
    chart.update_yaxes(range=[0, max(1.5, float(density.max()) * 1.1)], tickformat=".1f")
    return chart


def value_bins(values: Array) -> tuple[list[str], Array]:
    """Labels and shares of customers in bins at 1, 2, 5, 10, 20, ...; the first bin is "near zero".

    Near zero is what lies below a hundredth of the mean, rounded down to such an edge.
    """
    if values.max() <= 0:
        return ["0"], np.ones(1)
    low = int(np.floor(np.log10(values.mean() / 100)))
    high = int(np.ceil(np.log10(values.max()))) + 1
    edges = np.array([digit * 10.0**power for power in range(low, high) for digit in (1, 2, 5)])
    first, last = np.searchsorted(edges, [values.mean() / 100, values.max()], side="right")
    edges = edges[max(first - 1, 0) : last + 1]
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)[: len(edges)]
    labels = [f"under {edges[0]:,.6g}"]
    labels += [f"{a:,.6g} - {b:,.6g}" for a, b in pairwise(edges)]
    return labels, counts / len(values)


def value_distribution(values: Array) -> go.Figure:
    chart = blank("Forecast value of a customer", "Share of customers", 400)
    labels, shares = value_bins(values)
    chart.add_bar(
        x=labels, y=shares, marker_color=["#9AA5B1"] + [MODEL_COLOUR] * (len(labels) - 1),
        hovertemplate="%{x}: %{y:.1%} of customers<extra></extra>",
    )  # fmt: skip
    chart.update_yaxes(tickformat=".0%")
    chart.update_xaxes(type="category", tickangle=-45, showgrid=False)
    return chart


def concentration(shares: Array) -> go.Figure:
    """Share of all forecast value in each tenth, highest first, (10,)."""
    chart = blank(_BY_TENTH, "Share of forecast value", 400)
    chart.add_bar(
        x=list(range(1, DECILES + 1)), y=shares, marker_color=MODEL_COLOUR, cliponaxis=False,
        text=[f"{share:.0%}" if share >= 0.005 else "" for share in shares],
        textposition="outside", textangle=0, constraintext="none", textfont={"size": 12},
        hovertemplate="tenth %{x}: %{y:.1%}<extra></extra>",
    )  # fmt: skip
    chart.update_xaxes(tickvals=list(range(1, DECILES + 1)), showgrid=False)
    chart.update_yaxes(tickformat=".0%", range=[0, float(shares.max()) * 1.12 or 1])
    return chart


def data_flow(snapshots: Sequence[str], parts: Mapping[str, Sequence[int]]) -> go.Figure:
    """Lines used, excluded and dead of each snapshot, as one bar each of 100%."""
    chart = blank("Share of the lines read", "", 120 + 46 * len(snapshots))
    labels = [snapshot.replace(" ", "<br>") for snapshot in snapshots]
    totals = np.maximum(np.sum(list(parts.values()), axis=0), 1)
    for (name, counts), paint in zip(parts.items(), (MODEL_COLOUR, "#C3CBD3", "#D55E00"), strict=True):
        chart.add_bar(
            y=labels, x=np.asarray(counts) / totals, name=name, orientation="h", marker_color=paint,
            customdata=counts, hovertemplate="%{customdata:,} lines (%{x:.2%})<extra>" + name + "</extra>",
        )  # fmt: skip
    chart.update_layout(barmode="stack")
    chart.update_xaxes(tickformat=".0%", range=[0, 1], dtick=0.5)
    chart.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return chart


def small_pair(labels: Sequence[str], training: Array, serving: Array) -> go.Figure:
    """One of many: shares of the customers learned from beside those to forecast, a pair of bars a label."""
    chart = blank("", "", 180)
    # Each would carry plotly's template, which is larger than the chart.
    chart.layout.template = None
    at = list(range(len(labels)))
    for title, shares, paint in (
        ("learned from", training, ACTUAL_COLOUR),
        ("to forecast", serving, MODEL_COLOUR),
    ):
        chart.add_bar(
            x=at, y=np.round(shares, 5).tolist(), name=title, marker={"color": paint, "line": {"width": 0}},
            customdata=list(labels), hovertemplate="%{customdata}: %{y:.1%}<extra>" + title + "</extra>",
        )  # fmt: skip
    chart.update_layout(showlegend=False, bargap=0.2, margin={"l": 4, "r": 8, "t": 4, "b": 4}, font={"size": 11})
    ticks = at[:: -(-len(at) // _SMALL_TICKS)]
    # Of "20 to 50" and "500 and more" the start says enough on an axis.
    starts = [labels[tick].split(" to ")[0].split(" and ")[0] for tick in ticks]
    texts = [start if len(start) <= _SMALL_TEXT else f"{start[: _SMALL_TEXT - 1]}…" for start in starts]
    chart.update_xaxes(
        tickvals=ticks, ticktext=texts, range=[-0.6, len(at) - 0.4], showgrid=False, zeroline=False, tickangle=0,
        ticks="",
    )  # fmt: skip
    top = float(max(training.max(initial=0), serving.max(initial=0)))
    chart.update_yaxes(tickformat=".0%", nticks=4, range=[0, top * 1.08 or 1], ticks="")
    return chart
