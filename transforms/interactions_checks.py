"""Whether a recommender's import will take the interactions, found out before anybody asks it to.

The limits are Amazon Personalize's. An import that breaks one fails after it has waited its turn, or makes a model that
says so only by its metrics.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from transforms import storage
from transforms.errors import UsageError, rejected

# Columns but the three that must be there, plus distinct event types, that a set of interactions may have.
MOST_COLUMNS_AND_TYPES = 10
_ALWAYS = 3


@dataclass(frozen=True)
class Limits:
    """What is accepted.

    Attributes:
      minimum_rows: of one import; fewer are refused by the service.
      minimum_unique_interactions: of a whole data set; with fewer nothing is trained.
      minimum_users_with_two: users with at least two different interactions; with fewer nothing is trained.
      maximum_full_bytes, maximum_incremental_bytes: all files of one import together.
    """

    minimum_rows: int = 1_000
    minimum_unique_interactions: int = 1_000
    minimum_users_with_two: int = 25
    maximum_full_bytes: int = 100 * 10**9
    maximum_incremental_bytes: int = 10**9

    @classmethod
    def read(cls, path: str | None) -> Limits:
        """Of a TOML file, which states only what it changes.

        Raises:
          UsageError: the file is not readable, or has something else in it.
        """
        import tomllib

        if path is None:
            return cls()
        try:
            content = tomllib.loads(storage.read_bytes(path).decode())
        except (OSError, ValueError) as error:
            raise UsageError(f"--limits {path!r} is not readable: {error}") from error
        known = [field.name for field in fields(cls)]
        for name, value in content.items():
            if name not in known:
                raise UsageError(f"--limits {path!r}: {name} is unknown: accepted are {', '.join(known)}")
            if type(value) is not int or value < 0:
                raise rejected(f"--limits {path!r}: {name}", value, "a whole number of at least 0")
        return cls(**content)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """One check: what was found, what is accepted, and whether that goes together."""

    check: str
    found: Any
    accepted: str
    passed: bool

    @classmethod
    def least(cls, name: str, found: int, least: int) -> Check:
        return cls(name, found, f"at least {least:,}", found >= least)

    @classmethod
    def most(cls, name: str, found: int, most: int) -> Check:
        return cls(name, found, f"at most {most:,}", found <= most)


@dataclass(frozen=True)
class Times:
    """How new the interactions have to be.

    Attributes:
      now: when the job was begun.
      until: the end of the window, where one was given.
      newest_within_days: how many days before ``until`` (or today) the newest may be; None: any.
    """

    now: datetime.datetime
    until: datetime.date | None = None
    newest_within_days: int | None = None

    def checks(self, last: datetime.datetime) -> Iterable[Check]:
        """Args: last: the newest interaction."""
        newest = last.isoformat()
        yield Check("newest_not_in_the_future", newest, f"at most {self.now.isoformat()}", last <= self.now)
        if self.newest_within_days is not None:
            day = (self.until or self.now.date()) - datetime.timedelta(days=self.newest_within_days)
            midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
            yield Check("newest_within_days", newest, f"at least {midnight.isoformat()}", last >= midnight)


def validate(
    figures: dict[str, Any], size: int, columns: int, event_types: int, last: datetime.datetime | None, times: Times,
    limits: Limits, mode: str,
) -> list[Check]:  # fmt: skip
    """Every check that applies, passed or not.

    Args:
      figures: as ``Summary.figures`` gives them.
      size: bytes of all files.
      columns: of the files.
      event_types: how many different ones there are.
      last: the newest interaction; None where there is none.
      mode: FULL, or INCREMENTAL: added to what was imported before, which the minima of a data set count as well.
    """
    found = [Check.least("rows", figures["rows"], limits.minimum_rows)]
    if mode == "FULL":
        unique, two = figures["unique_interactions"], figures["users_with_two"]
        found.append(Check.least("unique_interactions", unique, limits.minimum_unique_interactions))
        found.append(Check.least("users_with_two", two, limits.minimum_users_with_two))
        found.append(Check.most("bytes", size, limits.maximum_full_bytes))
    else:
        found.append(Check.most("bytes", size, limits.maximum_incremental_bytes))
    found.append(Check.most("columns_and_event_types", columns - _ALWAYS + event_types, MOST_COLUMNS_AND_TYPES))
    return [*found, *(times.checks(last) if last else ())]


def require_passed(checks: Iterable[Check], mode: str) -> None:
    """Raises: UsageError naming each check that did not pass, in one line."""
    failed = [
        f"{check.check} is {_shown(check.found)}, accepted is {check.accepted}" for check in checks if not check.passed
    ]
    if failed:
        raise UsageError(f"the interactions are not fit for an import ({mode}): {'; '.join(failed)}")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
