"""Airflow's own hooks and triggers, led to the stubs: what they ask for, and what they make of the answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow.flex_templates import ENTRY, LAUNCH, Image
from tests.dataflow.stub import DataflowStub, Ending, Job
from tests.emulators.services import CloudStorage
from tests.google import front
from tests.vertex.stub import Fault, VertexStub
from transforms import storage

pytestmark = pytest.mark.airflow  # and the emulators' environment has the discovery documents

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW_PYTHON = os.environ.get("CLV_AIRFLOW_PYTHON", str(ROOT / ".venv-airflow" / "bin" / "python"))
CLIENT = Path(__file__).with_name("airflow_client.py")
PROJECT, LOCATION = "test-project", "europe-west1"
SECONDS = 180.0  # for one call: its first loads half of Airflow
PLACE = {"project": PROJECT, "location": LOCATION}
IMAGE = "europe-docker.pkg.dev/p/r/clv:1"
JOB = {
    "name": "clv-predict-2011-08-08",
    "type": "JOB_TYPE_BATCH",
    "environment": {"workerPools": [{"numWorkers": 1}], "sdkPipelineOptions": {"options": {"as_of": "2011-08-08"}}},
}
CONNECTION = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": PROJECT}}
LAUNCHER = f"""
import sys
from transforms import storage
location, = [given.partition("=")[2] for given in sys.argv if given.startswith("--template_location=")]
storage.write_bytes(location, {json.dumps(JOB)!r}.encode())
"""

Call = Callable[..., Any]


class Airflow:
    """One process of airflow_client.py: calls of it, one after the other."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log, self._stderr = log, log.open("w")
        self._process = subprocess.Popen(
            [AIRFLOW_PYTHON, "-P", str(CLIENT)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True,
        )  # fmt: skip

    def call(self, function: str, /, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()
        # A process that hangs is ended, and its answer is then empty.
        patience = threading.Timer(SECONDS, self._process.kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        answer = json.loads(line) if line else {"error": "it ended"}
        assert "error" not in answer, f"{answer['error']}\n{self._log.read_text()}"
        return answer["answer"]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


@pytest.fixture(scope="module")
def let_go() -> threading.Event:
    """What Dataflow's jobs wait for whose name begins with "held"."""
    return threading.Event()


@pytest.fixture(scope="module")
def dataflow(
    cloud_storage: CloudStorage, let_go: threading.Event, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DataflowStub]:
    entry = tmp_path_factory.mktemp("image") / "launcher.py"
    entry.write_text(LAUNCHER)
    image = Image(sys.executable, {**os.environ, "PYTHONPATH": str(ROOT), ENTRY: str(entry)})

    def run(job: Job) -> Ending:
        if job.body["name"].startswith("held"):
            assert let_go.wait(SECONDS)
        time.sleep(1.5)  # longer than a trigger's pause: it has to ask again
        failed = job.body["name"].startswith("fails")
        return Ending("JOB_STATE_FAILED", "out of memory") if failed else Ending()

    with DataflowStub(run, images={IMAGE: image}) as stub:
        yield stub
        let_go.set()


@pytest.fixture(scope="module")
def vertex() -> Iterator[VertexStub]:
    with VertexStub(images={IMAGE: Image(sys.executable, dict(os.environ))}) as stub:
        yield stub


@pytest.fixture(scope="module")
def airflow(
    dataflow: DataflowStub, vertex: VertexStub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Airflow, front.Variables]]:
    # Without it httplib2 passes proxies by in silence, and asks the real host.
    subprocess.run([AIRFLOW_PYTHON, "-c", "import socks"], check=True)
    folder = tmp_path_factory.mktemp("google")
    hosts = {"dataflow.googleapis.com": dataflow.url, f"{LOCATION}-aiplatform.googleapis.com": vertex.url}
    with front.opened(hosts, folder, AIRFLOW_PYTHON) as google:
        environment = {
            **os.environ,
            **google,
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(CONNECTION),
        }
        process = Airflow(environment, folder / "airflow.log")
        try:
            yield process, google
        finally:
            process.end()


@pytest.fixture
def call(airflow: tuple[Airflow, front.Variables]) -> Iterator[Call]:
    process, google = airflow
    yield process.call
    assert google.refused == [], "something else was asked for"


def started(stub: DataflowStub, name: str) -> str:
    """The id of a job that the service runs."""
    body = json.dumps({**JOB, "name": name}).encode()
    return str(stub.answer("POST", f"/v1b3/projects/{PROJECT}/locations/{LOCATION}/jobs", body)["id"])


def submitted(stub: VertexStub, program: str) -> str:
    """The id of a custom job whose container is this Python program."""
    container = {"imageUri": IMAGE, "command": ["python", "-c", program]}
    pool = {"machineSpec": {"machineType": "n2-standard-8"}, "replicaCount": "1", "containerSpec": container}
    body = {"displayName": "clv-train", "jobSpec": {"workerPoolSpecs": [pool]}}
    answer = stub.answer("POST", f"/v1/projects/{PROJECT}/locations/{LOCATION}/customJobs", json.dumps(body).encode())
    return str(answer["name"].split("/")[-1])


def launch_body(bucket: str, name: str) -> dict[str, Any]:
    spec = f"gs://{bucket}/predict.json"
    storage.write_bytes(spec, json.dumps({"image": IMAGE, "sdkInfo": {"language": "PYTHON"}}).encode())
    environment = {"tempLocation": f"gs://{bucket}/temp", "additionalUserLabels": {"run": "1"}}
    parameters = {"as_of": "2011-08-08"}
    return {
        "launchParameter": {
            "jobName": name, "containerSpecGcsPath": spec, "parameters": parameters, "environment": environment,
        }
    }  # fmt: skip


def test_a_flex_template_is_launched_and_its_end_is_seen(call: Call, dataflow: DataflowStub, bucket: str) -> None:
    launched = call("launch", body=launch_body(bucket, "launched"), **PLACE)
    (job,) = [job for job in dataflow.jobs if job.body["name"] == "launched"]
    assert launched["id"] == job.body["id"]
    assert "--as_of=2011-08-08" in job.launcher and job.body["labels"] == {"run": "1"}
    event = call("dataflow_event", job=launched["id"], **PLACE)
    assert (event["status"], event["job_id"]) == ("success", launched["id"])
    assert job.ended.is_set() and job.state == "JOB_STATE_DONE", job.messages


def test_a_launch_whose_answer_is_lost_is_tried_again_and_refused(
    call: Call, dataflow: DataflowStub, bucket: str
) -> None:
    """The libraries repeat it by themselves: an operator has to look for its job where it is told there is one."""
    dataflow.lost.append(LAUNCH)
    with pytest.raises(AssertionError, match=r"HttpError 409 .* already an active job named held-launch"):
        call("launch", body=launch_body(bucket, "held-launch"), **PLACE)
    (found,) = call("jobs", filter="ACTIVE", name="held-launch", **PLACE)
    assert [job.body["id"] for job in dataflow.jobs if job.body["name"] == "held-launch"] == [found["id"]]


def test_a_failed_job_fails_and_says_why(call: Call, dataflow: DataflowStub) -> None:
    job = started(dataflow, "fails-1")
    event = call("dataflow_event", job=job, **PLACE)
    assert event["status"] == "error" and job in event["message"]
    assert call("messages", job=job, **PLACE) == ["out of memory"]


def test_a_job_that_is_not_there_is_not_found(call: Call) -> None:
    event = call("dataflow_event", job="2011-08-08_00_00_00-1", **PLACE)
    assert event == {"status": "error", "message": f"404 no job 2011-08-08_00_00_00-1 in {LOCATION}"}


def test_a_service_that_is_away_for_a_while_is_waited_for(call: Call, dataflow: DataflowStub) -> None:
    job = started(dataflow, "job-1")
    refused = len(dataflow.refusals)
    dataflow.denials["dataflow.projects.locations.jobs.get"] = (503, "The service is currently unavailable.")

    def come_back() -> None:
        while len(dataflow.refusals) == refused:
            time.sleep(0.05)
        dataflow.denials.clear()

    threading.Thread(target=come_back, daemon=True).start()
    assert call("dataflow_event", job=job, **PLACE)["status"] == "success"
    assert dataflow.refusals[refused:] == ["503 The service is currently unavailable."]


def test_active_jobs_are_found_by_name(call: Call, dataflow: DataflowStub, let_go: threading.Event) -> None:
    """How an operator finds the job of an earlier attempt. Summaries have no labels, and lists come in pages."""
    before = len(call("jobs", filter="ACTIVE", **PLACE))
    wanted = started(dataflow, "held-1")
    started(dataflow, "held-1-more")
    (found,) = call("jobs", filter="ACTIVE", name="held-1", **PLACE)
    assert found["id"] == wanted and found["currentState"] == "JOB_STATE_RUNNING" and "environment" not in found
    assert len(call("jobs", filter="ACTIVE", pageSize=1, **PLACE)) == before + 2
    let_go.set()
    assert all(job.ended.wait(30) for job in dataflow.jobs)
    assert call("jobs", filter="ACTIVE", name="held-1", **PLACE) == []


def test_a_custom_job_is_waited_for(call: Call, vertex: VertexStub) -> None:
    job = submitted(vertex, "import time; time.sleep(1)")
    found = call("vertex_job", job=job, **PLACE)
    assert found["state"] == "JOB_STATE_SUCCEEDED" and found["display_name"] == "clv-train"
    assert found["name"].endswith(f"/customJobs/{job}")
    event = call("vertex_event", job=job, **PLACE)
    assert event["status"] == "success" and event["custom_job"]["display_name"] == "clv-train"


def test_a_custom_job_that_fails_says_why(call: Call, vertex: VertexStub) -> None:
    job = submitted(vertex, "raise SystemExit('error: no orders')")
    event = call("vertex_event", job=job, **PLACE)
    assert event["status"] == "error" and "exited with a non-zero status of 1" in event["message"]


def test_a_custom_job_that_is_not_there_is_not_found(call: Call) -> None:
    event = call("vertex_event", job="7", **PLACE)
    assert event["status"] == "error" and event["message"].startswith("404 ")


@pytest.mark.parametrize("fault", [{"refuse": 503}, {"drop": True}])
def test_a_custom_job_s_trigger_does_not_outlast_a_fault(call: Call, vertex: VertexStub, fault: dict[str, Any]) -> None:
    """So whoever defers to it needs retries that find the job again: one unanswered question ends the task."""
    job = submitted(vertex, "pass")
    vertex.faults.append(Fault("customJobs.get", nth=vertex.calls.count("customJobs.get") + 1, **fault))
    event = call("vertex_event", job=job, **PLACE)
    assert event["status"] == "error" and event["message"].startswith("503 ")
