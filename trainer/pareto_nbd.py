"""Pareto/NBD: customers drop out at a rate of their own, whether they buy or not.

Schmittlein, Morrison & Colombo 1987, "Counting Your Customers: Who Are They and What Will They Do Next?"; likelihood in
the form of Fader & Hardie 2005, "A Note on Deriving the Pareto/NBD Model and Related Expressions". With R = r + x,

    dead(x, t_x) = int from t_x to infinity of s / ((alpha + t)^R (beta + t)^(s + 1)) dt - the same from T,

and the part from T, of those who drop out later, is joined here to the customers alive at T: what is left of them are
those who buy before they drop out. Both branches are then the same positive integral, ``btyd_math.log_first_event``
(there in place of the paper's difference of two 2F1), and no digits are lost at t_x = T or at x in the thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer import btyd, btyd_math

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_ELEMENTS = 1 << 20  # of a work array


class ParetoNbd(btyd.PurchaseModel):
    """r, alpha (time): purchase rates are Gamma(r, rate alpha); s, beta (time): dropout rates are Gamma(s, rate beta)."""

    name: ClassVar[str] = "pareto"
    parameter_names: ClassVar[tuple[str, ...]] = ("r", "alpha", "s", "beta")

    def _age_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """Alive at T and to buy before the dropout: (alpha + T)^-R (beta + T)^-s P(purchase first)."""
        r, alpha, s, beta = theta
        first = btyd_math.log_first_event(r + x, alpha + t, s, beta + t)
        value, gradient = _log_untouched(theta, x, t)
        gradient += np.stack(
            [first.by_own_shape, first.by_own_scale, first.by_other_shape, first.by_other_scale], axis=1
        )
        return value + first.log_probability, gradient

    def _recency_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """Alive at t_x and to drop out before the next purchase, be that before T or after."""
        r, alpha, s, beta = theta
        first = btyd_math.log_first_event(s, beta + t, r + x, alpha + t)
        value, gradient = _log_untouched(theta, x, t)
        gradient += np.stack(
            [first.by_other_shape, first.by_other_scale, first.by_own_shape, first.by_own_scale], axis=1
        )
        return value + first.log_probability, gradient

    def _log_alive(self, theta: Array, x: Array, t: Array) -> Array:
        return _log_untouched(theta, x, t)[0]

    def _purchases_alive(self, theta: Array, x: Array, age: Array, horizon: Array) -> Array:
        """(r + x) (beta + T) / ((alpha + T) (s - 1)) [1 - ((beta + T) / (beta + T + t))^(s - 1)], finite at s = 1 too.

        The conditional expectation of the note, without the probability of being alive.
        """
        r, alpha, s, beta = theta
        growth = np.log1p(horizon / (beta + age)[:, None])
        lifetime = growth * special.exprel((1 - s) * growth)
        return ((r + x) / (alpha + age) * (beta + age))[:, None] * lifetime

    def _any_purchase_alive(self, theta: Array, x: Array, age: Array, horizon: float) -> Array:
        """Who buys before the dropout at all, less those for whom neither happens within t and who buy first later."""
        r, alpha, s, beta = theta
        now = btyd_math.log_first_event(r + x, alpha + age, s, beta + age).log_probability
        end = age + horizon
        later = btyd_math.log_first_event(r + x, alpha + end, s, beta + end).log_probability
        neither = -(r + x) * np.log1p(horizon / (alpha + age)) - s * np.log1p(horizon / (beta + age))
        return -np.exp(now) * np.expm1(neither + later - now)

    def _counts_alive(self, theta: Array, x: Array, age: Array, horizon: float, most: int) -> Array:
        """Negative binomial counts over the time to the dropout or the horizon, whichever is first, by quadrature."""
        r, alpha, s, beta = theta
        n = np.arange(most + 1, dtype=np.float64)
        log_ways = btyd_math.log_rising((r + x)[:, None], n) - special.gammaln(n + 1)
        result = np.empty((len(x), most + 1))
        chunk = max(1, _ELEMENTS // ((most + 1) * (len(_NODES) + 1)))
        for start in range(0, len(x), chunk):
            at = slice(start, start + chunk)
            times, weights = _lifetimes(s, beta + age[at], np.minimum(alpha, beta) + age[at], horizon)
            # [rows, nodes, counts]: P(n purchases within a time) = ways * (1 - q)^R * q^n, q = time / (alpha + T + time).
            log_stay = (r + x[at])[:, None] * -np.log1p(times / (alpha + age[at])[:, None])
            share = times / ((alpha + age[at])[:, None] + times)
            log_count = log_ways[at][:, None, :] + log_stay[..., None] + special.xlogy(n, share[..., None])
            result[at] = np.einsum("ij,ijn->in", weights, np.exp(log_count))
        return result

    def _shortest_time(self) -> float:
        return min(self.params_["alpha"], self.params_["beta"])

    def _starts(self, rate: float, age: float) -> Sequence[Sequence[float]]:
        return [
            (0.5, 0.3 / rate, 0.6, age / 3),
            (1.0, 1.0 / rate, 0.5, age * 2),
            (0.3, 0.1 / rate, 2.0, age),
            (3.0, 3.0 / rate, 0.05, age),
        ]


def _log_untouched(theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
    """ln [ (alpha + t)^-(r + x) * ((beta + t) / beta)^-s ], [n], and its [n, 4] gradient."""
    r, alpha, s, beta = theta
    log_rate, log_life = np.log(alpha + t), np.log1p(t / beta)
    gradient = np.stack([-log_rate, -(r + x) / (alpha + t), -log_life, s * t / (beta * (beta + t))], axis=1)
    return -(r + x) * log_rate - s * log_life, gradient


def _lifetimes(s: float, scale: Array, shortest: Array, horizon: float) -> tuple[Array, Array]:
    """Times [n, nodes + 1] up to the horizon and their weights: dropouts before it, and at last the survivors at it.

    Gauss-Legendre on a logarithmic scale that begins with the ``shortest`` time on which the integrand changes.
    """
    reach = np.log1p(horizon / shortest)[:, None]
    times = shortest[:, None] * np.expm1(reach * (1 + _NODES) / 2)
    survival = np.exp(-s * np.log1p(times / scale[:, None]))
    density = s / (scale[:, None] + times) * survival
    weights = reach / 2 * _WEIGHTS * (times + shortest[:, None]) * density
    survivors = np.exp(-s * np.log1p(horizon / scale))[:, None]
    return np.hstack([times, np.full_like(survivors, horizon)]), np.hstack([weights, survivors])
