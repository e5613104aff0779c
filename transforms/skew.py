"""How far the customers a model serves lie from those it learned from.

Compares the statistics of two snapshots, feature by feature, and holds each difference to a threshold.
Every measure is 0 where nothing changed, grows with the change and is free of the noise of small samples:

    rows_lost, rows_gained   customers against the latest training snapshot: share lost, share gained
    missing                  difference of the shares of customers without a value
    zeros                    difference of the shares of zeros among the values (numbers)
    divergence               Jensen-Shannon divergence of the values other than 0 (numbers), 0..1
    mean                     |log2| of the ratio of the means of the values other than 0 (money): 1 is twice or half
    categories               largest difference of a value's share, L-infinity (texts)

Zeros and missing values are measured apart because they follow when customers buy, which moves with the
season and with the age of a shop, while the size of what is there hardly moves unless something broke.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms import schema
from transforms.sketches import Numbers, Texts
from transforms.skew_thresholds import Thresholds, measured
from transforms.statistics import Split, Statistics, quantiles

Counts = npt.NDArray[np.float64]

BINS = 12
# Hundreds of differences are judged in a run, each against chance: 4 standard deviations are exceeded by 3 in 100,000.
_NOISE_DEVIATIONS = 4.0
CUSTOMERS = "customers"
"""Stands for a feature's name where the number of rows is meant."""


@dataclass(frozen=True)
class Difference:
    """One measure of one feature. ``level`` is "fail", "warn" or "ok"; ``detail`` says what is behind the value."""

    feature: str
    metric: str
    value: float
    warn: float | None
    fail: float | None
    level: str
    detail: str

    def line(self) -> str:
        limit = self.fail if self.level == "fail" else self.warn
        return (
            f"{self.level}: {self.feature}: {self.metric} is {self.value:.3g}, accepted is at most {limit:g} "
            f"({self.detail})"
        )


@dataclass(frozen=True)
class Comparison:
    """Every difference, and those beyond a threshold: failures first, then by how far they are beyond it."""

    training_rows: int
    serving_rows: int
    differences: list[Difference]

    @property
    def alarms(self) -> list[Difference]:
        alarms = [difference for difference in self.differences if difference.level != "ok"]
        return sorted(alarms, key=lambda alarm: (alarm.level != "fail", -_excess(alarm), alarm.feature, alarm.metric))

    @property
    def failed(self) -> bool:
        return any(difference.level == "fail" for difference in self.differences)

    def lines(self) -> list[str]:
        return [alarm.line() for alarm in self.alarms]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, for ``skew.json``; the same statistics and thresholds give the same."""
        return {
            "failed": self.failed,
            "training_rows": self.training_rows,
            "serving_rows": self.serving_rows,
            "alarms": self.lines(),
            "differences": [asdict(difference) for difference in self.differences],
        }


def _excess(alarm: Difference) -> float:
    limit = alarm.fail if alarm.level == "fail" else alarm.warn
    return alarm.value / limit if limit else math.inf


def compare(training: Statistics, serving: Statistics, thresholds: Thresholds) -> Comparison:
    """Holds serving against training, all splits of each together; labels are not looked at.

    Args:
      training: of one snapshot or of several merged; customers are counted against the latest by name.
      serving: of the customers to forecast.
    """
    learned, served = training.whole(), serving.whole()
    found = _rows(training, serving)
    for column in schema.FEATURES:
        found += _feature(column.name, learned, served)
    differences = []
    for feature, metric, value, detail in found:
        limit = thresholds.of(feature, metric)
        value = float(f"{value:.6g}")
        differences.append(Difference(feature, metric, value, limit.warn, limit.fail, limit.level(value), detail))
    return Comparison(learned.rows, served.rows, differences)


_Found = tuple[str, str, float, str]


def _rows(training: Statistics, serving: Statistics) -> list[_Found]:
    if not training.snapshots:
        return []
    latest = max(training.snapshots)
    before, now = training.snapshots[latest], serving.rows
    detail = f"{now:,} customers, {before:,} in the latest training snapshot"
    change = now / before - 1
    return [
        (CUSTOMERS, "rows_lost", max(0.0, -change), detail),
        (CUSTOMERS, "rows_gained", max(0.0, change), detail),
    ]


def _feature(name: str, training: Split, serving: Split) -> list[_Found]:
    learned, served = training.column(name), serving.column(name)
    if not (learned.rows and served.rows):
        return []
    found = [_share(name, "missing", learned.missing, learned.rows, served.missing, served.rows)]
    if not (learned.count and served.count):
        return found  # nothing to compare but that it is missing
    if isinstance(learned, Texts) and isinstance(served, Texts):
        return [*found, _categories(name, learned, served)]
    assert isinstance(learned, Numbers) and isinstance(served, Numbers)
    found.append(_share(name, "zeros", learned.zeros, learned.count, served.zeros, served.count))
    if learned.count > learned.zeros and served.count > served.zeros:
        learned, served = _without_zeros(learned), _without_zeros(served)
        (before,), (now,) = (quantiles(name, sketch, [0.5]) for sketch in (learned, served))
        value = divergence(*binned(learned, served, bin_ends(learned)))
        detail = f"median of values other than 0 is {_short(before)} in training, now {_short(now)}"
        found.append((name, "divergence", value, detail))
        if "mean" in measured(name) and learned.total > 0 and served.total > 0:
            detail = f"mean of values other than 0 is {_short(learned.mean)} in training, now {_short(served.mean)}"
            found.append((name, "mean", mean_ratio(learned, served), detail))
    return found


def _without_zeros(numbers: Numbers) -> Numbers:
    histogram = {key: count for key, count in numbers.histogram.items() if key}
    return replace(numbers, count=numbers.count - numbers.zeros, histogram=histogram)


def _short(value: float) -> str:
    """Three digits, and thousands separators."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _share(name: str, metric: str, before: int, before_of: int, now: int, now_of: int) -> _Found:
    value = share_difference(before, before_of, now, now_of)
    return name, metric, value, f"{before / before_of:.1%} in training, now {now / now_of:.1%}"


