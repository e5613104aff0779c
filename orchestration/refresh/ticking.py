"""Ticks the open refreshes of campaigns, once or until they have ended."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field

from orchestration.refresh.installation import Installation, Troubles, each_campaign
from orchestration.refresh.record import FAILURES, Record
from orchestration.refresh.service import Busy
from orchestration.refresh.worker import Ticked, utc_now
from transforms.errors import JobFailed

_LEAST_SECONDS = 0.05  # between two looks
_MOST_SECONDS = 60.0  # meanwhile somebody else may have moved one on


@dataclass
class Round:
    """One look at everything that was open.

    Attributes:
      ended: refreshes that ended.
      open: campaigns that have others.
      until: when it is worth looking again at one of those.
    """

    ended: list[Record] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    until: datetime.datetime | None = None

    def add(self, ticked: Ticked) -> None:
        if ticked.record.state.is_end:
            self.ended.append(ticked.record)
        else:
            self.open.add(ticked.record.campaign)
            self.until = min(ticked.until, self.until or ticked.until)


def tick_open(installation: Installation, names: list[str], troubles: Troubles) -> Round:
    """Ticks every open refresh of these campaigns, the newest first: what it supersedes does not import in vain."""
    found = Round()

    def tick(name: str) -> None:
        worker = installation.worker(name)
        for base_date in reversed(worker.ledger.head(name).open):
            try:
                ticked = worker.tick(base_date)
            except (Busy, JobFailed):
                raise  # of the ledger or the service: the next refresh would fare no better
            except Exception as error:  # a row that is damaged, say
                troubles.add(name, error)
                continue
            if ticked is not None:
                found.add(ticked)
                if not ticked.record.state.is_end:
                    installation.reporter.waiting(ticked)

    each_campaign(names, tick, troubles)
    return found


def tick_until_done(
    installation: Installation, names: list[str], every_seconds: float | None = None
) -> tuple[list[Record], Troubles]:
    """Ticks until nothing is open any more, but of campaigns with lasting trouble.

    Args:
      every_seconds: by default each is looked at as soon as that is worth it, by its policy.

    Returns:
      The refreshes that ended meanwhile, and the trouble there was at the end.
    """
    ended: list[Record] = []
    troubles = Troubles(installation.reporter)
    left = names
    while left:
        troubles.forget_passing()
        found = tick_open(installation, left, troubles)
        ended += found.ended
        left = [name for name in left if name not in troubles.lasting and (name in found.open or name in troubles.of)]
        if left:
            time.sleep(_pause(found, every_seconds))
    return ended, troubles


def _pause(found: Round, every_seconds: float | None) -> float:
    if every_seconds is not None:
        return every_seconds
    seconds = (found.until - utc_now()).total_seconds() if found.until else _MOST_SECONDS
    return min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS)


def require_success(ended: list[Record]) -> None:
    """Raises: JobFailed where a refresh ended as a failure."""
    failed = [record for record in ended if record.state in FAILURES]
    if failed:
        raise JobFailed(
            "; ".join(f"{each.campaign} {each.base_date} is {each.state}: {each.reason}" for each in failed)
        )
