import datetime
import json
import math

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.evaluation_fixture import HORIZON_DAYS, replaced, simulate
from trainer import metrics, segments
from trainer.baselines import float_column
from trainer.evaluate import evaluate
from trainer.evaluation_text import MODEL, format_table

CUTOFF = datetime.date(2011, 9, 1)
NAMES = ["Austria", "Belgium", "Chile", None]


def world(n=2000, seed=4):
    """Customers of every segment in four countries, the first 300 came today; and the forecast of who knows their rate."""
    customers, predictions = simulate(n, seed)
    rng, today = np.random.default_rng(seed), np.arange(n) < 300
    rate = rng.gamma(0.8, 1.0, n)
    orders = rng.poisson(rate)
    customers = replaced(
        customers,
        age_days=np.where(today, 1, float_column(customers, "age_days")),
        order_days=np.where(today, 1, 1 + (rng.random(n) < 0.5)),
        country=rng.choice(NAMES, n, p=[0.5, 0.3, 0.19, 0.01]).tolist(),
        future_orders=orders, future_value=np.round(orders * rng.lognormal(2, 0.5, n), 2),
    )  # fmt: skip
    value = rate * np.exp(2 + 0.5**2 / 2)
    return customers, replaced(
        predictions, predicted_value=value, value_p10=0 * value, value_p50=0.6 * value, value_p90=2.5 * value,
        purchase_probability=1 - np.exp(-rate), expected_orders=rate,
    )  # fmt: skip


CUSTOMERS, PREDICTIONS = world()
ACTUAL, AGE = float_column(CUSTOMERS, "future_value"), float_column(CUSTOMERS, "age_days")


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS, cutoff=CUTOFF)


def table(age, order_days=None, country=None):
    n = len(age)
    columns = {"age_days": age, "order_days": order_days or [1] * n, "country": country or ["A"] * n}
    return pa.table({**columns, "country": pa.array(columns["country"], pa.string())})


def members(customers, cutoff=CUTOFF):
    """{dimension: {segment: row numbers}}."""
    return {
        of: {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
        for of, masks in segments.groups(customers, cutoff).items()
    }


def test_history_and_newness_by_hand():
    found = members(table(age=[1, 1, 2, 30, 31, 400, 400], order_days=[1, 1, 1, 2, 1, 1, 3]))
    assert found["history"] == {"today": [0, 1], "one-time": [2, 4, 5], "repeat": [3, 6]}
    assert found["newness"] == {"new": [0, 1, 2, 3]}
    assert "country" not in found  # there is one only


def test_no_segment_is_empty():
    assert members(table(age=[100, 200], order_days=[2, 2]))["history"] == {"repeat": [0, 1]}
    assert "newness" not in members(table(age=[100, 200]))


def test_cohorts_are_the_months_of_the_first_order_and_the_oldest_one_group():
    # From 2011-09-01: 1 day back is August 31, 31 August 1, 32 July 31; then every month back to July 2010.
    first = [datetime.date(2011, 8, 31), datetime.date(2011, 8, 1), datetime.date(2011, 7, 31)]
    first += [datetime.date(2011, month, 5) for month in range(6, 0, -1)]
    first += [datetime.date(2010, month, 5) for month in range(12, 6, -1)]
    found = members(table(age=[(CUTOFF - day).days for day in first]))["cohort"]
    assert found["2011-08"] == [0, 1]
    assert found["2011-07"] == [2]
    assert list(found) == ["before 2010-09", *sorted(name for name in found if name != "before 2010-09")]
    assert len(found) == 1 + segments.COHORTS
    assert found["2010-09"] == [12]
    assert found["before 2010-09"] == [13, 14]


def test_without_a_cutoff_there_are_no_cohorts():
    assert "cohort" not in members(table(age=[1, 2]), cutoff=None)


def test_the_eight_largest_countries_ties_by_name_and_the_rest_as_other():
    countries = ["Z"] * 5 + ["Y"] * 4 + list("HGFEDCBA") + [None] * 3
    found = members(table(age=[5] * len(countries), country=countries))["country"]
    assert list(found) == ["Z", "Y", "unknown", "A", "B", "C", "D", "E", "other"]
    assert len(found["unknown"]) == 3
    assert [countries[row] for row in found["other"]] == ["H", "G", "F"]


def test_a_country_called_other_is_one_of_the_others():
    countries = ["other"] * 5 + list("ABCDEFGHI")
    found = members(table(age=[5] * len(countries), country=countries))["country"]
    assert [countries[row] for row in found["other"]] == ["other"] * 5 + ["H", "I"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 3), st.sampled_from([None, *"ABCDEFGHIJKL"])), min_size=1)
)
def test_every_customer_is_in_one_segment_of_a_dimension(rows):
    age, order_days, country = (list(column) for column in zip(*rows, strict=True))
    found = segments.groups(table(age, order_days, country), CUTOFF)
    for dimension in found.keys() - {"newness"}:
        assert (np.sum(list(found[dimension].values()), axis=0) == 1).all()


