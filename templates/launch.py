"""Launches a Flex Template on Dataflow, and does not wait for its job.

The parameters are checked first, so that a mistake costs nothing; then one gcloud command is shown and run. Dataflow
starts the template's image on a machine of its own, which submits the job; some minutes later the job runs. Its page
shows both, and what went wrong.

examples:
  python -m templates.launch publish --template gs://shop/templates/publish.json \\
      --project my-project --region europe-west1 --temp_location gs://shop/temp \\
      --parameters predictions=gs://shop/predictions/2011-12-10 serving=datastore://my-project \\
          dead_letters=gs://shop/dead_letters "override=customers=the Spanish shop was closed;zeros=the same"
  python -m templates.launch features --template gs://shop/templates/features.json --print_only \\
      --project my-project --region europe-west1 --temp_location gs://shop/temp --max_workers 4 \\
      --parameters orders=bigquery://my-project.shop.orders cutoff=2011-08-08 horizon_days=90 \\
          output=gs://shop/features/2011-08-08
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import dataflow_job, dataflow_options, labels
from templates import checks, gcloud
from templates.build import add_name, add_print_only, add_template
from templates.parameters import FOLDER_READ
from transforms.cli import ArgumentParser, exit_code, whole_number
from transforms.errors import JobFailed, one_line

_DATES = ("cutoff", "as_of")  # what sets one run of a step apart, and belongs into its job's name
# gcloud's own ways to separate a list's values: the comma, and any text that the list itself names first.
_DELIMITERS = ",;|~#@%+!*"


@dataclass(frozen=True)
class Options:
    """The arguments of a launch; ``passed`` are gcloud's own, by the names it has for them."""

    name: str
    template: str
    project: str
    region: str
    job_name: str
    parameters: Mapping[str, str]
    passed: Mapping[str, str | bool]
    print_only: bool


def parse(argv: list[str] | None) -> Options:
    """Raises: UsageError for an argument or a parameter that is missing, unknown or not usable."""
    parser = ArgumentParser("python -m templates.launch", description=__doc__)
    add_name(parser)
    add_template(parser, "the template's file, which templates.build wrote")
    parser.add_argument("--project", required=True, metavar="PROJECT", help="the project that runs the job and pays")
    parser.add_argument("--region", required=True, metavar="REGION", help="where the job runs, such as europe-west1")
    parser.add_argument(
        "--parameters", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="the template's parameters, as templates/NAME/metadata.json describes them; flags are true or false",
    )  # fmt: skip
    parser.add_argument(
        "--job_name",
        type=_job_name,
        metavar="NAME",
        help="the job's name (default: clv-NAME-..., ending in 8 random digits)",
    )
    passed = parser.add_argument_group("passed on to gcloud dataflow flex-template run, which explains them")
    for name, (type_, metavar) in _PASSED.items():
        passed.add_argument(f"--{name}", type=type_, metavar=metavar)
    passed.add_argument("--disable_public_ips", action="store_true")
    add_print_only(parser)
    known = parser.parse_args(argv)
    parameters = checks.checked(known.name, checks.pairs(known.parameters))
    return Options(
        known.name, known.template, known.project, known.region,
        known.job_name or default_job_name(known.name, parameters),
        parameters,
        {name: getattr(known, name) for name in (*_PASSED, "disable_public_ips") if getattr(known, name)},
        known.print_only,
    )  # fmt: skip


def _directory(uri: str) -> str:
    if not re.fullmatch(FOLDER_READ.regex, uri):
        raise argparse.ArgumentTypeError(f"{uri!r} is not usable: accepted is {FOLDER_READ.accepted}")
    return uri


def _job_name(name: str) -> str:
    rule, words = dataflow_options.JOB_NAME
    if not re.fullmatch(rule, name):
        raise argparse.ArgumentTypeError(f"{name!r} is not usable: accepted are {words}")
    return name


_PASSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "temp_location": (_directory, "gs://DIR"),
    "staging_location": (_directory, "gs://DIR"),
    "service_account_email": (str, "EMAIL"),
    "max_workers": (whole_number(1), "N"),
    "num_workers": (whole_number(1), "N"),
    "worker_machine_type": (str, "TYPE"),
    "launcher_machine_type": (str, "TYPE"),
    "network": (str, "NETWORK"),
    "subnetwork": (str, "SUBNETWORK"),
    "worker_region": (str, "REGION"),
    "worker_zone": (str, "ZONE"),
    "dataflow_kms_key": (str, "KEY"),
    "additional_experiments": (str, "LIST"),
    "additional_pipeline_options": (str, "LIST"),
    "additional_user_labels": (str, "LIST"),
}


def default_job_name(name: str, parameters: Mapping[str, str]) -> str:
    """``clv-<step>-<date>-<unique>``: Dataflow takes no second active job of one name."""
    unique = uuid.uuid4().hex[:8]
    words = "-".join(["clv", name, *(parameters[date] for date in _DATES if date in parameters)])
    return f"{words[: labels.MOST_CHARACTERS - len(unique) - 1]}-{unique}"


def command(options: Options) -> list[str]:
    """The gcloud command of a launch."""
    listed = [f"--parameters={joined(options.parameters)}"] if options.parameters else []
    return [
        "gcloud", "dataflow", "flex-template", "run", options.job_name,
        f"--template-file-gcs-location={options.template}",
        f"--project={options.project}", f"--region={options.region}", *listed,
        *(_flag(name, value) for name, value in options.passed.items()),
        "--format=json",
    ]  # fmt: skip


def _flag(name: str, value: str | bool) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def joined(parameters: Mapping[str, str]) -> str:
    """A list as gcloud reads it, whatever its values hold."""
    texts = [f"{name}={value}" for name, value in parameters.items()]
    delimiter = _delimiter(texts)
    return delimiter.join(texts) if delimiter == "," else f"^{delimiter}^{delimiter.join(texts)}"


def _delimiter(texts: Sequence[str]) -> str:
    free = (delimiter for delimiter in _DELIMITERS if not any(delimiter in text for text in texts))
    return next(free, f"[{uuid.uuid4().hex}]")


def run(argv: list[str] | None = None) -> str | None:
    """Launches the template and returns the job's id, or prints the command that does.

    Raises:
      UsageError: unusable arguments or parameters, or no gcloud here; nothing was started.
      JobFailed: Dataflow did not take the launch.
    """
    options = parse(argv)
    launching = command(options)
    if options.print_only:
        print(gcloud.shown(launching))
        return None
    print(f"launch: {gcloud.shown(launching)}", file=sys.stderr, flush=True)
    job_id = _job_id(gcloud.output(launching))
    page = dataflow_job.page_of(job_id, options.region, options.project)
    print(f"job   {job_id}\nname  {options.job_name}\npage  {page}")
    return job_id


def _job_id(answer: str) -> str:
    try:
        return str(json.loads(answer)["job"]["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobFailed(f"gcloud did not say which job it launched: {one_line(answer)}") from error


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
