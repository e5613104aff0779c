"""Jobs on Dataflow that nobody waits for: the command ends before its job runs, and the job leaves what a waiting run does.

The stub holds each job until the test lets it go, then executes what was staged; the workers run the code of this
checkout, as an image of one's own would hold it (``test_dataflow`` has the staged packages).
"""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pytest

from pipelines import features, predict, publish, publish_guards
from serving.store import Generation, State, WentBack, open_store
from tests.dataflow import run_staged
from tests.dataflow.stub import JOBS, DataflowStub, Ending, Job
from tests.emulators.services import FirestoreInDatastoreMode
from tests.pipelines import features_data, publishing
from tests.pipelines.cloud import Cloud, assert_serves
from tests.pipelines.publishing import EARLIER, customers
from tests.pipelines.test_dataflow import PLACE, ROOT, WINDOW, environment, launch, orders, parquet_bytes, table_of
from tests.pipelines.test_publish_conclude import staged_by
from tests.serving.store_contract import AS_OF
from transforms import storage

pytestmark = pytest.mark.emulators

__all__ = ["environment"]  # a fixture
CODE = ["--sdk_location", "container", "--sdk_container_image", "image"]  # nothing to build and to stage
TOLERANT = (*publishing.TOLERANT, "--override", "missing=a test")


