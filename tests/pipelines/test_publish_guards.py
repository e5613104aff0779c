"""The guards: each held against figures worked out by hand, at its limits, overridden, and asked of a real registry."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import publish_guards, publish_toml
from pipelines.publish_guards import Answer, GuardTripped, Outcome, Verdict, judge, parse_overrides, settle
from pipelines.publish_toml import GUARDS, Limit, Thresholds
from serving.store import Content, Generation, State
from tests.trainer import registry_models
from trainer import registry
from transforms.cli import exit_code
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
AS_OF = date(2011, 12, 10)
SHIPPED = publish_toml.read().guards


def generation(
    rows: int = 4000,
    total_value: float = 80_000.0,
    *,
    zeros: int = 0,
    as_of: date = AS_OF,
    horizon_days: int = 90,
    dead_letters: Mapping[str, int] | None = None,
    name: str = "2011-12-10-new",
) -> Generation:
    content = Content(rows, total_value, zeros)
    return Generation(
        name, as_of, horizon_days, "m2", State.SEALED, 1, content=content, dead_letters=dead_letters or {}
    )


CURRENT = generation(3851, 77_020.0, as_of=date(2011, 11, 10), name="2011-11-10-old")


def verdicts(
    new: Generation,
    current: Generation | None = CURRENT,
    thresholds: Thresholds = SHIPPED,
    answer: Answer | None = None,
) -> dict[str, Verdict]:
    return {verdict.guard: verdict for verdict in judge(new, current, thresholds, answer)}


def tripped(new: Generation, current: Generation | None = CURRENT, thresholds: Thresholds = SHIPPED) -> set[str]:
    return {name for name, verdict in verdicts(new, current, thresholds).items() if verdict.outcome is Outcome.TRIPPED}


def test_a_good_generation_passes_every_guard_in_order() -> None:
    judged = judge(generation(), CURRENT, SHIPPED, Answer("registry", None, None))
    assert [verdict.guard for verdict in judged] == list(GUARDS)
    assert {verdict.outcome for verdict in judged} == {Outcome.PASSED}


def test_the_figures_are_said_in_one_line() -> None:
    new = generation(
        812, 16_000.0, zeros=406, as_of=date(2011, 11, 9), dead_letters={"negative": 180, "missing_value": 8}
    )
    thresholds = Thresholds(
        {**SHIPPED.limits, "customers": Limit(1.5, 0.8), "total_value": Limit(2, 0.5)}, "registered"
    )
    texts = {name: verdict.text for name, verdict in verdicts(new, thresholds=thresholds).items()}
    assert texts == {
        "dead_letters": "dead_letters 188 of 1,000 rows, 18.80%: accepted is at most 5%",
        "missing": "missing 8 of 1,000 rows, 0.80%: accepted is at most 1%",
        "zeros": "zeros 406 of 812 customers, 50.00%: accepted is at most 10%",
        "customers": "customers 812, 0.21 of the 3,851 in generation 2011-11-10-old: accepted is 0.8 to 1.5",
        "total_value": "total_value 16,000.00, 0.21 of the 77,020.00 in generation 2011-11-10-old: accepted is 0.5 to 2",
        "as_of": "as_of 2011-11-09, 1 day before the 2011-11-10 of generation 2011-11-10-old: "
        "accepted is at most 0 days before",
        "model_version": "model_version m2 not checked: no --registry was given",
    }
    assert tripped(new, thresholds=thresholds) == {"dead_letters", "zeros", "customers", "total_value", "as_of"}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (generation(950, dead_letters={"negative": 50}), set()),
        (generation(949, dead_letters={"negative": 51}), {"dead_letters"}),
        (generation(990, dead_letters={"missing_value": 10}), set()),
        (generation(989, dead_letters={"missing_value": 11}), {"missing"}),
        (generation(989, dead_letters={"missing_customer_id": 11}), set()),
        (generation(1000, zeros=100), set()),
        (generation(1000, zeros=101), {"zeros"}),
        (generation(0, 0.0, dead_letters={"negative": 9}), {"dead_letters"}),
    ],
)
def test_shares_trip_beyond_their_limit(new: Generation, expected: set[str]) -> None:
    assert tripped(new, current=None) == expected


def test_the_first_generation_has_nothing_to_be_compared_with() -> None:
    found = verdicts(generation(), current=None)
    compared = {name for name, verdict in found.items() if verdict.outcome is Outcome.NOT_APPLICABLE}
    assert compared == {"customers", "total_value", "as_of", "model_version"}
    assert found["customers"].text == "customers 4,000: nothing current to compare it with"
    nothing = verdicts(generation(0, 0.0), current=None)
    assert {nothing[name].text for name in ("dead_letters", "zeros")} == {
        "dead_letters: there are no rows", "zeros: there are no customers",
    }  # fmt: skip


def test_a_current_generation_worth_nothing_is_no_measure() -> None:
    worthless = replace(CURRENT, content=Content(10, 0.0, 10))
    assert verdicts(generation(10), worthless)["total_value"].outcome is Outcome.NOT_APPLICABLE
    empty = replace(CURRENT, content=Content())
    assert verdicts(generation(10), empty)["customers"].outcome is Outcome.NOT_APPLICABLE


def test_total_value_is_compared_per_day_of_the_horizon() -> None:
    doubled = generation(4000, 2 * CURRENT.content.total_value * 0.9, horizon_days=180)
    found = verdicts(doubled)["total_value"]
    assert found.figure == pytest.approx(0.9)
    assert "138,636.00 in 180 days, per day 0.90 of the 77,020.00 in 90 days in generation" in found.text
    halved = generation(4000, CURRENT.content.total_value * 0.9, horizon_days=360)
    assert "total_value" in tripped(halved)


@given(
    new=st.integers(0, 10**7),
    current=st.integers(1, 10**7),
    low=st.fractions(0, 2, max_denominator=100),
    more=st.fractions(0, 3, max_denominator=100),
)
def test_the_ratio_is_exact_to_its_limits_and_the_line_does_not_contradict_itself(
    new: int, current: int, low: Fraction, more: Fraction
) -> None:
    """The second opinion is in exact fractions."""
    limit = Limit(min=float(low), max=float(low + more))
    thresholds = Thresholds({**SHIPPED.limits, "customers": limit}, "registered")
    verdict = verdicts(generation(new), replace(CURRENT, content=Content(current, 1.0)), thresholds)["customers"]
    exact = Fraction(new, current)
    if exact not in (low, low + more):  # there floating point may fall on either side
        assert (verdict.outcome is Outcome.TRIPPED) == (not low <= exact <= low + more)
    shown = re.search(r", ([0-9.]+) of the ", verdict.text)
    assert shown
    assert limit.accepts(float(shown[1])) == (verdict.outcome is Outcome.PASSED)
    assert float(shown[1]) == pytest.approx(new / current, abs=0.0051)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_total_that_is_no_number_trips_and_is_valid_json(value: float) -> None:
    verdict = verdicts(generation(4000, value))["total_value"]
    assert verdict.outcome is Outcome.TRIPPED
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["figure"] == str(value)


def test_as_of_counts_days_back() -> None:
    allowed = Thresholds({**SHIPPED.limits, "as_of": Limit(7)}, "registered")
    for days, expected in ((-30, False), (0, False), (7, False), (8, True)):
        new = generation(as_of=CURRENT.as_of - timedelta(days=days))
        assert ("as_of" in tripped(new, thresholds=allowed)) == expected
        assert verdicts(new)["as_of"].figure == days
    assert "30 days after the 2011-11-10" in verdicts(generation())["as_of"].text
    assert "the same day as the 2011-11-10" in verdicts(generation(as_of=CURRENT.as_of))["as_of"].text


# --- The registry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A registry of two versions, the first of which is champion."""
    uri = str(tmp_path / "registry")
    for version, command in (("m1", "promote"), ("m2", "register")):
        model = registry_models.small(tmp_path / version, version)
        registry.run([command, "--registry", uri, "--model", model])
    return uri


