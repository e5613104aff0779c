"""The images' builds as the real gcloud submits them: what is uploaded, and what Docker is told."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.emulators.services import PROJECT, CloudStorage
from tests.templates import gcloud
from tests.templates.cloud_build import CloudBuild, Submitted
from tests.templates.dockerfile import Copy, instructions
from transforms import storage
from transforms.version import code_version

pytestmark = pytest.mark.templates

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = f"europe-west1-docker.pkg.dev/{PROJECT}/clv"


@dataclass
class Place:
    """Cloud Build, and the variables that lead gcloud to it and to Cloud Storage."""

    service: CloudBuild
    variables: Mapping[str, str]

    def submitted(self, *arguments: str) -> tuple[Submitted, str]:
        """What gcloud submitted of the lookup service's recipe, and what it said."""
        done = gcloud.run(
            ["builds", "submit", str(ROOT), "--config", str(ROOT / "serving" / "cloudbuild.yaml"), *arguments],
            self.variables,
        )
        assert done.returncode == 0, done.stderr
        return self.service.builds[-1], done.stderr


@pytest.fixture
def place(cloud_storage: CloudStorage, tmp_path: Path) -> Iterator[Place]:
    with CloudBuild() as service:
        variables = gcloud.environment(tmp_path / "gcloud", cloud_storage.url)
        yield Place(service, {**variables, "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD": f"{service.url}/"})


def uploaded(build: Submitted) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(build.source))) as archive:
        return {member.name.removeprefix("./") for member in archive if member.isfile()}


def copied(dockerfile: str) -> list[str]:
    found = [Copy.parse(each) for each in instructions((ROOT / dockerfile).read_text()) if each.keyword == "COPY"]
    return [source for copy in found if copy for source in copy.sources]


def test_a_templates_image(place: Place) -> None:
    name = f"{REPOSITORY}/publish:1"
    done = subprocess.run(
        [sys.executable, "-m", "templates.build", "publish", "--template", "gs://none-such/publish.json", "--image", name,
         "--build"],
        cwd=ROOT, env=dict(place.variables), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert place.service.builds, done.stderr
    (build,) = place.service.builds
    assert build.steps() == [
        ["build", "--file=templates/Dockerfile", "--build-arg=TEMPLATE=publish", f"--build-arg=IMAGE={name}",
         f"--build-arg=CODE_VERSION={code_version()}", f"--tag={name}", "."]
    ]  # fmt: skip
    assert build.images() == [name]
    assert done.returncode == 1, "there is no bucket for the template's file"
    files = uploaded(build)
    for source in copied("templates/Dockerfile"):
        assert source in files or any(file.startswith(f"{source}/") for file in files), source
    assert not [file for file in files if file.startswith(("tests/", ".git/", ".venv")) or file.endswith(".pyc")]


@pytest.mark.parametrize("given", [code_version(), ""])
def test_the_lookup_services_image(place: Place, given: str) -> None:
    name = f"{REPOSITORY}/lookup:1"
    told = f",_CODE_VERSION={given}" if given else ""
    build, _ = place.submitted("--substitutions", f"_IMAGE={name}{told}")
    assert build.steps() == [
        ["build", "--file=serving/Dockerfile", f"--build-arg=CODE_VERSION={given}", f"--tag={name}", "."]
    ]
    assert build.images() == [name]
    files = uploaded(build)
    for source in copied("serving/Dockerfile"):
        assert source in files or any(file.startswith(f"{source}/") for file in files), source
