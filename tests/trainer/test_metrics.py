"""Every metric against a second way: brute force, scikit-learn, SciPy, or a case worked out by hand."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from trainer import metrics

RNG = np.random.default_rng(7)
ACTUAL = np.where(RNG.random(400) < 0.5, 0.0, RNG.lognormal(3, 1, 400))
PREDICTED = ACTUAL * 0.3 + RNG.lognormal(2, 1, 400)

few_values = arrays(np.float64, st.shared(st.integers(2, 6), key="n"), elements=st.integers(0, 3).map(float))


def kaggle_gini(actual, order):
    """Allstate's definition, straight from its words: mean lead of the cumulated share over the diagonal."""
    share = np.cumsum(actual[order]) / actual.sum()
    return sum(share[i] - (i + 1) / len(actual) for i in range(len(actual))) / len(actual)


def brute_normalised_gini(actual, predicted):
    """The mean of Kaggle's Gini over every order that sorts the predictions."""
    orders = [list(o) for o in itertools.permutations(range(len(actual))) if all(np.diff(predicted[list(o)]) <= 0)]
    perfect = kaggle_gini(actual, np.argsort(-actual))
    return np.mean([kaggle_gini(actual, order) for order in orders]) / perfect


@settings(max_examples=60, deadline=None)
@given(few_values, few_values)
def test_gini_is_the_mean_over_all_orders_of_the_ties(actual, predicted):
    if actual.min() == actual.max():
        assert np.isnan(metrics.normalised_gini(actual, predicted))
    else:
        assert metrics.normalised_gini(actual, predicted) == pytest.approx(brute_normalised_gini(actual, predicted))


def test_gini_of_binary_labels_is_twice_auc_minus_one():
    bought = (ACTUAL > 0).astype(float)
    rounded = np.round(PREDICTED, -1)  # many ties
    expected = 2 * sklearn.metrics.roc_auc_score(bought, rounded) - 1
    assert metrics.normalised_gini(bought, rounded) == pytest.approx(expected, abs=1e-12)


def test_gini_of_perfect_reversed_and_constant():
    assert metrics.normalised_gini(ACTUAL, ACTUAL) == pytest.approx(1)
    assert metrics.normalised_gini(ACTUAL, ACTUAL.max() - ACTUAL) == pytest.approx(-1)
    assert metrics.normalised_gini(ACTUAL, np.full(400, 3.0)) == pytest.approx(0, abs=1e-12)


def all_orders(predicted):
    """Every order of the customers from the highest prediction down."""
    return [list(o) for o in itertools.permutations(range(len(predicted))) if all(np.diff(predicted[list(o)]) <= 0)]


