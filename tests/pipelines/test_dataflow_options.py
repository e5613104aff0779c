"""What a job on Dataflow is checked for and given; by Beam's own dry run, which makes the request and does not send it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from pipelines import dataflow_options, options
from transforms.errors import UsageError

CLOUD = {"--project": "project", "--region": "europe-west1", "--temp_location": "gs://bucket/temp"}
DATAFLOW = ["--runner", "DataflowRunner", *(text for pair in CLOUD.items() for text in pair)]
# The rules of the API's reference: Job.name and Job.labels.
JOB_NAME, LABEL_VALUE = r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?", r"[a-z0-9_-]{0,63}"


def job_of(*arguments: str, **how: Any) -> dict[str, Any]:
    """The request for a job of one step with these arguments, as the REST API's JSON."""
    beam_options = options.pipeline_options(
        [*DATAFLOW, "--dry_run", "True", "--sdk_location", "container", "--sdk_container_image", "image", *arguments],
        **how,
    )
    pipeline = beam.Pipeline(options=beam_options)
    pipeline | beam.Create([1])
    job = pipeline.run().job
    job.proto.environment = _environment(job, job.options)
    return json_format.MessageToDict(type(job.proto).pb(job.proto))


def _environment(job: Any, beam_options: Any) -> Any:
    from apache_beam.runners.dataflow.internal.apiclient import Environment

    return Environment([], beam_options, "8", "gs://bucket/temp/pipeline.pb", job.proto_pipeline).proto


def refused(arguments: list[str], **how: Any) -> str:
    with pytest.raises(UsageError) as error:
        options.pipeline_options(arguments, **how)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflowrunner", "Dataflow", "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner"])  # fmt: skip
def test_every_spelling_of_the_runner_means_dataflow(runner: str) -> None:
    assert refused(["--runner", runner]).startswith("--runner DataflowRunner needs --project")


@pytest.mark.parametrize("runner", ["DirectRunner", "FlinkRunner"])
def test_other_runners_are_left_alone(runner: str) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions

    beam_options = options.pipeline_options(["--runner", runner], step="features", paths={"--output": "here"})
    assert beam_options.view_as(GoogleCloudOptions).job_name is None
    assert beam_options.view_as(GoogleCloudOptions).labels is None
    assert beam_options.view_as(WorkerOptions).max_num_workers is None


# --- Refused before anything is spent -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", CLOUD)
def test_what_is_missing_is_named(missing: str) -> None:
    given_ = [text for name, value in CLOUD.items() if name != missing for text in (name, value)]
    message = refused(["--runner", "DataflowRunner", *given_])
    assert message.startswith(f"--runner DataflowRunner needs {missing}: accepted is ")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--temp_location", "temp"), ("--temp_location", "s3://b1/temp"), ("--temp_location", "gs://"), ("--temp_location", "gs://b1/t"),
        ("--staging_location", "/staging"), ("--template_location", "/t.json"), ("--template_location", "gs://b1/t/"), ("--project", "123456"), ("--project", "My project"),
        ("--job_name", "Features"), ("--job_name", "f-"), ("--job_name", "f_1"),
        ("--labels", "Team=growth"), ("--labels", "team=Growth"), ("--labels", "1=x"), ("--labels", "team"),
        ("--labels", "{'team'"), ("--labels", "{team}"), ("--labels", "team=" + "x" * 64),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_what_can(argument: str, value: str) -> None:
    message = refused([*DATAFLOW, argument, value], step="features")
    assert message.startswith(f"{argument} {value!r} is not usable: accepted is "), message


@pytest.mark.parametrize("path", ["out", "/tmp/out", "file:///tmp/out"])
def test_workers_do_not_see_this_machines_files(path: str) -> None:
    message = refused(DATAFLOW, paths={"--orders": "gs://bucket/orders", "--output": path})
    assert message.startswith(f"--output {path!r} is not usable with --runner DataflowRunner") and "gs://" in message
    options.pipeline_options(DATAFLOW, paths={"--orders": "bigquery://p.d.t", "--output": "gs://bucket/out"})


def test_more_workers_at_the_start_than_there_may_be_are_refused() -> None:
    message = refused([*DATAFLOW, "--num_workers", "5", "--max_num_workers", "2"])
    assert message == "num_workers (5) cannot exceed max_num_workers (2)"


@pytest.mark.parametrize("argument", [("--no_wait_until_finish",), ("--template_location", "gs://bucket/t.json")])
def test_only_a_job_on_dataflow_goes_on_by_itself(argument: tuple[str, ...]) -> None:
    assert dataflow_options.waits(options.pipeline_options(DATAFLOW))
    assert not dataflow_options.waits(options.pipeline_options([*DATAFLOW, *argument]))
    for runner in ([], ["--runner", "DirectRunner"], ["--runner", "FlinkRunner"]):
        message = refused([*runner, *argument])
        assert message.startswith(f"{argument[0]} is not usable on this runner") and "DataflowRunner" in message


