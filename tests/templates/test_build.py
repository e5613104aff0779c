"""The commands that make a template, and what is said where they cannot run."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

import pytest

from templates import build, metadata
from templates.image import require_pinned
from transforms.errors import UsageError
from transforms.version import code_version

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22"
DIGEST = "@sha256:" + "0123456789abcdef" * 4
TEMPLATE = "gs://shop/templates/publish.json"


def printed(capsys: pytest.CaptureFixture[str], *more: str) -> list[list[str]]:
    given = ["publish", "--image", IMAGE, "--template", TEMPLATE, "--print_only", *more]
    assert build.main(given) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_a_template_of_an_image_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = printed(capsys)
    assert command[:5] == ["gcloud", "dataflow", "flex-template", "build", TEMPLATE]
    flags = dict(zip(command[5::2], command[6::2], strict=True))
    assert flags == {
        "--image": IMAGE, "--sdk-language": "PYTHON", "--metadata-file": str(metadata.path("publish"))
    }  # fmt: skip
    assert Path(flags["--metadata-file"]).exists()


def test_an_image_built_by_docker(capsys: pytest.CaptureFixture[str]) -> None:
    building, pushing, last = printed(capsys, "--build", "docker", "--project", "my-project")
    assert building[:2] == ["docker", "build"] and building[-1] == str(ROOT)
    given = [after for before, after in itertools.pairwise(building) if before == "--build-arg"]
    assert given == ["TEMPLATE=publish", f"IMAGE={IMAGE}", f"CODE_VERSION={code_version()}"]
    assert building[building.index("--tag") + 1] == IMAGE
    assert Path(building[building.index("--file") + 1]) == ROOT / "templates" / "Dockerfile"
    assert pushing == ["docker", "push", IMAGE]
    assert last[-2:] == ["--project", "my-project"]


def test_an_image_built_by_cloud_build(capsys: pytest.CaptureFixture[str]) -> None:
    building, _ = printed(capsys, "--build")
    assert building[:4] == ["gcloud", "builds", "submit", str(ROOT)]
    assert f"--substitutions=_TEMPLATE=publish,_IMAGE={IMAGE},_CODE_VERSION={code_version()}" in building
    recipe = Path(building[building.index("--config") + 1]).read_text()
    assert "--build-arg=TEMPLATE=${_TEMPLATE}" in recipe and "--build-arg=IMAGE=${_IMAGE}" in recipe
    assert "--build-arg=CODE_VERSION=${_CODE_VERSION}" in recipe
    # What has no default, Cloud Build would insist on; --substitutions goes before it.
    assert 'substitutions:\n  _CODE_VERSION: ""' in recipe
    assert "--file=templates/Dockerfile" in recipe and 'images: ["${_IMAGE}"]' in recipe


@pytest.mark.parametrize("name", [IMAGE, "gcr.io/shop/clv:1", "localhost:5000/a/b:v_1.2-rc3"])
def test_pinned_images(name: str) -> None:
    assert require_pinned("--image", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "gcr.io/shop/clv", "gcr.io/shop/clv:latest", "clv:1", "gcr.io/Shop/clv:1", "gcr.io/shop/clv:", "gcr.io/shop/clv:a b",
     "gcr.io/shop/clv@sha256:0123", "localhost:5000/clv", "https://gcr.io/shop/clv:1", "gcr.io/shop/clv:1,x=y"],
)  # fmt: skip
def test_images_that_may_be_another_one_tomorrow(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["publish", "--image", name, "--template", TEMPLATE, "--print_only"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: --image {name!r} is not usable: accepted is a full name with a tag other than latest"
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--build"]])
@pytest.mark.parametrize("name", [f"gcr.io/a/b{DIGEST}", f"gcr.io/a/b:1{DIGEST}", f"localhost:5000/a/b:latest{DIGEST}"])
def test_a_digest_would_pin_the_launcher_alone(name: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["publish", "--image", name, "--template", TEMPLATE, "--print_only", *more]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: --image {name!r} is not usable: workers follow the name")
    assert captured.out == "" and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["publishing", "--image", IMAGE, "--template", TEMPLATE], "invalid choice: 'publishing'"),
        (
            ["publish", "--image", IMAGE, "--template", "publish.json"],
            "'publish.json' is not usable: accepted is gs://",
        ),
        (["publish", "--image", IMAGE], "required: --template"),
    ],
)
def test_unusable_arguments(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(given) == 2
    assert said in capsys.readouterr().err


def test_an_installed_package_cannot_build_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_ROOT", tmp_path)
    options = build.parse(["publish", "--image", IMAGE, "--template", TEMPLATE, "--build"])
    with pytest.raises(UsageError, match="--build needs the repository"):
        build.image_commands(options)


def test_without_gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main(["publish", "--image", IMAGE, "--template", TEMPLATE]) == 2
    assert "error: gcloud cannot be run (No such file or directory)" in capsys.readouterr().err
    assert build.main(["publish", "--image", IMAGE, "--template", TEMPLATE, "--build", "docker"]) == 2
    assert "error: docker cannot be run" in capsys.readouterr().err


def failing(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a program of this name fail as gcloud does: progress, then its reason."""
    path = folder / program
    path.write_text(
        "#!/bin/sh\necho Uploading\necho 'ERROR: (gcloud.x) denied:' >&2\necho 'ask the owner' >&2\nexit 7\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize("more", [[], ["--build"]])
def test_a_command_that_fails(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(tmp_path, "gcloud", monkeypatch)
    assert build.main(["publish", "--image", IMAGE, "--template", TEMPLATE, *more]) == 1
    lines = capsys.readouterr().err.splitlines()
    command = "gcloud builds submit" if more else "gcloud dataflow flex-template build"
    assert lines[-1] == f"error: {command} ended with 7: ERROR: (gcloud.x) denied: ask the owner"
    assert ("Uploading" in lines) == bool(more)  # what takes minutes shows its progress
    assert shlex.split(lines[0])[:2] == ["build:", "gcloud"]
