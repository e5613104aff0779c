"""The forecast of value: against draws from the posterior, and the same for a customer whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trainer import btyd_reference as reference
from trainer import btyd, btyd_counts, btyd_forecast, metrics
from trainer.btyd import PurchaseModel
from trainer.gamma_gamma import GammaGamma
from trainer.predictor import FORECAST_COLUMNS
from transforms.errors import UsageError

MODELS = ("bgnbd", "mbgnbd", "pareto")
SPEND = reference.spend_with_parameters(6.25, 3.74, 15.44)
DRAWS = 200_000


def customers(n: int = 300) -> dict[str, Any]:
    """CDNOW customers, with one order a repeat day and the first, and made up values."""
    table = {name: values[:n] for name, values in reference.summary().items()}
    rng = np.random.default_rng(0)
    return table | {"orders": table["frequency"] + 1, "order_value_mean": rng.gamma(3, 12, n)}


def drawn(
    purchases: PurchaseModel, spend: GammaGamma, row: dict[str, Any], horizon_weeks: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values and purchases over the horizon of one customer, by way of the rates, lifetimes and orders themselves."""
    rng, p = np.random.default_rng(1), purchases.params_
    x, age = row["frequency"][0], row["age_days"][0] / 7
    rate = rng.gamma(p["r"] + x, 1 / (p["alpha"] + age), DRAWS)
    if purchases.name == "pareto":
        left = rng.exponential(1 / rng.gamma(p["s"], 1 / (p["beta"] + age), DRAWS))
        count = rng.poisson(rate * np.minimum(left, horizon_weeks))
    else:
        chance = rng.beta(p["a"], p["b"] + x + (purchases.name == "mbgnbd"), DRAWS)
        count = np.minimum(rng.poisson(rate * horizon_weeks), rng.geometric(chance))
    count = np.where(rng.random(DRAWS) < purchases.probability_alive(row), count, 0)
    s, n = spend.params_, row["orders"][0]
    scale = (s["v"] + n * row["order_value_mean"][0]) / rng.gamma(s["q"] + s["p"] * n, 1, DRAWS)
    return np.where(count > 0, rng.gamma(s["p"] * np.maximum(count, 1)), 0) * scale, count


@pytest.mark.parametrize("model", MODELS)
def test_the_forecast_is_that_of_drawn_futures(model: str) -> None:
    purchases, table = reference.fitted(model, "summary"), customers()
    forecast = btyd_forecast.forecast(purchases, SPEND, table, 273)
    assert set(forecast) == set(FORECAST_COLUMNS)
    order = np.argsort(table["frequency"])
    for i in (order[0], order[200], order[260], order[290], order[-1]):
        value, count = drawn(purchases, SPEND, {name: values[i : i + 1] for name, values in table.items()}, 39.0)
        error = value.std() / np.sqrt(DRAWS)
        assert forecast["predicted_value"][i] == pytest.approx(value.mean(), abs=5 * error)
        assert forecast["expected_orders"][i] == pytest.approx(count.mean(), abs=5 * count.std() / np.sqrt(DRAWS))
        assert forecast["purchase_probability"][i] == pytest.approx((count > 0).mean(), abs=0.005)
        for level in btyd_forecast.LEVELS:
            # The share of futures below a quantile, which is robust where the distribution is thin.
            quantile = forecast[f"value_p{round(100 * level)}"][i]
            assert (value < quantile).mean() <= level + 0.005
            assert (value <= quantile).mean() >= level - 0.005


@pytest.mark.parametrize("model", MODELS)
def test_a_customer_is_forecast_the_same_whoever_else_is_there(model: str) -> None:
    purchases, table = reference.fitted(model, "summary"), customers(60)
    whole = btyd_forecast.forecast(purchases, SPEND, table, 90)
    order = np.random.default_rng(0).permutation(60)
    shuffled = btyd_forecast.forecast(purchases, SPEND, {name: values[order] for name, values in table.items()}, 90)
    alone = [
        btyd_forecast.forecast(purchases, SPEND, {name: values[i : i + 1] for name, values in table.items()}, 90)
        for i in range(12)
    ]
    for name, values in whole.items():
        assert shuffled[name] == pytest.approx(values[order], rel=1e-9, abs=1e-12)
        assert np.concatenate([row[name] for row in alone]) == pytest.approx(values[:12], rel=1e-9, abs=1e-12)


