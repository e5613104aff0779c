"""Boosted trees on simulated customers: what they learn, say, keep and refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from tests.trainer import features_fixture
from trainer import boosting
from trainer.baselines import float_column
from trainer.boosting import Boosting
from trainer.predictor import FORECAST_COLUMNS
from transforms.errors import UsageError

HORIZON_DAYS = 90
WIDTH = len(boosting.inputs())


def fit(customers: pa.Table, seed: int = 0) -> Boosting:
    value, orders = float_column(customers, "future_value"), float_column(customers, "future_orders")
    x, people = boosting.matrix(customers), np.arange(customers.num_rows)
    return boosting.fit(x, value, orders, people, horizon_days=HORIZON_DAYS, seed=seed)


@pytest.fixture(scope="module")
def customers() -> pa.Table:
    return features_fixture.simulate(3000, seed=31)


@pytest.fixture(scope="module")
def fitted(customers: pa.Table) -> Boosting:
    return fit(customers)


@pytest.fixture(scope="module")
def fresh() -> pa.Table:
    return features_fixture.simulate(2000, seed=32, start=5000)


def test_forecasts_are_possible_and_tell_customers_apart(fitted: Boosting, fresh: pa.Table) -> None:
    said = fitted.forecasts(fresh)
    assert set(said) == set(FORECAST_COLUMNS) and all(len(values) == 2000 for values in said.values())
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in said.values())
    assert (said["value_p10"] <= said["value_p50"]).all() and (said["value_p50"] <= said["value_p90"]).all()
    value, orders = float_column(fresh, "future_value"), float_column(fresh, "future_orders")
    assert stats.spearmanr(said["predicted_value"], value).statistic > 0.45
    assert said["purchase_probability"].mean() == pytest.approx((value > 0).mean(), abs=0.04)
    assert said["expected_orders"].mean() == pytest.approx(orders.mean(), rel=0.15)
    assert said["predicted_value"].mean() == pytest.approx(value.mean(), rel=0.2)


def test_the_same_seed_grows_the_same_trees_and_another_does_not(customers: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(boosting, "ROUNDS", 20)
    some = customers.slice(0, 2000)
    first, again, other = fit(some, 5), fit(some, 5), fit(some, 6)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    texts = [{name: tree.model_to_string() for name, tree in model.trees.items()} for model in (first, again)]
    assert texts[0] == texts[1]


def test_the_number_of_threads_changes_neither_trees_nor_fingerprint(customers: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    some = customers.slice(0, 2000)
    monkeypatch.setattr(boosting, "ROUNDS", 20)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = fit(some)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert fit(some).fingerprint() == one.fingerprint()


def test_a_fingerprint_tells_sigma_and_cap_apart(fitted: Boosting) -> None:
    others = [dataclasses.replace(fitted, sigma=fitted.sigma + 1e-9), dataclasses.replace(fitted, value_cap=1.0)]
    assert len({model.fingerprint() for model in (fitted, *others)}) == 3


def test_saved_and_loaded_it_says_the_same(fitted: Boosting, fresh: pa.Table, tmp_path: Path) -> None:
    fitted.save(str(tmp_path))
    loaded = boosting.load(str(tmp_path))
    for name, values in fitted.forecasts(fresh).items():
        np.testing.assert_array_equal(loaded.forecasts(fresh)[name], values, err_msg=name)
    assert (loaded.sigma, loaded.value_cap, loaded.horizon_days) == (fitted.sigma, fitted.value_cap, HORIZON_DAYS)
    assert loaded.fingerprint() == fitted.fingerprint()


def test_trees_on_other_features_are_refused(fitted: Boosting, tmp_path: Path) -> None:
    fitted.save(str(tmp_path))
    description = tmp_path / "boosting.json"
    description.write_text(description.read_text().replace('"age_days"', '"age_weeks"'))
    with pytest.raises(UsageError, match="other features than this code's"):
        boosting.load(str(tmp_path))


def test_quantiles_are_those_of_a_zero_inflated_lognormal(fitted: Boosting, fresh: pa.Table) -> None:
    """Its distribution function at the quantile is the level; by SciPy, from the trees' own probability and mean."""
    x = boosting.matrix(fresh)
    probability = np.asarray(fitted.trees["purchase"].predict(x))
    mu = np.asarray(fitted.trees["log_value"].predict(x))
    said = dataclasses.replace(fitted, value_cap=1e300).forecasts(fresh)
    for name, level in (("value_p10", 0.1), ("value_p50", 0.5), ("value_p90", 0.9)):
        none = 1 - probability >= level
        assert none.any() or level == 0.9
        assert (said[name][none] == 0).all() and (said[name][~none] > 0).all()
        value = stats.lognorm(fitted.sigma, scale=np.exp(mu[~none]))
        reached = 1 - probability[~none] + probability[~none] * value.cdf(said[name][~none])
        np.testing.assert_allclose(reached, level, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(
        said["predicted_value"], probability * stats.lognorm(fitted.sigma, scale=np.exp(mu)).mean()
    )


def test_sigma_is_what_trees_are_off_on_rows_they_have_not_seen() -> None:
    """True sigma 0.5, and many features that say nothing: on their own rows trees would take it for 0.4."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, WIDTH)).astype(np.float32)
    value = np.where(rng.random(3000) < 0.4, np.exp(3 + x[:, 0] + 0.5 * rng.normal(size=3000)), 0.0)
    model = boosting.fit(x, value, (value > 0).astype(float), np.arange(3000), horizon_days=HORIZON_DAYS, seed=0)
    assert 0.5 < model.sigma < 0.62
    np.testing.assert_allclose(model.value_cap, 2 * value.max())


def test_rows_of_one_customer_do_not_vouch_for_one_another() -> None:
    """The same customers at two cutoffs, hardly changed: no more is known than from one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, WIDTH)).astype(np.float32)
    value = np.exp(3 + x[:, 0] + 0.5 * rng.normal(size=1500))
    twice, values = np.concatenate([x, x]), np.concatenate([value, value])
    people = np.tile(np.arange(1500), 2)
    model = boosting.fit(twice, values, np.ones(3000), people, horizon_days=HORIZON_DAYS, seed=0)
    assert 0.5 < model.sigma < 0.62


