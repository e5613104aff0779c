"""The settings of an installation: what is taken, and what a person is told of a mistake."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from orchestration import deployment
from orchestration.deployment import Deployment
from trainer.vertex_jobs import JobRequest
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "orchestration" / "deployment.example.toml"


def example() -> dict[str, Any]:
    return tomllib.loads(EXAMPLE.read_text())


def uncommented() -> str:
    """The example with every setting that stands behind a #: all that there is, but for orders.table."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        text = line.removeprefix("# ")
        lines.append(text if text != line and " = " in text and not text.startswith("table") else line)
    return "\n".join(lines)


def changed(**settings: Any) -> dict[str, Any]:
    """The example with settings by their dotted names, __ for the dot; None: without it."""
    content = copy.deepcopy(example())
    for name, value in settings.items():
        *parts, last = name.split("__")
        place = content
        for part in parts:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return content


def test_the_example_is_one() -> None:
    found = deployment.read(EXAMPLE)
    assert found.dataset == "my-project.shop" and found.predictions_table == "my-project.shop.predictions"
    assert found.notify == ("log:",)


def test_the_example_s_comments_are_the_settings_there_are() -> None:
    content = tomllib.loads(uncommented())
    found = deployment.parse(content, "example")
    for part in ("orders", "forecast", "schedule", "retries"):
        named = {each.name for each in dataclasses.fields(getattr(found, part))}
        assert named - set(content[part]) <= {"table"}, part
    assert {each.name for each in dataclasses.fields(Deployment)} == set(content)
    # What is written as a default is one.
    for part, value in (("retries", deployment.Retries()), ("schedule", deployment.Schedule())):
        for name, written in content[part].items():
            assert getattr(value, name) in (written, None), (part, name)


def test_the_settings_of_vertex_are_those_of_its_jobs() -> None:
    found = deployment.parse(tomllib.loads(uncommented()), "example").vertex
    assert found.poll_seconds == 30
    assert {*found.options, *deployment._VERTEX} <= {each.name for each in dataclasses.fields(JobRequest)}
    JobRequest(
        project="my-project", region="europe-west1", image="gcr.io/a/b:1", module="trainer.task", arguments=(), key="k",
        display_name="d", **found.options,
    )  # fmt: skip


def test_names_that_follow_from_the_settings() -> None:
    found = deployment.parse(changed(bucket="gs://shop/clv/", image="localhost:5000/clv/features:2026-11-22"), "here")
    assert found.template("publish") == "gs://shop/clv/templates/2026-11-22/publish.json"
    assert found.template_image("publish") == "localhost:5000/clv/publish:2026-11-22"
    assert found.inside("registry", "90d") == "gs://shop/clv/registry/90d"


def test_other_parameters_of_publish_are_texts() -> None:
    found = deployment.parse(changed(serving__keep_generations=3, serving__stage_only=True), "here")
    assert found.serving.options == {"keep_generations": "3", "stage_only": "true"}