@settings(max_examples=60, deadline=None)
@given(few_values, few_values)
def test_tenths_are_the_mean_over_all_orders_of_the_ties(actual, predicted):
    """A tenth is n / 10 customers: repeated ten times, n customers make ten equal groups."""
    expected = (
        np.mean([np.repeat(actual[o], 10).reshape(10, -1).sum(axis=1) for o in all_orders(predicted)], axis=0) / 10
    )
    by_actual, by_predicted = metrics.GainCurve.of(actual, predicted).by_decile()
    assert by_actual == pytest.approx(expected)
    assert by_predicted == pytest.approx(np.repeat(np.sort(predicted)[::-1], 10).reshape(10, -1).sum(axis=1) / 10)
    share = expected[0] / actual.sum() if actual.any() else np.nan
    assert metrics.top_decile_share(actual, predicted) == pytest.approx(share, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(few_values)
def test_ranks_equal_scipy_with_ties(values):
    assert metrics.mid_ranks(values) == pytest.approx(stats.rankdata(values) - 0.5)


@settings(max_examples=60, deadline=None)
@given(few_values, few_values, st.randoms(use_true_random=False))
def test_spearman_orders_equal_predictions_by_the_tie_break(actual, predicted, random):
    tie_break = np.array(random.sample(range(len(actual)), len(actual)), float)
    expected = stats.spearmanr(actual, predicted + tie_break / 100).statistic if np.ptp(actual) else np.nan
    found = metrics.rank_correlation(metrics.mid_ranks(actual), predicted, tie_break)
    assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_spearman_equals_scipy_without_ties_in_the_prediction():
    expected = stats.spearmanr(ACTUAL, PREDICTED).statistic  # the labels are half ties
    assert metrics.spearman(ACTUAL, PREDICTED) == pytest.approx(expected, abs=1e-12)


def test_spearman_gives_nothing_for_calling_customers_equal():
    border = np.quantile(PREDICTED, 0.7)
    blind = PREDICTED * (PREDICTED > border)
    drawn = np.array([metrics.spearman(ACTUAL, blind, seed) for seed in range(50)])
    assert len(np.unique(drawn)) > 40
    assert drawn.mean() < stats.spearmanr(ACTUAL, blind).statistic
    constant = [float(metrics.spearman(ACTUAL, np.ones(400), seed)) for seed in range(50)]
    assert abs(np.mean(constant)) < 0.03
    assert metrics.spearman(ACTUAL, blind, 3) == metrics.spearman(ACTUAL, blind, 3)


def test_deciles_are_ten_equal_groups():
    order = np.argsort(-PREDICTED)
    groups = np.split(order, 10)
    expected = np.mean([abs(PREDICTED[g].sum() - ACTUAL[g].sum()) / ACTUAL[g].sum() for g in groups])
    assert metrics.decile_mape(ACTUAL, PREDICTED) == pytest.approx(expected)


def test_a_customer_between_two_deciles_is_divided():
    actual, predicted = np.array([4.0, 1.0, 0.0]), np.array([3.0, 2.0, 1.0])
    by_actual, by_predicted = metrics.GainCurve.of(actual, predicted).by_decile()
    # 3 customers, 10 tenths of 0.3 customers each: the fourth takes 0.1 of the first and 0.2 of the second.
    assert by_actual[:4] == pytest.approx([1.2, 1.2, 1.2, 0.1 * 4 + 0.2 * 1])
    assert by_predicted.sum() == pytest.approx(6)
    assert by_actual[7:] == pytest.approx([0, 0, 0])


def test_a_decile_without_value_counts_one_or_nothing():
    actual = np.append(np.full(5, 2.0), np.zeros(5))
    assert metrics.decile_mape(actual, np.append(np.full(5, 2.0), np.zeros(5))) == 0
    assert metrics.decile_mape(actual, np.append(np.full(5, 2.0), np.full(5, 1e-3))) == pytest.approx(0.5)


def test_top_decile_share():
    top = np.argsort(-PREDICTED)[:40]
    assert metrics.top_decile_share(ACTUAL, PREDICTED) == pytest.approx(ACTUAL[top].sum() / ACTUAL.sum())
    best = np.sort(ACTUAL)[-40:].sum() / ACTUAL.sum()
    assert metrics.top_decile_share(ACTUAL, ACTUAL) == pytest.approx(best)
    assert metrics.top_decile_share(ACTUAL, np.ones(400)) == pytest.approx(0.1)


def test_errors_equal_scikit_learn():
    sk = sklearn.metrics
    assert metrics.rmse(ACTUAL, PREDICTED) == pytest.approx(sk.root_mean_squared_error(ACTUAL, PREDICTED))
    assert metrics.mae(ACTUAL, PREDICTED) == pytest.approx(sk.mean_absolute_error(ACTUAL, PREDICTED))
    for level in metrics.LEVELS:
        expected = sk.mean_pinball_loss(ACTUAL, PREDICTED, alpha=level)
        assert metrics.pinball(ACTUAL, PREDICTED, level) == pytest.approx(expected)
    orders = RNG.poisson(1.0, 400).astype(float)
    assert metrics.poisson_deviance(orders, PREDICTED) == pytest.approx(sk.mean_poisson_deviance(orders, PREDICTED))
    bought, probability = (orders > 0).astype(float), RNG.random(400)
    assert metrics.brier(bought, probability) == pytest.approx(sk.brier_score_loss(bought, probability))


def test_brier_and_deviance_by_hand():
    assert metrics.brier(np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.2, 1.0])) == pytest.approx((0.25 + 0.04 + 0) / 3)
    assert metrics.brier(np.ones(2), np.array([0.0, 0.5]), np.array([1.0, 3.0])) == pytest.approx((1 + 3 * 0.25) / 4)
    # 2 (y ln(y / mu) - y + mu): of 0 from 0.5 it is 1; of 2 from 1 it is 2 (2 ln 2 - 1); of 3 from 3 nothing.
    orders, expected = np.array([0.0, 2.0, 3.0]), np.array([0.5, 1.0, 3.0])
    assert metrics.poisson_deviance(orders, expected) == pytest.approx((1 + 2 * (2 * np.log(2) - 1)) / 3)