def test_a_segment_is_judged_like_its_customers_alone(evaluation):
    """Every number again from the segment's rows, by scikit-learn or NumPy, with the cap of all customers."""
    for dimension, masks in segments.groups(CUSTOMERS, CUTOFF).items():
        assert evaluation["segments"][dimension].keys() == masks.keys()
        for name, mask in masks.items():
            found, rows = evaluation["segments"][dimension][name], PREDICTIONS.filter(pa.array(mask))
            column = {c: float_column(rows, c) for c in rows.column_names[4:]}
            actual, orders = ACTUAL[mask], float_column(CUSTOMERS, "future_orders")[mask]
            cap = np.percentile(ACTUAL, 99.5)
            expected = {
                "total_bias": column["predicted_value"].sum() / actual.sum() - 1 if actual.sum() else None,
                "normalised_gini": _or_none(metrics.normalised_gini(actual, column["predicted_value"])),
                "mae_median": np.abs(actual - column["value_p50"]).mean(),
                "rmse_capped": sklearn.metrics.root_mean_squared_error(
                    actual.clip(max=cap), column["predicted_value"].clip(max=cap)
                ),
                "share_above_p90": np.mean(actual > column["value_p90"]),
                "brier": np.mean((column["purchase_probability"] - (orders > 0)) ** 2),
                "poisson_deviance": sklearn.metrics.mean_poisson_deviance(orders, column["expected_orders"]),
            }
            assert found["metrics"] == {m: v if v is None else pytest.approx(v) for m, v in expected.items()}
            assert (found["customers"], found["buyers"]) == (mask.sum(), np.count_nonzero(actual))
            assert found["actual_total"] == pytest.approx(actual.sum())
            assert found["predicted_total"] == pytest.approx(column["predicted_value"].sum())


def _or_none(value):
    return None if math.isnan(value) else float(value)


def test_segments_add_up_to_the_whole(evaluation):
    for dimension in ("history", "country", "cohort"):
        parts = evaluation["segments"][dimension].values()
        for total in ("customers", "buyers", "actual_total"):
            assert sum(part[total] for part in parts) == pytest.approx(evaluation[total])
        model = evaluation["models"][MODEL]
        weighted = sum(part["customers"] * part["metrics"]["brier"] for part in parts)
        assert weighted / len(ACTUAL) == pytest.approx(model["brier"])


def test_intervals_hold_the_values_and_small_segments_have_none(evaluation):
    sizes = set()
    for of in evaluation["segments"].values():
        for part in of.values():
            small = part["customers"] < segments.LEAST_CUSTOMERS
            sizes.add(small)
            for metric, (low, high) in part["intervals"].items():
                assert (low is None and high is None) if small else low <= part["metrics"][metric] <= high
            if small:
                assert set(part["beats_population_mean"].values()) == {None}
    assert sizes == {True, False}
    json.dumps(evaluation, allow_nan=False)


