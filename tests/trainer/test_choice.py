"""Which members are mixed, on simulated customers whose true mean is known."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer import choice
from trainer.choice import Evidence

Array = NDArray[np.float64]

NETWORK, PURCHASES, BOOSTING = MEMBERS = ("saved_model", "btyd", "boosting")


def customers(n: int = 4000, seed: int = 0) -> tuple[Array, Array]:
    """(what happened, its mean): 40% buy, lognormal."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(2, 1, n))
    return np.where(rng.random(n) < 0.4, mean / 0.4 * np.exp(rng.normal(-0.18, 0.6, n)), 0), mean


def noisy(mean: Array, noise: float, seed: int) -> Array:
    return mean * np.exp(noise * np.random.default_rng(seed).normal(size=len(mean)))


def evidence(value: Array, said: Mapping[str, Array]) -> Evidence:
    """Of members' mean forecasts; what else they say is not compared."""
    zero = np.zeros_like(value)
    other = dict.fromkeys(("value_p10", "value_p50", "value_p90", "purchase_probability", "expected_orders"), zero)
    columns = {name: {"predicted_value": mean, **other} for name, mean in said.items()}
    return Evidence(choice.OUT_OF_TIME, "2011-01-01", value, zero, columns)


def test_a_member_that_is_clearly_worse_is_dropped() -> None:
    value, mean = customers()
    said = {
        NETWORK: noisy(mean, 0.2, 1),
        PURCHASES: noisy(mean, 0.2, 2),
        BOOSTING: np.random.default_rng(3).permutation(mean) * 3,
    }
    found = choice.choose(evidence(value, said), MEMBERS, 0)
    assert found.weights == {NETWORK: 0.5, PURCHASES: 0.5}
    assert found.why.startswith(
        "the network and the purchase model without the trees: judged by a later window, 2011-01-01, 4,000 customers, better in"
    )
    assert found.why.endswith("and worse in none") and "normalised gini" in found.why
    assert json.loads(json.dumps(found.compared))["customers"] == 4000


def test_a_member_that_is_best_alone_wins_alone() -> None:
    value, mean = customers()
    rng = np.random.default_rng(3)
    said = {NETWORK: rng.permutation(mean), PURCHASES: mean, BOOSTING: rng.permutation(mean)}
    found = choice.choose(evidence(value, said), MEMBERS, 0)
    assert found.weights == {PURCHASES: 1.0}
    assert found.why.startswith("the purchase model without the network and the trees: judged by")


def test_equal_members_stay_mixed() -> None:
    for seed in range(5):
        value, mean = customers(seed=seed)
        said = {name: noisy(mean, 0.3, 10 * seed + i) for i, name in enumerate(MEMBERS)}
        found = choice.choose(evidence(value, said), MEMBERS, seed)
        assert found.weights == {name: pytest.approx(1 / 3) for name in MEMBERS}
        assert "in equal parts" in found.why and "no smaller mix is better" in found.why


def test_few_buyers_decide_nothing() -> None:
    value, mean = customers(240)
    assert (value > 0).sum() < choice.FEWEST_BUYERS
    said = {NETWORK: mean, PURCHASES: np.random.default_rng(3).permutation(mean)}
    for given, bought in ((evidence(value, said), int((value > 0).sum())), (None, 0)):
        found = choice.choose(given, (NETWORK, PURCHASES), 0)
        assert found.weights == {NETWORK: 0.5, PURCHASES: 0.5}
        assert f"{bought} buyers to judge by are too few" in found.why and found.compared == {}


def test_so_many_buyers_are_enough() -> None:
    value, mean = customers(240)
    value[np.flatnonzero(value)[:]] += 1
    value[np.flatnonzero(value == 0)[: choice.FEWEST_BUYERS - int((value > 0).sum())]] = 1.0
    assert (value > 0).sum() == choice.FEWEST_BUYERS
    said = {NETWORK: mean, PURCHASES: mean}
    assert choice.choose(evidence(value, said), (NETWORK, PURCHASES), 0).compared["customers"] == 240


def test_a_single_member_needs_no_evidence() -> None:
    found = choice.choose(None, (BOOSTING,), 0)
    assert found.weights == {BOOSTING: 1.0} and found.why == "the trees alone: the data carry no other model"


