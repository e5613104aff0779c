import json
import time

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from tests.trainer.evaluation_fixture import HORIZON_DAYS, replaced, simulate
from trainer import evaluate as judge
from trainer import metrics
from trainer.baselines import baseline_forecasts, float_column, nearest_window
from trainer.evaluate import evaluate, format_table
from trainer.evaluation_text import MODEL, verdict
from transforms.errors import UsageError

CUSTOMERS, PREDICTIONS = simulate()
ACTUAL = float_column(CUSTOMERS, "future_value")


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS)


def everything(value):
    """The predictions of a model that says ``value`` for every customer."""
    n = PREDICTIONS.num_rows
    names = ("predicted_value", "value_p10", "value_p50", "value_p90", "expected_orders")
    return replaced(PREDICTIONS, **{name: np.full(n, float(value)) for name in names})


# --- baselines


def test_baselines_by_hand():
    customers = replaced(
        CUSTOMERS.slice(0, 3), age_days=[100, 400, 500], value_total=[50, -8, 730], value_90d=[9, -9, 0],
        value_year_ago=[None, 40, 60],
    )  # fmt: skip
    found = baseline_forecasts(customers, 80)
    assert found["past_rate"] == pytest.approx([40, 0, 116.8])
    assert found["recent_window"] == pytest.approx([8, 0, 0])  # 90 days are nearest to 80
    assert found["mean_customer"] == pytest.approx([156.8 / 3] * 3)
    assert found["year_ago"] == pytest.approx([40, 40, 60])


def test_the_nearest_window_is_used_and_the_shorter_of_two():
    assert [nearest_window(h) for h in (1, 59, 60, 61, 135, 136, 1000)] == [30, 30, 30, 90, 90, 180, 365]


def test_baselines_do_not_read_labels():
    without = CUSTOMERS.drop_columns(["future_value", "future_orders", "split"])
    expected = baseline_forecasts(CUSTOMERS, 90)
    for name, values in baseline_forecasts(without, 90).items():
        assert np.array_equal(values, expected[name])


def test_year_ago_is_left_out_where_most_customers_are_younger():
    young = replaced(CUSTOMERS, value_year_ago=[None] * CUSTOMERS.num_rows)
    assert "year_ago" not in baseline_forecasts(young, 90)


def test_a_horizon_beyond_a_year_scales_the_year_that_is_known():
    customers = replaced(CUSTOMERS.slice(0, 1), value_year_ago=[365])
    assert baseline_forecasts(customers, 730)["year_ago"] == pytest.approx([730])


@pytest.mark.parametrize(("customers", "days"), [(CUSTOMERS, 0), (CUSTOMERS.slice(0, 0), 90)])
def test_baselines_refuse(customers, days):
    with pytest.raises(UsageError, match="accepted is"):
        baseline_forecasts(customers, days)


# --- evaluate


def test_the_values_are_the_metrics(evaluation):
    predicted = float_column(PREDICTIONS, "predicted_value")
    model = evaluation["models"][MODEL]
    assert model["normalised_gini"] == pytest.approx(float(metrics.normalised_gini(ACTUAL, predicted)))
    assert model["spearman"] == pytest.approx(stats.spearmanr(ACTUAL, predicted).statistic)
    assert model["rmse"] == pytest.approx(np.sqrt(np.mean((ACTUAL - predicted) ** 2)))
    assert model["mae_median"] == pytest.approx(np.mean(abs(ACTUAL - float_column(PREDICTIONS, "value_p50"))))
    assert model["total_bias"] == pytest.approx(predicted.sum() / ACTUAL.sum() - 1)
    assert evaluation["customers"] == 2000
    assert evaluation["buyers"] == np.count_nonzero(ACTUAL)
    assert evaluation["actual_total"] == pytest.approx(ACTUAL.sum())


def test_a_good_model_wins_and_the_intervals_hold_the_values(evaluation):
    assert set(evaluation["models"]) == {MODEL, "past_rate", "recent_window", "mean_customer", "year_ago"}
    assert all(evaluation["beats"]["recent_window"].values())
    for name, of in evaluation["models"].items():
        for metric, value in of.items():
            low, high = evaluation["intervals"][name][metric]
            assert low <= value <= high
    for name, of in evaluation["paired"].items():
        for metric, (low, high) in of.items():
            difference = evaluation["models"][MODEL][metric] - evaluation["models"][name][metric]
            assert low <= difference <= high
    assert evaluation["warnings"] == []


