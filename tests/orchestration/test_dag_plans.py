"""What a DAG run does: steps from a deployment, parameters and a date, which every command takes as they are."""

from __future__ import annotations

import ast
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration import dag_plans, deployment
from orchestration.deployment import Deployment
from orchestration.steps import training_cutoffs
from pipelines.publish_toml import GUARDS
from templates import arguments, checks
from trainer import task
from trainer.vertex_client import Vertex
from trainer.vertex_models import Deployment as Deployed
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
DAY = datetime.date(2026, 11, 22)
FOUND = {"first_day": "2024-01-01", "snapshot_time": "2026-11-22T03:05:00.123456Z"}
FILES = {"files": "gs://my-orders/{date}/*.parquet"}
TABLE = {"table": "my-project.sales.lines", "columns": "customer_id=client,ordered_at=sold_at,amount=total"}


def installed(orders: dict[str, Any] | None = None, **settings: Any) -> Deployment:
    serving = {"store": "datastore://my-project", **settings.pop("serving", {})}
    content = {
        "project": "my-project", "region": "europe-west1", "bucket": "gs://my-project-clv", "dataset": "my-project.shop",
        "image": "europe-west1-docker.pkg.dev/my-project/clv/features:1", "orders": orders or FILES, "serving": serving,
        **settings,
    }  # fmt: skip
    return deployment.parse(content, "deployment.toml")


def build_params(made: Deployment, **given: Any) -> dict[str, Any]:
    return {name: each["default"] for name, each in dag_plans.build_parameters(made).items()} | given


def serve_params(made: Deployment, **given: Any) -> dict[str, Any]:
    return {name: each["default"] for name, each in dag_plans.serve_parameters(made).items()} | given


def built(
    made: Deployment, found: dict[str, str] | None = None, day: datetime.date = DAY, **given: Any
) -> dict[str, Any]:
    return dag_plans.build(made, build_params(made, **given), day, "abcd1234", found or FOUND)


def served(made: Deployment, **given: Any) -> dict[str, Any]:
    return dag_plans.serve(
        made, serve_params(made, **given), DAY, "abcd1234", "gs://my-project-clv/registry/90d/m1/model"
    )


def value(step: dict[str, Any], flag: str) -> str | None:
    words = step["arguments"]
    return words[words.index(flag) + 1] if flag in words else None


def values(step: dict[str, Any], flag: str) -> list[str]:
    """Of an argument that takes several."""
    rest = step["arguments"][step["arguments"].index(flag) + 1 :]
    return rest[: next((index for index, word in enumerate(rest) if word.startswith("--")), len(rest))]


def test_the_day_s_files_are_loaded_and_cleaned() -> None:
    made = installed({**FILES, "columns": "customer_id=client", "location": "EU"})
    steps = dag_plans.prepare(made, build_params(made), DAY)
    assert {name: (step["module"], value(step, "--only")) for name, step in steps.items()} == {
        "create_dataset": ("orchestration.prepare", "dataset"),
        "load_orders": ("orchestration.prepare", "load"),
        "clean_orders": ("orchestration.prepare", "clean"),
    }
    for step in steps.values():
        assert [value(step, f"--{name}") for name in ("orders", "dataset", "loaded_on", "columns", "location", "project")] == [
            "gs://my-orders/2026-11-22/*.parquet", "my-project.shop", "2026-11-22", "customer_id=client", "EU", "my-project",
        ]  # fmt: skip


def test_the_files_may_be_called_by_the_day_before() -> None:
    made = installed({"files": "gs://my-orders/{yesterday}-to-{date}.csv"})
    step = dag_plans.prepare(made, build_params(made), datetime.date(2024, 3, 1))["load_orders"]
    assert value(step, "--orders") == "gs://my-orders/2024-02-29-to-2024-03-01.csv"


def test_a_table_of_somebody_else_s_is_not_prepared_but_read_by_its_names() -> None:
    made = installed(TABLE)
    assert dag_plans.prepare(made, build_params(made), DAY) == {}
    for step in (built(made)["first"], *built(made)["others"], served(made)["predict"]):
        assert value(step, "--orders") == "bigquery://my-project.sales.lines"
        assert value(step, "--columns") == TABLE["columns"]
    due = dag_plans.training_due(made, build_params(made), DAY)
    assert value(due, "--orders_table") == "bigquery://my-project.sales.lines"


