"""Which job that is there already is taken over: one whose output is still there, and which does what is asked for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import vertex_runs
from tests.trainer.vertex_runs import IMAGE, PROJECT, REGION, TASK, last_json, submit
from tests.vertex.jobs import CANCELLED, SUCCEEDED
from tests.vertex.stub import CustomJobRecord, Ending, Fault, VertexStub
from trainer import vertex_adoption, vertex_jobs
from trainer.vertex_jobs import JobRequest
from transforms import storage

PROMOTE = ("promote", "--registry", "gs://shop/registry", "--model", "gs://shop/model")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, emulator_environment: pytest.MonkeyPatch) -> Iterator[VertexStub]:
    """Vertex AI whose jobs succeed at once and leave nothing."""
    vertex_runs.hurry(monkeypatch)
    with VertexStub(lambda _: Ending(), polls=1, seconds=0.05) as stub:
        yield stub


def request(service: VertexStub | None = None, **changes: Any) -> JobRequest:
    url = service.url if service else None
    plain = JobRequest(PROJECT, REGION, IMAGE, "trainer.task", TASK, "dag/run/task", "train", api_endpoint=url)
    return dataclasses.replace(plain, **changes)


def run(service: VertexStub, wanted: JobRequest) -> vertex_jobs.Job:
    """The job of a request, when it has succeeded; ``adopted`` as it was submitted."""
    job, deadline = vertex_jobs.submit(wanted), time.monotonic() + 20
    while vertex_jobs.get(job.name, service.url).state != SUCCEEDED:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job


@pytest.mark.parametrize(
    ("module", "arguments", "output"),
    [
        ("trainer.task", TASK, "gs://shop/model"),
        ("trainer.task", ("--output=gs://shop/a", "--output", "gs://shop/b"), "gs://shop/b"),
        ("trainer.task", ("--output", "gs://shop/a", "--output=gs://shop/b"), "gs://shop/b"),
        (
            "trainer.report",
            ("--model", "gs://shop/model", "--output", "gs://shop/report.html"),
            "gs://shop/report.html",
        ),
        ("trainer.registry", (*PROMOTE, "--decision", "gs://shop/gate.json"), "gs://shop/gate.json"),
        ("trainer.registry", PROMOTE, None),
        ("trainer.registry", ("promote", "--decision"), None),
        ("trainer.metrics", ("--output", "gs://shop/x"), None),
    ],
)
def test_what_a_job_leaves(module: str, arguments: tuple[str, ...], output: str | None) -> None:
    assert vertex_adoption.output_of(request(module=module, arguments=arguments)) == output
    assert vertex_adoption.output_of(request(module=module, arguments=arguments, output="gs://b/x")) == "gs://b/x"


def test_an_output_is_a_file_or_a_finished_directory(tmp_path: Path) -> None:
    file, directory = tmp_path / "gate.json", tmp_path / "model"
    assert "is not there" in str(vertex_adoption.missing_output(request(output=str(file))))
    file.write_text("{}")
    assert vertex_adoption.missing_output(request(output=str(file))) is None
    directory.mkdir()
    (directory / "blend.json").write_text("{}")
    assert "not finished" in str(vertex_adoption.missing_output(request(output=str(directory))))
    (directory / "manifest.json").write_text("{}")
    assert vertex_adoption.missing_output(request(output=f"{directory}/")) is None


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("module", "flag", "output", "file"),
    [
        ("trainer.task", "--output", "model", "model/manifest.json"),
        ("trainer.report", "--output", "report.html", "report.html"),
        ("trainer.registry", "--decision", "gate.json", "gate.json"),
        ("trainer.metrics", None, "gate.json", "gate.json"),
    ],
)
def test_a_job_that_succeeded_is_taken_over_while_its_output_is_there(
    service: VertexStub, bucket: str, capsys: pytest.CaptureFixture[str],
    module: str, flag: str | None, output: str, file: str,
) -> None:  # fmt: skip
    place = f"gs://{bucket}/{output}"
    wanted = request(service, module=module, arguments=("promote", flag, place) if flag else ("x",))
    if not flag:
        wanted = dataclasses.replace(wanted, output=place)
    first = run(service, wanted)
    storage.write_bytes(f"gs://{bucket}/{file}", b"{}")
    again = run(service, wanted)
    assert again.name == first.name and again.adopted and again.succeeded
    capsys.readouterr()
    storage.resolve(f"gs://{bucket}/{file}")[0].delete_file(f"{bucket}/{file}")
    storage.write_bytes(f"gs://{bucket}/{output}-old/manifest.json", b"{}")
    anew = run(service, wanted)
    assert anew.name != first.name and not anew.adopted
    assert f"job {first.name} has succeeded, but {place} is not there" in capsys.readouterr().err
    # The newer one is taken over from now on.
    storage.write_bytes(f"gs://{bucket}/{file}", b"{}")
    assert run(service, wanted).name == anew.name and len(service.jobs) == 2


@pytest.mark.emulators
def test_a_promotion_that_leaves_no_file_is_looked_at_again(
    service: VertexStub, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert submit(service, "--module", "trainer.registry", task=PROMOTE) == 0
        assert last_json(capsys.readouterr().out)["adopted"] is False
    assert len(service.jobs) == 2


@pytest.mark.emulators
def test_a_job_that_runs_is_taken_over_without_any_output(
    monkeypatch: pytest.MonkeyPatch, emulator_environment: pytest.MonkeyPatch
) -> None:
    def endless(job: CustomJobRecord) -> Ending:
        job.cancelled.wait(60)
        return Ending(CANCELLED)

    vertex_runs.hurry(monkeypatch)
    with VertexStub(endless, polls=1, seconds=0.05) as service:
        wanted = request(service, module="trainer.registry", arguments=PROMOTE)
        first = vertex_jobs.submit(wanted)
        again = vertex_jobs.submit(wanted)
        assert again.name == first.name and again.adopted and len(service.jobs) == 1


@pytest.mark.emulators
def test_a_job_whose_creations_answer_was_lost_is_not_run_twice_though_it_has_ended_and_leaves_nothing(
    service: VertexStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.vertex_client.FIRST_PAUSE_SECONDS", 2.0)
    wanted = request(service, module="trainer.registry", arguments=PROMOTE)
    old = run(service, wanted)
    service.faults.append(Fault("customJobs.create", nth=2, drop=True))
    job = vertex_jobs.submit(wanted)
    assert job.succeeded and job.name != old.name and len(service.jobs) == 2


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((IMAGE, TASK, ()), (IMAGE + "-2", TASK, ()), f"which has the image {IMAGE}, not {IMAGE}-2: accepted is another key"),
        ((IMAGE, (*TASK, "--seed", "1"), ()), (IMAGE, (*TASK, "--seed", "2"), ()), "the arguments --seed 1, not --seed 2"),
        ((IMAGE, TASK, ()), (IMAGE, (*TASK, "--seed", "2"), ()), "the arguments none, not --seed 2"),
        ((IMAGE, (*TASK, "--seed", "1"), ()), (IMAGE, TASK, ()), "the arguments --seed 1, not none"),
        ((IMAGE, TASK, ()), (IMAGE, PROMOTE, ("--module", "trainer.registry")), "the module trainer.task, not trainer.registry"),
        ((IMAGE, TASK, ("--tune", "5")), (IMAGE, TASK, ("--tune", "6")), "the number of trials 5, not 6"),
        ((IMAGE, TASK, ("--tune", "5")), (IMAGE, (*TASK, "--seed", "1"), ("--tune", "5")), "not --seed 1"),
    ],
)  # fmt: skip
def test_a_key_means_one_job(
    monkeypatch: pytest.MonkeyPatch, emulator_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    first: tuple[Any, ...], second: tuple[Any, ...], expected: str,
) -> None:  # fmt: skip
    def endless(job: CustomJobRecord) -> Ending:
        job.cancelled.wait(60)
        return Ending(CANCELLED)

    vertex_runs.hurry(monkeypatch)
    with VertexStub(endless, polls=1, seconds=0.05) as service:
        for (image, task, more), code in ((first, 0), (first, 0), (second, 2)):
            capsys.readouterr()
            assert submit(service, "--image", image, "--key", "K", "--no_wait", *more, task=task) == code
        error = capsys.readouterr().err
        assert error.startswith("error: --key 'K' is the key of projects/") and error.count("\n") == 1
        assert expected in error
        assert len([call for call in service.calls if call.endswith(".create")]) == 1


@pytest.mark.emulators
def test_code_that_was_shipped_is_part_of_what_a_key_means(service: VertexStub) -> None:
    one = request(service, package="gs://shop/code/1/clv.tar.gz")
    vertex_jobs.submit(one)
    (raw,) = vertex_jobs.listed(one.vertex, vertex_jobs.CUSTOM)
    asked = {"job_spec": vertex_jobs.job_spec(dataclasses.replace(one, package="gs://shop/code/2/clv.tar.gz"))}
    found = vertex_adoption.difference(raw, asked)
    assert found == "the package gs://shop/code/1/clv.tar.gz, not gs://shop/code/2/clv.tar.gz"
    assert vertex_adoption.difference(raw, {"job_spec": vertex_jobs.job_spec(one)}) is None
    plain = {"job_spec": vertex_jobs.job_spec(dataclasses.replace(one, package=None))}
    assert vertex_adoption.difference(raw, plain) == "the package gs://shop/code/1/clv.tar.gz, not none"


@pytest.mark.emulators
def test_a_schedulers_key_keeps_its_job_and_says_what_differs(
    service: VertexStub, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new image between two tries of a task is no reason to train once more, nor to fail."""
    storage.write_bytes(f"gs://{bucket}/gate.json", b"{}")
    wanted = request(service, output=f"gs://{bucket}/gate.json")
    first = run(service, wanted)
    again = vertex_jobs.submit(dataclasses.replace(wanted, image=f"{IMAGE}-2"))
    assert again.name == first.name and again.adopted
    assert f"note: job {first.name} has the image {IMAGE}, not {IMAGE}-2" in capsys.readouterr().err
