"""Deploys this checkout: its wheel, the Flex Templates, and the DAGs into an Airflow's DAG folder.

Everything is taken from deployment.toml (orchestration/deployment.example.toml explains it). First the plan: what there
is, what would be made, replaced or deleted, and every command. Then it asks, unless --yes is given, and does it. What is
there already stays, so that the same command goes on after an interruption, and does nothing when all is done.

  wheel      BUCKET/packages/VERSION/: the code as a package, for whoever wants to install it
  templates  BUCKET/templates/TAG/NAME.json, one for each image; with --build Cloud Build makes images that are missing
  packages   what Composer needs from PyPI; with --install, which takes it some ten minutes
  dags       COMPOSER_BUCKET/dags: last of all, and at once; running tasks keep the version they began with

examples:
  python -m orchestration.deploy --print_only
  python -m orchestration.deploy --deployment shops/spain.toml --image 2026-11-22 --build
  python -m orchestration.deploy --only dags --yes
"""

from __future__ import annotations

import datetime
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import deployment as deployments
from orchestration.deployment import Deployment
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import JobFailed, UsageError, one_line
from transforms.version import code_version

if TYPE_CHECKING:
    from orchestration.deploy_package import Version

WHEEL, TEMPLATES, PACKAGES, DAGS = "wheel", "templates", "packages", "dags"
PARTS = (WHEEL, TEMPLATES, PACKAGES, DAGS)
_ROOT = Path(__file__).resolve().parents[1]
_IMAGE_LINE = re.compile(r"^image[ \t]*=[ \t]*(\"[^\"\n]*\"|'[^'\n]*')", re.MULTILINE)
_REQUIREMENTS = "orchestration/requirements-composer.txt"


@dataclass(frozen=True)
class Options:
    """The arguments of a deployment; ``only`` are the parts wanted."""

    deployment: Path
    image: str | None
    only: tuple[str, ...]
    build: bool
    install: bool
    yes: bool
    print_only: bool


@dataclass(frozen=True)
class Part:
    """Something to do: lines of the plan, what does it (None: nothing is to be done), and what is said after it."""

    name: str
    lines: tuple[str, ...]
    do: Callable[[], None] | None = None
    done: str = ""