@given(st.integers(1, 3000), st.sampled_from(MODELS))
@settings(max_examples=20)
def test_forecasts_are_ordered_and_scale_with_spend(horizon: int, model: str) -> None:
    purchases, table = reference.fitted(model, "summary"), customers(40)
    forecast = btyd_forecast.forecast(purchases, SPEND, table, horizon)
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in forecast.values())
    assert (forecast["value_p10"] <= forecast["value_p50"]).all() and (
        forecast["value_p50"] <= forecast["value_p90"]
    ).all()
    nothing = 1 - forecast["purchase_probability"]
    for level in btyd_forecast.LEVELS:
        zero = forecast[f"value_p{round(100 * level)}"] == 0
        assert (zero == (nothing >= level))[np.abs(nothing - level) > 1e-6].all()
    dearer = reference.spend_with_parameters(6.25, 3.74, 15.44 * 30)
    scaled = btyd_forecast.forecast(
        purchases, dearer, table | {"order_value_mean": 30 * table["order_value_mean"]}, horizon
    )
    for name in ("predicted_value", "value_p10", "value_p50", "value_p90"):
        assert scaled[name] == pytest.approx(30 * forecast[name], rel=1e-9)


def test_a_finer_grid_of_values_changes_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    purchases, table = reference.fitted("pareto", "summary"), customers()
    coarse = btyd_forecast.forecast(purchases, SPEND, table, 273)["value_p90"]
    monkeypatch.setattr(btyd_forecast, "_GRID", 8 * btyd_forecast._GRID)
    fine = btyd_forecast.forecast(purchases, SPEND, table, 273)["value_p90"]
    assert coarse == pytest.approx(fine, rel=2e-3, abs=0.02)


def test_arrow_columns_of_a_snapshot_are_taken_as_they_are() -> None:
    purchases, table = reference.fitted("bgnbd", "summary"), customers(20)
    plain = btyd_forecast.forecast(purchases, SPEND, table, 90)
    for arrow in (
        pa.table(table),
        pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in table.items()}),
    ):
        found = btyd_forecast.forecast(purchases, SPEND, arrow, 90)
        assert all((found[name] == plain[name]).all() for name in plain)
    with pytest.raises(UsageError, match="orders is missing"):
        btyd_forecast.forecast(purchases, SPEND, pa.table(table).drop(["orders"]), 90)


def test_the_first_order_in_the_spend_model_ranks_cdnow_much_better() -> None:
    """Most of CDNOW's customers have one order only: without it they are all worth the same."""
    table = reference.master()
    assert table.num_rows == 23_500
    purchases = btyd.make("pareto").fit(btyd_counts.collapse(table.select(btyd_counts.COLUMNS)))
    orders, mean, x, repeat, future = (
        np.asarray(table[name], dtype=float)
        for name in ("orders", "order_value_mean", "frequency", "repeat_value_mean", "future_value")
    )
    spend, repeat_spend = GammaGamma().fit(orders, mean), GammaGamma().fit(x[x > 0], repeat[x > 0])
    forecast = btyd_forecast.forecast(purchases, spend, table, 273)
    without = forecast["expected_orders"] * repeat_spend.expected_value(x, repeat)
    ours, plain = (float(metrics.normalised_gini(future, values)) for values in (forecast["predicted_value"], without))
    assert plain == pytest.approx(0.684, abs=0.005)  # what others find for Pareto/NBD with Gamma-Gamma
    assert ours > plain + 0.03
    assert forecast["predicted_value"].sum() == pytest.approx(future.sum(), rel=0.25)
