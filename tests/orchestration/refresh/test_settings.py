"""The settings' file: what is taken, and the line that a person gets for a mistake."""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
from pathlib import Path

import pytest

from orchestration.refresh.policy import Policy
from orchestration.refresh.settings import EXAMPLE, EventRule, margin_warning, read_settings, settings_path
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / EXAMPLE).read_text()
SECOND = TEXT[TEXT.index("[campaigns.shop]") :].replace("campaigns.shop", "campaigns.other")
ARN = "arn:aws:personalize:eu-central-1:123456789012"


def written(directory: Path, text: str) -> Path:
    path = directory / "refresh.toml"
    path.write_text(text)
    return path


def test_the_example_is_one() -> None:
    found = read_settings(ROOT / EXAMPLE)
    shop = found.campaign("shop")
    assert found.ledger == "sqlite://work/refresh.db" and found.sinks == ("log:",)
    assert shop.directory(datetime.date(2026, 11, 22)) == "s3://shop-interactions/2026-11-22"
    assert shop.region == "eu-central-1" and shop.events == (EventRule("aws.glue", "extract-behaviour"),)
    assert shop.resources.campaign_arn == f"{ARN}:campaign/shop"
    assert shop.policy == Policy()


def test_the_example_s_comments_are_the_policy_there_is_and_its_defaults() -> None:
    lines = TEXT[TEXT.index("[campaigns.shop.policy]") :].splitlines()
    policy = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[1:]))
    assert policy == dataclasses.asdict(Policy())


def test_several_jobs_may_begin_a_refresh(tmp_path: Path) -> None:
    text = TEXT.replace("[campaigns.shop.event]", "[[campaigns.shop.event]]")
    text += '\n[[campaigns.shop.event]]\nsource = "aws.glue"\njob = "nightly"\n'
    assert [rule.job for rule in read_settings(written(tmp_path, text)).campaigns["shop"].events] == [
        "extract-behaviour", "nightly",
    ]  # fmt: skip