class Service(DataflowStub):
    """Dataflow whose jobs begin when the test lets them, each executed as it was staged."""

    def __init__(self, environment: dict[str, str], folder: Path, bucket: str) -> None:
        super().__init__(self._held)
        self.environment, self.folder, self.bucket = environment, folder, bucket
        self._may_run = threading.Semaphore(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._may_run.release(100)
        super().__exit__(kind, error, trace)

    def _held(self, job: Job) -> Ending:
        assert self._may_run.acquire(timeout=300)
        return self.execute(job.options["pipelineUrl"])

    def execute(self, graph: str) -> Ending:
        done = subprocess.run(
            [sys.executable, "-P", run_staged.__file__, graph], cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return Ending("JOB_STATE_FAILED", done.stderr) if done.returncode else Ending()

    def command(
        self, module: str, arguments: list[str], *how: str, code: int = 0
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """The command as a person runs it; by default without waiting."""
        place = [*PLACE, *CODE, "--temp_location", f"gs://{self.bucket}/temp", "--dataflow_endpoint", self.url]
        done = launch(
            [*arguments, *place, *(how or ("--no_wait_until_finish",))], self.environment, f"pipelines.{module}"
        )
        assert done.returncode == code, done.stderr
        return done

    def submitted(self, module: str, arguments: list[str]) -> Job:
        """The job of a command that has ended; it has not begun."""
        before = len(self.jobs)
        done = self.command(module, arguments)
        (job,) = self.jobs[before:]
        page = f"dataflow/jobs/europe-west1/{job.body['id']}?project=test-project"
        assert any(line.endswith(page) for line in done.stderr.splitlines()), done.stderr
        assert not job.ended.is_set()
        return job

    def finish(self, job: Job, state: str = "JOB_STATE_DONE") -> str:
        """Lets the job that began first run to its end; its error message, if any."""
        self._may_run.release()
        assert job.ended.wait(300)
        error = "\n".join(m["messageText"] for m in job.messages if m["messageImportance"] == "JOB_MESSAGE_ERROR")
        assert job.state == state, error
        return error


def steps(job: Job) -> list[str]:
    """The names of the job's steps, without composites."""
    from apache_beam.portability.api import beam_runner_api_pb2

    graph = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(job.options["pipelineUrl"]))
    named = {each.unique_name.split("/")[0] for each in graph.components.transforms.values()}
    return sorted(name for name in named if name and not name.startswith("ref_"))


@pytest.fixture
def service(environment: dict[str, str], bucket: str, tmp_path: Path) -> Iterator[Service]:
    with Service(environment, tmp_path, bucket) as service:
        yield service


# --- Publishing -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datastore() -> Iterator[FirestoreInDatastoreMode]:
    with FirestoreInDatastoreMode() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASTORE_EMULATOR_HOST", service.host)
        yield service


@pytest.fixture
def shop(datastore: FirestoreInDatastoreMode, service: Service, tmp_path: Path) -> Shop:
    service.environment = {**service.environment, "DATASTORE_EMULATOR_HOST": datastore.host}
    return Shop(tmp_path, f"datastore://test-{uuid.uuid4().hex[:12]}", bucket=service.bucket)


class Shop(Cloud):
    """A cloud whose predictions and dead letters are in a bucket, where workers reach them."""

    def arguments(self, directory: str, *more: str) -> list[str]:
        letters = ["--dead_letters", f"gs://{self.bucket}/letters-{self.project}"]
        return ["--predictions", directory, *self.places(), *letters, "--ramp", "off", "--shards", "2", *more]

    def given(self, name: str, *tables: pa.Table, as_of: datetime.date = AS_OF) -> str:
        return publishing.write_predictions(f"gs://{self.bucket}/{name}", tables, as_of)

    def earlier(self, number: int = 300) -> str:
        """Publishes yesterday's predictions, and waits."""
        day = AS_OF - datetime.timedelta(days=1)
        return str(self.publish(self.given(f"earlier-{self.project}", customers(number, day), as_of=day))["generation"])

    def generations(self) -> list[Generation]:
        with open_store(self.serving) as store:
            return store.generations()

    def current(self) -> str | None:
        with open_store(self.serving) as store:
            current = store.current()
        return current.name if current else None

    def letters(self, generation: str) -> list[str]:
        directory = f"gs://{self.bucket}/letters-{self.project}/{generation}"
        texts = [storage.read_bytes(f"gs://{path}").decode() for path in storage.list_files(directory, ".jsonl")]
        return sorted(line for text in texts for line in text.splitlines())

    def manifest(self, generation: str) -> dict[str, Any]:
        directory = f"gs://{self.bucket}/letters-{self.project}/{generation}"
        return {**storage.read_manifest(directory, "dead_letters"), "figures": None, "parts": None}


def without_times(generation: Generation) -> Generation:
    nothing = dict.fromkeys(("created_at", "begun_at", "sealed_at", "published_at", "expires_at", "warehouse"))
    return replace(generation, **nothing)  # type: ignore[arg-type]


def test_a_publish_ends_by_itself_as_one_that_was_waited_for(
    shop: Shop, service: Service, dataset: str, tmp_path: Path
) -> None:
    """Store and BigQuery, dead letters, a generation that expires; then once more, when it is current already."""
    import os

    bigquery_at = ("BIGQUERY_EMULATOR_HOST", "BIGQUERY_STORAGE_EMULATOR_HOST")
    service.environment |= {name: os.environ[name] for name in bigquery_at}
    detached = replace(shop, table=f"{dataset}.detached")
    waiting = replace(shop, serving=f"{shop.serving}-w", table=f"{dataset}.waiting", published=[])
    good, bad = customers(300), publishing.table_of([row for _, row in publishing.unusable(12)])
    for day in (EARLIER, EARLIER + datetime.timedelta(days=1)):
        former = shop.given(str(day), customers(290, day), as_of=day)
        for cloud in (detached, waiting):
            cloud.publish(former, "--keep_generations", "1")
    directory = shop.given("predictions", good.slice(0, 200), pa.concat_tables([good.slice(200), bad]))
    more = ("--keep_generations", "1", *TOLERANT)
    waiting.publish(directory, *more)
    oldest, before = detached.published

    job = service.submitted("publish", detached.arguments(directory, *more))
    assert detached.current() == before
    assert [each.state for each in detached.generations()] == [State.STAGED, State.SEALED, State.SEALED]
    service.finish(job)
    name = waiting.published[-1]
    assert [without_times(each) for each in detached.generations()] == [
        without_times(each) for each in waiting.generations()
    ]
    assert oldest not in {each.name for each in detached.generations()}
    assert_serves(detached, name, good)
    assert detached.letters(name) == waiting.letters(name) and len(detached.letters(name)) == 12
    assert detached.manifest(name) == waiting.manifest(name)
    rows = [
        cloud.query(f"SELECT * FROM `{cloud.table}_current` ORDER BY customer_id") for cloud in (detached, waiting)
    ]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 300
    tables = [[table for table in detached.tables() if table.startswith(kind)] for kind in ("detached", "waiting")]
    assert [table.replace("detached", "waiting") for table in tables[0]] == tables[1]

    again, generations = service.submitted("publish", detached.arguments(directory, *more)), detached.generations()
    assert steps(again) == ["Conclude", "Sealed"]
    service.finish(again)
    assert detached.generations() == generations and detached.current() == name
    assert not service.refusals


def test_a_guard_that_trips_fails_the_job_and_an_override_goes_on(shop: Shop, service: Service) -> None:
    served = shop.earlier()
    directory = shop.given("few", customers(100))
    job = service.submitted("publish", shop.arguments(directory))
    error = service.finish(job, "JOB_STATE_FAILED")
    assert "GuardTripped: not switched: customers 100, 0.33 of the 300" in error
    assert shop.current() == served
    overrides = [f"--override={guard}=a test" for guard in ("customers", "total_value")]
    later = service.submitted("publish", shop.arguments(directory, *overrides))
    assert steps(later) == ["Conclude", "Sealed"]
    service.finish(later)
    assert_serves(shop, str(shop.current()), customers(100))


def test_what_the_manifest_alone_shows_is_refused_before_there_is_a_job(shop: Shop, service: Service) -> None:
    served = shop.earlier()
    older = shop.given("older", customers(300, EARLIER), as_of=EARLIER)
    done = service.command("publish", shop.arguments(older), code=publish_guards.NOT_SWITCHED)
    assert done.stderr.splitlines()[-1].startswith("error: not switched: as_of 2011-11-10, 29 days before")
    done = service.command("publish", shop.arguments(older, "--registry", "work/registry"), code=2)
    assert done.stderr.splitlines()[-1].startswith("error: --registry 'work/registry' is not usable with --runner")
    assert not service.jobs and [each.name for each in shop.generations()] == [served]


def test_a_template_is_written_and_nothing_is_sent(shop: Shop, service: Service) -> None:
    """The launcher's part; what the service would start from the file ends the publish. One that comes late does not."""
    served = shop.earlier()
    directory = shop.given("predictions", customers(310))
    files = [f"gs://{service.bucket}/launches/{number}/job_object" for number in range(2)]
    for file in files:
        done = service.command("publish", shop.arguments(directory), "--template_location", file)
        assert any(line.startswith(f"publish: the job is written to {file}") for line in done.stderr.splitlines())
    assert not service.jobs and f"{JOBS}.create" not in service.calls
    assert shop.current() == served
    graphs = []
    for file in files:
        written = json.loads(storage.read_bytes(file))
        assert written["name"].startswith("clv-publish-2011-12-10-")
        graphs.append(written["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"])
    assert service.execute(graphs[1]).state == "JOB_STATE_DONE"
    assert_serves(shop, str(shop.current()), customers(310))
    generations = shop.generations()
    assert generations[0].attempt == 2
    late = service.execute(graphs[0])  # the launch before, whose job was never heard of
    assert "Superseded: attempt 1 to stage generation" in late.error
    assert service.execute(graphs[1]).state == "JOB_STATE_FAILED"  # a job that is run again writes nothing
    assert shop.generations() == generations
    assert_serves(shop, generations[0].name, customers(310))


def test_a_job_that_failed_is_followed_by_another_attempt(shop: Shop, service: Service) -> None:
    good = customers(201)
    directory = shop.given("predictions", good.slice(0, 200), good.slice(200))
    lost = f"{directory}/part-00001.parquet"
    content = storage.read_bytes(lost)
    job = service.submitted("publish", shop.arguments(directory))
    storage.write_bytes(lost, content[:100])
    assert f"--predictions '{directory}'" in service.finish(job, "JOB_STATE_FAILED")
    assert shop.current() is None
    storage.write_bytes(lost, content)
    job = service.submitted("publish", shop.arguments(directory))
    assert "Stage" in steps(job)
    service.finish(job)
    assert_serves(shop, str(shop.current()), good)
    assert [each.attempt for each in shop.generations()] == [2]


def test_several_conclusions_at_once_are_one(shop: Shop) -> None:
    """In Datastore alone: the emulated BigQuery makes no two tables at a time."""
    shop.earlier()
    conclusion, staged = staged_by(shop, shop.given("predictions", customers(300)))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(conclusion.run, [staged] * 4))
    assert {result["rows"] for result in results} == {300}
    assert shop.current() == conclusion.begun.name and len(shop.generations()) == 2
    assert_serves(shop, conclusion.begun.name, customers(300))


def test_the_conclusion_may_come_again_and_late(shop: Shop, dataset: str) -> None:
    """Against Datastore and BigQuery, without a job: what ``test_publish_conclude`` does with a local store."""
    cloud = replace(shop, table=f"{dataset}.predictions")
    served = cloud.earlier()
    conclusion, staged = staged_by(cloud, cloud.given("predictions", customers(300)))
    assert conclusion.run(staged)["switched"]
    before, tables = cloud.generations(), cloud.tables()
    assert conclusion.run(staged)["already_current"]
    assert (cloud.generations(), cloud.tables()) == (before, tables)
    assert_serves(cloud, conclusion.begun.name, customers(300))
    assert len(cloud.query(f"SELECT customer_id FROM `{cloud.table}_current`")) == 300
    assert publish.main(["rollback", *cloud.places(), "--to", served, "--reason", "a test"]) == 0
    before = cloud.generations()
    with pytest.raises(WentBack):
        conclusion.run(staged)
    assert cloud.generations() == before and cloud.current() == served


# --- Features and predictions ---------------------------------------------------------------------------------------


def test_features_complete_themselves(service: Service, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "orders.parquet").write_bytes(parquet_bytes(orders()))
    storage.write_bytes(f"gs://{bucket}/orders.parquet", parquet_bytes(orders()))
    here, there = str(tmp_path / "features"), f"gs://{bucket}/features"
    local = features.run(["--orders", str(tmp_path / "orders.parquet"), "--output", here, *WINDOW])
    arguments = ["--orders", f"gs://{bucket}/orders.parquet", "--output", there, *WINDOW]

    first = service.submitted("features", arguments)
    assert not storage.exists(f"{there}/{storage.MANIFEST}")
    scratch = [path for path in storage.list_files(there) if "/_" in path.removeprefix(f"{bucket}/features")]
    assert scratch
    taken_over = service.command("features", arguments)
    assert f"features: {there} held an attempt that did not end, and its scratch space: deleted" in taken_over.stderr
    assert "was begun anew by another run: this one does not finish it" in service.finish(first, "JOB_STATE_FAILED")
    assert not storage.exists(f"{there}/{storage.MANIFEST}")
    service.finish(service.jobs[1])
    manifest = storage.read_manifest(there, "features")
    for name in ("rows", "lines", "splits", "data_end", "dead_letter_examples"):
        assert manifest[name] == local[name], name
    features_data.assert_same_customers(table_of(f"{there}/raw"), table_of(f"{here}/raw"))
    names = [path.removeprefix(f"{bucket}/features/") for path in storage.list_files(there)]
    assert sorted(names) == sorted(str(path.relative_to(here)) for path in Path(here).rglob("*") if path.is_file())


@functools.cache
def model() -> str:
    return features_data.shop_cycle().serve.model


def test_predictions_complete_themselves(service: Service, bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"gs://{bucket}/orders.parquet", Path(features_data.shop_file()).read_bytes())
    storage.copy_directory(model(), f"gs://{bucket}/model")
    here, there = str(tmp_path / "predictions"), f"gs://{bucket}/predictions"
    local = predict.run(["--orders", features_data.shop_file(), "--model", model(), "--output", here])
    arguments = ["--orders", f"gs://{bucket}/orders.parquet", "--model", f"gs://{bucket}/model", "--output", there]

    job = service.submitted("predict", arguments)
    assert not storage.exists(f"{there}/{storage.MANIFEST}")
    service.finish(job)
    assert {**storage.read_manifest(there, "predictions"), "arguments": 0, "source": 0, "parts": 0} == {
        **local, "arguments": 0, "source": 0, "parts": 0,
    }  # fmt: skip
    assert table_of(there).select(["customer_id", "decile"]).equals(table_of(here).select(["customer_id", "decile"]))

    before = {path: storage.read_bytes(f"gs://{path}") for path in storage.list_files(there)}
    again = service.submitted("predict", arguments)
    assert steps(again) == ["Confirm", "Last"]
    service.finish(again)
    assert {path: storage.read_bytes(f"gs://{path}") for path in storage.list_files(there)} == before
    storage.delete_directory(there)
    third = service.submitted("predict", arguments)
    assert "Complete" in steps(third)
