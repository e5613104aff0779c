"""Flex Templates as the service launches them: the spec is checked, the image's launcher runs, its job follows.

A launch names a spec in the bucket, which names an image. Of an image only its Python and its variables matter here:

    DataflowStub(run, images={"europe-docker.pkg.dev/p/r/publish:1": Image(python, environment)})

The launcher's command line is the one of Google's launcher for Python. Where the words of an answer are known from the
service they are used here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.dataflow.discovery import Discovery, Refused
from transforms import storage

LAUNCH = "dataflow.projects.locations.flexTemplates.launch"
ENTRY = "FLEX_TEMPLATE_PYTHON_PY_FILE"  # the image's variable that names the file the launcher runs
OWN_BUCKET = "dataflow-staging-"  # how the names of the buckets begin that the service makes, one a region and project
_POLL_SECONDS = 0.05
_VIOLATIONS = "type.googleapis.com/google.dataflow.v1beta3.InvalidTemplateParameters"


@dataclass(frozen=True)
class Image:
    """What a container of an image would be: its interpreter, and all variables of its processes."""

    python: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Launch:
    """A launch that the service accepts: the job's name, its image, and what the launcher is told."""

    name: str
    image: str
    parameters: Mapping[str, str]
    runtime: Mapping[str, Any]
    validate_only: bool = False

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.runtime.get("additionalUserLabels", {}))

    def staging(self, project: str, region: str) -> str:
        """Where what is staged goes: as asked for, else below the temporary location, else the region's own bucket."""
        if given := self.runtime.get("stagingLocation"):
            return str(given).rstrip("/")
        return storage.join(self.temp(project, region), "staging")

    def temp(self, project: str, region: str) -> str:
        return str(self.runtime.get("tempLocation") or f"gs://{OWN_BUCKET}{region}-{project}/tmp").rstrip("/")

    def folder(self, project: str, region: str, job_id: str) -> str:
        """Where the launcher leaves its job object, and the service the launcher's output."""
        return storage.join(self.staging(project, region), "template_launches", job_id)

    def arguments(self, project: str, region: str, job_id: str) -> list[str]:
        """What stands behind the launcher's file in its command line."""
        told = {
            "runner": "DataflowRunner",
            "project": project,
            "region": region,
            "job_name": self.name,
            "temp_location": self.temp(project, region),
            "staging_location": self.staging(project, region),
            "template_location": storage.join(self.folder(project, region, job_id), "job_object"),
        }
        given = [f"--{name}={value}" for name, value in {**self.parameters, **told}.items()]
        return [*given, *_runtime_arguments(self.runtime)]


# Fields of FlexTemplateRuntimeEnvironment and the flags of Beam for Python they become.
_FLAGS = {
    "diskSizeGb": "disk_size_gb",
    "kmsKeyName": "dataflow_kms_key",
    "machineType": "machine_type",
    "maxWorkers": "max_num_workers",
    "network": "network",
    "numWorkers": "num_workers",
    "sdkContainerImage": "sdk_container_image",
    "serviceAccountEmail": "service_account_email",
    "subnetwork": "subnetwork",
    "workerRegion": "worker_region",
    "workerZone": "worker_zone",
}
_WORDS: dict[tuple[str, object], list[str]] = {
    ("enableStreamingEngine", False): [],  # gcloud always says it
    ("enableStreamingEngine", True): ["--enable_streaming_engine"],
    ("ipConfiguration", "WORKER_IP_PRIVATE"): ["--no_use_public_ips"],
    ("ipConfiguration", "WORKER_IP_PUBLIC"): ["--use_public_ips"],
    ("flexrsGoal", "FLEXRS_COST_OPTIMIZED"): ["--flexrs_goal=COST_OPTIMIZED"],
    ("flexrsGoal", "FLEXRS_SPEED_OPTIMIZED"): ["--flexrs_goal=SPEED_OPTIMIZED"],
    ("autoscalingAlgorithm", "AUTOSCALING_ALGORITHM_BASIC"): ["--autoscaling_algorithm=THROUGHPUT_BASED"],
    ("autoscalingAlgorithm", "AUTOSCALING_ALGORITHM_NONE"): ["--autoscaling_algorithm=NONE"],
}
_NOT_FLAGS = ("tempLocation", "stagingLocation", "launcherMachineType", "enableLauncherVmSerialPortLogging")


def _runtime_arguments(runtime: Mapping[str, Any]) -> list[str]:
    """Raises: Refused for a field that this stub knows no flag of."""
    flags: list[str] = []
    for name, value in runtime.items():
        if name in _FLAGS:
            flags.append(f"--{_FLAGS[name]}={value}")
        elif name == "additionalUserLabels":
            flags += [f"--labels={key}={label}" for key, label in value.items()]
        elif name == "additionalExperiments":
            flags += [f"--experiments={experiment}" for experiment in value]
        elif name == "additionalPipelineOptions":
            flags += [f"--{option.removeprefix('--')}" for option in value]
        elif (name, value) in _WORDS:
            flags += _WORDS[name, value]
        elif name not in _NOT_FLAGS:
            raise Refused(501, "UNIMPLEMENTED", f"environment.{name} {value!r} is not part of this stub")
    return flags


