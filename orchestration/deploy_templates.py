"""The Flex Templates of a deployment: which images and files there must be, which are, and the commands that make them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestration.deployment import Deployment
from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line, rejected

# Whose images gcloud can look for.
_ARTIFACT_REGISTRY = "-docker.pkg.dev/"
_SECONDS = 120.0
_BAD_ARGUMENT = 2


@dataclass(frozen=True)
class Template:
    """One template of the deployment.

    Attributes:
      file: gs://, what a launch names.
      image_is_there: None where that cannot be found out.
      remark: what a person should know of the image, or empty.
      state: of the file: "make", "replace", or "keep" where it says what it should.
      command: what makes the image, where it is to be made, and the file.
      shown: the commands that it runs.
    """

    name: str
    file: str
    image: str
    image_is_there: bool | None
    remark: str
    state: str
    command: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        return self.state == "keep" and "--build" not in self.command


def planned(root: Path, deployment: Deployment, build: bool, look: bool) -> list[Template]:
    """What there is and what is to be made. Nothing is changed.

    Args:
      build: whether images that are not there are built.
      look: whether images are looked for, which takes gcloud.

    Raises:
      UsageError: an image is not there and not to be built; or templates.build refuses an argument.
    """
    require_options(root, deployment)
    found = [_planned(root, deployment, path.parent.name, build, look) for path in _metadata(root)]
    absent = [template.image for template in found if template.image_is_there is False]
    if absent and not build:
        raise UsageError(
            f"{', '.join(absent)}: no such image; accepted are images that exist (--image), or --build, which makes them"
        )
    return found


def _metadata(root: Path) -> list[Path]:
    return sorted((root / "templates").glob("*/metadata.json"))


def require_options(root: Path, deployment: Deployment) -> None:
    """Raises: UsageError for an option in [serving] that is no parameter of the publish template, or not usable."""
    import re

    described = json.loads((root / "templates" / "publish" / "metadata.json").read_text())["parameters"]
    known = {parameter["name"]: parameter for parameter in described}
    for name, value in deployment.serving.options.items():
        if name not in known:
            raise UsageError(f"serving.{name} is no parameter of the publish template: accepted are {', '.join(known)}")
        if not all(re.fullmatch(regex, value) for regex in known[name].get("regexes", [])):
            raise rejected(f"serving.{name}", value, known[name]["helpText"])


def _planned(root: Path, deployment: Deployment, name: str, build: bool, look: bool) -> Template:
    file, image = deployment.template(name), deployment.template_image(name)
    there, remark = _image_is_there(image) if look else (None, "")
    command: tuple[str, ...] = (
        "templates.build",
        name,
        "--template",
        file,
        "--image",
        image,
        "--project",
        deployment.project,
    )
    # Never another image under a tag that is there: workers of a running job would start with it.
    command += ("--build",) if build and not there else ()
    if build and there:
        remark = "it is there and stays: other code takes another tag (--image)"
    shown = _run(root, (*command, "--print_only"), capture=True).splitlines()
    return Template(name, file, image, there, remark, _state(root, name, file, image), command, tuple(shown))


def _image_is_there(image: str) -> tuple[bool | None, str]:
    """Whether it is, and why that is not known.

    Raises:
      UsageError: there is no gcloud here.
    """
    if _ARTIFACT_REGISTRY not in image:
        return None, "not looked for: it is in no Artifact Registry"
    # Not `images describe`, which wants the API of vulnerabilities too, and of some projects' administrators.
    repository, _, tag = image.rpartition(":")
    command = ["gcloud", "artifacts", "docker", "tags", "list", repository, "--format=value(tag)"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise UsageError(f"gcloud cannot be run ({error.strerror}): it has to be installed and in the PATH") from error
    except subprocess.TimeoutExpired:
        return None, f"gcloud did not answer within {_SECONDS:g} s whether it is there"
    if done.returncode == 0:
        return tag in {line.rpartition("/")[2].strip() for line in done.stdout.splitlines()}, ""
    said = one_line(done.stderr[done.stderr.find("ERROR:") :], 300)
    # Of a repository or a project that is not there, too.
    if "not found" in said.lower() or "not_found" in said.lower():
        return False, ""
    return None, f"whether it is there is not known: {said}"


def _state(root: Path, name: str, file: str, image: str) -> str:
    """Raises: UsageError where the bucket cannot be read."""
    try:
        if not storage.exists(file):
            return "make"
        spec = json.loads(storage.read_bytes(file))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {one_line(str(error))}") from error
    except ValueError:
        return "replace"
    described = json.loads((root / "templates" / name / "metadata.json").read_text())
    same = isinstance(spec, dict) and spec.get("image") == image and spec.get("metadata") == described
    return "keep" if same else "replace"


def carry_out(root: Path, template: Template) -> None:
    """Makes the image where it is to be made, then the file.

    Raises:
      JobFailed: a command ended with an error.
    """
    _run(root, template.command, capture=False)


def typed(command: Sequence[str]) -> str:
    """One of our commands as a person types it."""
    return shlex.join(["python", "-m", *command])


def _run(root: Path, command: Sequence[str], capture: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, stdin=subprocess.DEVNULL, text=True, check=False,
        stdout=subprocess.PIPE if capture else None, stderr=subprocess.PIPE if capture else None,
    )  # fmt: skip
    if done.returncode == 0:
        return done.stdout or ""
    said = (done.stderr or "").strip().rpartition("\n")[2].removeprefix("error: ") or "its lines above say why"
    message = f"python -m {' '.join(command[:2])} ended with {done.returncode}: {one_line(said)}"
    raise UsageError(message) if done.returncode == _BAD_ARGUMENT else JobFailed(message)
