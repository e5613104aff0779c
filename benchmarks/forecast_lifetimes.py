"""The contestants that fit buy-till-you-die models with the library lifetimes 0.11.3, as its users do.

All are fitted on the customers to forecast, from their features alone. Money is per order day, as purchases are counted
in order days. Where a fit does not converge, or gives parameters without a mean, the library's own advice is
followed: a larger penalizer, in turn. What was done beyond a plain fit is told in notes.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.forecast_names import BGNBD, PARETO_MEAN_ORDER, SEED_FORMULA
from trainer.baselines import float_column
from trainer.metrics import Array
from transforms.errors import JobFailed

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import pyarrow as pa

PENALIZERS = (0.0, 0.001, 0.01, 0.1)
WEEK_DAYS = 7
# The seed system (GoogleCloudPlatform/tensorflow-lifetime-value, clv_mle/trainer/btyd.py) fits by days, with this
# penalizer (the second is for where its own does not converge), and discounts monthly by this rate over the horizon
# rounded up to whole months of 30 days.
SEED_PENALIZERS, SEED_DISCOUNT_RATE, SEED_MONTH_DAYS = (0.01, 0.1), 0.01, 30


@dataclass
class Outcome:
    """Forecasts (n,), in money, as the library gave them, and what had to be done for it."""

    values: Array
    notes: list[str] = field(default_factory=list)


def forecast(contestant: str, customers: pa.Table, horizon_days: int) -> Outcome:
    """One contestant's forecast of future_value.

    Raises:
      JobFailed: no penalizer made the library's fit usable.
    """
    notes: list[str] = []
    if contestant == SEED_FORMULA:
        return Outcome(_seed_formula(customers, horizon_days, notes), notes)
    rows = summary(customers, WEEK_DAYS)
    kind = "bgnbd" if contestant == BGNBD else "pareto"
    purchases = _purchases(kind, rows, horizon_days / WEEK_DAYS, notes)
    if contestant == PARETO_MEAN_ORDER:
        return Outcome(purchases * mean_order_day(customers), notes)
    return Outcome(purchases * _expected_profit(_gamma_gamma(rows, notes), rows), notes)


def summary(customers: pa.Table, unit_days: int) -> pd.DataFrame:
    """frequency, recency, T (in units of ``unit_days``) and monetary_value as the library's own summary defines them.

    monetary_value is the mean over the repeat order days, 0 without any. (It counts further orders of the first day
    among the repeat days' money; the library would drop them. There are few.)
    """
    import pandas as pd

    frequency, recency, age = (float_column(customers, name) for name in ("frequency", "recency_days", "age_days"))
    later = float_column(customers, "order_value_total") - float_column(customers, "order_value_first")
    return pd.DataFrame({
        "frequency": frequency,
        "recency": recency / unit_days,
        "T": age / unit_days,
        "monetary_value": np.where(frequency > 0, later / np.maximum(frequency, 1), 0.0),
    })  # fmt: skip


def mean_order_day(customers: pa.Table) -> Array:
    """Mean value of an order day, the first included."""
    return float_column(customers, "order_value_total") / float_column(customers, "order_days")


def _purchases(kind: str, rows: pd.DataFrame, horizon: float, notes: list[str]) -> Array:
    """Expected order days in the horizon, (n,)."""
    fitted = _fitted(kind, rows, notes, PENALIZERS)
    counts = (rows["frequency"], rows["recency"], rows["T"])
    with np.errstate(all="ignore"):
        expected = np.asarray(fitted.conditional_expected_number_of_purchases_up_to_time(horizon, *counts), dtype=float)
    return _repaired(expected, rows, horizon, kind, notes)


def _fitted(kind: str, rows: pd.DataFrame, notes: list[str], penalizers: tuple[float, ...]) -> Any:
    from lifetimes import BetaGeoFitter, ParetoNBDFitter  # type: ignore[import-untyped]

    make = {"bgnbd": BetaGeoFitter, "pareto": ParetoNBDFitter}[kind]

    def fit(penalizer: float) -> Any:
        np.random.seed(0)  # its Pareto/NBD begins somewhere at random
        return make(penalizer_coef=penalizer).fit(rows["frequency"], rows["recency"], rows["T"])

    return _first_usable(kind, fit, lambda model: bool(np.isfinite(model.params_).all()), notes, penalizers)


def _repaired(expected: Array, rows: pd.DataFrame, horizon: float, kind: str, notes: list[str]) -> Array:
    """The library's formulas overflow for frequent customers: they get their past rate instead."""
    broken = ~np.isfinite(expected)
    if broken.any():
        notes.append(
            f"{kind}: {int(broken.sum())} of {len(expected)} forecasts were not finite, the past rate stands there"
        )
    return np.where(broken, np.asarray(rows["frequency"] / rows["T"]) * horizon, expected)


def _gamma_gamma(rows: pd.DataFrame, notes: list[str]) -> Any:
    from lifetimes import GammaGammaFitter

    repeat = rows[(rows["frequency"] > 0) & (rows["monetary_value"] > 0)]

    def fit(penalizer: float) -> Any:
        return GammaGammaFitter(penalizer_coef=penalizer).fit(repeat["frequency"], repeat["monetary_value"])

    # With q <= 1 the population has no mean, and the library's formula gives negative values.
    return _first_usable("gamma_gamma", fit, lambda model: 1 < model.params_["q"] < math.inf, notes)


def _expected_profit(fitted: Any, rows: pd.DataFrame) -> Array:
    profit = fitted.conditional_expected_average_profit(rows["frequency"], rows["monetary_value"])
    return np.asarray(profit, dtype=float)


def _first_usable(
    name: str, fit: Callable[[float], Any], usable: Callable[[Any], bool], notes: list[str],
    penalizers: tuple[float, ...] = PENALIZERS,
) -> Any:  # fmt: skip
    """Fits with one penalizer after the other."""
    from lifetimes.utils import ConvergenceError  # type: ignore[import-untyped]

    for penalizer in penalizers:
        # A fit that fails prints the optimiser's whole state.
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                fitted = fit(penalizer)
            except (ConvergenceError, np.linalg.LinAlgError):
                continue
        if usable(fitted):
            if penalizer != penalizers[0]:
                notes.append(f"{name}: no usable fit with a smaller penalizer than {penalizer:g}")
            return fitted
    raise JobFailed(f"lifetimes' {name} has no usable fit with any penalizer of {penalizers}")


def _seed_formula(customers: pa.Table, horizon_days: int, notes: list[str]) -> Array:
    """BG/NBD with the seed system's penalizer, then the library's ``customer_lifetime_value`` with its arguments."""
    rows = summary(customers, 1)
    counts = (rows["frequency"], rows["recency"], rows["T"])
    purchases = _fitted("bgnbd", rows, notes, SEED_PENALIZERS)
    spend = _gamma_gamma(rows, notes)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        values = spend.customer_lifetime_value(
            purchases, *counts, rows["monetary_value"],
            time=math.ceil(horizon_days / SEED_MONTH_DAYS), discount_rate=SEED_DISCOUNT_RATE,
        )  # fmt: skip
    found = np.asarray(values, dtype=float)
    value_rate = float_column(customers, "order_value_total") / float_column(customers, "age_days")
    broken = ~np.isfinite(found)
    if broken.any():
        notes.append(f"{int(broken.sum())} of {len(found)} forecasts were not finite, the past rate stands there")
    return np.where(broken, value_rate * horizon_days, found)
