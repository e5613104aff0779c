"""The benchmark of the forecasts: equal customers, labels nobody sees, peers as their users run them, paired intervals."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    forecast,
    forecast_contestants,
    forecast_data,
    forecast_judge,
    forecast_lifetimes,
    forecast_trees,
    forecast_verdict,
)
from benchmarks.forecast_contestants import Forecast
from benchmarks.forecast_data import CDNOW, ONLINE_RETAIL, Known
from benchmarks.forecast_judge import MEAN, Sample
from benchmarks.forecast_names import OURS, PEERS, TREES
from benchmarks.harness import OutputsDiffer
from trainer import metrics
from trainer.baselines import float_column
from transforms import schema
from transforms.errors import JobFailed, UsageError

CUSTOMERS, CUTOFF = 600, datetime.date(1997, 10, 1)
SOME_PEERS = ("past_rate", "lifetimes_pareto_mean_order", "lightgbm_tweedie")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecast")


def arguments(workdir: Path, *peers: str) -> list[str]:
    return [
        "--data", "cdnow", "--cutoffs", str(CUTOFF), f"--customers={CUSTOMERS}", "--contestants", *peers,
        "--trials=3", "--resamples=100", f"--workdir={workdir}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def known(workdir: Path) -> Known:
    (window,) = forecast_data.make_windows(CDNOW, [CUTOFF], CUSTOMERS, str(workdir))
    return forecast_data.read_window(window, CDNOW.horizon_days)[0]


def recomputed(rows: pa.Table) -> dict[str, float]:
    """Figures of one contestant from its rows of predictions.parquet, by sorting and counting alone."""
    actual, predicted, median = (float_column(rows, name) for name in ("future_value", "predicted_value", "median"))

    def area(order: np.ndarray) -> float:
        gained = np.append(0, np.cumsum(actual[order])) / actual.sum()
        return float(np.trapezoid(gained, np.linspace(0, 1, len(gained)))) - 0.5

    cap = np.percentile(actual, 99.5)
    return {
        "normalised_gini": area(np.argsort(-predicted)) / area(np.argsort(-actual)),
        "rmse": float(np.sqrt(np.mean((actual - predicted) ** 2))),
        "rmse_capped": float(np.sqrt(np.mean((np.minimum(actual, cap) - np.minimum(predicted, cap)) ** 2))),
        "mae_median": float(np.abs(actual - median).mean()),
        "total_bias": float(predicted.sum() / actual.sum() - 1),
    }


def test_the_whole_command_can_be_recomputed_and_is_not_repeated(
    workdir: Path, known: Known, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forecast.main(arguments(workdir, *SOME_PEERS)) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
    assert set(result["figures"]) == {OURS, *SOME_PEERS} and set(result["ratios"]) == set(result["aim"])
    assert printed.count("  gini_ours_minus\n") == 1  # of one cutoff the mean is no other table

    predictions = pq.read_table(workdir / "results" / f"cdnow-{CUSTOMERS}" / "predictions.parquet")
    for name, figures in result["figures"].items():
        rows = predictions.filter(pc.equal(predictions["contestant"], name))
        assert rows["customer_id"].equals(known.customers["customer_id"])
        # Equal forecasts share what they win: the plain sorting here does not, hence the tolerance.
        for metric, value in recomputed(rows).items():
            assert figures[metric] == pytest.approx(value, abs=2e-2 if metric == "normalised_gini" else 1e-4, rel=1e-4)
    ours = predictions.filter(pc.equal(predictions["contestant"], OURS))
    above = float((float_column(ours, "future_value") > float_column(ours, "p90")).mean())
    assert result["ratios"]["share_above_p90"] == pytest.approx(above, abs=1e-4)

    everything = json.loads((workdir / "results" / f"cdnow-{CUSTOMERS}" / "figures.json").read_text())["figures"]
    assert everything[MEAN][OURS]["rmse"] == everything[str(CUTOFF)][OURS]["rmse"]
    assert all(everything[MEAN][name]["cpu_seconds"] > 0 for name in ("lightgbm_tweedie", OURS))

    def refuse(*_: Any) -> None:
        raise AssertionError("a kept forecast was made again")

    monkeypatch.setattr(forecast_contestants, "_ours", refuse)
    monkeypatch.setattr(forecast_contestants, "_peer", refuse)
    assert forecast.run(arguments(workdir, *SOME_PEERS)) == result


def test_help_and_defaults_name_every_peer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        forecast.main(["--help"])
    told = capsys.readouterr().out
    assert all(peer in told for peer in PEERS)
    assert forecast.BenchmarkOptions.parse(["--data", "cdnow"]).contestants == PEERS


@pytest.mark.parametrize(
    "given, blamed",
    [
        (["--data=cdnw"], "'cdnw'"),
        (["--data=cdnow", "--contestants", "pareto"], "'pareto'"),
        (["--data=cdnow", "--resamples=10"], "'10'"),
        (["--data=cdnow", "--customers=100", "--cutoffs", "1998-04-02"], "1998-04-02"),  # labels would end a day late
        (["--data=cdnow", "--customers=100", "--cutoffs", "1997-04-01"], "1997-04-01"),  # nothing to learn from
    ],
)
def test_a_bad_argument_is_told_in_one_line(
    given: list[str], blamed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forecast.main([*given, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert blamed in error and error.count("\n") == 1


def test_nobody_can_see_the_labels_of_the_test(known: Known) -> None:
    assert not {"future_value", "future_orders"} & set(known.customers.column_names)
    for cutoff in known.training_cutoffs:
        assert cutoff + datetime.timedelta(days=known.horizon_days) <= CUTOFF
    assert list(known.training_cutoffs) == sorted(known.training_cutoffs, reverse=True)


def test_a_part_of_online_retail_holds_whole_customers(tmp_path: Path) -> None:
    path = forecast_data._orders_file(ONLINE_RETAIL, 100, str(tmp_path))
    some, everything = pq.read_table(path), pq.read_table("tests/data/online_retail.parquet")
    ids = pc.unique(some["CustomerID"]).to_pylist()
    assert len(ids) == 100 and max(ids) < min(set(everything["CustomerID"].drop_null().to_pylist()) - set(ids))
    assert some.num_rows == pc.sum(pc.is_in(everything["CustomerID"], pa.array(ids))).as_py()


# --- lifetimes


def test_the_summary_is_the_librarys_own(workdir: Path, known: Known) -> None:
    """CDNOW has one order a customer and day, so that the two agree exactly."""
    from lifetimes.utils import summary_data_from_transaction_data

    orders = pq.read_table(workdir / f"cdnow-{CUSTOMERS}" / "orders.parquet").to_pandas()
    orders["amount"] = orders["amount"].astype(float)
    before = orders[(orders["ordered_at"] < CUTOFF) & (orders["amount"] > 0)]
    theirs = summary_data_from_transaction_data(
        before, "customer_id", "ordered_at", "amount", observation_period_end=str(CUTOFF)
    )
    ours = forecast_lifetimes.summary(known.customers, 1).set_index(known.customers["customer_id"].to_pandas())
    for column in ("frequency", "recency", "T", "monetary_value"):
        assert np.allclose(ours[column], theirs.loc[ours.index, column]), column


def test_the_forecast_is_what_the_documentation_makes(known: Known) -> None:
    """By days here, by weeks in the benchmark: a scale that the models do not know."""
    from lifetimes import BetaGeoFitter, GammaGammaFitter

    rows = forecast_lifetimes.summary(known.customers, 1)
    counts = (rows["frequency"], rows["recency"], rows["T"])
    bgnbd = BetaGeoFitter().fit(*counts)
    repeat = rows[rows["frequency"] > 0]
    spend = GammaGammaFitter().fit(repeat["frequency"], repeat["monetary_value"])
    purchases = bgnbd.conditional_expected_number_of_purchases_up_to_time(known.horizon_days, *counts)
    expected = purchases * spend.conditional_expected_average_profit(rows["frequency"], rows["monetary_value"])
    found = forecast_lifetimes.forecast("lifetimes_bgnbd_gg", known.customers, known.horizon_days)
    assert found.values == pytest.approx(np.asarray(expected), rel=0.01)
    assert not found.notes


def test_the_seed_formula_forecasts_whole_months(known: Known) -> None:
    """91 days are four months of 30 days to it; discounting takes at most 4%."""
    longer = forecast_lifetimes.forecast("seed_formula", known.customers, 120).values
    assert forecast_lifetimes.forecast("seed_formula", known.customers, 91).values == pytest.approx(longer)
    assert forecast_lifetimes.forecast("seed_formula", known.customers, 90).values.sum() < 0.9 * longer.sum()
    plain = forecast_lifetimes.forecast("lifetimes_bgnbd_gg", known.customers, 120).values
    assert np.corrcoef(plain, longer)[0, 1] > 0.98


def test_a_fit_that_fails_gets_the_next_penalizer() -> None:
    from lifetimes.utils import ConvergenceError

    notes: list[str] = []

    def fit(penalizer: float) -> float:
        if penalizer < 0.01:
            raise ConvergenceError
        return penalizer

    assert forecast_lifetimes._first_usable("model", fit, lambda found: found > 0.01, notes) == 0.1
    assert len(notes) == 1 and "0.1" in notes[0]
    with pytest.raises(JobFailed, match="model"):
        forecast_lifetimes._first_usable("model", fit, lambda _: False, notes)


def test_what_overflows_is_the_past_rate_and_told(known: Known) -> None:
    rows, notes = forecast_lifetimes.summary(known.customers, 7), []
    expected = np.ones(len(rows))
    expected[:2] = np.nan, np.inf
    repaired = forecast_lifetimes._repaired(expected, rows, 13.0, "pareto", notes)
    assert repaired[:2] == pytest.approx(np.asarray(rows["frequency"] / rows["T"])[:2] * 13)
    assert (repaired[2:] == 1).all() and "2 of" in notes[0]


# --- LightGBM


def test_trials_are_scored_out_of_time_where_they_can_be(known: Known) -> None:
    fitting, scoring, how = forecast_trees.tuning_rows(known)
    horizon = datetime.timedelta(days=known.horizon_days)
    before = [
        table
        for table, cutoff in zip(known.training, known.training_cutoffs, strict=True)
        if cutoff + horizon <= known.training_cutoffs[0]
    ]
    assert 0 < len(before) < len(known.training) - 1
    assert how == "tuned out of time" and scoring == [known.training[0]] and fitting == before
    overlapping = (known.training_cutoffs[0], known.training_cutoffs[0] - datetime.timedelta(days=30))
    fitting, scoring, how = forecast_trees.tuning_rows(
        dataclasses.replace(known, training=known.training[:2], training_cutoffs=overlapping)
    )
    assert how == "tuned by customer"
    learned, judged = (
        {name for table in tables for name in table["customer_id"].to_pylist()} for tables in (fitting, scoring)
    )
    assert not learned & judged and len(learned) > 3 * len(judged) > 0
    assert sum(t.num_rows for t in (*fitting, *scoring)) == sum(t.num_rows for t in known.training[:2])


def test_texts_are_categories_and_unknown_ones_missing(known: Known) -> None:
    def with_countries(table: pa.Table, *countries: str | None) -> pa.Table:
        values = pa.array([countries[i % len(countries)] for i in range(table.num_rows)], pa.string())
        return table.set_column(table.schema.get_field_index("country"), "country", values)

    training = [with_countries(known.training[0], "b", None, "a"), with_countries(known.training[1], "c")]
    encoder = forecast_trees.Encoder.of(training)
    names = schema.names(schema.FEATURES)
    country = names.index("country")
    assert encoder.categorical == [names.index(name) for name in ("country", "channel", "category")]
    x = encoder.features(with_countries(known.customers, "c", "zz", "a"))
    assert x.shape == (known.customers.num_rows, len(names))
    assert x[0, country] == 2 and np.isnan(x[1, country]) and x[2, country] == 0
    assert (x[:, names.index("value_total")] == float_column(known.customers, "value_total")).all()


def test_the_tuned_losses_are_scikit_learns() -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, mean_tweedie_deviance

    rng = np.random.default_rng(0)
    actual, predicted = rng.gamma(1, 20, 500) * (rng.random(500) < 0.4), rng.gamma(2, 10, 500)
    assert forecast_trees.loss("regression_l1", actual, predicted) == pytest.approx(
        mean_absolute_error(actual, predicted)
    )
    assert forecast_trees.loss("regression", actual, predicted) == pytest.approx(mean_squared_error(actual, predicted))
    assert forecast_trees.loss("tweedie", actual, predicted) == pytest.approx(
        mean_tweedie_deviance(actual, predicted, power=1.5)
    )


@pytest.mark.parametrize("name", TREES)
def test_trees_find_what_there_is_to_learn(name: str, known: Known) -> None:
    """Labels made from two features are forecast much better than by a constant, the same with the same seed."""

    def truth(table: pa.Table) -> np.ndarray:
        return float_column(table, "value_total") + 20 * float_column(table, "orders")

    label = schema.by_name(schema.LABELS)["future_value"].type.arrow
    training = tuple(
        table.set_column(
            table.schema.get_field_index("future_value"),
            "future_value",
            pa.array(truth(table).round()).cast(pa.int64()).cast(label),
        )
        for table in known.training
    )
    made = dataclasses.replace(known, training=training)
    values, notes = forecast_trees.forecast(name, made, 2, 1)
    wanted = truth(known.customers)
    assert metrics.spearman(wanted, values) > 0.9
    assert (values == forecast_trees.forecast(name, made, 2, 1)[0]).all()
    assert "best of 2 trials" in notes[0]


# --- the judge


def point(values: np.ndarray, p90: np.ndarray | None = None) -> Forecast:
    return Forecast(values, values, None, p90, 1.0, ())


def customers_of(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two forecasts, the first the better one."""
    rng = np.random.default_rng(seed)
    signal = rng.gamma(0.7, 30, n)
    actual = signal * rng.gamma(2, 0.5, n) * (rng.random(n) < 0.5)
    return actual, signal / 2, signal * rng.gamma(1, 1, n)


