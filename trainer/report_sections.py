"""The report's sections, one function each: what was loaded in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import metrics, report_charts, report_distributions, report_page
from trainer.baselines import float_column
from trainer.evaluation_text import HIGHER_IS_BETTER, MODEL, best_baseline, format_interval, format_metric, spoken
from trainer.metrics import Array, GainCurve
from trainer.report_page import Card, Html, html, money

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.report_distributions import Compared

TOP_CUSTOMERS = 10


@dataclass(frozen=True)
class Inputs:
    """What a report is made of: manifests as read, tables with the columns the sections need."""

    model: dict[str, Any]
    evaluation: dict[str, Any]
    judged: pa.Table
    features: list[dict[str, Any]]
    predictions: dict[str, Any] | None
    predicted: pa.Table
    compared: Compared | None
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        shown = [n for n in self.evaluation["models"] if n == MODEL or f"baseline_{n}" in self.judged.column_names]
        object.__setattr__(self, "names", shown)

    def judged_column(self, name: str) -> Array:
        return float_column(self.judged, name)

    def curve(self, name: str) -> GainCurve:
        column = "predicted_value" if name == MODEL else f"baseline_{name}"
        return GainCurve.of(self.judged_column("future_value"), self.judged_column(column))

    def best(self) -> str | None:
        """The strongest baseline whose forecasts are at hand."""
        models = {name: of for name, of in self.evaluation["models"].items() if name in self.names}
        return best_baseline({"models": models}) if len(models) > 1 else None

    def paint(self) -> dict[str, str]:
        best = self.best()
        others = report_charts.colours([n for n in self.names if n != MODEL], best) if best else {}
        return {MODEL: report_charts.MODEL_COLOUR, **others}


def _of(evaluation: dict[str, Any], metric: str, name: str = MODEL) -> str:
    return format_metric(metric, evaluation["models"][name].get(metric))


def _predicted_total(evaluation: dict[str, Any]) -> float | None:
    bias = evaluation["models"][MODEL]["total_bias"]
    return None if bias is None else evaluation["actual_total"] * (1 + bias)


def header(inputs: Inputs) -> Html:
    evaluation, model = inputs.evaluation, inputs.model
    total = _predicted_total(evaluation)
    interval = format_interval("normalised_gini", evaluation["intervals"][MODEL]["normalised_gini"])
    figures = [
        Card("Customers judged", f"{evaluation['customers']:,}", f"{evaluation['buyers']:,} of them bought"),
        Card("Forecast total", "-" if total is None else money(total),
             f"{money(evaluation['actual_total'])} happened ({_of(evaluation, 'total_bias')})"),
        Card("Value in the top tenth", _of(evaluation, "top_decile_share"),
             f"at best {_of(evaluation, 'top_decile_share_best')}, at random 10%"),
        Card("Ranking (normalised Gini)", _of(evaluation, "normalised_gini"),
             f"95% interval {interval}" if interval else "cannot be judged"),
    ]  # fmt: skip
    subtitle = (
        f"Model {model['model_version']}: what each customer will spend in the next {model['horizon_days']} days. "
        "Money is in the orders' currency."
    )
    return report_page.joined([
        Html("<header>"),
        Html("<h1>Customer value forecast</h1>"),
        report_page.paragraph(subtitle, "subtitle"),
        report_page.paragraph(evaluation["verdict"], "verdict"),
        *(report_page.paragraph(f"Please note: {warning}", "warning") for warning in evaluation["warnings"]),
        report_page.cards(figures),
        Html("</header>"),
    ])  # fmt: skip


_METRICS = {
    "normalised_gini": ("Ranking (normalised Gini)", "1 = customers in perfect order of value, 0 = shuffled"),
    "spearman": ("Rank correlation (Spearman)", "1 = same order, 0 = unrelated; all customers weigh the same"),
    "decile_mape": ("Error per tenth (decile MAPE)", "0.1 = a tenth of customers is off by 10% on average"),
    "rmse": ("Typical error (RMSE)", "money per customer; a few very large customers can decide it"),
    "rmse_capped": ("Typical error, capped (RMSE)", "the same with the largest 0.5% of labels cut off"),
    "mae_median": ("Absolute error of the median", "money per customer; forecasting 0 often wins it: decides nothing"),
    "total_bias": ("Total against what happened", "0% = the sum over all customers is right"),
    "top_decile_share": ("Value found in the top tenth", "share of all value in the tenth with the highest forecasts"),
    "top_decile_share_best": ("... at best", "what perfect knowledge would find there"),
    "pinball_p10": ("Quantile loss p10", "money per customer, smaller is better"),
    "pinball_p50": ("Quantile loss p50", "money per customer, smaller is better"),
    "pinball_p90": ("Quantile loss p90", "money per customer, smaller is better"),
    "share_above_p90": ("Customers above their p90", "10% or a little less is right"),
    "pit_distance": ("Quantile calibration (PIT)", "0 = the ranges hold exactly as many customers as promised"),
    "brier": ("Purchase probability (Brier)", "0 = certain and right, 0.25 = a coin toss for everybody"),
    "poisson_deviance": ("Order counts (Poisson deviance)", "smaller is better"),
}  # fmt: skip
_HELD_OUT = {
    "out of time": " The days lie after everything that the model was trained on.",
    "by customer": " The history is too short to hold out a period: these are customers kept out of the training, "
    "over the days it learned from.",
}  # fmt: skip
_NOT_COMPARED = ("total_bias", "top_decile_share_best")


def _mark(evaluation: dict[str, Any], name: str, metric: str) -> Html:
    """Whether the model is clearly better than this baseline, clearly worse, or neither."""
    low, high = evaluation["paired"][name].get(metric, [None, None])
    if low is None or metric in _NOT_COMPARED:
        return Html('<span class="mark"></span>')
    if low <= 0 <= high:
        return Html('<span class="mark equal" title="no clear difference">≈</span>')
    if (low > 0) == (metric in HIGHER_IS_BETTER):
        return Html('<span class="mark better" title="the model is clearly better">✓</span>')
    return Html('<span class="mark worse" title="the model is clearly worse">✗</span>')


def metrics_table(inputs: Inputs) -> Html:
    evaluation = inputs.evaluation
    baselines = [name for name in evaluation["models"] if name != MODEL]
    rows: list[list[object]] = []
    for metric in evaluation["models"][MODEL]:
        title, explanation = _METRICS.get(metric, (spoken(metric), ""))
        interval = format_interval(metric, evaluation["intervals"][MODEL][metric])
        row: list[object] = [Html(f'{html(title)}<span class="explain">{html(explanation)}</span>')]
        row.append(Html(f'{html(_of(evaluation, metric))}<span class="interval">{html(interval)}</span>'))
        for name in baselines:
            known = metric in evaluation["models"][name]
            row.append(Html(_of(evaluation, metric, name) + _mark(evaluation, name, metric)) if known else "")
        rows.append(row)
    return report_page.section(
        "metrics", "How good is it, and compared with what?",
        report_page.paragraph(
            "The model beside simpler forecasts, measured on the same customers and days."
            + _HELD_OUT.get(evaluation.get("split", ""), "")
        ),
        report_page.table(["", MODEL, *map(spoken, baselines)], rows, "metrics"),
        report_page.paragraph(
            "Under the model's numbers: 95% interval. ✓ the model is clearly better, ✗ clearly worse, ≈ no clear "
            "difference, by paired bootstrap.", "small",
        ),
    )  # fmt: skip


def deciles(inputs: Inputs) -> Html:
    best, paint = inputs.best(), inputs.paint()
    shown = [MODEL] + ([best] if best else [])
    curves = {name: inputs.curve(name) for name in shown}
    means = np.concatenate([np.concatenate(report_charts.decile_means(curve)) for curve in curves.values()])
    charts = [
        report_page.figure(
            report_charts.decile_calibration(curve, spoken(name), paint[name], means), f"deciles-{name}",
            "Each pair should be equally high: forecast and what happened, mean of a customer."
            + (" Logarithmic axis: each step up is ten times as much." if report_charts.needs_log(means) else ""),
            "The model" if name == MODEL else f"The best simple forecast: {spoken(name)}",
        )
        for name, curve in curves.items()
    ]  # fmt: skip
    return report_page.section("deciles", "Does the money come true?", report_page.side_by_side(*charts))


def gain(inputs: Inputs) -> Html:
    evaluation, best = inputs.evaluation, inputs.best()
    if not evaluation["actual_total"]:
        return report_page.section("gain", "Does it find the best customers?", report_page.paragraph("Nobody bought."))
    rival = f", the best simple forecast {_of(evaluation, 'top_decile_share', best)}" if best else ""
    aid = (
        f"The higher the line, the fewer customers you need: the tenth that the model ranks highest held "
        f"{_of(evaluation, 'top_decile_share')} of all value{rival}, perfect knowledge would find "
        f"{_of(evaluation, 'top_decile_share_best')}."
    )
    curves = {spoken(name): inputs.curve(name) for name in inputs.names}
    paint = {spoken(name): colour for name, colour in inputs.paint().items()}
    actual = inputs.judged_column("future_value")
    chart = report_charts.gain(curves, GainCurve.of(actual, actual), paint)
    return report_page.section("gain", "Does it find the best customers?", report_page.figure(chart, "gain", aid))


def probability(inputs: Inputs) -> Html:
    bought = (inputs.judged_column("future_orders") >= 1).astype(np.float64)
    chart = report_charts.reliability(inputs.judged_column("purchase_probability"), bought)
    aid = (
        "On the dotted line a probability means what it says: of the customers given 30%, 30% bought. "
        "Points above it bought more often than forecast."
    )
    return report_page.section("probability", "Will they buy at all?", report_page.figure(chart, "probability", aid))


def quantiles(inputs: Inputs) -> Html:
    actual = inputs.judged_column("future_value")
    forecasts = np.stack([inputs.judged_column(name) for name in ("value_p10", "value_p50", "value_p90")])
    below = metrics.pit_at_levels(actual, forecasts, inputs.judged_column("purchase_probability"))
    observed = np.diff(np.array([0.0, *map(float, below), 1.0]))
    expected = np.diff(np.array([0.0, *metrics.LEVELS, 1.0]))
    above = _of(inputs.evaluation, "share_above_p90")
    aid = (
        "Pairs of equal height mean that the ranges around each forecast can be trusted. "
        f"{above} of customers spent more than their p90; 10% or a little less is right."
    )
    note = (
        "Customers who spent nothing share out over the ranges that the forecast gave to spending nothing "
        "(randomised PIT): otherwise a p10 of 0 could never be undercut."
    )
    return report_page.section(
        "quantiles", "Can the ranges be trusted?",
        report_page.figure(report_charts.quantile_shares(observed, expected), "quantiles", aid),
        report_page.paragraph(note, "small"),
    )  # fmt: skip


def _forecast_of(inputs: Inputs) -> str:
    if inputs.predictions is None:
        return f"the {inputs.predicted.num_rows:,} customers of the evaluation"
    return f"the {inputs.predicted.num_rows:,} customers as of {inputs.predictions.get('as_of', '?')}"


def distribution(inputs: Inputs) -> Html:
    values = float_column(inputs.predicted, "predicted_value")
    labels, shares = report_charts.value_bins(values)
    aid = (
        f"How many customers are forecast how much, for {_forecast_of(inputs)}: {shares[0]:.1%} are near zero "
        f"({labels[0]}), half of all lie below {money(float(np.median(values)))}, "
        f"the mean is {money(float(values.mean()))}."
    )
    chart = report_page.figure(report_charts.value_distribution(values), "distribution", aid)
    return report_page.section("distribution", "What is forecast?", chart)


def _top_rows(predicted: pa.Table) -> list[list[object]]:
    import pyarrow.compute as pc

    keys = [("predicted_value", "descending"), ("customer_id", "ascending")]
    top = predicted.take(pc.select_k_unstable(predicted, min(TOP_CUSTOMERS, predicted.num_rows), keys))
    return [
        [row["customer_id"], money(row["predicted_value"]), f"{money(row['value_p10'])} to {money(row['value_p90'])}",
         f"{row['purchase_probability']:.1%}", f"{row['expected_orders']:,.1f}"]
        for row in top.to_pylist()
    ]  # fmt: skip


def top_customers(inputs: Inputs) -> Html:
    values = float_column(inputs.predicted, "predicted_value")
    parts = GainCurve.of(values, values).by_decile()[0]
    shares = parts / (values.sum() or 1)
    aid = f"The highest tenth is forecast to bring {shares[0]:.0%} of all value, the lower half {shares[5:].sum():.0%}."
    head = ["Customer", "Forecast value", "Range p10 to p90", "Will buy", "Order days"]
    return report_page.section(
        "top", "Who matters most?",
        report_page.figure(report_charts.concentration(shares), "concentration", aid),
        report_page.paragraph(f"The {min(TOP_CUSTOMERS, len(values))} highest forecasts of {_forecast_of(inputs)}:"),
        report_page.table(head, _top_rows(inputs.predicted)),
    )  # fmt: skip


def skew(inputs: Inputs) -> Html:
    absent = "No predictions directory was given." if inputs.predictions is None else (
        "Not compared: the model or the predictions hold no statistics of their customers."
    )  # fmt: skip
    return report_distributions.section(inputs.compared, absent)


@dataclass(frozen=True)
class _Flow:
    """One snapshot's lines."""

    name: str
    lines: Mapping[str, Any]
    customers: int

    def reasons(self, kind: str) -> Mapping[str, int]:
        return self.lines.get(kind) or {}

    def total(self, kind: str) -> int:
        return sum(self.reasons(kind).values())


