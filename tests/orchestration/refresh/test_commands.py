"""start, tick and rollback as a person or a scheduler calls them, against the local service over HTTP."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.refresh import installation, worker
from orchestration.refresh.__main__ import main
from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Durations, Fault
from orchestration.refresh.personalize import Personalize
from orchestration.refresh.record import State
from tests.orchestration.refresh.installed import POLICY, WEEK_1, WEEK_2, WEEK_3, Installed, installed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    yield from installed(tmp_path, monkeypatch)


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    yield from installed(tmp_path, monkeypatch, "north", "south")


def test_a_refresh_from_the_event_to_the_updated_campaign(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    before = shop.served()
    shop.data(WEEK_1)
    assert shop.send(shop.event(WEEK_1)) == 0
    assert main(["tick", "--until_done", "--every", "0.02"]) == 0
    record = shop.record(WEEK_1)
    assert record.state == State.DEPLOYMENT_ACTIVE and shop.served() == record.version != before
    said = capsys.readouterr()
    assert said.out == ""
    assert "shop 2026-03-01: started with data/shop/2026-03-01" in said.err
    assert "shop 2026-03-01: training_in_progress: shop-20260301 is made" in said.err
    assert said.err.splitlines()[-1].startswith("shop 2026-03-01: deployment_active: the campaign came to serve arn:")
    # The same event once more, and the same by hand: said to be a duplicate, and nothing is bought.
    assert shop.send(shop.event(WEEK_1)) == 0
    assert main(["start", "--campaign", "shop", "--base_date", str(WEEK_1), "--wait"]) == 0
    assert capsys.readouterr().err.count("a duplicate, it was started already and is deployment_active") == 2
    assert shop.service.count("CreateSolutionVersion") == 2  # with the shop's first
    assert shop.record(WEEK_1) == record


def test_an_event_begins_every_campaign_that_waits_for_it(shops: Installed) -> None:
    assert shops.send(shops.event(WEEK_1)) == 0
    assert [shops.record(WEEK_1, name).data for name in ("north", "south")] == [
        "data/north/2026-03-01", "data/south/2026-03-01",
    ]  # fmt: skip


def test_what_one_campaign_refuses_keeps_no_other_from_being_started(
    shops: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["start", "--campaign", "north", "--base_date", str(WEEK_1), "--data", "data/mine"])
    capsys.readouterr()
    for south in ("started with data/south/2026-03-01", "a duplicate, it was started already and is started"):
        assert shops.send(shops.event(WEEK_1)) == 1
        refused, started, error = capsys.readouterr().err.splitlines()
        assert refused.startswith(
            "north: north 2026-03-01 was started with the data 'data/mine', not 'data/north/2026-03-01'"
        )
        assert started == f"south 2026-03-01: {south}"
        assert error == "error: 1 of 2 campaigns had trouble, as said above: north"
    assert shops.record(WEEK_1, "north").data == "data/mine"


def test_waiting_is_for_what_was_started(shops: Installed) -> None:
    main(["start", "--campaign", "north", "--base_date", str(WEEK_1), "--data", "data/mine"])
    shops.data(WEEK_1, "south")
    (shops.directory / "event.json").write_text(json.dumps(shops.event(WEEK_1)))
    assert main(["start", "--event", "event.json", "--wait"]) == 1
    assert shops.record(WEEK_1, "south").state == State.DEPLOYMENT_ACTIVE
    assert shops.record(WEEK_1, "north").state == State.STARTED


@pytest.mark.parametrize("command", [["start", "--campaign", "north", "--base_date", str(WEEK_1)], ["tick"], ["sweep"]])
def test_a_margin_that_is_too_short_is_one_warning_and_no_refusal(
    shops: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL_PERSONALIZE", "https://personalize.example")
    monkeypatch.setattr(
        installation, "_connected", lambda campaign: Personalize(Client(shops.service), campaign.resources)
    )
    shops.write({"north": "lease_seconds = 99\nmargin_seconds = 5", "south": ""})
    assert main(command) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warning.startswith("warning: campaigns.north.policy.margin_seconds is 5: a call may take 600 seconds")
    assert main([*command, "--verbose"]) == 0
    (found,) = [
        each for each in map(json.loads, capsys.readouterr().err.splitlines()) if each.get("level") == "warning"
    ]
    assert found["why"] == warning


def test_an_event_of_a_failure_begins_nothing_and_says_so(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.send(shop.event(WEEK_1, "FAILED")) == 0
    assert "is FAILED, and only SUCCEEDED begins a refresh" in capsys.readouterr().err
    assert shop.head().latest is None


def test_an_event_from_stdin(shop: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {
        "source": "clv.interactions",
        "detail": {"campaign": "shop", "base_date": str(WEEK_1), "data": "data/mine"},
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(event)))
    assert main(["start", "--event", "-"]) == 0
    assert shop.record(WEEK_1).data == "data/mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start"], "start needs --campaign and --base_date, or --event"),
        (["start", "--campaign", "hop", "--base_date", "2026-03-01"], "--campaign 'hop' is not usable: accepted is one of the settings': shop"),
        (["start", "--campaign", "shop", "--base_date", "2062-03-01"], "'2062-03-01' is not usable: accepted is a day up to"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--data", "x://y"], "--data 'x://y' is not usable"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--override", "size=x"], "accepted is GATE=REASON, the gate being data or metrics"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--override", "data= "], "accepted is GATE=REASON"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--override", "data=a", "--override", "data=b"], "names a gate twice"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--retry", "--data", "x"], "--data does not go with --retry"),
        (["start", "--campaign", "shop", "--base_date", "2026-03-01", "--retry"], "shop has no refresh of 2026-03-01: see status"),
        (["start", "--event", "x", "--campaign", "shop"], "--campaign does not go with --event"),
        (["start", "--event", "nowhere.json"], "--event 'nowhere.json' cannot be read: No such file"),
        (["start", "--event", "refresh.toml"], "--event 'refresh.toml' is no JSON"),
        (["tick", "--every", "3"], "--every is for --until_done"),
        (["tick", "--capaign", "shop"], "did --capaign mean --campaign?"),
        (["rollback", "--campaign", "shop"], "the following arguments are required: --reason"),
        (["rollback", "--campaign", "shop", "--reason", " "], "' ' is not usable: accepted is a text that says why"),
        (["rollback", "--campaign", "shop", "--reason", "x"], "shop serves no version that a refresh of this ledger deployed"),
        (["tick", "--settings", "there.toml"], "there.toml is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_2(
    shop: Installed, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    calls = len(shop.service.calls)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert len(shop.service.calls) == calls and shop.head().latest is None


def test_a_gate_an_override_and_a_retry(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    shop.data(WEEK_1, bad="users_with_two")
    start = ["start", "--campaign", "shop", "--base_date", str(WEEK_1), "--wait"]
    assert main(start) == 1
    assert "error: shop 2026-03-01 is rejected: users_with_two is 3, accepted is at least 25" in capsys.readouterr().err
    # An override of what was started already would be forgotten in silence.
    assert main([*start, "--override", "data=a small shop"]) == 2
    assert "--override is not taken; accepted is --retry --override" in capsys.readouterr().err
    assert main([*start, "--retry", "--override", "data=a small shop"]) == 0
    record = shop.record(WEEK_1)
    assert record.state == State.DEPLOYMENT_ACTIVE and record.overrides == {"data": "a small shop"}


def test_a_failed_training_leaves_the_campaign_and_its_retry_has_a_new_name(shop: Installed) -> None:
    shop.data(WEEK_1)
    before = shop.served()
    shop.service.faults.append(Fault("CreateSolutionVersion", "create_failed", reason="out of capacity"))
    start = ["start", "--campaign", "shop", "--base_date", str(WEEK_1), "--wait"]
    assert main(start) == 1
    assert (shop.record(WEEK_1).state, shop.record(WEEK_1).reason) == (State.TRAINING_FAILED, "out of capacity")
    assert shop.served() == before
    assert main([*start, "--retry", "--reason", "capacity is back"]) == 0
    assert [each.name for each in shop.service.versions.values()] == ["shop-first", "shop-20260301", "shop-20260301-2"]
    assert "capacity is back" in [each.reason for each in shop.record(WEEK_1).history]


def test_until_done_ends_with_1_where_a_refresh_fails_and_a_plain_tick_does_not(shop: Installed) -> None:
    shop.data(WEEK_1, bad="rows")
    shop.data(WEEK_2, bad="rows")
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_1)])
    assert main(["tick"]) == 0 and shop.record(WEEK_1).state == State.REJECTED
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_2)])
    assert main(["tick", "--until_done"]) == 1


def test_rollback_and_what_it_refuses(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    shop.service.metrics = lambda name: {"normalized_discounted_cumulative_gain_at_25": 0.25}
    first, second = shop.deploy(WEEK_1), shop.deploy(WEEK_2)
    assert shop.served() == second.version
    rollback = ["rollback", "--campaign", "shop", "--reason", "shoes for everybody"]
    assert main([*rollback, "--base_date", str(WEEK_1)]) == 2
    assert "shop serves the version of 2026-03-08, not of 2026-03-01" in capsys.readouterr().err
    updates = shop.service.count("UpdateCampaign")
    assert main(rollback) == 0  # asks the service at once
    assert shop.service.count("UpdateCampaign") == updates + 1
    assert main(["tick", "--until_done"]) == 0
    assert shop.served() == first.version and shop.record(WEEK_2).state == State.ROLLED_BACK
    assert "shoes for everybody" in [each.reason for each in shop.record(WEEK_2).history]


def test_one_campaign_s_trouble_does_not_keep_the_others_from_being_ticked(
    shops: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("north", "south"):
        shops.data(WEEK_1, name)
        main(["start", "--campaign", name, "--base_date", str(WEEK_1)])
    capsys.readouterr()
    import sqlite3

    with sqlite3.connect("refresh.db") as ledger:  # a row that somebody wrote by hand
        ledger.execute(
            "UPDATE refresh_ledger SET attributes = '{}' WHERE campaign_name = 'north' AND base_date = ?", [str(WEEK_1)]
        )
    ledger.close()
    assert main(["tick", "--until_done"]) == 1
    assert shops.record(WEEK_1, "south").state == State.DEPLOYMENT_ACTIVE
    error = capsys.readouterr().err
    assert error.count("north: the ledger's row of north 2026-03-01 is not one of this version's") == 1
    assert error.splitlines()[-1] == "error: 1 of 2 campaigns had trouble, as said above: north"


def test_a_defect_keeps_its_traceback_and_the_others_go_on(
    shops: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("north", "south"):
        main(["start", "--campaign", name, "--base_date", str(WEEK_1)])
    tick = worker.Worker.tick

    def broken(self: worker.Worker, base_date: object) -> object:
        if self.campaign == "north":
            raise AttributeError("no such thing")
        return tick(self, base_date)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.Worker, "tick", broken)
    capsys.readouterr()
    assert main(["tick"]) == 1
    error = capsys.readouterr().err
    assert "north: AttributeError: no such thing" in error and "Traceback" in error
    assert "south 2026-03-01: started, waiting: data/south/2026-03-01 is not complete" in error


def test_no_access_is_one_line_for_each_campaign_and_nothing_changes(
    shops: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("north", "south"):
        shops.data(WEEK_1, name)
        main(["start", "--campaign", name, "--base_date", str(WEEK_1)])
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    capsys.readouterr()
    assert main(["tick", "--until_done"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and "error: 2 of 2 campaigns had trouble" in error
    assert {shops.record(WEEK_1, name).state for name in ("north", "south")} == {State.STARTED}


def test_waiting_sees_another_s_turn_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Durations(import_seconds=0.3, training_seconds=0.03, deployment_seconds=0.03, pending_seconds=0.01)
    for shop in installed(tmp_path, monkeypatch, durations=slow):
        shop.data(WEEK_1)
        shop.data(WEEK_2)
        main(["start", "--campaign", "shop", "--base_date", str(WEEK_1)])
        main(["tick"])
        assert shop.record(WEEK_1).state == State.IMPORT_IN_PROGRESS
        assert main(["start", "--campaign", "shop", "--base_date", str(WEEK_2), "--wait"]) == 0
        assert shop.record(WEEK_1).state == State.SUPERSEDED
        assert shop.served() == shop.record(WEEK_2).version


def test_an_idle_tick_says_what_is_waited_for_and_verbose_is_json(
    shop: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_3)])
    main(["tick"])
    capsys.readouterr()
    assert main(["tick"]) == 0
    assert (
        "shop 2026-03-15: started, waiting: data/shop/2026-03-15 is not complete; worth a look"
        in capsys.readouterr().err
    )
    for arguments, log in ((["tick", "--verbose"], ""), (["tick"], "json")):
        monkeypatch.setenv("CLV_LOG", log)
        assert main(arguments) == 0
        (decision,) = map(json.loads, capsys.readouterr().err.splitlines())
        assert (decision["event"], decision["action"]) == ("decision", "wait")
    # What no worker logs is an object as well, and so is an event for the sink "log:".
    settings = shop.directory / "refresh.toml"
    settings.write_text(settings.read_text().replace("sinks = []", 'sinks = ["log:"]'))
    shop.data(WEEK_3, bad="rows")
    assert shop.send(shop.event(WEEK_3, "STOPPED")) == 0 and main(["tick"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert objects[0]["why"].startswith("the Glue job extract-behaviour, run jr_1, is STOPPED")
    assert "refresh_rejected" in [each["event"] for each in objects]


def test_starting_asks_nothing_of_the_service(shop: Installed) -> None:
    calls = len(shop.service.calls)
    shop.send(shop.event(WEEK_1))
    assert len(shop.service.calls) == calls


def test_the_settings_that_the_variable_names(shop: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.directory / "refresh.toml").rename(shop.directory / "mine.toml")
    assert main(["tick"]) == 2
    monkeypatch.setenv("CLV_REFRESH_SETTINGS", "mine.toml")
    assert main(["tick"]) == 0


def test_a_step_has_the_policy_s_hours(shop: Installed) -> None:
    shop.write({"shop": f"{POLICY}\ndata_hours = 0.00001"})
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_1)])
    assert main(["tick", "--until_done"]) == 1
    assert shop.record(WEEK_1).reason == "not done within 1e-05 hours: data/shop/2026-03-01 is not complete"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([name, "--help"] for name in ("start", "tick", "status", "rollback", "sweep", "demo")), ["start"]],
)
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from orchestration.refresh.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'boto3', 'botocore', 'pyarrow', 'rich', 'moto', 'apache_beam'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    if "--help" in arguments:
        assert "python -m orchestration.refresh" in done.stdout
