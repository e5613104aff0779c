"""From the command that builds a template to the served customer: the real gcloud, the launcher and the workers of the image."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.store import Generation, open_store
from tests.dataflow.stub import Job
from tests.pipelines import features_data, publishing
from tests.pipelines.features_data import SHOP_END, SHOP_HORIZON_DAYS
from tests.serving.store_contract import AS_OF
from tests.templates import gcloud
from tests.templates.cloud import CODE_VERSION, NAMES, REGION, Cloud, image_name
from trainer import task
from transforms import storage

pytestmark = pytest.mark.templates

CUTOFF = SHOP_END - datetime.timedelta(SHOP_HORIZON_DAYS)
OPTIONS = ["--max_workers", "3", "--worker_machine_type", "e2-standard-2", "--disable_public_ips"]
OPTIONS += [
    "--service_account_email",
    "runner@test-project.iam.gserviceaccount.com",
    "--additional_user_labels",
    "team=growth",
]


def error_of(job: Job) -> str:
    """The last line of the failed job's error."""
    assert job.state == "JOB_STATE_FAILED", job.messages
    (message,) = [each["messageText"] for each in job.messages if each["messageImportance"] == "JOB_MESSAGE_ERROR"]
    return str(message)


def done(cloud: Cloud, name: str, parameters: Mapping[str, Any], *more: str) -> Job:
    """A job of this template after its end, which has to be a good one."""
    job = cloud.ended(cloud.launch(name, {key: str(value) for key, value in parameters.items()}, *more))
    assert job.state == "JOB_STATE_DONE", job.messages
    return job


def rows_of(directory: str) -> pa.Table:
    filesystem, _ = storage.resolve(directory)
    paths = storage.list_files(directory, ".parquet")
    return pa.concat_tables([pq.read_table(path, filesystem=filesystem) for path in paths]).sort_by("customer_id")


def served(uri: str, rows: pa.Table) -> dict[str, dict[str, Any]]:
    with open_store(uri) as store:
        return store.lookup_many(rows["customer_id"].to_pylist())


def generations(uri: str) -> dict[str, Generation]:
    with open_store(uri) as store:
        return {each.name: each for each in store.generations()}


def current(uri: str) -> Generation:
    with open_store(uri) as store:
        found = store.current()
    assert found is not None
    return found


def shop_orders() -> pa.Table:
    """The shop's orders, each of one of seven items."""
    orders = features_data.shop_orders()
    return orders.append_column("item_id", pa.array([f"I{index % 7}" for index in range(orders.num_rows)]))


# --- Orders to served predictions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """The shop's orders by way of the templates; ``jobs`` by template, ``publishing`` the last one's parameters."""

    cloud: Cloud
    root: str
    jobs: Mapping[str, Job]
    publishing: Mapping[str, str]

    @property
    def predictions(self) -> pa.Table:
        return rows_of(f"{self.root}/predictions")


@pytest.fixture(scope="module")
def story(cloud: Cloud) -> Story:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    root = f"gs://{cloud.bucket}/shop"
    orders = f"{root}/orders.parquet"
    storage.write_parquet(shop_orders(), orders)
    with bigquery.Client("test-project", AnonymousCredentials()) as client:
        client.create_dataset("shop")
    common = {"orders": orders, "buckets": "3"}
    jobs = {}
    jobs["features"] = done(
        cloud, "features",
        {**common, "cutoff": CUTOFF, "horizon_days": SHOP_HORIZON_DAYS, "output": f"{root}/features"}, *OPTIONS,
    )  # fmt: skip
    training = ["--features", f"{root}/features", "--evaluation", f"{root}/features", "--model", "mbgnbd"]
    assert task.main([*training, "--output", f"{root}/model"]) == 0
    jobs["predict"] = done(cloud, "predict", {**common, "model": f"{root}/model", "output": f"{root}/predictions"})
    publishing = {
        "predictions": f"{root}/predictions", "serving": "datastore://shop-of-templates", "dead_letters": f"{root}/letters",
        "bigquery_table": "test-project.shop.predictions", "staging": f"{root}/staging", "ramp": "off",
    }  # fmt: skip
    jobs["publish"] = done(cloud, "publish", publishing)
    jobs["interactions"] = done(cloud, "interactions", {"orders": orders, "output": f"{root}/interactions"})
    return Story(cloud, root, jobs, publishing)


