"""Makes a Flex Template: its image where asked to, and the file in Cloud Storage that a launch names.

The file says which image to start and which parameters there are (templates/NAME/metadata.json). The image must have
been built and pushed, with the arguments TEMPLATE, IMAGE and CODE_VERSION of templates/Dockerfile; --build does that
first, by Cloud Build, or by Docker on this machine with --build docker. Every command is shown before it runs.

examples:
  python -m templates.build publish --template gs://shop/templates/publish.json --build \\
      --image europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22
  python -m templates.build features --template gs://shop/templates/features.json --print_only \\
      --image europe-west1-docker.pkg.dev/my-project/clv/features:2026-11-22
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from templates import gcloud, image, metadata
from templates.parameters import FILE, TEMPLATES
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError
from transforms.version import code_version

CLOUD, DOCKER = "cloud", "docker"
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """The arguments of a build."""

    name: str
    image: str
    template: str
    project: str | None
    build: str | None
    print_only: bool


def parse(argv: list[str] | None) -> Options:
    """Raises: UsageError for an argument that is missing or not usable."""
    parser = ArgumentParser("python -m templates.build", description=__doc__)
    add_name(parser)
    parser.add_argument("--image", required=True, metavar="IMAGE", help=image.ACCEPTED)
    add_template(parser, "the file to write; one that is there already is replaced")
    parser.add_argument("--project", metavar="PROJECT", help="whose Cloud Build, and whose quota (default: gcloud's)")
    parser.add_argument(
        "--build", nargs="?", const=CLOUD, choices=(CLOUD, DOCKER),
        help=f"build and push the image first: by Cloud Build ({CLOUD}, also where no value is given) or by {DOCKER}",
    )  # fmt: skip
    add_print_only(parser)
    known = parser.parse_args(argv)
    image.require_pinned("--image", known.image)
    return Options(**vars(known))


def add_name(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", choices=tuple(TEMPLATES), help=f"the template: {', '.join(TEMPLATES)}")


def add_template(parser: ArgumentParser, help: str) -> None:
    parser.add_argument("--template", required=True, metavar="gs://FILE", type=_object, help=help)


def add_print_only(parser: ArgumentParser) -> None:
    parser.add_argument("--print_only", action="store_true", help="print the commands, and run nothing")


def _object(uri: str) -> str:
    import re

    if not re.fullmatch(FILE.regex, uri):
        raise argparse.ArgumentTypeError(f"{uri!r} is not usable: accepted is gs://bucket/path/name.json")
    return uri


def image_commands(options: Options) -> list[list[str]]:
    """The commands that build and push the image.

    Raises:
      UsageError: this is not the repository, which the image is made of.
    """
    if options.build is None:
        return []
    if not (_ROOT / "templates" / "Dockerfile").exists() or not (_ROOT / "pyproject.toml").exists():
        raise UsageError("--build needs the repository, and this is an installed package: run it from a checkout")
    given = {"TEMPLATE": options.name, "IMAGE": options.image, "CODE_VERSION": code_version()}
    if options.build == CLOUD:
        substitutions = ",".join(f"_{key}={value}" for key, value in given.items())
        return [[
            "gcloud", "builds", "submit", str(_ROOT), "--config", str(_ROOT / "templates" / "cloudbuild.yaml"),
            f"--substitutions={substitutions}", *_project(options),
        ]]  # fmt: skip
    build_arguments = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    return [
        [
            "docker", "build", "--platform", "linux/amd64", "--file", str(_ROOT / "templates" / "Dockerfile"),
            *build_arguments, "--tag", options.image, str(_ROOT),
        ],
        ["docker", "push", options.image],
    ]  # fmt: skip


def template_command(options: Options) -> list[str]:
    return [
        "gcloud", "dataflow", "flex-template", "build", options.template, "--image", options.image,
        "--sdk-language", "PYTHON", "--metadata-file", str(metadata.path(options.name)), *_project(options),
    ]  # fmt: skip


def _project(options: Options) -> list[str]:
    return ["--project", options.project] if options.project else []


def run(argv: list[str] | None = None) -> None:
    """Builds the template, or prints the commands that do.

    Raises:
      UsageError: unusable arguments, or no gcloud (or docker) here.
      JobFailed: a command ended with an error.
    """
    options = parse(argv)
    long_ones, last = image_commands(options), template_command(options)
    if options.print_only:
        print("\n".join(map(gcloud.shown, [*long_ones, last])))
        return
    for command in long_ones:
        print(f"build: {gcloud.shown(command)}", file=sys.stderr, flush=True)
        gcloud.follow(command)
    print(f"build: {gcloud.shown(last)}", file=sys.stderr, flush=True)
    gcloud.output(last)
    print(f"{options.template}: the template {options.name} with the image {options.image}")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
