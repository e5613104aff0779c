import subprocess
import sys

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from tests.trainer import features_fixture
from tests.trainer.evaluation_fixture import replaced
from trainer import boosting, btyd, fitted_baselines, metrics
from trainer.baselines import baseline_forecasts, float_column
from trainer.btyd_forecast import forecast
from trainer.fitted_baselines import forecasts
from trainer.gamma_gamma import GammaGamma
from transforms import schema

HORIZON_DAYS = 90
TRAINING = [features_fixture.simulate(1500, seed=1), features_fixture.simulate(1000, seed=2, start=1500)]
CUSTOMERS = features_fixture.simulate(1500, seed=3, start=2500)
ACTUAL = float_column(CUSTOMERS, "future_value")


@pytest.fixture(scope="module")
def fitted():
    return forecasts(TRAINING, CUSTOMERS, HORIZON_DAYS, seed=0)


def tweedie(training=TRAINING, customers=CUSTOMERS, seed=0):
    """Without fitting the other."""
    found = fitted_baselines._tweedie(training, customers, seed)
    return found.forecasts.get("tweedie"), found.notes


def test_both_beat_the_naive_forecasts_of_customers_they_did_not_see(fitted):
    assert fitted.notes == []
    assert list(fitted.forecasts) == ["pareto", "tweedie"]
    naive = baseline_forecasts(CUSTOMERS, HORIZON_DAYS)
    best = max(float(metrics.normalised_gini(ACTUAL, values)) for values in naive.values())
    smallest = min(float(metrics.rmse_capped(ACTUAL, v, metrics.cap_of(ACTUAL))) for v in naive.values())
    for values in fitted.forecasts.values():
        assert values.shape == ACTUAL.shape
        assert (values >= 0).all()
        assert metrics.normalised_gini(ACTUAL, values) > best
        assert metrics.rmse_capped(ACTUAL, values, metrics.cap_of(ACTUAL)) < smallest
        assert abs(metrics.total_bias(ACTUAL, values)) < 0.3


def test_pareto_is_the_forecast_of_the_models_fitted_on_the_judged_customers(fitted):
    purchases = btyd.make("pareto").fit(CUSTOMERS)  # not collapsed
    spend = GammaGamma().fit(float_column(CUSTOMERS, "orders"), float_column(CUSTOMERS, "order_value_mean"))
    some = CUSTOMERS.slice(0, 200)
    expected = forecast(purchases, spend, some, HORIZON_DAYS)["predicted_value"]
    assert fitted.forecasts["pareto"][:200] == pytest.approx(expected, rel=1e-4)


def test_no_label_of_the_judged_customers_is_read(fitted):
    unlabelled = CUSTOMERS.drop_columns([*schema.names(schema.LABELS), "split"])
    found = forecasts(TRAINING, unlabelled, HORIZON_DAYS, seed=0)
    for name, values in fitted.forecasts.items():
        assert np.array_equal(found.forecasts[name], values)


def test_the_test_split_is_not_learned_from(fitted):
    spoilt = [
        replaced(
            t, future_value=np.where(np.array(t["split"].to_pylist()) == "test", 1e6, float_column(t, "future_value"))
        )
        for t in TRAINING
    ]
    assert np.array_equal(tweedie(spoilt)[0], fitted.forecasts["tweedie"])


def test_same_seed_same_trees(fitted):
    again, _ = tweedie()
    assert np.array_equal(again, fitted.forecasts["tweedie"])
    assert not np.array_equal(tweedie(seed=1)[0], again)


def test_the_number_of_threads_is_the_environments_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(fitted_baselines, "_ROUNDS", 3)  # threads that share a core wait for each other in every leaf
    alone, _ = tweedie()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert boosting.threads() == 2
    assert tweedie()[0] == pytest.approx(alone, rel=1e-9)


def test_the_currency_does_not_matter(fitted):
    money = [c.name for c in (*schema.FEATURES, *schema.LABELS) if "money" in c.unit]

    def in_cents(table):
        return replaced(
            table, **{name: [None if v is None else v * 64 for v in table[name].to_pylist()] for name in money}
        )

    found, _ = tweedie([in_cents(table) for table in TRAINING], in_cents(CUSTOMERS))
    assert found == pytest.approx(64 * fitted.forecasts["tweedie"], rel=1e-6)


def test_categories_do_not_depend_on_the_order_of_the_rows_and_the_unseen_count_as_unknown(fitted):
    shuffled = CUSTOMERS.take(np.random.default_rng(0).permutation(CUSTOMERS.num_rows))
    found, _ = tweedie(customers=shuffled)
    position = {name: i for i, name in enumerate(CUSTOMERS["customer_id"].to_pylist())}
    expected = fitted.forecasts["tweedie"][[position[name] for name in shuffled["customer_id"].to_pylist()]]
    assert np.array_equal(found, expected)
    elsewhere, nowhere = (
        tweedie(customers=replaced(CUSTOMERS, country=[name] * CUSTOMERS.num_rows))[0] for name in ("Atlantis", None)
    )
    assert np.array_equal(elsewhere, nowhere)