@pytest.mark.parametrize("name", NAMES)
def test_workers_run_the_image_and_nothing_is_staged_for_them(story: Story, name: str) -> None:
    from apache_beam.portability.api import beam_runner_api_pb2

    job = story.jobs[name]
    (container,) = job.pool["sdkHarnessContainerImages"]
    assert container["containerImage"] == image_name(name)
    graph = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(job.options["pipelineUrl"]))
    for environment in graph.components.environments.values():
        docker = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        assert docker.container_image == image_name(name)
    # What Beam notes of the launcher's own packages; it installs nothing of it.
    (note,) = job.pool["packages"]
    assert note["name"] == "submission_environment_dependencies.txt"
    noted = storage.read_bytes(str(note["location"]).replace("storage.googleapis.com/", "gs://", 1)).decode()
    assert "clv-pipelines" in noted and "apache-beam==" in noted and "pytest" not in noted


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_left_the_job_that_ran(story: Story, name: str) -> None:
    """What the service read is what Beam wrote, under the name and the id of the launch."""
    job = story.jobs[name]
    folder = storage.join(f"gs://{story.cloud.bucket}/temp/staging/template_launches", job.body["id"])
    left = json.loads(storage.read_bytes(f"{folder}/job_object"))
    assert (left["name"], left["type"]) == (job.body["name"], "JOB_TYPE_BATCH")
    assert left["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"] == job.options["pipelineUrl"]
    assert f"--template_location={folder}/job_object" in job.launcher
    assert "the service starts it" in storage.read_bytes(f"{folder}/console_logs").decode()


def test_what_gcloud_passes_on_reaches_the_job(story: Story) -> None:
    job = story.jobs["features"]
    assert job.body["labels"].items() >= {"team": "growth", "step": "features"}.items()
    assert job.environment["serviceAccountEmail"] == "runner@test-project.iam.gserviceaccount.com"
    assert job.pool["autoscalingSettings"]["maxNumWorkers"] == 3
    assert (job.pool["machineType"], job.pool["ipConfiguration"]) == ("e2-standard-2", "WORKER_IP_PRIVATE")


def test_features_hold_every_customer_of_the_orders_before_the_cutoff(story: Story) -> None:
    manifest = storage.read_manifest(f"{story.root}/features", "features")
    orders = shop_orders().select(["customer_id", "ordered_at"]).to_pylist()
    before = {order["customer_id"] for order in orders if order["ordered_at"].date() < CUTOFF}
    assert manifest["code_version"] == CODE_VERSION
    assert manifest["rows"] == len(before) < len({order["customer_id"] for order in orders})
    assert rows_of(f"{story.root}/features/raw")["customer_id"].to_pylist() == sorted(before)
    assert rows_of(f"{story.root}/features/transformed").num_rows == len(before)


def test_interactions_are_every_order_line_that_is_no_return(story: Story) -> None:
    manifest = storage.read_manifest(f"{story.root}/interactions", "interactions")
    prefix = f"{story.cloud.bucket}/shop/interactions/interactions/"
    files = [storage.read_bytes(f"gs://{path}").decode().splitlines() for path in storage.list_files(f"gs://{prefix}")]
    rows = sorted(line.split(",")[:3] for header, *lines in files for line in lines)
    orders = shop_orders().to_pylist()
    assert manifest["code_version"] == CODE_VERSION and all(check["passed"] for check in manifest["validation"])
    assert rows == sorted(
        [order["customer_id"], order["item_id"], str(int(order["ordered_at"].timestamp()))] for order in orders
    )


def test_predictions_are_those_of_this_machine(story: Story, tmp_path: Any) -> None:
    from pipelines import predict

    model = tmp_path / "model"
    prefix = f"{story.cloud.bucket}/shop/model/"
    for path in storage.list_files(f"{story.root}/model"):
        target = model / path.removeprefix(prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(f"gs://{path}"))
    orders = str(tmp_path / "orders.parquet")
    pq.write_table(shop_orders(), orders)
    arguments = ["--orders", orders, "--buckets", "3", "--model", str(model)]
    predict.run([*arguments, "--output", str(tmp_path / "predictions")])
    wanted = features_data.read_rows(tmp_path / "predictions")
    assert story.predictions.schema.equals(wanted.schema, check_metadata=True)
    for name in wanted.column_names:
        expected: Any = wanted[name].to_pylist()
        # Rows meet in other batches, and with them in other lanes of vector math: the last digits of a float64.
        exactly = not pa.types.is_floating(wanted[name].type)
        assert story.predictions[name].to_pylist() == (expected if exactly else pytest.approx(expected, rel=1e-12)), (
            name
        )


def test_every_customer_is_served_as_predicted(story: Story) -> None:
    wanted = {row["customer_id"]: row for row in story.predictions.to_pylist()}
    generation = current(story.publishing["serving"])
    found = served(story.publishing["serving"], story.predictions)
    assert found == {name: row | {"generation": generation.name} for name, row in wanted.items()}
    assert generation.as_of == SHOP_END and generation.content.rows == len(wanted) == 600


def test_bigquery_holds_the_same_rows(story: Story) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    with bigquery.Client("test-project", AnonymousCredentials()) as client:
        found = [dict(row) for row in client.query("SELECT * FROM `test-project.shop.predictions`").result()]
    assert {row["customer_id"]: row for row in found} == served(story.publishing["serving"], story.predictions)


def test_the_same_launch_again_changes_nothing(story: Story) -> None:
    serving = story.publishing["serving"]
    before = generations(serving), served(serving, story.predictions)
    job = done(story.cloud, "publish", story.publishing)
    assert job.body["id"] != story.jobs["publish"].body["id"]
    assert (generations(serving), served(serving, story.predictions)) == before


