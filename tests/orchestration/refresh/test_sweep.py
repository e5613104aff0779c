"""sweep: what was lost is found and goes on; a dry run finds the same and changes nothing."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.refresh.__main__ import main
from orchestration.refresh.ledger import open_ledger
from orchestration.refresh.record import State
from orchestration.refresh.settings import CampaignSettings, read_settings
from orchestration.refresh.sweep import complete_days
from tests.orchestration.refresh.installed import WEEK_1, WEEK_2, WEEK_3, Installed, installed


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    yield from installed(tmp_path, monkeypatch)


def swept(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert main(["sweep", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_missed_events(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    shop.deploy(WEEK_1)
    shop.data(WEEK_2)
    shop.data(WEEK_3)
    (Path("data/shop") / "2026-03-22").mkdir()  # half-written
    (Path("data/shop") / "notes").mkdir()
    shop.data(datetime.date(2999, 1, 1))  # nobody's day
    expected = [f"shop: {day} was missed: data/shop/{day} is complete, {{}}started" for day in (WEEK_3, WEEK_2)]
    assert swept(capsys, "--dry_run") == [line.format("to be ") for line in expected]
    assert shop.head().latest == WEEK_1 and len(open_ledger("sqlite://refresh.db").records("shop")) == 1
    assert swept(capsys) == [line.format("") for line in expected]
    assert main(["tick", "--until_done"]) in (0, 1)
    assert shop.record(WEEK_2).state == State.SUPERSEDED
    assert shop.record(WEEK_3).version in shop.service.versions
    assert swept(capsys) == ["shop: nothing was lost"]


def test_what_the_newest_supersedes_does_not_import_in_vain(shop: Installed) -> None:
    shop.deploy(WEEK_1)
    shop.data(WEEK_2)
    shop.data(WEEK_3)
    assert main(["sweep"]) == 0 and main(["tick", "--until_done"]) == 0
    assert [each.name for each in shop.service.imports.values()][-2:] == ["shop-20260301", "shop-20260315"]
    assert State.IMPORT_REQUESTED not in [each.state for each in shop.record(WEEK_2).history]


def test_of_a_campaign_without_a_refresh_the_newest_alone_is_started(
    shop: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in (WEEK_1, WEEK_2):
        shop.data(day)
    assert swept(capsys) == [f"shop: {WEEK_2} was missed: data/shop/{WEEK_2} is complete, started"]


def test_a_refresh_that_is_not_among_the_open_ones_goes_on(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    shop.data(WEEK_1)
    main(["start", "--campaign", "shop", "--base_date", str(WEEK_1)])
    ledger = open_ledger("sqlite://refresh.db")
    ledger.write_head(replace(ledger.head("shop"), open=()))  # as a process leaves it that dies between the two writes
    assert main(["tick"]) == 0 and shop.record(WEEK_1).state == State.STARTED
    line = f"shop: {WEEK_1} was lost as started: it is among the open ones again"
    assert swept(capsys, "--dry_run") == [line]
    assert shop.head().open == ()
    assert swept(capsys) == [line]
    assert shop.record(WEEK_1).state != State.STARTED  # ticked at once
    assert main(["tick", "--until_done"]) == 0


def test_somebody_else_changed_the_campaign(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    record = shop.deploy(WEEK_1)
    first = next(iter(shop.service.versions))
    shop.service.call("UpdateCampaign", {"campaignArn": shop.shops["shop"].campaign_arn, "solutionVersionArn": first})
    while shop.served() != first:
        pass
    line = f"shop: the campaign serves {first}, which no refresh made, and not {record.version}"
    assert swept(capsys, "--dry_run") == [line]
    assert swept(capsys, "--dry_run") == [line]
    assert swept(capsys) == [line]
    serving = shop.head().serving
    assert serving is not None and serving.version == first
    assert swept(capsys) == ["shop: nothing was lost"]


def test_an_unreadable_place_is_that_campaign_s_trouble(shop: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/shop").write_text("a file")
    assert main(["sweep"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "shop: data/shop/{base_date} cannot be listed" in said.err
    assert said.err.splitlines()[-1] == "error: 1 of 1 campaigns had trouble, as said above: shop"


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("{base_date}", "{day}"),
        ("weeks/week-{base_date}.csv/data", "weeks/week-{day}.csv/data"),
        ("{root}/{base_date}/out", "{root}/{day}/out"),
        ("file://{root}/{base_date}", "{root}/{day}"),
    ],
)
def test_patterns(shop: Installed, pattern: str, directory: str) -> None:
    root = str(shop.directory / "lake")
    path = Path(directory.format(root=root, day=WEEK_2))
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(shop.data(WEEK_2)).rename(path)
    settings: CampaignSettings = read_settings("refresh.toml").campaigns["shop"]
    campaign = replace(settings, data=pattern.replace("{root}", root))
    assert complete_days(campaign, None) == complete_days(campaign, WEEK_1) == [WEEK_2]
    assert complete_days(campaign, WEEK_2) == []


def test_a_pattern_on_s3(shop: Installed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="shop-lake", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        manifest = (Path(shop.data(WEEK_2)) / "manifest.json").read_bytes()
        s3.put_object(Bucket="shop-lake", Key=f"{WEEK_2}/manifest.json", Body=manifest)
        s3.put_object(Bucket="shop-lake", Key=f"{WEEK_3}/interactions/part-0.csv", Body=b"half")
        settings = shop.directory / "refresh.toml"
        settings.write_text(settings.read_text().replace("data/shop/{base_date}", "s3://shop-lake/{base_date}"))
        assert swept(capsys) == [f"shop: {WEEK_2} was missed: s3://shop-lake/{WEEK_2} is complete, started"]
        # It is read there as well.
        assert shop.record(WEEK_2).data_location == f"s3://interactions/shop/{WEEK_2}/interactions"
    finally:
        server.stop()
