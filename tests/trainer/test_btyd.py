"""BG/NBD, MBG/NBD and Pareto/NBD: exact at the edges, right on simulated customers, and honest about what they found."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import btyd_customers
from tests.trainer import btyd_reference as reference
from tests.trainer.btyd_reference import weeks
from trainer import btyd, btyd_counts, maximum_likelihood
from transforms.errors import UsageError

MODELS = ("bgnbd", "mbgnbd", "pareto")
MPMATH = json.loads((Path(__file__).parent / "btyd_mpmath.json").read_text())
TRUTH: dict[str, dict[str, float]] = {
    "bgnbd": {"r": 0.9, "alpha": 8.0, "a": 0.8, "b": 2.5},
    "mbgnbd": {"r": 0.9, "alpha": 8.0, "a": 0.9, "b": 1.8},
    "pareto": {"r": 0.8, "alpha": 8.0, "s": 0.9, "beta": 15.0},
}
RETAIL = Path(__file__).parents[1] / "data" / "online_retail.parquet"

rows = st.tuples(st.integers(0, 5000), st.floats(0, 1), st.integers(1, 5000)).map(
    lambda drawn: (drawn[0], 0.0 if drawn[0] == 0 else max(1.0, round(drawn[1] * drawn[2])), drawn[2])
)
positive = st.floats(-2.5, 2.5).map(lambda exponent: 10**exponent)


def simulated(model: str, customers: int, seed: int, truth: dict[str, float] | None = None) -> dict[str, Any]:
    """Columns of customers observed for 10 to 60 weeks, in continuous time."""
    rng = np.random.default_rng(seed)
    found = btyd_customers.simulate(model, truth or TRUTH[model], rng.uniform(10, 60, customers), rng)
    return weeks(found["frequency"], found["recency"], found["age"])


def columns(row: tuple[float, float, float]) -> dict[str, list[float]]:
    return dict(zip(btyd_counts.COLUMNS, ([value] for value in row), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_the_edges_are_exact(model: str) -> None:
    """x to 5,000, T to 5,000 days, t_x = T and x = 0, at parameters on both sides of every branch."""
    cases = [case for case in MPMATH["models"] if case["model"] == model]
    assert len(cases) >= 100
    for case in cases:
        made = btyd.make(model, time_unit_days=1)
        made.params_ = dict(zip(made.parameter_names, map(float, case["parameters"]), strict=True))
        customer = columns(case["row"])
        found = {
            "log_likelihood": made.log_likelihood(customer),
            "p_alive": made.probability_alive(customer),
            "expected": made.expected_purchases(customer, MPMATH["horizon_days"]),
            "any_purchase": made.purchase_probability(customer, MPMATH["horizon_days"]),
            "discounted": made.discounted_purchases(customer, MPMATH["annual_discount_rate"]),
        }
        for name, wanted in case["expected"].items():
            assert found[name] == pytest.approx([float(wanted)], rel=1e-10, abs=1e-14), (case, name)


@pytest.mark.parametrize("model", MODELS)
@given(rows, positive, positive, positive, positive)
@settings(max_examples=60)
def test_forecasts_are_finite_and_ordered_as_theory_says(
    model: str, row: tuple[float, float, float], r: float, alpha: float, third: float, fourth: float
) -> None:
    made = btyd.make(model, time_unit_days=1)
    made.params_ = dict(zip(made.parameter_names, (r, alpha, third, fourth), strict=True))
    x, recency, age = row
    later = np.linspace(recency, age, 5)[1:] if x else np.zeros(4)
    table = {"frequency": [x] * 5, "recency_days": [recency, *later], "age_days": [age] * 5}
    alive, expected = made.probability_alive(table), made.expected_purchases(table, 90)
    assert np.isfinite(made.log_likelihood(table)).all() and np.isfinite(expected).all()
    assert ((alive >= 0) & (alive <= 1)).all() and (expected >= 0).all()
    slack = 1e-9 * (1 + alive)
    assert (np.diff(alive) >= -slack[1:]).all(), "the later the last purchase, the likelier alive"
    horizons = [made.expected_purchases(columns(row), days)[0] for days in (1, 30, 365, 3650)]
    assert (np.diff(horizons) >= -1e-9 * np.abs(horizons[1:])).all(), "the longer the horizon, the more purchases"
    any_purchase = made.purchase_probability(table, 90)
    assert (any_purchase <= alive + slack).all() and (any_purchase <= expected * (1 + 1e-6) + 1e-12).all()
    discounted = made.discounted_purchases(table, 0.1, 90)
    assert (discounted <= expected * (1 + 1e-9)).all()


@pytest.mark.parametrize("model", MODELS)
@given(rows, rows, positive, positive, positive, positive)
@settings(max_examples=40)
def test_the_gradient_is_that_of_the_likelihood(
    model: str, one: tuple[float, ...], two: tuple[float, ...], r: float, alpha: float, third: float, fourth: float
) -> None:
    table = dict(zip(btyd_counts.COLUMNS, np.array([one, two]).T, strict=True)) | {"customers": [3, 1]}
    likelihood = btyd._Likelihood(btyd.make(model), btyd_counts.read(table, 7.0))
    theta = np.array([r, alpha, third, fourth])
    value, gradient = likelihood(theta)
    assert value == pytest.approx(np.average(likelihood.per_row(theta), weights=[3, 1]), rel=1e-12, abs=1e-12)
    numeric = [
        (likelihood(theta * np.exp(step))[0] - likelihood(theta * np.exp(-step))[0]) / 2e-4 for step in 1e-4 * np.eye(4)
    ]
    assert gradient * theta == pytest.approx(numeric, rel=1e-5, abs=1e-6 * (1 + abs(value)))


@functools.cache
def recovered(model: str) -> tuple[NDArray[np.float64], list[btyd.PurchaseModel]]:
    """[seeds, parameters]: by how many standard errors the estimates of ten simulated sets lie from the truth."""
    # Of fewer customers a and b are too skewed for an error to be told by a standard error.
    fits = [btyd.make(model).fit(simulated(model, 3000, seed)) for seed in range(10)]
    truth = TRUTH[model]
    return np.array([[(fit.params_[n] - truth[n]) / fit.standard_errors_[n] for n in truth] for fit in fits]), fits


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_recovered_within_three_standard_errors(model: str) -> None:
    scores, fits = recovered(model)
    assert np.abs(scores).max() < 3
    assert all(fit.converged_ and not fit.dropout_collapsed_ and not fit.notes_ for fit in fits)
    # Standard errors twice too large, or too small by half, would put the spread of 10 scores outside.
    assert ((scores.std(axis=0) > 0.4) & (scores.std(axis=0) < 1.8)).all()


@pytest.mark.parametrize("model", MODELS)
def test_no_other_parameters_are_likelier(model: str) -> None:
    table = simulated(model, 3000, seed=1)
    fit = btyd.make(model).fit(table)
    assert fit.log_likelihood(table).sum() == pytest.approx(fit.log_likelihood_, abs=1e-6)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 0.05, 0.5, 2):
        for _ in range(5):
            moved = {name: value * np.exp(scale * rng.normal()) for name, value in fit.params_.items()}
            assert reference.with_parameters(model, moved).log_likelihood(table).sum() < fit.log_likelihood_
    truth = reference.with_parameters(model, TRUTH[model]).log_likelihood(table).sum()
    assert truth < fit.log_likelihood_ < truth + 20


@pytest.mark.parametrize("model", MODELS)
def test_forecasts_are_what_simulated_customers_do_next(model: str) -> None:
    """The same customers seen at 30 weeks and, their purchases since counted one by one, at 50."""
    truth, rng = TRUTH[model], np.random.default_rng(5)
    past, future = purchase_by_purchase(model, truth, 6000, 30.0, 50.0, rng)
    fit = reference.with_parameters(model, truth)
    expected, any_purchase = fit.expected_purchases(past, 140), fit.purchase_probability(past, 140)
    probabilities = fit.count_probabilities(past, 140, 60)
    x = past["frequency"]
    for group in (x == 0, x == 1, (x > 1) & (x < 5), x >= 5):
        error = future[group].std() / np.sqrt(group.sum())
        assert future[group].mean() == pytest.approx(expected[group].mean(), abs=4 * error)
        assert (future[group] > 0).mean() == pytest.approx(any_purchase[group].mean(), abs=2 / np.sqrt(group.sum()))
        share = np.bincount(np.minimum(future[group], 4), minlength=5) / group.sum()
        model_share = np.append(probabilities[group, :4].mean(axis=0), probabilities[group, 4:].sum(axis=1).mean())
        assert share == pytest.approx(model_share, abs=2 / np.sqrt(group.sum()))
    new = fit.expected_purchases_new([210])[0]
    assert x.mean() == pytest.approx(new, abs=4 * x.std() / np.sqrt(len(x)))


def purchase_by_purchase(
    model: str, truth: dict[str, float], customers: int, seen: float, end: float, rng: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The models' stories told event by event, in weeks; independent of ``benchmarks.btyd_customers``."""
    rate = rng.gamma(truth["r"], 1 / truth["alpha"], customers)
    if model == "pareto":
        dropout, chance = rng.exponential(1 / rng.gamma(truth["s"], 1 / truth["beta"], customers)), np.zeros(customers)
    else:
        dropout, chance = np.full(customers, np.inf), rng.beta(truth["a"], truth["b"], customers)
    clock, active = np.zeros(customers), np.ones(customers, bool)
    if model == "mbgnbd":
        active = rng.random(customers) >= chance
    x, last, later = np.zeros(customers), np.zeros(customers), np.zeros(customers, np.int64)
    while active.any():
        clock = clock + rng.exponential(1 / rate)
        active &= clock < np.minimum(dropout, end)
        x += active & (clock <= seen)
        last = np.where(active & (clock <= seen), clock, last)
        later += active & (clock > seen)
        active &= rng.random(customers) >= chance
    return weeks(x, last, np.full(customers, seen)), later


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_of_counts_agree_with_the_other_forecasts(model: str) -> None:
    fit, table = reference.fitted(model, "summary"), {k: v[:200] for k, v in reference.summary().items()}
    probabilities = fit.count_probabilities(table, 100, int(fit.most_purchases(table, 100, 1e-9).max()))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(200), abs=1e-8)
    assert (probabilities >= 0).all()
    assert 1 - probabilities[:, 0] == pytest.approx(fit.purchase_probability(table, 100), abs=1e-10)
    for most, row in zip(fit.most_purchases(table, 100, 1e-4), probabilities, strict=True):
        assert row[most + 1 :].sum() <= 1e-4
    counts = np.arange(probabilities.shape[1])
    assert probabilities @ counts == pytest.approx(fit.expected_purchases(table, 100), rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_discounting_is_a_sum_of_discounted_days(model: str) -> None:
    fit, table = reference.fitted(model, "summary"), {k: v[:50] for k, v in reference.summary().items()}
    curve = np.stack([fit.expected_purchases(table, days) for days in range(401)])
    daily = np.diff(curve, axis=0).T @ (1.2 ** (-(np.arange(400) + 0.5) / 365.25))
    assert fit.discounted_purchases(table, 0.2, 400) == pytest.approx(daily, rel=1e-6)
    assert fit.discounted_purchases(table, 1e-9, 400) == pytest.approx(curve[-1], rel=1e-6)
    assert (fit.discounted_purchases(table, 0.2) > daily).all()
    assert (fit.discounted_purchases(table, 0.2, 0) == 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_the_unit_of_time_changes_the_parameters_and_nothing_else(model: str) -> None:
    table = simulated(model, 1500, seed=2)
    by_week, by_day = btyd.make(model).fit(table), btyd.make(model, time_unit_days=1).fit(table)
    times = {"alpha", "beta"}
    for name, value in by_week.params_.items():
        factor = 7 if name in times else 1
        assert by_day.params_[name] == pytest.approx(factor * value, rel=1e-5)
        assert by_day.standard_errors_[name] == pytest.approx(factor * by_week.standard_errors_[name], rel=1e-3)
    jacobian = table["frequency"].sum() * np.log(7)
    assert by_day.log_likelihood_ == pytest.approx(by_week.log_likelihood_ - jacobian, abs=1e-6)
    assert by_day.expected_purchases(table, 90) == pytest.approx(by_week.expected_purchases(table, 90), rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_collapsed_customers_give_the_same_fit(model: str) -> None:
    rng = np.random.default_rng(9)
    customers = pa.table(btyd_customers.whole_days(btyd_customers.simulate(
        "pareto", {"r": 0.5, "alpha": 60.0, "s": 0.6, "beta": 80.0}, rng.uniform(30, 300, 3000), rng
    )))  # fmt: skip
    collapsed = btyd_counts.collapse(customers)
    assert collapsed.num_rows < 2200
    whole, small = btyd.make(model).fit(customers), btyd.make(model).fit(collapsed)
    assert small.params_ == pytest.approx(whole.params_, rel=1e-6)
    assert small.standard_errors_ == pytest.approx(whole.standard_errors_, rel=1e-4)
    assert (small.customers_, small.log_likelihood_) == pytest.approx((3000, whole.log_likelihood_), abs=1e-6)


def test_a_thinned_table_for_the_starts_does_not_change_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    table = simulated("pareto", 3000, seed=4)
    whole = btyd.make("pareto").fit(table)
    monkeypatch.setattr(btyd, "_ROUGH_ROWS", 400)
    assert btyd.make("pareto").fit(table).params_ == pytest.approx(whole.params_, rel=1e-6)


def test_collapsing_counts_customers_exactly_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"frequency": rng.integers(0, 3, 500), "recency_days": rng.integers(0, 4, 500), "age_days": rng.integers(4, 7, 500)})  # fmt: skip
    collapsed = btyd_counts.collapse(table)
    wanted = duckdb.sql(
        "SELECT *, count(*) AS customers FROM table GROUP BY ALL ORDER BY ALL".replace("table", '"table"')
    )
    assert collapsed.to_pylist() == wanted.to_arrow_table().to_pylist()
    assert btyd_counts.collapse(table.take(rng.permutation(500))).equals(collapsed)
    parts = pa.concat_tables([btyd_counts.collapse(table.slice(0, 300)), btyd_counts.collapse(table.slice(300))])
    assert btyd_counts.collapse(parts).equals(collapsed)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), min_size=1, max_size=60))