def _categories(name: str, learned: Texts, served: Texts) -> _Found:
    """The value whose share changed most."""
    changes = {
        text: share_difference(learned.counts.get(text, 0), learned.count, served.counts.get(text, 0), served.count)
        for text in sorted({*learned.counts, *served.counts})
    }
    text = max(changes, key=lambda value: changes[value])
    before, now = (texts.counts.get(text, 0) / texts.count for texts in (learned, served))
    return name, "categories", changes[text], f"{text!r} is {before:.1%} in training, now {now:.1%}"


def share_difference(before: int, before_of: int, now: int, now_of: int) -> float:
    """Difference of two shares, less what chance makes of equal ones (4 standard deviations of the pooled share).

    The pooled share is taken with Agresti and Caffo's one success and one failure in each sample ("Simple and
    effective confidence intervals for proportions ...", The American Statistician 54, 2000): else nobody
    in 50 customers would count as certainty.
    """
    pooled = (before + now + 2) / (before_of + now_of + 4)
    noise = math.sqrt(pooled * (1 - pooled) * (1 / before_of + 1 / now_of))
    return max(0.0, abs(before / before_of - now / now_of) - _NOISE_DEVIATIONS * noise)


def mean_ratio(training: Numbers, serving: Numbers) -> float:
    """|log2(mean of serving / mean of training)|, less what chance makes of equal ones; both means are positive.

    Sees what happens to a part of the customers: a histogram hardly moves when one customer in ten pays a hundredfold.
    The variance of the logarithm of a mean of n values is about (std / mean)^2 / n (delta method); 4 standard
    deviations of the difference of two are taken off.
    """
    noise = math.sqrt(sum((sketch.std / sketch.mean) ** 2 / sketch.count for sketch in (training, serving)))
    return max(0.0, abs(math.log2(serving.mean / training.mean)) - _NOISE_DEVIATIONS * noise / math.log(2))


def bin_ends(training: Numbers, bins: int = BINS) -> list[int]:
    """Ascending last keys of at most ``bins`` bins with about equally many of training's values other than 0.

    A value that is more frequent than a bin's share ends a bin, and no bin holds both signs. What lies below
    the first key or above the last was never seen in training: ``binned`` counts it apart.
    """
    ordered = sorted(key for key in training.histogram if key)
    counts = np.cumsum([training.histogram[key] for key in ordered])
    wanted = counts[-1] * np.arange(1, bins + 1) / bins
    negative = [key for key in ordered if key < 0]
    return sorted({*(ordered[at] for at in np.searchsorted(counts, wanted)), *negative[-1:]})


def binned(training: Numbers, serving: Numbers, ends: Sequence[int]) -> tuple[Counts, Counts]:
    """Values other than 0 in each bin, (len(ends) + 2,) each: below training's, the bins, above training's."""
    lowest = min(key for key in training.histogram if key)
    cuts = np.array([lowest - 1, *ends])
    found: list[Counts] = []
    for sketch in (training, serving):
        ordered = np.array([key for key in sketch.histogram if key], np.int64)
        counts = np.array([sketch.histogram[int(key)] for key in ordered], np.float64)
        binned_counts = np.zeros(len(cuts) + 1)
        np.add.at(binned_counts, np.searchsorted(cuts, ordered), counts)
        found.append(binned_counts)
    return found[0], found[1]


def divergence(training: Counts, serving: Counts) -> float:
    """Jensen-Shannon divergence, base 2, of two histograms over the same bins, less what chance makes of equal ones.

    JS = H((p + q) / 2) - (H(p) + H(q)) / 2 with H the entropy in bits (Lin 1991, "Divergence measures based on
    the Shannon entropy", IEEE Transactions on Information Theory 37). For samples of sizes n1 and n2 of
    one distribution over k bins, JS * 8 ln 2 / (1/n1 + 1/n2) is about chi-square distributed with k - 1
    degrees of freedom (second-order expansion; Grosse et al. 2002, "Analysis of symbolic sequences using the
    Jensen-Shannon divergence", Physical Review E 65, 041905): the mean is (k - 1)(1/n1 + 1/n2) / (8 ln 2), and
    what 4 standard deviations of a normal variable correspond to is taken off, not only the mean.
    """
    filled = (training + serving) > 0
    first, second = training[filled] / training.sum(), serving[filled] / serving.sum()
    found = _entropy((first + second) / 2) - (_entropy(first) + _entropy(second)) / 2
    per_degree = (1 / training.sum() + 1 / serving.sum()) / (8 * math.log(2))
    return float(max(0.0, found - per_degree * _chi_square_bound(int(filled.sum()) - 1)))


def _entropy(shares: Counts) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())


def _chi_square_bound(degrees: int) -> float:
    """Quantile of chi-square at _NOISE_DEVIATIONS (Wilson and Hilferty 1931, PNAS 17): at most 10% too large."""
    if not degrees:
        return 0.0
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + _NOISE_DEVIATIONS * math.sqrt(spread)) ** 3)
