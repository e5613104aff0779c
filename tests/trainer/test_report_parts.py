"""The report's parts from what evaluations hold: weeks, months, segments, the map, members, the model card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.trained_models import World
from trainer import (
    report,
    report_charts,
    report_heat_map,
    report_mix,
    report_model_card,
    report_segments,
    report_tracking,
    task,
)
from transforms import storage

WEEKS = [
    {"start": "2011-08-18", "days": 7, "window": "history", "order_days": 50, "repeat": 21, "expected": 19.5, "model": None},
    {"start": "2011-08-25", "days": 7, "window": "history", "order_days": 40, "repeat": 32, "expected": 20.25, "model": None},
    {"start": "2011-09-01", "days": 7, "window": "labels", "order_days": 33, "repeat": 33, "expected": 22.0, "model": 30.0},
    {"start": "2011-09-08", "days": 2, "window": "labels", "order_days": 6, "repeat": 6, "expected": 4.0, "model": 8.0},
]  # fmt: skip
MONTHS = [
    {"month": "2011-09", "start": "2011-09-01", "days": 9, "complete": False, "order_days": 1039, "expected": 1138.0,
     "ratio": 1039 / 1138},
    {"month": "2011-10", "start": "2011-10-01", "days": 31, "complete": True, "order_days": 5, "expected": 0.0, "ratio": None},
]  # fmt: skip


def visible(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL))


def traces(chart: go.Figure) -> dict[str, Any]:
    return {trace["name"]: trace for trace in json.loads(chart.to_json())["data"]}


# --- weeks and months


def test_the_weeks_chart_has_the_numbers() -> None:
    found = traces(report_tracking.chart(WEEKS, "Pareto/NBD"))
    # Of the last two days 6 purchases are 21 a week.
    assert found["what happened"]["y"] == [21, 32, 33, 21]
    assert found["expected by Pareto/NBD"]["y"] == [19.5, 20.25, 22, 14]
    assert found["expected by the model"]["x"] == ["2011-09-01", "2011-09-08"]
    assert found["expected by the model"]["y"] == [30, 28]


def test_the_cutoff_is_where_the_forecast_begins() -> None:
    (line,) = json.loads(report_tracking.chart(WEEKS, "x").to_json())["layout"]["shapes"]
    assert line["x0"] == line["x1"] == "2011-09-01"


def test_weeks_and_months_in_words() -> None:
    page = report_tracking.section({"weeks": WEEKS, "months": MONTHS, "tracked_by": "mbgnbd"})
    text = visible(page)
    assert "2011-09 (9 days) 1,039 1,138 91%" in text
    assert "2011-10 5 0 -" in text
    assert "MBG/NBD" in text
    assert 'id="chart-weeks"' in page


def test_without_weeks_the_section_says_why() -> None:
    page = report_tracking.section({})
    assert "Not known" in page
    assert "chart-" not in page


# --- segments


def segment(**changes: Any) -> dict[str, Any]:
    names = (
        "total_bias",
        "normalised_gini",
        "mae_median",
        "rmse_capped",
        "share_above_p90",
        "brier",
        "poisson_deviance",
    )
    return {
        "customers": 1234, "buyers": 321, "actual_total": 5678.0, "predicted_total": 6000.0,
        "metrics": dict.fromkeys(names, 0.1) | {"total_bias": 0.0567},
        "intervals": {name: [None, None] for name in names} | {"total_bias": [-0.01, 0.123]},
        "paired": {"rmse_capped": [-2.0, -1.0], "poisson_deviance": [-0.1, 0.1]},
        **changes,
    }  # fmt: skip


def test_segments_in_words() -> None:
    few = segment(paired={"rmse_capped": [None, None], "poisson_deviance": [None, None]})
    worse = segment(paired={"rmse_capped": [1.0, 2.0], "poisson_deviance": [-2.0, -1.0]})
    text = visible(report_segments.section({"history": {"repeat": segment()}, "country": {"<UK>": few, "new": worse}}))
    row = "1,234 321 5,678 6,000 +5.7% [-1.0%, +12.3%] 0.100 10.0%"
    assert f"bought on two days or more {row} value ✓ orders ≈" in text
    assert f"&lt;UK&gt; {row} too few to say" in text
    assert f" new {row} value ✗ orders ✓" in text  # a country's name stays what it is


def test_without_segments_the_section_says_why() -> None:
    assert "earlier version" in report_segments.section(None)


# --- frequency and recency


def judged(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "frequency": np.floor(rng.exponential(4, n)), "days_since_last": np.floor(rng.exponential(150, n)) + 1,
        "predicted_value": rng.gamma(1, 50, n), "future_value": rng.gamma(0.5, 90, n),
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(0, 10_000))
def test_every_customer_is_in_one_field(n: int, seed: int) -> None:
    columns = judged(n, seed)
    found = report_heat_map.cells(columns)
    assert found.customers.shape == (len(found.rows), len(found.columns))
    assert found.customers.sum() == n
    assert found.predicted.sum() == pytest.approx(columns["predicted_value"].sum())
    assert found.actual.sum() == pytest.approx(columns["future_value"].sum())
    assert found.customers[0].any() and found.customers[-1].any()
    assert found.customers[:, 0].any() and found.customers[:, -1].any()


def test_fields_against_a_filter() -> None:
    columns = judged(5000, 1)
    found = report_heat_map.cells(columns)
    table = pa.table(columns)
    between = pc.and_(
        pc.and_(pc.greater_equal(table["frequency"], 4), pc.less_equal(table["frequency"], 5)),
        pc.and_(pc.greater_equal(table["days_since_last"], 31), pc.less_equal(table["days_since_last"], 60)),
    )
    wanted = table.filter(between)
    place = found.rows.index("4–5"), found.columns.index("31–60")
    assert found.customers[place] == wanted.num_rows >= report_heat_map.LEAST_CUSTOMERS
    assert found.means(found.actual)[place] == pytest.approx(pc.mean(wanted["future_value"]).as_py())

    means = found.means(found.predicted)
    chart = json.loads(report_heat_map.heat_map(found, means, (means,)).to_json())
    texts = {(note["x"], note["y"]): note["text"] for note in chart["layout"]["annotations"]}
    mean = pc.mean(wanted["predicted_value"]).as_py()
    assert texts["31–60", "4–5"] == (f"{mean:.1f}" if mean < 9.95 else f"{mean:.0f}")
    assert len(texts) == (found.customers >= report_heat_map.LEAST_CUSTOMERS).sum()


def test_a_map_of_few_or_of_nothing() -> None:
    few = {name: values[:19] for name, values in judged(19, 0).items()}
    assert "Not shown" in report_heat_map.section(few)
    assert report_heat_map.ABSENT in report_heat_map.section(None)
    nothing = judged(500, 0) | {"predicted_value": np.zeros(500), "future_value": np.zeros(500)}
    assert 'id="chart-frequency-actual"' in report_heat_map.section(nothing)


# --- PIT


def test_the_pit_histogram_is_a_density() -> None:
    chart = report_charts.pit_histogram(np.array([0, 0.1, 0.5, 0.9, 1]), np.array([0.2, 0.4, 0.3, 0.1]))
    bars = traces(chart)["what happened"]
    assert bars["y"] == [2, 1, 0.75, 1]
    assert np.dot(bars["y"], bars["width"]) == pytest.approx(1)
    assert bars["x"] == pytest.approx([0.05, 0.3, 0.7, 0.95])


# --- members


def training(**changes: Any) -> dict[str, Any]:
    third = {"normalised_gini": 0.75, "rmse_capped": 20.5, "spearman": 0.4}
    instead = {
        "intervals": {"normalised_gini": [-0.02, -0.01], "rmse_capped": [-3.0, -2.0], "spearman": [-0.1, 0.1]},
        "better": ["rmse_capped"], "worse": ["normalised_gini"],
    }  # fmt: skip
    compared = {
        "basis": "a later window", "window": "2011-06-01", "customers": 4321,
        "mixes": {"saved_model+btyd": third, "saved_model": third, "btyd": third},
        "instead": {"saved_model": instead, "btyd": instead},
    }  # fmt: skip
    made = {"asked": "auto", "why": "the network without <b>", "weights": {"saved_model": 1.0}, "compared": compared}
    return {"choice": made | changes, "calibration": ["p90 times 0.8: because", "deciles as they are"]}


def test_members_in_words() -> None:
    page = report_mix.section(training())
    text = visible(page)
    assert "The network without &lt;b&gt;." in text
    assert "4,321 customers of a later window (2011-06-01)" in text
    assert " the network (used) 0.750 ✗ [-0.020, -0.010] 20.50 ✓ [-3.00, -2.00] 0.400 ≈ [-0.100, 0.100]" in text
    assert " the network and the purchase model 0.750 20.50 0.400" in text
    assert page.count("(used)") == 1
    assert "p90 times 0.8: because. Deciles as they are." in text


def test_members_that_were_asked_for_are_not_compared() -> None:
    made = training()
    del made["choice"]["compared"], made["calibration"]
    page = report_mix.section(made)
    assert "<table" not in page
    assert "Nothing was corrected" in page
    assert "Not known" in report_mix.section({})


# --- the model card


def test_the_model_card_says_what_was_learned_and_judged() -> None:
    model = {
        "model_version": "v<1>", "horizon_days": 90, "history_days": 400, "training_rows": 12345,
        "training_cutoffs": ["2011-06-01", "2011-03-01"], "evaluation_cutoff": "2011-09-01",
    }  # fmt: skip
    evaluation = {
        "customers": 99, "split": "out of time", "warnings": ["Only 3 <bought>."],
        "training": training() | {"purchase_model": {"model": "pareto", "as_of": "2011-09-01", "notes": []}},
    }  # fmt: skip
    fitted = [{
        "model": "pareto", "params_": {"r": 0.61234, "alpha": 13.0, "s": 0.2, "beta": 5.0}, "notes_": ["dropout collapsed"],
        "standard_errors_": {"r": 0.0123, "alpha": 0.3, "s": None, "beta": 1.0},
    }]  # fmt: skip
    features = [{"activity": {"2010-01-05": [1, 1, "1"], "2011-08-29": [1, 0, "1"]}}, {}]
    page = report_model_card.section(model, evaluation, features, fitted)
    text = visible(page)
    assert "the 90 days from the cutoff" in text
    assert "in the 400 days before each cutoff, orders from 2010-01-05 to 2011-08-29" in text
    assert (
        "12,345 rows of 2 snapshots, cutoffs 2011-03-01, 2011-06-01; the labels lie between 2011-03-01 and 2011-08-29"
        in text
    )
    assert "on 2011-09-01 to 2011-11-29" in text
    assert "100% the network" in text
    assert "Pareto/NBD, fitted on what customers did before 2011-09-01" in text
    assert "Pareto/NBD: r shape of the purchase rates over customers 0.6123 0.012" in text
    assert "0.2 not determined" in text
    assert "Pareto/NBD: dropout collapsed" in text
    assert "Only 3 &lt;bought&gt;." in text
    assert "too short to hold out" not in text
    short = report_model_card.section(model, evaluation | {"split": "by customer", "warnings": []}, [], [])
    assert "too short to hold out" in short
    assert "No warnings." in short


# --- all of it, from a model as it is trained


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A purchase model alone, and its report without the chart library."""
    root = tmp_path_factory.mktemp("parts")
    arguments = ["--features", world.training, "--evaluation", world.evaluation, "--model", "pareto"]
    assert task.main([*arguments, "--output", str(root / "model")]) == 0
    assert report.main(["--model", str(root / "model"), "--output", str(root / "r.html")]) == 0
    text = (root / "r.html").read_text()
    return root, re.sub(r"<script>.*?</script></head>", "</head>", text, count=1, flags=re.DOTALL)