def test_deviance_of_an_order_that_was_called_impossible_is_finite():
    """scikit-learn refuses a mean of 0; beside it 0 orders from a mean of 0 cost nothing."""
    assert metrics.poisson_deviance(np.zeros(1), np.zeros(1)) == pytest.approx(0, abs=1e-5)
    expected = sklearn.metrics.mean_poisson_deviance([1.0], [metrics.SMALLEST_MEAN])
    assert metrics.poisson_deviance(np.ones(1), np.zeros(1)) == pytest.approx(expected)
    assert 25 < expected < 28


def test_a_label_on_a_quantile_is_not_above_it():
    actual = np.array([0.0, 0.0, 5.0, 5.0])
    assert metrics.share_above(actual, actual) == 0
    assert metrics.share_above(actual, np.array([0.0, 0.0, 5.0, 4.9])) == 0.25
    for level in metrics.LEVELS:
        assert metrics.pinball(actual, actual, level) == 0


def test_cap_cuts_label_and_forecast():
    actual = np.append(np.ones(999), 1e6)
    predicted = np.append(np.full(999, 2.0), 5e6)
    cap = metrics.cap_of(actual)
    assert cap == 1.0 == np.percentile(actual, 99.5)
    assert metrics.rmse_capped(actual, predicted, cap) == 0
    assert metrics.cap_of(np.append(np.zeros(999), 5.0)) == np.inf


def test_bias_and_share_above():
    actual, predicted = np.array([0.0, 0.0, 10.0, 20.0]), np.array([3.0, 0.0, 10.0, 14.0])
    assert metrics.total_bias(actual, predicted) == pytest.approx(-0.1)
    assert metrics.share_above(actual, predicted) == 0.25
    assert np.isnan(metrics.total_bias(np.zeros(4), predicted))


def zero_inflated(n, rng):
    """Lognormal spend with its own P(0) for every customer, drawn together with its true quantiles."""
    no_value, scale = rng.random(n), rng.normal(2, 1, n)
    actual = np.where(rng.random(n) < no_value, 0.0, rng.lognormal(scale, 0.8))
    inner = [np.clip((level - no_value) / (1 - no_value), 0, 1) for level in metrics.LEVELS]
    quantiles = np.stack([np.where(p > 0, np.exp(scale + 0.8 * stats.norm.ppf(p)), 0.0) for p in inner])
    return actual, quantiles, 1 - no_value


def test_pit_of_a_perfect_forecast_is_uniform_although_half_the_labels_are_zero():
    actual, quantiles, probability = zero_inflated(200_000, np.random.default_rng(1))
    assert metrics.pit_distance(actual, quantiles, probability) < 0.005
    # The plain coverage of p10..p90 would have looked wrong for these perfect quantiles.
    assert np.mean((actual >= quantiles[0]) & (actual <= quantiles[2])) > 0.87


def test_pit_finds_quantiles_that_are_off():
    actual, quantiles, probability = zero_inflated(50_000, np.random.default_rng(2))
    assert metrics.pit_distance(actual, quantiles * 1.5, probability) > 0.05
    assert metrics.pit_distance(actual, quantiles / 1.5, probability) > 0.05
    assert metrics.pit_distance(actual, quantiles, np.sqrt(probability)) > 0.05