def test_the_interval_of_a_segments_mean_has_the_width_of_theory(evaluation):
    mask = segments.groups(CUSTOMERS, CUTOFF)["history"]["one-time"]
    error = np.abs(ACTUAL - float_column(PREDICTIONS, "value_p50"))[mask]
    low, high = evaluation["segments"]["history"]["one-time"]["intervals"]["mae_median"]
    assert high - low == pytest.approx(2 * 1.96 * error.std() / np.sqrt(len(error)), rel=0.25)


def test_a_forecast_of_single_orders_and_of_new_customers_beats_the_population_mean(evaluation):
    for dimension, name in (("history", "one-time"), ("history", "today"), ("newness", "new")):
        part = evaluation["segments"][dimension][name]
        assert part["beats_population_mean"] == {"rmse_capped": True, "poisson_deviance": True}
        for metric in segments.AGAINST_MEAN:
            low, high = part["paired"][metric]
            assert low <= part["metrics"][metric] - part["population_mean"][metric] <= high < 0


def test_the_population_mean_is_that_of_capped_forecasts():
    """Or else a single huge forecast would make the mean so high that any forecast beats it."""
    predicted, cap = float_column(PREDICTIONS, "predicted_value").copy(), np.percentile(ACTUAL, 99.5)
    predicted[-1] = 1e7
    found = evaluate(CUSTOMERS, replaced(PREDICTIONS, predicted_value=predicted), horizon_days=HORIZON_DAYS)
    mask, everybody = AGE <= 1, predicted.clip(max=cap).mean()
    expected = np.sqrt(np.mean((ACTUAL[mask].clip(max=cap) - everybody) ** 2))
    assert found["segments"]["history"]["today"]["population_mean"]["rmse_capped"] == pytest.approx(expected)


def test_forecasts_that_know_nothing_of_a_segments_customers_do_not_beat_the_mean():
    rng, today = np.random.default_rng(0), np.flatnonzero(AGE <= 1)
    order = np.arange(len(AGE))
    order[today] = rng.permutation(today)  # the right level, for the wrong customers
    blind = {c: float_column(PREDICTIONS, c)[order] for c in ("predicted_value", "expected_orders")}
    found = evaluate(CUSTOMERS, replaced(PREDICTIONS, **blind), horizon_days=HORIZON_DAYS)["segments"]["history"]
    assert not any(found["today"]["beats_population_mean"].values())
    assert all(found["repeat"]["beats_population_mean"].values())


def test_saying_the_mean_for_everybody_does_not_beat_it():
    constant = {"predicted_value": np.full(len(AGE), 20.0), "expected_orders": np.full(len(AGE), 0.5)}
    found = evaluate(CUSTOMERS, replaced(PREDICTIONS, **constant), horizon_days=HORIZON_DAYS)["segments"]["history"]
    for part in found.values():
        assert part["paired"] == {metric: [0, 0] for metric in segments.AGAINST_MEAN}
        assert not any(part["beats_population_mean"].values())


def test_intervals_from_subsets_are_as_wide_as_from_everybody(evaluation, monkeypatch):
    from trainer import evaluate as judge

    monkeypatch.setattr(judge, "SUBSET", 400)
    little = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS)["segments"]["history"]["repeat"]["intervals"]
    for metric, (low, high) in evaluation["segments"]["history"]["repeat"]["intervals"].items():
        assert little[metric][1] - little[metric][0] == pytest.approx(high - low, rel=0.4), metric


def test_the_table_shows_the_segments_but_the_cohorts(evaluation):
    lines = format_table(evaluation).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("segment"))
    shown = {line.split("  ")[0]: line for line in lines[start + 1 : lines.index("", start)]}
    assert list(shown) == ["today", "one-time", "repeat", "new", "Austria", "Belgium", "Chile", "unknown"]
    assert shown["today"].split()[1:3] == ["300", str(evaluation["segments"]["history"]["today"]["buyers"])]
    assert shown["today"].endswith("value, orders")
    assert shown["unknown"].endswith("too few to say")
    assert all(len(line) <= 100 for line in lines[start : start + len(shown) + 1])
