"""What every command line shares; and --help of every command, fast enough to be asked for often."""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import options
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "pipelines.features", "pipelines.predict", "pipelines.publish", "trainer.task", "trainer.report",
    "serving.lookup", "orchestration.run_local", "orchestration.demo", "benchmarks.features",
)  # fmt: skip
HELP_CPU_SECONDS = 0.5


def help_of(command: str) -> tuple[str, float]:
    """The help, and the CPU seconds of its process."""
    # Compiling our modules anew each time is not what a person's machine does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_and_answers_at_once(command: str) -> None:
    text, seconds = help_of(command)
    if seconds >= HELP_CPU_SECONDS:
        text, seconds = help_of(command)  # now with bytecode, or on a machine that has calmed down
    assert seconds < HELP_CPU_SECONDS
    usage, explanation = text.split("\n\n", 1)
    assert usage.startswith(f"usage: python -m {command}")
    assert f"python -m {command} " in explanation, "an example"


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.startswith(("pipelines.f", "pipelines.pred", "orch"))]
)
def test_help_shows_the_defaults_there_are(command: str) -> None:
    text = " ".join(help_of(command)[0].split())
    assert "(default: " in text and "(default: None)" not in text


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (options.date, "2012-03-01", datetime.date(2012, 3, 1)),
        (options.positive, "90", 90),
        (options.days_or_zero, "0", 0),
        (options.character, ";", ";"),
        (options.character, "\t", "\t"),
        (options.directory, "out/here", "out/here"),
        (options.directory, "gs://bucket/out", "gs://bucket/out"),
        (options.directory, "file:///out/two%20words", "/out/two words"),
    ],
)
def test_argument_types(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (options.date, "01.03.2012"), (options.date, "2012-02-30"), (options.date, ""), (options.positive, "0"),
        (options.days_or_zero, "-1"), (options.days_or_zero, "100001"), (options.positive, "-1"), (options.positive, "1.5"), (options.positive, "٣x"), (options.positive, ""),
        (options.character, ""), (options.character, ";;"), (options.character, "é"),
    ],
)  # fmt: skip
def test_argument_types_name_the_value_and_what_is_accepted(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert str(error.value).startswith(f"{text!r} is not usable: accepted is ")


# --- Beam's options -------------------------------------------------------------------------------------------------


def runner_of(argv: list[str]) -> str:
    from apache_beam.options.pipeline_options import StandardOptions

    return str(options.pipeline_options(argv).view_as(StandardOptions).runner)


DATAFLOW = [
    "--runner",
    "DataflowRunner",
    "--project",
    "project",
    "--region",
    "europe-west1",
    "--temp_location",
    "gs://bucket/t",
]


def setup_file_of(argv: list[str]) -> str | None:
    from apache_beam.options.pipeline_options import SetupOptions

    found = options.pipeline_options(argv).view_as(SetupOptions).setup_file
    return None if found is None else str(found)


def test_the_default_runner_is_the_one_that_asks_no_network() -> None:
    assert runner_of([]) == runner_of(["--runner", "FnApiRunner"]) == options.IN_PROCESS_RUNNER
    assert options.is_local(options.pipeline_options([]))


@pytest.mark.parametrize(("runner", "local"), [("DirectRunner", True), ("PrismRunner", True), ("DataflowRunner", False), ("FlinkRunner", False)])  # fmt: skip
def test_a_named_runner_is_kept(runner: str, local: bool) -> None:
    cloud = DATAFLOW[2:] if runner == "DataflowRunner" else []
    assert runner_of(["--runner", runner, *cloud]) == runner
    assert options.is_local(options.pipeline_options([f"--runner={runner}", *cloud])) is local


def test_distributed_workers_get_our_code() -> None:
    assert setup_file_of([]) is None
    image = ["--sdk_location", "container", "--sdk_container_image", "image"]
    assert setup_file_of(DATAFLOW) == str(ROOT / "setup.py")
    assert setup_file_of([*DATAFLOW, *image]) is None
    assert setup_file_of(["--setup_file", "setup.py"]) == str(Path("setup.py").absolute())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--cutof", "2012-03-01"], "--cutof is known neither to this command nor to Beam"),
        (["--runner", "DirectRunner", "--no_such_thing=1"], "--no_such_thing is known neither"),
        (["--runner", "NoRunner"], "--runner 'NoRunner' is not usable: accepted is DataflowRunner, "),
        (["--runner", "no.such.Runner"], "--runner 'no.such.Runner' is not usable"),
    ],
)
def test_what_beam_does_not_know_either_is_refused(argv: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        options.pipeline_options(argv)


def test_beams_own_options_pass() -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    assert options.pipeline_options(DATAFLOW).view_as(GoogleCloudOptions).project == "project"