def _flows(inputs: Inputs) -> list[_Flow]:
    flows = [
        _Flow(f"features {manifest['arguments'].get('cutoff', '?')}", manifest["lines"], manifest["rows"])
        for manifest in inputs.features
    ]
    if inputs.predictions is not None and "lines" in inputs.predictions:
        name = f"predictions {inputs.predictions.get('as_of', '?')}"
        flows.append(_Flow(name, inputs.predictions["lines"], inputs.predictions["rows"]))
    return flows


def _flow_rows(flows: list[_Flow]) -> list[list[object]]:
    rows: list[list[object]] = [["Lines read", *(f"{flow.lines['read']:,}" for flow in flows)]]
    rows.append(["Lines used", *(f"{flow.lines['used']:,}" for flow in flows)])
    for kind, title in (("excluded", "Excluded"), ("dead_letters", "Dead letters")):
        rows.append([title, *(f"{flow.total(kind):,}" for flow in flows)])
        reasons = list(dict.fromkeys(reason for flow in flows for reason in flow.reasons(kind)))
        for reason in reasons:
            name = Html(f'<span class="indent">{html(spoken(reason))}</span>')
            rows.append([name, *(f"{flow.reasons(kind).get(reason, 0):,}" for flow in flows)])
    rows.append(["Customers", *(f"{flow.customers:,}" for flow in flows)])
    return rows


