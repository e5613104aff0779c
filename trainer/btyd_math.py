"""The special functions behind the buy-till-you-die models, vectorised and without cancellation.

None of them subtracts two nearly equal numbers, so that they hold where the closed forms of the papers give
inf or NaN: x in the thousands, t_x = T, parameters near 0 or in the millions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

Array = NDArray[np.float64]

_STIRLING_FROM = 20.0  # from here on four terms of Stirling's series are exact to a double's last digit
# Trapezoidal rule after the substitution y = scale * exp(u - exp(-u)) (Takahasi & Mori 1974, "Double exponential
# formulas"). Halving the step changes the edge grid by less than 1e-14; a step of 0.35 is off by 1e-12.
_STEP = 0.27
_FIRST_NODE = -3.65  # exp(u - exp(-u)) is e^-42 there: nothing of the integrand lies further left
_NEGLIGIBLE = 40.0  # survival below e^-40 is left out
_POWER_LAW = 38.0  # so many e-folds beyond both scales the integrand is a power of y, to a double's last digit
_ELEMENTS = 1 << 15  # of a work array: five of them stay in a core's cache


def log_rising(z: Array | float, n: Array | float) -> Array:
    """ln(Gamma(z + n) / Gamma(z)) for z > 0, n >= 0, broadcast; no digits are lost where z is much larger than n."""
    z, n = np.broadcast_arrays(np.asarray(z, np.float64), np.asarray(n, np.float64))
    large = np.maximum(z, _STIRLING_FROM)
    by_stirling = (large - 0.5) * np.log1p(n / large) + n * (np.log(large + n) - 1) + _tail(large + n) - _tail(large)
    return np.where(z >= _STIRLING_FROM, by_stirling, special.gammaln(z + n) - special.gammaln(z))


def _tail(z: Array) -> Array:
    """Stirling's series for ln Gamma beyond its leading part (Abramowitz & Stegun 6.1.41)."""
    inverse = 1 / (z * z)
    return (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse / 1680))) / z


@dataclass(frozen=True)
class FirstEvent:
    """ln P(own event is first) and its derivatives, each [n]."""

    log_probability: Array
    by_own_shape: Array
    by_own_scale: Array
    by_other_shape: Array
    by_other_scale: Array


def log_first_event(own_shape: Array, own_scale: Array, other_shape: Array, other_scale: Array) -> FirstEvent:
    """Of two independent Pareto II waiting times, the probability that the first named ends before the other.

    The chance that a waiting time lasts beyond y is (1 + y / scale)^-shape, so that the answer is

        p = int_0^inf  k / (c + y) * (1 + y / c)^-k * (1 + y / d)^-l  dy,    own (k, c), other (l, d).

    In closed form it is a Gauss hypergeometric function: for c <= d, with z = 1 - c / d, it is
    k / (k + l) * 2F1(1, l; k + l + 1; z), the 2F1 of the Pareto/NBD likelihood after Euler's transformation. The
    integrand is positive, so that quadrature of it has full relative accuracy whatever the arguments, and yields
    the derivatives from the same nodes.

    Args:
      own_shape, own_scale, other_shape, other_scale: [n] each, > 0; scales in the same unit of time.
    """
    given = (own_shape, own_scale, other_shape, other_scale)
    k, c, l, d = np.broadcast_arrays(*(np.asarray(values, np.float64) for values in given))  # noqa: E741
    # Below this time the integrand is flat: it is shorter than either scale and than the mean time to either event.
    unit = 1 / ((k + 1) / c + (l + 1) / d)
    longest = np.maximum(c, d)
    reach = np.minimum(_log_reach(c, k), _log_reach(d, l))
    reach = np.minimum(reach, np.minimum(_log_reach(longest, k + l), np.log(longest) + _POWER_LAW))
    last = reach - np.log(unit)
    nodes = np.ceil((last - _FIRST_NODE) / _STEP).astype(np.int64) + 1
    result = np.empty((5, len(k)))
    order, start = np.argsort(nodes, kind="stable"), 0
    ordered = nodes[order]
    while start < len(order):
        # As many rows as fit with the nodes of the longest among them.
        rows = max(1, _ELEMENTS // int(ordered[start]))
        rows = max(1, min(rows, _ELEMENTS // int(ordered[min(start + rows, len(order)) - 1])))
        at = order[start : start + rows]
        result[:, at] = _first_event(k[at], c[at], l[at], d[at], unit[at], int(nodes[at[-1]]))
        start += rows
    return FirstEvent(*result)


def _log_reach(scale: Array, shape: Array) -> Array:
    """ln of the time that a Pareto II variable outlasts with the probability e^-_NEGLIGIBLE."""
    exponent = _NEGLIGIBLE / shape
    return np.log(scale) + exponent + np.log(-np.expm1(-exponent))


def _first_event(k: Array, c: Array, l: Array, d: Array, unit: Array, nodes: int) -> Array:  # noqa: E741
    """[5, n]: the fields of ``FirstEvent`` of rows that share their nodes."""
    u = _FIRST_NODE + _STEP * np.arange(nodes)
    y = unit[:, None] * np.exp(u - np.exp(-u))
    own, other = np.log1p(y / c[:, None]), np.log1p(y / d[:, None])
    mass = np.exp(-(k[:, None] * own + l[:, None] * other))
    own_share, other_share = y / (c[:, None] + y), y / (d[:, None] + y)
    mass *= own_share
    mass *= _STEP * (1 + np.exp(-u))
    # All nodes to come are a geometric series, where there is anything left of them: the last node stands for them.
    with np.errstate(over="ignore"):
        decay = _STEP * (k + l)
        tail = mass[:, -1] / np.expm1(decay)
    beyond = tail * _STEP / -np.expm1(-decay)
    mass[:, -1] += tail
    total = mass.sum(axis=1)

    def mean(values: Array) -> Array:
        return np.einsum("ij,ij->i", mass, values) / total

    return np.stack(
        [
            np.log(k * total),
            1 / k - mean(own) - beyond / total,
            ((k + 1) * mean(own_share) - 1) / c,
            -mean(other) - beyond / total,
            l * mean(other_share) / d,
        ]
    )


def beta_rule(a: float, b: float, nodes: int) -> tuple[Array, Array]:
    """Nodes in (0, 1) and weights, [nodes] each, of the Gauss-Jacobi rule for an expectation under Beta(a, b).

    Exact for polynomials of degree 2 nodes - 1. By Golub & Welsch 1969 from the recurrence of the Jacobi
    polynomials; the weights sum to 1, so that nothing underflows where a or b is in the thousands.
    """
    alpha, beta = b - 1, a - 1  # the usual names, on [-1, 1]
    n = np.arange(nodes, dtype=np.float64)
    total = 2 * n + alpha + beta
    with np.errstate(divide="ignore", invalid="ignore"):
        diagonal = (beta - alpha) * (beta + alpha) / (total * (total + 2))
        m, s = n[1:], total[1:]
        squared = 4 * m * (m + alpha) * (m + beta) * (m + alpha + beta) / (s * s * (s + 1) * (s - 1))
    diagonal[0] = (beta - alpha) / (alpha + beta + 2)
    if nodes > 1:  # the general form is 0 / 0 where alpha + beta is -1
        squared[0] = 4 * (1 + alpha) * (1 + beta) / ((2 + alpha + beta) ** 2 * (3 + alpha + beta))
    points, vectors = linalg.eigh_tridiagonal(diagonal, np.sqrt(squared))
    return np.clip((1 + points) / 2, np.finfo(np.float64).tiny, 1.0), vectors[0] ** 2