def test_a_customer_has_one_weight_at_every_cutoff() -> None:
    """The same customers twice, in another order, tell nothing new; other customers halve the variance."""
    actual, ours, peer = customers_of(0)
    ids = [f"c{i}" for i in range(len(actual))]
    back = np.arange(len(actual))[::-1]
    forecasts = {
        "first": {OURS: point(ours), "peer": point(peer)},
        "again": {OURS: point(ours[back]), "peer": point(peer[back])},
    }
    labels = {"first": actual, "again": actual[back]}
    same = forecast_judge.make_samples({"first": ids, "again": ids[::-1]}, labels, forecasts, 0)
    others = forecast_judge.make_samples({"first": ids, "again": [f"d{i}" for i in ids]}, labels, forecasts, 0)
    judged, apart = forecast_judge.judge(same, 400, 0), forecast_judge.judge(others, 400, 0)
    for name in (OURS, "peer"):
        for metric in forecast_judge.METRICS:
            first, again, mean = (judged.resampled[scope][name][metric] for scope in ("first", "again", MEAN))
            assert first == pytest.approx(again) and first == pytest.approx(mean)
            spread = apart.resampled[MEAN][name][metric].std() / apart.resampled["first"][name][metric].std()
            assert 0.6 < spread < 0.85, metric


