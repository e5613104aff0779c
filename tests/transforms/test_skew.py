"""Skew: chance raises no alarm, faults do, and the measures equal a second way of computing them."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial
from scipy import stats as scipy_stats

from tests.transforms import simulated_customers
from tests.transforms.simulated_customers import COUNTS, MONEY, emptied, multiplied, replaced
from transforms import schema, skew, skew_thresholds, statistics
from transforms.sketches import Numbers
from transforms.statistics import Statistics

THRESHOLDS = skew_thresholds.read()
HALF = 2000
ORDER_VALUES = {"order_value_mean", "order_value_first", "order_value_last"}


@pytest.fixture(scope="module")
def halves():
    """(training, serving) customers of one process, in no order, different people."""
    table = simulated_customers.customers()
    order = np.random.default_rng(0).permutation(table.num_rows)
    return table.take(order[:HALF]), table.take(order[HALF : 2 * HALF])


def against(training, serving):
    return skew.compare(statistics.of_table(training, "t"), statistics.of_table(serving, "s"), THRESHOLDS)


def levels(comparison, metric):
    return {alarm.feature: alarm.level for alarm in comparison.alarms if alarm.metric == metric}


# --- chance


@pytest.mark.parametrize("size", [500, 2000, 20_000])
def test_samples_of_the_same_customers_raise_no_alarm(size):
    table = simulated_customers.customers()
    rng = np.random.default_rng(size)
    for _ in range(20):
        order = rng.permutation(table.num_rows)[: 2 * size]
        assert against(table.take(order[:size]), table.take(order[size:])).lines() == []


def test_a_bootstrap_of_few_customers_raises_no_alarm():
    table = simulated_customers.customers()
    rng = np.random.default_rng(1)
    for _ in range(20):
        first, second = (table.take(rng.integers(0, table.num_rows, 50)) for _ in range(2))
        assert against(first, second).lines() == []


def test_the_noise_that_is_taken_off_is_that_of_chance():
    """Mean and tail of the uncorrected divergence of equal distributions, by simulation."""
    rng, shares = np.random.default_rng(2), np.full(12, 1 / 12)
    n1, n2 = 3000, 1000
    found = np.array([
        spatial.distance.jensenshannon(rng.multinomial(n1, shares), rng.multinomial(n2, shares), 2) ** 2
        for _ in range(4000)
    ])  # fmt: skip
    per_degree = (1 / n1 + 1 / n2) / (8 * math.log(2))
    assert found.mean() == pytest.approx(11 * per_degree, rel=0.03)
    assert np.quantile(found, 0.99) == pytest.approx(scipy_stats.chi2.ppf(0.99, 11) * per_degree, rel=0.05)
    corrected = [
        skew.divergence(rng.multinomial(n1, shares) * 1.0, rng.multinomial(n2, shares) * 1.0) for _ in range(4000)
    ]
    assert np.mean(np.array(corrected) > 0) <= 0.001


@pytest.mark.parametrize("degrees", [1, 2, 5, 13])
def test_the_bound_is_a_quantile_of_chi_square(degrees):
    exact = scipy_stats.chi2.ppf(scipy_stats.norm.cdf(4), degrees)
    assert exact < skew._chi_square_bound(degrees) < 1.1 * exact
    assert skew._chi_square_bound(0) == 0


# --- the measures


counts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=14)


@given(counts)
def test_divergence_is_scipys_less_the_noise(pairs):
    first, second = np.array(pairs, np.float64).T
    if not (first.sum() and second.sum()):
        return
    whole = spatial.distance.jensenshannon(first, second, 2) ** 2
    degrees = int(((first + second) > 0).sum()) - 1
    noise = skew._chi_square_bound(degrees) * (1 / first.sum() + 1 / second.sum()) / (8 * math.log(2))
    assert skew.divergence(first, second) == pytest.approx(max(0, whole - noise), abs=1e-9)
    assert skew.divergence(first, second) == pytest.approx(skew.divergence(second, first), abs=1e-12)


def test_bins_hold_equal_shares_of_training_and_apart_what_it_never_saw():
    rng = np.random.default_rng(3)
    values = np.append(rng.lognormal(3, 1, 50_000), np.zeros(500))
    training, serving = Numbers.of(values), Numbers.of(np.append(values * 1e6, values / 1e6))
    ends = skew.bin_ends(training)
    assert len(ends) == skew.BINS
    before, now = skew.binned(training, serving, ends)
    assert before.sum() == now.sum() / 2 == 50_000
    assert before[0] == before[-1] == 0
    assert before[1:-1] == pytest.approx(50_000 / skew.BINS, rel=0.1)
    assert (now[0], now[-1]) == pytest.approx((50_000, 50_000), rel=0.01)


def test_small_counts_have_a_bin_each():
    training = Numbers.of(np.repeat([1.0, 2.0, 3.0, 4.0, -1.0], [400, 300, 200, 60, 40]))
    before, _ = skew.binned(training, training, skew.bin_ends(training))
    assert before.tolist() == [0, 40, 400, 300, 200, 60, 0]


def test_share_difference_is_zero_within_chance_and_the_difference_far_beyond():
    assert skew.share_difference(0, 50, 3, 50) == 0
    assert skew.share_difference(500, 1000, 540, 1000) == 0
    assert skew.share_difference(500_000, 10**6, 600_000, 10**6) == pytest.approx(0.1, abs=0.003)
    rng = np.random.default_rng(4)
    pairs = rng.binomial(300, 0.03, (20_000, 2))
    assert np.mean([skew.share_difference(int(a), 300, int(b), 300) > 0 for a, b in pairs]) < 0.0005


def test_nothing_changed_is_zero_everywhere(halves):
    comparison = against(halves[0], halves[0])
    assert {difference.value for difference in comparison.differences} == {0}
    assert comparison.alarms == [] and not comparison.failed


# --- faults


def test_another_currency_fails_for_all_money(halves):
    comparison = against(halves[0], multiplied(halves[1], MONEY, 100))
    assert comparison.failed
    found = levels(comparison, "divergence")
    assert found.keys() == set(MONEY), "and for nothing else"
    assert {name for name, level in found.items() if level == "warn"} == {name for name in MONEY if "trend" in name}
    means = levels(comparison, "mean")
    assert {name for name, level in means.items() if level == "fail"} == ORDER_VALUES
    assert means.keys() == {name for name in MONEY if "trend" not in name}


@pytest.mark.parametrize(("factor", "share", "level"), [(100, 0.3, "fail"), (100, 0.05, "fail"), (10, 0.15, "warn")])
def test_another_currency_for_a_part_of_the_customers_is_seen(halves, factor, share, level):
    hit = pc.less(pa.array(np.random.default_rng(5).random(halves[1].num_rows)), share)
    serving = halves[1]
    for name in MONEY:
        wrong = multiplied(halves[1], [name], factor)[name]
        serving = replaced(serving, name, pc.if_else(hit, wrong, halves[1][name]))
    comparison = against(halves[0], serving)
    found = levels(comparison, "mean")
    assert {found[name] for name in ORDER_VALUES} == {level}
    assert comparison.failed == (level == "fail")
    assert "fail" not in levels(comparison, "divergence").values(), "which alone would let it pass"


def test_the_mean_is_that_of_numpy_less_the_noise():
    rng = np.random.default_rng(6)
    before, now = rng.lognormal(3, 1, 30_000), rng.lognormal(4, 1, 20_000)
    whole = abs(np.log2(now.mean() / before.mean()))
    found = skew.mean_ratio(Numbers.of(before), Numbers.of(now))
    assert found == pytest.approx(skew.mean_ratio(Numbers.of(now), Numbers.of(before)))
    resampled = [np.log2(rng.choice(now, now.size).mean() / rng.choice(before, before.size).mean()) for _ in range(400)]
    assert found == pytest.approx(whole - 4 * np.std(resampled), abs=0.02)


def test_means_of_equal_customers_differ_by_chance_alone():
    """Heavy-tailed money (its largest of 300 is a tenth of the sum) in samples of 300."""
    rng = np.random.default_rng(7)
    samples = [Numbers.of(rng.lognormal(3, 1.5, 300)) for _ in range(2000)]
    found = [skew.mean_ratio(*pair) for pair in zip(samples[::2], samples[1::2], strict=True)]
    assert np.mean(np.array(found) > 0) <= 0.002


def test_money_that_is_not_positive_on_average_has_no_ratio(halves):
    returned = multiplied(halves[1], ["value_total"], -1)
    found = against(halves[0], returned)
    assert not [d for d in found.differences if (d.feature, d.metric) == ("value_total", "mean")]
    assert levels(found, "divergence") == {"value_total": "fail"}


def test_the_median_is_of_the_values_that_are_compared(halves):
    """Most customers bought nothing in the last 30 days: a median with them is 0 whatever the others spent."""
    found = against(halves[0], multiplied(halves[1], ["value_30d"], 100))
    (alarm,) = [alarm for alarm in found.alarms if (alarm.feature, alarm.metric) == ("value_30d", "divergence")]
    medians = []
    for table, factor in ((halves[0], 1), (halves[1], 100)):
        values = table["value_30d"].cast(pa.float64()).to_numpy()
        assert np.median(values) == 0
        medians.append(np.median(values[values != 0]) * factor)
    before, now = alarm.detail.removeprefix("median of values other than 0 is ").split(" in training, now ")
    assert [float(text.replace(",", "")) for text in (before, now)] == pytest.approx(medians, rel=0.03)


def test_double_counts_fail(halves):
    # Each line twice: what double reading makes of every number of orders, lines and items.
    comparison = against(halves[0], multiplied(halves[1], [*COUNTS, "order_days"], 2))
    found = levels(comparison, "divergence")
    assert {"orders", "order_days", "orders_90d", "orders_365d"} <= {n for n, v in found.items() if v == "fail"}
    assert {"lines", "distinct_items"} <= found.keys()
    assert not found.keys() & set(MONEY)


def test_a_feature_missing_for_a_third_fails(halves):
    comparison = against(halves[0], emptied(halves[1], "order_value_mean", 0.3))
    assert [(alarm.feature, alarm.metric, alarm.level) for alarm in comparison.alarms] == [
        ("order_value_mean", "missing", "fail")
    ]
    assert "0.0% in training, now 3" in comparison.lines()[0]


@pytest.mark.parametrize("dropped", [True, False], ids=["column absent", "column null"])
@pytest.mark.parametrize("name", ["value_total", "country"])
def test_a_dropped_column_fails(halves, name, dropped):
    serving = halves[1].drop_columns([name]) if dropped else emptied(halves[1], name, 1.1)
    comparison = against(halves[0], serving)
    (alarm,) = comparison.alarms
    assert (alarm.feature, alarm.metric, alarm.level) == (name, "missing", "fail")


def test_a_column_that_became_zero_fails(halves):
    comparison = against(halves[0], multiplied(halves[1], ["value_total"], 0))
    assert levels(comparison, "zeros") == {"value_total": "fail"}


def test_a_new_dominating_country_fails(halves):
    shown = pc.if_else(pc.equal(halves[1]["country"], "United Kingdom"), "GB", halves[1]["country"])
    comparison = against(halves[0], replaced(halves[1], "country", shown))
    (alarm,) = comparison.alarms
    assert (alarm.feature, alarm.metric, alarm.level) == ("country", "categories", "fail")
    assert 0.7 < alarm.value < 0.8, "the share of the largest country, less the noise"
    assert "is 0.0% in training" in alarm.detail or "now 0.0%" in alarm.detail


def test_half_of_the_customers_lost_fails(halves):
    comparison = against(halves[0], halves[1].slice(0, HALF // 2))
    assert [alarm.line() for alarm in comparison.alarms] == [
        "fail: customers: rows_lost is 0.5, accepted is at most 0.25 (1,000 customers, 2,000 in the latest training snapshot)"
    ]


def test_customers_are_counted_against_the_latest_snapshot(halves):
    earlier, later = halves[0].slice(0, 500), halves[0]
    training = statistics.of_table(earlier, "2011-01-01") + statistics.of_table(later, "2011-04-01")
    comparison = skew.compare(training, statistics.of_table(halves[1], "2011-07-01"), THRESHOLDS)
    assert comparison.alarms == []
    assert (comparison.training_rows, comparison.serving_rows) == (2500, 2000)
    assert comparison.differences[0].detail == "2,000 customers, 2,000 in the latest training snapshot"
    grown = skew.compare(statistics.of_table(earlier, "a"), statistics.of_table(halves[1], "b"), THRESHOLDS)
    assert levels(grown, "rows_gained") == {"customers": "warn"}


def test_a_shop_that_grew_eightfold_is_a_warning(halves):
    grown = against(halves[0].slice(0, HALF // 8), halves[1])
    assert levels(grown, "rows_gained") == {"customers": "warn"} and not grown.failed


def test_a_sign_turned_around_fails(halves):
    comparison = against(halves[0], multiplied(halves[1], MONEY, -1))
    found = levels(comparison, "divergence")
    assert {found[name] for name in ("value_total", "order_value_mean", "value_365d", "return_value")} == {"fail"}


def test_durations_never_fail(halves):
    durations = [c.name for c in schema.FEATURES if c.unit == "days" and c.name not in ("order_days", "frequency")]
    comparison = against(halves[0], multiplied(halves[1], durations, 50))
    found = levels(comparison, "divergence")
    assert found == dict.fromkeys(durations, "warn")
    assert not comparison.failed
    # What the network treats as a duration is what the thresholds do.
    known = {c.name for c in schema.FEATURES if c.model_input is schema.Scale.DURATION}
    assert known <= set(durations)
    assert all(THRESHOLDS.of(name, "divergence").fail is None for name in durations)


def test_labels_and_ids_are_not_compared(halves):
    serving = halves[1]
    for label in schema.names(schema.LABELS):
        serving = emptied(serving, label, 1.1)
    comparison = against(halves[0], serving)
    assert comparison.alarms == []
    assert {d.feature for d in comparison.differences} == {skew.CUSTOMERS, *schema.names(schema.FEATURES)}


def test_nobody_to_serve_fails(halves):
    comparison = skew.compare(statistics.of_table(halves[0], "t"), Statistics(), THRESHOLDS)
    assert comparison.failed
    assert levels(comparison, "rows_lost") == {"customers": "fail"}
    assert skew.compare(Statistics(), Statistics(), THRESHOLDS).differences == []


# --- what is said of it


def test_failures_come_first_and_the_json_is_complete(halves):
    serving = emptied(multiplied(halves[1], ["value_total"], 100), "country", 0.15)
    comparison = against(halves[0], serving)
    # A mean of a hundredfold is 5 times its limit, a share of 15% only 3 times.
    assert [(alarm.level, alarm.metric) for alarm in comparison.alarms] == [
        ("fail", "divergence"), ("warn", "mean"), ("warn", "missing"),
    ]  # fmt: skip
    content = comparison.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["failed"] is True
    assert content["alarms"] == comparison.lines()
    (shown,) = [d for d in content["differences"] if (d["feature"], d["metric"]) == ("value_total", "divergence")]
    assert (shown["warn"], shown["fail"], shown["level"]) == (0.1, 0.3, "fail")
    assert shown["value"] > 0.7
    line = comparison.lines()[0]
    assert line.startswith("fail: value_total: divergence is 0.")
    assert "accepted is at most 0.3 (median " in line
    assert "\n" not in "".join(comparison.lines())
