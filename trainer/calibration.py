"""What earlier windows say about a mix's level, deciles and range: applied to later forecasts where they say it clearly.

- Level: what happened over what is said, on average over the windows learned from. Members that extrapolate are off there
  too, and a lognormal's mean hangs on its tail.
- Season: how far the same season of an earlier year lay off that average. The window next before the forecast's says
  nothing about it: corrected by that, CDNOW's totals became no better (-19% became -16%), for a quarter's season is its own.
- Deciles: the ratio of what happened to what was said by tenth, without the level, where it shows in either half of the
  customers.
- Range: the p90 moved so that a tenth of the labels lay above it, where the share above it was off beyond chance. Of those
  whose p90 is positive: who buys with less than a tenth's probability has a p90 of 0, and is above it more rarely.

The last two come from forecasts made for a window by members that had not learned from it (the network stopped where it
did best there).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

YEAR_DAYS = 365
# How far a window may lie from the season it stands for; cutoffs a month apart always leave one within.
SEASON_TOLERANCE_DAYS = 15
# An average over less than this is no average over the seasons.
LEAST_SPAN_DAYS = 270
# Of the share above p90: with many customers, anything is clearly off, and nobody acts on less.
RANGE_TOLERANCE = 0.005
MOST_LEVEL, MOST_RANGE, MOST_DECILE = 2.0, 2.0, 1.5
# Standard errors by which something has to be off before it is believed.
CLEARLY = 2.0
DECILES = 10
# A decile's correction is believed where it mends at least this share of the error by tenth in either half.
LEAST_GAIN = 0.2
_MONEY = ("predicted_value", "value_p10", "value_p50", "value_p90")
_FEWEST = 500


@dataclass(frozen=True)
class Window:
    """A window's totals: what happened over what was said; ``error`` is the standard error of the ratio's logarithm."""

    cutoff: datetime.date
    value_ratio: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """``deciles``: (log of a forecast, log of its correction) pairs, in ascending order; ``why`` says it in sentences."""

    windows: tuple[Window, ...] = ()
    deciles: tuple[tuple[float, float], ...] = ()
    p90_factor: float = 1.0
    why: tuple[str, ...] = ()

    @property
    def level(self) -> float:
        """The factor of every forecast of money; 1 where the windows do not say clearly that they were off.

        Their labels overlap and their customers are the same: all together they are taken to know no more than one does.
        """
        if not self.windows:
            return 1.0
        usual = float(np.mean([np.log(window.value_ratio) for window in self.windows]))
        if abs(usual) <= CLEARLY * float(np.mean([window.error for window in self.windows])):
            return 1.0
        return float(np.clip(np.exp(usual), 1 / MOST_LEVEL, MOST_LEVEL))

    def season(self, as_of: datetime.date) -> tuple[float, datetime.date | None]:
        """The factor beside the level's of a forecast as of a date, and the cutoff it was learned at; else 1 and None."""
        if not self.windows:
            return 1.0, None
        cutoffs = [window.cutoff for window in self.windows]
        if (max(cutoffs) - min(cutoffs)).days < LEAST_SPAN_DAYS:
            return 1.0, None
        same = [w for w in self.windows if _off_season(w.cutoff, as_of) <= SEASON_TOLERANCE_DAYS]
        if not same:
            return 1.0, None
        window = min(same, key=lambda w: _off_season(w.cutoff, as_of))
        usual = float(np.mean([np.log(w.value_ratio) for w in self.windows]))
        off = np.log(window.value_ratio) - usual
        if abs(off) <= CLEARLY * window.error:
            return 1.0, None
        return float(np.clip(np.exp(off), 1 / MOST_LEVEL, MOST_LEVEL)), window.cutoff

    def apply(self, forecasts: Mapping[str, Array], as_of: datetime.date) -> dict[str, Array]:
        """Forecasts by column, [n] each, corrected; the quantiles stay in order."""
        factor = self.level * self.season(as_of)[0]
        # By decile first: the points were learned where forecasts lie before any level or season moves them.
        result = {**forecasts, "predicted_value": _by_decile(forecasts["predicted_value"], self.deciles)}
        for name in _MONEY:
            result[name] = result[name] * factor
        result["value_p90"] = result["value_p90"] * self.p90_factor
        for name in ("value_p50", "value_p10"):
            result[name] = np.minimum(result[name], result["value_p90"])
        return result

    def explained(self, as_of: datetime.date) -> list[str]:
        """``why``, and what is done to the level of forecasts as of a date."""
        season, learned_at = self.season(as_of)
        usual = "money as it is" if self.level == 1 else f"money times {self.level:.2f}"
        said = [f"{usual}: so the windows learned from ask on average"] if self.windows else []
        if learned_at:
            said.append(
                f"as of {as_of} times {season:.2f} more: so far was the window of {learned_at} off that average"
            )
        return [*self.why, *said]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "windows": [{**asdict(w), "cutoff": w.cutoff.isoformat()} for w in self.windows]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        windows = tuple(
            Window(datetime.date.fromisoformat(w["cutoff"]), w["value_ratio"], w["error"]) for w in content["windows"]
        )
        deciles = tuple((float(at), float(log_factor)) for at, log_factor in content["deciles"])
        return cls(windows, deciles, content["p90_factor"], tuple(content["why"]))


