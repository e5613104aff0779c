"""A buy-till-you-die member: by order day, saved and loaded, and on the edges of what customers can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.trainer import features_fixture
from trainer import btyd, btyd_counts, btyd_forecast, btyd_model
from trainer.baselines import float_column
from trainer.btyd_model import GAMMA_GAMMA, OWN_MEAN, BtydModel
from trainer.gamma_gamma import GammaGamma
from trainer.predictor import FORECAST_COLUMNS
from transforms.errors import UsageError

HORIZON_DAYS = 90


@pytest.fixture(scope="module")
def customers() -> pa.Table:
    """Two orders on some customers' order days: value an order is not value an order day."""
    table = features_fixture.simulate(1500, seed=41)
    orders = pc.add(table["orders"], pa.array(np.arange(1500) % 3 == 0).cast(pa.int64()))
    return table.set_column(table.schema.get_field_index("orders"), "orders", orders)


@pytest.fixture(scope="module")
def fitted(customers: pa.Table) -> BtydModel:
    return btyd_model.fit("mbgnbd", customers, horizon_days=HORIZON_DAYS)


def by_day(customers: pa.Table) -> dict[str, np.ndarray]:
    """What ``btyd_forecast`` reads, with an order day's mean value in place of an order's."""
    columns = {name: float_column(customers, name) for name in btyd_counts.COLUMNS}
    days = float_column(customers, "order_days")
    return {**columns, "orders": days, "order_value_mean": float_column(customers, "order_value_total") / days}


def test_forecasts_are_those_of_the_two_models_by_order_day(fitted: BtydModel, customers: pa.Table) -> None:
    table = by_day(customers)
    purchases = btyd.make("mbgnbd").fit(btyd_counts.collapse(pa.table({n: table[n] for n in btyd_counts.COLUMNS})))
    spend = GammaGamma().fit(table["orders"], table["order_value_mean"])
    expected = btyd_forecast.forecast(purchases, spend, table, HORIZON_DAYS)
    said = fitted.forecasts(customers)
    assert set(said) == set(FORECAST_COLUMNS)
    for name in FORECAST_COLUMNS:
        np.testing.assert_array_equal(said[name], expected[name], err_msg=name)


def test_the_own_mean_takes_the_customer_s_order_days(fitted: BtydModel, customers: pa.Table) -> None:
    own = BtydModel(fitted.purchases, fitted.spend, OWN_MEAN, HORIZON_DAYS).forecasts(customers)
    plain = fitted.forecasts(customers)
    expected = [
        orders * float(row["order_value_total"]) / row["order_days"]
        for orders, row in zip(plain["expected_orders"], customers.to_pylist(), strict=True)
    ]
    np.testing.assert_allclose(own["predicted_value"], expected, rtol=1e-12)
    assert not np.allclose(own["predicted_value"], plain["predicted_value"])
    for name in set(FORECAST_COLUMNS) - {"predicted_value"}:
        np.testing.assert_array_equal(own[name], plain[name])


@pytest.mark.parametrize("order_value", [GAMMA_GAMMA, OWN_MEAN])
def test_saved_and_loaded_it_says_the_same(order_value: str, fitted: BtydModel, customers: pa.Table, tmp_path: Path) -> None:  # fmt: skip
    model = BtydModel(fitted.purchases, fitted.spend, order_value, HORIZON_DAYS)
    model.save(str(tmp_path))
    loaded, some = btyd_model.load(str(tmp_path)), customers.slice(0, 100)
    again = loaded.forecasts(some)
    for name, values in model.forecasts(some).items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert (loaded.order_value, loaded.horizon_days, loaded.notes) == (order_value, HORIZON_DAYS, model.notes)
    assert loaded.fingerprint() == model.fingerprint()


def test_a_fingerprint_tells_models_apart(fitted: BtydModel, customers: pa.Table) -> None:
    own = BtydModel(fitted.purchases, fitted.spend, OWN_MEAN, HORIZON_DAYS)
    others = btyd_model.fit("mbgnbd", customers.slice(0, 1000), horizon_days=HORIZON_DAYS)
    again = btyd_model.fit("mbgnbd", customers, horizon_days=HORIZON_DAYS)
    assert len({model.fingerprint() for model in (fitted, own, others)}) == 3
    assert again.fingerprint() == fitted.fingerprint()


def test_nobody_who_repeats_is_refused(customers: pa.Table) -> None:
    once = customers.filter(pc.equal(customers["frequency"], 0))
    with pytest.raises(UsageError, match="repeat"):
        btyd_model.fit("pareto", once, horizon_days=HORIZON_DAYS)


def test_customers_with_one_order_day_are_told_apart(fitted: BtydModel, customers: pa.Table) -> None:
    """x = 0: nothing is known but how long ago and for how much; more of the first says less, more of the second more."""
    one = {name: pa.array([0, 0, 0, 0]) for name in ("frequency", "recency_days")}
    table = pa.table({
        **one, "age_days": pa.array([1, 1, 1, 700]), "order_days": pa.array([1] * 4),
        "order_value_total": pa.array([1.0, 30.0, 900.0, 30.0]),
    })  # fmt: skip
    for order_value in (GAMMA_GAMMA, OWN_MEAN):
        said = BtydModel(fitted.purchases, fitted.spend, order_value, HORIZON_DAYS).forecasts(table)
        cheap, middle, dear, long_ago = said["predicted_value"]
        assert 0 < cheap < middle < dear and 0 < long_ago < middle
        assert all(np.isfinite(values).all() and (values >= 0).all() for values in said.values())


def test_the_spend_of_very_many_is_that_of_some(customers: pa.Table, fitted: BtydModel, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(btyd_model, "_MOST_SPENDERS", 500)
    some = btyd_model.fit("mbgnbd", customers, horizon_days=HORIZON_DAYS)
    assert some.spend.customers_ == 500 and fitted.spend.customers_ == 1500
    assert some.purchases.to_json() == fitted.purchases.to_json()
    assert some.spend.population_mean_ == pytest.approx(fitted.spend.population_mean_, rel=0.15)


def test_no_customers_and_missing_columns(fitted: BtydModel, customers: pa.Table) -> None:
    assert all(values.shape == (0,) for values in fitted.forecasts(customers.slice(0, 0)).values())
    with pytest.raises(UsageError, match="no column order_days: given are customer_id"):
        fitted.forecasts(customers.drop_columns(["order_days"]))
    with pytest.raises(UsageError, match="no column order_value_total"):
        btyd_model.fit("mbgnbd", customers.drop_columns(["order_value_total"]), horizon_days=HORIZON_DAYS)
