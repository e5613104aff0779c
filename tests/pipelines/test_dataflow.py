"""Jobs on Dataflow without a cloud: the request is checked, and what was staged is executed."""

from __future__ import annotations

import datetime
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.store import open_store
from tests.dataflow import run_staged, variables
from tests.dataflow.stub import JOBS, DataflowStub, Ending, Job
from tests.emulators.services import CloudStorage, FirestoreInDatastoreMode
from tests.pipelines import features_data, publishing
from transforms import storage

pytestmark = pytest.mark.emulators

ROOT = Path(__file__).resolve().parents[2]
CUTOFF = features_data.SHOP_END - datetime.timedelta(days=90)
WINDOW = ["--cutoff", str(CUTOFF), "--horizon_days", "90", "--buckets", "3"]
PLACE = ["--runner", "DataflowRunner", "--project", "test-project", "--region", "europe-west1"]


@pytest.fixture(scope="module")
def environment(cloud_storage: CloudStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """This process's variables, and those that lead every library of a process to the emulators."""
    with variables.leading_to(cloud_storage.url, tmp_path_factory.mktemp("dataflow")) as leading:
        yield {**os.environ, **leading}


def launch(
    arguments: list[str], environment: dict[str, str], module: str = "pipelines.features"
) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def run_what_is_staged(job: Job, environment: dict[str, str], folder: Path) -> Ending:
    """Executes the job's graph with the code of its staged packages, far from the checkout."""
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(staged(job, ".tar.gz")))) as tar:
        tar.extractall(folder, filter="data")
        (package,) = {name.split("/")[0] for name in tar.getnames()}
    done = subprocess.run(
        [sys.executable, "-P", run_staged.__file__, job.options["pipelineUrl"]],
        cwd=folder, env={**environment, "PYTHONPATH": str(folder / package)}, capture_output=True, text=True,
    )  # fmt: skip
    return Ending("JOB_STATE_FAILED", done.stderr) if done.returncode else Ending()


def staged(job: Job, suffix: str) -> str:
    """The URI of the one staged package whose name ends so."""
    (location,) = [p["location"] for p in job.pool["packages"] if p["name"].endswith(suffix)]
    return str(location).replace("storage.googleapis.com/", "gs://", 1)


def orders() -> pa.Table:
    """The small shop, and seven lines that nobody can use."""
    shop = features_data.shop_orders()
    price = shop["unit_price"].to_numpy().copy()
    price[100:800:100] = np.inf
    return shop.set_column(shop.column_names.index("unit_price"), "unit_price", pa.array(price))


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=2_000)
    return sink.getvalue()


def table_of(directory: str) -> pa.Table:
    paths = storage.list_files(directory, ".parquet")
    filesystem, _ = storage.resolve(directory)
    return pa.concat_tables([pq.read_table(path, filesystem=filesystem) for path in paths]).sort_by("customer_id")


def letters_of(directory: str) -> list[str]:
    filesystem, _ = storage.resolve(directory)
    texts = []
    for path in storage.list_files(storage.join(directory, "dead_letters"), ".jsonl"):
        with filesystem.open_input_stream(path) as stream:
            texts += bytes(stream.read()).decode().splitlines()
    return sorted(texts)