def test_every_metric_is_the_one_of_trainer_metrics() -> None:
    samples, expected = {}, {}
    for seed in (1, 2):
        actual, ours, peer = customers_of(seed)
        tie_break = np.random.default_rng(seed).permutation(len(actual)).astype(float)
        samples[str(seed)] = Sample(
            np.arange(len(actual)), actual, tie_break, {OURS: point(ours, 3 * ours), "peer": point(peer)}
        )
        cap = metrics.cap_of(actual)
        expected[str(seed)] = {
            "normalised_gini": metrics.normalised_gini(actual, ours),
            "spearman": metrics.spearman(actual, ours),
            "decile_mape": metrics.decile_mape(actual, ours),
            "rmse": metrics.rmse(actual, ours),
            "rmse_capped": metrics.rmse_capped(actual, ours, cap),
            "mae_median": metrics.mae(actual, ours),
            "total_bias": metrics.total_bias(actual, ours),
            "share_above_p90": metrics.share_above(actual, 3 * ours),
            "share_above_positive_p90": np.mean((actual > 3 * ours)[ours > 0]),
        }
    judged = forecast_judge.judge(samples, 100, 0)
    for metric in expected["1"]:
        values = [float(expected[cutoff][metric]) for cutoff in samples]
        assert [judged.value(cutoff, OURS, metric) for cutoff in samples] == pytest.approx(values)
        assert judged.value(MEAN, OURS, metric) == pytest.approx(np.mean(values))
    biases = [abs(float(expected[cutoff]["total_bias"])) for cutoff in samples]
    assert judged.value(MEAN, OURS, "mean_abs_bias") == pytest.approx(np.mean(biases))
    assert "share_above_p90" not in judged.exact[MEAN]["peer"]


