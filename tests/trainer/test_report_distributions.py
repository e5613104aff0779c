"""What the small charts show, against counts of the rows that the sketches were made of."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import simulated_customers
from trainer import report_distributions
from trainer.report_distributions import Compared
from transforms import schema, skew, skew_thresholds, statistics
from transforms.schema import Type
from transforms.sketches import Numbers, Texts
from transforms.statistics import Split, Statistics

WHOLE, MONEY = "orders_trend_90d", "value_trend_90d"
numbers = st.lists(st.one_of(st.integers(-500, 500).map(float), st.just(float("nan"))), min_size=1, max_size=60)


def split(name, values):
    if schema.by_name(schema.FEATURES)[name].type is Type.STRING:
        counts = {text: values.count(text) for text in dict.fromkeys(values) if text is not None}
        return Split(len(values), {name: Texts.of(counts, values.count(None))})
    return Split(len(values), {name: Numbers.of(np.array(values, np.float64))})


def bars(name, training, serving):
    return report_distributions.bars(name, split(name, training), split(name, serving))


def ends(label):
    """The range that a label of whole numbers names."""
    if label in ("above 0", "below 0"):
        return (1, 10**6) if label == "above 0" else (-(10**6), -1)
    low, _, high = label.replace(",", "").partition(" to ")
    if " and " in label:
        value, _, side = label.replace(",", "").partition(" and ")
        return (float(value), 1e6) if side == "more" else (-1e6, float(value))
    if label.startswith("under"):
        return 1, float(label.removeprefix("under ")) - 1
    if label.startswith("above"):
        return float(label.removeprefix("above ")) + 1, -1
    return float(low), float(high or low)


@given(numbers, numbers)
def test_every_customer_is_in_the_bin_that_names_the_value(training, serving):
    shown = bars(WHOLE, training, serving)
    assert len(shown.labels) == len(set(shown.labels)) <= 60
    for shares, values in ((shown.training, training), (shown.serving, serving)):
        assert shares.sum() == pytest.approx(1)
        for label, share in zip(shown.labels, shares, strict=True):
            if label == report_distributions.MISSING:
                expected = np.isnan(values).sum()
            else:
                low, high = ends(label)
                # Whole numbers from 50 on are known to 1%: those near an end may be on its other side.
                near = [v for v in values if not np.isnan(v)]
                least = sum(low + 0.0101 * abs(low) <= v <= high - 0.0101 * abs(high) for v in near if abs(v) >= 50)
                most = sum(
                    low - 0.0201 * abs(low) - 1 < v < high + 0.0201 * abs(high) + 1 for v in near if abs(v) >= 50
                )
                small = sum(low <= v <= high for v in near if abs(v) < 50)
                assert small + least <= round(share * len(values)) <= small + most
                continue
            assert share * len(values) == pytest.approx(expected)


def test_bins_ascend_from_missing_over_negative_values_and_zero():
    shown = bars(WHOLE, [-20, -3, -3, 0, 0, 0, 5, 80, float("nan")], [1, 2, 3])
    assert shown.labels[0] == "missing"
    lows = [ends(label)[0] for label in shown.labels[1:]]
    assert lows == sorted(lows)
    assert shown.training[shown.labels.index("0")] == pytest.approx(3 / 9)
    assert shown.serving[shown.labels.index("0")] == 0


def test_money_of_many_sizes_is_binned_at_one_two_five():
    rng = np.random.default_rng(0)
    values = rng.lognormal(4, 1.5, 5000).tolist()
    shown = bars("value_total", values, [value * 1.5 for value in values])
    found = re.findall(r"[\d.,]+", " ".join(shown.labels))
    assert {label.replace(",", "").strip("0.") for label in found} == {"1", "2", "5"}
    low = shown.labels.index("50 to 100")
    exact = np.mean([50 <= value < 100 for value in values])
    assert shown.training[low] == pytest.approx(exact, abs=0.02)
    assert (shown.labels[0][:5], shown.labels[-1][-8:]) == ("under", "and more")


def test_close_values_are_binned_evenly():
    rng = np.random.default_rng(0)
    shown = bars("age_days", rng.integers(280, 360, 5000).tolist(), rng.integers(300, 380, 5000).tolist())
    assert 5 <= len(shown.labels) <= 13
    steps = {high - low for low, high in (ends(label) for label in shown.labels[1:-1])}
    assert steps == {9}
    assert shown.training[shown.labels.index("310 to 319")] == pytest.approx(1 / 8, abs=0.04)


def test_a_handful_on_one_side_of_zero_is_one_bin():
    shown = bars(MONEY, [*range(1, 200), -1, -90], [*range(1, 200)])
    assert shown.labels[0] == "below 0"
    assert shown.training[0] == pytest.approx(2 / 201)


@pytest.mark.parametrize("value", [19.99, 1e-9, 1e20, 7])
def test_one_value_for_everybody_is_one_bin(value):
    shown = bars("value_total", [value] * 5, [value])
    assert shown.training.tolist() == shown.serving.tolist() == [1]


def test_countries_are_the_most_frequent_and_the_others():
    training = ["UK"] * 50 + [f"country {i}" for i in range(20)] + [None] * 30
    shown = bars("country", training, ["GB"] * 10)
    assert shown.labels[:3] == ["missing", "GB", "UK"]
    assert shown.labels[-1] == "others"
    assert len(shown.labels) == report_distributions.TEXTS_SHOWN + 2
    assert shown.training[:3].tolist() == [0.3, 0, 0.5]
    assert (shown.training.sum(), shown.serving.sum()) == (pytest.approx(1), pytest.approx(1))
    named = bars("country", ["others"] * 9 + [f"c{i}" for i in range(20)], ["others"])
    assert named.labels[-1] == "(others)"


@pytest.fixture(scope="module")
def compared():
    training = statistics.of_table(simulated_customers.customers(1000), "a")
    serving = statistics.of_table(simulated_customers.customers(1000, seed=2), "b")
    comparison = skew.compare(training, serving, skew_thresholds.read())
    return Compared(training, serving, json.loads(json.dumps(comparison.to_json())))


def test_alike_customers_are_said_to_be(compared):
    html = report_distributions.section(compared, "")
    assert "they are alike" in html
    assert "<li>" not in html
    charts = re.findall(r'id="chart-skew-(\w+)"', html)
    named = re.search(r"same value: ([\w, ]+)\.", html)
    assert named is not None
    assert sorted([*charts, *named[1].split(", ")]) == sorted(schema.names(schema.FEATURES))
    assert len(html) < 300_000, "forty charts are a small part of a page"


def test_a_chart_holds_what_bars_computed(compared):
    html = report_distributions.section(compared, "")
    drawn = html[html.index('id="chart-skew-country"') :]
    heights = [json.loads(part) for part in itertools.islice(re.findall(r'"y":(\[[\d.,e-]+\])', drawn), 2)]
    country = compared.training.whole().columns["country"]
    assert heights[0][0] == pytest.approx(country.counts["United Kingdom"] / country.count, abs=1e-4)


def test_nobody_to_forecast_is_no_error(compared):
    nobody = Statistics()
    comparison = skew.compare(compared.training, nobody, skew_thresholds.read()).to_json()
    assert "Not to be used" in report_distributions.section(Compared(compared.training, nobody, comparison), "")
