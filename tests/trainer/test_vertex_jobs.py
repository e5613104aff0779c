"""Jobs on Vertex AI: what is asked for, found again, retried, waited for, and really run."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.trainer import vertex_runs
from tests.trainer.trained_models import World
from tests.trainer.vertex_runs import IMAGE, PROJECT, REGION, last_json, submit
from tests.vertex.jobs import CANCELLED
from tests.vertex.stub import CustomJobRecord, Ending, Fault, VertexStub
from trainer import predictor, vertex, vertex_client, vertex_jobs
from trainer.vertex_jobs import JobRequest
from transforms import storage
from transforms.errors import JobFailed, UsageError

pytestmark = [pytest.mark.emulators, pytest.mark.usefixtures("quick_vertex")]


@pytest.fixture
def service() -> Iterator[VertexStub]:
    """Vertex AI whose jobs succeed at once."""
    with VertexStub(lambda _: Ending(), polls=1, seconds=0.05) as stub:
        yield stub


@contextlib.contextmanager
def endless() -> Iterator[VertexStub]:
    """Vertex AI whose jobs run until they are cancelled."""

    def run(job: CustomJobRecord) -> Ending:
        job.cancelled.wait(60)
        return Ending(CANCELLED)

    with VertexStub(run, polls=1, seconds=0.05) as stub:
        yield stub


def request(service: VertexStub, key: str = "dag/run/train", **changes: Any) -> JobRequest:
    given = {
        "project": PROJECT, "region": REGION, "image": IMAGE, "module": "trainer.task",
        "arguments": vertex_runs.TASK, "key": key, "display_name": "train", "api_endpoint": service.url,
    }  # fmt: skip
    return JobRequest(**{**given, **changes})


def until(name: str, service: VertexStub, *states: str) -> vertex_jobs.Job:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        job = vertex_jobs.get(name, service.url)
        if job.state in states:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{name} never became {states}, but {job}")


def test_a_job_is_the_module_in_our_image_with_all_that_was_asked_for(
    service: VertexStub, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [
        "--machine_type", "n1-standard-4", "--accelerator_type", "NVIDIA_L4", "--accelerator_count", "2",
        "--disk_gb", "200", "--service_account", "trainer@test-project.iam.gserviceaccount.com",
        "--network", "projects/123/global/networks/shop", "--timeout_hours", "1.5", "--labels", "team=crm,cost=7",
        "--key", "k", "--display_name", "my training",
    ]  # fmt: skip
    assert submit(service, *more) == 0
    captured = capsys.readouterr()
    answer = last_json(captured.out)
    [job] = service.jobs
    assert answer == {
        "name": job.name,
        "state": "JOB_STATE_SUCCEEDED",
        "adopted": False,
        "page": vertex_jobs.page_of(job.name),
    }
    assert job.display_name == "my training"
    assert job.labels == {"team": "crm", "cost": "7", "clv-key": vertex_jobs.key_label("k")}
    assert job.pool["machineSpec"] == {
        "machineType": "n1-standard-4", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 2,
    }  # fmt: skip
    assert job.pool["diskSpec"]["bootDiskSizeGb"] == 200 and int(job.pool["replicaCount"]) == 1
    assert job.spec["scheduling"]["timeout"] == "5400s"
    assert job.spec["serviceAccount"].startswith("trainer@") and job.spec["network"].endswith("/shop")
    assert job.container == {
        "imageUri": IMAGE,
        "command": ["python", "-m", "trainer.task"],
        "args": list(vertex_runs.TASK),
    }
    # What a person who waits is shown: each state once, and the page.
    assert [s for s in ("PENDING", "RUNNING", "SUCCEEDED") if f"{s} after" in captured.err][-1] == "SUCCEEDED"
    assert answer["page"] in captured.err


def test_the_same_submit_finds_its_job_and_another_makes_its_own(
    service: VertexStub, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = (*vertex_runs.TASK[:-1], f"gs://{bucket}/model")
    assert submit(service, task=task) == 0
    storage.write_bytes(f"gs://{bucket}/model/manifest.json", b"{}")
    assert submit(service, task=task) == 0
    captured = capsys.readouterr()
    assert len(service.jobs) == 1 and last_json(captured.out)["adopted"]
    assert "is there already: SUCCEEDED" in captured.err and "another --key" in captured.err
    assert submit(service, "--key", "again", task=task) == 0
    assert submit(service, task=(*task, "--seed", "1")) == 0
    assert submit(service, "--machine_type", "n2-standard-4", task=task) == 0  # the machine decides nothing
    assert len(service.jobs) == 3


def test_a_running_job_is_taken_over_a_cancelled_or_failed_one_is_not() -> None:
    with endless() as service:
        first = vertex_jobs.submit(request(service))
        until(first.name, service, "JOB_STATE_RUNNING")
        again = vertex_jobs.submit(request(service))
        assert again.name == first.name and again.adopted and again.is_active
        vertex_jobs.cancel(first.name, service.url)
        ended = until(first.name, service, "JOB_STATE_CANCELLED")
        assert not ended.is_active and not ended.succeeded
        vertex_jobs.cancel(first.name, service.url)  # it has ended: nothing to do
        second = vertex_jobs.submit(request(service))
        assert second.name != first.name
        vertex_jobs.cancel(second.name, service.url)
        until(second.name, service, "JOB_STATE_CANCELLED")
        service.fail_next("train")
        third = vertex_jobs.submit(request(service))
        failed = until(third.name, service, "JOB_STATE_FAILED")
        assert failed.error == "Internal error encountered."
        assert vertex_jobs.submit(request(service)).name not in (first.name, second.name, third.name)


def test_a_lost_answer_makes_no_second_job(service: VertexStub, capsys: pytest.CaptureFixture[str]) -> None:
    service.faults.append(Fault("customJobs.create", drop=True))
    assert submit(service) == 0
    captured = capsys.readouterr()
    assert len(service.jobs) == 1 and service.calls.count("customJobs.create") == 1
    assert last_json(captured.out)["name"] == service.jobs[0].name
    assert "looking for it" in captured.err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_refused_for_now_is_asked_again(service: VertexStub, status: int) -> None:
    service.faults += [
        Fault("customJobs.create", refuse=status, times=2),
        Fault("customJobs.list", refuse=status),
        Fault("customJobs.get", nth=2, refuse=status),
        Fault("customJobs.get", nth=3, drop=True),
    ]
    assert submit(service) == 0
    assert len(service.jobs) == 1 and service.calls.count("customJobs.create") == 3


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (403, "Permission 'aiplatform.customJobs.create' denied on resource", 1),
        (400, "Machine type n9 is not supported", 2),
        (404, "The project was not found", 2),
        (429, "Quota custom_model_training_cpus exceeded", 1),
    ],
)
def test_googles_errors_are_one_line(
    service: VertexStub, status: int, message: str, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(vertex_client, "RETRY_SECONDS", 0.5)
    service.faults.append(Fault("customJobs.create", refuse=status, message=message, times=100))
    assert submit(service) == code
    error = capsys.readouterr().err.splitlines()
    # What is retried says so in lines of its own, with less and less haste.
    assert error[-1].startswith("error: creating the job clv-task") and message in error[-1]
    assert "http" not in error[-1] and not service.jobs
    assert (len(error) > 1) == (status == 429)


def test_a_job_that_fails_is_one_line_with_its_page(service: VertexStub, capsys: pytest.CaptureFixture[str]) -> None:
    service.fail_next("clv-task", "The replica workerpool0-0 exited with a non-zero status of 2.")
    assert submit(service) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the job projects/") and "ended as FAILED: The replica" in error
    assert vertex_jobs.page_of(service.jobs[0].name) in error


def test_who_does_not_wait_gets_the_job_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with endless() as service:
        assert submit(service, "--no_wait") == 0
        assert last_json(capsys.readouterr().out)["state"] in ("JOB_STATE_QUEUED", "JOB_STATE_PENDING")
        assert service.jobs[0].state in ("JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING")


def test_ctrl_c_leaves_the_job_running(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with endless() as service:
        naps = iter(range(5))

        def interrupted(seconds: float) -> None:
            if next(naps, None) is None:
                raise KeyboardInterrupt
            threading.Event().wait(seconds)

        monkeypatch.setattr(vertex.time, "sleep", interrupted)
        assert submit(service) == 130
        captured = capsys.readouterr()
        [job] = service.jobs
        assert f"no longer waiting; the job goes on: {vertex_jobs.page_of(job.name)}" in captured.err
        assert not job.cancelled.is_set() and "customJobs.cancel" not in service.calls


def test_of_more_jobs_than_a_page_holds_the_newest_of_a_key_is_found(bucket: str) -> None:
    output = f"gs://{bucket}/output"
    storage.write_bytes(output, b"done")
    with VertexStub(lambda _: Ending(), polls=1, seconds=0.01, page=2) as service:
        made = [vertex_jobs.submit(request(service, key=f"key {n}", output=output)) for n in range(5)]
        for n, job in enumerate(made):
            assert vertex_jobs.submit(request(service, key=f"key {n}", output=output)).name == job.name
        assert len(service.jobs) == 5


def test_where_the_filter_is_refused_the_job_is_found_without(service: VertexStub, bucket: str) -> None:
    output = f"gs://{bucket}/output"
    storage.write_bytes(output, b"done")
    other, mine = (vertex_jobs.submit(request(service, key=key)) for key in ("other", "mine"))
    nth = service.calls.count("customJobs.list") + 1
    service.faults.append(Fault("customJobs.list", nth=nth, refuse=400, message="invalid filter"))
    assert vertex_jobs.submit(request(service, key="mine", output=output)).name == mine.name != other.name


def test_an_unknown_job_and_no_job_are_one_line(service: VertexStub) -> None:
    with pytest.raises(UsageError, match=r"the job projects/1/.*404"):
        vertex_jobs.get("projects/1/locations/europe-west1/customJobs/7", service.url)
    for name in ("7", "projects/1/locations/europe-west1/models/clv"):
        with pytest.raises(UsageError, match="customJobs"):
            vertex_jobs.get(name, service.url)


def test_without_an_answer_at_all_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vertex_client, "RETRY_SECONDS", 0.3)
    with pytest.raises(JobFailed, match="listing the jobs of projects/test-project"):
        vertex_jobs.listed(vertex_client.Vertex(PROJECT, REGION, "http://localhost:1"), vertex_jobs.CUSTOM)


def test_a_training_really_runs_and_its_model_forecasts(
    world: World, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From features in Cloud Storage to a model there, by the command that stands in the documentation."""
    training = vertex_runs.upload(world.training, f"gs://{bucket}/features/training")
    evaluation = vertex_runs.upload(world.evaluation, f"gs://{bucket}/features/evaluation")
    model = f"gs://{bucket}/model"
    task = (
        "--features",
        training,
        "--evaluation",
        evaluation,
        "--output",
        model,
        "--model",
        "ziln",
        "--members",
        "1",
        "--epochs",
        "2",
    )
    with VertexStub(images={IMAGE: vertex_runs.our_image()}, polls=1, seconds=0.1) as service:
        assert submit(service, task=task) == 0, service.jobs[0].output
        assert "is complete" in service.jobs[0].output
    found = predictor.load(model)
    assert found.model_version == json.loads(storage.read_bytes(f"{model}/manifest.json"))["model_version"]
    assert found.predict(world.customers.slice(0, 5), predictor.datetime.date(2011, 4, 1)).num_rows == 5
    # A job that cannot succeed says on one line what its last lines said.
    with VertexStub(images={IMAGE: vertex_runs.our_image()}, polls=1, seconds=0.1) as service:
        assert submit(service, task=(*task[:-2], "--epochs", "3")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("error: the job ")
        and "non-zero status of 2" in error
        and "--epochs" not in error.split(":")[0]
    )