@pytest.mark.parametrize(
    ("version", "accepted", "outcome", "said"),
    [
        ("m1", "registered", Outcome.PASSED, "accepted is a registered version"),
        ("m2", "registered", Outcome.PASSED, "accepted is a registered version"),
        ("m3", "registered", Outcome.TRIPPED, "model version 'm3' is not usable: accepted is one of m1, m2"),
        ("../m1", "registered", Outcome.TRIPPED, "accepted is a version of letters, digits"),
        ("m1", "champion", Outcome.PASSED, "accepted is the champion"),
        ("m2", "champion", Outcome.TRIPPED, "but m1 is champion there: accepted is the champion"),
        ("m3", "champion", Outcome.TRIPPED, "is not in the registry"),
    ],
)
def test_the_registry_knows_the_model(place: str, version: str, accepted: str, outcome: Outcome, said: str) -> None:
    new = replace(generation(), model_version=version)
    thresholds = Thresholds(SHIPPED.limits, accepted)
    verdict = verdicts(new, None, thresholds, publish_guards.ask_registry(place, version))["model_version"]
    assert verdict.outcome is outcome
    assert said in verdict.text
    assert verdict.text.startswith(f"model_version {version} is in the registry {place}") or version not in ("m1", "m2")


def test_a_version_whose_copying_was_cut_off_is_not_known(place: str) -> None:
    Path(place, "models", "m2", "manifest.json").unlink()
    assert "was cut off while it was copied" in str(publish_guards.ask_registry(place, "m2").problem)