def test_the_names_of_files_are_not_those_of_the_table_made_from_them() -> None:
    made = installed({**FILES, "columns": "customer_id=client"})
    assert value(built(made)["first"], "--orders") == "bigquery://my-project.shop.orders"
    assert value(built(made)["first"], "--columns") is None


def test_the_dataset_of_a_run_is_where_its_orders_and_features_are() -> None:
    made = installed()
    first = built(made, dataset="my-project.trial")["first"]
    assert value(first, "--orders") == "bigquery://my-project.trial.orders"
    assert value(first, "--features_table") == "my-project.trial.features"
    assert (
        value(served(made, dataset="my-project.trial")["predict"], "--orders") == "bigquery://my-project.trial.orders"
    )


def test_the_check_knows_when_a_training_is_due() -> None:
    made = installed(schedule={"train_every_days": 3, "train_after_new_orders": 5000})
    step = dag_plans.training_due(made, build_params(made, horizon_days=30, history_days=365), DAY)
    expected = {
        "--on": "2026-11-22", "--every_days": "3", "--after_new_orders": "5000", "--horizon_days": "30",
        "--registry": "gs://my-project-clv/registry/30d-365d", "--project": "my-project",
        "--orders_table": "bigquery://my-project.shop.orders",
    }  # fmt: skip
    assert {flag: value(step, flag) for flag in expected} == expected
    assert value(dag_plans.training_due(installed(), build_params(made), DAY), "--after_new_orders") is None


def test_the_evaluation_is_the_last_horizon_and_learning_ends_where_it_begins() -> None:
    made = installed()
    plan = built(made, horizon_days=60, training_snapshots=3)
    cutoff = DAY - datetime.timedelta(days=60)
    learned = training_cutoffs(datetime.date(2024, 1, 1), cutoff, 60, 3)
    steps = [plan["first"], *plan["others"]]
    assert [value(step, "--cutoff") for step in steps] == [*map(str, learned), str(cutoff)]
    assert len(learned) == 3 and learned[0] == cutoff - datetime.timedelta(days=60)
    assert values(plan["train"], "--features") == [value(step, "--output") for step in steps[:-1]]
    assert value(plan["train"], "--evaluation") == value(steps[-1], "--output")
    assert {value(step, "--reuse_transform") for step in plan["others"]} == {value(plan["first"], "--output")}


def test_every_snapshot_sees_the_orders_that_the_check_counted() -> None:
    plan = built(installed())
    assert {value(step, "--snapshot_time") for step in (plan["first"], *plan["others"])} == {FOUND["snapshot_time"]}


def test_a_cutoff_that_was_asked_for() -> None:
    plan = built(installed(), cutoff="2026-05-01")
    assert value(plan["train"], "--evaluation") == "gs://my-project-clv/runs/2026-11-22-abcd1234/features/2026-05-01"


@pytest.mark.parametrize(
    ("cutoff", "first_day"),
    [
        ("2026-08-25", "2024-01-01"),  # 89 days before the run
        ("2026-11-22", "2024-01-01"),
        ("2024-01-01", "2024-01-01"),  # nothing before the first order
        (None, "2026-08-24"),  # 90 days before the run
        (None, "2026-11-21"),
    ],
)
def test_a_cutoff_without_a_horizon_after_it_or_an_order_before_it(cutoff: str | None, first_day: str) -> None:
    found = {**FOUND, "first_day": first_day}
    with pytest.raises(UsageError) as caught:
        built(installed(), found, cutoff=cutoff)
    said = str(caught.value)
    assert said.count("\n") == 0
    for word in (cutoff or "2026-08-24", "horizon_days 90", "2026-11-22", first_day, "accepted is"):
        assert word in said


def test_the_shortest_history_is_judged_by_customer() -> None:
    plan = built(installed(), {**FOUND, "first_day": "2026-08-23"})
    assert plan["others"] == []
    assert values(plan["train"], "--features") == [value(plan["train"], "--evaluation")]