# --- What goes wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A Datastore project of its own, and the parameters of a publish to it."""

    cloud: Cloud
    serving: str
    root: str

    def write(self, name: str, table: pa.Table, as_of: Any = AS_OF) -> str:
        return publishing.write_predictions(f"{self.root}/{name}", [table], as_of)

    def parameters(self, predictions: str, **more: str) -> dict[str, str]:
        given = {"predictions": predictions, "serving": self.serving, "dead_letters": f"{self.root}/letters"}
        return {**given, "ramp": "off", **more}


@pytest.fixture
def place(cloud: Cloud) -> Place:
    name = f"test-{uuid.uuid4().hex[:12]}"
    return Place(cloud, f"datastore://{name}", f"gs://{cloud.bucket}/{name}")


def test_a_guard_that_trips_fails_the_job_and_an_override_with_any_character_lets_it_pass(place: Place) -> None:
    old, new = publishing.customers(300, publishing.EARLIER), publishing.customers(100, seed=2)
    done(place.cloud, "publish", place.parameters(place.write("old", old, publishing.EARLIER)))
    before = current(place.serving)

    parameters = place.parameters(place.write("new", new))
    error = error_of(place.cloud.ended(place.cloud.launch("publish", parameters)))
    assert "GuardTripped: " in error and "customers" in error
    assert current(place.serving).name == before.name
    assert {row["generation"] for row in served(place.serving, old).values()} == {before.name}

    reason = "the shop, in Spain ^ is shut"
    staged = done(place.cloud, "publish", {**parameters, "stage_only": "true"})
    assert staged.state == "JOB_STATE_DONE" and current(place.serving).name == before.name
    done(
        place.cloud,
        "publish",
        {**parameters, "stage_only": "false", "override": f"customers={reason};total_value=known"},
    )
    after = current(place.serving)
    assert after.content.rows == 100 and reason in str(dict(after.notes))
    assert served(place.serving, new).keys() == set(new["customer_id"].to_pylist())


def test_a_launcher_that_fails_leaves_its_one_line_and_no_job(place: Place) -> None:
    job = place.cloud.ended(place.cloud.launch("publish", place.parameters(f"{place.root}/nothing")))
    error = error_of(job)
    assert error.startswith("Error occurred in the launcher container: Template launch failed.")
    assert f"error: {place.root}/nothing is not a complete predictions directory" in error and "\n" not in error
    assert "environment" not in job.body
    log = f"gs://{place.cloud.bucket}/temp/staging/template_launches/{job.body['id']}/console_logs"
    assert "Traceback" not in storage.read_bytes(log).decode()


WRONG = [
    ({"predicitons": "gs://b-b/p"}, "predicitons"),
    ({"dead_letters": ""}, "dead_letters"),
    ({"predictions": "/tmp/predictions"}, "predictions"),
    ({"serving": "sqlite:///tmp/serving.db"}, "serving"),
    ({"stage_only": "yes"}, "stage_only"),
    ({"override": "customer=x"}, "override"),
]


def wrong(place: Place, change: Mapping[str, str]) -> dict[str, str]:
    given = place.parameters(f"{place.root}/predictions") | change
    return {name: value for name, value in given.items() if value}


@pytest.mark.parametrize(("change", "named"), WRONG)
def test_our_command_refuses_wrong_parameters_before_anything_starts(
    place: Place, change: dict[str, str], named: str
) -> None:
    calls = len(place.cloud.service.calls)
    launched = place.cloud.launch("publish", wrong(place, change))
    assert launched.returncode == 2
    (line,) = launched.stderr.splitlines()
    assert line.startswith("error: ") and f"--parameters {named}" in line
    assert len(place.cloud.service.calls) == calls, "Dataflow was not asked"


@pytest.mark.parametrize(("change", "named"), WRONG)
def test_the_service_refuses_them_too(place: Place, change: dict[str, str], named: str) -> None:
    jobs = len(place.cloud.service.jobs)
    parameters = ",".join(f"{name}={value}" for name, value in wrong(place, change).items())
    launched = gcloud.run(
        [
            "dataflow", "flex-template", "run", "clv-publish-by-hand", "--region", REGION,
            "--template-file-gcs-location", place.cloud.template("publish"), "--parameters", parameters,
        ],
        place.cloud.gcloud,
    )  # fmt: skip
    assert launched.returncode == 1
    assert "INVALID_ARGUMENT: The template parameters are invalid. Details: " in launched.stderr
    assert f"\n{named}: " in launched.stderr
    assert len(place.cloud.service.jobs) == jobs, "nothing was started"


def test_a_template_that_was_not_built_is_told_in_one_line(place: Place) -> None:
    parameters = [f"{name}={value}" for name, value in place.parameters(f"{place.root}/predictions").items()]
    template = f"{place.root}/never/built.json"
    launched = place.cloud.command(
        "templates.launch", "publish", "--template", template, "--project", "test-project", "--region", REGION,
        "--parameters", *parameters,
    )  # fmt: skip
    assert launched.returncode == 1
    assert f"Unable to open template file: {template}." in launched.stderr.splitlines()[-1]