@pytest.mark.parametrize("bucket", ["gs://composer-bucket", "/opt/airflow"])
def test_where_airflow_reads_its_dags(bucket: str) -> None:
    assert deployment.parse(changed(composer_bucket=bucket), "here").composer_bucket == bucket


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"project": None}, "project is missing; see"),
        ({"project": "My Project"}, "project 'My Project' is not usable: accepted is a Google Cloud project's id"),
        ({"region": "Europe"}, "region 'Europe' is not usable"),
        ({"bucket": "s3://shop"}, "bucket 's3://shop' is not usable: accepted is a gs:// directory"),
        ({"bucket": 5}, "bucket 5 is not usable: accepted is a text"),
        ({"dataset": "shop"}, "dataset 'shop' is not usable: accepted is PROJECT.DATASET"),
        ({"image": "gcr.io/a/b"}, "image 'gcr.io/a/b' is not usable: accepted is a full name with a tag"),
        ({"image": "gcr.io/a/b:latest"}, "image 'gcr.io/a/b:latest' is not usable"),
        ({"image": "localhost:5000/b"}, "image 'localhost:5000/b' is not usable"),
        ({"composer_bucket": "gs://composer/dags"}, "without /dags"),
        ({"composer_bucket": "airflow"}, "composer_bucket 'airflow' is not usable"),
        ({"notify": "log:"}, "notify 'log:' is not usable: accepted is a list of texts"),
        ({"notify": ["mail:me"]}, "notify: the sink 'mail:me' is not usable: accepted is log:, an http"),
        ({"colour": "red"}, "colour is no setting: accepted are project, region,"),
        ({"orders__files": None}, "accepted is one of orders.files (then the DAG loads them) and orders.table"),
        ({"orders__table": "a-project.b.c"}, "accepted is one of orders.files"),
        ({"orders__files": None, "orders__table": "sales"}, "orders.table 'sales' is not usable"),
        ({"orders__files": "/home/x.csv"}, "orders.files '/home/x.csv' is not usable: accepted is a gs:// file"),
        ({"orders__file": "x"}, "orders.file is no setting: accepted are orders.files,"),
        ({"orders": "gs://x"}, "orders 'gs://x' is not usable: accepted is a table [orders]"),
        ({"forecast__horizon_days": 0}, "forecast.horizon_days 0 is not usable: accepted is a whole number of at least 1"),
        ({"forecast__horizon_days": True}, "forecast.horizon_days True is not usable"),
        ({"forecast__horizon_days": 90.0}, "forecast.horizon_days 90.0 is not usable"),
        ({"schedule__predict_serve": "daily"}, "schedule.predict_serve 'daily' is not usable: accepted is a cron line"),
        ({"retries__count": -1}, "retries.count -1 is not usable: accepted is a whole number of at least 0"),
        ({"retries__delay_seconds": -1}, "retries.delay_seconds -1 is not usable: accepted is a number of at least 0"),
        ({"retries__delay_seconds": float("nan")}, "retries.delay_seconds nan is not usable"),
        ({"serving__store": None}, "serving.store is missing"),
        ({"serving__store": "sqlite:///x.db"}, "serving.store 'sqlite:///x.db' is not usable"),
        ({"serving__bigquery_table": "predictions"}, "serving.bigquery_table 'predictions' is not usable"),
        ({"serving__predictions": "gs://x"}, "serving.predictions is no setting: the DAG gives it"),
        ({"serving__ttl_days": [1]}, "serving.ttl_days [1] is not usable"),
        ({"vertex__machine": "n2"}, "vertex.machine is no setting: accepted are vertex.machine_type,"),
        ({"vertex__poll_seconds": "30"}, "vertex.poll_seconds '30' is not usable"),
        ({"dataflow__poll_seconds": 0}, "dataflow.poll_seconds 0 is not usable"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        deployment.parse(changed(**settings), "shop.toml")
    assert str(caught.value).startswith("shop.toml: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_retries_and_no_pause_are_fine() -> None:
    found = deployment.parse(changed(retries__count=0, retries__delay_seconds=0), "here")
    assert (found.retries.count, found.retries.delay_seconds) == (0, 0)


def test_where_the_settings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.toml"
    monkeypatch.setenv(deployment.VARIABLE, str(path))
    with pytest.raises(UsageError, match=r"shop.toml is missing: copy orchestration/deployment.example.toml there"):
        deployment.load()
    path.write_text(EXAMPLE.read_text())
    assert deployment.load().project == "my-project"
    path.write_text("project = ")
    with pytest.raises(UsageError, match=r"shop.toml is no TOML file: Invalid value"):
        deployment.load()
    monkeypatch.delenv(deployment.VARIABLE)
    monkeypatch.setattr(deployment, "ROOT", tmp_path)
    (tmp_path / deployment.FILE).write_text(EXAMPLE.read_text())
    assert deployment.load().region == "europe-west1"