# --- The whole way --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(
    cloud_storage: CloudStorage, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Features of the shop twice: by a job on Dataflow from bucket to bucket, and on this machine from its files."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    from pipelines import features

    with Client("test-project", AnonymousCredentials()) as client:
        client.create_bucket("shop")
    folder = tmp_path_factory.mktemp("shop")
    (folder / "orders.parquet").write_bytes(parquet_bytes(orders()))
    storage.write_bytes("gs://shop/orders.parquet", parquet_bytes(orders()))
    local = features.run(["--orders", str(folder / "orders.parquet"), "--output", str(folder / "features"), *WINDOW])
    with DataflowStub(lambda job: run_what_is_staged(job, environment, folder / "staged")) as service:
        done = launch(
            [
                "--orders", "gs://shop/orders.parquet", "--output", "gs://shop/features", *WINDOW,
                *PLACE, "--temp_location", "gs://shop/temp",
                "--dataflow_endpoint", service.url,  # the only flag that a job in the cloud would not have
                "--service_account_email", "runner@test-project.iam.gserviceaccount.com",
                "--subnetwork", "regions/europe-west1/subnetworks/private", "--no_use_public_ips",
                "--dataflow_kms_key", "projects/test-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
                "--labels", "team=growth",
            ],
            environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (job,) = service.jobs
    assert not service.refusals
    return {"job": job, "stderr": done.stderr, "local": local, "folder": str(folder / "features")}


def test_the_job_is_what_dataflow_is_asked_for(shop: dict[str, Any]) -> None:
    job: Job = shop["job"]
    assert job.body["name"].startswith(f"clv-features-{CUTOFF}-")
    assert job.body["labels"] == {"team": "growth", "step": "features", "cutoff": str(CUTOFF)}
    assert job.body["type"] == "JOB_TYPE_BATCH"
    assert job.environment["serviceAccountEmail"] == "runner@test-project.iam.gserviceaccount.com"
    assert job.environment["serviceKmsKeyName"].endswith("/cryptoKeys/k")
    assert {"use_runner_v2", "use_unified_worker"} <= set(job.environment["experiments"])
    assert job.environment["version"]["job_type"] == "FNAPI_BATCH"
    pool = job.pool
    assert pool["autoscalingSettings"] == {"algorithm": "AUTOSCALING_ALGORITHM_BASIC", "maxNumWorkers": 16}
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("e2-standard-4", 50, 2)
    assert pool["subnetwork"] == "regions/europe-west1/subnetworks/private"
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    (image,) = pool["sdkHarnessContainerImages"]
    version = ".".join(map(str, sys.version_info[:2]))
    assert image["containerImage"].rsplit("/", 1)[-1].startswith(f"beam_python{version}_sdk:2.77")


def test_workers_get_our_packages_and_no_tests(shop: dict[str, Any]) -> None:
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(staged(shop["job"], ".tar.gz")))) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for package in ("pipelines", "transforms", "trainer", "serving"):
        sources = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert sources <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_the_staged_job_makes_what_a_local_run_makes(shop: dict[str, Any]) -> None:
    manifest, local = storage.read_manifest("gs://shop/features", "features"), shop["local"]
    for name in ("rows", "lines", "splits", "data_end", "dead_letter_examples", "code_version"):
        assert manifest[name] == local[name], name
    assert [part["name"] for part in manifest["parts"]] == [part["name"] for part in local["parts"]]
    assert manifest["lines"]["dead_letters"] == {"bad_unit_price": 7}
    assert letters_of("gs://shop/features") == letters_of(shop["folder"])
    features_data.assert_same_customers(table_of("gs://shop/features/raw"), table_of(f"{shop['folder']}/raw"))
    ours, theirs = table_of("gs://shop/features/transformed"), table_of(f"{shop['folder']}/transformed")
    assert ours.schema == theirs.schema
    for name in ours.column_names:
        if pa.types.is_floating(ours[name].type):
            # Two analyses of the same rows add them up in different orders.
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            assert ours[name].equals(theirs[name]), name


def test_the_bucket_holds_the_same_files_and_no_scratch(shop: dict[str, Any]) -> None:
    names = [path.removeprefix("shop/features/") for path in storage.list_files("gs://shop/features")]
    local = [os.path.relpath(path, shop["folder"]) for path in storage.list_files(shop["folder"])]
    assert sorted(names) == sorted(local)


def test_the_command_tells_where_the_job_is_and_how_it_goes(shop: dict[str, Any]) -> None:
    lines = shop["stderr"].splitlines()
    page = f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{shop['job'].body['id']}?project=test-project"
    assert any(line.startswith("features: Dataflow job ") and line.endswith(page) for line in lines)
    assert any("is in state JOB_STATE_DONE" in line for line in lines)
    assert any("Worker configuration: e2-standard-4" in line for line in lines)
    assert any(line.startswith(f"features: {shop['local']['rows']:,} customers from ") for line in lines)


def test_unusable_orders_end_the_command_as_on_one_machine(
    environment: dict[str, str], bucket: str, tmp_path: Path
) -> None:
    content = bytearray(parquet_bytes(orders()))
    content[200:400] = bytes(200)  # inside the first column; the footer, which is read before the job, is whole
    storage.write_bytes(f"gs://{bucket}/orders.parquet", bytes(content))
    with DataflowStub(lambda job: run_what_is_staged(job, environment, tmp_path)) as service:
        done = launch(
            [
                "--orders", f"gs://{bucket}/orders.parquet", "--output", f"gs://{bucket}/features", *WINDOW,
                *PLACE, "--temp_location", f"gs://{bucket}", "--dataflow_endpoint", service.url,
            ],
            environment,
        )  # fmt: skip
    assert service.jobs[0].state == "JOB_STATE_FAILED"
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: --orders 'gs://{bucket}/orders.parquet': ")
    assert storage.list_files(f"gs://{bucket}/features") == [f"{bucket}/features/_started.json"]


# --- How a job ends -------------------------------------------------------------------------------------------------

TINY = """
import sys
import apache_beam as beam
from pipelines import options, run_job
from transforms.cli import exit_code

def run():
    pipeline = beam.Pipeline(options=options.pipeline_options(sys.argv[1:], step="tiny"))
    pipeline | beam.Create([1]) | beam.Map(abs)
    run_job.execute(pipeline, "tiny")

sys.exit(exit_code(run))
"""


