"""What events begin: refreshes, nothing and why, or a line about what is wrong with them."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.refresh.events import read_event
from orchestration.refresh.settings import EXAMPLE, read_settings
from transforms.errors import UsageError

SETTINGS = read_settings(Path(__file__).resolve().parents[3] / EXAMPLE)
DAY = datetime.date(2025, 3, 3)
GLUE = {
    "version": "0", "id": "0c2a", "detail-type": "Glue Job State Change", "source": "aws.glue", "account": "123456789012",
    "time": "2025-03-03T23:59:59Z", "region": "eu-central-1", "resources": [],
    "detail": {"jobName": "extract-behaviour", "severity": "INFO", "state": "SUCCEEDED", "jobRunId": "jr_1", "message": "Done"},
}  # fmt: skip
OURS = {
    "source": "clv.interactions",
    "detail": {"campaign": "shop", "base_date": "2025-03-03", "data": "s3://elsewhere/x"},
}


def changed(event: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The event with one member by its dotted name."""
    event = copy.deepcopy(event)
    *parts, last = name.split(".")
    place = event
    for part in parts:
        place = place[part]
    place[last] = value
    return event


def test_a_glue_job_s_success_begins_a_refresh_of_the_event_s_utc_day() -> None:
    (begin,) = read_event(GLUE, SETTINGS).begins
    assert (begin.campaign, begin.base_date, begin.data) == ("shop", DAY, "s3://shop-interactions/2025-03-03")
    assert begin.why == "the Glue job extract-behaviour, run jr_1, succeeded"
    (later,) = read_event(changed(GLUE, "time", "2025-03-04T01:30:00+02:00"), SETTINGS).begins
    assert later.base_date == DAY


def test_an_event_of_our_own() -> None:
    assert [(each.campaign, each.base_date, each.data) for each in read_event(OURS, SETTINGS).begins] == [
        ("shop", DAY, "s3://elsewhere/x")
    ]
    without = copy.deepcopy(OURS)
    del without["detail"]["data"]  # type: ignore[attr-defined]
    assert read_event(without, SETTINGS).begins[0].data == "s3://shop-interactions/2025-03-03"


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (changed(GLUE, "detail.state", "FAILED"), "run jr_1, is FAILED, and only SUCCEEDED begins a refresh: Done"),
        (changed(GLUE, "detail.state", "TIMEOUT"), "is TIMEOUT"),
        (changed(GLUE, "detail.state", "STOPPED"), "is STOPPED"),
        (changed(GLUE, "detail.jobName", "other"), "no campaign of the settings waits for the Glue job 'other'"),
        (
            changed(GLUE, "detail-type", "Glue Job Run Status"),
            "an event 'Glue Job Run Status' of 'aws.glue' begins nothing",
        ),
        (changed(GLUE, "source", "aws.s3"), "of 'aws.s3' begins nothing"),
        (changed(OURS, "detail.campaign", "other"), "the event's campaign 'other' is none of the settings': shop"),
    ],
)
def test_what_is_not_ours_begins_nothing_and_says_why(event: dict[str, Any], why: str) -> None:
    reading = read_event(event, SETTINGS)
    assert reading.begins == [] and why in reading.ignored


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ([GLUE], "the event is a list: accepted is one JSON object"),
        ({}, "the event's source None is not usable: accepted is a text"),
        (changed(GLUE, "detail", "x"), "the event's detail 'x' is not usable: accepted is an object"),
        (changed(GLUE, "detail.jobName", 3), "the event's detail.jobName 3 is not usable"),
        (changed(GLUE, "detail.state", None), "the event's detail.state None is not usable"),
        (
            changed(GLUE, "time", "yesterday"),
            "the event's time 'yesterday' is not usable: accepted is a time with its zone",
        ),
        (changed(GLUE, "time", "2025-03-03T23:59:59"), "accepted is a time with its zone"),
        (changed(GLUE, "time", "0001-01-01T00:00:00+23:00"), "accepted is a time with its zone"),
        (
            changed(GLUE, "time", "2999-03-03T23:59:59Z"),
            "the event's time '2999-03-03' is not usable: accepted is a day up to",
        ),
        (changed(OURS, "detail.base_date", "2025-02-30"), "the event's detail.base_date '2025-02-30' is not usable"),
        (changed(OURS, "detail.base_date", 20250303), "the event's detail.base_date 20250303 is not usable"),
        (changed(OURS, "detail.base_date", "2999-01-01"), "a later one would supersede every real one"),
        (
            changed(OURS, "detail.data", "ftp://x"),
            "the event's detail.data 'ftp://x' is not usable: accepted is a directory",
        ),
        (changed(OURS, "detail.data", ""), "the event's detail.data '' is not usable"),
    ],
)
def test_a_malformed_event_is_one_line(event: Any, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read_event(event, SETTINGS)
    assert said in str(error.value) and "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda more: st.lists(more, max_size=2) | st.dictionaries(st.text(max_size=9), more, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([GLUE, OURS]),
    st.sampled_from(
        [
            "source",
            "time",
            "detail",
            "detail-type",
            "detail.state",
            "detail.jobName",
            "detail.jobRunId",
            "detail.message",
            "detail.campaign",
            "detail.base_date",
            "detail.data",
        ]
    ),
    JSON,
)
def test_whatever_an_event_holds_it_begins_something_or_says_why_not(
    event: dict[str, Any], name: str, value: Any
) -> None:
    try:
        reading = read_event(changed(event, name, value), SETTINGS)
    except UsageError as error:
        assert str(error)
    else:
        assert bool(reading.begins) != bool(reading.ignored)