def _off_season(cutoff: datetime.date, as_of: datetime.date) -> int:
    """Days between the two but for whole years, in [0, 182]; a full year's for the same year."""
    days = (as_of - cutoff).days
    if days < YEAR_DAYS - SEASON_TOLERANCE_DAYS:
        return YEAR_DAYS
    return min(days % YEAR_DAYS, YEAR_DAYS - days % YEAR_DAYS)


def window(cutoff: datetime.date, actual: Array, predicted: Array) -> Window | None:
    """A window's totals over [n] customers; None where nothing was sold or said.

    The error is that of a ratio of sums of independent customers (Cochran 1977, "Sampling Techniques", section 6.4).
    """
    total, said = float(actual.sum()), float(predicted.sum())
    if total <= 0 or said <= 0:
        return None
    ratio = total / said
    return Window(cutoff, ratio, float(np.sqrt(np.square(actual - ratio * predicted).sum()) / total))


def of_evidence(actual: Array, forecasts: Mapping[str, Array], halves: NDArray[np.bool_]) -> Calibration:
    """Deciles and range from forecasts of [n] customers for a window that their models had not seen.

    Args:
      halves: [n], which half of the customers each is of, at random.
    """
    if len(actual) < _FEWEST:
        return Calibration(why=(f"{len(actual)} customers are too few to calibrate by",))
    if not (actual.any() and forecasts["predicted_value"].any()):
        return Calibration(why=("nothing was sold, or nothing was expected: there is nothing to calibrate by",))
    deciles, why_deciles = _deciles(actual, forecasts["predicted_value"], halves)
    # The level has its own correction, and a neighbouring window's says nothing: the range is judged without it.
    level = float(actual.sum() / forecasts["predicted_value"].sum())
    factor, why_range = _range(actual, level * forecasts["value_p90"])
    return Calibration(deciles=deciles, p90_factor=factor, why=(why_deciles, why_range))


def _deciles(actual: Array, predicted: Array, halves: NDArray[np.bool_]) -> tuple[tuple[tuple[float, float], ...], str]:
    gains = []
    for half in (halves, ~halves):
        points = _decile_points(actual[half], predicted[half])
        before, after = (
            _error(actual[~half], said) for said in (predicted[~half], _by_decile(predicted[~half], points))
        )
        gains.append(1 - after / before if before > 0 else 0.0)
    text = " and ".join(f"{gain:+.0%}" for gain in gains)
    if min(gains) < LEAST_GAIN:
        return (
            (),
            f"deciles as they are: corrected by one half of the customers, the other's error by tenth changed by {text}",
        )
    return _decile_points(actual, predicted), f"deciles corrected: the error by tenth fell by {text} in the halves"


def _decile_points(actual: Array, predicted: Array) -> tuple[tuple[float, float], ...]:
    """For every tenth of [n] customers the logarithms of its mean forecast and of its correction, in ascending order.

    The corrections keep the total of these customers.
    """
    order = np.argsort(predicted, kind="stable")
    level = np.log(actual.sum() / predicted.sum()) if actual.sum() > 0 else 0.0
    points: list[tuple[float, float]] = []
    for tenth in np.array_split(order, DECILES):
        happened, said = actual[tenth].sum(), predicted[tenth].sum()
        if happened > 0 and said > 0:
            bound = np.log(MOST_DECILE)
            points.append(
                (float(np.log(said / len(tenth))), float(np.clip(np.log(happened / said) - level, -bound, bound)))
            )
    points.sort()
    # Between the points, and where customers may not overtake, some of the total is won or lost.
    won = float(np.log(_by_decile(predicted, points).sum() / predicted.sum())) if points else 0.0
    return tuple((at, log_factor - won) for at, log_factor in points)


def _by_decile(predicted: Array, points: Sequence[tuple[float, float]]) -> Array:
    """Forecasts corrected along the points, linear in logarithms between them; nobody overtakes."""
    if not points or not predicted.any():
        return predicted
    at, log_factor = np.array(points).T
    # The corrected value never falls where the forecast rises; where it would, it stands still.
    reached = np.maximum.accumulate(at + log_factor)
    logs = np.log(np.maximum(predicted, 1e-300))
    return predicted * np.exp(np.interp(logs, at, reached - at))


def _error(actual: Array, predicted: Array) -> float:
    """Mean absolute error by tenth relative to the tenth, once the totals agree."""
    said = predicted * (actual.sum() / predicted.sum())
    tenths = np.array_split(np.argsort(said, kind="stable"), DECILES)
    errors = [abs(said[t].sum() / actual[t].sum() - 1) for t in tenths if actual[t].sum() > 0]
    return float(np.mean(errors)) if errors else 0.0


def _range(actual: Array, p90: Array) -> tuple[float, str]:
    some = p90 > 0
    n = int(some.sum())
    if n < _FEWEST:
        return 1.0, f"range as it is: {n} customers with a p90 above 0 are too few to tell"
    ratio = actual[some] / p90[some]
    share, error = float(np.mean(ratio > 1)), np.sqrt(0.1 * 0.9 / n)
    if abs(share - 0.1) <= max(CLEARLY * error, RANGE_TOLERANCE):
        return 1.0, f"range as it is: once the totals agree, {share:.1%} of the labels lay above a p90 that is not 0"
    factor = float(np.clip(np.quantile(ratio, 0.9), 1 / MOST_RANGE, MOST_RANGE))
    return (
        factor,
        f"p90 times {factor:.2f}: once the totals agree, {share:.1%} of the labels lay above one that is not 0",
    )
