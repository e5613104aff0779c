"""A custom job's container as a process of this machine: the command really runs, by the image's interpreter.

Of an image only its Python and its variables matter. What a command finds as ``python`` is that interpreter; what it
installs with pip is its own and gone with it, as in a container.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.dataflow.flex_templates import Image
from tests.vertex.jobs import CANCELLED, CODE_CANCELLED, FAILED, CustomJobRecord, Ending

_POLL_SECONDS = 0.02
_GRACE_SECONDS = 2.0  # between the wish to end and the end by force
_TOLD_LINES = 12  # of the output's end, in the error
_CODE_NOT_FOUND, _CODE_TOO_LATE, _CODE_UNIMPLEMENTED = 5, 4, 12
_LOGS = (
    "https://console.cloud.google.com/logs/viewer?project={number}&resource=ml_job%2Fjob_id%2F{id}"
    "&advancedFilter=resource.type%3D%22ml_job%22%0Aresource.labels.job_id%3D%22{id}%22"
)


def execute(job: CustomJobRecord, images: Mapping[str, Image], folder: Path) -> Ending:
    """Runs the job's primary replica to its end, or until the job is cancelled or its time is up.

    Args:
      images: by name.
      folder: gets a directory of the job's own, with ``output.log`` in it.
    """
    if "containerSpec" not in job.pool or len([pool for pool in job.spec["workerPoolSpecs"] if pool]) > 1:
        return Ending(
            FAILED, "python_package_spec and more than one worker pool are not part of this stub", _CODE_UNIMPLEMENTED
        )
    container = job.container
    image = images.get(container["imageUri"])
    if image is None:
        return Ending(FAILED, f"Unable to pull image: {container['imageUri']}: it does not exist.", _CODE_NOT_FOUND)
    if not container.get("command"):
        return Ending(
            FAILED, "an image's own entry point is not part of this stub: give a command", _CODE_UNIMPLEMENTED
        )
    own = folder / job.id
    own.mkdir(parents=True)
    code = _run(job, [*container["command"], *container.get("args", [])], _environment(job, image, own), own)
    job.output = (own / "output.log").read_text(errors="replace")
    if job.cancelled.is_set():
        return Ending(CANCELLED, "CANCELED", CODE_CANCELLED)
    if code is None:
        return Ending(CANCELLED, "The job was cancelled: it ran longer than scheduling.timeout.", _CODE_TOO_LATE)
    return Ending() if code == 0 else Ending(FAILED, _failed(job, code))


def _failed(job: CustomJobRecord, code: int) -> str:
    told = "\n".join(job.output.strip().splitlines()[-_TOLD_LINES:])
    return (
        f"The replica workerpool0-0 exited with a non-zero status of {code}. Termination reason: Error. \n{told}\n"
        f"To find out more about why your job exited please check the logs: "
        f"{_LOGS.format(number=job.project_number, id=job.id)}"
    )


def _environment(job: CustomJobRecord, image: Image, own: Path) -> dict[str, str]:
    installed, commands = own / "installed", _commands(image, own / "bin")
    environment = dict(image.environment)
    environment["PATH"] = os.pathsep.join([str(commands), environment.get("PATH", os.defpath)])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(installed), environment.get("PYTHONPATH")]))
    environment["PIP_TARGET"] = str(installed)
    environment.update(_of_the_service(job))
    for variable in job.container.get("env", []):
        environment[variable["name"]] = _expanded(variable["value"], environment)
    return environment


def _of_the_service(job: CustomJobRecord) -> dict[str, str]:
    """The variables that Vertex AI gives every container; folders end in a slash."""
    given = {
        "CLOUD_ML_PROJECT_ID": job.project_number,  # the number, whatever its name says
        "CLOUD_ML_JOB_ID": job.id,
        "CLOUD_ML_REGION": job.location,
        "CLUSTER_SPEC": json.dumps({
            "cluster": {"workerpool0": ["localhost:2222"]}, "environment": "cloud",
            "task": {"type": "workerpool0", "index": 0},
        }),
        **job.variables,
    }  # fmt: skip
    if output := job.spec.get("baseOutputDirectory", {}).get("outputUriPrefix", ""):
        for name, part in (("MODEL", "model"), ("CHECKPOINT", "checkpoints"), ("TENSORBOARD_LOG", "logs")):
            given[f"AIP_{name}_DIR"] = f"{output.rstrip('/')}/{part}/"
    return given


def _expanded(value: str, environment: Mapping[str, str]) -> str:
    """With $(NAME) replaced where it is known; $$(NAME) stays as $(NAME)."""

    def of(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return environment.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_]*)\)", of, value)


def _commands(image: Image, folder: Path) -> Path:
    """A folder whose ``python`` and ``pip`` are the image's."""
    folder.mkdir()
    # Scripts, not links: an interpreter finds its libraries from the path it is started by.
    for name, before in (("python", ""), ("python3", ""), ("pip", "-m pip "), ("pip3", "-m pip ")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{image.python}" {before}"$@"\n')
        script.chmod(0o755)
    return folder


def _run(job: CustomJobRecord, command: list[str], environment: dict[str, str], own: Path) -> int | None:
    """The exit code, None where the process had to be ended."""
    work = own / "work"
    work.mkdir()
    timeout = job.spec.get("scheduling", {}).get("timeout")
    with open(own / "output.log", "wb") as log:
        try:
            process = subprocess.Popen(
                # By env, so that the command is looked for in the container's PATH and not in this process's.
                ["/usr/bin/env", *command], cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # an argument that no process can have
            log.write(f"{error}\n".encode())
            return 128
        return _wait(process, job.cancelled, float(timeout[:-1]) if timeout else None)


def _wait(process: subprocess.Popen[bytes], cancelled: threading.Event, seconds: float | None) -> int | None:
    until = None if seconds is None else time.monotonic() + seconds
    try:
        while process.poll() is None:
            if cancelled.wait(_POLL_SECONDS) or (until is not None and time.monotonic() > until):
                return None
        # Unix: a process ended by signal N has status 128 + N for whoever looks at a container.
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that it started."""
    for kind, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
