"""The image's recipe and its lock: pinned, commented, and of one version with the rest of the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from transforms import version

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "templates" / "Dockerfile"
LOCK = ROOT / "templates" / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str, str]]:
    """Every instruction with what follows it, and the line before it."""
    lines = DOCKERFILE.read_text().splitlines()
    assert not any(line.endswith("\\") and not line.startswith("#") for line in lines)
    return [
        (*line.split(" ", 1), before)  # type: ignore[misc]
        for before, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith("#")
    ]


def of(kind: str) -> list[str]:
    return [rest for found, rest, _ in instructions() if found == kind]


def images() -> list[str]:
    copied = [
        word.removeprefix("--from=") for rest in of("COPY") for word in rest.split() if word.startswith("--from=")
    ]
    return of("FROM") + copied


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", path.read_text()))


def copied() -> set[str]:
    """What of the repository the image holds."""
    return {source for rest in of("COPY") if "--from" not in rest for source in rest.split()[:-1]}


def test_every_image_has_a_tag_that_stays() -> None:
    assert len(images()) == 3
    for name in images():
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?", name), name
    assert "latest" not in DOCKERFILE.read_text()


def test_every_run_says_what_it_is_for() -> None:
    runs = [(rest, before) for kind, rest, before in instructions() if kind == "RUN"]
    assert len(runs) >= 5
    explained = [before for _, before in runs if before.startswith("# ")]
    # The copies that an installation needs may stand between the comment and the line.
    after_copies = [rest for rest, before in runs if before.startswith("COPY")]
    assert len(explained) + len(after_copies) == len(runs)
    text = DOCKERFILE.read_text()
    for rest in after_copies:
        block = text[: text.index(f"RUN {rest}")].rsplit("\n\n", 1)[-1]
        assert block.startswith("# "), rest


def test_nothing_is_chosen_on_the_day_of_the_build() -> None:
    """pip resolves nothing, checks each hash, and builds with what was locked: nothing is fetched for a build alone."""
    installs = [rest for rest in of("RUN") if "pip install" in rest]
    first, second, third = installs
    assert first.endswith("-r /template/setuptools.lock") and second.endswith("-r /template/requirements.lock")
    assert all("--no-deps" in rest for rest in installs)
    assert all("--require-hashes" in rest for rest in (first, second))
    assert all("--no-build-isolation" in rest for rest in (second, third))
    assert of("RUN").index("pip check") > of("RUN").index(third)


def test_harness_python_and_lock_are_of_one_version() -> None:
    base, harness, launcher = images()
    beam = pins(LOCK)["apache-beam"]
    assert harness == f"apache/beam_python3.11_sdk:{beam}"
    assert base.startswith("python:3.11.") and "python311-" in launcher
    assert "3.11" in PROJECT["project"]["requires-python"]


def test_the_image_says_what_it_is() -> None:
    variables = dict(rest.split("=", 1) for rest in of("ENV"))
    assert of("ARG") == ["TEMPLATE", "IMAGE", "CODE_VERSION"]
    assert variables["CLV_TEMPLATE"] == "${TEMPLATE}" and variables["CLV_IMAGE"] == "${IMAGE}"
    assert variables[version.VARIABLE] == "${CODE_VERSION}"
    entry = variables["FLEX_TEMPLATE_PYTHON_PY_FILE"]
    assert f"templates/launcher.py {entry}" in of("COPY")
    assert of("RUN")[-1] == f"python {entry} --check"
    assert of("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert "USER" not in {kind for kind, _, _ in instructions()}  # Dataflow expects root


def test_all_packages_are_copied_and_nothing_that_is_not_there() -> None:
    assert {package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]} <= copied()
    assert all((ROOT / source).exists() for source in copied())
    readme, (license_file,) = PROJECT["project"]["readme"], PROJECT["project"]["license-files"]
    assert {readme, license_file, "pyproject.toml"} <= copied()


@pytest.mark.parametrize("name", [".dockerignore", ".gcloudignore"])
def test_the_build_gets_what_it_copies_and_nothing_else(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    let_through = {line.lstrip("!/") for line in lines if line.startswith("!")}
    assert lines[0].lstrip("/") == "*"
    needed = {source.split("/")[0] for source in copied()}
    assert let_through == needed


def test_the_lock_is_the_projects_without_its_tools() -> None:
    whole, own = pins(ROOT / "requirements.lock"), pins(LOCK)
    assert own.items() <= whole.items()
    assert not {"pytest", "hypothesis", "ruff", "mypy", "uv", "lifetimes"} & own.keys()
    # The project is built there too; and trainer.task --tune runs there, as a Vertex AI job.
    extra = PROJECT["project"]["optional-dependencies"]["tune"]
    declared = PROJECT["project"]["dependencies"] + extra + PROJECT["build-system"]["requires"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in declared}  # type: ignore[index]
    assert names <= own.keys()
    assert int(own["setuptools"].split(".")[0]) >= 77


def test_the_lock_is_pinned_by_hash_and_names_no_host() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text).strip())
    assert len(requirements) > 100
    for requirement in requirements:
        assert re.match(r"[\w.\[\]-]+==", requirement) and "--hash=sha256:" in requirement, requirement
