"""A log that an outage does not flood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SECONDS = 10.0


class Seldom(logging.Filter):
    """Lets each kind of line (its text before the values are put in) through once in a while, with how many were left out.

    Args:
      seconds: between two of a kind.
      clock: seconds that only grow.
    """

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds, self._clock = seconds, clock
        self._kinds: dict[str, tuple[float, int]] = {}  # of the code's own texts: there are few

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = str(record.msg), self._clock()
        until, left_out = self._kinds.get(kind, (now, 0))
        if now < until:
            self._kinds[kind] = until, left_out + 1
            return False
        self._kinds[kind] = now + self._seconds, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more of its kind since the last)", ()
        return True