def test_a_run_writes_below_its_own_directory_alone() -> None:
    plan, serving = built(installed()), served(installed())
    own = "gs://my-project-clv/runs/2026-11-22-abcd1234"
    outputs = [step["output"] for step in (plan["first"], *plan["others"], plan["train"], plan["gate"], plan["report"])]
    outputs += [serving["predict"]["output"], serving["report"]["output"], plan["decision"]]
    assert all(output.startswith(f"{own}/") for output in outputs)
    assert value(plan["gate"], "--decision") == plan["decision"]


def test_the_gate_and_the_deployment_ask_the_registry_of_the_run_s_horizon() -> None:
    made = installed()
    asked = {"horizon_days": 30, "history_days": 365}
    registry = "gs://my-project-clv/registry/30d-365d"
    assert value(built(made, **asked)["gate"], "--registry") == registry
    deploy = dag_plans.deploy(made, build_params(made, **asked))
    assert (deploy["module"], deploy["arguments"][0], value(deploy, "--registry")) == (
        "trainer.vertex",
        "deploy",
        registry,
    )
    assert (value(deploy, "--project"), value(deploy, "--region")) == ("my-project", "europe-west1")
    assert value(served(made, **asked)["publish"], "--registry") == registry


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "90d"), ({"horizon_days": 30}, "30d"), ({"history_days": 730}, "90d-730d"),
        ({"dataset": "my-project.sandbox"}, "my-project.sandbox/90d"),
        ({"dataset": "my-project.SAND_" + "x" * 99}, "my-project.SAND_" + "x" * 99 + "/90d"),
    ],
)  # fmt: skip
def test_each_registry_is_a_model_of_its_own_at_vertex_ai(given: dict[str, Any], place: str) -> None:
    made = installed()
    params = build_params(made, **given)
    assert dag_plans.registry(made, params) == f"gs://my-project-clv/registry/{place}"
    model = value(dag_plans.deploy(made, params), "--model_id")
    assert model is not None and (model == "clv-" + re.sub("[^a-z0-9]", "-", place) or len(place) > 59)
    Deployed(Vertex("my-project", "europe-west1"), "gs://my-project-clv/registry", model_id=model)  # a name it takes
    assert dag_plans.is_default_registry(made, params) == (not given)


def test_the_shop_may_have_been_closed() -> None:
    made = installed({**FILES, "quiet_days": 2})
    assert {value(step, "--quiet_days") for step in (built(made)["first"], served(made)["predict"])} == {"2"}


def test_a_publish_is_what_the_deployment_and_the_run_say() -> None:
    made = installed(serving={"bigquery_table": "my-project.out.predictions", "keep_generations": "2"})
    publish = served(made, override="customers=a new country; zeros=a sale")["publish"]
    assert publish["parameters"] == {
        "predictions": "gs://my-project-clv/runs/2026-11-22-abcd1234/predictions",
        "serving": "datastore://my-project", "bigquery_table": "my-project.out.predictions",
        "staging": "gs://my-project-clv/staging", "registry": "gs://my-project-clv/registry/90d",
        "dead_letters": "gs://my-project-clv/dead_letters", "keep_generations": "2",
        "override": "customers=a new country; zeros=a sale",
    }  # fmt: skip
    assert "override" not in served(made)["publish"]["parameters"]


def test_all_of_it_can_be_handed_from_task_to_task() -> None:
    """Tasks hand on JSON."""
    for plan in (
        built(installed()),
        served(installed()),
        dag_plans.prepare(installed(), build_params(installed()), DAY),
    ):
        assert json.loads(json.dumps(plan)) == plan


def test_names_that_the_dags_know_without_importing_them() -> None:
    assert list(dag_plans.MODELS) == list(task.MODELS)
    assert list(dag_plans.GUARDS) == list(GUARDS)


def days(first: str, last: str) -> st.SearchStrategy[datetime.date]:
    return st.dates(datetime.date.fromisoformat(first), datetime.date.fromisoformat(last))


