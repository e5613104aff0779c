"""What a job on Dataflow needs: checked before anything is spent, and chosen where the user says nothing.

Every default has its reason beside it and gives way to the user's own flag.
"""

from __future__ import annotations

import ast
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines import labels as rules
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

RUNNER = "DataflowRunner"

# 4 GB a vCPU. A worker runs one Python process a vCPU, each of which imports TensorFlow (0.8 GB with tf.Transform)
# and holds up to THREADS buckets of orders in DuckDB (0.1-0.3 GB each), before what the system itself takes.
# The e2 family exists in every region and counts against the general CPU quota.
MACHINE_TYPE = "e2-standard-4"
# Of a process; Dataflow's own 12 would hold twelve buckets at a time. Two: one waits for storage while one computes.
THREADS = 2
# 64 vCPU, hence 128 buckets (32 million lines) at a time, and an upper bound on what a mistake can cost.
MOST_WORKERS = 16
# Unless an image of one's own is given, each process installs TensorFlow and the rest anew, 3.5 GB, beside an
# image of some 4 GB; Dataflow's 25 GB would fill up.
DISK_GB = 50

_MOST_NAME = rules.MOST_CHARACTERS  # of virtual machines' names and of labels: Dataflow makes these of the job's name
_GS_DIRECTORY = (r"gs://[a-z0-9][-a-z0-9._]+[a-z0-9](/.*)?", "a gs:// directory")
# A rule and its words.
JOB_NAME = (r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?", "lower-case letters, digits and -, a letter first and no - last")
_PATTERNS = {
    "temp_location": _GS_DIRECTORY,
    "staging_location": _GS_DIRECTORY,
    "template_location": (r"gs://[a-z0-9][-a-z0-9._]+[a-z0-9]/.*[^/]", "a gs:// file, which is written"),
    "project": (r"[a-z][-a-z0-9:.]+[a-z0-9]", "a project's id, which is neither its number nor its title"),
    "job_name": JOB_NAME,
}


def chosen(options: PipelineOptions) -> bool:
    """Whether the job is meant for Dataflow, however its runner is spelled."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = (options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1].lower()
    return name in (RUNNER.lower(), "dataflow")


def waits(options: PipelineOptions) -> bool:
    """Whether the command waits for its job: always, unless a job on Dataflow is to go on by itself.

    ``--no_wait_until_finish`` says so, and so does ``--template_location``: Dataflow passes it to the launcher of a Flex
    Template, where Beam writes the job as a file and the service starts it.
    """
    return not (chosen(options) and _detaching(options))


def _detaching(options: PipelineOptions) -> str | None:
    """The argument that asks for a job which nobody waits for."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

    if options.view_as(GoogleCloudOptions).template_location:
        return "--template_location"
    return "--no_wait_until_finish" if options.view_as(StandardOptions).no_wait_until_finish else None


def check_elsewhere(options: PipelineOptions) -> None:
    """Raises: UsageError where a job that is not Dataflow's would have to go on by itself."""
    argument = _detaching(options)
    if argument:
        raise UsageError(
            f"{argument} is not usable on this runner, whose job ends with the command: accepted is --runner {RUNNER}"
        )


def check(options: PipelineOptions, paths: Mapping[str, str | None]) -> None:
    """Refuses what Dataflow would refuse only after the graph is built and uploaded, or a worker after an hour.

    Args:
      paths: what workers read or write, by the argument that names it; None where it was not given.

    Raises:
      UsageError: an argument is missing or not usable there.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

    cloud = options.view_as(GoogleCloudOptions)
    needed = {
        "--project": (cloud.project, "a project's id"),
        "--region": (cloud.region, "a region such as europe-west1"),
        "--temp_location": (cloud.temp_location, "a gs:// directory for the job's files"),
    }
    for argument, (value, accepted) in needed.items():
        if not value:
            raise UsageError(f"--runner {RUNNER} needs {argument}: accepted is {accepted}")
    for argument, (pattern, accepted) in _PATTERNS.items():
        value = getattr(cloud, argument)
        if value is not None and not re.fullmatch(pattern, value):
            raise rejected(f"--{argument}", value, accepted)
    _check_as_beam_does(options)
    setup, image = options.view_as(SetupOptions), options.view_as(WorkerOptions).sdk_container_image
    if not setup.setup_file and not image:
        raise UsageError(
            f"--runner {RUNNER} finds no setup.py beside this code, from which workers get it: accepted is "
            "--setup_file PATH, or an image that holds it by --sdk_container_image"
        )
    for argument, path in paths.items():
        require_shared(argument, path)


def require_shared(argument: str, path: str | None) -> None:
    """Raises: UsageError for a path that workers of Dataflow do not see."""
    from transforms import storage

    if path and storage.is_local(path):
        raise UsageError(
            f"{argument} {path!r} is not usable with --runner {RUNNER}, whose workers do not see this machine's "
            "files: accepted is a gs:// path (or s3://, where they may use it)"
        )


def _check_as_beam_does(options: PipelineOptions) -> None:
    """Raises: UsageError for what Beam would raise as a ValueError when the graph is begun."""
    from apache_beam.options.pipeline_options import DebugOptions, SetupOptions, WorkerOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    validator = PipelineOptionsValidator(options, DataflowRunner())
    for kind in (WorkerOptions, SetupOptions, DebugOptions):
        errors = options.view_as(kind).validate(validator)
        if errors:
            raise UsageError(" ".join(str(errors[0]).split()))


def set_defaults(options: PipelineOptions) -> None:
    """Sets what the user has not."""
    from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, WorkerOptions

    cloud, worker, debug = (options.view_as(kind) for kind in (GoogleCloudOptions, WorkerOptions, DebugOptions))
    for name in ("temp_location", "staging_location"):
        value = getattr(cloud, name)
        if value is not None and value.count("/") == 2:
            # Beam takes a bucket without a slash for a mistake, and quietly makes a new bucket instead.
            setattr(cloud, name, value + "/")
    worker.autoscaling_algorithm = worker.autoscaling_algorithm or "THROUGHPUT_BASED"
    if worker.max_num_workers is None and worker.autoscaling_algorithm != "NONE":
        worker.max_num_workers = max(MOST_WORKERS, worker.num_workers or 0)
    # Prime chooses and changes machines by itself, and refuses a job that names one.
    if "enable_prime" not in (cloud.dataflow_service_options or []) and not debug.lookup_experiment("enable_prime"):
        worker.machine_type = worker.machine_type or MACHINE_TYPE
    if worker.disk_size_gb is None:
        worker.disk_size_gb = DISK_GB
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = THREADS


def name_job(options: PipelineOptions, step: str, labels: Mapping[str, object]) -> None:
    """Names the job ``clv-<step>-<values>-<unique>`` and labels it with the step and ``labels`` but those of None.

    Does nothing on other runners. The name is unique because Dataflow answers a second job of the same name
    with the first one. A name or a label given by the user stays.

    Raises:
      UsageError: a label given by the user breaks the rules of ``pipelines.labels``.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if not chosen(options):
        return
    cloud = options.view_as(GoogleCloudOptions)
    known = {key: str(value) for key, value in labels.items() if value is not None}
    if not cloud.job_name:
        words = re.sub(r"[^a-z0-9]+", "-", "-".join(["clv", step, *known.values()]).lower())
        unique = uuid.uuid4().hex[:8]
        cloud.job_name = f"{words[: _MOST_NAME - len(unique) - 1].strip('-')}-{unique}"
    given = given_labels(cloud.labels)
    ours = {"step": step, **known}
    cloud.labels = [
        *(cloud.labels or []),
        *(f"{key}={rules.value(value)}" for key, value in ours.items() if key not in given),
    ]


def given_labels(arguments: list[str] | None) -> dict[str, str]:
    """What ``--labels key=value`` and ``--labels '{"key": "value"}'`` say.

    Raises:
      UsageError: they are neither, break the rules, or say two things of one key.
    """
    return rules.checked(pair for text in arguments or [] for pair in _label_pairs(text))


def _label_pairs(text: str) -> list[tuple[str, str]]:
    if "{" not in text:
        return [rules.pair(text)]
    try:
        return [(str(key), str(value)) for key, value in ast.literal_eval(text).items()]
    except (ValueError, SyntaxError, AttributeError):
        raise rejected("--labels", text, rules.ACCEPTED) from None
