"""What an event of another system begins: a refresh for each campaign that waits for it.

Two kinds are understood, both as EventBridge delivers them, at best effort, late and possibly twice:

* Glue's "Glue Job State Change". It has no base_date: that is the UTC date of the event's ``time``, which stays the same
  however late the event comes.
* Our own, from whoever made interactions: ``{"source": "clv.interactions", "detail": {"campaign": "shop",
  "base_date": "2026-11-22", "data": "s3://shop-interactions/2026-11-22"}}``; without ``data`` those of the settings.

Everything else is nobody's mistake, and begins nothing.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestration.refresh.settings import GLUE, Settings, require_directory
from transforms.errors import UsageError, rejected

OURS = "clv.interactions"
_GLUE_KIND = "Glue Job State Change"
_SUCCEEDED = "SUCCEEDED"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Begin:
    """A refresh to be started."""

    campaign: str
    base_date: datetime.date
    data: str
    why: str


@dataclass(frozen=True)
class Reading:
    """What an event begins, or why it begins nothing."""

    begins: list[Begin]
    ignored: str = ""


def read_event(event: Any, settings: Settings) -> Reading:
    """The same, with the reason where there are none. Raises: UsageError: it is malformed."""
    if not isinstance(event, Mapping):
        raise UsageError(f"the event is a {type(event).__name__}: accepted is one JSON object")
    source = _text(event, "source")
    if source == OURS:
        return _ours(_detail(event), settings)
    kind = event.get("detail-type")
    if source != GLUE or kind != _GLUE_KIND:
        return Reading(
            [], f"an event {kind!r} of {source!r} begins nothing: only {_GLUE_KIND!r} of {GLUE!r} and {OURS!r} do"
        )
    return _of_glue(event, _detail(event), settings)


def parse_day(argument: str, value: Any) -> datetime.date:
    """A base_date.

    Raises:
      UsageError: it is no day, or one in the future: nothing before it would ever be deployed again.
    """
    accepted = "a day, as 2026-11-22"
    try:
        if not isinstance(value, str) or not _DAY.fullmatch(value):
            raise ValueError
        day = datetime.date.fromisoformat(value)
    except ValueError:
        raise rejected(argument, value, accepted) from None
    tomorrow = latest_day()
    if day > tomorrow:
        raise rejected(argument, value, f"a day up to {tomorrow}: a later one would supersede every real one")
    return day


def latest_day() -> datetime.date:
    """The latest base_date there can be: east of Greenwich it is tomorrow already."""
    return datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)


def _of_glue(event: Mapping[str, Any], detail: Mapping[str, Any], settings: Settings) -> Reading:
    job, state = _text(detail, "jobName", "detail."), _text(detail, "state", "detail.")
    run = detail.get("jobRunId", "without an id")
    waiting = [campaign for campaign in settings.campaigns.values() if any(rule.job == job for rule in campaign.events)]
    if not waiting:
        return Reading([], f"no campaign of the settings waits for the Glue job {job!r}")
    if state != _SUCCEEDED:
        message = detail.get("message")
        said = f": {message}" if message else ""
        return Reading([], f"the Glue job {job}, run {run}, is {state}, and only {_SUCCEEDED} begins a refresh{said}")
    base_date = _day_of(event)
    why = f"the Glue job {job}, run {run}, succeeded"
    return Reading([Begin(each.name, base_date, each.directory(base_date), why) for each in waiting])


def _ours(detail: Mapping[str, Any], settings: Settings) -> Reading:
    name = _text(detail, "campaign", "detail.")
    base_date = parse_day("the event's detail.base_date", detail.get("base_date"))
    if name not in settings.campaigns:
        return Reading([], f"the event's campaign {name!r} is none of the settings': {', '.join(settings.campaigns)}")
    data = settings.campaigns[name].directory(base_date)
    if "data" in detail:
        data = require_directory("the event's detail.data", _text(detail, "data", "detail."))
    return Reading([Begin(name, base_date, data, f"the interactions of {base_date} are there")])


def _day_of(event: Mapping[str, Any]) -> datetime.date:
    value = _text(event, "time")
    try:
        at = datetime.datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError
        day = at.astimezone(datetime.UTC).date()
    except (ValueError, OverflowError):
        raise rejected("the event's time", value, "a time with its zone, as 2026-11-22T03:00:05Z") from None
    return parse_day("the event's time", day.isoformat())


def _detail(event: Mapping[str, Any]) -> Mapping[str, Any]:
    detail = event.get("detail")
    if not isinstance(detail, Mapping):
        raise rejected("the event's detail", detail, "an object")
    return detail


def _text(content: Mapping[str, Any], key: str, place: str = "") -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise rejected(f"the event's {place}{key}", value, "a text")
    return value