def read(content: Mapping[str, Any], discovery: Discovery) -> Launch:
    """The launch that a checked request asks for, by its spec in the bucket.

    Raises:
      Refused: the spec is missing (404) or is none (400), or a parameter is not one it takes (400, by name).
    """
    asked = content.get("launchParameter") or {}
    if not asked.get("jobName"):
        raise Refused(400, "INVALID_ARGUMENT", "JobName is required to launch a job.")
    for field in ("containerSpec", "launchOptions", "transformNameMappings", "update"):
        if asked.get(field):
            raise Refused(501, "UNIMPLEMENTED", f"launchParameter.{field} is not part of this stub")
    spec = _spec(str(asked.get("containerSpecGcsPath") or ""), discovery)
    parameters = dict(asked.get("parameters") or {})
    if "metadata" in spec:
        _check(parameters, spec["metadata"].get("parameters", []))
    runtime = {**spec.get("defaultEnvironment", {}), **(asked.get("environment") or {})}
    _runtime_arguments(runtime)  # what cannot be told is refused before anything runs
    return Launch(asked["jobName"], spec["image"], parameters, runtime, bool(content.get("validateOnly")))


def _spec(uri: str, discovery: Discovery) -> dict[str, Any]:
    if not uri.startswith("gs://"):
        raise Refused(400, "INVALID_ARGUMENT", f"Invalid GCS path: {uri!r}.")
    try:
        text = storage.read_bytes(uri)
    except OSError:  # no such object, no such bucket
        raise Refused(404, "NOT_FOUND", f"Unable to open template file: {uri}.") from None
    try:
        spec = discovery.require(json.loads(text), "ContainerSpec")
    except (ValueError, Refused) as error:
        raise Refused(400, "INVALID_ARGUMENT", f"Invalid template file {uri}: {error}") from None
    if not spec.get("image") or spec.get("sdkInfo", {}).get("language") != "PYTHON":
        raise Refused(400, "INVALID_ARGUMENT", f"Invalid template file {uri}: it needs image, and sdkInfo for PYTHON")
    return spec


def _check(given: Mapping[str, str], known: list[dict[str, Any]]) -> None:
    """Raises: Refused that names each parameter which is unknown, missing, or not as its regexes want it."""
    violations = list(_violations(given, {parameter["name"]: parameter for parameter in known}))
    if violations:
        told = "".join(f"\n{name}: {what}" for name, what in violations)
        listed = [{"parameter": name, "description": what} for name, what in violations]
        raise Refused(
            400,
            "INVALID_ARGUMENT",
            f"The template parameters are invalid. Details: {told}",
            [{"@type": _VIOLATIONS, "parameterViolations": listed}],
        )


def _violations(given: Mapping[str, str], known: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if name not in known:
            yield name, "Unrecognized parameter"
            continue
        for regex in known[name].get("regexes", []):
            if not re.fullmatch(regex, value):
                yield name, f"Parameter didn't match regex '{regex}'"
    for name, parameter in known.items():
        if name not in given and not parameter.get("isOptional"):
            yield name, "Missing required parameter"


class LaunchFailed(Exception):
    """The launcher left no job; the text is the job's message."""


class Launcher:
    """One launch's process in a directory of its own: started by ``run``, which waits for its end."""

    seconds: ClassVar[float] = 240.0  # Dataflow's own patience is longer; nobody waits so long for a test

    def __init__(self, image: Image | None, launch: Launch, arguments: list[str], folder: str) -> None:
        self._image, self._launch, self._arguments, self._folder = image, launch, arguments, folder

    def run(self, cancelled: threading.Event) -> dict[str, Any] | None:
        """The job object that the launcher left at its end with exit code 0; None where it left none.

        What the launcher printed is then in the bucket, as ``console_logs``.

        Raises:
          LaunchFailed: there is no such image, or the launcher ended otherwise, or not in time.
        """
        if self._image is None:
            raise LaunchFailed(f"Unable to pull image: {self._launch.image}: it does not exist.")
        _make_own_bucket(self._folder)
        code, output = self._execute(self._image, cancelled)
        storage.write_bytes(storage.join(self._folder, "console_logs"), output.encode())
        if code is None:
            raise LaunchFailed(f"Timeout in polling result file: {self._folder}/operation_result.")
        if code:
            last = (output.strip().splitlines() or ["it printed nothing"])[-1]
            raise LaunchFailed(
                "Error occurred in the launcher container: Template launch failed. See console logs. "
                f"python failed with exit status {code}: {last}"
            )
        return self._job_object()

    def _job_object(self) -> dict[str, Any] | None:
        uri = storage.join(self._folder, "job_object")
        if not storage.exists(uri):
            return None
        try:
            return dict(json.loads(storage.read_bytes(uri)))
        except ValueError as error:
            raise LaunchFailed(f"Failed to read the job file : {uri} with error message: {error}.") from None

    def _execute(self, image: Image, cancelled: threading.Event) -> tuple[int | None, str]:
        """The exit code, None where the process had to be ended, and all it printed."""
        with tempfile.TemporaryDirectory(prefix="launcher-") as folder:
            log = Path(folder) / "console_logs"
            with open(log, "wb") as stream:
                process = subprocess.Popen(
                    [image.python, image.environment[ENTRY], *self._arguments],
                    cwd=folder, env=dict(image.environment), stdin=subprocess.DEVNULL,
                    stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                code = _wait(process, cancelled, self.seconds)
            return code, log.read_text(errors="replace")


def _make_own_bucket(folder: str) -> None:
    """The region's own bucket is made when it is first needed; one that was named by the user has to be there."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    name = folder.removeprefix("gs://").split("/")[0]
    if name.startswith(OWN_BUCKET):
        with Client("service", AnonymousCredentials()) as client:
            if client.lookup_bucket(name) is None:
                client.create_bucket(name)


def _wait(process: subprocess.Popen[bytes], cancelled: threading.Event, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > until or cancelled.is_set():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        time.sleep(_POLL_SECONDS)
    return process.returncode