class Tiny:
    """A command with a job of one step, started at once; how the job ends is up to the test."""

    def __init__(self, environment: dict[str, str], bucket: str, **service: Any) -> None:
        self.finish = threading.Event()
        self.ending = Ending()
        self.service = DataflowStub(self._run, **service).__enter__()
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", TINY, *PLACE, "--temp_location", f"gs://{bucket}/temp",
                "--dataflow_endpoint", self.service.url,
                # Nothing is executed: no need to build and stage our packages.
                "--sdk_location", "container", "--sdk_container_image", "image",
            ],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _run(self, _: Job) -> Ending:
        assert self.finish.wait(60)
        return self.ending

    def wait_until_running(self) -> Job:
        until = time.monotonic() + 60
        while not self.service.jobs or f"{JOBS}.get" not in self.service.calls:
            assert time.monotonic() < until and self.process.poll() is None, self.end()
            time.sleep(0.05)
        return self.service.jobs[0]

    def end(self) -> tuple[int, list[str]]:
        """The exit code and the lines on stderr."""
        _, stderr = self.process.communicate(timeout=90)
        self.service.__exit__(None, None, None)
        assert not [refusal for refusal in self.service.refusals if not refusal.startswith("403 ")]
        return self.process.returncode, stderr.splitlines()


def test_every_other_end_is_told_in_one_line(environment: dict[str, str], bucket: str) -> None:
    """A job fails, is interrupted, is cancelled by somebody else, is not accepted. All at once: Beam polls slowly."""
    failed, interrupted, cancelled = (Tiny(environment, bucket) for _ in range(3))
    denied = Tiny(environment, bucket, denials={f"{JOBS}.create": (403, "dataflow.jobs.create is missing on p")})

    failed.ending = Ending("JOB_STATE_FAILED", "Workflow failed. Causes: The zone has no more e2-standard-4.")
    failed.finish.set()
    job = interrupted.wait_until_running()
    interrupted.process.send_signal(signal.SIGINT)
    cancelled.ending = Ending("JOB_STATE_CANCELLED")
    cancelled.wait_until_running()
    cancelled.finish.set()

    code, lines = denied.end()
    assert code == 1 and lines[-1].endswith("Dataflow did not accept the job: 403 POST " + _create_url(denied)), lines

    code, lines = interrupted.end()
    assert code == 130 and "tiny: cancelling the job" in lines, lines
    assert job.state == "JOB_STATE_CANCELLED"
    interrupted.finish.set()

    code, lines = failed.end()
    page = f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{failed.service.jobs[0].body['id']}"
    assert code == 1
    assert lines[-1].endswith(
        "the Dataflow job ended as FAILED: Workflow failed. Causes: The zone has no more e2-standard-4.; "
        f"more on {page}?project=test-project"
    ), lines

    code, lines = cancelled.end()
    assert code == 1 and "the Dataflow job ended as CANCELLED: no reason was given; more on " in lines[-1], lines


def _create_url(tiny: Tiny) -> str:
    path = "/v1b3/projects/test-project/locations/europe-west1/jobs"
    return f"{tiny.service.url}{path}?%24alt=json%3Benum-encoding%3Dint: dataflow.jobs.create is missing on p"


# --- Publishing -----------------------------------------------------------------------------------------------------


def test_a_publish_stages_on_dataflow_and_switches_here(
    cloud_storage: CloudStorage, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files by two writers, with rows that are unusable and a customer who occurs in two files."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    good = publishing.customers(900)
    bad = publishing.table_of([row for _, row in publishing.unusable(20)])
    twice = (
        publishing.table_of([publishing.prediction("twice", 1.0)]),
        publishing.table_of(
            [
                publishing.prediction("twice", 2.0),
                publishing.prediction("equal", 3.0),
                publishing.prediction("equal", 3.0),
            ]
        ),
    )
    with Client("test-project", AnonymousCredentials()) as client:
        client.create_bucket("published")
    tables = [good.slice(0, 400), pa.concat_tables([good.slice(400), bad, twice[0]]), twice[1]]
    directory = publishing.write_predictions("gs://published/predictions", tables)
    with FirestoreInDatastoreMode() as datastore:
        followed = environment | {"DATASTORE_EMULATOR_HOST": datastore.host}
        with DataflowStub(lambda job: run_what_is_staged(job, followed, tmp_path / "staged")) as service:
            done = launch(
                [
                    "--predictions", directory, "--serving", "datastore://my-project", "--ramp", "off", "--shards", "2",
                    "--dead_letters", "gs://published/letters", *PLACE, "--temp_location", "gs://published/temp",
                    "--dataflow_endpoint", service.url, *publishing.TOLERANT, "--override", "missing=a test",
                ],
                followed,
                "pipelines.publish",
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (job,) = service.jobs
        assert job.body["name"].startswith("clv-publish-2011-12-10-")
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", datastore.host)
        with open_store("datastore://my-project") as store:
            current = store.current()
            served = store.lookup_many([*good["customer_id"].to_pylist(), "twice", "equal"])
    assert current is not None
    assert (current.content.rows, sum(current.dead_letters.values())) == (901, 23)
    assert current.dead_letters["duplicate_customer_id"] == 2
    assert {name: row["predicted_value"] for name, row in served.items()} == {
        **dict(zip(good["customer_id"].to_pylist(), good["predicted_value"].to_pylist(), strict=True)), "equal": 3.0,
    }  # fmt: skip
    assert len(storage.list_files(f"gs://published/letters/{current.name}", ".jsonl")) == 2
