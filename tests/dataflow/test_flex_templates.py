"""The service's side of Flex Templates judged: what it refuses, how the launcher is run, and when its job starts."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow.discovery import Refused
from tests.dataflow.flex_templates import ENTRY, Image, Launcher
from tests.dataflow.stub import DataflowStub, Ending, Job
from transforms import storage

pytestmark = pytest.mark.emulators

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "europe-docker.pkg.dev/p/r/copy:1.0"
PLACE = "/v1b3/projects/p/locations/l"
PARAMETERS = [
    {"name": "source", "label": "l", "helpText": "h", "regexes": ["gs://[a-z]+", ".{3,}"]},
    {"name": "days", "label": "l", "helpText": "h", "isOptional": True, "regexes": ["[0-9]+"]},
    {"name": "note", "label": "l", "helpText": "h", "isOptional": True},
]
JOB = {"name": "copy-1", "type": 1, "environment": {"workerPools": [{"numWorkers": 1}]}, "labels": {"step": "copy"}}
# What a test's launcher begins with: its arguments by name, and the bucket.
LAUNCHER = """
import json, os, sys, time, urllib.request
from transforms import storage
arguments = {name.removeprefix("--"): value for name, _, value in (given.partition("=") for given in sys.argv[1:])}
job = json.loads(os.environ["JOB"])
"""
LEAVES_ITS_JOB = 'storage.write_bytes(arguments["template_location"], json.dumps(job).encode())\n'


class Service(DataflowStub):
    """The stub with one image, whose launcher is ``code``; ``ran`` are the jobs that were executed."""

    def __init__(self, bucket: str, folder: Path, code: str = LEAVES_ITS_JOB) -> None:
        self.ran: list[Job] = []
        self.bucket, self.marker = bucket, folder / "marker"
        entry = folder / "launcher.py"
        entry.write_text(LAUNCHER + code)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), ENTRY: str(entry), "JOB": json.dumps(JOB), "MARKER": str(self.marker),
        }  # fmt: skip
        self.variables = environment
        super().__init__(self.execute, images={IMAGE: Image(sys.executable, environment)})

    def execute(self, job: Job) -> Ending:
        self.ran.append(job)
        return Ending()

    def write_spec(self, content: Any = None, name: str = "copy.json") -> str:
        spec = {
            "image": IMAGE,
            "sdkInfo": {"language": "PYTHON"},
            "metadata": {"name": "copy", "parameters": PARAMETERS},
        }
        uri = f"gs://{self.bucket}/templates/{name}"
        storage.write_bytes(
            uri, content if isinstance(content, bytes) else json.dumps({**spec, **(content or {})}).encode()
        )
        return uri

    def launch(
        self, parameters: dict[str, str] | None = None, *, spec: str = "", name: str = "copy-1", **more: Any
    ) -> Any:
        environment = {"tempLocation": f"gs://{self.bucket}/temp", "stagingLocation": f"gs://{self.bucket}/staging/"}
        parameter = {
            "jobName": name,
            "containerSpecGcsPath": spec or self.write_spec(),
            "parameters": parameters if parameters is not None else {"source": "gs://there"},
            "environment": {**environment, **more.pop("environment", {})},
        }
        body = {"launchParameter": parameter, **more}
        return self.answer("POST", f"{PLACE}/flexTemplates:launch?alt=json", json.dumps(body).encode())

    def ended(self) -> Job:
        """The only job, after its end."""
        (job,) = self.jobs
        assert job.ended.wait(60)
        return job

    def error(self) -> str:
        """What the failed job says."""
        job = self.ended()
        assert job.state == "JOB_STATE_FAILED" and not self.ran
        (message,) = [m["messageText"] for m in job.messages if m["messageImportance"] == "JOB_MESSAGE_ERROR"]
        return str(message)


Make = Callable[..., Service]


@pytest.fixture
def make(bucket: str, tmp_path: Path) -> Iterator[Make]:
    made: list[Service] = []

    def one(code: str = LEAVES_ITS_JOB) -> Service:
        made.append(Service(bucket, tmp_path, code).__enter__())
        return made[-1]

    yield one
    for service in made:
        service.__exit__(None, None, None)


def test_the_job_is_what_the_launcher_left_and_starts_after_its_end(make: Make) -> None:
    service = make(LEAVES_ITS_JOB + 'time.sleep(1.5)\nopen(os.environ["MARKER"], "w").close()\nprint("done")\n')
    ended_before: list[bool] = []

    def run(_: Job) -> Ending:
        ended_before.append(service.marker.exists())
        return Ending()

    service.run = run
    launched = service.launch()["job"]
    assert launched["currentState"] == "JOB_STATE_QUEUED" and launched["name"] == "copy-1"
    assert service.answer("GET", f"{PLACE}/jobs/{launched['id']}", b"")["currentState"] == "JOB_STATE_QUEUED"
    job = service.ended()
    assert ended_before == [True]
    assert (job.state, job.body["id"]) == ("JOB_STATE_DONE", launched["id"])
    assert job.body["type"] == "JOB_TYPE_BATCH" and job.pool == {"numWorkers": 1}
    folder = f"gs://{service.bucket}/staging/template_launches/{launched['id']}"
    assert storage.read_bytes(f"{folder}/console_logs") == b"done\n"


def test_the_launcher_is_told_as_google_s_tells_it(make: Make) -> None:
    service = make()
    runtime = {
        "maxWorkers": 3, "numWorkers": 2, "machineType": "e2-small", "serviceAccountEmail": "a@b", "network": "n",
        "subnetwork": "regions/l/subnetworks/s", "ipConfiguration": "WORKER_IP_PRIVATE", "kmsKeyName": "k", "diskSizeGb": 30,
        "workerRegion": "w", "additionalUserLabels": {"team": "x", "of": "y"}, "additionalExperiments": ["e", "f=1"],
        "flexrsGoal": "FLEXRS_COST_OPTIMIZED", "additionalPipelineOptions": ["worker_zone=z"],
    }  # fmt: skip
    service.launch({"source": "gs://there", "note": "a b=c"}, environment=runtime)
    job = service.ended()
    assert job.state == "JOB_STATE_DONE", job.messages
    bucket = f"gs://{service.bucket}"
    assert job.launcher[:9] == [
        "--source=gs://there", "--note=a b=c", "--runner=DataflowRunner", "--project=p", "--region=l", "--job_name=copy-1",
        f"--temp_location={bucket}/temp", f"--staging_location={bucket}/staging",
        f"--template_location={bucket}/staging/template_launches/{job.body['id']}/job_object",
    ]  # fmt: skip
    assert sorted(job.launcher[9:]) == sorted([
        "--max_num_workers=3", "--num_workers=2", "--machine_type=e2-small", "--service_account_email=a@b", "--network=n",
        "--subnetwork=regions/l/subnetworks/s", "--no_use_public_ips", "--dataflow_kms_key=k", "--disk_size_gb=30",
        "--worker_region=w", "--labels=team=x", "--labels=of=y", "--experiments=e", "--experiments=f=1",
        "--flexrs_goal=COST_OPTIMIZED", "--worker_zone=z",
    ])  # fmt: skip
    assert job.body["labels"] == {"step": "copy", "team": "x", "of": "y"}


@pytest.mark.parametrize(
    ("environment", "temp", "staging"),
    [
        ({"tempLocation": "gs://{}/t", "stagingLocation": ""}, "gs://{}/t", "gs://{}/t/staging"),
        ({"tempLocation": "", "stagingLocation": ""}, "gs://dataflow-staging-l-p/tmp", "gs://dataflow-staging-l-p/tmp/staging"),
    ],
)  # fmt: skip
def test_places_that_are_not_given_are_the_service_s(
    make: Make, environment: dict[str, str], temp: str, staging: str
) -> None:
    service = make()
    service.launch(environment={name: value.format(service.bucket) for name, value in environment.items()})
    job = service.ended()
    assert job.state == "JOB_STATE_DONE", job.messages
    assert f"--temp_location={temp.format(service.bucket)}" in job.launcher
    assert f"--staging_location={staging.format(service.bucket)}" in job.launcher


@pytest.mark.parametrize(
    ("parameters", "violations"),
    [
        ({}, {"source": "Missing required parameter"}),
        ({"source": "gs://there", "sourc": "x"}, {"sourc": "Unrecognized parameter"}),
        ({"source": "gs://there "}, {"source": "Parameter didn't match regex 'gs://[a-z]+'"}),
        ({"source": "gs://there", "days": ""}, {"days": "Parameter didn't match regex '[0-9]+'"}),
        ({"days": "x"}, {"days": "Parameter didn't match regex '[0-9]+'", "source": "Missing required parameter"}),
    ],
)
def test_wrong_parameters_are_refused_by_name_and_nothing_runs(
    make: Make, parameters: dict[str, str], violations: dict[str, str]
) -> None:
    service = make()
    with pytest.raises(Refused) as refused:
        service.launch(parameters)
    assert (refused.value.status, refused.value.reason) == (400, "INVALID_ARGUMENT")
    (detail,) = refused.value.details
    assert {v["parameter"]: v["description"] for v in detail["parameterViolations"]} == violations
    assert str(refused.value).startswith("The template parameters are invalid. Details: \n")
    assert all(f"\n{name}: {what}" in str(refused.value) for name, what in violations.items())
    assert not service.jobs


def test_a_spec_without_metadata_takes_any_parameter(make: Make) -> None:
    service = make()
    spec = f"gs://{service.bucket}/bare.json"
    storage.write_bytes(spec, json.dumps({"image": IMAGE, "sdkInfo": {"language": "PYTHON"}}).encode())
    service.launch({"anything": "x"}, spec=spec)
    assert "--anything=x" in service.ended().launcher


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no json", "Invalid template file gs://"),
        (b"[]", "Invalid template file gs://"),
        (b"{}", "it needs image"),
        ({"image": ""}, "it needs image"),
        ({"sdkInfo": {"language": "GO"}}, "it needs image, and sdkInfo for PYTHON"),
        ({"imag": "x"}, "unknown field imag"),
        ({"metadata": {"parameters": [{"regex": "x"}]}}, "unknown field metadata.parameters[0].regex"),
        ({"metadata": {"parameters": [{"paramType": "FOLDER"}]}}, "at metadata.parameters[0].paramType"),
    ],
)
def test_what_is_no_spec_is_refused(make: Make, content: Any, named: str) -> None:
    service = make()
    with pytest.raises(Refused) as refused:
        service.launch(spec=service.write_spec(content))
    assert refused.value.status == 400 and named in str(refused.value)


@pytest.mark.parametrize("uri", ["gs://{}/none.json", "gs://no-such-bucket-at-all/x.json"])
def test_a_spec_that_is_not_there_is_not_found(make: Make, uri: str) -> None:
    service = make()
    uri = uri.format(service.bucket)
    with pytest.raises(Refused) as refused:
        service.launch(spec=uri)
    assert refused.value.status == 404
    assert str(refused.value) == f"Unable to open template file: {uri}."


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"name": "Copy"}, 400, "invalid job name 'Copy'"),
        ({"name": ""}, 400, "JobName is required"),
        ({"environment": {"additionalUserLabels": {"Team": "x"}}}, 400, "invalid label Team=x"),
        ({"environment": {"zones": "z"}}, 400, "unknown field launchParameter.environment.zones"),
        ({"environment": {"streamingMode": "STREAMING_MODE_EXACTLY_ONCE"}}, 501, "environment.streamingMode"),
        ({"environment": {"maxWorkers": "3"}}, 400, "at launchParameter.environment.maxWorkers"),
    ],
)
def test_other_wrong_launches_are_refused(make: Make, change: dict[str, Any], status: int, named: str) -> None:
    service = make()
    with pytest.raises(Refused) as refused:
        service.launch(**change)
    assert refused.value.status == status and named in str(refused.value)
    assert not service.jobs


def test_a_name_is_taken_while_its_job_is_active(make: Make) -> None:
    service = make('open(os.environ["MARKER"], "w").close()\ntime.sleep(60)\n')
    first = service.launch()["job"]
    with pytest.raises(Refused, match=f"already an active job named copy-1 with id: {first['id']}") as refused:
        service.launch()
    assert refused.value.status == 409
    cancel(service, first["id"])
    service.ended()
    assert service.launch()["job"]["id"] != first["id"]
    cancel(service, service.jobs[1].body["id"])


def cancel(service: Service, job_id: str) -> None:
    service.answer("PUT", f"{PLACE}/jobs/{job_id}", b'{"requestedState": "JOB_STATE_CANCELLED"}')


def test_a_launch_that_is_cancelled_ends_its_launcher_and_runs_nothing(make: Make) -> None:
    service = make('open(os.environ["MARKER"], "w").write(str(os.getpid()))\n' + LEAVES_ITS_JOB + "time.sleep(60)\n")
    job_id = service.launch()["job"]["id"]
    until = time.monotonic() + 30
    while not (service.marker.exists() and service.marker.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    cancel(service, job_id)
    assert service.ended().state == "JOB_STATE_CANCELLED" and not service.ran
    with pytest.raises(ProcessLookupError):
        os.kill(int(service.marker.read_text()), 0)


def test_a_launch_only_validated_starts_nothing(make: Make) -> None:
    service = make()
    assert service.launch(validateOnly=True) == {}
    with pytest.raises(Refused):
        service.launch({}, validateOnly=True)
    assert not service.jobs


def test_a_launcher_that_fails_fails_the_job_by_its_last_line(make: Make) -> None:
    service = make('print("error: no predictions", file=sys.stderr)\nsys.exit(2)\n')
    service.launch()
    assert service.error() == (
        "Error occurred in the launcher container: Template launch failed. See console logs. "
        "python failed with exit status 2: error: no predictions"
    )


def test_a_launcher_without_a_job_fails_the_job(make: Make) -> None:
    service = make("")
    service.launch()
    assert service.error().startswith(f"Failed to read the job file : gs://{service.bucket}/staging/template_launches/")


@pytest.mark.parametrize(
    ("change", "named"),
    [('job["type"] = 99', "at type: 99"), ('del job["environment"]', "a job needs environment"), ('job["x"] = 1', "field x")],
)  # fmt: skip
def test_a_job_object_is_checked_as_any_job(make: Make, change: str, named: str) -> None:
    service = make(f"{change}\n{LEAVES_ITS_JOB}")
    service.launch()
    assert named in service.error()


def test_half_a_job_object_is_none(make: Make) -> None:
    service = make('storage.write_bytes(arguments["template_location"], b"{")\n')
    service.launch()
    assert "Failed to read the job file : gs://" in service.error()


def test_an_image_that_is_not_there_cannot_be_pulled(make: Make) -> None:
    service = make()
    service.launch(spec=service.write_spec({"image": IMAGE + "-other"}))
    assert service.error() == f"Unable to pull image: {IMAGE}-other: it does not exist."


def test_a_launcher_that_waits_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launcher, "seconds", 1.0)
    service = make(LEAVES_ITS_JOB + "time.sleep(60)\n")
    service.launch()
    assert service.error().startswith("Timeout in polling result file: ")


def test_a_launcher_may_submit_the_job_itself(make: Make) -> None:
    """It is answered with the launch's own job, which still starts only at the launcher's end."""
    service = make("""
url = os.environ["SERVICE"] + "/v1b3/projects/p/locations/l/jobs"
request = urllib.request.Request(url, json.dumps({**job, "clientRequestId": "me"}).encode(), method="POST")
print(urllib.request.urlopen(request).read().decode())
time.sleep(1)
print("ended")
""")
    service.variables["SERVICE"] = service.url
    job_id = service.launch()["job"]["id"]
    job = service.ended()
    assert job.state == "JOB_STATE_DONE" and service.ran == [job]
    output = storage.read_bytes(f"gs://{service.bucket}/staging/template_launches/{job_id}/console_logs").decode()
    answered = json.loads(output.splitlines()[0])
    assert (answered["id"], answered["clientRequestId"], answered["currentState"]) == (job_id, "me", "JOB_STATE_QUEUED")
    assert output.splitlines()[1] == "ended"


def test_lists_are_of_the_jobs_asked_for(make: Make) -> None:
    service = make()
    service.launch()
    service.ended()

    def listed(query: str) -> int:
        return len(service.answer("GET", f"{PLACE}/jobs{query}", b"").get("jobs", []))

    assert [listed(query) for query in ("", "?filter=ALL", "?filter=ACTIVE", "?filter=TERMINATED")] == [1, 1, 0, 1]
