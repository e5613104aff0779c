"""What a launch says to Beam: all of Beam's flags as true and false, unknown arguments, mistyped ones."""

from __future__ import annotations

import argparse

import pytest

from pipelines import publish_options
from pipelines.options import pipeline_options
from templates import beam_arguments
from tests.templates.test_launcher import arguments
from transforms.errors import UsageError

FLAGS = {
    option: action
    for option, action in beam_arguments.parser()._option_string_actions.items()
    if action.nargs == 0 and action.dest != "help"
}
# On by default, and Beam has no flag that turns it off.
ALWAYS_ON = "--enable_streaming_engine"


def asked_for(action: argparse.Action, value: str) -> bool:
    return bool(action.const) == (value == "true")


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize("option", FLAGS)
def test_every_flag_of_beam_is_what_was_asked_for(option: str, value: str) -> None:
    if (option, value) == (ALWAYS_ON, "false"):
        with pytest.raises(UsageError, match=f"{option}=false is not usable: Beam has no way to turn it off"):
            beam_arguments.translated([f"{option}={value}"], [])
        return
    for before in ([], [f"{option}=true"], [f"{option}=false"] if option != ALWAYS_ON else []):
        found = beam_arguments.translated([*before, f"{option}={value}", f"{option}="], [])
        options, unknown = beam_arguments.parser().parse_known_args(found)
        assert not unknown
        assert getattr(options, FLAGS[option].dest) is asked_for(FLAGS[option], value)


def test_the_flags_are_beams() -> None:
    assert {"--use_public_ips", "--no_use_public_ips", "--save_main_session", "--no_auth", ALWAYS_ON} <= set(FLAGS)
    assert len(FLAGS) > 20


@pytest.mark.parametrize(("given", "public"), [("--use_public_ips=False", False), ("--no_use_public_ips=false", True)])
def test_workers_have_the_addresses_that_were_asked_for(given: str, public: bool) -> None:
    options = pipeline_options(publish_options.parse(arguments(given))[1])
    assert options.get_all_options()["use_public_ips"] is public


def test_neither_true_nor_false() -> None:
    with pytest.raises(UsageError, match="--use_public_ips 'perhaps' is not usable: accepted is true or false"):
        arguments("--use_public_ips=perhaps")


def test_what_beam_does_not_know_is_left_out_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--labels",
        "team=shop",
        "--launcher_of_tomorrow=a=b",
        "--max_num_workers=4",
        "--another=",
        "--no_auth",
        "stray",
    ]
    kept = ["--labels", "team=shop", "--max_num_workers=4", "--no_auth", "stray"]
    assert arguments(*given)[-6:-1] == kept
    assert capsys.readouterr().err.splitlines() == [
        "warning: --launcher_of_tomorrow is left out: Beam does not know it",
        "warning: --another is left out: Beam does not know it",
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("--predictons=gs://a/b", "predictions"), ("--stage-only=true", "stage_only"), ("--overide=zeros=a", "override"),
     ("--dryrun=true", "dry_run"), ("--bigquery_tables=a.b.c", "bigquery_table")],
)  # fmt: skip
def test_a_mistyped_parameter_is_refused(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        arguments(given)
    said = f"{given!r} is known neither to this template nor to Beam: did you mean --{meant}?"
    assert str(caught.value) == said and capsys.readouterr().err == ""