def test_intervals_are_paired() -> None:
    """Two nearly equal forecasts of very uneven customers: their difference is far better known than either."""
    value, mean = customers(3000)
    compared = [
        choice.choose(evidence(value, {NETWORK: noisy(mean, 0.3, 1), PURCHASES: other}), (NETWORK, PURCHASES), 0).compared
        for other in (noisy(noisy(mean, 0.3, 1), 0.03, 2), noisy(mean, 0.3, 2))
    ]  # fmt: skip
    widths = [of["instead"][NETWORK]["intervals"]["normalised_gini"] for of in compared]
    alike, apart = (high - low for low, high in widths)
    assert alike < 0.3 * apart
    # Unpaired, the interval of a difference is wider than either's own; drawn here a second way.
    rng = np.random.default_rng(0)
    said = noisy(mean, 0.3, 1)
    ginis = [gini(value[rows], said[rows]) for rows in (rng.integers(0, 3000, 3000) for _ in range(100))]
    assert apart < np.sqrt(2) * 4 * np.std(ginis)


def gini(value: Array, said: Array) -> float:
    def area(by: Array) -> float:
        return float(np.cumsum(value[np.argsort(-by, kind="stable")]).mean() / value.sum() - 0.5)

    return area(said) / area(value)


def test_differences_are_those_of_the_mixes_and_say_which_is_better() -> None:
    value, mean = customers()
    said = {NETWORK: noisy(mean, 0.2, 1), BOOSTING: np.random.default_rng(3).permutation(mean)}
    compared = choice.choose(evidence(value, said), (NETWORK, BOOSTING), 0).compared
    assert set(compared["instead"]) == {NETWORK, BOOSTING}
    both = (said[NETWORK] + said[BOOSTING]) / 2
    for name, of in compared["instead"].items():
        assert of["difference"]["normalised_gini"] == pytest.approx(
            gini(value, said[name]) - gini(value, both), abs=2e-3
        )
        assert all(low <= of["difference"][metric] <= high for metric, (low, high) in of["intervals"].items())
    assert set(compared["instead"][NETWORK]["better"]) >= {"normalised_gini", "spearman"}
    assert compared["instead"][NETWORK]["worse"] == []
    assert compared["instead"][BOOSTING]["worse"] and not compared["instead"][BOOSTING]["better"]


def test_the_level_decides_nothing() -> None:
    """A member that says three times too much ranks as well as it did; its error is measured once the totals agree."""
    value, mean = customers()
    said = {NETWORK: noisy(mean, 0.2, 1), PURCHASES: noisy(mean, 0.2, 2)}
    threefold = {name: 3 * mean for name, mean in said.items()}
    plain, raised = (choice.choose(evidence(value, s), (NETWORK, PURCHASES), 0).compared for s in (said, threefold))
    for name, of in plain["mixes"].items():
        assert raised["mixes"][name] == pytest.approx(of)


def test_better_in_one_measure_alone_may_be_chance() -> None:
    value, mean = customers(6000)
    large = mean > np.quantile(mean, 0.9)
    crushed = np.where(large, np.quantile(mean, 0.9) * (1 + 1e-3 * np.argsort(np.argsort(-mean)) / 6000), mean)
    wild = np.where(large, mean, np.random.default_rng(3).permutation(mean) * 0.3)
    found = choice.choose(evidence(value, {NETWORK: crushed, PURCHASES: wild}), (NETWORK, PURCHASES), 0)
    assert (found.compared["instead"][NETWORK]["better"], found.compared["instead"][NETWORK]["worse"]) == (
        ["spearman"],
        [],
    )
    assert found.weights == {NETWORK: 0.5, PURCHASES: 0.5}


def test_who_orders_customers_better_and_misjudges_their_money_is_not_better() -> None:
    value, mean = customers(6000)
    said = {NETWORK: mean**0.1, PURCHASES: noisy(mean, 0.4, 1)}
    found = choice.choose(evidence(value, said), (NETWORK, PURCHASES), 0)
    of = found.compared["instead"][NETWORK]
    assert set(of["better"]) == {"normalised_gini", "spearman"} and of["worse"] == ["rmse_capped"]
    assert found.weights == {NETWORK: 0.5, PURCHASES: 0.5}


def test_the_same_seed_repeats_the_comparison() -> None:
    value, mean = customers(1000)
    given = evidence(value, {NETWORK: mean, PURCHASES: noisy(mean, 0.5, 1)})
    first, again, other = (choice.choose(given, (NETWORK, PURCHASES), seed).compared for seed in (1, 1, 2))
    assert first == again != other
