"""The data of a refresh: what ``pipelines.interactions`` says of a directory it completed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from transforms import storage
from transforms.errors import UsageError

KIND = "interactions"


@dataclass(frozen=True)
class Data:
    """A complete directory of interactions.

    Attributes:
      location: the prefix that holds the CSV files and nothing else.
      mode: FULL or INCREMENTAL.
      since: the first day of an incremental export.
      until: the day after the last one that may have interactions.
      failed: the checks that it did not pass; a directory that is made by the pipeline has none.
    """

    location: str
    mode: str
    rows: int
    users: int
    fingerprint: str
    since: datetime.date | None
    until: datetime.date | None
    failed: tuple[str, ...] = ()


def read_data(directory: str) -> Data | None:
    """Reads a directory's manifest; none where it is not complete yet.

    Raises:
      UsageError: it is not a directory of interactions.
    """
    if not storage.exists(storage.join(directory, storage.MANIFEST)):
        return None
    return of_manifest(storage.read_manifest(directory, KIND), directory)


def of_manifest(manifest: dict[str, Any], directory: str) -> Data:
    """Raises: UsageError for a manifest that lacks something."""
    try:
        until = (
            manifest["until"]
            or (datetime.date.fromisoformat(manifest["last_at"][:10]) + datetime.timedelta(days=1)).isoformat()
        )
        return Data(
            manifest["data"], manifest["mode"], manifest["rows"], manifest["users"], manifest["fingerprint"],
            datetime.date.fromisoformat(manifest["since"]) if manifest["since"] else None,
            datetime.date.fromisoformat(until),
            tuple(
                f"{check['check']} is {check['found']}, accepted is {check['accepted']}"
                for check in manifest["validation"]
                if not check["passed"]
            ),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{directory}: its manifest is not one of pipelines.interactions: {error!r}") from error