def data_flow(inputs: Inputs) -> Html:
    flows = _flows(inputs)
    title = "Where did the data go?"
    if not flows:
        return report_page.section("data", title, report_page.paragraph("No features directory was given."))
    parts = {
        "used": [flow.lines["used"] for flow in flows],
        "excluded": [flow.total("excluded") for flow in flows],
        "dead letters": [flow.total("dead_letters") for flow in flows],
    }
    aid = (
        "Every order line read is used, excluded for a reason (fine, but not part of this snapshot) or a dead letter "
        "(unusable); a wide orange part means broken input."
    )
    chart = report_page.figure(report_charts.data_flow([flow.name for flow in flows], parts), "flow", aid)
    return report_page.section(
        "data", title, chart, report_page.table(["", *(flow.name for flow in flows)], _flow_rows(flows))
    )


def _flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names; long lists (losses by epoch and the like) are not provenance."""
    flat: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value)) if len(value) <= 10 else f"{len(value)} values"
        elif value is not None:
            flat[prefix + name] = f"{value:.8g}" if isinstance(value, float) else str(value)
    return flat


_JUDGEMENT = ("models", "intervals", "paired", "beats", "verdict", "warnings")


def provenance(inputs: Inputs) -> Html:
    evaluation = {name: value for name, value in inputs.evaluation.items() if name not in _JUDGEMENT}
    parts = [
        report_page.details(f"Model {inputs.model['model_version']}", _flattened(inputs.model), unfolded=True),
        report_page.details("Evaluation", _flattened(evaluation), unfolded=True),
    ]
    manifests = [*inputs.features, *([inputs.predictions] if inputs.predictions else [])]
    for flow_name, manifest in zip(_manifest_names(inputs), manifests, strict=True):
        content = {name: value for name, value in manifest.items() if name != "lines"}
        parts.append(report_page.details(flow_name, _flattened(content)))
    return report_page.section("provenance", "Where do these numbers come from?", *parts)


def _manifest_names(inputs: Inputs) -> list[str]:
    names = [f"Features, cutoff {manifest['arguments'].get('cutoff', '?')}" for manifest in inputs.features]
    return names + ([f"Predictions as of {inputs.predictions.get('as_of', '?')}"] if inputs.predictions else [])


def all_sections(inputs: Inputs) -> list[Html]:
    builders = (
        header, metrics_table, deciles, gain, probability, quantiles, distribution, top_customers, skew, data_flow,
        provenance,
    )  # fmt: skip
    return [build(inputs) for build in builders]
