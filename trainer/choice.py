"""Which members a model is mixed of: decided by how they did on an earlier window, and said in words.

All members in equal parts is what is believed beforehand: on every data set measured so far the equal mix ranked
customers better than its best member, whichever that was, and fitted weights of so few and so similar members are known to
do no better than equal ones (the "forecast combination puzzle": Claeskens, Magnus, Vasnev and Wang 2016). A smaller mix
takes its place only where the paired intervals say that it was better in two measures at least and worse in none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import blend, metrics
from trainer.bootstrap import Bootstrap, in_favour, or_none
from trainer.evaluation_text import HIGHER_IS_BETTER, listed

Array = NDArray[np.float64]

OUT_OF_TIME, OTHER_CUSTOMERS = "a later window", "other customers of the same windows"
# What is compared: the order of customers, and the money of the single one once the totals agree. Not the level, nor the error
# by tenth, which is mostly level: a neighbouring window's says nothing about the next one's.
METRICS = ("normalised_gini", "rmse_capped", "spearman")
# Of them a smaller mix has to be better in: six mixes and three measures at 95% find one by chance every third time.
LEAST_BETTER = 2
FEWEST_BUYERS = 100
_SUBSET = 25_000
SPOKEN = {"saved_model": "the network", "btyd": "the purchase model", "boosting": "the trees"}


@dataclass(frozen=True)
class Evidence:
    """Forecasts of [n] customers by members that had not learned from what is to be forecast.

    ``said``: {member: {forecast column: [n]}}. ``basis``: one of OUT_OF_TIME, OTHER_CUSTOMERS. ``window``: which.
    """

    basis: str
    window: str
    value: Array
    orders: Array
    said: Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Choice:
    """``weights`` of the members; ``why`` in one sentence; ``compared``: a dict for JSON."""

    weights: dict[str, float]
    why: str
    compared: dict[str, Any]


@dataclass(frozen=True)
class _Mixes:
    """``bootstrap.Measurable``: mean forecasts of [n] customers by every mix."""

    actual: Array
    forecasts: Mapping[str, Array]
    tie_break: Array
    cap: float

    def __len__(self) -> int:
        return len(self.actual)

    def take(self, rows: NDArray[np.intp]) -> _Mixes:
        some = {name: values[rows] for name, values in self.forecasts.items()}
        return _Mixes(self.actual[rows], some, self.tie_break[rows], self.cap)

    def measure(self, weight: Array) -> dict[str, dict[str, Array]]:
        best = metrics.GainCurve.of(self.actual, self.actual, weight)
        ranks = metrics.mid_ranks(self.actual, weight)
        return {name: self._of(values, best, ranks, weight) for name, values in self.forecasts.items()}

    def _of(self, predicted: Array, best: metrics.GainCurve, ranks: Array, weight: Array) -> dict[str, Array]:
        curve = metrics.GainCurve.of(self.actual, predicted, weight)
        total = float(predicted.sum())
        levelled = predicted * (self.actual.sum() / total) if total > 0 else predicted
        return {
            "normalised_gini": metrics.gini_ratio(curve, best),
            "rmse_capped": metrics.rmse_capped(self.actual, levelled, self.cap, weight),
            "spearman": metrics.rank_correlation(ranks, predicted, self.tie_break, weight),
        }


def choose(evidence: Evidence | None, members: tuple[str, ...], seed: int) -> Choice:
    """The members to mix, in equal parts.

    Args:
      evidence: of all the ``members``; None where there is none to be had.
    """
    everybody = blend.Blend.equal(members)
    names = listed([SPOKEN[name] for name in members])
    if len(members) == 1:
        return Choice(dict(everybody.weights), f"{names} alone: the data carry no other model", {})
    if evidence is None or (evidence.value > 0).sum() < FEWEST_BUYERS:
        bought = 0 if evidence is None else int((evidence.value > 0).sum())
        why = f"{names} in equal parts: {bought} buyers to judge by are too few to say which does better alone"
        return Choice(dict(everybody.weights), why, {})
    compared = _compare(evidence, members, seed)
    better = {n: of for n, of in compared["instead"].items() if len(of["better"]) >= LEAST_BETTER and not of["worse"]}
    judged = f"judged by {evidence.basis}, {evidence.window}, {len(evidence.value):,} customers"
    if not better:
        return Choice(dict(everybody.weights), f"{names} in equal parts: {judged}, no smaller mix is better", compared)
    chosen = max(better, key=lambda name: (len(better[name]["better"]), better[name]["difference"]["normalised_gini"]))
    kept = tuple(chosen.split("+"))
    left_out = listed([SPOKEN[name] for name in members if name not in kept])
    metrics_named = listed([metric.replace("_", " ") for metric in better[chosen]["better"]])
    why = f"{listed([SPOKEN[name] for name in kept])} without {left_out}: {judged}, better in {metrics_named} and worse in none"
    return Choice(dict(blend.Blend.equal(kept).weights), why, compared)


def _compare(evidence: Evidence, members: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Every smaller mix beside all members: differences, their 95% intervals, and what these say."""
    full = "+".join(members)
    subsets = [s for size in range(1, len(members)) for s in itertools.combinations(members, size)]
    forecasts = {
        "+".join(some): blend.mix(evidence.said, blend.Blend.equal(some).weights)["predicted_value"]
        for some in (members, *subsets)
    }
    tie_break = np.random.default_rng(seed).permutation(len(evidence.value)).astype(np.float64)
    mixes = _Mixes(evidence.value, forecasts, tie_break, metrics.cap_of(evidence.value))
    exact = {f: {m: float(v[0]) for m, v in of.items()} for f, of in mixes.measure(np.ones((1, len(mixes)))).items()}
    bootstrap = Bootstrap.of(mixes, seed, _SUBSET)
    instead = {}
    for some in map("+".join, subsets):
        difference = {m: exact[some][m] - exact[full][m] for m in METRICS}
        intervals = {m: bootstrap.interval(some, m, difference[m], minus=full) for m in METRICS}
        instead[some] = {
            "difference": difference,
            "intervals": intervals,
            "better": [m for m in METRICS if in_favour(m in HIGHER_IS_BETTER, intervals[m])],
            "worse": [m for m in METRICS if in_favour(m not in HIGHER_IS_BETTER, intervals[m])],
        }
    return {
        "basis": evidence.basis, "window": evidence.window, "customers": len(evidence.value),
        "mixes": {name: {m: or_none(v) for m, v in of.items()} for name, of in exact.items()}, "instead": instead,
    }  # fmt: skip
