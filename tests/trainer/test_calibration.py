"""Calibration on simulated shops whose season, distortion and range are known."""

from __future__ import annotations

import datetime
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from trainer import calibration
from trainer.calibration import Calibration, Window

Array = NDArray[np.float64]

LATEST = datetime.date(2011, 1, 10)
HORIZON_DAYS = 30
CUTOFFS = [LATEST - datetime.timedelta(days=28 * i) for i in range(13)]
AS_OF = datetime.date(2011, 12, 1)


def index(cutoff: datetime.date, peak: float) -> float:
    """The mean of a daily seasonal index over the horizon: 1, and a peak around 16 December of each year."""
    days = np.array([(cutoff + datetime.timedelta(days=i)).timetuple().tm_yday for i in range(HORIZON_DAYS)])
    return float(np.mean(1 + (peak - 1) * np.exp(-(((days - 350) / 12) ** 2))))


def shop(seed: int, peak: float, customers: int = 4000) -> tuple[Window, ...]:
    """Windows of gamma-Poisson customers, forecast by their true rate without a season."""
    rng = np.random.default_rng(seed)
    rate, level = rng.gamma(1.0, 1 / 60, customers), np.exp(rng.normal(3, 0.5, customers))
    found = []
    for cutoff in CUTOFFS:
        orders = rng.poisson(rate * HORIZON_DAYS * index(cutoff, peak))
        # A sum of n gamma variables of shape 4 is one of shape 4 n.
        actual = level * rng.gamma(np.maximum(4 * orders, 1e-9), 1 / 4)
        found.append(calibration.window(cutoff, actual, rate * HORIZON_DAYS * level))
    return tuple(window for window in found if window)


def test_a_peak_is_foreseen_a_year_later() -> None:
    off = []
    for seed in range(20):
        found = Calibration(shop(seed, peak=2.5))
        factor, learned_at = found.season(AS_OF)
        assert learned_at in (datetime.date(2010, 11, 15), datetime.date(2010, 12, 13))
        assert factor > 1.2
        error = next(w.error for w in found.windows if w.cutoff == learned_at)
        # The window that was learned from is another one than that of the same date, by up to half a month.
        moved = index(AS_OF, 2.5) / index(learned_at, 2.5)
        off.append(np.log(found.level * factor * moved / index(AS_OF, 2.5)) / error)
    assert np.mean(np.abs(off) < 2) >= 0.85
    assert abs(np.mean(off)) < 3 / np.sqrt(20)


def test_outside_the_season_the_total_is_right_too() -> None:
    july = datetime.date(2011, 7, 1)
    found = [Calibration(shop(seed, peak=2.5)) for seed in range(10)]
    factors = np.array([c.level * c.season(july)[0] for c in found])
    assert np.abs(np.log(factors / index(july, 2.5))).max() < 0.2
    # The level alone would be too high by what the peak adds to the year.
    assert np.mean([c.level for c in found]) > 1.05


def test_a_shop_without_season_is_left_alone() -> None:
    days = [LATEST + datetime.timedelta(days=30 * i) for i in range(1, 12)]
    factors = np.array([Calibration(shop(seed, peak=1.0)).season(day)[0] for seed in range(20) for day in days])
    assert np.mean(factors == 1.0) >= 0.93
    assert np.abs(np.log(factors)).max() < 0.3


def test_without_a_year_of_windows_there_is_no_season() -> None:
    windows = shop(3, peak=2.5)
    december = max(windows, key=lambda window: window.value_ratio)
    year_later = december.cutoff + datetime.timedelta(days=365)
    factor, learned_at = Calibration(windows).season(year_later)
    assert factor == pytest.approx(1.8, abs=0.6) and learned_at == december.cutoff
    at = windows.index(december)
    few = Calibration(windows[max(0, at - 4) : at + 5])  # 224 days at most
    assert few.season(year_later) == (1.0, None)
    assert Calibration().season(year_later) == (1.0, None) and Calibration().level == 1.0


def test_a_season_is_learned_from_another_year_only() -> None:
    found = Calibration(shop(3, peak=2.5))
    assert found.season(LATEST - datetime.timedelta(days=28)) == (1.0, None)
    assert found.season(AS_OF + datetime.timedelta(days=365))[1] == found.season(AS_OF)[1]
    far = Calibration(tuple(w for w in found.windows if w.cutoff.month not in (11, 12)))
    assert far.season(AS_OF) == (1.0, None)  # the nearest is more than half a month away


def window_at(cutoff: datetime.date, ratio: float, error: float) -> Window:
    return Window(cutoff, ratio, error)


@pytest.mark.parametrize(
    ("ratio", "error", "factor"), [(1.5, 0.3, 1.0), (1.5, 0.1, 1.38), (40.0, 0.1, 2.0), (0.01, 0.1, 0.5)]
)
def test_a_season_is_believed_where_clear_and_bounded(ratio: float, error: float, factor: float) -> None:
    windows = (window_at(CUTOFFS[0], ratio, error), *(window_at(c, 1.0, 0.1) for c in CUTOFFS[1:5]), window_at(CUTOFFS[12], 1.0, 0.1))  # fmt: skip
    year_later = CUTOFFS[0] + datetime.timedelta(days=365)
    usual = ratio ** (1 / 6)
    expected = factor if factor in (1.0, 2.0, 0.5) else ratio / usual
    assert Calibration(windows).season(year_later)[0] == pytest.approx(expected)