def test_a_registry_without_champion_or_versions(tmp_path: Path) -> None:
    answer = publish_guards.ask_registry(str(tmp_path / "none"), "m1")
    assert answer.champion is None
    assert "has none yet" in str(answer.problem)
    nobody = verdicts(generation(), None, Thresholds(SHIPPED.limits, "champion"), Answer("r", None, None))
    assert "but nobody is champion there" in nobody["model_version"].text
    with pytest.raises(UsageError, match="--registry 's3://bucket' is not usable"):
        publish_guards.ask_registry("s3://bucket", "m1")


# --- Overrides ------------------------------------------------------------------------------------------------------


def test_overrides_are_reasons_by_guard() -> None:
    given_ = ["customers=the Spanish shop\nwas closed = gone", "zeros= half of them left "]
    assert parse_overrides(given_) == {
        "customers": "the Spanish shop was closed = gone", "zeros": "half of them left",
    }  # fmt: skip
    assert parse_overrides([]) == {}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (["customer=x"], "--override 'customer=x' is not usable: accepted is GUARD=REASON, GUARD one of dead_letters,"),
        (["customers"], "--override 'customers' is not usable: accepted is customers=REASON"),
        (["customers= \n"], "accepted is customers=REASON with the reason in words"),
        (["=x"], "accepted is GUARD=REASON"),
        (["zeros=a", "zeros=b"], "accepted is one reason for each guard, and zeros has 'a' already"),
    ],
)
def test_an_override_without_guard_or_reason_is_refused(given_: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_overrides(given_)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_overridden_is_noted_and_the_rest_stands() -> None:
    judged = judge(generation(812, 16_000.0), CURRENT, SHIPPED)
    judgement = settle(judged, {"customers": "shop closed", "as_of": "why not"})
    assert [verdict.guard for verdict in judgement.standing] == ["total_value"]
    assert judgement.notes == {"customers": "shop closed"}
    lines = judgement.lines()
    assert len(lines) == len(GUARDS) + 1
    assert lines[0] == "passed: dead_letters 0 of 812 rows, 0.00%: accepted is at most 5%"
    assert lines[3].startswith("tripped, overridden (shop closed): customers 812, ")
    assert lines[4].startswith("tripped: total_value 16,000.00, ")
    assert lines[-1] == "--override as_of is not needed: the guard did not trip"
    with pytest.raises(GuardTripped) as error:
        judgement.require()
    assert error.value.verdicts == judgement.standing
    message = str(error.value)
    assert message.startswith("not switched: total_value 16,000.00, 0.21 of the 77,020.00 in generation")
    assert message.endswith("--override total_value=REASON")
    assert "customers" not in message and "\n" not in message
    settle(judged, {"customers": "shop closed", "total_value": "so it is"}).require()


@given(st.lists(st.sampled_from(list(GUARDS)), unique=True), st.lists(st.sampled_from(list(GUARDS)), unique=True))
def test_tripped_is_standing_or_noted_and_overrides_are_noted_or_idle(trips: list[str], overrides: list[str]) -> None:
    judged = [
        Verdict(guard, Outcome.TRIPPED if guard in trips else Outcome.PASSED, None, "", guard) for guard in GUARDS
    ]
    judgement = settle(judged, {guard: f"because of {guard}" for guard in overrides})
    assert {verdict.guard for verdict in judgement.standing} == set(trips) - set(overrides)
    assert judgement.notes == {guard: f"because of {guard}" for guard in set(trips) & set(overrides)}
    assert set(judgement.idle) == set(overrides) - set(trips)


def test_a_tripped_guard_ends_a_command_with_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    judgement = settle(judge(generation(as_of=date(2011, 11, 1)), CURRENT, SHIPPED), {})
    assert exit_code(judgement.require) == GuardTripped.exit_code == registry.NOT_PROMOTED == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not switched: as_of 2011-11-01, 9 days before the 2011-11-10 of generation")


def test_nothing_heavy_is_imported() -> None:
    heavy = ("pyarrow", "numpy", "apache_beam", "google.api_core", "trainer.registry_store")
    code = f"""
import sys; from pipelines import publish_guards, publish_toml
publish_toml.read(); print([name for name in {heavy} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def as_json(judged: list[Verdict]) -> Any:
    return json.loads(json.dumps([verdict.to_json() for verdict in judged], allow_nan=False))


def test_verdicts_as_json() -> None:
    judged = as_json(judge(generation(), CURRENT, SHIPPED))
    assert [verdict["guard"] for verdict in judged] == list(GUARDS)
    assert judged[3] == {
        "guard": "customers",
        "outcome": "passed",
        "figure": 4000 / 3851,
        "limit": "0.8 to 1.5",
        "text": "customers 4,000, 1.04 of the 3,851 in generation 2011-11-10-old: accepted is 0.8 to 1.5",
    }
