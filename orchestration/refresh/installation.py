"""What all commands work with: the settings, the ledger, and a worker for each campaign."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from orchestration import notify
from orchestration.refresh.ledger import Ledger, open_ledger
from orchestration.refresh.lines import Reporter
from orchestration.refresh.service import Busy, CampaignService, Refused
from orchestration.refresh.settings import CampaignSettings, Settings
from orchestration.refresh.worker import Worker
from transforms.errors import JobFailed, UsageError, one_line

_THREADS = 8  # they wait for answers, and the service's own rate limits are not far above


class _Later:
    """A campaign's service, connected once it is asked something: to start a refresh nobody needs it."""

    def __init__(self, connect: Callable[[], CampaignService]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._service: CampaignService | None = None

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._service is None:
                self._service = self._connect()
        return getattr(self._service, name)


class Installation:
    """Campaigns and their workers. ``ledger`` is the settings' own unless another is given."""

    def __init__(self, settings: Settings, reporter: Reporter, ledger: Ledger | None = None) -> None:
        self.settings, self.reporter = settings, reporter
        self.ledger = ledger or open_ledger(settings.ledger)
        self._services = {name: _Later(partial(_connected, each)) for name, each in settings.campaigns.items()}

    def names(self, chosen: Iterable[str] | None) -> list[str]:
        """The chosen campaigns, or all. Raises: UsageError for one that is not in the settings."""
        return [self.settings.campaign(name).name for name in chosen or self.settings.campaigns]

    def worker(self, name: str, ledger: Ledger | None = None) -> Worker:
        """Of a campaign; with another ledger nobody is told anything: it does not keep what is written."""
        tell = (lambda event: None) if ledger else (lambda event: notify.send(event, self.settings.sinks))
        return Worker(
            ledger or self.ledger, name, cast(CampaignService, self._services[name]), self.settings.campaign(name).policy,
            tell=tell, log=self.reporter,
        )  # fmt: skip


def _connected(campaign: CampaignSettings) -> CampaignService:
    from orchestration.refresh.personalize import connect

    return connect(campaign.resources, campaign.region)


class Troubles:
    """Which campaigns could not be worked on, and why in one line."""

    def __init__(self, reporter: Reporter) -> None:
        self.of: dict[str, str] = {}
        self.lasting: set[str] = set()  # of these, whose would be the same once more
        self._reporter = reporter
        self._said: dict[str, str] = {}

    def add(self, name: str, error: Exception) -> None:
        """Says it, unless that was the last thing said of it. For an ``except`` block."""
        foreseen = isinstance(error, (Busy, Refused, JobFailed, UsageError))
        text = one_line(str(error) if foreseen else f"{type(error).__name__}: {error}")
        if isinstance(error, Busy):
            text = f"busy: {text}"
        else:
            self.lasting.add(name)
        if self._said.get(name) != text:
            self._reporter.line(f"{name}: {text}")
            if not foreseen and not isinstance(error, OSError):
                self._reporter.defect(f"{name}: this is a defect, and the other campaigns go on")
        self.of[name] = self._said[name] = text

    def forget_passing(self) -> None:
        """Before the same is tried once more."""
        self.of = {name: text for name, text in self.of.items() if name in self.lasting}

    def check(self, worked_on: int, *others: str) -> None:
        """Raises: JobFailed where there is any; its message ends with whatever else failed, if something did."""
        said = list(others)
        if self.of:
            names = ", ".join(sorted(self.of))
            said.insert(0, f"{len(self.of)} of {worked_on} campaigns had trouble, as said above: {names}")
        if said:
            raise JobFailed("; ".join(said))


def each_campaign(names: list[str], work: Callable[[str], object], troubles: Troubles) -> None:
    """Works on the campaigns in a few threads; the trouble of one does not keep the others from being worked on."""

    def tried(name: str) -> None:
        try:
            work(name)
        except Exception as error:  # whatever it is
            troubles.add(name, error)

    with ThreadPoolExecutor(max(1, min(_THREADS, len(names)))) as threads:
        for _ in threads.map(tried, names):
            pass
