"""Maximum likelihood for a handful of positive parameters: several starts, Newton's method, judged by the gradient.

An optimiser's own success flag is not asked: it fails fits that have converged and passes fits that have not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
# [k] parameters -> the log-likelihood of a row on average, and its [k] derivatives by the parameters.
LogLikelihood = Callable[[Array], tuple[float, Array]]

# The gradient by the logarithms of the parameters, of the mean log-likelihood of a row: below this, no
# parameter's last four digits can still change on data that determine it.
GRADIENT_TOLERANCE = 1e-7
# Parameters beyond are not told apart by any data: the likelihood is flat there (no dropout, no differences).
LOG_BOUND = 16.0
_LEAST_INFORMATION = 1e-4  # about a log-parameter: it could be off by a factor of e^100
_NEWTON_STEPS = 30
_DIFFERENCE = 1e-4  # of a log-parameter; central, so that the Hessian is off by about 1e-8 of its size


@dataclass(frozen=True)
class Estimate:
    """Where a likelihood is largest. ``covariance`` [k, k] is of the log-parameters, NaN where they are undetermined."""

    parameters: Array
    mean_log_likelihood: float
    gradient_norm: float
    covariance: Array
    start: int

    @property
    def converged(self) -> bool:
        return self.gradient_norm <= GRADIENT_TOLERANCE

    @property
    def standard_errors(self) -> Array:
        """[k], of the parameters themselves (delta method); NaN where the data do not determine them."""
        with np.errstate(invalid="ignore"):
            return self.parameters * np.sqrt(np.diag(self.covariance))


def maximise(
    log_likelihood: LogLikelihood, starts: Sequence[Sequence[float]], rows: float, rough: LogLikelihood | None = None
) -> Estimate:
    """The parameters, all > 0, with the largest likelihood.

    Every start climbs by L-BFGS-B in the logarithms of the parameters; the highest goes on by Newton's method.

    Args:
      log_likelihood: of a row on average; what the estimate is for.
      starts: parameters to begin from; the order decides between equally high ends.
      rows: how many rows the average is of.
      rough: a cheaper function with nearly the same maximum, for the starts to compete on.
    """
    climb = _in_logarithms(rough or log_likelihood)
    ends = [_climb(climb, np.log(np.asarray(start, np.float64))) for start in starts]
    best = max(range(len(ends)), key=lambda i: (climb(ends[i])[0], -i))
    function = _in_logarithms(log_likelihood)
    theta = _newton(function, ends[best])
    value, gradient = function(theta)
    covariance = _covariance(-rows * _hessian(function, theta), np.abs(theta) < LOG_BOUND)
    norm = float(np.max(np.abs(_projected(theta, gradient))))
    estimate = Estimate(np.exp(theta), value, norm, covariance, best)
    if rough is not None and not (estimate.converged and np.isfinite(covariance).all()):
        # What looks like a likelihood without a top may be the fault of the fewer rows: all of them are asked.
        return maximise(log_likelihood, starts, rows)
    return estimate


def _in_logarithms(function: LogLikelihood) -> LogLikelihood:
    def of_logarithms(theta: Array) -> tuple[float, Array]:
        parameters = np.exp(theta)
        value, gradient = function(parameters)
        return value, gradient * parameters

    return of_logarithms


def _climb(function: LogLikelihood, theta: Array) -> Array:
    def downhill(point: Array) -> tuple[float, Array]:
        value, gradient = function(point)
        return -value, -gradient

    found = optimize.minimize(
        downhill, np.clip(theta, -LOG_BOUND, LOG_BOUND), jac=True, method="L-BFGS-B",
        bounds=[(-LOG_BOUND, LOG_BOUND)] * len(theta), options={"maxiter": 200, "ftol": 1e-9, "gtol": 1e-4},
    )  # fmt: skip
    return np.asarray(found.x, np.float64)


def _newton(function: LogLikelihood, theta: Array) -> Array:
    """Damped Newton steps while they climb: L-BFGS-B stops well short of the top of a flat hill."""
    value, gradient = function(theta)
    for _ in range(_NEWTON_STEPS):
        if np.max(np.abs(_projected(theta, gradient))) <= GRADIENT_TOLERANCE / 100:
            break
        step = _step(_hessian(function, theta), gradient, np.abs(theta) >= LOG_BOUND)
        for _ in range(12):
            moved = np.clip(theta + step, -LOG_BOUND, LOG_BOUND)
            moved_value, moved_gradient = function(moved)
            closer = np.linalg.norm(_projected(moved, moved_gradient)) < np.linalg.norm(_projected(theta, gradient))
            # At the very top the value no longer changes in its last digit while the gradient still falls.
            if moved_value > value or (closer and moved_value >= value - 1e-13 * abs(value)):
                break
            step = step / 2
        else:
            break
        theta, value, gradient = moved, moved_value, moved_gradient
    return theta


def _step(hessian: Array, gradient: Array, held: NDArray[np.bool_]) -> Array:
    """Uphill whatever the curvature: directions that curve up, or hardly at all, are walked along by their gradient."""
    free = ~held
    step = np.zeros_like(gradient)
    curvature, directions = np.linalg.eigh(-hessian[np.ix_(free, free)])
    scale = np.maximum(np.abs(curvature), 1e-10)
    step[free] = directions @ ((directions.T @ gradient[free]) / scale)
    return step / max(1.0, float(np.max(np.abs(step))) / 2)  # no parameter changes by more than e^2 at once


def _hessian(function: LogLikelihood, theta: Array) -> Array:
    """[k, k] by central differences of the gradient."""
    rows = []
    for i in range(len(theta)):
        shift = np.zeros_like(theta)
        shift[i] = _DIFFERENCE
        rows.append((function(theta + shift)[1] - function(theta - shift)[1]) / (2 * _DIFFERENCE))
    hessian = np.asarray(rows)
    return (hessian + hessian.T) / 2


def _projected(theta: Array, gradient: Array) -> Array:
    """The gradient without what points across a bound."""
    outward = ((theta >= LOG_BOUND) & (gradient > 0)) | ((theta <= -LOG_BOUND) & (gradient < 0))
    return np.where(outward, 0.0, gradient)


def _covariance(information: Array, inside: NDArray[np.bool_]) -> Array:
    """[k, k]: the inverse of the observed information.

    NaN for parameters at a bound or without curvature, which are held for the others; NaN in full where the rest is not
    positive definite.
    """
    covariance = np.full_like(information, np.nan)
    free = inside & (np.diag(information) > _LEAST_INFORMATION)
    inner = information[np.ix_(free, free)]
    if not len(inner) or np.min(np.linalg.eigvalsh(inner)) <= 0:
        return covariance
    covariance[np.ix_(free, free)] = np.linalg.inv(inner)
    return covariance