NAME = st.from_regex(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", fullmatch=True)
DATASET = st.builds("{}.{}".format, NAME, st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True))
DIRECTORY = st.builds("gs://{}{}".format, NAME, st.from_regex(r"(/[A-Za-z0-9 ._=-]*[A-Za-z0-9])?/?", fullmatch=True))
COLUMNS = st.none() | st.just(TABLE["columns"]) | st.just("customer_id=the client,ordered_at=sold at")
REASON = st.from_regex(r"[^;\s][^;\x00-\x1f]{0,20}", fullmatch=True)


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    project, columns = draw(NAME), draw(COLUMNS)
    orders: dict[str, Any] = draw(st.sampled_from([FILES, {"table": f"{draw(DATASET)}.my-orders"}]))
    serving = {"store": f"datastore://{project}{draw(st.sampled_from(['', '/(default)', '/my-database']))}"}
    if draw(st.booleans()):
        serving |= {"bigquery_table": f"{draw(DATASET)}.predictions", "keep_generations": "3", "ramp": "off"}
    return installed(
        {**orders, **({"columns": columns} if columns else {})},
        project=project, bucket=draw(DIRECTORY), dataset=draw(DATASET), serving=serving,
    )  # fmt: skip


def assert_launched_alike(step: dict[str, Any]) -> None:
    """The template's parameters are accepted, and mean what the command's arguments mean."""
    name = step["module"].rpartition(".")[2]
    assert checks.checked(name, step["parameters"]) == step["parameters"]
    parser = arguments.parser(name)
    meant = vars(parser.parse_args(arguments.translated(name, step["parameters"])))
    typed = vars(parser.parse_args(step["arguments"]))
    more = {key for key in step["parameters"] if f"--{key}" not in step["arguments"]}  # the serving's options
    assert {key: each for key, each in meant.items() if key not in more} == {
        key: each for key, each in typed.items() if key not in more
    }


@given(
    made=deployments(), horizon=st.integers(1, 400), history=st.none() | st.integers(1, 2000), most=st.integers(1, 20),
    first_day=days("2015-01-01", "2022-01-01"), day=days("2023-06-01", "2030-01-01"),
)  # fmt: skip
def test_a_features_step_is_the_same_as_a_template_and_as_a_command(
    made: Deployment, horizon: int, history: int | None, most: int, first_day: datetime.date, day: datetime.date
) -> None:
    found = {"first_day": str(first_day), "snapshot_time": f"{day}T03:00:00.000001Z"}
    plan = built(made, found, day, horizon_days=horizon, history_days=history, training_snapshots=most)
    for step in (plan["first"], *plan["others"]):
        assert_launched_alike(step)


@given(
    made=deployments(), guards=st.lists(st.sampled_from(list(GUARDS)), unique=True), data=st.data(),
    history=st.none() | st.integers(1, 2000),
)  # fmt: skip
def test_predict_and_publish_are_the_same_as_templates_and_as_commands(
    made: Deployment, guards: list[str], data: st.DataObject, history: int | None
) -> None:
    override = ";".join(f"{guard}={data.draw(REASON)}" for guard in guards)
    pattern = dag_plans.serve_parameters(made)["override"]["pattern"]
    assert re.search(pattern, override)
    plan = served(made, override=override, history_days=history)
    assert_launched_alike(plan["predict"])
    assert_launched_alike(plan["publish"])
    given_as = arguments.translated("publish", plan["publish"]["parameters"])
    assert [each for each in given_as if each.startswith("--override")] == [
        f"--override={part.strip()}" for part in override.split(";") if part
    ]


def clocks(path: Path) -> list[str]:
    """Calls by which a module would learn the time of day, as written."""
    return [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr in ("now", "today", "utcnow") or ast.unparse(node.func) == "time.time")
    ]


def test_no_task_asks_a_clock() -> None:
    """A run that is repeated days later does the same; only an event says when it was sent."""
    files = [*(ROOT / "orchestration").glob("dag_*.py"), *(ROOT / "orchestration" / "dags").glob("*.py")]
    assert len(files) > 7
    assert {path.name: found for path in files if (found := clocks(path))} == {
        "dag_events.py": ["datetime.datetime.now"]
    }
