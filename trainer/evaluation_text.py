"""An evaluation in words: the verdict, and metrics as a table for a terminal.

Reads the dict that ``trainer.evaluate.evaluate`` returns; needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MODEL = "model"
MAIN_METRICS = ("normalised_gini", "decile_mape", "rmse_capped")
"""What decides between two forecasts: order, level and money. MAE never does, predicting 0 wins it."""
HIGHER_IS_BETTER = ("normalised_gini", "spearman", "top_decile_share")


def spoken(name: str) -> str:
    return name.replace("_", " ")


def listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def best_baseline(evaluation: dict[str, Any]) -> str:
    """The baseline that ranks customers best: the one a model has to be compared with."""
    models: dict[str, dict[str, float | None]] = evaluation["models"]
    others = [name for name in models if name != MODEL]
    return max(others, key=lambda name: models[name]["normalised_gini"] or 0.0)


def strongest_baselines(evaluation: dict[str, Any]) -> dict[str, str]:
    """{main metric: the baseline that does best in it}, where any is defined."""
    models: dict[str, dict[str, float | None]] = evaluation["models"]
    found = {}
    for metric in MAIN_METRICS:
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        values = {n: sign * v for n, of in models.items() if n != MODEL and (v := of[metric]) is not None}
        if values:
            found[metric] = min(values, key=lambda name: values[name])
    return found


def _strongest(evaluation: dict[str, Any]) -> str:
    """One line: whom the model has to beat."""
    by_name: dict[str, list[str]] = {}
    for metric, name in strongest_baselines(evaluation).items():
        value = format_metric(metric, evaluation["models"][name][metric])
        by_name.setdefault(name, []).append(f"{spoken(metric)} ({value})")
    claims = [f"{spoken(name)} in {listed(metrics)}" for name, metrics in by_name.items()]
    return f"strongest baseline: {'; '.join(claims) or 'none can be judged'}"


_GAINS = {
    "normalised_gini": "ranks customers better",
    "decile_mape": "is nearer to what each tenth of them spends",
    "rmse_capped": "makes smaller errors on the single customer",
}


def _level(bias: float | None) -> str:
    if bias is None:
        return "its level cannot be judged"
    if abs(bias) < 0.005:
        return "its total is right"
    return f"its total is {abs(bias):.0%} too {'high' if bias > 0 else 'low'}"


def verdict(result: dict[str, Any]) -> str:
    """One sentence: on which main metrics the model beats every other forecast, and its level."""
    if not result["buyers"]:
        return "Nobody bought in the evaluation window, so no forecast can be judged."
    beats: dict[str, dict[str, bool]] = result["beats"]
    gained = [metric for metric in MAIN_METRICS if all(of[metric] for of in beats.values())]
    level = _level(result["models"][MODEL]["total_bias"])
    if not gained:
        rivals = sorted({spoken(name) for name, of in beats.items() if not all(of.values())})
        return f"The model is not clearly better than every simpler forecast ({listed(rivals)}); {level}."
    claim = f"The model {listed(_GAINS[metric] for metric in gained)} than every simpler forecast"
    if len(gained) < len(MAIN_METRICS):
        missed = {m: listed(spoken(n) for n, of in beats.items() if not of[m]) for m in MAIN_METRICS if m not in gained}
        claim += ", but not clearly so in " + listed(f"{spoken(m)} (against {names})" for m, names in missed.items())
    return f"{claim}; {level}."


_MONEY = ("rmse", "rmse_capped", "mae_median", "pinball_p10", "pinball_p50", "pinball_p90")
_PERCENT = ("total_bias", "top_decile_share", "top_decile_share_best", "share_above_p90")


def format_metric(metric: str, value: float | None) -> str:
    """A metric's value for people: money with thousands separators, shares as percent, '-' where undefined."""
    if value is None:
        return "-"
    if metric in _MONEY:
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    if metric in _PERCENT:
        return f"{value:+.1%}" if metric == "total_bias" else f"{value:.1%}"
    return f"{value:.3f}"