def test_pairs_number_the_distinct_pairs(drawn: list[tuple[int, int]]) -> None:
    first, second = np.array(drawn, np.float64).T
    for size in (1, 10_000):  # with many possible pairs beside the rows, and with few
        a, b = np.tile(first, size // len(first) + 1), np.tile(second, size // len(first) + 1)
        found, inverse = btyd_counts.pairs(a, b)
        assert len(found) == len(set(drawn))
        assert (a[found][inverse] == a).all() and (b[found][inverse] == b).all()


@pytest.mark.parametrize("model", MODELS)
def test_online_retail_has_no_dropout_to_fit_and_the_models_say_so(model: str) -> None:
    customers = duckdb.sql(f"""
        WITH orders AS (
            SELECT CustomerID AS id, min(InvoiceDate)::DATE AS day FROM '{RETAIL}'
            WHERE CustomerID IS NOT NULL AND InvoiceDate < '2011-08-08'
            GROUP BY CustomerID, InvoiceNo HAVING sum(Quantity * UnitPrice) > 0
        )
        SELECT count(DISTINCT day) - 1 AS frequency, max(day) - min(day) AS recency_days,
            DATE '2011-08-08' - min(day) AS age_days
        FROM orders GROUP BY id ORDER BY id
    """).to_arrow_table()
    fit = btyd.make(model).fit(customers)
    assert fit.dropout_collapsed_ and fit.converged_
    assert any("dropout collapsed" in note for note in fit.notes_)
    names = fit.parameter_names
    assert np.isfinite([fit.standard_errors_[name] for name in names[:2]]).all()
    assert np.isnan([fit.standard_errors_[name] for name in names[2:]]).any()
    # What is left is the negative binomial model: the three agree, and so do their forecasts with its closed form.
    r, alpha = fit.params_["r"], fit.params_["alpha"]
    assert (r, alpha) == pytest.approx((0.73872, 9.4121), rel=1e-3)
    x, age = (np.asarray(customers[name], dtype=float) for name in ("frequency", "age_days"))
    assert fit.expected_purchases(customers, 70) == pytest.approx(10 * (r + x) / (alpha + age / 7), rel=1e-3)


def test_hardly_any_data_still_give_a_fit_or_a_refusal() -> None:
    few = {"frequency": [1, 0, 2], "recency_days": [10, 0, 30], "age_days": [50, 50, 50]}
    nobody = {"frequency": [0, 0], "recency_days": [0, 0], "age_days": [50, 20]}
    for model in MODELS:
        fit = btyd.make(model).fit(few)
        # Three customers determine no four parameters, and the standard errors tell.
        assert not any(error < fit.params_[name] for name, error in fit.standard_errors_.items())
        assert np.isfinite(fit.expected_purchases(few, 90)).all()
        with pytest.raises(UsageError, match="repeat order day"):
            btyd.make(model).fit(nobody)


def test_a_fit_that_stopped_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maximum_likelihood, "_newton", lambda function, theta: theta + 0.05)
    fit = btyd.make("bgnbd").fit(simulated("bgnbd", 500, seed=0))
    assert not fit.converged_ and fit.gradient_norm_ > maximum_likelihood.GRADIENT_TOLERANCE
    assert any("not converged" in note for note in fit.notes_)


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_forecasts_the_same(model: str, tmp_path: Path) -> None:
    fit, table = reference.fitted(model, "summary"), reference.summary()
    fit.save(str(tmp_path / "model.json"))
    loaded = btyd.load(str(tmp_path / "model.json"))
    assert type(loaded) is type(fit) and vars(loaded) == vars(fit)
    assert (loaded.expected_purchases(table, 90) == fit.expected_purchases(table, 90)).all()