def test_the_level_is_the_geometric_mean_of_the_windows_where_clear_and_bounded() -> None:
    two = [(window_at(LATEST, 1.2, error), window_at(CUTOFFS[1], 0.9, error)) for error in (0.019, 0.020)]
    assert [Calibration(windows).level for windows in two] == [pytest.approx(1.08**0.5), 1.0]  # log 1.039 is 0.0385
    assert Calibration((window_at(LATEST, 9.0, 0.1),)).level == 2.0
    assert Calibration((window_at(LATEST, 0.1, 0.1),)).level == 0.5


def test_the_error_of_a_ratio_is_the_bootstrap_s() -> None:
    rng = np.random.default_rng(5)
    predicted = rng.gamma(0.5, 40, 3000)
    actual = np.where(rng.random(3000) < 0.4, predicted * 9 * np.exp(rng.normal(0, 1, 3000)), 0)
    found = calibration.window(LATEST, actual, predicted)
    assert found is not None and found.value_ratio == pytest.approx(actual.sum() / predicted.sum())
    drawn = rng.integers(0, 3000, (2000, 3000))
    ratios = np.log(actual[drawn].sum(axis=1) / predicted[drawn].sum(axis=1))
    assert found.error == pytest.approx(ratios.std(), rel=0.1)


def test_a_window_without_sales_or_forecasts_is_none() -> None:
    some, none = np.ones(3), np.zeros(3)
    assert calibration.window(LATEST, none, some) is calibration.window(LATEST, some, none) is None


# --- Deciles and range ----------------------------------------------------------------------------------------------


def customers(n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(what happens, its mean, its p90): zero-inflated lognormal; a third buy with less than a tenth's probability."""
    probability = rng.beta(0.8, 2.0, n)
    mu, sigma = 3 + 2 * (probability - 0.3) + 0.5 * rng.normal(size=n), 0.8
    actual = np.where(rng.random(n) < probability, np.exp(mu + sigma * rng.normal(size=n)), 0)
    rest = np.clip((0.9 - (1 - probability)) / probability, 0, None)
    p90 = np.where(rest > 0, np.exp(mu + sigma * stats.norm.ppf(np.maximum(rest, 1e-12))), 0)
    return actual, probability * np.exp(mu + sigma**2 / 2), p90


def evidence(n: int, seed: int, power: float = 1.0, p90_factor: float = 1.0) -> Calibration:
    rng = np.random.default_rng(seed)
    actual, mean, p90 = customers(n, rng)
    said = {"predicted_value": distorted(mean, power), "value_p90": p90 * p90_factor}
    return calibration.of_evidence(actual, said, rng.random(n) < 0.5)


def distorted(mean: Array, power: float) -> Array:
    return 30 * (mean / 30) ** power


def error_by_tenth(actual: Array, said: Array) -> float:
    """By sorting, once the totals agree."""
    said = said * actual.sum() / said.sum()
    order = np.argsort(said)
    bounds = np.linspace(0, len(said), 11).astype(int)
    return float(np.mean([abs(said[order[a:b]].sum() / actual[order[a:b]].sum() - 1) for a, b in itertools.pairwise(bounds)]))  # fmt: skip


def apply(found: Calibration, mean: Array, p90: Array) -> dict[str, Array]:
    zero = np.zeros_like(mean)
    said = {"predicted_value": mean, "value_p10": zero, "value_p50": zero, "value_p90": p90}
    return found.apply(said, LATEST)


@pytest.mark.parametrize("power", [0.75, 1.25])
def test_a_distorted_forecast_is_mended_on_other_customers(power: float) -> None:
    found = evidence(20_000, 1, power)
    assert len(found.deciles) == calibration.DECILES and "deciles corrected" in found.why[0]
    actual, mean, p90 = customers(20_000, np.random.default_rng(2))
    said = distorted(mean, power)
    mended = apply(found, said, p90)["predicted_value"]
    assert error_by_tenth(actual, mended) < 0.5 * error_by_tenth(actual, said)
    assert mended.sum() == pytest.approx(said.sum(), rel=0.03)


def test_the_total_of_those_it_was_learned_from_is_kept() -> None:
    rng = np.random.default_rng(1)
    actual, mean, p90 = customers(20_000, rng)
    said = distorted(mean, 1.4)
    found = calibration.of_evidence(actual, {"predicted_value": said, "value_p90": p90}, rng.random(20_000) < 0.5)
    assert found.deciles
    assert apply(found, said, p90)["predicted_value"].sum() == pytest.approx(said.sum(), rel=1e-9)


def test_undistorted_deciles_and_perfect_quantiles_are_left_alone() -> None:
    found = [evidence(4000, seed) for seed in range(100)]
    assert sum(not c.deciles for c in found) >= 95
    assert sum(c.p90_factor == 1.0 for c in found) >= 95


@pytest.mark.parametrize("factor", [0.5, 1.8])
def test_a_range_that_is_off_is_mended_on_other_customers(factor: float) -> None:
    found = evidence(20_000, 1, p90_factor=factor)
    assert found.p90_factor == pytest.approx(1 / factor, rel=0.15) and "p90 times" in found.why[1]
    actual, mean, p90 = customers(20_000, np.random.default_rng(2))
    mended, some = apply(found, mean, p90 * factor)["value_p90"], p90 > 0
    assert 0.08 < np.mean(actual[some] > mended[some]) < 0.12


def test_many_customers_who_hardly_buy_do_not_narrow_the_range() -> None:
    """Perfect quantiles: nine in ten customers buy with a probability of 3%, and lie above their p90 of 0 that often."""
    rng = np.random.default_rng(0)
    probability = np.where(np.arange(40_000) % 10 == 0, 0.5, 0.03)
    value = np.exp(rng.normal(size=40_000))
    actual = np.where(rng.random(40_000) < probability, value, 0)
    p90 = np.where(probability > 0.1, np.exp(stats.norm.ppf(0.8)), 0.0)
    assert np.mean(actual > p90) < 0.04
    said = {"predicted_value": probability * np.exp(0.5), "value_p90": p90}
    assert calibration.of_evidence(actual, said, rng.random(40_000) < 0.5).p90_factor == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("actual", "predicted", "why"),
    [
        (np.ones(499), np.ones(499), "499 customers are too few"),
        (np.zeros(600), np.ones(600), "nothing was sold"),
        (np.ones(600), np.zeros(600), "nothing was expected"),
    ],
)
def test_what_cannot_be_calibrated_by_says_so(actual: Array, predicted: Array, why: str) -> None:
    said = {"predicted_value": predicted, "value_p90": predicted}
    found = calibration.of_evidence(actual, said, np.arange(len(actual)) % 2 == 0)
    assert (found.deciles, found.p90_factor) == ((), 1.0) and why in found.why[0]


