"""status: the object, the table at two widths, and the exit code for a monitor."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.refresh.__main__ import main
from orchestration.refresh.local_personalize.core import Fault
from orchestration.refresh.machine import deadline
from orchestration.refresh.options import _STATUS
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import ENDS, Record, State, Transition
from orchestration.refresh.status_table import spoken
from tests.orchestration.refresh.installed import WEEK_1, WEEK_2, WEEK_3, Installed, installed

WEEK_4, WEEK_5 = datetime.date(2026, 3, 22), datetime.date(2026, 3, 29)
AT = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """A campaign with a refresh that was deployed, one whose training failed, and one that waits for its data."""
    for each in installed(tmp_path, monkeypatch, "shop", "quiet"):
        each.deploy(WEEK_1)
        each.data(WEEK_2)
        each.service.faults.append(Fault("CreateSolutionVersion", "create_failed", reason="out of capacity"))
        assert main(["start", "--campaign", "shop", "--base_date", str(WEEK_2), "--wait"]) == 1
        yield each


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", "--json", *arguments]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_object(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_3), "--override", "metrics=new shop"])
    calls = len(shop.service.calls)
    found, quiet = asked(capsys)["campaigns"]
    assert len(shop.service.calls) == calls
    first = shop.record(WEEK_1)
    assert (found["campaign"], found["latest"], found["failed"], found["open"]) == (
        "shop",
        "2026-03-15",
        False,
        ["2026-03-15"],
    )
    assert (found["serving"]["version"], found["serving"]["base_date"]) == (first.version, "2026-03-01")
    waiting, failed, served = found["refreshes"]
    assert (served["base_date"], served["state"], found["failures"]) == ("2026-03-01", "deployment_active", [])
    assert (waiting["state"], waiting["waits_for"], waiting["overrides"]) == (
        "started",
        "complete data",
        {"metrics": "new shop"},
    )
    assert waiting["deadline"] > waiting["since"] and not waiting["ended"] and waiting["until"] is None
    assert (failed["base_date"], failed["state"], failed["failed"], failed["ended"]) == (
        "2026-03-08",
        "training_failed",
        True,
        True,
    )
    assert (failed["reason"], failed["deadline"], failed["data_rows"]) == ("out of capacity", None, 5000)
    assert (quiet["latest"], quiet["refreshes"], quiet["serving"], quiet["failed"]) == (None, [], None, False)
    everything = asked(capsys, "--all", "--campaign", "shop")["campaigns"]
    assert [each["base_date"] for each in everything[0]["refreshes"]] == ["2026-03-15", "2026-03-08", "2026-03-01"]
    deployed = everything[0]["refreshes"][2]
    assert (
        deployed["metric"]["name"] == Policy().metric and deployed["metric"]["value"] == first.metrics[Policy().metric]
    )
    assert [each["state"] for each in deployed["history"]] == [each.state for each in first.history]


def test_the_help_names_what_is_in_the_object(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--all")
    named = set(re.findall(r"[a-z_]+", _STATUS))
    assert {*found, *found["campaigns"][0], *found["campaigns"][0]["refreshes"][0]} <= named


def test_a_monitor_s_exit_code(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["status"]) == 0
    assert main(["status", "--fail_on_failed", "--campaign", "quiet"]) == 0
    assert main(["status", "--fail_on_failed"]) == 1
    assert capsys.readouterr().err == "error: shop 2026-03-08 is training_failed: out of capacity\n"
    shop.service.faults.clear()
    assert (
        main(
            ["start", "--campaign", "shop", "--base_date", str(WEEK_2), "--retry", "--override", "metrics=x", "--wait"]
        )
        == 0
    )
    assert main(["status", "--fail_on_failed"]) == 0


def test_a_rollback_that_failed_is_seen_behind_a_later_refresh(
    shop: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.service.faults.clear()
    shop.service.metrics = lambda name: {Policy().metric: 0.25}
    second = shop.deploy(WEEK_3)
    shop.service.faults.append(Fault("UpdateCampaign", "create_failed", reason="no capacity"))
    rollback = ["rollback", "--campaign", "shop", "--reason", "shoes for everybody", "--wait"]
    assert main(rollback) == 1 and shop.served() == second.version
    same = second.data  # as if nothing had been sold since
    assert main(["start", "--campaign", "shop", "--base_date", str(WEEK_4), "--data", same, "--wait"]) == 0
    assert shop.record(WEEK_4).state == State.SKIPPED
    (found,) = asked(capsys, "--campaign", "shop")["campaigns"]
    assert [(each["base_date"], each["state"]) for each in found["refreshes"]] == [
        (str(WEEK_4), "skipped"), (str(WEEK_3), "rollback_failed"),
    ]  # fmt: skip
    assert (found["failed"], found["failures"]) == (True, [str(WEEK_3)])
    capsys.readouterr()
    assert main(["status", "--fail_on_failed"]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: shop {WEEK_3} is rollback_failed: no capacity\n"
    assert "FAILED rollback_failed" in said.out and "2 campaigns, 1 FAILED: 0 open refreshes" in said.out
    # Once it is done it has not failed any more, and is still to be seen beside the one that is served again.
    shop.service.faults.clear()
    assert main(rollback) == 0 and main(["status", "--fail_on_failed"]) == 0
    (found,) = asked(capsys, "--campaign", "shop")["campaigns"]
    assert [(each["base_date"], each["state"]) for each in found["refreshes"]] == [
        (str(WEEK_4), "skipped"), (str(WEEK_3), "rolled_back"), (str(WEEK_1), "deployment_active"),
    ]  # fmt: skip
    shop.deploy(WEEK_5)
    assert [each["base_date"] for each in asked(capsys, "--campaign", "shop")["campaigns"][0]["refreshes"]] == [
        str(WEEK_5)
    ]


def test_a_damaged_row_keeps_no_other_campaign_from_being_shown(
    shop: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["start", "--campaign", "quiet", "--base_date", str(WEEK_1)])
    with contextlib.closing(sqlite3.connect("refresh.db", isolation_level=None)) as ledger:
        ledger.execute(
            "UPDATE refresh_ledger SET attributes = '{}' WHERE campaign_name = 'quiet' AND base_date != 'head'"
        )
    damaged = "quiet: the ledger's row of quiet 2026-03-01 is not one of this version's"
    for arguments in (["status"], ["status", "--json"], ["status", "--campaign", "quiet"]):
        capsys.readouterr()
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert ("2026-03-08" in said.out) == ("quiet" not in arguments)
        line, error = said.err.splitlines()
        assert line.startswith(damaged) and error.endswith(" campaigns had trouble, as said above: quiet")
    assert main(["status", "--fail_on_failed"]) == 1
    assert capsys.readouterr().err.endswith(
        "error: 1 of 2 campaigns had trouble, as said above: quiet; shop 2026-03-08 is training_failed: out of capacity\n"
    )


@pytest.mark.parametrize("columns", [60, 80, 139, 140, 160, None])
def test_the_table_fits_and_has_no_colour_where_it_is_piped(
    shop: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int | None
) -> None:
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_3)])
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    capsys.readouterr()
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= (columns or 160)
    words = " ".join(text.split())
    for part in (
        "2026-03-15",
        "FAILED training_failed",
        "out of capacity",
        "complete data",
        "no refresh yet",
    ):
        assert part in words
    assert "arn:" not in text and "2 campaigns, 0 FAILED: 1 open refresh" in words


def test_failures_stand_out_in_a_terminal(
    shop: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    main(["status"])
    assert "\x1b[1;31m  2026-03-08  FAILED training_failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "hours"),
    [
        ([State.STARTED], 6),
        ([State.STARTED, State.VALIDATED, State.IMPORT_REQUESTED], 144),
        ([State.STARTED, State.VALIDATED, State.IMPORT_REQUESTED, State.IMPORT_IN_PROGRESS], 3 + 12),
        ([State.STARTED, State.REJECTED, State.STARTED], 2 + 6),
        ([State.STARTED, State.VALIDATED], 144),
    ],
)
def test_the_deadline_is_the_step_s_or_the_whole_refresh_s(states: list[State], hours: float) -> None:
    history = tuple(Transition(AT + datetime.timedelta(hours=hour), state, "") for hour, state in enumerate(states))
    assert deadline(Record("shop", WEEK_1, "data", history), Policy())[0] == AT + datetime.timedelta(hours=hours)


@pytest.mark.parametrize("state", sorted(set(State) - ENDS))
def test_every_open_state_has_words_and_a_deadline(state: State) -> None:
    assert deadline(Record("shop", WEEK_1, "data", (Transition(AT, state, ""),)), Policy())[0] > AT


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90061, "1d 1h")]
)
def test_times_in_two_units(seconds: int, text: str) -> None:
    assert spoken(seconds) == text
