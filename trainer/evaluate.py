"""The judge: one set of forecasts against what customers did, beside forecasts that need no model.

``evaluate`` measures every forecast on the same customers, draws the same bootstrap resamples for all of
them, says in one sentence whether the model is worth using, and judges it again segment by segment. ``months``
holds what happened against what was expected. ``format_table`` shows an evaluation in a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import activity, leaks, metrics, segments
from trainer.baselines import baseline_forecasts as baseline_forecasts
from trainer.baselines import float_column
from trainer.bootstrap import Bootstrap, in_favour, or_none
from trainer.evaluation_text import HIGHER_IS_BETTER, MAIN_METRICS, MODEL, verdict
from trainer.evaluation_text import format_table as format_table
from trainer.metrics import Array
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

# Above this the intervals come from subsets, so that they cost the same for any number of customers.
SUBSET = 25_000
_DISTRIBUTION = ("value_p10", "value_p50", "value_p90", "purchase_probability", "expected_orders")
_FEW_BUYERS = 100
_DOMINANT_SHARE, _DOMINANT_CUSTOMERS = 0.5, 3


@dataclass(frozen=True)
class _Forecast:
    """A point forecast for each customer, in money; without a distribution the mean is also the median."""

    mean: Array
    median: Array


@dataclass(frozen=True)
class _Sample:
    """Customers with what they did and every forecast for them; all arrays have shape (n,)."""

    actual: Array
    orders: Array
    forecasts: dict[str, _Forecast]
    distribution: dict[str, Array]
    tie_break: Array
    cap: float

    def __len__(self) -> int:
        return len(self.actual)

    def take(self, rows: np.ndarray) -> _Sample:
        return _Sample(
            self.actual[rows],
            self.orders[rows],
            {name: _Forecast(f.mean[rows], f.median[rows]) for name, f in self.forecasts.items()},
            {name: values[rows] for name, values in self.distribution.items()},
            self.tie_break[rows],
            self.cap,
        )

    def judged(self) -> segments.Judged:
        return segments.Judged.of(
            self.actual, self.orders, self.forecasts[MODEL].mean, self.distribution, self.cap
        )  # fmt: skip

    def pit_histogram(self) -> dict[str, list[float]]:
        quantiles = np.stack([self.distribution[name] for name in ("value_p10", "value_p50", "value_p90")])
        shares = metrics.pit_histogram(self.actual, quantiles, self.distribution["purchase_probability"])
        edges = [0.0, *metrics.LEVELS, 1.0]
        return {"edges": edges, "shares": shares.tolist(), "uniform": np.diff(edges).round(9).tolist()}

    def measure(self, weight: Array) -> dict[str, dict[str, Array]]:
        """{forecast: {metric: (b,)}} for b weightings of the customers, ``weight`` (b, n)."""
        best = metrics.GainCurve.of(self.actual, self.actual, weight)
        ranks = metrics.mid_ranks(self.actual, weight)
        measured = {name: self._point(f, best, ranks, weight) for name, f in self.forecasts.items()}
        measured[MODEL].update(self._probabilistic(weight))
        return measured

    def _point(self, forecast: _Forecast, best: metrics.GainCurve, ranks: Array, weight: Array) -> dict[str, Array]:
        actual, predicted = self.actual, forecast.mean
        curve = metrics.GainCurve.of(actual, predicted, weight)
        return {
            "normalised_gini": metrics.gini_ratio(curve, best),
            "spearman": metrics.rank_correlation(ranks, predicted, self.tie_break, weight),
            "decile_mape": metrics.decile_errors(curve).mean(axis=-1),
            "rmse": metrics.rmse(actual, predicted, weight),
            "rmse_capped": metrics.rmse_capped(actual, predicted, self.cap, weight),
            "mae_median": metrics.mae(actual, forecast.median, weight),
            "total_bias": metrics.total_bias(actual, predicted, weight),
            "top_decile_share": metrics.top_share(curve),
            "top_decile_share_best": metrics.top_share(best),
        }

    def _probabilistic(self, weight: Array) -> dict[str, Array]:
        p10, p50, p90, probability, expected_orders = (self.distribution[name] for name in _DISTRIBUTION)
        quantiles = np.stack([p10, p50, p90])
        return {
            "pinball_p10": metrics.pinball(self.actual, p10, 0.1, weight),
            "pinball_p50": metrics.pinball(self.actual, p50, 0.5, weight),
            "pinball_p90": metrics.pinball(self.actual, p90, 0.9, weight),
            "share_above_p90": metrics.share_above(self.actual, p90, weight),
            "pit_distance": metrics.pit_distance(self.actual, quantiles, probability, weight),
            "brier": metrics.brier((self.orders >= 1).astype(np.float64), probability, weight),
            "poisson_deviance": metrics.poisson_deviance(self.orders, expected_orders, weight),
        }


def _checked(table: pa.Table, source: str, name: str) -> Array:
    """A column as finite, non-negative float64; labels and predictions alike can be nothing else."""
    if name not in table.column_names:
        raise UsageError(f"{source} has no column {name!r}: it has {', '.join(table.column_names)}")
    values = float_column(table, name)
    for problem, wrong in (("not a finite number", ~np.isfinite(values)), ("negative", values < 0)):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UsageError(
                f"{source}.{name} is {problem} in {int(wrong.sum())} of {len(values)} rows "
                f"(first: row {row}, {values[row]}): accepted are finite numbers >= 0"
            )
    return values


def _check_aligned(customers: pa.Table, predictions: pa.Table) -> None:
    if not customers.num_rows:
        raise rejected("customers", "0 rows", "a table with at least one customer")
    if customers.num_rows != predictions.num_rows:
        raise rejected("predictions", f"{predictions.num_rows} rows", f"one a customer: {customers.num_rows}")
    if not customers["customer_id"].combine_chunks().equals(predictions["customer_id"].combine_chunks()):
        raise UsageError(
            "predictions.customer_id differs from customers.customer_id: accepted are the same rows in the same order"
        )


def _further(name: str, forecast: Array, n: int) -> Array:
    values = np.asarray(forecast, dtype=np.float64)
    if values.shape != (n,) or not np.isfinite(values).all() or (values < 0).any():
        raise UsageError(
            f"forecast {name!r} of shape {values.shape} is not usable: accepted are {n} finite numbers >= 0"
        )
    return values


def _sample(
    customers: pa.Table, predictions: pa.Table, horizon_days: int, seed: int, further: Mapping[str, Array]
) -> _Sample:
    _check_aligned(customers, predictions)
    actual = _checked(customers, "customers", "future_value")
    distribution = {name: _checked(predictions, "predictions", name) for name in _DISTRIBUTION}
    if (distribution["purchase_probability"] > 1).any():
        raise UsageError("predictions.purchase_probability exceeds 1: accepted are probabilities in [0, 1]")
    points = baseline_forecasts(customers, horizon_days)
    points |= {name: _further(name, forecast, len(actual)) for name, forecast in further.items()}
    model = _Forecast(_checked(predictions, "predictions", "predicted_value"), distribution["value_p50"])
    return _Sample(
        actual=actual,
        orders=_checked(customers, "customers", "future_orders"),
        forecasts={MODEL: model, **{name: _Forecast(values, values) for name, values in points.items()}},
        distribution=distribution,
        tie_break=np.random.default_rng(seed).permutation(len(actual)).astype(np.float64),
        cap=metrics.cap_of(actual),
    )


def evaluate(
    customers: pa.Table,
    predictions: pa.Table,
    *,
    horizon_days: int,
    seed: int = 0,
    forecasts: Mapping[str, Array] | None = None,
    cutoff: date | None = None,
) -> dict[str, Any]:
    """Judges a model's predictions beside baselines, with 95% bootstrap intervals over customers.

    Args:
      customers: ``schema.CUSTOMERS`` with labels, n rows.
      predictions: ``schema.PREDICTIONS`` (decile and provenance are not read), the same n customers in the
        same order.
      horizon_days: what the labels cover.
      seed: of the bootstrap and of the order of tied predictions; the same seed gives the same result.
      forecasts: further point forecasts (n,) to compare with, in money, such as a buy-till-you-die model
        or the current champion; they are treated like the naive baselines.
      cutoff: of the features, for the segments by month of the first order; without it there are none.

    Returns:
      A dict for JSON (undefined numbers are None): ``customers``, ``buyers``, ``actual_total``,
      ``horizon_days``, ``capped_at``, ``models`` {"model" or baseline: {metric: value}}, ``intervals``
      {the same: {metric: [low, high]}}, ``paired`` {baseline: {metric: [low, high]}} of model minus baseline
      on the same resamples, ``beats`` {baseline: {main metric: the paired interval excludes 0 in the model's
      favour}}, ``pit_histogram`` {"edges": of the bins, "shares": of the customers in each, "uniform": what a calibrated
      forecast has there} (see ``metrics.pit_histogram``), ``segments`` {dimension: {segment: ...}} (see
      ``trainer.segments``), ``verdict`` (one sentence) and ``warnings`` (sentences).

    Raises:
      UsageError: no customers, rows not aligned, a missing column, or a number that is NaN, null, infinite
        or negative.
    """
    sample = _sample(customers, predictions, horizon_days, seed, forecasts or {})
    exact = {f: {m: float(v[0]) for m, v in of.items()} for f, of in sample.measure(np.ones((1, len(sample)))).items()}
    bootstrap = Bootstrap.of(sample, seed, SUBSET)
    model = exact[MODEL]
    paired = {
        name: {m: bootstrap.interval(MODEL, m, model[m] - value, minus=name) for m, value in of.items()}
        for name, of in exact.items()
        if name != MODEL
    }
    beats = {name: {m: in_favour(m in HIGHER_IS_BETTER, of[m]) for m in MAIN_METRICS} for name, of in paired.items()}
    result: dict[str, Any] = {
        "customers": len(sample),
        "buyers": int((sample.actual > 0).sum()),
        "actual_total": float(sample.actual.sum()),
        "horizon_days": horizon_days,
        "capped_at": or_none(sample.cap),
        "models": {name: {m: or_none(value) for m, value in of.items()} for name, of in exact.items()},
        "intervals": {
            name: {m: bootstrap.interval(name, m, value) for m, value in of.items()} for name, of in exact.items()
        },
        "paired": paired,
        "beats": beats,
        "pit_histogram": sample.pit_histogram(),
        "segments": segments.judge(sample.judged(), customers, cutoff, seed, SUBSET),
    }
    suspicious = leaks.warnings(customers, result["models"], sample.cap, seed)
    return {**result, "verdict": verdict(result), "warnings": [*suspicious, *_warnings(result, sample)]}


def months(daily: activity.Activity, expected_by_day: Array, cutoff: date, horizon_days: int) -> list[dict[str, Any]]:
    """Order days of the judged customers against the expected, by calendar month of [cutoff, cutoff + horizon_days).

    Args:
      daily: the evaluation snapshot's activity, see ``trainer.activity``.
      expected_by_day: (horizon_days,) expected order days of all the customers on each day after the cutoff.

    Returns:
      A dict a month, for JSON: ``month`` (YYYY-MM), ``start``, ``days`` and ``complete`` (False where the window has a part
      of the month only), ``order_days``, ``expected`` and ``ratio`` (actual / expected, None where nothing is).

    Raises:
      UsageError: the expected order days are not one finite number >= 0 for every day.
    """
    expected = _further("expected_by_day", expected_by_day, horizon_days)
    rows, first = [], 0
    for month in activity.months(daily, cutoff, horizon_days):
        foreseen = float(expected[first : first + month.days].sum())
        first += month.days
        rows.append({
            "month": f"{month.start:%Y-%m}",
            "start": month.start.isoformat(),
            "days": month.days,
            "complete": month.complete,
            "order_days": month.order_days,
            "expected": foreseen,
            "ratio": month.order_days / foreseen if foreseen else None,
        })  # fmt: skip
    return rows


def _warnings(result: dict[str, Any], sample: _Sample) -> list[str]:
    found = []
    if result["buyers"] < _FEW_BUYERS:
        found.append(f"Only {result['buyers']} of {result['customers']} customers bought: the intervals are rough.")
    if sample.forecasts[MODEL].mean.min() == sample.forecasts[MODEL].mean.max():
        found.append("The model predicts the same value for every customer.")
    errors = np.square(sample.forecasts[MODEL].mean - sample.actual)
    largest = np.sort(errors)[-_DOMINANT_CUSTOMERS:].sum()
    if len(sample) > _FEW_BUYERS and largest > _DOMINANT_SHARE * errors.sum() > 0:
        found.append(
            f"{_DOMINANT_CUSTOMERS} customers hold {largest / errors.sum():.0%} of the squared error: "
            "judge by the capped RMSE."
        )
    return found