def test_a_trained_models_report_shows_what_its_directory_holds(trained: tuple[Path, str]) -> None:
    root, page = trained
    text = visible(page)
    evaluation = json.loads((root / "model" / "evaluation.json").read_text())
    purchases = json.loads((root / "model" / "btyd" / "purchases.json").read_text())
    for name, value in purchases["params_"].items():
        assert f"Pareto/NBD: {name}" in text
        assert f" {value:.4g} {purchases['standard_errors_'][name]:.2g}" in text
    repeat = evaluation["segments"]["history"]["repeat"]
    assert f"bought on two days or more {repeat['customers']:,} {repeat['buyers']:,}" in text
    assert "--model pareto asked for it" in text
    assert report_tracking.ABSENT in text  # these snapshots hold no activity
    table = pq.read_table(root / "model" / "evaluation.parquet")
    once = table.filter(pc.and_(pc.equal(table["frequency"], 0), pc.greater(table["days_since_last"], 365)))
    assert once.num_rows >= report_heat_map.LEAST_CUSTOMERS
    assert 'id="chart-frequency-forecast"' in page
    assert not re.search(r"<dt>(choice|segments|weeks|training)\.", page)


def test_an_earlier_versions_model_still_has_a_report(trained: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = trained
    table = pq.read_table(root / "model" / "evaluation.parquet")
    evaluation = json.loads((root / "model" / "evaluation.json").read_text())
    for name in ("segments", "pit_histogram", "training"):
        del evaluation[name]

    manifest = {"model_version": "old", "horizon_days": 90}
    storage.begin(str(tmp_path / "old"), "model", {})
    pq.write_table(
        table.drop_columns(["frequency", "recency_days", "age_days", "days_since_last"]),
        storage.join(str(tmp_path / "old"), "evaluation.parquet"),
    )
    (tmp_path / "old" / "evaluation.json").write_text(json.dumps(evaluation))
    storage.finish(str(tmp_path / "old"), "model", {}, manifest)
    assert report.main(["--model", str(tmp_path / "old"), "--output", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert report_heat_map.ABSENT in text
    assert text.count("by an earlier version of this code") == 2
