"""The report's sections, one function each: what was loaded in, HTML out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import (
    metrics,
    report_charts,
    report_distributions,
    report_heat_map,
    report_mix,
    report_model_card,
    report_page,
    report_provenance,
    report_segments,
    report_tracking,
)
from trainer.baselines import float_column
from trainer.evaluation_text import HIGHER_IS_BETTER, MODEL, format_interval, format_metric, spoken
from trainer.metrics import Array, GainCurve
from trainer.report_inputs import FITTED, called
from trainer.report_page import Card, Html, html, money

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.report_inputs import Inputs

TOP_CUSTOMERS = 10


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
    "share_above_p90": ("Customers above their p90", "10%, less where many hardly ever buy"),
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
        return report_page.mark()
    if low <= 0 <= high:
        return report_page.mark("equal")
    return report_page.mark("better" if (low > 0) == (metric in HIGHER_IS_BETTER) else "worse")


def metrics_table(inputs: Inputs) -> Html:
    evaluation = inputs.evaluation
    others = [name for name in evaluation["models"] if name != MODEL]
    # The ones that are hardest to beat stand next to the model.
    baselines = sorted(others, key=lambda name: name not in FITTED)
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
        report_page.table(["", MODEL, *map(called, baselines)], rows, "metrics"),
        report_page.paragraph(
            "Under the model's numbers: 95% interval. ✓ the model is clearly better, ✗ clearly worse, ≈ no clear "
            "difference, by paired bootstrap.", "small",
        ),
    )  # fmt: skip


def deciles(inputs: Inputs) -> Html:
    best, paint = inputs.best(), inputs.paint()
    titles = {MODEL: "The model"}
    if best:
        titles[best] = f"The best simpler forecast: {called(best)}"
    titles |= {name: f"For comparison: {called(name)}" for name in inputs.rivals() if name != best}
    curves = {name: inputs.curve(name) for name in titles}
    means = np.concatenate([np.concatenate(report_charts.decile_means(curve)) for curve in curves.values()])
    aid = "Each pair should be equally high: forecast and what happened, mean of a customer."
    if report_charts.needs_log(means):
        aid += " Logarithmic axis: each step up is ten times as much."
    charts = [
        report_page.figure(
            report_charts.decile_calibration(curve, called(name), paint[name], means),
            f"deciles-{name}",
            aid,
            titles[name],
        )
        for name, curve in curves.items()
    ]
    return report_page.section("deciles", "Does the money come true?", report_page.side_by_side(*charts))


def gain(inputs: Inputs) -> Html:
    evaluation, best = inputs.evaluation, inputs.best()
    if not evaluation["actual_total"]:
        return report_page.section("gain", "Does it find the best customers?", report_page.paragraph("Nobody bought."))
    rival = f", the best simpler forecast, {called(best)}, {_of(evaluation, 'top_decile_share', best)}" if best else ""
    aid = (
        f"The higher the line, the fewer customers you need: the tenth that the model ranks highest held "
        f"{_of(evaluation, 'top_decile_share')} of all value{rival}, perfect knowledge would find "
        f"{_of(evaluation, 'top_decile_share_best')}."
    )
    # The strongest first, so that the legend reads like a ranking.
    ranked = sorted(inputs.names, key=lambda name: -(evaluation["models"][name]["normalised_gini"] or 0.0))
    curves = {called(name): inputs.curve(name) for name in ranked}
    paint = {called(name): colour for name, colour in inputs.paint().items()}
    actual = inputs.judged_column("future_value")
    chart = report_charts.gain(curves, GainCurve.of(actual, actual), paint, set(map(called, inputs.rivals())))
    return report_page.section("gain", "Does it find the best customers?", report_page.figure(chart, "gain", aid))


def probability(inputs: Inputs) -> Html:
    bought = (inputs.judged_column("future_orders") >= 1).astype(np.float64)
    chart = report_charts.reliability(inputs.judged_column("purchase_probability"), bought)
    aid = (
        "On the dotted line a probability means what it says: of the customers given 30%, 30% bought. "
        "Points above it bought more often than forecast."
    )
    return report_page.section("probability", "Will they buy at all?", report_page.figure(chart, "probability", aid))


def _pit_shares(inputs: Inputs) -> Array:
    """Shares of the customers in the four bins of ``metrics.pit_histogram``, (4,): the judge's, where it kept them."""
    if "pit_histogram" in inputs.evaluation:
        return np.array(inputs.evaluation["pit_histogram"]["shares"])
    forecasts = np.stack([inputs.judged_column(name) for name in ("value_p10", "value_p50", "value_p90")])
    return metrics.pit_histogram(
        inputs.judged_column("future_value"), forecasts, inputs.judged_column("purchase_probability")
    )


def quantiles(inputs: Inputs) -> Html:
    observed = _pit_shares(inputs)
    expected = np.diff(np.array([0.0, *metrics.LEVELS, 1.0]))
    above = _of(inputs.evaluation, "share_above_p90")
    aid = (
        "Pairs of equal height mean that the ranges around each forecast can be trusted. "
        f"{above} of customers spent more than their p90; 10% is right, less where many hardly ever buy."
    )
    note = (
        "Customers who spent nothing share out over the ranges that the forecast gave to spending nothing "
        "(randomised PIT): otherwise a p10 of 0 could never be undercut."
    )
    edges = np.array([0.0, *metrics.LEVELS, 1.0])
    pit = (
        "The same as a histogram (PIT): level at 1 is right. High at both ends: ranges too narrow. High on the right alone: "
        "forecasts too low, on the left alone: too high."
    )
    return report_page.section(
        "quantiles", "Can the ranges be trusted?",
        report_page.side_by_side(
            report_page.figure(report_charts.quantile_shares(observed, expected), "quantiles", aid),
            report_page.figure(report_charts.pit_histogram(edges, observed), "pit", pit),
        ),
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


def heat_map(inputs: Inputs) -> Html:
    columns = inputs.judged_columns([*report_heat_map.COLUMNS, "predicted_value", "future_value"])
    return report_heat_map.section(columns)


def model_card(inputs: Inputs) -> Html:
    return report_model_card.section(inputs.model, inputs.evaluation, inputs.features, inputs.fitted)


def all_sections(inputs: Inputs) -> list[Html]:
    """In a marketer's order: is it any good, who is worth what, is it safe to use, and only then how it was made."""
    evaluation = inputs.evaluation
    return [
        header(inputs),
        metrics_table(inputs),
        deciles(inputs),
        gain(inputs),
        report_tracking.section(evaluation),
        probability(inputs),
        quantiles(inputs),
        report_segments.section(evaluation.get("segments")),
        heat_map(inputs),
        distribution(inputs),
        top_customers(inputs),
        skew(inputs),
        report_mix.section(evaluation.get("training") or {}),
        model_card(inputs),
        report_provenance.data_flow(inputs),
        report_provenance.provenance(inputs),
    ]
