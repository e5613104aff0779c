"""The containers of custom jobs really run, with what Vertex AI gives them, and end when they have to."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow.flex_templates import Image
from tests.vertex.clients import IMAGE, ask, container, create, custom_job, ended, job_spec, states
from tests.vertex.jobs import CANCELLED, FAILED, RUNNING, SUCCEEDED
from tests.vertex.stub import VertexStub

pytestmark = pytest.mark.emulators

TELL = "import json, os, sys; print(json.dumps([sys.executable, sys.argv[1:], dict(os.environ)]))"


@pytest.fixture
def service() -> Iterator[VertexStub]:
    images = {IMAGE: Image(sys.executable, {"PATH": os.defpath, "OF_THE_IMAGE": "yes", "CHANGED": "no"})}
    with VertexStub(images=images, polls=0) as stub:
        yield stub


def run(service: VertexStub, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return ended(service, create(service, custom_job(jobSpec={**job_spec(**spec), **more})))


def test_a_command_gets_its_arguments_and_the_variables_of_image_service_and_job(service: VertexStub) -> None:
    env = [
        {"name": "CHANGED", "value": "yes"}, {"name": "WHERE", "value": "$(AIP_MODEL_DIR)x"},
        {"name": "ESCAPED", "value": "$$(CHANGED) $(NOBODY)"},
    ]  # fmt: skip
    spec = container("python", "-c", TELL, args=["--epochs", "3"], env=env)
    job = run(service, spec, baseOutputDirectory={"outputUriPrefix": "gs://bucket/run"})
    assert job["state"] == SUCCEEDED
    executable, arguments, variables = json.loads(service.jobs[0].output)
    assert executable == sys.executable and arguments == ["--epochs", "3"]
    _, number, _, region, _, job_id = job["name"].split("/")
    expected = {
        "OF_THE_IMAGE": "yes", "CHANGED": "yes", "WHERE": "gs://bucket/run/model/x", "ESCAPED": "$(CHANGED) $(NOBODY)",
        "AIP_MODEL_DIR": "gs://bucket/run/model/", "AIP_CHECKPOINT_DIR": "gs://bucket/run/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": "gs://bucket/run/logs/", "CLOUD_ML_PROJECT_ID": number, "CLOUD_ML_REGION": region,
        "CLOUD_ML_JOB_ID": job_id,
    }  # fmt: skip
    assert {name: variables.get(name) for name in expected} == expected
    assert json.loads(variables["CLUSTER_SPEC"])["task"] == {"type": "workerpool0", "index": 0}
    assert "HOME" not in variables, "nothing of this process's own"


def test_a_shell_finds_the_images_python_and_what_pip_installs_stays_in_the_container(
    service: VertexStub, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "clv-only-here"\nversion = "1"\n[tool.setuptools]\npy-modules = ["clv_only_here"]\n'
    )
    (tmp_path / "clv_only_here.py").write_text("print('installed')\n")
    install = f"pip install --quiet --no-deps --no-build-isolation --no-index {tmp_path}"
    job = run(service, container("sh", "-c", f"{install} && python3 -m clv_only_here"))
    assert job["state"] == SUCCEEDED, job["error"]["message"]
    assert service.jobs[0].output.splitlines()[-1] == "installed"
    again = run(service, container("python", "-m", "clv_only_here"))
    assert again["state"] == FAILED and "No module named clv_only_here" in again["error"]["message"]


def test_a_failing_container_fails_the_job_in_the_services_words(service: VertexStub) -> None:
    job = run(service, container("python", "-c", "raise SystemExit('no such features')"))
    assert job["state"] == FAILED and job["error"]["code"] == 3
    message = job["error"]["message"]
    assert message.startswith(
        "The replica workerpool0-0 exited with a non-zero status of 1. Termination reason: Error. \n"
    )
    assert "\nno such features\n" in message
    assert f"resource=ml_job%2Fjob_id%2F{job['name'].split('/')[-1]}" in message


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (container("no-such-command"), "non-zero status of 127"), (container("sh", "-c", "kill -9 $$"), "non-zero status of 137"),
        ({**container("true"), "imageUri": "other"}, "Unable to pull image: other: it does not exist."),
        ({"imageUri": IMAGE}, "entry point is not part of this stub"),
    ],
)  # fmt: skip
def test_containers_that_cannot_run_fail_their_jobs(service: VertexStub, spec: dict[str, Any], named: str) -> None:
    job = run(service, spec)
    assert job["state"] == FAILED and named in job["error"]["message"]


def test_a_cancelled_jobs_process_is_killed_with_all_it_started(service: VertexStub, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    name = create(
        service, custom_job(jobSpec=job_spec(**container("sh", "-c", f"sleep 600 & echo $! $$ > {file}; wait")))
    )
    until = time.monotonic() + 30
    while ask(service, "GET", name)["state"] != RUNNING or not file.exists() or not file.read_text():
        assert time.monotonic() < until
    ask(service, "POST", f"{name}:cancel", {})
    assert states(service, name)[-1] == CANCELLED
    _gone([int(pid) for pid in file.read_text().split()])


def test_a_job_that_runs_too_long_is_ended(service: VertexStub) -> None:
    job = run(service, container("sleep", "600"), scheduling={"timeout": "0.3s"})
    assert job["state"] == CANCELLED and "scheduling.timeout" in job["error"]["message"]


def test_the_services_end_ends_every_process(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with VertexStub(images={IMAGE: Image(sys.executable, {"PATH": os.defpath})}, polls=0) as service:
        create(service, custom_job(jobSpec=job_spec(**container("sh", "-c", f"echo $$ > {file}; exec sleep 600"))))
        until = time.monotonic() + 30
        while not file.exists() or not file.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
    _gone([int(file.read_text())])


def _gone(pids: list[int]) -> None:
    until = time.monotonic() + 10
    for pid in pids:
        while _runs(pid):
            assert time.monotonic() < until, f"{pid} still runs"
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
