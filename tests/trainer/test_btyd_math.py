"""The special functions against mpmath's closed forms at 60 digits (see make_btyd_mpmath.py) and against identities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from trainer import btyd_math

EVENTS = json.loads((Path(__file__).parent / "btyd_mpmath.json").read_text())["first_event"]

shapes = st.floats(-7, 4).map(lambda exponent: 10**exponent)
scales = st.floats(-3, 6).map(lambda exponent: 10**exponent)


def test_first_event_is_exact() -> None:
    *arguments, wanted = np.array([[float(value) for value in row] for row in EVENTS]).T
    found = btyd_math.log_first_event(*arguments).log_probability
    # Of a probability near 1 the logarithm is as exact as the probability.
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@given(shapes, scales, shapes, scales)
def test_one_of_two_events_is_first(k: float, c: float, l: float, d: float) -> None:  # noqa: E741
    one = np.exp(btyd_math.log_first_event(*map(np.atleast_1d, (k, c, l, d))).log_probability)
    other = np.exp(btyd_math.log_first_event(*map(np.atleast_1d, (l, d, k, c))).log_probability)
    assert one + other == pytest.approx(1.0, abs=1e-12)
    unit = btyd_math.log_first_event(*map(np.atleast_1d, (k, c * 7, l, d * 7))).log_probability
    assert np.exp(unit) == pytest.approx(one, rel=1e-12)


@given(shapes, scales, shapes, scales)
def test_derivatives_are_those_of_the_probability(k: float, c: float, l: float, d: float) -> None:  # noqa: E741
    at = np.array([k, c, l, d])
    steps = at * (1 + 1e-5 * np.vstack([np.eye(4), -np.eye(4)]))
    values = btyd_math.log_first_event(*steps.T).log_probability
    found = btyd_math.log_first_event(*at[:, None])
    gradient = [found.by_own_shape, found.by_own_scale, found.by_other_shape, found.by_other_scale]
    assert at * np.ravel(gradient) == pytest.approx((values[:4] - values[4:]) / 2e-5, rel=1e-6, abs=1e-8)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    rows = np.array([[float(value) for value in row[:4]] for row in EVENTS])
    together = btyd_math.log_first_event(*rows.T).log_probability
    alone = np.concatenate([btyd_math.log_first_event(*row[:, None]).log_probability for row in rows[::17]])
    assert together[::17] == pytest.approx(alone, rel=1e-13)


@given(st.floats(-3, 9).map(lambda exponent: 10**exponent), st.integers(0, 5000))
def test_log_rising_is_the_logarithm_of_a_product(z: float, n: int) -> None:
    product = np.log(z + np.arange(n)).sum()
    assert btyd_math.log_rising(z, n) == pytest.approx(product, rel=1e-11, abs=1e-9 if z < 20 else 1e-10)


def test_log_rising_keeps_the_digits_of_small_differences() -> None:
    # ln(B(a, b + k) / B(a, b)) at b = 1e8: the difference of four gammaln has no digit right.
    value = btyd_math.log_rising(1e8, 7) - btyd_math.log_rising(1e8 + 3, 7)
    assert value == pytest.approx(-np.log1p(3 / (1e8 + np.arange(7))).sum(), rel=1e-6)


@given(st.floats(0.01, 50), st.floats(0.01, 6000), st.integers(0, 9))
def test_beta_rule_gives_the_moments(a: float, b: float, power: int) -> None:
    p, weights = btyd_math.beta_rule(a, b, 24)
    moment = np.exp(special.betaln(a + power, b) - special.betaln(a, b))
    assert weights @ p**power == pytest.approx(moment, rel=1e-8)
    assert (p > 0).all() and (p <= 1).all() and (weights >= 0).all()
