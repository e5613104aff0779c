"""BG/NBD and MBG/NBD: after a purchase a customer drops out with a probability of their own, Beta(a, b) distributed.

BG/NBD: Fader, Hardie & Lee 2005, "Counting Your Customers" the Easy Way: nobody drops out before the first repeat
purchase, so that a customer of one order is alive for ever. MBG/NBD: Batislam, Denizel & Filiztekin 2007, "Empirical
validation and comparison of models for customer base analysis", which counts the first purchase as a chance too.
Both are written here by the number of chances k to drop out that came before the last purchase was survived: x or x + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer import btyd, btyd_counts, btyd_math

Array = NDArray[np.float64]

_MOST_NODES = 512
_ELEMENTS = 1 << 20  # of a work array


class BgNbd(btyd.PurchaseModel):
    """r, alpha (time): purchase rates are Gamma(r, rate alpha); a, b: dropout probabilities are Beta(a, b)."""

    name: ClassVar[str] = "bgnbd"
    parameter_names: ClassVar[tuple[str, ...]] = ("r", "alpha", "a", "b")
    first_chance: ClassVar[int] = 0

    def _age_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """ln [ B(a, b + k) / B(a, b) / (alpha + T)^(r + x) ]: the first term of equation 6 of the paper."""
        r, alpha, a, b = theta
        k = x + self.first_chance
        survived, by_a, by_b = _log_survived(a, b, k)
        log_time = np.log(alpha + t)
        gradient = np.stack([-log_time, -(r + x) / (alpha + t), by_a, by_b], axis=1)
        return survived - (r + x) * log_time, gradient

    def _recency_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """ln [ B(a + 1, b + k - 1) / B(a, b) / (alpha + t_x)^(r + x) ]: its second term; none without a chance."""
        r, alpha, a, b = theta
        k = x + self.first_chance
        before = np.maximum(k - 1, 0)
        survived, by_a, by_b = _log_survived(a, b, before)
        total = a + b + before
        log_time = np.log(alpha + t)
        value = survived + np.log(a / total) - (r + x) * log_time
        gradient = np.stack([-log_time, -(r + x) / (alpha + t), by_a + 1 / a - 1 / total, by_b - 1 / total], axis=1)
        return np.where(k > 0, value, -np.inf), gradient

    def _purchases_alive(self, theta: Array, x: Array, age: Array, horizon: Array) -> Array:
        """E over p ~ Beta(a, b + k) of [1 - (1 + p t / (alpha + T))^-(r + x)] / p.

        Expected purchases given the rate and p are (1 - e^(-rate p t)) / p; the rate is Gamma(r + x, alpha + T) for
        who is alive. In closed form a 2F1 over a - 1 (equation 10 of the paper), which fails near a = 1 and for large x.
        """
        r, alpha, a, b = theta
        result = np.empty((len(x), horizon.shape[-1]))
        reach = horizon.max() / (alpha + age)
        # The integrand has its pole at p = -1 / reach: Gauss-Jacobi needs nodes in proportion to the root of reach. With
        # many purchases it becomes e^(-reach y) for a gamma distributed y, which takes nodes in proportion to reach.
        needed = 24 + np.where(x < 5, 10 * np.sqrt(reach), 8 * reach)
        nodes = np.minimum(_MOST_NODES, 2 ** np.ceil(np.log2(needed))).astype(np.int64)
        first, group = btyd_counts.pairs(x, nodes.astype(np.float64))
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.cumsum(np.bincount(group, minlength=len(first)))[:-1]):
            k = float(x[rows[0]]) + self.first_chance
            p, weights = btyd_math.beta_rule(a, b + k, int(nodes[rows[0]]))
            chunk = max(1, _ELEMENTS // (result.shape[1] * len(p)))
            for at in np.split(rows, range(chunk, len(rows), chunk)):
                growth = np.log1p(p * (horizon / (alpha + age[at])[:, None])[..., None])
                result[at] = -np.expm1(-(r + x[at])[:, None, None] * growth) @ (weights / p)
        return result

    def _any_purchase_alive(self, theta: Array, x: Array, age: Array, horizon: float) -> Array:
        """Nobody drops out without a purchase: 1 - ((alpha + T) / (alpha + T + t))^(r + x)."""
        r, alpha, _, _ = theta
        return -np.expm1(-(r + x) * np.log1p(horizon / (alpha + age)))

    def _counts_alive(self, theta: Array, x: Array, age: Array, horizon: float, most: int) -> Array:
        """Equation 8 of the paper, P(X(t) = n), with the parameters of who is alive: r + x, alpha + T, a, b + k.

        n purchases within t and still alive, or at least n possible ones of which the n-th was the last.
        """
        r, alpha, a, b = theta
        n = np.arange(most + 1, dtype=np.float64)
        k = (x + self.first_chance)[:, None]
        shape, share = (r + x)[:, None], (horizon / (alpha + age + horizon))[:, None]
        log_count = btyd_math.log_rising(shape, n) - special.gammaln(n + 1) + special.xlogy(n, share)
        log_count = log_count + shape * np.log1p(-share)
        survived = _log_survived(a, b + k, n)[0]
        result = np.exp(log_count + survived)
        last = np.exp(_log_survived(a, b + k, n[1:] - 1)[0]) * a / (a + b + k + n[1:] - 1)
        result[:, 1:] += last * special.betainc(n[1:], shape, share)
        return result

    def _shortest_time(self) -> float:
        return self.params_["alpha"]

    def _starts(self, rate: float, age: float) -> Sequence[Sequence[float]]:
        return [
            (0.5, 0.3 / rate, 0.7, 2.5),
            (1.0, 1.0 / rate, 0.2, 2.0),
            (0.2, 0.1 / rate, 1.5, 6.0),
            (3.0, 3.0 / rate, 0.05, 1.0),
        ]


class MbgNbd(BgNbd):
    """BG/NBD with a chance to drop out right after the first purchase as well."""

    name: ClassVar[str] = "mbgnbd"
    first_chance: ClassVar[int] = 1


def _log_survived(a: float, b: Array | float, chances: Array) -> tuple[Array, Array, Array]:
    """ln(B(a, b + k) / B(a, b)), the chance to survive k chances, and its derivatives by a and b."""
    value = btyd_math.log_rising(b, chances) - btyd_math.log_rising(a + b, chances)
    by_total = special.digamma(a + b) - special.digamma(a + b + chances)
    return value, by_total, by_total + special.digamma(b + chances) - special.digamma(b)
