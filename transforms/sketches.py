"""Mergeable summaries of one column: moments, a histogram of bounded relative error, counts of texts.

Two summaries of disjoint rows add up to the summary of all of them. Sums are exact fractions and
histograms whole numbers, so the result does not depend on the order in which they are added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Key = TypeVar("Key", int, str)

ACCURACY = 0.01
"""Largest relative error of a quantile. Changing it, or the range below, makes older sketches unreadable."""
_BASE = (1 + ACCURACY) / (1 - ACCURACY)
# Beyond lies nothing that the contract's money, counts, days and shares mean; the ends take what does.
_SMALLEST, _LARGEST = 1e-12, 1e30
_OFFSET = 1 - math.ceil(math.log(_SMALLEST, _BASE))
MOST_KEY = math.ceil(math.log(_LARGEST, _BASE)) + _OFFSET
# A category has tens of values. A column with more than MOST_TEXTS is none, and is described by its most frequent.
MOST_TEXTS, KEPT_TEXTS = 10_000, 5_000


def keys(values: Array) -> npt.NDArray[np.int64]:
    """Histogram buckets of finite values, (n,): 0 for 0, else the sign times 1..MOST_KEY; they order as the values do.

    A bucket holds (base^(i-1), base^i], base = (1 + a) / (1 - a), as in DDSketch (Masson, Rim and Lee 2019,
    "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 12(12)).
    """
    found = np.abs(values)
    np.clip(found, _SMALLEST, _LARGEST, out=found)
    np.log(found, out=found)
    found *= 1 / math.log(_BASE)
    np.ceil(found, out=found)
    found += _OFFSET
    np.clip(found, 1, MOST_KEY, out=found)  # the logarithm may be a last digit off at the ends of the range
    found *= np.sign(values)
    return found.astype(np.int64)


def value_of(key: int) -> float:
    """The value in the middle of a bucket: within ACCURACY of everything in it."""
    return math.copysign(2 * _BASE ** (abs(key) - _OFFSET) / (_BASE + 1), key) if key else 0.0


def upper_end(key: int) -> float:
    """The largest value of a bucket, which is the bound between it and the next."""
    if key == 0:
        return 0.0
    return _BASE ** (key - _OFFSET) if key > 0 else -(_BASE ** (-key - 1 - _OFFSET))


@dataclass(frozen=True)
class Numbers:
    """A numeric column. ``total`` and ``squares`` are sums of x and of x^2 over the ``count`` finite values."""

    count: int = 0
    missing: int = 0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    minimum: float = math.inf
    maximum: float = -math.inf
    histogram: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Array) -> Numbers:
        """Of (n,) values; NaN and infinities count as missing, as in ``transforms/preprocessing.py``."""
        finite = np.isfinite(values)
        missing = values.size - int(np.count_nonzero(finite))
        if missing:
            values = values[finite]
        count = values.size
        if not count:
            return cls(missing=missing)
        # Around the mean the float sums are small, so that nothing is lost when the exact ones are put together.
        centre = Fraction(float(values.mean()))
        apart = values - float(centre)
        # Not a dot product: BLAS would start threads, and sum in an order that depends on their number.
        first, second = Fraction(float(apart.sum())), Fraction(float(np.square(apart).sum()))
        buckets = keys(values)
        lowest = int(buckets.min())
        counted = np.bincount(buckets - lowest)
        filled = np.flatnonzero(counted)
        return cls(
            count=count,
            missing=missing,
            total=count * centre + first,
            squares=second + 2 * centre * first + count * centre * centre,
            minimum=_without_dust(values.min()),
            maximum=_without_dust(values.max()),
            histogram=dict(zip((filled + lowest).tolist(), counted[filled].tolist(), strict=True)),
        )

    @classmethod
    def merge(cls, parts: Iterable[Numbers]) -> Numbers:
        parts = list(parts)
        return cls(
            count=sum(part.count for part in parts),
            missing=sum(part.missing for part in parts),
            total=sum((part.total for part in parts), Fraction(0)),
            squares=sum((part.squares for part in parts), Fraction(0)),
            minimum=min((part.minimum for part in parts), default=math.inf),
            maximum=max((part.maximum for part in parts), default=-math.inf),
            histogram=_added(part.histogram for part in parts),
        )

    @property
    def rows(self) -> int:
        return self.count + self.missing

    @property
    def zeros(self) -> int:
        return self.histogram.get(0, 0)

    @property
    def negatives(self) -> int:
        return sum(count for key, count in self.histogram.items() if key < 0)

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return float(self.total / self.count) if self.count else math.nan

    @property
    def std(self) -> float:
        """Population standard deviation; NaN where there is no value."""
        if not self.count:
            return math.nan
        # The float sums of two parts may leave a constant column a hair below 0.
        return math.sqrt(max(self.squares / self.count - (self.total / self.count) ** 2, Fraction(0)))

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Value of rank floor(share * (count - 1)) from 0, within ACCURACY; NaN where there is no value."""
        if not self.count:
            return [math.nan] * len(shares)
        ordered = sorted(self.histogram)
        ends = np.cumsum([self.histogram[key] for key in ordered])
        ranks = [math.floor(share * (self.count - 1)) for share in shares]
        found = [value_of(ordered[at]) for at in np.searchsorted(ends, ranks, side="right")]
        return [min(max(value, self.minimum), self.maximum) for value in found]

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` needs beside the counts that a summary shows anyway."""
        return {
            "total": str(self.total),
            "squares": str(self.squares),
            "histogram": " ".join(f"{key}:{self.histogram[key]}" for key in sorted(self.histogram)),
        }

    @classmethod
    def from_json(cls, summary: dict[str, Any]) -> Numbers:
        pairs = (pair.split(":") for pair in summary["sketch"]["histogram"].split())
        return cls(
            count=summary["count"],
            missing=summary["missing"],
            total=Fraction(summary["sketch"]["total"]),
            squares=Fraction(summary["sketch"]["squares"]),
            minimum=math.inf if summary["min"] is None else summary["min"],
            maximum=-math.inf if summary["max"] is None else summary["max"],
            histogram={int(key): int(count) for key, count in pairs},
        )


@dataclass(frozen=True)
class Texts:
    """A text column: how often each value occurs.

    Exact, whatever the order of adding, up to MOST_TEXTS distinct values. Of more the KEPT_TEXTS most
    frequent stay (ties: the smallest by code points) and ``others`` counts the rest: from then on a count
    may be too small by what was dropped before, and the number of distinct values is not known.
    """

    count: int = 0
    missing: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    others: int = 0

    @classmethod
    def of(cls, counts: dict[str, int], missing: int) -> Texts:
        return cls(sum(counts.values()), missing, counts)._bounded()

    @classmethod
    def merge(cls, parts: Iterable[Texts]) -> Texts:
        parts = list(parts)
        return cls(
            count=sum(part.count for part in parts),
            missing=sum(part.missing for part in parts),
            counts=_added(part.counts for part in parts),
            others=sum(part.others for part in parts),
        )._bounded()

    def _bounded(self) -> Texts:
        if len(self.counts) <= MOST_TEXTS:
            return self
        kept = dict(self.most_frequent()[:KEPT_TEXTS])
        return Texts(self.count, self.missing, kept, self.count - sum(kept.values()))

    @property
    def rows(self) -> int:
        return self.count + self.missing

    @property
    def truncated(self) -> bool:
        return self.others > 0

    def most_frequent(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    @property
    def mean_bytes(self) -> float:
        """Mean length in UTF-8 bytes of the values that are kept; 0 where there is none."""
        kept = self.count - self.others
        return sum(len(text.encode()) * count for text, count in self.counts.items()) / kept if kept else 0.0

    @classmethod
    def from_json(cls, summary: dict[str, Any]) -> Texts:
        return cls(summary["count"], summary["missing"], dict(summary["values"]), summary["other_values"])


Sketch = Numbers | Texts


def merge(parts: Sequence[Sketch]) -> Sketch:
    """Of one column.

    Raises:
      TypeError: the parts are not all of one kind.
    """
    for kind in (Numbers, Texts):
        if all(isinstance(part, kind) for part in parts):
            return kind.merge(parts)  # type: ignore[arg-type]
    raise TypeError(f"not the sketches of one column: {sorted({type(part).__name__ for part in parts})}")


def _without_dust(value: float) -> float:
    """15 significant digits: Arrow's conversion of -151.92 from a decimal is -151.92000000000002."""
    return float(f"{value:.15g}")


def _added(parts: Iterable[dict[Key, int]]) -> dict[Key, int]:
    total: dict[Key, int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total