def test_same_seed_same_result_and_it_is_json(evaluation):
    again = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS)
    assert json.dumps(again, allow_nan=False) == json.dumps(evaluation, allow_nan=False)
    other = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS, seed=1)
    assert other["intervals"] != evaluation["intervals"]
    assert other["models"][MODEL] == evaluation["models"][MODEL]


def test_the_interval_of_a_mean_has_the_width_of_theory(evaluation):
    error = abs(ACTUAL - float_column(PREDICTIONS, "value_p50"))
    low, high = evaluation["intervals"][MODEL]["mae_median"]
    assert high - low == pytest.approx(2 * 1.96 * error.std() / np.sqrt(len(error)), rel=0.25)


def test_the_interval_of_the_gini_has_the_width_of_a_plain_bootstrap(evaluation):
    rng, predicted = np.random.default_rng(5), float_column(PREDICTIONS, "predicted_value")
    rows = (rng.integers(0, 2000, 2000) for _ in range(300))
    plain = np.percentile([metrics.normalised_gini(ACTUAL[r], predicted[r]) for r in rows], [2.5, 97.5])
    low, high = evaluation["intervals"][MODEL]["normalised_gini"]
    assert high - low == pytest.approx(plain[1] - plain[0], rel=0.3)


def test_intervals_from_subsets_are_as_wide_as_from_everybody(evaluation, monkeypatch):
    monkeypatch.setattr(judge, "SUBSET", 500)
    little = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS)
    for metric in ("normalised_gini", "spearman", "mae_median", "total_bias"):
        low, high = evaluation["intervals"][MODEL][metric]
        little_low, little_high = little["intervals"][MODEL][metric]
        assert little_high - little_low == pytest.approx(high - low, rel=0.35)


def test_a_forecast_does_not_beat_itself():
    """With the model's own forecast as a rival the paired interval is exactly 0."""
    own = float_column(PREDICTIONS, "predicted_value")
    found = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS, forecasts={"champion": own})
    assert found["paired"]["champion"]["normalised_gini"] == [0, 0]
    assert not any(found["beats"]["champion"].values())
    assert "not clearly better" in found["verdict"]
    assert "champion" in found["verdict"]


def test_noise_does_not_beat_a_model():
    rng = np.random.default_rng(0)
    noisy = float_column(PREDICTIONS, "predicted_value") * rng.lognormal(0, 1.0, 2000)
    found = evaluate(
        CUSTOMERS, replaced(PREDICTIONS, predicted_value=noisy), horizon_days=HORIZON_DAYS,
        forecasts={"sound": float_column(PREDICTIONS, "predicted_value")},
    )  # fmt: skip
    assert not any(found["beats"]["sound"].values())
    assert found["paired"]["sound"]["normalised_gini"][1] < 0


def test_predicting_zero_wins_the_mae_and_nothing_else():
    found = evaluate(CUSTOMERS, everything(0), horizon_days=HORIZON_DAYS)
    assert found["models"][MODEL]["mae_median"] < found["models"]["past_rate"]["mae_median"]
    assert not all(of["normalised_gini"] for of in found["beats"].values())
    assert "not clearly better" in found["verdict"] or "but not clearly" in found["verdict"]
    assert "total is 100% too low" in found["verdict"]


def test_constant_prediction():
    found = evaluate(CUSTOMERS, everything(20), horizon_days=HORIZON_DAYS)
    assert found["models"][MODEL]["normalised_gini"] == pytest.approx(0, abs=1e-9)
    assert found["models"][MODEL]["top_decile_share"] == pytest.approx(0.1)
    assert "same value for every customer" in " ".join(found["warnings"])


