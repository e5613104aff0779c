"""A cloud of this machine for Flex Templates: storage, Dataflow with the templates' images, and gcloud led to them.

with opened(storage, folder, variables) as cloud:
    cloud.build("publish")
    cloud.launch("publish", ...)        # the commands a person types, by the real gcloud
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.dataflow import run_staged, variables
from tests.dataflow.flex_templates import Image
from tests.dataflow.stub import DataflowStub, Ending, Job
from tests.emulators.services import PROJECT, CloudStorage
from tests.templates import environment, gcloud

ROOT = Path(__file__).resolve().parents[2]
REGION = "europe-west1"
BUCKET = "clv-templates"
NAMES = ("publish", "features", "predict", "interactions")
CODE_VERSION = "0.1.0-of-the-image"  # what the images were told when they were built
_SECONDS = 240.0


def image_name(template: str) -> str:
    return f"{REGION}-docker.pkg.dev/{PROJECT}/clv/{template}:1.0"


@dataclass
class Cloud:
    """The running services, the images by name, and gcloud's variables."""

    service: DataflowStub
    images: Mapping[str, Image]
    gcloud: Mapping[str, str]
    bucket: str

    def template(self, name: str) -> str:
        return f"gs://{self.bucket}/templates/{name}.json"

    def build(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """``templates.build``, as a person runs it."""
        place = ["--template", self.template(name), "--image", image_name(name)]
        return self.command("templates.build", name, *place, *more)

    def launch(self, name: str, parameters: Mapping[str, str], *more: str) -> subprocess.CompletedProcess[str]:
        """``templates.launch``, as a person runs it."""
        given = [f"{parameter}={value}" for parameter, value in parameters.items()]
        return self.command(
            "templates.launch", name, "--template", self.template(name), "--project", PROJECT, "--region", REGION,
            "--temp_location", f"gs://{self.bucket}/temp", *more, "--parameters", *given,
        )  # fmt: skip

    def command(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT, env=dict(self.gcloud), capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip

    def job(self, launched: subprocess.CompletedProcess[str]) -> Job:
        """The job that a launch printed the id of."""
        assert launched.returncode == 0, launched.stderr
        job_id = dict(line.split(None, 1) for line in launched.stdout.splitlines())["job"]
        (job,) = [job for job in self.service.jobs if job.body["id"] == job_id]
        return job

    def ended(self, launched: subprocess.CompletedProcess[str]) -> Job:
        """The same after its end."""
        job = self.job(launched)
        assert job.ended.wait(_SECONDS), job.messages
        return job


@contextlib.contextmanager
def opened(
    storage: CloudStorage,
    folder: Path,
    more: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Cloud]:
    """Makes the images and a bucket, and starts the service.

    Args:
      folder: for what is temporary, and what each job's workers print (JOB_ID.log).
      more: variables that containers get besides those that lead to the storage.

    Raises:
      CannotMake: the images' environment cannot be had.
    """
    made = environment.make(say)
    _make_bucket()
    with variables.leading_to(storage.url, folder) as leading:
        told = {"STORAGE_EMULATOR_HOST": storage.url, "NO_GCE_CHECK": "true", "OMP_NUM_THREADS": "1", **leading, **more}
        images = {image_name(name): made.image(name, image_name(name), told, CODE_VERSION) for name in NAMES}
        with DataflowStub(lambda job: execute(job, images, folder), images=images) as service:
            yield Cloud(service, images, gcloud.environment(folder / "gcloud", storage.url, service.url), BUCKET)


def _make_bucket() -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    with Client(PROJECT, AnonymousCredentials()) as client:
        client.create_bucket(BUCKET)


def execute(job: Job, images: Mapping[str, Image], folder: Path) -> Ending:
    """Executes a job as its workers would: its staged graph, by the Python of the image it names, and nothing else."""
    (container,) = job.pool["sdkHarnessContainerImages"]
    image = images[container["containerImage"]]
    with open(folder / f"{job.body['id']}.log", "w+") as log:
        done = subprocess.run(
            [image.python, "-P", run_staged.__file__, job.options["pipelineUrl"]],
            cwd=folder, env=dict(image.environment), stdout=log, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        log.seek(0)
        return Ending("JOB_STATE_FAILED", log.read()) if done.returncode else Ending()