@given(st.integers(0, 2**20))
def test_a_weight_is_so_many_customers(seed: int) -> None:
    actual, ours, peer = customers_of(seed, 60)
    if not actual.any():
        return
    weight = np.random.default_rng(seed).poisson(1.0, len(actual)).astype(float)
    times = np.repeat(np.arange(len(actual)), weight.astype(int))
    forecasts = {OURS: point(ours), "peer": point(peer)}
    one = Sample(np.arange(60), actual, np.arange(60.0), forecasts).measure(weight[None])
    repeated = {name: point(f.predicted_value[times]) for name, f in forecasts.items()}
    many = Sample(times, actual[times], np.arange(float(len(times))), repeated).measure(np.ones((1, len(times))))
    for name in forecasts:
        for metric in ("normalised_gini", "decile_mape", "rmse", "mae_median", "total_bias"):
            assert one[name][metric] == pytest.approx(many[name][metric], nan_ok=True), metric


def test_intervals_have_the_width_theory_gives_and_pairs_cancel() -> None:
    actual, ours, _ = customers_of(3, 3000)
    forecasts = {OURS: point(ours), "twin": point(ours), "dearer": point(ours + 1000)}
    judged = forecast_judge.judge({"c": Sample(np.arange(3000), actual, np.arange(3000.0), forecasts)}, 1000, 0)
    low, high = judged.interval(MEAN, OURS, "mae_median")
    errors = np.abs(actual - ours)
    assert low < errors.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * errors.std() / np.sqrt(3000), rel=0.12)
    assert judged.paired(MEAN, "twin", "normalised_gini") == (0, 0, 0)
    # The same order, so the same Gini in every resample; a thousand more on everybody is far off beyond doubt.
    assert judged.paired(MEAN, "dearer", "normalised_gini") == pytest.approx((0, 0, 0), abs=1e-12)
    difference, low, high = judged.paired(MEAN, "dearer", "mae_median")
    assert low <= difference <= high < -900