def test_perfect_prediction_is_suspicious():
    found = evaluate(CUSTOMERS, replaced(PREDICTIONS, predicted_value=ACTUAL), horizon_days=HORIZON_DAYS)
    model = found["models"][MODEL]
    assert model["normalised_gini"] == pytest.approx(1)
    assert (model["decile_mape"], model["rmse"], model["total_bias"]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert model["top_decile_share"] == model["top_decile_share_best"]
    assert "Implausibly good" in found["warnings"][0]
    assert all(all(of.values()) for of in found["beats"].values())
    assert "its total is right" in found["verdict"]


def test_labels_all_zero():
    zero = replaced(CUSTOMERS, future_value=[0] * 2000, future_orders=[0] * 2000)
    found = evaluate(zero, PREDICTIONS, horizon_days=HORIZON_DAYS)
    json.dumps(found, allow_nan=False)
    assert found["models"][MODEL]["normalised_gini"] is None
    assert found["intervals"][MODEL]["normalised_gini"] == [None, None]
    assert found["models"][MODEL]["brier"] > 0
    assert "Nobody bought" in found["verdict"]
    assert "-" in format_table(found)


def test_one_customer():
    row = int(np.flatnonzero(ACTUAL)[0])
    found = evaluate(CUSTOMERS.slice(row, 1), PREDICTIONS.slice(row, 1), horizon_days=HORIZON_DAYS)
    json.dumps(found, allow_nan=False)
    assert found["customers"] == 1
    assert found["models"][MODEL]["spearman"] is None
    assert found["models"][MODEL]["rmse"] >= 0
    assert "1 of 1 customers" in found["warnings"][0]
    format_table(found)


def test_few_customers_deciding_the_rmse_are_named():
    values = ACTUAL.copy()
    values[:2] = 1e6
    found = evaluate(replaced(CUSTOMERS, future_value=values.tolist()), PREDICTIONS, horizon_days=HORIZON_DAYS)
    assert any("squared error" in warning for warning in found["warnings"])


def broken(name, value, table=PREDICTIONS):
    values = float_column(table, name).tolist()
    values[3] = value
    return replaced(table, **{name: values})


@pytest.mark.parametrize(
    ("customers", "predictions", "message"),
    [
        (CUSTOMERS, broken("predicted_value", float("nan")), r"predictions.predicted_value .* 1 of 2000 .*row 3"),
        (CUSTOMERS, broken("value_p50", float("inf")), r"predictions.value_p50 is not a finite number"),
        (CUSTOMERS, broken("value_p90", -1.0), r"predictions.value_p90 is negative"),
        (CUSTOMERS, broken("purchase_probability", 1.5), r"probabilities in \[0, 1\]"),
        (broken("future_value", None, CUSTOMERS), PREDICTIONS, r"customers.future_value is not a finite number"),
        (CUSTOMERS, PREDICTIONS.slice(1), r"predictions '1999 rows'"),
        (CUSTOMERS, PREDICTIONS.take(list(range(1999, -1, -1))), r"customer_id differs"),
        (CUSTOMERS, PREDICTIONS.drop_columns(["value_p10"]), r"no column 'value_p10'"),
        (CUSTOMERS.slice(0, 0), PREDICTIONS.slice(0, 0), r"at least one customer"),
    ],
)
def test_unusable_input_is_refused_by_name(customers, predictions, message):
    with pytest.raises(UsageError, match=message):
        evaluate(customers, predictions, horizon_days=HORIZON_DAYS)


@pytest.mark.parametrize("forecast", [np.ones(3), np.full(2000, np.nan), np.full(2000, -1.0)])
def test_an_unusable_further_forecast_is_refused(forecast):
    with pytest.raises(UsageError, match=r"forecast 'btyd'.*2000 finite numbers"):
        evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS, forecasts={"btyd": forecast})


def test_26_000_customers_cost_a_few_seconds():
    customers, predictions = pa.concat_tables([CUSTOMERS] * 13), pa.concat_tables([PREDICTIONS] * 13)
    started = time.process_time()
    evaluate(customers, predictions, horizon_days=HORIZON_DAYS)
    # About 2.5 s on an idle core; the margin is for a busy machine, an accidental loop over rows costs minutes.
    assert time.process_time() - started < 15


# --- words


def test_the_table_fits_a_terminal_and_shows_every_forecast(evaluation):
    many = {f"a_long_name_for_a_rival_{i}": ACTUAL * 0.5 + i for i in range(4)}
    found = evaluate(CUSTOMERS, PREDICTIONS, horizon_days=HORIZON_DAYS, forecasts=many)
    text = format_table(found)
    notes = [*found["warnings"], found["verdict"], "strongest baseline"]
    assert all(len(line) <= 100 for line in text.splitlines() if not any(note in line for note in notes))
    for name in found["models"]:
        assert name in text
    lines = format_table(evaluation).splitlines()
    gini = next(line for line in lines if line.startswith("normalised_gini"))
    assert f"{evaluation['models'][MODEL]['normalised_gini']:.3f}" in gini
    assert f"{evaluation['models']['past_rate']['normalised_gini']:.3f}" in gini


def test_the_verdict_names_what_is_missing():
    model = {"total_bias": -0.2}
    beats = {
        "past_rate": {"normalised_gini": True, "decile_mape": False, "rmse_capped": True},
        "year_ago": {"normalised_gini": True, "decile_mape": True, "rmse_capped": True},
    }
    text = verdict({"buyers": 5, "models": {MODEL: model}, "beats": beats})
    assert text.startswith("The model ranks customers better and makes smaller errors")
    assert "decile mape (against past rate)" in text
    assert text.endswith("its total is 20% too low.")
