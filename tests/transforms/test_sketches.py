"""Sketches against NumPy, exact fractions and counters over the whole column."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import sketches
from transforms.sketches import Numbers, Texts

numbers = st.one_of(
    st.floats(-1e15, 1e15).filter(lambda x: x == 0 or abs(x) > 1e-9),
    st.integers(-1000, 1000).map(float),
    st.sampled_from([0.0, -0.0, 1.0, 19.99, 1e9, -1e9]),
)
columns = st.lists(st.one_of(numbers, st.sampled_from([math.nan, math.inf])), max_size=80)


def parted(values, cuts):
    edges = sorted({0, len(values), *(cut % (len(values) + 1) for cut in cuts)})
    return [values[a:b] for a, b in pairwise(edges)] or [values]


@given(columns, st.lists(st.integers(0, 80), max_size=4), st.randoms(use_true_random=False))
def test_adding_in_any_order_is_the_same(values, cuts, random):
    parts = [Numbers.of(np.array(part, np.float64)) for part in parted(values, cuts)]
    shuffled = random.sample(parts, len(parts))
    flat = Numbers.merge(parts)
    assert Numbers.merge(shuffled) == flat
    nested = Numbers.merge([Numbers.merge(shuffled[:2]), pickle.loads(pickle.dumps(Numbers.merge(shuffled[2:])))])
    assert nested == flat
    whole = Numbers.of(np.array(values, np.float64))
    assert (whole.count, whole.missing, whole.histogram) == (flat.count, flat.missing, flat.histogram)
    assert (whole.minimum, whole.maximum) == (flat.minimum, flat.maximum)


@given(columns, st.lists(st.integers(0, 80), max_size=4))
def test_figures_equal_those_of_the_whole_column(values, cuts):
    merged = Numbers.merge(Numbers.of(np.array(part, np.float64)) for part in parted(values, cuts))
    finite = [x for x in values if math.isfinite(x)]
    assert (merged.count, merged.rows) == (len(finite), len(values))
    assert merged.zeros == finite.count(0.0)
    assert merged.negatives == sum(x < 0 for x in finite)
    if not finite:
        assert math.isnan(merged.mean) and math.isnan(merged.std)
        return
    assert (merged.minimum, merged.maximum) == pytest.approx((min(finite), max(finite)), rel=1e-14, abs=0)
    exact = [Fraction(x) for x in finite]
    mean = sum(exact, Fraction(0)) / len(exact)
    std = math.sqrt(sum(((x - mean) ** 2 for x in exact), Fraction(0)) / len(exact))
    largest = max(abs(x) for x in finite)
    assert merged.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-14 * largest)
    assert merged.std == pytest.approx(std, rel=1e-9, abs=1e-14 * largest)


@given(columns.filter(lambda values: any(map(math.isfinite, values))))
def test_quantiles_are_within_the_accuracy(values):
    finite = np.array([x for x in values if math.isfinite(x)])
    shares = [0, 0.01, 0.25, 0.5, 0.77, 0.99, 1]
    found = Numbers.of(np.array(values, np.float64)).quantiles(shares)
    for value, exact in zip(found, np.quantile(finite, shares, method="lower"), strict=True):
        assert value == pytest.approx(exact, rel=sketches.ACCURACY * (1 + 1e-9), abs=0)


def test_quantiles_of_a_large_skewed_column():
    values = np.random.default_rng(3).lognormal(4, 2, 200_000)
    merged = Numbers.merge(Numbers.of(part) for part in np.array_split(values, 37))
    shares = np.linspace(0, 1, 101)
    assert merged.quantiles(list(shares)) == pytest.approx(np.quantile(values, shares, method="lower"), rel=0.01)
    assert len(merged.histogram) < 1200


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_the_deviation_of_large_money_with_a_small_spread(spread):
    values = 1e9 + np.random.default_rng(4).normal(0, spread, 20_000)
    exact = [Fraction(x) for x in values.tolist()]
    mean = sum(exact, Fraction(0)) / len(exact)
    std = math.sqrt(sum(((x - mean) ** 2 for x in exact), Fraction(0)) / len(exact))
    merged = Numbers.merge(Numbers.of(part) for part in np.array_split(values, 20))
    assert merged.std == pytest.approx(std, rel=1e-9)
    assert merged.mean == pytest.approx(float(mean), rel=1e-15)


def test_a_constant_column_has_no_deviation():
    assert Numbers.merge(Numbers.of(np.full(n, 0.1)) for n in (3, 1000, 77)).std == pytest.approx(0, abs=1e-15)


@given(st.lists(numbers, min_size=2, max_size=50))
def test_buckets_are_ordered_as_their_values(values):
    values = sorted(values)
    found = sketches.keys(np.array(values)).tolist()
    assert found == sorted(found)
    for value, key in zip(values, found, strict=True):
        assert value <= sketches.upper_end(key) * (1 + math.copysign(1e-9, value))
        assert value >= sketches.upper_end(key - 1) * (1 - math.copysign(1e-9, value))


def test_values_beyond_the_range_are_counted_at_its_ends():
    values = np.array([1e-300, 5e-324, 1e300, -1e300, -1e-300])
    assert sketches.keys(values).tolist() == [1, 1, sketches.MOST_KEY, -sketches.MOST_KEY, -1]
    found = Numbers.of(np.array([-1e40, 1e-20, 1e40]))
    assert found.quantiles([0, 0.5, 1]) == pytest.approx([-1e30, 1e-12, 1e30], rel=0.02)
    assert found.mean == pytest.approx(1e-20 / 3, rel=1e-9)


texts = st.lists(st.sampled_from(["a", "b", "é", "客", "United Kingdom"]), max_size=60)


@given(texts, st.lists(st.integers(0, 60), max_size=4), st.randoms(use_true_random=False))
def test_texts_are_counted_exactly(values, cuts, random):
    parts = [Texts.of(dict(Counter(part)), 2) for part in parted(values, cuts)]
    merged = Texts.merge(random.sample(parts, len(parts)))
    assert merged.counts == Counter(values)
    assert (merged.count, merged.missing, merged.truncated) == (len(values), 2 * len(parts), False)
    assert merged.most_frequent() == sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    length = sum(len(value.encode()) for value in values) / len(values) if values else 0
    assert merged.mean_bytes == pytest.approx(length)


def test_too_many_texts_keep_the_most_frequent_and_say_so():
    rare = {f"item {i:06d}": 1 for i in range(sketches.MOST_TEXTS)}
    exact = Texts.of(rare, 0)
    assert not exact.truncated and len(exact.counts) == sketches.MOST_TEXTS
    full = Texts.of({**rare, "common": 50}, 3)
    assert full.truncated and len(full.counts) == sketches.KEPT_TEXTS
    assert full.most_frequent()[:2] == [("common", 50), ("item 000000", 1)]
    assert full.others == sketches.MOST_TEXTS + 1 - sketches.KEPT_TEXTS
    twice = Texts.merge([full, full])
    assert (twice.count, twice.missing, twice.counts["common"]) == (2 * full.count, 6, 100)
    assert sum(twice.counts.values()) + twice.others == twice.count


def test_sketches_of_different_columns_do_not_add_up():
    with pytest.raises(TypeError, match=r"Numbers.*Texts"):
        sketches.merge([Numbers(), Texts()])