@pytest.mark.filterwarnings("error")
def test_a_half_without_buyers_and_equal_forecasts_are_survived() -> None:
    actual = np.where(np.arange(1000) % 100 == 0, 5.0, 0.0)  # in one half only
    said = {"predicted_value": np.full(1000, 0.1), "value_p90": np.zeros(1000)}
    found = calibration.of_evidence(actual, said, np.arange(1000) % 2 == 0)
    assert found.deciles == () and "too few to tell" in found.why[1]


def test_json_brings_it_back() -> None:
    found = Calibration(shop(1, 2.0, 500), ((-1.0, 0.2), (3.5, -0.1)), 1.25, ("because",))
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_deciles_are_corrected_where_they_were_learned_whatever_the_season() -> None:
    """A factor of 2 on everybody must not move customers to their neighbours' correction."""
    points = ((0.0, -0.3), (1.0, 0.1), (2.0, 0.3))
    mean, p90 = np.exp(np.linspace(-1, 3, 50)), np.exp(np.linspace(0, 4, 50))
    plain = apply(Calibration(deciles=points), mean, p90)["predicted_value"]
    doubled = apply(Calibration((window_at(LATEST, 2.0, 0.1),), points), mean, p90)["predicted_value"]
    np.testing.assert_allclose(doubled, 2 * plain)
    np.testing.assert_allclose(np.log(plain / mean)[[0, -1]], [-0.3, 0.3])  # beyond the points as at them


POINTS = st.lists(st.tuples(st.floats(-5, 12), st.floats(-0.5, 0.5)), max_size=10).map(lambda p: tuple(sorted(p)))
MONEY = st.floats(0, 1e12)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(MONEY, MONEY, MONEY, MONEY), min_size=1, max_size=20),
    ratio=st.floats(1e-6, 1e6), points=POINTS, p90_factor=st.floats(0.5, 2.0),
)  # fmt: skip
def test_forecasts_stay_possible_at_any_correction(
    rows: list[tuple[float, ...]], ratio: float, points: tuple[tuple[float, float], ...], p90_factor: float
) -> None:
    mean, *quantiles = np.array(rows).T
    low, middle, high = np.sort(np.stack(quantiles), axis=0)
    said = {"predicted_value": mean, "value_p10": low, "value_p50": middle, "value_p90": high, "expected_orders": mean}
    found = Calibration((window_at(LATEST, ratio, 0.1),), points, p90_factor).apply(said, AS_OF)
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values())
    assert (found["value_p10"] <= found["value_p50"]).all() and (found["value_p50"] <= found["value_p90"]).all()
    np.testing.assert_array_equal(found["expected_orders"], mean)
    order = np.argsort(mean, kind="stable")
    ranked = found["predicted_value"][order]
    assert (np.diff(ranked) >= -1e-9 * ranked[1:]).all()  # nobody overtakes
    assert (found["predicted_value"][mean == 0] == 0).all()
    assert (found["predicted_value"][mean > 1e-9] > 0).all()  # below that, a correction may leave nothing