def test_a_standard_error_that_does_not_exist_survives_saving(tmp_path: Path) -> None:
    fit = btyd.make("pareto").fit(
        {"frequency": [1, 0], "recency_days": [50, 0], "age_days": [50, 50], "customers": [5, 99]}
    )
    assert np.isnan(list(fit.standard_errors_.values())).any()
    fit.save(str(tmp_path / "model.json"))
    assert "NaN" not in (tmp_path / "model.json").read_text()
    loaded = btyd.load(str(tmp_path / "model.json"))
    assert list(loaded.standard_errors_.values()) == pytest.approx(list(fit.standard_errors_.values()), nan_ok=True)


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"model": "arima"}'])
def test_a_file_that_holds_no_model_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UsageError):
        btyd.load(str(tmp_path / "model.json"))


@pytest.mark.parametrize(
    "row, blamed",
    [
        ({"frequency": [-1]}, "frequency of row 0 -1.0"),
        ({"frequency": [1.5]}, "frequency of row 0 1.5"),
        ({"recency_days": [60]}, "recency_days of row 0 60.0"),
        ({"recency_days": [0]}, "recency_days of row 0 0.0"),
        ({"frequency": [0]}, "recency_days of row 0 10.0"),
        ({"age_days": [float("nan")]}, "age_days of row 0 nan"),
        ({"customers": [0]}, "customers of row 0 0.0"),
    ],
)
def test_customers_that_cannot_be_are_refused(row: dict[str, list[float]], blamed: str) -> None:
    table = {"frequency": [1], "recency_days": [10], "age_days": [50]} | row
    with pytest.raises(UsageError, match=blamed):
        btyd.make("bgnbd").fit(table)


def test_wrong_use_is_told_in_one_line() -> None:
    table = {"frequency": [1], "recency_days": [10], "age_days": [50]}
    with pytest.raises(UsageError, match="not fitted"):
        btyd.make("bgnbd").expected_purchases(table, 90)
    with pytest.raises(UsageError, match="age_days is missing"):
        btyd.make("bgnbd").fit({"frequency": [1], "recency_days": [10]})
    with pytest.raises(UsageError, match="bgnbd, mbgnbd, pareto"):
        btyd.make("pnbd")
    with pytest.raises(UsageError, match="time_unit_days"):
        btyd.make("bgnbd", time_unit_days=0)
    with pytest.raises(UsageError, match="annual_discount_rate"):
        reference.fitted("bgnbd", "summary").discounted_purchases(table, 0.0)
    with pytest.raises(UsageError, match="horizon_days"):
        reference.fitted("bgnbd", "summary").expected_purchases(table, -1)
