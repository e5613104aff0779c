"""Forecasts by models that anybody would try first: what a network has to beat to be worth its trouble.

- ``pareto``: Pareto/NBD with Gamma-Gamma, fitted on the judged customers' features, as the literature does: it sees
  what they did before the cutoff and no label. Where it does not converge ``mbgnbd`` stands for it, under its own name.
- ``tweedie``: gradient-boosted trees with a Tweedie loss (LightGBM) on every feature of the training snapshots, as they
  are: rows of the train split, stopped on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer import boosting
from trainer.baselines import float_column
from transforms import schema
from transforms.errors import UsageError, one_line

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

Array = NDArray[np.float64]

LEAST_ROWS = 200
MOST_ROWS = {"train": 500_000, "validation": 100_000}  # more change the trees little, and cost time and memory
_MOST_CATEGORIES = 200  # of LightGBM's 255 bins; the rest counts as not known
_ROUNDS, _PATIENCE = 1000, 50
_PARAMETERS = {
    "objective": "tweedie",
    "tweedie_variance_power": 1.5,  # halfway from counts to a gamma: many zeros, and a heavy tail
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,  # the alternative is chosen by timing, and sums in another order
    "verbosity": -1,
}
_TEXTS = tuple(c.name for c in schema.FEATURES if c.type is schema.Type.STRING)


class Fitted(NamedTuple):
    """``forecasts`` {name: (n,) money, >= 0}, and ``notes``: sentences about what was left out, and why."""

    forecasts: dict[str, Array]
    notes: list[str]


def forecasts(training: Sequence[pa.Table], customers: pa.Table, horizon_days: int, seed: int) -> Fitted:
    """Forecasts of ``future_value`` for the judged customers.

    Args:
      training: ``schema.CUSTOMERS`` with labels of each training snapshot; rows of the test split are not read.
      customers: n rows of ``schema.FEATURES``; labels are not read.
      horizon_days: what the labels cover, and the forecasts.
      seed: of the trees, and of the choice of rows where there are more than ``MOST_ROWS``.
    """
    found: dict[str, Array] = {}
    notes: list[str] = []
    for model in (_buy_till_you_die(customers, horizon_days), _tweedie(training, customers, seed)):
        found |= model.forecasts
        notes += model.notes
    return Fitted(found, notes)


def _buy_till_you_die(customers: pa.Table, horizon_days: int) -> Fitted:
    from trainer import btyd, btyd_counts
    from trainer.gamma_gamma import GammaGamma

    notes: list[str] = []
    try:
        orders, mean = float_column(customers, "orders"), float_column(customers, "order_value_mean")
        counts, collapsed = btyd_counts.read(customers, btyd.WEEK_DAYS), btyd_counts.collapse(customers)
        spend = GammaGamma().fit(orders, mean)
        for name in ("pareto", "mbgnbd"):
            purchases = btyd.make(name).fit(collapsed)
            forecast = purchases.expected_purchases(counts, horizon_days) * spend.expected_value(orders, mean)
            if purchases.converged_ and np.isfinite(forecast).all():
                return Fitted({name: np.maximum(forecast, 0)}, notes)
            notes.append(f"{name} is left out: {'; '.join(purchases.notes_) or 'its forecasts are not finite'}")
    except UsageError as error:
        notes.append(f"pareto is left out: {one_line(str(error))}")
    return Fitted({}, notes)


def _tweedie(training: Sequence[pa.Table], customers: pa.Table, seed: int) -> Fitted:
    rows = {split: _rows(training, split, seed) for split in MOST_ROWS}
    labels = {split: float_column(table, "future_value") for split, table in rows.items()}
    learned, (buyers, others) = sum(map(len, labels.values())), map(np.count_nonzero, labels.values())
    if learned < LEAST_ROWS or not buyers or not others:
        few = f"{learned} rows to learn from, {buyers} buyers among those for training, {others} for validation"
        return Fitted({}, [f"tweedie is left out: {few}; it takes {LEAST_ROWS} rows, and a buyer for each"])
    categories = {name: _categories(rows["train"], name) for name in _TEXTS}
    # In units of the mean: where boosting stops must not depend on the currency.
    unit = labels["train"].mean()
    booster = _boost(
        {split: _matrix(table, categories) for split, table in rows.items()},
        {split: values / unit for split, values in labels.items()},
        seed,
    )
    predicted = booster.predict(_matrix(customers, categories), num_threads=boosting.threads())
    return Fitted({"tweedie": unit * np.asarray(predicted, np.float64)}, [])


def _rows(training: Sequence[pa.Table], split: str, seed: int) -> pa.Table:
    """One split of all the snapshots, at most ``MOST_ROWS`` of it, chosen at random, in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_split = pa.concat_tables([table.filter(pc.equal(table["split"], split)) for table in training])
    if of_split.num_rows <= MOST_ROWS[split]:
        return of_split
    chosen = np.random.default_rng(seed).choice(of_split.num_rows, MOST_ROWS[split], replace=False, shuffle=False)
    return of_split.take(np.sort(chosen))


def _categories(table: pa.Table, name: str) -> list[str]:
    """The most frequent values, sorted: the same whatever the order of the rows."""
    counted = [(row["counts"], row["values"]) for row in table[name].value_counts().to_pylist()]
    known = sorted(((-count, value) for count, value in counted if value is not None))[:_MOST_CATEGORIES]
    return sorted(value for _, value in known)


def _matrix(table: pa.Table, categories: dict[str, list[str]]) -> NDArray[np.float32]:
    """(n, features) of ``boosting.inputs()``, then ``_TEXTS`` as places in ``categories``; NaN where not known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = [
        pc.index_in(table[name], pa.array(categories[name], pa.string())).cast(pa.float32()).to_numpy()
        for name in _TEXTS
    ]
    return np.column_stack([boosting.matrix(table), *places])


def _boost(features: dict[str, NDArray[np.float32]], labels: dict[str, Array], seed: int) -> lightgbm.Booster:
    import lightgbm

    parameters: dict[str, Any] = {**_PARAMETERS, "seed": seed, "num_threads": boosting.threads()}
    train = lightgbm.Dataset(
        features["train"], labels["train"], params=parameters,
        feature_name=[*boosting.inputs(), *_TEXTS], categorical_feature=list(_TEXTS),
    )  # fmt: skip
    validation = train.create_valid(features["validation"], labels["validation"])
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
    return lightgbm.train(parameters, train, _ROUNDS, valid_sets=[validation], callbacks=[stop])
