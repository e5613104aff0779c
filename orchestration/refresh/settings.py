"""Which campaigns are refreshed, from what data, at which resources, by which rules: one TOML file.

``refresh.toml`` in the current directory, or where --settings or the variable CLV_REFRESH_SETTINGS says;
refresh.example.toml beside this module explains every setting. Reading it opens no connection. Secrets have no place in
it: AWS credentials are found as boto3 finds them.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestration import notify
from orchestration.refresh import ledger
from orchestration.refresh.policy import FULL, INCREMENTAL, UPDATE, Policy
from orchestration.refresh.record import NAME
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from orchestration.refresh.personalize import Resources

VARIABLE = "CLV_REFRESH_SETTINGS"
FILE = "refresh.toml"
EXAMPLE = "orchestration/refresh/refresh.example.toml"
BASE_DATE = "{base_date}"  # in campaigns.NAME.data
GLUE = "aws.glue"
_NAME_LENGTH = 63  # as of everything that Personalize names
_ARN = r"arn:aws(?:-[a-z]+)*"
_RESOURCE = _ARN + r":personalize:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):"
_NAMED = NAME.pattern.replace("*", f"{{0,{_NAME_LENGTH - 1}}}")
_ARNS = {
    "dataset_arn": (
        f"{_RESOURCE}dataset/{_NAMED}/INTERACTIONS",
        "an interactions dataset's ARN, such as arn:aws:personalize:eu-central-1:123456789012:dataset/shop/INTERACTIONS",
    ),
    "solution_arn": (
        f"{_RESOURCE}solution/{_NAMED}",
        "a solution's ARN, without a version, such as arn:aws:personalize:eu-central-1:123456789012:solution/shop",
    ),
    "campaign_arn": (
        f"{_RESOURCE}campaign/{_NAMED}",
        "a campaign's ARN, such as arn:aws:personalize:eu-central-1:123456789012:campaign/shop",
    ),
    "role_arn": (
        rf"{_ARN}:iam::(?P<account>[0-9]{{12}}):role/[\w+=,.@/-]+",
        "the ARN of a role that Personalize may read the data with, such as arn:aws:iam::123456789012:role/personalize",
    ),
}
_LEDGER = r"sqlite://.+|dynamodb://[A-Za-z0-9_.-]{3,255}/?(\?region=[a-z0-9-]+)?"
# What Personalize imports lies on S3; a directory elsewhere may have a manifest that names it.
_DIRECTORY = r"(?:(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]/|file:///)?(?!.*://)[^*?#\[\]\x00-\x1f\x7f]+"
_ACCEPTED_DIRECTORY = "a directory: s3://BUCKET/..., gs://BUCKET/..., or a local path"
_ACCEPTED_DATA = f"{_ACCEPTED_DIRECTORY}, with {BASE_DATE} once, such as s3://shop-interactions/{BASE_DATE}"
_MODES = {"import_mode": (FULL, INCREMENTAL), "training_mode": (FULL, UPDATE)}
# From, to. A rows' share above 1 would have every week grow; a metric's may ask for an improvement.
_BOUNDS = {"full_training_every_days": (1, 3650), "least_rows_ratio": (0, 1), "least_metric_ratio": (0, 2)}
_MOST_HOURS, _MOST_SECONDS = 24 * 365, 24 * 3600
_CALL_SECONDS = 600.0  # four requests with their attempts: see CONNECT_SECONDS and what follows in personalize.py
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class EventRule:
    """The success of which job, at which event source, begins a refresh."""

    source: str
    job: str


@dataclass(frozen=True)
class CampaignSettings:
    """One campaign.

    Attributes:
      data: a directory's name with ``{base_date}`` in it.
      region: of the resources.
      events: what begins a refresh besides a person and an event of our own.
    """

    name: str
    data: str
    resources: Resources
    region: str | None
    events: tuple[EventRule, ...]
    policy: Policy

    def directory(self, base_date: datetime.date) -> str:
        """Where the interactions of a refresh are."""
        return self.data.replace(BASE_DATE, base_date.isoformat())


@dataclass(frozen=True)
class Settings:
    """One installation. ``sinks`` are those of ``orchestration.notify``; their addresses may be secrets."""

    ledger: str
    sinks: tuple[str, ...] = dataclasses.field(repr=False)
    campaigns: dict[str, CampaignSettings]

    def campaign(self, name: str) -> CampaignSettings:
        """Raises: UsageError for one that is not in the file."""
        if name not in self.campaigns:
            raise rejected("--campaign", name, f"one of the settings': {', '.join(self.campaigns)}")
        return self.campaigns[name]


def settings_path(given: str | None) -> Path:
    """Which file is meant."""
    return Path(given or os.environ.get(VARIABLE) or FILE)


def read_settings(path: Path | str) -> Settings:
    """Reads the file.

    Raises:
      UsageError: it is missing, or does not say what it must; one line with the file, the setting and its value.
    """
    try:
        content = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: copy {EXAMPLE} there, or name yours by --settings or {VARIABLE}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return _settings(_Table(content, str(path), ""))


def require_directory(argument: str, value: str) -> str:
    """Raises: UsageError for what can be no directory of interactions."""
    if not re.fullmatch(_DIRECTORY, value) or "{" in value or "}" in value:
        raise rejected(argument, value, _ACCEPTED_DIRECTORY)
    return value


def margin_warning(campaigns: Iterable[CampaignSettings]) -> str:
    """One line where a call may take longer than a margin: nothing where none may, or the service is one of this machine."""
    short = [each for each in campaigns if each.policy.margin_seconds < _CALL_SECONDS]
    if not short or _is_local(os.environ):
        return ""
    named = ", ".join(
        f"campaigns.{each.name}.policy.margin_seconds is {each.policy.margin_seconds:g}" for each in short
    )
    return (
        f"warning: {named}: a call may take {_CALL_SECONDS:g} seconds, and end when another worker makes the same one; "
        f"advised is at least {_CALL_SECONDS:g}"
    )


def _is_local(environment: Mapping[str, str]) -> bool:
    """Whether boto3 will find Personalize on this machine; variables that are there and empty are none to it."""
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return False
    address = environment.get("AWS_ENDPOINT_URL_PERSONALIZE") or environment.get("AWS_ENDPOINT_URL") or ""
    try:
        return urlsplit(address).hostname in _THIS_MACHINE
    except ValueError:
        return False


class _Table:
    """A table of the file and its place in it: whoever reads a setting from it says what is accepted."""

    def __init__(self, content: Any, where: str, name: str) -> None:
        if not isinstance(content, Mapping):
            raise rejected(f"{where}: {name}", content, f"a table [{name}]")
        self.content, self.where, self.name = content, where, name

    def place(self, key: str) -> str:
        return f"{self.where}: {self.name}{'.' if self.name else ''}{key}"

    def only(self, known: Iterable[str]) -> None:
        """Raises: UsageError for a setting that there is not."""
        for key in self.content:
            if key not in known:
                raise UsageError(f"{self.place(key)} is no setting: accepted are {', '.join(known)}")

    def refuse(self, key: str, accepted: str) -> UsageError:
        return rejected(self.place(key), self.content[key], accepted)

    def table(self, key: str, *, optional: bool = False) -> _Table:
        if not optional:
            self.require(key)
        return _Table(self.content.get(key, {}), self.where, f"{self.name}{'.' if self.name else ''}{key}")

    def require(self, key: str) -> None:
        if key not in self.content:
            raise UsageError(f"{self.place(key)} is missing: see {EXAMPLE}")

    def text(self, key: str, pattern: str, accepted: str) -> str:
        self.require(key)
        value = self.content[key]
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.refuse(key, accepted)
        return value


def _settings(table: _Table) -> Settings:
    table.only(("ledger", "sinks", "campaigns"))
    address = table.text("ledger", _LEDGER, ledger.ACCEPTED)
    named = table.table("campaigns")
    if not named.content:
        raise UsageError(f"{table.place('campaigns')} is empty: accepted is at least one table [campaigns.NAME]")
    campaigns = {name: _campaign(named, name) for name in named.content}
    _refuse_shared(campaigns, table.where)
    return Settings(address, _sinks(table), campaigns)


def _sinks(table: _Table) -> tuple[str, ...]:
    sinks = table.content.get("sinks", ["log:"])
    if not isinstance(sinks, list) or not all(isinstance(each, str) for each in sinks):
        raise table.refuse("sinks", "a list of texts")
    for sink in sinks:
        try:
            notify.parse(sink)
        except UsageError as error:
            raise UsageError(f"{table.place('sinks')}: {error}") from None
    return tuple(sinks)


def _campaign(named: _Table, name: str) -> CampaignSettings:
    if not re.fullmatch(_NAMED, name):
        accepted = f"1 to {_NAME_LENGTH} letters, digits, - and _, the first a letter or a digit"
        raise rejected(f"{named.where}: the campaign's name", name, accepted)
    table = named.table(name)
    table.only(("data", "region", "personalize", "event", "policy"))
    data = table.text("data", _DIRECTORY, _ACCEPTED_DATA)
    if data.count(BASE_DATE) != 1 or set("{}") & set(data.replace(BASE_DATE, "")):
        raise table.refuse("data", _ACCEPTED_DATA)
    resources, region = _resources(table.table("personalize"))
    if "region" in table.content:
        table.text("region", re.escape(region), f"{region!r}, the region of its campaign_arn, or nothing")
    return CampaignSettings(
        name, data, resources, region, _events(table), _policy(table.table("policy", optional=True))
    )


def _resources(table: _Table) -> tuple[Resources, str]:
    """The resources, and their region."""
    from orchestration.refresh.personalize import Resources

    table.only(_ARNS)
    arns = {key: table.text(key, pattern, accepted) for key, (pattern, accepted) in _ARNS.items()}
    parts = {key: re.fullmatch(_ARNS[key][0], arn).groupdict() for key, arn in arns.items()}  # type: ignore[union-attr]
    campaign = parts["campaign_arn"]
    for key, part in parts.items():
        for what, value in part.items():
            if value != campaign[what]:
                raise table.refuse(key, f"one of the {what} {campaign[what]}, as campaign_arn is")
    return Resources(**arns), campaign["region"]


def _events(table: _Table) -> tuple[EventRule, ...]:
    """One table, or a list of them."""
    given = table.content.get("event", [])
    rules = []
    for each in given if isinstance(given, list) else [given]:
        rule = _Table(each, table.where, f"{table.name}.event")
        rule.only(("source", "job"))
        rules.append(
            EventRule(rule.text("source", re.escape(GLUE), GLUE), rule.text("job", ".+", "the name of a Glue job"))
        )
    return tuple(rules)


def _policy(table: _Table) -> Policy:
    fields = {each.name: each for each in dataclasses.fields(Policy)}
    table.only(fields)
    policy = Policy(**{name: _rule(table, name, str(fields[name].type)) for name in table.content})
    where = f"{table.where}: {table.name}"
    if policy.margin_seconds >= policy.lease_seconds:
        accepted = f"less than lease_seconds, {policy.lease_seconds:g}"
        raise rejected(f"{where}.margin_seconds", policy.margin_seconds, accepted)
    if policy.busy_seconds > policy.most_busy_seconds:
        accepted = f"at most most_busy_seconds, {policy.most_busy_seconds:g}"
        raise rejected(f"{where}.busy_seconds", policy.busy_seconds, accepted)
    return policy


def _rule(table: _Table, name: str, kind: str) -> Any:
    value = table.content[name]
    if name in _MODES:
        return table.text(name, "|".join(_MODES[name]), " or ".join(_MODES[name]))
    if kind == "str":
        return table.text(name, r"[a-z][a-z0-9_]*", "the name of a metric that GetSolutionMetrics has")
    if kind == "bool":
        if not isinstance(value, bool):
            raise table.refuse(name, "true or false")
        return value
    least, most = _BOUNDS.get(name, (0, _MOST_HOURS if name.endswith("_hours") else _MOST_SECONDS))
    more = name not in _BOUNDS  # no time at all is no time
    accepted = f"a {'whole ' if kind == 'int' else ''}number {'above' if more else 'from'} {least} to {most}"
    usable = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
    if not usable or not math.isfinite(value) or not least <= value <= most or (more and value == least):
        raise table.refuse(name, accepted)
    return value if kind == "int" else float(value)


def _refuse_shared(campaigns: Mapping[str, CampaignSettings], where: str) -> None:
    """What two refreshes may not change at the same time belongs to one campaign: turns are taken within a campaign."""
    for key in ("campaign_arn", "dataset_arn"):
        seen: dict[str, str] = {}
        for name, campaign in campaigns.items():
            arn = getattr(campaign.resources, key)
            if arn in seen:
                raise UsageError(
                    f"{where}: campaigns.{name}.personalize.{key} {arn!r} is that of campaigns.{seen[arn]} already: "
                    "accepted is one of its own"
                )
            seen[arn] = name