def test_missing_values_are_survived(fitted: Boosting, fresh: pa.Table) -> None:
    nothing = {name: pa.nulls(3, fresh.schema.field(name).type) for name in boosting.inputs()}
    said = fitted.forecasts(pa.table(nothing))
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in said.values())
    x = boosting.matrix(fresh)
    assert np.isnan(x).any() and x.shape == (2000, WIDTH)


def test_a_batch_is_forecast_like_a_table(fitted: Boosting, fresh: pa.Table) -> None:
    batch = fresh.combine_chunks().to_batches()[0].slice(7, 40)
    whole = fitted.forecasts(fresh)
    for name, values in fitted.forecasts(batch).items():
        np.testing.assert_array_equal(values, whole[name][7:47])
    assert all(values.shape == (0,) for values in fitted.forecasts(fresh.slice(0, 0)).values())


def test_no_forecast_exceeds_the_cap_nor_the_horizon(fitted: Boosting, fresh: pa.Table) -> None:
    low = dataclasses.replace(fitted, value_cap=20.0, horizon_days=1).forecasts(fresh)
    assert low["predicted_value"].max() == low["value_p90"].max() == 20
    assert low["expected_orders"].max() <= 1
    wild = dataclasses.replace(fitted, sigma=60.0).forecasts(fresh)
    assert all(np.isfinite(values).all() for values in wild.values())
    assert wild["predicted_value"].max() == fitted.value_cap


def test_too_few_buyers_are_refused() -> None:
    rng = np.random.default_rng(0)
    x, value = rng.normal(size=(1000, WIDTH)).astype(np.float32), np.zeros(1000)
    value[: boosting.FEWEST_BUYERS - 1] = 1.0
    with pytest.raises(UsageError, match="299 rows with a purchase are too few for trees: accepted are 300"):
        boosting.fit(x, value, value, np.arange(1000), horizon_days=HORIZON_DAYS, seed=0)
    value[boosting.FEWEST_BUYERS - 1] = 1.0
    assert (
        boosting.fit(x, value, value, np.arange(1000), horizon_days=HORIZON_DAYS, seed=0).sigma == 0.05
    )  # all alike: the floor


def test_a_missing_column_is_named(fitted: Boosting, fresh: pa.Table) -> None:
    with pytest.raises(UsageError, match="no column recency_days: given are customer_id"):
        fitted.forecasts(fresh.drop_columns(["recency_days"]))