def test_pit_equals_drawing_it_at_random():
    """For an exponential spend with P(0) = 0.3 the distribution function is known: draw V and count."""
    rng = np.random.default_rng(3)
    n = 100_000
    actual = np.where(rng.random(n) < 0.45, 0.0, rng.exponential(1.3, n))  # on purpose not what is forecast
    drawn = np.where(actual > 0, 1 - 0.7 * np.exp(-actual), 0.3 * rng.random(n))
    quantiles = np.stack([np.full(n, max(0.0, -np.log((1 - level) / 0.7))) for level in metrics.LEVELS])
    shares = metrics.pit_at_levels(actual, quantiles, np.full(n, 0.7))
    assert shares == pytest.approx([np.mean(drawn <= level) for level in metrics.LEVELS], abs=0.005)


def test_pit_histogram_by_hand():
    quantiles = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 2.0, 2.0], [4.0, 4.0, 4.0, 4.0]])
    probability = np.array([0.2, 0.6, 1.0, 1.0])
    # No value at P0 = 0.8: uniform on [0, 0.8]. At P0 = 0.4: 0.1 of 0.4, then 0.3 of it. A label on a quantile is below.
    actual = np.array([0.0, 0.0, 2.0, 4.1])
    expected = np.array([[0.125, 0.5, 0.375, 0], [0.25, 0.75, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert metrics.pit_histogram(actual, quantiles, probability) == pytest.approx(expected.mean(axis=0))
    weight = np.array([[1.0, 0, 0, 0], [0, 2, 1, 1]])
    weighted = metrics.pit_histogram(actual, quantiles, probability, weight)
    assert weighted == pytest.approx(weight @ expected / weight.sum(axis=1, keepdims=True))


def test_pit_histogram_of_a_perfect_forecast_is_flat_and_of_too_narrow_quantiles_high_at_the_ends():
    actual, quantiles, probability = zero_inflated(200_000, np.random.default_rng(4))
    assert metrics.pit_histogram(actual, quantiles, probability) == pytest.approx([0.1, 0.4, 0.4, 0.1], abs=0.005)
    middle = quantiles[1]
    narrow = metrics.pit_histogram(actual, middle + 0.5 * (quantiles - middle), probability)
    assert narrow[0] > 0.11
    assert narrow[3] > 0.13
    assert narrow.sum() == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(few_values, few_values, arrays(np.int64, st.shared(st.integers(2, 6), key="n"), elements=st.integers(0, 3)))
def test_a_weight_is_a_number_of_copies(actual, predicted, copies):
    """The bootstrap's weights give what the repeated rows give."""
    repeated = np.repeat(actual, copies), np.repeat(predicted, copies)
    weight = copies.astype(float)[None, :]
    if not copies.any():
        assert np.isnan(metrics.rmse(actual, predicted, weight)).all()
        return
    for metric in (metrics.normalised_gini, metrics.decile_mape, metrics.top_decile_share, metrics.rmse,
                   metrics.mae, metrics.total_bias, metrics.share_above):  # fmt: skip
        expected = metric(*repeated)
        assert metric(actual, predicted, weight=weight)[0] == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_weighted_spearman_of_copies_ties_them_with_each_other():
    copies = RNG.poisson(1, 400)
    repeated = np.repeat(ACTUAL, copies), np.repeat(PREDICTED, copies)
    expected = stats.spearmanr(*repeated).statistic
    assert metrics.spearman(ACTUAL, PREDICTED, weight=copies[None, :].astype(float))[0] == pytest.approx(expected)


def test_the_order_of_the_customers_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(400)
    tied = np.round(PREDICTED, -1)
    for metric in (metrics.normalised_gini, metrics.decile_mape, metrics.top_decile_share, metrics.rmse):
        assert metric(ACTUAL[shuffled], tied[shuffled]) == pytest.approx(metric(ACTUAL, tied), abs=1e-12)


def test_nothing_to_rank_is_nan_not_an_error():
    zeros, predicted = np.zeros(20), np.arange(20.0)
    for metric in (metrics.normalised_gini, metrics.spearman, metrics.top_decile_share, metrics.total_bias):
        assert np.isnan(metric(zeros, predicted))
        assert np.isfinite(metrics.decile_mape(zeros, predicted))
