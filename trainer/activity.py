"""A snapshot's daily activity in weeks and months.

The activity is what the manifest of a features directory holds: {"2011-08-08": [order_days, first_days, value], ...},
of the snapshot's customers alone, so that what happens from the cutoff on is theirs, and nobody's who came later.
A day that is not named had none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

Activity = Mapping[str, Sequence[Any]]

WEEK_DAYS = 7


@dataclass(frozen=True)
class Period:
    """Days from ``start`` on. ``complete``: the whole week or month, not what a window's border left of it.

    ``order_days`` counts customers with an order on a day, day by day; ``first_days`` those of them that were a
    customer's first; ``value`` is net money.
    """

    start: date
    days: int
    complete: bool
    order_days: int
    first_days: int
    value: float


def weeks(activity: Activity, start: date, days: int) -> list[Period]:
    """The window [start, start + days) in periods of seven days from its start; only the last can be shorter."""
    return [
        _period(activity, start + timedelta(first), min(WEEK_DAYS, days - first), WEEK_DAYS)
        for first in range(0, days, WEEK_DAYS)
    ]


def months(activity: Activity, start: date, days: int) -> list[Period]:
    """The window [start, start + days) by calendar month; the first and the last can be parts of one."""
    end, found = start + timedelta(days), []
    while start < end:
        month = start.replace(day=1)
        following = (month + timedelta(31)).replace(day=1)
        found.append(_period(activity, start, (min(following, end) - start).days, (following - month).days))
        start = following
    return found


def _period(activity: Activity, start: date, days: int, full: int) -> Period:
    rows = [activity.get((start + timedelta(day)).isoformat(), (0, 0, 0)) for day in range(days)]
    # Money goes through its text: a manifest may hold it as an exact decimal, and a sum of floats would not be one.
    value = sum((Decimal(str(row[2])) for row in rows), Decimal(0))
    return Period(
        start, days, days == full, sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows), float(value)
    )
