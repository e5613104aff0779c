"""Finds what was lost: refreshes that nobody ticks, events that never came, campaigns that somebody else changed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from orchestration.refresh.events import latest_day
from orchestration.refresh.installation import Installation, Troubles, each_campaign
from orchestration.refresh.interactions_data import read_data
from orchestration.refresh.ledger import Ledger, Row
from orchestration.refresh.reconcile import reconcile, rejoin
from orchestration.refresh.settings import BASE_DATE, CampaignSettings
from orchestration.refresh.ticking import tick_open
from orchestration.refresh.worker import Worker
from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line

_DAY = r"(\d{4}-\d{2}-\d{2})"


class DryLedger(Ledger):
    """Reads another and forgets what is written: so a dry run takes the very steps of a real one."""

    def __init__(self, real: Ledger) -> None:
        self._real = real

    def _read(self, campaign: str, key: str) -> Row | None:
        return self._real._read(campaign, key)

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        return None

    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        return self._real._rows(campaign)

    def campaigns(self) -> list[str]:
        return self._real.campaigns()


def sweep(installation: Installation, names: list[str], dry_run: bool, troubles: Troubles) -> list[str]:
    """Sweeps campaigns.

    Returns:
      What was found, one line each, by campaign.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    ledger = DryLedger(installation.ledger) if dry_run else None

    def search(name: str) -> None:
        worker = installation.worker(name, ledger)
        found[name] += _lost(worker)
        found[name] += _missed(worker, installation.settings.campaign(name), dry_run)

    def compare(name: str) -> None:
        found[name] += reconcile(installation.worker(name, ledger))

    each_campaign(names, search, troubles)
    if not dry_run:
        tick_open(installation, names, troubles)
    each_campaign(names, compare, troubles)
    return [f"{name}: {line}" for name, lines in found.items() for line in lines]


def _lost(worker: Worker) -> list[str]:
    """Puts back what is not among the open ones."""
    return [
        f"{record.base_date} was lost as {record.state}: it is among the open ones again"
        for record in reversed(rejoin(worker))
    ]


def _missed(worker: Worker, campaign: CampaignSettings, dry_run: bool) -> list[str]:
    """Starts what has complete data and is later than all that was started, the newest first.

    So that none of the others begins a step which the newest makes useless.
    """
    latest = worker.ledger.head(campaign.name).latest
    days = complete_days(campaign, latest)
    lines = []
    for day in reversed(days):
        worker.start(day, campaign.directory(day), "its data are complete and no event began it")
        lines.append(f"{day} was missed: {campaign.directory(day)} is complete, {'to be ' if dry_run else ''}started")
        if latest is None:
            break  # what is older was never this ledger's to do
    return lines


def complete_days(campaign: CampaignSettings, after: datetime.date | None) -> list[datetime.date]:
    """The base_dates of the pattern's complete directories, in order; only those later than ``after``, and none in the future.

    Raises:
      JobFailed: the directories cannot be listed or read now.
    """
    head, _, tail = campaign.data.partition(BASE_DATE)
    parent, slash, prefix = head.rpartition("/")
    pattern = re.compile(re.escape(prefix) + _DAY + re.escape(tail.partition("/")[0]))
    days = []
    try:
        # "/" and "file:///" keep the slash that makes them a path.
        for name in _folders((parent if parent and not parent.endswith("/") else parent + slash) or "."):
            day = _day(pattern, name)
            if (
                day is not None
                and (after is None or day > after)
                and day <= latest_day()
                and _complete(campaign.directory(day))
            ):
                days.append(day)
    except OSError as error:
        raise JobFailed(f"{campaign.data} cannot be listed: {one_line(str(error))}") from error
    return sorted(days)


def _day(pattern: re.Pattern[str], name: str) -> datetime.date | None:
    found = pattern.fullmatch(name)
    try:
        return datetime.date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def _complete(directory: str) -> bool:
    try:
        return read_data(directory) is not None
    except UsageError:
        return False  # something else's directory


def _folders(parent: str) -> list[str]:
    """Names of the folders in a directory, which need not be there."""
    from pyarrow import fs

    filesystem, path = storage.resolve(parent)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.type == fs.FileType.Directory]