def test_code_without_a_way_to_the_workers_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed as a wheel there is no setup.py to build from."""
    monkeypatch.setattr(options, "__file__", str(tmp_path / "pipelines" / "options.py"))
    assert "--setup_file" in refused(DATAFLOW)
    options.pipeline_options([*DATAFLOW, "--sdk_container_image", "image"])


# --- Chosen ---------------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    pool = job_of()["environment"]["workerPools"][0]
    assert pool["autoscalingSettings"] == {"algorithm": "AUTOSCALING_ALGORITHM_BASIC", "maxNumWorkers": 16}
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("e2-standard-4", 50, 2)


def test_the_users_flags_win() -> None:
    pool = job_of(
        "--autoscaling_algorithm", "NONE", "--num_workers", "3", "--machine_type", "n2-highmem-2", "--disk_size_gb", "99",
        "--number_of_worker_harness_threads", "5",
    )["environment"]["workerPools"][0]  # fmt: skip
    assert pool["autoscalingSettings"] == {"algorithm": "AUTOSCALING_ALGORITHM_NONE"}
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("n2-highmem-2", 99, 5)
    assert pool["numWorkers"] == 3
    assert (
        job_of("--max_num_workers", "2")["environment"]["workerPools"][0]["autoscalingSettings"]["maxNumWorkers"] == 2
    )


def test_more_workers_at_the_start_raise_the_most_there_may_be() -> None:
    pool = job_of("--num_workers", "40")["environment"]["workerPools"][0]
    assert pool["numWorkers"] == pool["autoscalingSettings"]["maxNumWorkers"] == 40


@pytest.mark.parametrize("flag", ["--dataflow_service_options", "--experiments"])
def test_prime_chooses_its_machines_itself(flag: str) -> None:
    assert "machineType" not in job_of(flag, "enable_prime")["environment"]["workerPools"][0]


def test_flags_of_the_cloud_reach_the_job() -> None:
    environment = job_of(
        "--service_account_email", "r@project.iam.gserviceaccount.com", "--network", "n1",
        "--subnetwork", "regions/europe-west1/subnetworks/s1", "--no_use_public_ips",
        "--dataflow_kms_key", "projects/project/locations/l/keyRings/r/cryptoKeys/k", "--worker_zone", "europe-west1-b",
    )["environment"]  # fmt: skip
    pool = environment["workerPools"][0]
    assert environment["serviceAccountEmail"] == "r@project.iam.gserviceaccount.com"
    assert environment["serviceKmsKeyName"] == "projects/project/locations/l/keyRings/r/cryptoKeys/k"
    assert environment["workerZone"] == "europe-west1-b"
    assert (pool["network"], pool["subnetwork"]) == ("n1", "regions/europe-west1/subnetworks/s1")
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert {"use_runner_v2", "use_unified_worker"} <= set(environment["experiments"])


def test_a_bucket_alone_is_a_temp_location() -> None:
    """Beam would take it for a mistake and make a bucket of its own."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    beam_options = options.pipeline_options([*DATAFLOW, "--temp_location", "gs://bucket"])
    cloud = beam_options.view_as(GoogleCloudOptions)
    assert cloud.temp_location == "gs://bucket/"
    assert not PipelineOptionsValidator(beam_options, None).validate_gcs_path(cloud, "temp_location")


# --- Named and labelled ---------------------------------------------------------------------------------------------


def test_a_job_is_named_and_labelled_by_what_it_does() -> None:
    job = job_of(step="features", labels={"cutoff": "2011-08-08", "campaign": None})
    assert re.fullmatch(r"clv-features-2011-08-08-[0-9a-f]{8}", job["name"])
    assert job["labels"] == {"step": "features", "cutoff": "2011-08-08"}
    assert job_of(step="features")["name"] != job_of(step="features")["name"]


def test_a_users_name_and_labels_stay() -> None:
    job = job_of(
        "--job_name", "nightly", "--labels", "step=mine", "--labels", '{"team": "growth", "mass": "1_3kg"}',
        step="features", labels={"cutoff": "2011-08-08"},
    )  # fmt: skip
    assert job["name"] == "nightly"
    assert job["labels"] == {"step": "mine", "team": "growth", "mass": "1_3kg", "cutoff": "2011-08-08"}


def test_a_label_is_given_once() -> None:
    message = refused([*DATAFLOW, "--labels", "team=a", "--labels", '{"team": "b"}'], step="features")
    assert message == "--labels 'team=a and team=b' is not usable: accepted is each key once"


@given(step=st.text(max_size=80), value=st.text(max_size=80))
def test_any_text_makes_a_valid_name_and_label(step: str, value: str) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

    beam_options = PipelineOptions(DATAFLOW)
    dataflow_options.name_job(beam_options, step, {"key": value})
    cloud = beam_options.view_as(GoogleCloudOptions)
    assert re.fullmatch(JOB_NAME, cloud.job_name) and len(cloud.job_name) <= 63
    assert cloud.job_name.startswith("clv-")
    for key, text in dataflow_options.given_labels(cloud.labels).items():
        assert key in ("step", "key") and re.fullmatch(LABEL_VALUE, text)
