"""Both DAGs from the order files to the served customer, run by the real Airflow."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import Counter
from decimal import Decimal

import pytest

from serving.store import open_store
from tests import brute_force
from tests.airflow.installation import BUILD, SERVE
from tests.airflow.shop import HORIZON_DAYS
from tests.airflow.story import Story, now, predictions, vertex_aliases
from trainer.registry_store import Registry
from transforms import storage

pytestmark = pytest.mark.airflow

BUILD_ORDER = [
    "plan", "orders.create_dataset", "orders.load_orders", "orders.clean_orders", "training_due", "snapshots",
    "features.analysed", "features.others[0]", "features.others[1]", "train", "deploy.gate", "deploy.challenger_won",
    "deploy.champion", "deploy.announce",
]  # fmt: skip
SERVE_ORDER = ["plan", "predict", "newest", "publish", "announce"]


@pytest.mark.parametrize(("dag", "order"), [(BUILD, BUILD_ORDER), (SERVE, SERVE_ORDER)])
def test_every_task_succeeds_at_its_first_try_and_after_those_before_it(
    story: Story, dag: str, order: list[str]
) -> None:
    run = story.build if dag == BUILD else story.serve
    assert {*run.states.values()} == {"success"} and {*run.tries.values()} == {1}, str(run)
    for before, after in itertools.pairwise(order):
        assert run.task(before).end <= run.task(after).start or "others" in after, (before, after)
    assert set(run.states) - set(order) == {"report"} | ({"features.listed"} if dag == BUILD else set())


def test_nothing_but_the_known_services_was_asked(story: Story) -> None:
    cloud = story.installation.cloud
    assert cloud.google.refused == []
    # Nothing that Vertex AI would not take: what it does not have may be asked for, and faults are scripted elsewhere.
    refusals = [refusal for refusal in cloud.vertex.refusals if not refusal.startswith(("404 ", "503 scripted"))]
    assert refusals == []


def test_the_orders_are_in_bigquery_as_the_shop_has_them(story: Story) -> None:
    lines = story.installation.shop.history()
    found = story.installation.query(f"SELECT * FROM `{story.installation.dataset}.orders`")
    wanted, rejected = brute_force.clean([{**dict.fromkeys(brute_force_inputs()), **row} for row in lines.to_pylist()])
    assert not rejected and {row["loaded_on"] for row in found} == {story.day}
    names = ("customer_id", "ordered_at", "amount")
    assert Counter(tuple(row[n] for n in names) for row in found) == Counter(tuple(o[n] for n in names) for o in wanted)


def brute_force_inputs() -> list[str]:
    from tests.order_strategies import INPUTS

    return list(INPUTS)


def test_features_of_each_snapshot_are_in_bigquery(story: Story) -> None:
    """One partition a cutoff, with every customer who bought before it."""
    orders = story.installation.shop.history().to_pylist()
    found = story.installation.query(
        "SELECT cutoff, COUNT(*) AS customers, SUM(future_value) AS value "
        f"FROM `{story.installation.dataset}.features` GROUP BY cutoff"
    )
    evaluation = story.day - datetime.timedelta(days=HORIZON_DAYS)
    assert len(found) == 3 and max(row["cutoff"] for row in found) == evaluation
    for row in found:
        begin = datetime.datetime.combine(row["cutoff"], datetime.time(), datetime.UTC)
        customers = {order["customer_id"] for order in orders if order["ordered_at"] < begin}
        ahead = [
            order["quantity"] * Decimal(str(order["unit_price"]))
            for order in orders
            if begin <= order["ordered_at"] < begin + datetime.timedelta(days=HORIZON_DAYS)
            and order["customer_id"] in customers
        ]
        assert row["customers"] == len(customers)
        assert Decimal(str(row["value"])) == pytest.approx(sum(ahead))


def test_the_champion_is_vertex_ais_too(story: Story) -> None:
    (move,) = Registry(story.installation.registry).champions().moves
    ((number, aliases),) = vertex_aliases(story.installation).items()
    assert number == "1" and {"champion", "default"} < set(aliases) and len(aliases) == 3
    deployed = story.installation.home.xcom(story.build, "deploy.champion")
    assert (deployed["version"], deployed["vertex_version"], deployed["moved"]) == (move.version, "1", True)
    assert move.by == f"build_train_deploy-{story.day}"


def test_reports_are_there(story: Story) -> None:
    for run in (story.build, story.serve):
        output = story.installation.home.xcom(run, "report")["output"]
        assert b"</html>" in storage.read_bytes(output)


def test_predictions_are_those_of_the_model_on_this_machine(story: Story, tmp_path: object) -> None:
    """By other code as far as there is other: pipelines.predict on the files, without BigQuery, Dataflow or a template."""
    from pipelines import predict
    from tests.pipelines import features_data

    installation = story.installation
    version = Registry(installation.registry).champions().version
    orders = f"{installation.shop.directory}/{story.day}/orders.parquet"
    output = f"{tmp_path}/predictions"
    model = f"{installation.registry}/models/{version}"
    predict.run(["--orders", orders, "--as_of", str(story.day), "--model", model, "--output", output])
    wanted, found = features_data.read_rows(output), predictions(installation, story.serve)
    assert found.num_rows == 250 and found.schema.equals(wanted.schema)
    for name in wanted.column_names:
        is_float = str(wanted[name].type) in ("double", "float")
        expected = wanted[name].to_pylist()
        assert found[name].to_pylist() == (pytest.approx(expected, rel=1e-9) if is_float else expected), name


def test_bigquery_and_the_store_hold_what_was_predicted(story: Story) -> None:
    installation = story.installation
    wanted = {row["customer_id"]: row for row in predictions(installation, story.serve).to_pylist()}
    with open_store(installation.store) as store:
        generation = store.current()
    assert generation is not None and generation.as_of == story.day
    tables = installation.query(f"SELECT * FROM `{installation.dataset}.predictions` WHERE as_of = '{story.day}'")
    assert {row["customer_id"]: row for row in tables} == {
        name: row | {"generation": generation.name} for name, row in wanted.items()
    }
    looked_up = installation.command("serving.lookup", "--serving", installation.store, *wanted)
    assert looked_up.returncode == 0, looked_up.stderr
    for line in looked_up.stdout.splitlines():
        served = json.loads(line)
        row = wanted.pop(served["customer_id"])
        assert served == {**row, "as_of": str(story.day), "generation": generation.name}
    assert wanted == {}, "every customer is served"


def test_events_tell_of_the_champion_and_of_the_publish(story: Story) -> None:
    sink = story.installation.sink
    champion, published = (
        next(e for e in sink.of(run.dag) if e["run"] == f"{run.dag}/{run.id}") for run in (story.build, story.serve)
    )
    version = Registry(story.installation.registry).champions().version
    assert (champion["event"], champion["step"]) == ("new champion", "deploy.announce")
    assert champion["figures"]["version"] == version and champion["figures"]["date"] == str(story.day)
    assert champion["figures"]["metrics"]["normalised_gini"] > 0
    assert (published["event"], published["step"]) == ("published", "announce")
    assert published["figures"].items() >= {"customers": 250, "model_version": version, "as_of": str(story.day)}.items()
    value = sum(row["predicted_value"] for row in predictions(story.installation, story.serve).to_pylist())
    assert published["figures"]["total_value"] == pytest.approx(value)


def test_the_next_day_loads_its_orders_and_trains_nothing(story: Story) -> None:
    installation, day = story.installation, story.day + datetime.timedelta(days=1)
    new = installation.shop.upload(day)
    jobs = len(installation.vertex_jobs()), len(installation.dataflow_jobs())
    told = len(installation.sink.events)
    run, output = installation.run(BUILD, now(), date=str(day))
    print(run)
    assert run.state == "success", output[-20_000:]
    done = {"plan", "orders.create_dataset", "orders.load_orders", "orders.clean_orders", "training_due"}
    assert {task for task, state in run.states.items() if state == "success"} == done
    assert {state for task, state in run.states.items() if task not in done} == {"skipped"}
    assert (len(installation.vertex_jobs()), len(installation.dataflow_jobs())) == jobs
    assert len(installation.sink.events) == told, "a day on which nothing was due is no event"
    (counted,) = installation.query(
        f"SELECT COUNT(*) AS n FROM `{installation.dataset}.orders` WHERE loaded_on = '{day}'"
    )
    assert counted["n"] == new.num_rows
