"""Where records and heads live, and the only way they change: by naming the revision that is to be replaced.

A backend stores rows keyed by (campaign_name, base_date), the key schema of the system this one succeeds; ``base_date`` of
a campaign's head is the word ``head``. What is in a row is worked out here, once for all backends.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from orchestration.refresh.record import Deployment, Head, Record, State, Transition
from transforms.errors import UsageError, rejected

HEAD = "head"
ACCEPTED = "sqlite://PATH, or dynamodb://TABLE (its region follows the AWS settings, or ?region=...)"

# What a backend stores of a row besides its key: text, whole numbers, floats, null, and lists and objects of them.
Row = dict[str, Any]


class Conflict(Exception):
    """Somebody else changed the row first: read it again."""


class Ledger(ABC):
    """Rows with a compare-and-set. Backends implement the four methods with an underscore.

    Reads see every write that ended before they began. All raise ``service.Busy`` where the store cannot be reached now.
    """

    @abstractmethod
    def _read(self, campaign: str, key: str) -> Row | None:
        """One row."""

    @abstractmethod
    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        """Replaces the row whose ``revision`` is the expected one; 0 expects that there is none.

        Raises:
          Conflict: there is another.
        """

    @abstractmethod
    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        """All rows of a campaign by key, in the keys' order."""

    @abstractmethod
    def campaigns(self) -> list[str]:
        """Those that have a row, sorted."""

    def close(self) -> None:  # noqa: B027 - not every backend has something to end
        """Ends connections."""

    def record(self, campaign: str, base_date: datetime.date) -> Record | None:
        row = self._read(campaign, base_date.isoformat())
        return None if row is None else record_of(campaign, base_date, row)

    def records(self, campaign: str) -> list[Record]:
        """All refreshes of a campaign, the latest first."""
        found = [record_of(campaign, _day(campaign, key), row) for key, row in self._rows(campaign) if key != HEAD]
        return sorted(found, key=lambda record: record.base_date, reverse=True)

    def head(self, campaign: str) -> Head:
        """A new one, of revision 0, where there is none yet."""
        row = self._read(campaign, HEAD)
        return Head(campaign) if row is None else head_of(campaign, row)

    def write(self, record: Record) -> Record:
        """Replaces the record of the same revision, 0 for a new one. Returns it with its new revision. Raises: Conflict."""
        written = replace(record, revision=record.revision + 1)
        self._write(record.campaign, record.base_date.isoformat(), row_of_record(written), record.revision)
        return written

    def write_head(self, head: Head) -> Head:
        """The same of a head."""
        written = replace(head, revision=head.revision + 1)
        self._write(head.campaign, HEAD, row_of_head(written), head.revision)
        return written


def open_ledger(uri: str) -> Ledger:
    """Raises: UsageError for what is no ledger's address."""
    from urllib.parse import parse_qsl, urlsplit

    if uri.startswith("sqlite://") and len(uri) > len("sqlite://"):
        from orchestration.refresh.sqlite_ledger import SqliteLedger

        return SqliteLedger(uri.removeprefix("sqlite://"))
    if uri.startswith("dynamodb://"):
        parts = urlsplit(uri)
        settings = dict(parse_qsl(parts.query))
        if parts.netloc and not parts.path.strip("/") and set(settings) <= {"region"}:
            from orchestration.refresh.dynamodb_ledger import DynamoLedger

            return DynamoLedger(parts.netloc, settings.get("region"))
    raise rejected("the ledger", uri, ACCEPTED)


_DATES = (
    "data_until",
    "latest",
    "fence",
    "deployment_fence",
    "importing",
    "deploying",
    "imported",
    "imported_until",
    "full_training",
)
_TIMES = ("lease_until", "not_before")


def row_of_record(record: Record) -> Row:
    """``state``, ``reason`` and ``state_since`` stand beside the history for whoever looks into the table."""
    row = {name: _plain(value) for name, value in asdict(record).items() if name not in ("campaign", "base_date")}
    return row | {"state": str(record.state), "reason": record.reason, "state_since": _plain(record.since)}


def record_of(campaign: str, base_date: datetime.date, row: Mapping[str, Any]) -> Record:
    """Raises: UsageError for a row that this code did not write."""
    try:
        values = _values(row, Record)
        values["history"] = tuple(
            Transition(_time(each["at"]), State(each["state"]), each["reason"]) for each in row["history"]
        )
        if not values["history"]:
            raise ValueError("it has no history")
        values["metrics"] = {name: float(value) for name, value in row.get("metrics", {}).items()}
        return Record(campaign, base_date, **values)
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"the ledger's row of {campaign} {base_date} is not one of this version's: {error!r}"
        ) from error


def row_of_head(head: Head) -> Row:
    return {name: _plain(value) for name, value in asdict(head).items() if name != "campaign"}


def head_of(campaign: str, row: Mapping[str, Any]) -> Head:
    """Raises: UsageError for a row that this code did not write."""
    try:
        values = _values(row, Head)
        values["open"] = tuple(map(datetime.date.fromisoformat, row["open"]))
        values["deployments"] = tuple(map(_deployment, row["deployments"]))
        values["serving"] = None if row["serving"] is None else _deployment(row["serving"])
        return Head(campaign, **values)
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"the ledger's head of {campaign} is not one of this version's: {error!r}") from error


def _day(campaign: str, key: str) -> datetime.date:
    """A record's key. Raises: UsageError for what is none, or is one in another form."""
    try:
        day = datetime.date.fromisoformat(key)
    except ValueError:
        day = None
    if day is None or day.isoformat() != key:
        raise UsageError(
            f"the ledger's row of {campaign} {key!r} is not one of this version's: accepted is YYYY-MM-DD or {HEAD}"
        )
    return day


def _values(row: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """A field that a later version added has its default in rows of before.

    Raises: TypeError for a value of another type than the field's default.
    """
    values = {each.name: row[each.name] for each in fields(kind) if each.name in row}
    for each in fields(kind):
        if isinstance(each.default, (str, int)) and type(values.get(each.name, each.default)) is not type(each.default):
            raise TypeError(f"{each.name} is {values[each.name]!r}")
    for name in _DATES:
        if values.get(name) is not None:
            values[name] = datetime.date.fromisoformat(values[name])
    for name in _TIMES:
        if values.get(name) is not None:
            values[name] = _time(values[name])
    return values


def _deployment(row: Mapping[str, Any]) -> Deployment:
    base_date = None if row["base_date"] is None else datetime.date.fromisoformat(row["base_date"])
    return Deployment(row["version"], base_date, _time(row["at"]), row["data_fingerprint"])


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, State) else value


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