def test_the_encoding_holds_the_most_frequent_values_sorted(monkeypatch):
    monkeypatch.setattr(fitted_baselines, "_MOST_CATEGORIES", 3)
    table = pa.table({"country": pa.array(["b", "b", "z", "z", "a", "c", "d", None, None, None])})
    assert fitted_baselines._categories(table, "country") == ["a", "b", "z"]


def test_a_country_that_pays_more_is_learned():
    def with_rich(table):
        rich = np.array([country == "IE" for country in table["country"].to_pylist()])
        return replaced(table, future_value=np.round(float_column(table, "future_value") * np.where(rich, 30, 1), 2))

    found, _ = tweedie([with_rich(table) for table in TRAINING])
    plain, _ = tweedie()
    rich = np.array([country == "IE" for country in CUSTOMERS["country"].to_pylist()])
    assert found[rich].sum() / plain[rich].sum() > 3 * found[~rich].sum() / plain[~rich].sum()


def test_more_rows_than_are_needed_are_sampled(fitted, monkeypatch):
    monkeypatch.setattr(fitted_baselines, "MOST_ROWS", {"train": 1000, "validation": 100})
    seen = []
    train = lightgbm.train

    def watched(parameters, data, *args, **options):
        seen.append((len(data.get_label()), len(options["valid_sets"][0].get_label())))
        return train(parameters, data, *args, **options)

    monkeypatch.setattr(lightgbm, "train", watched)
    sampled, _ = tweedie()
    assert seen == [(1000, 100)]
    assert metrics.normalised_gini(ACTUAL, sampled) == pytest.approx(
        float(metrics.normalised_gini(ACTUAL, fitted.forecasts["tweedie"])), abs=0.1
    )
    assert np.array_equal(tweedie()[0], sampled)


def test_without_repeat_purchases_there_is_no_pareto():
    nothing = [0] * CUSTOMERS.num_rows
    once = replaced(CUSTOMERS, frequency=nothing, recency_days=nothing)
    found = forecasts(TRAINING, once, HORIZON_DAYS, seed=0)
    assert list(found.forecasts) == ["tweedie"]
    assert found.notes == [
        "pareto is left out: no customer has a repeat order day: there is nothing a purchase model could learn"
    ]


def test_what_cannot_be_learned_is_left_out_with_a_note():
    few = [TRAINING[0].slice(0, 100)]
    found, notes = tweedie(few)
    assert found is None
    assert "tweedie is left out: 8" in notes[-1] or "tweedie is left out: 9" in notes[-1]  # the test split is not there
    nothing = [replaced(TRAINING[0], future_value=[0] * 1500)]
    assert "0 buyers among those for training" in tweedie(nothing)[1][-1]
    assert "0 rows to learn from" in tweedie([TRAINING[0].slice(0, 0)])[1][-1]


def test_where_pareto_does_not_converge_mbgnbd_stands_for_it(monkeypatch):
    """The estimate of either model is the real one; only whether Pareto's is believed is injected."""
    make = btyd.make

    class Doubtful:
        def __init__(self, model):
            self.model = model

        def fit(self, data):
            self.model.fit(data)
            self.model.converged_, self.model.notes_ = False, ["not converged: the gradient is 1.0e-02"]
            return self.model

    monkeypatch.setattr(
        btyd, "make", lambda name, *of: Doubtful(make(name, *of)) if name == "pareto" else make(name, *of)
    )
    found = forecasts([TRAINING[0].slice(0, 0)], CUSTOMERS, HORIZON_DAYS, 0)
    assert list(found.forecasts) == ["mbgnbd"]
    assert found.notes[0] == "pareto is left out: not converged: the gradient is 1.0e-02"
    assert metrics.normalised_gini(ACTUAL, found.forecasts["mbgnbd"]) > 0.5


_WITHOUT_SCIKIT_LEARN = """
import sys
sys.modules["sklearn"] = None  # makes every import of it fail
from tests.trainer import features_fixture
from trainer import fitted_baselines
rows = features_fixture.simulate(400, seed=1)
found = fitted_baselines.forecasts([rows], rows, 90, 0)
assert sorted(found.forecasts) == ["pareto", "tweedie"], found.notes
"""


def test_scikit_learn_is_not_needed():
    subprocess.run([sys.executable, "-c", _WITHOUT_SCIKIT_LEARN], check=True)
