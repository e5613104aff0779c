"""Writes btyd_mpmath.json: the papers' closed forms at 60 digits, on the edges of what customers can look like.

    pip install mpmath==1.4.1 && python tests/trainer/make_btyd_mpmath.py

Independent of the code under test: other formulas (differences of 2F1 where the code integrates), other arithmetic. Times
are in days. Takes about a minute; run it again only to change the grid.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import mpmath as mp

mp.mp.dps = 60
HORIZON = 90
RATE = "0.15"  # annual, for DERT; a year has 365.25 days
BETA_GEOMETRIC = [("0.24", "31", "0.8", "2.4"), ("0.01", "0.5", "1.0000001", "0.3"), ("3", "2000", "0.02", "0.7")]
PARETO = [
    ("0.55", "74", "0.6", "82"), ("0.55", "74", "0.6", "74"), ("0.01", "0.5", "1.0000001", "700"),
    ("3", "2000", "0.02", "0.7"), ("0.4", "20", "12", "4000"),
]  # fmt: skip


def rows() -> list[tuple[int, int, int]]:
    result = []
    for age in (1, 200, 5000):
        result.append((0, 0, age))
        for recency in sorted({age, max(age - 1, 1), (age + 1) // 2}):
            result += [(x, recency, age) for x in (1, 10, 132, 1000, 5000)]
    return result


def beta_geometric(parameters: tuple[str, ...], first_chance: int, x: int, recency: int, age: int) -> dict[str, Any]:
    """Fader, Hardie & Lee 2005, equations 6 and 10; with first_chance 1 Batislam et al. 2007."""
    r, alpha, a, b = map(mp.mpf, parameters)
    k = x + first_chance
    common = mp.loggamma(r + x) - mp.loggamma(r) + r * mp.log(alpha) - _log_beta(a, b)
    alive = mp.exp(common + _log_beta(a, b + k) - (r + x) * mp.log(alpha + age))
    dead = mp.exp(common + _log_beta(a + 1, b + k - 1) - (r + x) * mp.log(alpha + recency)) if k else mp.mpf(0)
    t = mp.mpf(HORIZON)
    hyper = mp.hyp2f1(r + x, b + k, a + b + k - 1, t / (alpha + age + t))
    lasting = (a + b + k - 1) / (a - 1) * (1 - ((alpha + age) / (alpha + age + t)) ** (r + x) * hyper)
    p_alive = alive / (alive + dead)
    none = ((alpha + age) / (alpha + age + t)) ** (r + x)
    return _texts(
        log_likelihood=mp.log(alive + dead),
        p_alive=p_alive,
        expected=p_alive * lasting,
        any_purchase=p_alive * (1 - none),
    )


def _log_beta(a: Any, b: Any) -> Any:
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def pareto(parameters: tuple[str, ...], x: int, recency: int, age: int) -> dict[str, Any]:
    """Fader & Hardie 2005, "A Note on Deriving the Pareto/NBD Model": with 2F1; DERT with Psi: Fader et al. 2005b."""
    r, alpha, s, beta = map(mp.mpf, parameters)
    shape = r + x
    common = mp.exp(mp.loggamma(shape) - mp.loggamma(r) + r * mp.log(alpha) + s * mp.log(beta))

    def part(t: Any) -> Any:  # int from t to infinity of s / ((alpha + u)^shape (beta + u)^(s + 1)) du
        if alpha >= beta:
            hyper = mp.hyp2f1(shape + s, s + 1, shape + s + 1, (alpha - beta) / (alpha + t))
            return s / (shape + s) * hyper / (alpha + t) ** (shape + s)
        hyper = mp.hyp2f1(shape + s, shape, shape + s + 1, (beta - alpha) / (beta + t))
        return s / (shape + s) * hyper / (beta + t) ** (shape + s)

    def untouched(t: Any) -> Any:
        return (alpha + t) ** -shape * (beta + t) ** -s

    likelihood = untouched(age) + part(recency) - part(age)
    p_alive, t = untouched(age) / likelihood, mp.mpf(HORIZON)
    lasting = shape * (beta + age) / ((alpha + age) * (s - 1)) * (1 - ((beta + age) / (beta + age + t)) ** (s - 1))
    # No purchase: alive at the end without one, or dropped out before the end and before any.
    none = (untouched(age + t) + part(age) - part(age + t)) / untouched(age)
    delta = mp.log(1 + mp.mpf(RATE)) / mp.mpf("365.25")
    dert = shape / (alpha + age) * delta ** (s - 1) * (beta + age) ** s * mp.hyperu(s, s, delta * (beta + age))
    return _texts(
        log_likelihood=mp.log(common * likelihood), p_alive=p_alive, expected=p_alive * lasting,
        any_purchase=p_alive * (1 - none), discounted=p_alive * dert,
    )  # fmt: skip


def _texts(**values: Any) -> dict[str, str]:
    return {name: mp.nstr(value, 20) for name, value in values.items()}


def first_event(k: str, c: str, l: str, d: str) -> str:  # noqa: E741
    """ln P(Pareto II (k, c) ends before Pareto II (l, d))."""
    k_, c_, l_, d_ = map(mp.mpf, (k, c, l, d))
    if c_ <= d_:
        return mp.nstr(mp.log(k_ / (k_ + l_) * mp.hyp2f1(1, l_, k_ + l_ + 1, 1 - c_ / d_)), 20)
    return mp.nstr(mp.log(1 - l_ / (k_ + l_) * mp.hyp2f1(1, k_, k_ + l_ + 1, 1 - d_ / c_)), 20)


def main() -> None:
    cases = []
    for row in rows():
        for number, model in enumerate(("bgnbd", "mbgnbd")):
            cases += [(model, given, row, beta_geometric(given, number, *row)) for given in BETA_GEOMETRIC]
        cases += [("pareto", given, row, pareto(given, *row)) for given in PARETO]
    shapes, scales = ("0.01", "0.6", "3", "200"), ("0.05", "10", "11", "700", "1e5")
    variables = list(itertools.product(shapes, scales))
    events = [(*own, *other) for own, other in itertools.product(variables, variables)]
    content = {
        "horizon_days": HORIZON,
        "annual_discount_rate": float(RATE),
        "models": [
            {"model": model, "parameters": given, "row": row, "expected": expected}
            for model, given, row, expected in cases
        ],
        "first_event": [[*event, first_event(*event)] for event in events],
    }
    one_a_line = json.dumps(content).replace('{"model"', '\n{"model"').replace("], [", "],\n[")
    Path(__file__).with_name("btyd_mpmath.json").write_text(one_a_line + "\n")


if __name__ == "__main__":
    main()
