"""The network on small synthetic examples: learns, scales, repeats itself, and survives odd labels."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from trainer import network
from transforms import preprocessing

HORIZON_DAYS = 90
NUMERIC = len(preprocessing.numeric_outputs())


def examples(n: int, seed: int) -> network.Examples:
    """The first numeric feature drives purchases, the second the amount; country 2 or 3 without effect."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(n, NUMERIC)).astype(np.float32)
    buys = rng.random(n) < 1 / (1 + np.exp(1 - 2 * numeric[:, 0]))
    value = np.where(buys, np.exp(4 + 0.7 * numeric[:, 1] + 0.5 * rng.normal(size=n)), 0)
    orders = np.where(buys, 1 + rng.poisson(0.5, n), 0)
    country = rng.integers(2, 4, n).astype(np.int32)
    return network.Examples(numeric, {"country": country}, value.astype(np.float32), orders.astype(np.float32))


def train(data: network.Examples, validation: network.Examples, epochs: int = 6, seed: int = 0) -> network.Training:
    return network.train(
        data, validation, horizon_days=HORIZON_DAYS, epochs=epochs, seed=seed, progress=lambda line: None
    )


def forecast(training: network.Training, data: network.Examples) -> dict[str, np.ndarray]:
    answer = network.forecast(training.model(data.inputs()), training.scales)
    return {name: values.numpy().astype(np.float64) for name, values in answer.items()}


@pytest.fixture(scope="module")
def data() -> tuple[network.Examples, network.Examples, network.Examples]:
    return examples(4000, 1), examples(1000, 2), examples(4000, 3)


@pytest.fixture(scope="module")
def trained(data: tuple[network.Examples, ...]) -> network.Training:
    return train(data[0], data[1], epochs=15)


def test_learns_what_drives_value_and_orders(trained: network.Training, data: tuple[network.Examples, ...]) -> None:
    test = data[2]
    result = forecast(trained, test)
    p = 1 / (1 + np.exp(1 - 2 * test.numeric[:, 0].astype(np.float64)))
    truth = p * np.exp(4 + 0.7 * test.numeric[:, 1] + 0.5**2 / 2)
    assert np.corrcoef(np.log(result["predicted_value"]), np.log(truth))[0, 1] > 0.95
    assert result["predicted_value"].sum() == pytest.approx(truth.sum(), rel=0.12)
    assert np.abs(result["purchase_probability"] - p).mean() < 0.06
    assert result["expected_orders"].mean() == pytest.approx((p * 1.5).mean(), rel=0.1)
    assert np.mean(test.value <= result["value_p90"]) == pytest.approx(0.9, abs=0.03)


def test_weights_are_those_of_the_best_epoch(trained: network.Training, data: tuple[network.Examples, ...]) -> None:
    validation = data[1]
    logits = trained.model(validation.inputs())
    now = network.loss(validation.targets(trained.scales), logits, trained.scales.max_rate).numpy().mean()
    assert now == pytest.approx(trained.history[trained.best_epoch - 1], rel=1e-5)
    assert now <= min(trained.history) + network.MIN_IMPROVEMENT
    assert trained.history[0] > min(trained.history)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data: tuple[network.Examples, ...]) -> None:
    first, second, other = (train(data[0], data[1], epochs=1, seed=seed).model.get_weights() for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_money_in_another_unit_only_changes_the_unit(data: tuple[network.Examples, ...]) -> None:
    # A power of two, so that the scaled labels are the same bits.
    in_yen = [dataclasses.replace(d, value=d.value * np.float32(128)) for d in data]
    pounds, yen = train(data[0], data[1], epochs=1), train(in_yen[0], in_yen[1], epochs=1)
    small, large = forecast(pounds, data[2]), forecast(yen, in_yen[2])
    np.testing.assert_allclose(large["predicted_value"], 128 * small["predicted_value"], rtol=1e-6)
    np.testing.assert_allclose(large["expected_orders"], small["expected_orders"], rtol=1e-6)


def test_a_country_never_trained_on_acts_like_no_country(trained: network.Training) -> None:
    effect = trained.model.get_layer("country_effect").get_weights()[0]
    assert np.abs(effect[2:4]).max() > 0
    assert not effect[[0, 1, *range(4, preprocessing.INDEX_COUNT)]].any()


@pytest.mark.parametrize("buyers", [0, 1])
def test_hardly_any_buyer_is_survived(buyers: int) -> None:
    few = examples(300, 4)
    few = dataclasses.replace(few, value=np.zeros(300, np.float32), orders=np.zeros(300, np.float32))
    few.value[:buyers] = few.orders[:buyers] = 1
    result = forecast(train(few, few, epochs=1), few)
    assert all(np.isfinite(values).all() for values in result.values())
    assert result["predicted_value"].max() <= buyers * network.VALUE_CAP_MULTIPLE
    assert result["purchase_probability"].max() < 0.2


def test_forecasts_stay_below_the_cap_and_in_order_at_wild_logits() -> None:
    scales = network.Scales(money=50.0, value_cap=1000.0, max_rate=89.0)
    logits = np.random.default_rng(0).normal(scale=1e4, size=(2000, 3, network.LOGITS)).astype(np.float32)
    result = {
        name: values.numpy() for name, values in network.forecast(keras.ops.convert_to_tensor(logits), scales).items()
    }
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in result.values())
    assert result["value_p90"].max() == result["predicted_value"].max() == 1000
    assert (result["value_p10"] <= result["value_p50"]).all()
    assert (result["value_p50"] <= result["value_p90"]).all()


@pytest.mark.parametrize(("rows", "expected"), [(0, 64), (3000, 64), (16_000, 256), (1_000_000, 8192)])
def test_batch_size_grows_with_the_data(rows: int, expected: int) -> None:
    assert network.batch_size(rows) == expected