def test_without_events_and_policy(tmp_path: Path) -> None:
    shop = read_settings(written(tmp_path, TEXT[: TEXT.index("[campaigns.shop.event]")])).campaigns["shop"]
    assert shop.events == () and shop.policy == Policy()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ledger =", "leger =", "leger is no setting: accepted are ledger, sinks, campaigns"),
        ('"sqlite://work/refresh.db"', '"postgres://x"', "ledger 'postgres://x' is not usable: accepted is sqlite://PATH"),
        ('"sqlite://work/refresh.db"', "3", "ledger 3 is not usable"),
        ('ledger = "sqlite://work/refresh.db"', "", "ledger is missing: see orchestration/refresh/refresh.example.toml"),
        ("# sinks", 'sinks = "log:"\n#', "sinks 'log:' is not usable: accepted is a list of texts"),
        ("# sinks", 'sinks = ["ftp://x"]\n#', "sinks: the sink 'ftp://x' is not usable"),
        ("campaigns.shop", "campaigns.-shop", "the campaign's name '-shop' is not usable: accepted is 1 to 63"),
        ("campaigns.shop", f"campaigns.{'s' * 64}", f"the campaign's name '{'s' * 64}' is not usable"),
        ("s3://shop-interactions/{base_date}", "s3://shop/data", "campaigns.shop.data 's3://shop/data' is not usable"),
        ("{base_date}\"", "{base_date}/{day}\"", "with {base_date} once"),
        ("{base_date}\"", "{base_date}/{base_date}\"", "with {base_date} once"),
        ("s3://shop-interactions", "ftp://shop", "accepted is a directory: s3://BUCKET/..."),
        ('# region = "eu-central-1"', 'region = "us-east-1"', "region 'us-east-1' is not usable: accepted is 'eu-central-1'"),
        (f"{ARN}:solution/shop", f"{ARN}:solution/shop/1a2b3c4d", "a solution's ARN, without a version"),
        (f"{ARN}:solution/shop", "arn:aws:personalize:us-east-1:123456789012:solution/shop",
         "solution_arn 'arn:aws:personalize:us-east-1:123456789012:solution/shop' is not usable: accepted is one of the region eu-central-1"),
        ("iam::123456789012", "iam::999999999999", "accepted is one of the account 123456789012"),
        (f"{ARN}:dataset/shop/INTERACTIONS", f"{ARN}:dataset/shop/ITEMS", "an interactions dataset's ARN"),
        ("role_arn =", "rolearn =", "campaigns.shop.personalize.rolearn is no setting"),
        ('source = "aws.glue"', 'source = "aws.s3"', "campaigns.shop.event.source 'aws.s3' is not usable: accepted is aws.glue"),
        ("job = ", "jobs = ", "campaigns.shop.event.jobs is no setting: accepted are source, job"),
        ("# import_mode", 'import_mode = "full"\n#', "import_mode 'full' is not usable: accepted is FULL or INCREMENTAL"),
        ("# training_mode", 'training_mode = "INCREMENTAL"\n#', "accepted is FULL or UPDATE"),
        ("# margin_seconds", "margin_seconds = 1200\n#", "margin_seconds 1200.0 is not usable: accepted is less than lease_seconds, 1200"),
        ("# busy_seconds", "busy_seconds = 1000\n#", "busy_seconds 1000.0 is not usable: accepted is at most most_busy_seconds, 900"),
        ("# poll_seconds", "poll_seconds = 0\n#", "poll_seconds 0 is not usable: accepted is a number above 0 to 86400"),
        ("# data_hours", "data_hours = nan\n#", "data_hours nan is not usable"),
        ("# data_hours", "data_hours = true\n#", "data_hours True is not usable"),
        ("# least_rows_ratio", "least_rows_ratio = 1.5\n#", "least_rows_ratio 1.5 is not usable: accepted is a number from 0 to 1"),
        ("# full_training_every_days", "full_training_every_days = 2.5\n#", "2.5 is not usable: accepted is a whole number"),
        ("# own_auto_training", "own_auto_training = 1\n#", "own_auto_training 1 is not usable: accepted is true or false"),
        ("# metric", 'metric = ""\n#', "metric '' is not usable"),
        ("# poll_seconds", "pol_seconds = 1\n#", "campaigns.shop.policy.pol_seconds is no setting: accepted are import_mode"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_file_setting_value_and_what_is_accepted(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in TEXT
    path = written(tmp_path, TEXT.replace(old, new))
    with pytest.raises(UsageError) as error:
        read_settings(path)
    assert str(error.value).startswith(f"{path}") and said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["campaign", "dataset"])
def test_what_two_refreshes_may_not_change_at_once_belongs_to_one_campaign(tmp_path: Path, key: str) -> None:
    mine = SECOND.replace(
        f":{'dataset' if key == 'campaign' else 'campaign'}/shop",
        f":{'dataset' if key == 'campaign' else 'campaign'}/other",
    )
    path = written(tmp_path, f"{TEXT}\n{mine}")
    with pytest.raises(
        UsageError, match=rf"campaigns\.other\.personalize\.{key}_arn .* is that of campaigns\.shop already"
    ):
        read_settings(path)


def test_two_campaigns(tmp_path: Path) -> None:
    other = SECOND.replace(":dataset/shop", ":dataset/other").replace(":campaign/shop", ":campaign/other")
    found = read_settings(written(tmp_path, f"{TEXT}\n{other}"))
    assert list(found.campaigns) == ["shop", "other"]
    with pytest.raises(
        UsageError, match="--campaign 'hop' is not usable: accepted is one of the settings': shop, other"
    ):
        found.campaign("hop")


@pytest.mark.parametrize(("content", "said"), [(b"ledger", "is no TOML file"), (b"\xff", "is no TOML file")])
def test_no_toml(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "refresh.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_settings(path)


def test_missing_or_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"is missing: copy {EXAMPLE} there"):
        read_settings(tmp_path / "refresh.toml")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_settings(tmp_path)


LOCAL, FAR = "http://127.0.0.1:8080", "https://personalize.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("margin", "environment", "warned"),
    [
        (599, {}, True),
        (600, {}, False),
        (2, {"_PERSONALIZE": LOCAL}, False),
        (2, {"": "http://localhost:8080"}, False),
        (2, {"": "http://[::1]:8080"}, False),
        (2, {"_PERSONALIZE": "", "": LOCAL}, False),  # an empty one is none
        (2, {"_PERSONALIZE": FAR}, True),
        (2, {"_PERSONALIZE": FAR, "": LOCAL}, True),
        (2, {"_PERSONALIZE": "http://localhost.example"}, True),
        (2, {"_PERSONALIZE": "http://["}, True),
        (2, {"_S3": LOCAL}, True),
    ],
)
def test_a_margin_below_a_call_s_time_is_warned_of_but_for_a_service_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: int, environment: dict[str, str], warned: bool
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_PERSONALIZE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_ENDPOINT_URL{name}", value)
    other = SECOND.replace(":dataset/shop", ":dataset/other").replace(":campaign/shop", ":campaign/other")
    text = TEXT.replace("# margin_seconds", f"margin_seconds = {margin}\n#")
    campaigns = read_settings(written(tmp_path, f"{text}\n{other}")).campaigns
    said = margin_warning(campaigns.values())
    assert bool(said) == warned
    assert not warned or f": campaigns.shop.policy.margin_seconds is {margin}: a call may take 600" in said
    assert margin_warning([campaigns["other"]]) == ""
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "True")  # then boto3 asks AWS, whatever the others say
    assert bool(margin_warning(campaigns.values())) == (margin < 600)


def test_which_file_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLV_REFRESH_SETTINGS", raising=False)
    assert settings_path(None) == Path("refresh.toml")
    monkeypatch.setenv("CLV_REFRESH_SETTINGS", "there.toml")
    assert (settings_path(None), settings_path("here.toml")) == (Path("there.toml"), Path("here.toml"))
