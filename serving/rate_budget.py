"""How fast a whole job may write to Datastore, and one writer's part in it.

A range of keys that nobody wrote to before lies on one server until Datastore has split it. Google's rule for such
a range is 500/50/5: begin with 500 writes a second and add 50% every 5 minutes.
https://cloud.google.com/datastore/docs/best-practices#ramping_up_traffic
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from serving.store import Clock, utc_now
from transforms.errors import rejected

OFF = "off"
ACCEPTED = f"START/PERCENT/MINUTES such as 500/50/5 (500 writes/s, 50% more every 5 minutes), or {OFF}"
# A writer that was late may catch up on so much: a pause of the process or of the network costs no throughput.
BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Ramp:
    """A rate that grows in steps.

    Attributes:
      start: writes/s at the beginning, more than 0.
      growth_percent: how much of the rate is added at each step.
      every_minutes: how long a step lasts, more than 0.
    """

    start: float
    growth_percent: float
    every_minutes: float

    @classmethod
    def parse(cls, text: str, argument: str = "--ramp") -> Ramp | None:
        """Reads "500/50/5"; None for "off", which is as fast as the store takes it.

        Raises:
          UsageError: not a ramp.
        """
        if text == OFF:
            return None
        number = r"(\d{1,9}(?:\.\d{1,6})?)"
        found = re.fullmatch(f"{number}/{number}/{number}", text, re.ASCII)
        if found is None:
            raise rejected(argument, text, ACCEPTED)
        ramp = cls(*map(float, found.groups()))
        if not ramp.start or not ramp.every_minutes:
            raise rejected(argument, text, f"{ACCEPTED}; START and MINUTES are more than 0")
        return ramp

    def __str__(self) -> str:
        return f"{self.start:g}/{self.growth_percent:g}/{self.every_minutes:g}"

    def rate(self, seconds_since_begin: float) -> float:
        """Writes/s at a moment; infinite once it is too large for a float. Before the beginning it is the first step's."""
        steps = max(0, math.floor(seconds_since_begin / self._step_seconds))
        logarithm = math.log(self.start) + steps * math.log(self._factor)
        # A generation that is amended weeks later: 50% every 5 minutes passes every float in six hours' steps.
        return self.start * self._factor**steps if logarithm < 700 else math.inf

    def seconds_for(self, writes: float) -> float:
        """How long so many writes take, when none of the rate is left unused.

        After k steps start * step_seconds * (f^k - 1) / (f - 1) are written, f = 1 + growth_percent / 100: the
        geometric series.
        """
        first_step = self.start * self._step_seconds
        if not self.growth_percent or writes <= first_step:
            return writes / self.start
        steps = math.floor(math.log1p(writes * (self._factor - 1) / first_step) / math.log(self._factor))
        before = first_step * (self._factor**steps - 1) / (self._factor - 1)
        return steps * self._step_seconds + (writes - before) / (self.start * self._factor**steps)

    @property
    def _factor(self) -> float:
        return 1 + self.growth_percent / 100

    @property
    def _step_seconds(self) -> float:
        return self.every_minutes * 60


class RateBudget:
    """One writer's share of a job's rate. Threads share it; so do all writes of a process, or each begins anew.

    It is a token bucket that may be overdrawn: who comes waits for what was sent before, not for what it sends.
    """

    def __init__(
        self,
        ramp: Ramp | None,
        begun_at: datetime,
        share: float = 1.0,
        now: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """The ramp begins at ``begun_at``, the same moment for every writer of the job; None is no limit."""
        self._ramp = ramp
        self._share = share
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._begun = monotonic() - (now() - begun_at).total_seconds()
        self._free = monotonic()  # when all that was reserved so far has been paid for

    def at_once(self, most: int) -> int:
        """How many writes may be sent together: a second's worth, at least 1 and no more than ``most``.

        A small share would otherwise send many seconds' worth in one commit, and so would all the others.
        """
        rate = self._rate(self._monotonic())
        return most if rate >= most else max(1, int(rate))

    def reserve(self, writes: int) -> float:
        """Takes so many writes out of the budget; returns the seconds to wait before sending them."""
        with self._lock:
            now = self._monotonic()
            starts = max(self._free, now - BURST_SECONDS)
            self._free = starts + writes / self._rate(starts)
            return max(0.0, starts - now)

    def take(self, writes: int) -> None:
        """Blocks until so many writes may be sent."""
        if seconds := self.reserve(writes):
            self._sleep(seconds)

    def _rate(self, moment: float) -> float:
        return self._share * self._ramp.rate(moment - self._begun) if self._ramp else math.inf
