"""What the refresh asks of a campaign's service. ``personalize.py`` is Amazon's; a test's may be a few lines.

Every method makes one request, or few, and returns at once: nothing here waits for a job. Errors are sorted by what is
to be done about them, not by what the service calls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from transforms.errors import JobFailed


class Busy(Exception):
    """Not now: a quota, throttling, an outage, a lost answer, or a resource in use. The same call may do better later."""


class Lost(Busy):
    """No answer came: the service may have done it, or may still do it."""


class Refused(Exception):
    """Not ever: the service understood the request and will not do it."""


class AlreadyExists(Exception):
    """The name is taken: most likely by ourselves, and the answer was lost."""


class NoAccess(JobFailed):
    """Whoever runs this may not do it, or has no valid credentials: nothing is wrong with the refresh."""


class OwnTraining(str):
    """A problem that a policy may accept: the service trains or deploys by itself."""


class Status(Enum):
    IN_PROGRESS = "in progress"
    ACTIVE = "active"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Progress:
    """Of a job at the service. ``text`` is the service's own word for it, ``reason`` why it failed.

    ``is_stopping``: somebody asked that it end.
    """

    status: Status
    text: str
    reason: str = ""
    is_stopping: bool = False


@dataclass(frozen=True)
class Update:
    """The latest change of a campaign. ``id`` differs from that of every other change of it."""

    id: str
    version: str
    progress: Progress


@dataclass(frozen=True)
class Campaign:
    """What a campaign serves (``version``), whether it serves at all, and its latest change, if there was one."""

    version: str
    progress: Progress
    update: Update | None


class CampaignService(Protocol):
    """One campaign with its data set and its model.

    Raises, all of them:
      Busy, Refused, NoAccess: see there.
    """

    def problems(self, location: str = "") -> Sequence[str]:
        """What would keep a refresh from its end, one line each; ``OwnTraining`` what would merely fight it.

        Args:
          location: where the data are, once that is known: not every service reads from everywhere.
        """

    def find_import(self, name: str) -> str | None:
        """The import job of this name, if there is one."""

    def start_import(self, name: str, location: str, mode: str) -> str:
        """Begins to import. Raises: AlreadyExists; Busy also while another import changes the same data."""

    def import_progress(self, job: str) -> Progress: ...

    def find_training(self, name: str) -> str | None:
        """The version of this name, if there is one, whatever its status."""

    def start_training(self, name: str, mode: str) -> str:
        """Begins to train a version. Raises: AlreadyExists."""

    def training_progress(self, version: str) -> Progress: ...

    def stop_training(self, version: str) -> None:
        """Asks that it stop; to one that has ended nothing happens."""

    def metrics(self, version: str) -> Mapping[str, float]:
        """Offline metrics of a version; empty where the service has none."""

    def campaign(self) -> Campaign: ...

    def deploy(self, version: str) -> None:
        """Begins to make the campaign serve this version. Raises: Busy while it is being changed."""
