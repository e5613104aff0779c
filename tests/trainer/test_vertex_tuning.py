"""Tuning jobs on Vertex AI: the study, its trials really run, and a training with the best one's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.trainer import vertex_runs
from tests.trainer.trained_models import World
from tests.trainer.vertex_runs import IMAGE, last_json, submit
from tests.vertex.stub import CustomJobRecord, Ending, Fault, VertexStub
from trainer import vertex, vertex_tuning
from trainer.vertex_tuning import Trial
from transforms import storage

pytestmark = [pytest.mark.emulators, pytest.mark.usefixtures("quick_vertex")]


@pytest.fixture
def service() -> Iterator[VertexStub]:
    """Trials that report nothing: what becomes of the job is not asked for."""
    with VertexStub(lambda _: Ending(), polls=1, seconds=0.05) as stub:
        yield stub


def test_what_is_asked_for(service: VertexStub) -> None:
    submit(service, "--tune", "5", "--parallel_trials", "2", "--labels", "team=crm")
    [job] = service.tuning_jobs.records
    assert (job.body["maxTrialCount"], job.body["parallelTrialCount"]) == (5, 2)
    assert job.display_name == "clv-tuning" and job.labels["team"] == "crm" and len(job.labels["clv-key"]) == 32
    assert job.study["metrics"] == [{"metricId": "validation_loss", "goal": "MINIMIZE"}]
    spec = job.body["trialJobSpec"]
    assert spec["baseOutputDirectory"] == {"outputUriPrefix": "gs://shop/model.tuning"}
    container = spec["workerPoolSpecs"][0]["containerSpec"]
    assert container["command"][:2] == ["sh", "-c"] and container["command"][3:] == ["trainer.task"]
    assert container["args"] == [*vertex_runs.TASK, "--model", "ziln", "--members", "2"]


def test_the_same_tuning_is_found_again_also_after_a_lost_answer(
    service: VertexStub, capsys: pytest.CaptureFixture[str]
) -> None:
    service.faults.append(Fault("hyperparameterTuningJobs.create", drop=True))
    more = ("--tune", "3", "--no_wait")
    assert submit(service, *more) == 0
    assert submit(service, *more) == 0
    assert len(service.tuning_jobs.records) == 1
    assert submit(service, "--no_wait") == 0  # the training with the same arguments is another job
    trainings = [job for job in service.jobs if job.display_name == "clv-task"]
    assert len(trainings) == 1
    assert "looking for it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([2.0, 1.0, 1.0], "2"),
        ([None, 3.0, float("nan")], "2"),
        ([float("inf"), None, float("nan")], None),
        ([], None),
    ],
)
def test_the_best_trial_is_the_first_with_the_smallest_loss(losses: list[float | None], best: str | None) -> None:
    trials = [Trial(str(n), "SUCCEEDED", {}, loss) for n, loss in enumerate(losses, 1)]
    trials.append(Trial("9", "INFEASIBLE", {}, 0.1))
    found = vertex_tuning.best_of(trials)
    assert (found.id if found else None) == best


def test_a_tuning_job_without_a_loss_has_no_best(service: VertexStub, capsys: pytest.CaptureFixture[str]) -> None:
    submit(service, "--tune", "1", "--parallel_trials", "1")
    name = service.tuning_jobs.records[0].name
    capsys.readouterr()
    assert submit(service, "--best_of", name) == 2
    assert "has no trial with a loss" in capsys.readouterr().err
    assert vertex.main(["status", name, "--api_endpoint", service.url]) == 0
    assert "best:" not in capsys.readouterr().out


def test_trials_run_and_the_best_ones_settings_are_trained(
    world: World, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    training = vertex_runs.upload(world.training, f"gs://{bucket}/features/training")
    evaluation = vertex_runs.upload(world.evaluation, f"gs://{bucket}/features/evaluation")
    task = (
        "--features",
        training,
        "--evaluation",
        evaluation,
        "--output",
        f"gs://{bucket}/model",
        "--epochs",
        "2",
        "--members",
        "1",
    )
    with VertexStub(images={IMAGE: vertex_runs.our_image()}, polls=1, seconds=0.1) as service:
        assert submit(service, "--tune", "2", "--parallel_trials", "2", task=task) == 0, service.jobs[0].output
        tuning = last_json(capsys.readouterr().out)["name"]
        manifests = [
            json.loads(storage.read_bytes(f"gs://{bucket}/model.tuning/{n}/model/manifest.json")) for n in (1, 2)
        ]
        assert vertex.main(["status", tuning, "--api_endpoint", service.url, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        losses = [manifest["validation_loss"] for manifest in manifests]
        assert [trial["loss"] for trial in shown["trials"]] == losses
        best = losses.index(min(losses))
        assert shown["best"]["id"] == str(best + 1)
        assert vertex.main(["status", tuning, "--api_endpoint", service.url]) == 0
        text = capsys.readouterr().out
        assert f"submit --best_of {tuning}" in text and " ".join(shown["best"]["flags"]) in text
        # The training: with the best trial's settings, and otherwise as asked for.
        assert submit(service, "--best_of", tuning, task=(*task, "--model", "ziln")) == 0, service.jobs[-1].output
    arguments = json.loads(storage.read_bytes(f"gs://{bucket}/model/manifest.json"))["arguments"]
    assert arguments["members"] == 1 and arguments["model"] == "ziln"
    for name in vertex_tuning.SEARCHED:
        assert arguments[name] == manifests[best]["arguments"][name]


def test_a_job_that_is_no_tuning_job_has_no_best(service: VertexStub, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(service) == 0
    name = last_json(capsys.readouterr().out)["name"]
    assert submit(service, "--best_of", name) == 2
    assert "accepted is a tuning job" in capsys.readouterr().err


def test_a_tuning_job_that_runs_has_no_best_yet(capsys: pytest.CaptureFixture[str]) -> None:
    def run(job: CustomJobRecord) -> Ending:
        job.cancelled.wait(60)
        return Ending()

    with VertexStub(run, polls=1, seconds=0.05) as service:
        assert submit(service, "--tune", "1", "--parallel_trials", "1", "--no_wait") == 0
        assert submit(service, "--best_of", service.tuning_jobs.records[0].name) == 2
        assert "still runs" in capsys.readouterr().err
