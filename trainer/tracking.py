"""Purchases week by week, those that happened beside those expected: the tracking plot of the buy-till-you-die literature.

Before the cutoff a purchase model is asked what it expects of customers of whom only the first day is known, after it
what it expects of the same customers given their histories (Fader, Hardie & Lee 2005, "Counting Your Customers the Easy
Way", figures 3 and 4). A purchase is an order day. The first one of a customer is not forecast and not counted.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from trainer import activity, btyd, btyd_counts, evaluate
from trainer.activity import WEEK_DAYS, Activity, Period
from trainer.baselines import float_column
from trainer.btyd import PurchaseModel
from trainer.predictor import PURCHASES
from trainer.snapshots import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]

HISTORY, LABELS = "history", "labels"
# The course from week to week is nearly everybody's: so many rows, evenly spread, show it. The total is exact.
MOST_ROWS = 20_000
# Three years show the seasons; a plot of more weeks would not be read.
MOST_WEEKS = 156
_DAY = datetime.timedelta(days=1)


def judge(
    snapshot: Snapshot, customers: pa.Table, predictions: pa.Table, members: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """``weeks`` and ``months`` of an evaluation, or nothing where they are not to be had.

    Args:
      snapshot: what the model is judged on.
      customers: all its customers, n rows of ``schema.CUSTOMERS``; some of them only are not what its activity is of.
      predictions: n rows of ``schema.PREDICTIONS`` for them.
      members: of the model; its purchase model is used, else one is fitted on the customers' features.

    Returns:
      ``weeks`` (see ``weeks``), ``months`` (see ``evaluate.months``), and ``tracked_by``, the purchase model's name.
    """
    daily: Activity | None = snapshot.manifest.get("activity")
    if not daily or customers.num_rows != snapshot.manifest["rows"]:
        return {}
    purchases = members[PURCHASES].purchases if PURCHASES in members else fit(customers)
    if purchases is None:
        return {}
    by_day = expected_by_day(purchases, customers, snapshot.horizon_days)
    total = float(float_column(predictions, "expected_orders").sum())
    levelled = by_day * (total / by_day.sum())
    return {
        "tracked_by": purchases.name,
        "weeks": weeks(daily, snapshot.cutoff, purchases, by_day, levelled, customers.num_rows),
        "months": evaluate.months(daily, levelled, snapshot.cutoff, snapshot.horizon_days),
    }


def fit(customers: pa.Table) -> PurchaseModel | None:
    """Pareto/NBD of the customers, or MBG/NBD where it does not converge; None where nobody has bought again."""
    collapsed = btyd_counts.collapse(customers)
    if not float_column(collapsed, "frequency").any():
        return None
    purchases = btyd.make("pareto").fit(collapsed)
    return purchases if purchases.converged_ else btyd.make("mbgnbd").fit(collapsed)


def expected_by_day(purchases: PurchaseModel, customers: Any, horizon_days: int) -> Array:
    """[horizon_days] expected purchases of all the customers on each day after the cutoff, given their histories.

    The total at the ends of weeks, of a sample of the customers, goes from one to the next along a monotone cubic (Fritsch
    and Carlson 1980), so that no day expects less than nothing; the total of the horizon is that of all customers.
    """
    everybody = btyd_counts.collapse(customers)
    counts = btyd_counts.read(thinned(everybody), purchases.time_unit_days)
    ends = np.append(np.arange(WEEK_DAYS, horizon_days, WEEK_DAYS), horizon_days)
    totals = [float(counts.customers @ purchases.expected_purchases(counts, float(end))) for end in ends]
    curve = PchipInterpolator(np.append(0, ends), np.append(0.0, totals))(np.arange(horizon_days + 1))
    by_day = np.maximum(np.diff(curve), 0.0)
    every = btyd_counts.read(everybody, purchases.time_unit_days)
    total = float(every.customers @ purchases.expected_purchases(every, float(horizon_days)))
    return np.asarray(by_day * (total / by_day.sum()))


def thinned(collapsed: pa.Table) -> pa.Table:
    """At most ``MOST_ROWS`` rows of ``btyd_counts.collapse`` that stand for as many customers as all of them.

    A systematic sample (Madow 1949) along the table's order: a row is met as often as it has customers to stand for.
    """
    import pyarrow as pa

    if collapsed.num_rows <= MOST_ROWS:
        return collapsed
    ends = np.cumsum(float_column(collapsed, "customers"))
    at = (np.arange(MOST_ROWS) + 0.5) * (ends[-1] / MOST_ROWS)
    rows, times = np.unique(np.searchsorted(ends, at), return_counts=True)
    chosen = collapsed.take(rows).select(btyd_counts.COLUMNS)
    return chosen.append_column("customers", pa.array(times * (ends[-1] / MOST_ROWS)))


def expected_before(purchases: PurchaseModel, first_days: Array) -> Array:
    """[d] expected repeat purchases on each of d days, of customers of whom the first day alone is known.

    The sum over first days f of n_f (M(t - f) - M(t - f - 1)), M the expected repeat purchases of a new customer: what is
    bought on the k-th day after the first falls between k - 1 and k days of age.

    Args:
      first_days: [d] customers whose first day it is.
    """
    days = len(first_days)
    increments = np.diff(purchases.expected_purchases_new(range(days)), prepend=0.0)
    return np.convolve(first_days, increments)[:days]


def weeks(
    daily: Activity, cutoff: datetime.date, purchases: PurchaseModel, by_day: Array, levelled: Array, customers: int
) -> list[dict[str, Any]]:
    """Weeks that end or begin at the cutoff, first to last, for JSON.

    Args:
      by_day: ``expected_by_day`` of the label window; its length is the horizon.
      levelled: the same scaled to the total of the model that is judged.
      customers: how many the snapshot has; where the activity knows fewer first days there is no history to expect from.

    Returns:
      A dict a week: ``start``, ``days`` (the last week can be short), ``window`` (HISTORY or LABELS), ``order_days``,
      ``repeat`` (order days that are not a customer's first), ``expected`` (repeat, by the purchase model) and ``model``
      (the judged model's expectation, None in the history). At most ``MOST_WEEKS`` of the history.
    """
    found = []
    first_day = datetime.date.fromisoformat(min(daily))
    counts = np.array([daily.get(str(first_day + _DAY * day), (0, 0))[1] for day in range((cutoff - first_day).days)])
    if counts.sum() == customers:
        # Whole weeks: nothing happened on the days before the first.
        whole = -(-len(counts) // WEEK_DAYS) * WEEK_DAYS
        before = np.append(np.zeros(whole - len(counts)), expected_before(purchases, counts.astype(np.float64)))
        past = activity.weeks(daily, cutoff - whole * _DAY, whole)
        found = [_week(week, HISTORY, each, None) for week, each in zip(past, _by_week(before), strict=True)]
    ahead = activity.weeks(daily, cutoff, len(by_day))
    parts = zip(ahead, _by_week(by_day), _by_week(levelled), strict=True)
    return found[-MOST_WEEKS:] + [_week(week, LABELS, expected, model) for week, expected, model in parts]


def _by_week(days: Array) -> list[float]:
    return [float(days[start : start + WEEK_DAYS].sum()) for start in range(0, len(days), WEEK_DAYS)]


def _week(week: Period, window: str, expected: float, model: float | None) -> dict[str, Any]:
    return {
        "start": week.start.isoformat(), "days": week.days, "window": window, "order_days": week.order_days,
        "repeat": week.order_days - week.first_days, "expected": expected, "model": model,
    }  # fmt: skip
