"""What members say, mixed, written and read."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import blend
from trainer.calibration import Calibration, Window
from trainer.predictor import FORECAST_COLUMNS, MEMBERS
from transforms.errors import UsageError

AS_OF = datetime.date(2011, 4, 1)


def forecasts(rng: np.random.Generator, n: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    low, middle, high = np.sort(scale * rng.gamma(0.5, 10, (3, n)), axis=0)
    said = {"predicted_value": scale * rng.gamma(1, 10, n), "value_p10": low, "value_p50": middle, "value_p90": high}
    return {**said, "purchase_probability": rng.random(n), "expected_orders": rng.gamma(1, 2, n)}


def test_a_mix_is_the_weighted_average_of_every_column() -> None:
    rng = np.random.default_rng(0)
    said = {"btyd": forecasts(rng, 50), "boosting": forecasts(rng, 50, 3.0), "saved_model": forecasts(rng, 50)}
    mixed = blend.mix(said, {"btyd": 0.2, "boosting": 0.8})  # who has no weight has no say
    assert set(mixed) == set(FORECAST_COLUMNS)
    for name in FORECAST_COLUMNS:
        expected = [0.2 * a + 0.8 * b for a, b in zip(said["btyd"][name], said["boosting"][name], strict=True)]
        np.testing.assert_allclose(mixed[name], expected, rtol=1e-14, err_msg=name)


@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([1e-300, 1e-9, 1.0, 1e15]))
def test_a_mix_is_a_possible_forecast(seed: int, n: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    said = {name: forecasts(rng, n, scale) for name in MEMBERS}
    for values in said.values():
        values["value_p50"] = np.nextafter(values["value_p90"], np.inf)  # what a member's own rounding may leave
        values["purchase_probability"] = np.ones(n)
    drawn = rng.dirichlet(np.ones(3))
    mixed = blend.mix(said, dict(zip(MEMBERS, drawn.tolist(), strict=True)))
    assert all(len(values) == n for values in mixed.values())
    assert (mixed["value_p10"] <= mixed["value_p50"]).all() and (mixed["value_p50"] <= mixed["value_p90"]).all()
    assert (mixed["purchase_probability"] <= 1).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_parts_sum_to_1(count: int) -> None:
    weights = blend.Blend.equal(MEMBERS[:count]).weights
    assert sum(weights.values()) == pytest.approx(1, abs=1e-15) and len(set(weights.values())) == 1


def test_a_blend_is_calibrated() -> None:
    said = {"btyd": forecasts(np.random.default_rng(0), 5)}
    doubled = blend.Blend({"btyd": 1.0}, Calibration((Window(datetime.date(2010, 1, 1), 2.0, 0.01),)))
    np.testing.assert_allclose(doubled.forecasts(said, AS_OF)["value_p50"], 2 * said["btyd"]["value_p50"])


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = Calibration((Window(datetime.date(2010, 1, 1), 1.7, 0.1),), ((1.0, 0.1), (2.0, -0.1)), 1.2, ("because",))
    written = blend.Blend({"btyd": 0.25, "boosting": 0.75}, found)
    written.write(str(tmp_path))
    assert blend.read(str(tmp_path)) == written


def test_an_old_model_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"holds no blend\.json: it was trained by an earlier version .* train it anew"
    ) as refused:
        blend.read(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_an_unknown_member_is_named(tmp_path: Path) -> None:
    content = blend.Blend({"btyd": 0.5, "oracle": 0.5}).to_json()
    (tmp_path / blend.FILE).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"oracle.*saved_model, btyd, boosting"):
        blend.read(str(tmp_path))