def test_who_is_not_everywhere_is_not_in_the_mean() -> None:
    actual, ours, peer = customers_of(4, 200)
    person, ties = np.arange(200), np.arange(200.0)
    everywhere = {OURS: point(ours), "peer": point(peer)}
    samples = {
        "a": Sample(person, actual, ties, everywhere),
        "b": Sample(person, actual, ties, {**everywhere, "year_ago": point(peer)}),
    }
    judged = forecast_judge.judge(samples, 100, 0)
    assert judged.peers(MEAN) == ["peer"] and judged.peers("b") == ["peer", "year_ago"]


# --- the verdict


def judged_with(ours: np.ndarray, actual: np.ndarray, peer: np.ndarray) -> dict[str, float]:
    forecasts = {OURS: point(ours, np.percentile(actual, 90) * np.ones_like(ours)), "peer": point(peer)}
    sample = Sample(np.arange(len(actual)), actual, np.arange(float(len(actual))), forecasts)
    return forecast_verdict.ratios(forecast_judge.judge({"c": sample}, 200, 0))


def test_a_far_better_forecast_meets_every_aim_and_a_worse_one_none_of_them() -> None:
    actual, _, noisy = customers_of(5, 2000)
    nearly = actual * np.random.default_rng(0).uniform(0.99, 1.02, len(actual))
    better, worse = judged_with(nearly, actual, noisy), judged_with(2 * noisy, actual, nearly)
    assert set(better) == set(forecast_verdict.AIM)
    assert all(forecast_verdict.is_met(name, ratio) for name, ratio in better.items())
    missed = {name for name, ratio in worse.items() if not forecast_verdict.is_met(name, ratio)}
    assert missed == set(forecast_verdict.AIM) - {"share_above_p90"}


@pytest.mark.parametrize(
    "aim, ratio, met",
    [
        ("gini_above_every_peer", 0.0, False),
        ("gini_above_every_peer", 1e-9, True),
        ("spearman", 0.99, True),
        ("spearman", 0.9899, False),
        ("mae_median", 1.01, True),
        ("rmse_capped", 1.0101, False),
        ("mean_abs_bias", 1.0, True),
        ("share_above_p90", 0.0799, False),
        ("share_above_p90", 0.12, True),
        ("decile_mape", float("nan"), False),
    ],
)
def test_an_aim_ends_where_it_says(aim: str, ratio: float, met: bool) -> None:
    assert forecast_verdict.is_met(aim, ratio) is met


@pytest.mark.parametrize("values", [[1.0, np.nan], [1.0, -0.1], [1.0, np.inf], [1.0]])
def test_an_impossible_forecast_stops_everything(values: list[float]) -> None:
    with pytest.raises(OutputsDiffer, match="peer"):
        forecast_contestants.assert_usable("peer", point(np.array(values)), 2)


def test_other_customers_or_another_order_stop_everything() -> None:
    customers = pa.table({"customer_id": ["a", "b"]})
    forecast_contestants.assert_same_customers(OURS, customers, customers)
    for others in (["b", "a"], ["a"], ["a", "c"]):
        with pytest.raises(OutputsDiffer, match=OURS):
            forecast_contestants.assert_same_customers(OURS, pa.table({"customer_id": others}), customers)


def test_a_cutoff_without_history_names_the_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cutoffs '1997-02-01'"):
        forecast_data.make_windows(CDNOW, [datetime.date(1997, 2, 1)], 100, str(tmp_path))