def format_interval(metric: str, interval: list[float | None]) -> str:
    """'[low, high]', or nothing where the metric is undefined."""
    if None in interval:
        return ""
    return f"[{format_metric(metric, interval[0])}, {format_metric(metric, interval[1])}]"


_WIDTH = 100


def _columns(evaluation: dict[str, Any]) -> list[list[str]]:
    """The table's cells by column: metric names, the model, its intervals, then each baseline."""
    models = evaluation["models"]
    names = list(models[MODEL])
    intervals = evaluation["intervals"][MODEL]
    columns = [["", *names], [MODEL, *(format_metric(m, models[MODEL][m]) for m in names)]]
    columns.append(["95% interval", *(format_interval(m, intervals[m]) for m in names)])
    for baseline, of in models.items():
        if baseline != MODEL:
            columns.append([baseline, *(format_metric(m, of[m]) if m in of else "" for m in names)])
    return columns


def _blocks(columns: list[list[str]]) -> list[list[list[str]]]:
    """Columns side by side as far as they fit; the metric names lead every further block."""
    blocks, width = [columns[:1]], 0
    for column in columns[1:]:
        needed = 2 + max(map(len, column))
        if len(blocks[-1]) > 1 and width + needed > _WIDTH:
            blocks.append(columns[:1])
        if len(blocks[-1]) == 1:
            width = max(map(len, columns[0]))
        blocks[-1] = [*blocks[-1], column]
        width += needed
    return blocks


def _lines(block: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in block]
    rows = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in zip(*block, strict=True)]
    lines = ["  ".join([row[0].strip().ljust(widths[0]), *row[1:]]).rstrip() for row in rows]
    # A row without a number says nothing: most baselines have no distribution to judge.
    return lines[:1] + [line for line, row in zip(lines[1:], rows[1:], strict=True) if any(c.strip() for c in row[1:])]


_SEGMENT_METRICS = {"total_bias": "bias", "normalised_gini": "gini", "rmse_capped": "rmse_capped"}
_SEGMENT_WIDTH = 16
_LOSSES = {"rmse_capped": "value", "poisson_deviance": "orders"}


def _segment_table(segments: dict[str, dict[str, Any]]) -> str:
    """The segments but the cohorts, which are many: size, level, order and error, and where the mean is beaten."""
    rows = [["segment", "customers", "buyers", "actual", *_SEGMENT_METRICS.values(), "beats the mean in"]]
    for dimension in (dimension for dimension in segments if dimension != "cohort"):
        for name, of in segments[dimension].items():
            judged = [format_metric(metric, of["metrics"][metric]) for metric in _SEGMENT_METRICS]
            counts = [f"{of['customers']:,}", f"{of['buyers']:,}", f"{of['actual_total']:,.0f}"]
            rows.append([name[:_SEGMENT_WIDTH], *counts, *judged, _beaten(of["beats_population_mean"])])
    return "\n".join(_lines([list(column) for column in zip(*rows, strict=True)]))


def _beaten(beats: dict[str, bool | None]) -> str:
    if None in beats.values():
        return "too few to say"
    return ", ".join(_LOSSES[metric] for metric, beaten in beats.items() if beaten) or "neither"


def format_table(evaluation: dict[str, Any]) -> str:
    """``evaluate``'s result as aligned text, at most 100 columns wide, ending with the verdict and warnings.

    "Beats the mean" says for which loss, the squared error of the value or the deviance of the orders, a segment's
    forecasts are better than the mean forecast of all customers, beyond doubt.
    """
    blocks = ["\n".join(_lines(block)) for block in _blocks(_columns(evaluation))]
    notes = [evaluation["verdict"], *(f"warning: {warning}" for warning in evaluation["warnings"])]
    head = (
        f"{evaluation['customers']:,} customers, {evaluation['buyers']:,} bought, "
        f"actual value {evaluation['actual_total']:,.2f} in {evaluation['horizon_days']} days"
    )
    if evaluation.get("segments"):  # an evaluation of an older version has none
        blocks.append(_segment_table(evaluation["segments"]))
    return "\n\n".join([head, *blocks, "\n".join([_strongest(evaluation), *notes])])
