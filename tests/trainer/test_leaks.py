import datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.trainer import cdnow_features, features_fixture
from tests.trainer.evaluation_fixture import HORIZON_DAYS, replaced, simulate
from trainer import leaks, metrics
from trainer.baselines import float_column
from trainer.evaluate import evaluate
from trainer.evaluation_text import MODEL
from transforms import schema

CUTOFF = datetime.date(1997, 10, 1)
PLAUSIBLE = {MODEL: {"normalised_gini": 0.8, "spearman": 0.5}, "past_rate": {"normalised_gini": 0.75}}


def warned(customers, models=PLAUSIBLE, seed=0):
    return leaks.warnings(customers, models, metrics.cap_of(float_column(customers, "future_value")), seed)


@pytest.fixture(scope="module")
def cdnow():
    """CDNOW's customers at the cutoff, and a full horizon later."""
    later = CUTOFF + datetime.timedelta(cdnow_features.HORIZON_DAYS)
    return cdnow_features.customers(CUTOFF, later)


def of_whole_period(cdnow, names):
    """The defect of systems that sum first and cut later: features that run on to the end of the label's window."""
    customers, later = cdnow
    position = {name: i for i, name in enumerate(later["customer_id"].to_pylist())}
    rows = later.take([position[name] for name in customers["customer_id"].to_pylist()])
    return replaced(customers, **{name: rows[name].combine_chunks() for name in names})


def noisy(values, share, seed=0):
    return values * np.random.default_rng(seed).lognormal(0, share, len(values))


def test_real_customers_raise_none(cdnow):
    assert [warned(customers) for customers in cdnow] == [[], []]


@pytest.mark.parametrize("seed", range(3))
def test_simulated_customers_raise_none(seed):
    assert warned(features_fixture.simulate(3000, seed=seed)) == []


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15])
def test_a_label_in_a_feature_is_named(cdnow, share):
    label = float_column(cdnow[0], "future_value")
    (warning,) = warned(replaced(cdnow[0], value_90d=np.round(noisy(label, share), 2)))
    assert "value_90d alone has a normalised Gini of" in warning
    assert "value_90d has a Spearman correlation of" in warning
    assert "days from the cutoff on" in warning


def test_a_label_upside_down_is_named(cdnow):
    (warning,) = warned(replaced(cdnow[0], order_value_mean=-float_column(cdnow[0], "future_value")))
    assert "order_value_mean alone has a normalised Gini of -1.000" in warning


def test_a_label_known_of_buyers_alone_is_named(cdnow):
    """Where nothing is said of the others the ranking of all is poor: the buyers give it away."""
    rng, label = np.random.default_rng(0), float_column(cdnow[0], "future_value")
    (warning,) = warned(replaced(cdnow[0], order_value_std=np.where(label > 0, label, rng.permutation(label + 200))))
    assert "order_value_std has a Spearman" in warning
    assert "Gini" not in warning


def test_orders_in_a_feature_are_named(cdnow):
    (warning,) = warned(replaced(cdnow[0], orders_trend_90d=float_column(cdnow[0], "future_orders")))
    assert "orders_trend_90d has a Spearman correlation of 1.000 with the buyers' future_orders" in warning


def test_spend_of_the_whole_period_is_named(cdnow):
    """More than half of it is past and honest, so that alone it ranks no better than a good forecast."""
    customers = of_whole_period(cdnow, ["value_total"])
    label, total = (float_column(customers, name) for name in ("future_value", "value_total"))
    assert metrics.normalised_gini(label, total) < leaks.GINI
    (warning,) = warned(customers)
    assert "value_total - order_value_total" in warning


def test_the_whole_period_in_every_total_is_named(cdnow):
    customers = of_whole_period(cdnow, ["value_total", "order_value_total", "order_value_mean", "orders", "order_days"])
    (warning,) = warned(customers)
    assert "_total - value_365d has a Spearman correlation of 1.000 with the buyers' future_value" in warning


def test_features_as_of_the_end_of_the_label_are_named(cdnow):
    (warning,) = warned(of_whole_period(cdnow, schema.names(schema.FEATURES)))
    assert "value_90d" in warning


def test_at_most_three_signs_the_strongest_first(cdnow):
    label = float_column(cdnow[0], "future_value")
    copies = {f"value_{days}d": np.round(noisy(label, 0.02 + days / 9000), 2) for days in (30, 90, 180, 365)}
    (warning,) = warned(replaced(cdnow[0], **copies))
    assert warning.count(";") == 2
    assert "value_30d alone" in warning
    assert "value_365d alone" not in warning


def test_one_customer_with_nearly_all_the_value_is_no_leak():
    """He is the largest before and after; capped, he is one of many."""
    customers = features_fixture.simulate(3000, seed=1)
    value, total = (float_column(customers, name).copy() for name in ("future_value", "value_total"))
    value[7], total[7] = 1e9, 1e9
    whale = replaced(customers, future_value=value, value_total=total)
    assert metrics.normalised_gini(value, total) > 0.99
    assert warned(whale) == []


def test_among_few_buyers_nothing_is_said():
    customers = features_fixture.simulate(300, seed=3)
    label = float_column(customers, "future_value")
    few = np.where(np.cumsum(label > 0) < leaks.LEAST_BUYERS, label, 0)
    assert warned(replaced(customers, future_value=few, value_90d=few)) == []
    assert warned(replaced(customers, value_90d=label)) != []


def test_a_leak_shows_in_a_part_of_the_customers(cdnow):
    many = pa.concat_tables([cdnow[0]] * 2)
    assert many.num_rows > 25_000
    leaking = replaced(many, value_90d=float_column(many, "future_value"))
    assert "value_90d" in warned(leaking)[0]
    assert warned(leaking, seed=1) == warned(leaking, seed=1)
    assert warned(many) == []


def models(gini, spearman=0.5, **baselines):
    return {MODEL: {"normalised_gini": gini, "spearman": spearman}} | {
        name: {"normalised_gini": value} for name, value in baselines.items()
    }


def test_a_model_far_beyond_every_baseline_is_named():
    customers = features_fixture.simulate(500, seed=1)
    (warning,) = warned(customers, models(0.965, past_rate=0.5, year_ago=0.6))
    assert "0.965 against 0.600 of year ago, 91% of the way" in warning
    assert warned(customers, models(0.955, past_rate=0.5, year_ago=0.6)) == []
    assert "Implausibly good" in warned(customers, models(0.985, past_rate=0.97))[0]
    assert "Implausibly good" in warned(customers, models(0.9, spearman=0.96, past_rate=0.89))[0]
    assert warned(customers, models(0.9, past_rate=None, year_ago=0.85)) == []


def test_an_evaluation_warns_of_a_leak():
    customers, predictions = simulate()
    leaking = replaced(customers, order_value_max=float_column(customers, "future_value"))
    found = evaluate(leaking, predictions, horizon_days=HORIZON_DAYS)["warnings"]
    assert len(found) == 1
    assert "order_value_max" in found[0]
