"""The benchmark of the fits: its customers, its fairness to lifetimes, its refusal, its closing line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import btyd_contestant, btyd_customers, btyd_fit
from benchmarks.btyd_contestant import OURS, PEER, PEER_COLLAPSED
from benchmarks.harness import OutputsDiffer

CUSTOMERS, SOME = 2_000, 200


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


def arguments(workdir: Path) -> list[str]:
    return [f"--customers={CUSTOMERS}", f"--pareto_peer_customers={SOME}", f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def customers(workdir: Path) -> str:
    return btyd_fit.customers_file(btyd_fit.BenchmarkOptions.parse(arguments(workdir)))


def test_the_whole_command_ends_in_the_agreed_line(
    workdir: Path, customers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert btyd_fit.main(arguments(workdir)) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
    figures = result["figures"]
    assert len(figures) == 6
    fields = {"cpu_seconds", "wall_seconds", "peak_rss_mb", "fit_cpu_seconds", "log_likelihood"}
    for figure in figures.values():
        assert set(figure) == fields
        assert 0 < figure["fit_cpu_seconds"] < figure["cpu_seconds"] and figure["log_likelihood"] < 0
    ours, peer = (figures[f"bgnbd {library}, 2,000 customers"] for library in (OURS, PEER))
    assert ours["log_likelihood"] == pytest.approx(peer["log_likelihood"], abs=0.01)
    assert result["ratios"]["bgnbd_cpu"] == pytest.approx(ours["fit_cpu_seconds"] / peer["fit_cpu_seconds"], abs=1e-3)


@pytest.mark.parametrize("model", btyd_contestant.MODELS)
def test_the_log_likelihood_is_the_peers_own(model: str, customers: str, tmp_path: Path) -> None:
    """lifetimes' formula at lifetimes' parameters, against ours at the same."""
    from lifetimes import BetaGeoFitter, ParetoNBDFitter

    given = ["--model", model, "--customers", customers, "--rows", str(SOME), "--output", str(tmp_path / "fit.json")]
    params = btyd_contestant.run(["--library", PEER, *given])["params"]
    rows = pq.read_table(customers).slice(0, SOME)
    x, *times = (np.asarray(rows[name], dtype=float) for name in rows.column_names)
    data, ones, theta = (x, *(days / 7 for days in times)), np.ones(SOME), np.array(list(params.values()))
    if model == "pareto":
        own = -ParetoNBDFitter._negative_log_likelihood(theta, *data, ones, 0.0)
    else:
        own = -BetaGeoFitter._negative_log_likelihood(np.log(theta), *data, ones, 0.0) * SOME
    assert btyd_fit.log_likelihood(model, params, customers, SOME) == pytest.approx(own, rel=1e-9)
    ours = btyd_contestant.run(["--library", OURS, *given])["params"]
    assert btyd_fit.log_likelihood(model, ours, customers, SOME) >= own - 1e-6


def test_a_peer_with_a_higher_likelihood_stops_everything() -> None:
    fit = btyd_fit.Fit(1.0, 1.0, 1.0, 1.0, -100.0)
    titles = {library: f"bgnbd {library}, 10 customers" for library in (OURS, PEER, PEER_COLLAPSED)}
    equal = dict.fromkeys(titles.values(), fit)
    btyd_fit.assert_not_beaten(equal, "bgnbd", 10)
    for library in (PEER, PEER_COLLAPSED):
        better = equal | {titles[library]: dataclasses.replace(fit, log_likelihood=-99.9)}
        with pytest.raises(OutputsDiffer, match=library):
            btyd_fit.assert_not_beaten(better, "bgnbd", 10)


def test_simulated_customers_are_possible_ones(customers: str) -> None:
    rows = pq.read_table(customers)
    x, recency, age = (rows[name].to_numpy() for name in ("frequency", "recency_days", "age_days"))
    assert rows.num_rows == CUSTOMERS and x.dtype == np.int64
    assert ((x >= 0) & (x <= recency) & (recency <= age) & (age >= 1)).all()
    assert ((x == 0) == (recency == 0)).all()
    assert 0.3 < (x == 0).mean() < 0.8


@pytest.mark.parametrize("model", ["bgnbd", "mbgnbd", "pareto"])
def test_simulated_customers_buy_as_often_as_the_model_expects(model: str) -> None:
    from tests.trainer import btyd_reference

    truth = (
        {"r": 1.0, "alpha": 5.0, "s": 0.8, "beta": 12.0}
        if model == "pareto"
        else {"r": 1.0, "alpha": 5.0, "a": 0.6, "b": 2.0}
    )
    found = btyd_customers.simulate(model, truth, np.full(40_000, 40.0), np.random.default_rng(0))
    wanted = btyd_reference.with_parameters(model, truth).expected_purchases_new(40 * 7)
    x = found["frequency"]
    assert x.mean() == pytest.approx(wanted[0], abs=4 * x.std() / 200)
    assert (found["recency"][x > 0] > 0).all() and (found["recency"] <= 40).all()


@pytest.mark.parametrize(
    "given, blamed",
    [("--customers=10", "'10'"), ("--seed=-1", "'-1'"), ("--pareto_peer_customer=1", "--pareto_peer_customers")],
)
def test_a_bad_argument_is_told_in_one_line(given: str, blamed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert btyd_fit.main([given]) == 2
    error = capsys.readouterr().err
    assert blamed in error and error.count("\n") == 1
