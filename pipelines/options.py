"""What every pipeline's command line shares: argument types, and the options handed on to Beam."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import dataflow_options
from transforms.cli import MOST_SEED, ArgumentParser, whole_number
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# Named in full because `DirectRunner` asks the network for Prism first: a machine with a network
# and one without would run different engines.
IN_PROCESS_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_MOST_BUCKETS = 2**16 - 1
_MOST_DAYS = 10**5  # almost three centuries; much beyond it no date could be computed
# These run on the launching machine, so that their workers see the launcher's files.
_LOCAL_RUNNERS = {IN_PROCESS_RUNNER, "FnApiRunner", "DirectRunner", "PrismRunner", "BundleBasedDirectRunner"}


positive = whole_number(1)
days = whole_number(1, _MOST_DAYS)
days_or_zero = whole_number(0, _MOST_DAYS)
seed = whole_number(0, MOST_SEED)
# Bucket numbers travel as 16 bits; at the default size so many buckets hold 16 billion lines.
buckets = whole_number(1, _MOST_BUCKETS)


def date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a date such as 2011-08-08") from None


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def character(text: str) -> str:
    if len(text.encode()) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is one ASCII character such as ; or a tab")
    return text


def directory(uri: str) -> str:
    """A file:// URI as the path it means, the only local form that Beam's own file systems know."""
    if not uri:
        raise argparse.ArgumentTypeError("'' is not usable: accepted is a directory, local or gs://")
    if not uri.startswith("file://"):
        return uri
    from transforms import storage

    return str(storage.resolve(uri)[1])


def add_output(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=directory, metavar="DIR", help="the directory to make, local or gs://")


def add_data_schema(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data_schema", metavar="FILE.pbtxt",
        help="what the features have to look like: made from these where there is no such file; warns until a person has reviewed it, "
        "then refuses",
    )  # fmt: skip


def add_quiet_days(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--quiet_days", type=days_or_zero, default=0, metavar="N",
        help="days without an order after the last one that are believed: the shop was closed, no order is missing",
    )  # fmt: skip


def project(options: PipelineOptions) -> str | None:
    """The project that pays, where one is named."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return options.view_as(GoogleCloudOptions).project


def is_local(options: PipelineOptions) -> bool:
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner in _LOCAL_RUNNERS


def pipeline_options(
    argv: list[str],
    *,
    step: str = "",
    labels: Mapping[str, object] | None = None,
    paths: Mapping[str, str | None] | None = None,
) -> PipelineOptions:
    """Beam's options from the arguments our own parser did not know.

    Args:
      step: what the job does; with ``labels`` it names and labels a job on Dataflow.
      labels: what sets this run of the step apart, such as its cutoff; values of None are left out.
      paths: what workers read or write, by the argument that names it; None where it was not given.

    Raises:
      UsageError: Beam does not know an argument either, or not the runner, or a job on Dataflow lacks something.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    _refuse_unknown(argv)
    options = PipelineOptions(argv, save_main_session=False)
    standard = options.view_as(StandardOptions)
    _check_runner(standard.runner)
    if standard.runner in (None, "FnApiRunner"):
        standard.runner = IN_PROCESS_RUNNER
    _set_setup_file(options)
    if dataflow_options.chosen(options):
        dataflow_options.check(options, paths or {})
        dataflow_options.set_defaults(options)
        if step:
            dataflow_options.name_job(options, step, labels or {})
    else:
        dataflow_options.check_elsewhere(options)
    return options


def _set_setup_file(options: PipelineOptions) -> None:
    """Has our packages built and installed on the workers, unless they run an image that holds them."""
    from apache_beam.options.pipeline_options import SetupOptions

    setup = options.view_as(SetupOptions)
    root = Path(__file__).resolve().parent.parent
    if setup.setup_file is not None:
        # Beam 2.77 fails on a bare `setup.py` (it asks for the folder '').
        setup.setup_file = str(Path(setup.setup_file).absolute())
    elif not is_local(options) and setup.sdk_location != "container" and (root / "setup.py").exists():
        setup.setup_file = str(root / "setup.py")


def _refuse_unknown(argv: list[str]) -> None:
    """Raises: UsageError for what Beam would only mention in its log: a mistyped argument of ours, or a stray one."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    _, unknown = parsers[0].parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=", 1)[0]
        raise UsageError(f"{name} is known neither to this command nor to Beam: see --help")


def _check_runner(name: str | None) -> None:
    """Raises: UsageError where neither Beam nor an importable class has this name."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.runner import create_runner

    if name is None:
        return
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        known = ", ".join(StandardOptions.KNOWN_RUNNER_NAMES)
        raise rejected("--runner", name, f"{known}, or a class's full name") from error