def parse(argv: list[str] | None) -> Options:
    """Raises: UsageError for an argument that is missing or not usable."""
    parser = ArgumentParser("python -m orchestration.deploy", description=__doc__)
    parser.add_argument(
        "--deployment", metavar="FILE", help=f"the settings (default: ${deployments.VARIABLE}, else deployment.toml)"
    )
    parser.add_argument(
        "--image", metavar="TAG|IMAGE", help="instead of the settings' image: another tag, or all of it"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be repeated")
    parser.add_argument(
        "--build", action="store_true", help="make images that are missing, by Cloud Build (15 minutes)"
    )
    parser.add_argument("--install", action="store_true", help="have Composer install the packages from PyPI")
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    parser.add_argument("--print_only", action="store_true", help="print the plan, and do nothing")
    known = parser.parse_args(argv)
    file = known.deployment or os.environ.get(deployments.VARIABLE) or _ROOT / deployments.FILE
    return Options(
        Path(file), known.image, tuple(known.only or PARTS), known.build, known.install, known.yes, known.print_only
    )


def settings(file: Path, image: str | None) -> tuple[str, Deployment]:
    """The settings' text, with another image where one is given, and what it says.

    Raises:
      UsageError: it is missing or not usable.
    """
    found = deployments.read(file)
    text = file.read_text()
    if image is None:
        return text, found
    wanted = image if "/" in image else f"{found.image.rpartition(':')[0]}:{image}"
    # The text and not the values: comments stay, and Vertex AI's jobs take the same image as the templates.
    text = _IMAGE_LINE.sub(lambda _: f"image = {wanted!r}", text, count=1)
    changed = deployments.parse(tomllib.loads(text), f"{file} with --image {image}")
    if changed.image != wanted:
        raise UsageError(f'{file}: --image finds no line `image = "..."` to change: write it at the line\'s beginning')
    return text, changed


def parts(options: Options, now: datetime.datetime, folder: Path) -> list[Part]:
    """The plan. Nothing outside ``folder``, an empty one, is changed.

    Raises:
      UsageError: settings that are not usable, or something that has to be there is not.
      JobFailed: the wheel cannot be built.
    """
    text, deployment = settings(options.deployment, options.image)
    _require_credentials(deployment, options)
    found: list[Part] = []
    if TEMPLATES in options.only:
        found.extend(_templates(deployment, options))
    if PACKAGES in options.only:
        found.append(_packages(deployment, options))
    if {WHEEL, DAGS} & {*options.only}:
        from orchestration import deploy_package

        version = deploy_package.make(_ROOT, code_version(), text, folder)
        if WHEEL in options.only:
            found.insert(0, _wheel(deployment, version))
        if DAGS in options.only:
            found.extend(_dags(deployment, version, now))
    return found


def _require_credentials(deployment: Deployment, options: Options) -> None:
    """Raises: UsageError where Cloud Storage is needed and nobody is logged in, which Arrow would find out in minutes."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    local = DAGS in options.only and (deployment.composer_bucket or "/").startswith("/")
    needed = {WHEEL, TEMPLATES} & {*options.only} or (DAGS in options.only and not local)
    if not needed or os.environ.get("STORAGE_EMULATOR_HOST"):
        return
    try:
        google.auth.default()
    except GoogleAuthError as error:
        raise UsageError(f"{deployment.bucket} cannot be reached: {one_line(str(error), 200)}") from error


def _wheel(deployment: Deployment, version: Version) -> Part:
    from transforms import storage

    name, content = version.wheel
    place = deployment.inside("packages", version.directory, name)
    try:
        if storage.exists(place):
            return Part(WHEEL, (f"keep     {place}",))
    except OSError as error:
        raise UsageError(f"{place} cannot be looked for: {one_line(str(error))}") from error

    def do() -> None:
        try:
            storage.write_bytes(place, content)
        except OSError as error:
            raise JobFailed(f"{place} cannot be written: {one_line(str(error))}") from error

    return Part(WHEEL, (f"make     {place} ({len(content):,} bytes)",), do, place)


def _templates(deployment: Deployment, options: Options) -> Iterator[Part]:
    import shutil

    from orchestration import deploy_templates

    look = not options.print_only or shutil.which("gcloud") is not None  # a plan alone needs no gcloud
    for template in deploy_templates.planned(_ROOT, deployment, options.build, look):
        remark = (f"         {template.image}: {template.remark}",) if template.remark else ()
        if template.is_done:
            yield Part(TEMPLATES, (f"keep     {template.file} ({template.image})", *remark))
            continue
        commands = (deploy_templates.typed(template.command), *template.shown)
        yield Part(
            TEMPLATES,
            (
                f"{template.state:<8} {template.file} ({template.image})",
                *remark,
                *(f"           {c}" for c in commands),
            ),
            lambda template=template: deploy_templates.carry_out(_ROOT, template),  # type: ignore[misc]
            f"{template.file} ({template.image})",
        )


def requirements() -> list[str]:
    """What the commands on a worker need beyond Airflow's Google and Apache Beam providers."""
    lines = (line.partition("#")[0].strip() for line in (_ROOT / _REQUIREMENTS).read_text().splitlines())
    return [line for line in lines if line]


def install_command(deployment: Deployment) -> list[str]:
    """Adds to what is installed. With --update-pypi-packages-from-file everything else would be removed."""
    packages = [f"--update-pypi-package={requirement}" for requirement in requirements()]
    return [
        "gcloud", "composer", "environments", "update", deployment.composer_environment or "ENVIRONMENT",
        f"--location={deployment.region}", f"--project={deployment.project}", *packages,
    ]  # fmt: skip


def _packages(deployment: Deployment, options: Options) -> Part:
    place = deployment.composer_bucket or ""
    composer = install_command(deployment)
    command = ["pip", "install", "-r", _REQUIREMENTS] if place.startswith("/") else composer
    shown = shlex.join(command)
    if not options.install:
        return Part(PACKAGES, ("not installed (--install); once, and when the file changes:", f"           {shown}"))
    if command[0] != "gcloud":
        raise UsageError(f"--install is Composer's, and composer_bucket is {place}: run {shown} where Airflow runs")
    if not deployment.composer_environment:
        raise UsageError("--install needs the setting composer_environment: accepted is an environment's name")

    def do() -> None:
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            raise UsageError(f"gcloud cannot be run ({error.strerror}): it has to be installed") from error
        if code:
            raise JobFailed(f"gcloud composer environments update ended with {code}: its lines above say why")

    lines = (f"install  into {deployment.composer_environment}", f"           {shown}")
    return Part(PACKAGES, lines, do, f"installed into {deployment.composer_environment}")


def _dags(deployment: Deployment, version: Version, now: datetime.datetime) -> Iterator[Part]:
    from orchestration import deploy_dags, deploy_loader

    if deployment.composer_bucket is None:
        yield Part(DAGS, ("nowhere: the settings have no composer_bucket",))
        return
    plan = deploy_dags.planned(deployment.composer_bucket, version, now)
    place = f"{plan.folder}/{deploy_loader.FOLDER}"
    if plan.is_done:
        yield Part(DAGS, (f"keep     {plan.folder}: {version.directory}",))
        return
    lines = []
    if plan.missing:
        lines.append(f"make     {place}/{version.directory}: {len(plan.missing)} of {len(version.files) + 1} files")
    if plan.loader != plan.found:
        change = f"from {plan.before}" if plan.before else "the first"
        lines.append(f"switch   {plan.folder}/{deploy_dags.LOADER} to {version.directory}, {change}")
    lines += [f"delete   {place}/{name}" for name in plan.retired]
    yield Part(DAGS, tuple(lines), lambda: deploy_dags.carry_out(plan), f"{plan.folder}: {version.directory}")


def run(
    argv: list[str] | None = None,
    clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
) -> None:
    """Prints the plan, asks, and does it.

    Raises:
      UsageError: unusable arguments or settings; nothing was done.
      JobFailed: a part failed, or the answer was not yes.
    """
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        plan = parts(options, clock(), Path(folder))
        print(f"plan of {options.deployment}, code {code_version()}")
        for part in plan:
            print("\n".join(f"{name:<10} {line}" for name, line in zip(_once(part), part.lines, strict=True)))
        to_do = [part for part in plan if part.do]
        if not to_do:
            print("nothing is to be done")
        if options.print_only or not to_do:
            return
        if not options.yes and not _confirmed():
            raise JobFailed("nothing was done: the answer was not yes")
        for part in to_do:
            assert part.do
            part.do()
            print(f"done: {part.name} {part.done}", flush=True)


def _once(part: Part) -> list[str]:
    return [part.name, *[""] * (len(part.lines) - 1)]


def _confirmed() -> bool:
    try:
        return input("do this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to ask
        print()
        return False


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
