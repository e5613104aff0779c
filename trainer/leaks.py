"""Signs that a feature or a model has seen the label's days: forecasts of people are never that good.

A model, a feature or the difference of two totals that is nearly the label; each warning names what to look at.
None is a proof: a shop of equal monthly subscriptions can be forecast that well. Nor is silence: what leaks into every
total alike, and is small beside the past, leaves no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from trainer import metrics
from trainer.baselines import float_column
from trainer.evaluation_text import MODEL, format_metric, spoken
from trainer.metrics import Array
from transforms import schema

if TYPE_CHECKING:
    import pyarrow as pa

GINI, SPEARMAN = 0.98, 0.95
"""Beyond these a ranking is nearly the label's own. Real customers: Gini .69 (CDNOW) to .91 (Online Retail)."""
MARGIN = 0.9
"""Of the way from the best baseline's Gini to a perfect one. What a good model gains is a tenth of it."""
LEAST_BUYERS = 30
"""Among fewer a feature of many ranks them nearly right by chance."""
_MOST_CUSTOMERS = 25_000  # a leak shows in any part of them
_NAMED = 3

# A total that runs on into the label's days less one that does not is the label, though neither looks like it.
_TOTALS = {
    "future_value": ("value_total", "order_value_total", *(f"value_{days}d" for days in schema.RECENT_WINDOWS_DAYS)),
    "future_orders": ("order_days", "orders", *(f"orders_{days}d" for days in schema.RECENT_WINDOWS_DAYS)),
}


def warnings(customers: pa.Table, models: Mapping[str, Mapping[str, float | None]], cap: float, seed: int) -> list[str]:
    """Sentences about implausibly good features, and an implausibly good model.

    Args:
      customers: features and labels, n rows.
      models: {forecast: {metric: value}} as in an evaluation.
      cap: money, where values are cut off for the Gini: one customer who holds nearly all of the value would make every
        feature that knows him look like a leak.
      seed: of the choice of customers, where there are many.
    """
    if np.count_nonzero(float_column(customers, "future_value")) < LEAST_BUYERS:
        return []
    found = [*_of_model(models)]
    if customers.num_rows > _MOST_CUSTOMERS:
        rows = np.random.default_rng(seed).choice(customers.num_rows, _MOST_CUSTOMERS, replace=False, shuffle=False)
        customers = customers.take(rows)
    named = sorted([*_single_features(customers, cap), *_differences(customers)], reverse=True)[:_NAMED]
    if named:
        found.append(
            f"Looks like a leak: {'; '.join(text for _, text in named)}. Look whether it sees days from the cutoff on."
        )
    return found


def _of_model(models: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    gini, spearman = models[MODEL]["normalised_gini"] or 0.0, models[MODEL]["spearman"] or 0.0
    if gini > GINI or spearman > SPEARMAN:
        yield (
            f"Implausibly good (normalised Gini {format_metric('normalised_gini', gini)}, Spearman "
            f"{format_metric('spearman', spearman)}): look for a feature that sees the label's days."
        )
    others = {name: of["normalised_gini"] or 0.0 for name, of in models.items() if name != MODEL}
    name = max(others, key=lambda other: others[other])
    best = others[name]
    if best < 1 and gini - best > MARGIN * (1 - best):
        yield (
            f"Implausibly better than every simpler forecast: normalised Gini {gini:.3f} against {best:.3f} of "
            f"{spoken(name)}, {(gini - best) / (1 - best):.0%} of the way to a perfect ranking."
        )


def _single_features(customers: pa.Table, cap: float) -> Iterator[tuple[float, str]]:
    """(strength, words) for each number among the features that alone gives nearly the label's own ranking."""
    value, orders = (float_column(customers, name) for name in schema.names(schema.LABELS))
    capped = np.minimum(value, cap)
    best = metrics.GainCurve.of(capped, capped)
    for column in schema.FEATURES:
        if column.type is schema.Type.STRING or column.name not in customers.column_names:
            continue
        feature = float_column(customers, column.name)
        for label, name in ((value, "future_value"), (orders, "future_orders")):
            rho = _spearman_of_buyers(feature, label)
            if abs(rho) > SPEARMAN:
                yield abs(rho), f"{column.name} has a Spearman correlation of {rho:.3f} with the buyers' {name}"
        known = np.where(np.isfinite(feature), feature, np.nanmin(feature, initial=0.0) - 1)
        gini = float(metrics.gini_ratio(metrics.GainCurve.of(capped, known), best))
        if abs(gini) > GINI:
            yield abs(gini), f"{column.name} alone has a normalised Gini of {gini:.3f}"


def _differences(customers: pa.Table) -> Iterator[tuple[float, str]]:
    """The same for differences of two totals."""
    for name, totals in _TOTALS.items():
        label = float_column(customers, name)
        columns = {total: float_column(customers, total) for total in totals if total in customers.column_names}
        for one, other in combinations(columns, 2):
            rho = _spearman_of_buyers(columns[one] - columns[other], label)
            if abs(rho) > SPEARMAN:
                yield abs(rho), f"{one} - {other} has a Spearman correlation of {rho:.3f} with the buyers' {name}"


def _spearman_of_buyers(feature: Array, label: Array) -> float:
    """Spearman's correlation over buyers with a known feature, ties sharing a rank; 0 where too few, or all are equal."""
    rows = (label > 0) & np.isfinite(feature)
    if np.count_nonzero(rows) < LEAST_BUYERS or np.ptp(feature[rows]) == 0 or np.ptp(label[rows]) == 0:
        return 0.0
    return float(np.corrcoef(metrics.mid_ranks(feature[rows]), metrics.mid_ranks(label[rows]))[0, 1])
