"""Which generation is served, remembered for a stated time and never longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from serving.store import Generation


class PointerCache:
    """What ``read`` said last. All methods belong to one event loop.

    An answer is as old as its reading's begin, so that nothing which was switched to more than ``seconds`` before a
    request is unknown to it. Where the store does not answer, what is too old is not used: callers get the error.

    Args:
      read: the current generation, None where nothing is published.
      seconds: how old an answer may be.
      clock: seconds that only grow.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Generation | None]],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self._read = read
        self._clock = clock
        self._known: Generation | None = None
        self._known_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    @property
    def age_seconds(self) -> float:
        """Of what is known; infinite while nothing is."""
        return self._clock() - self._known_at

    def fresh(self) -> bool:
        return self.age_seconds <= self.seconds

    async def get(self) -> Generation | None:
        """What is served, or was less than ``seconds`` ago. Raises what ``read`` raises."""
        if not self.fresh():
            return await self.get_since(self._clock() - self.seconds)
        if self.age_seconds > self.seconds / 2:
            self._start()  # so that with steady traffic nobody has to wait for it
        return self._known

    async def get_since(self, moment: float) -> Generation | None:
        """What is served by a reading that began at ``moment`` or later. Raises what ``read`` raises."""
        while self._known_at < moment:
            await asyncio.shield(self._start())
        return self._known

    @property
    def known(self) -> Generation | None:
        """What was read last, however old."""
        return self._known

    def now(self) -> float:
        return self._clock()

    def _start(self) -> asyncio.Task[None]:
        """The one reading that is under way."""
        # Not forgotten by its callback, which comes a turn of the loop late: until then a caller for whom it was too
        # early would wait for it again and again, and the loop would never get to that callback.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
            self._reading.add_done_callback(self._ended)
        return self._reading

    async def _refresh(self) -> None:
        began = self._clock()
        known = await self._read()
        same = self._known is not None and known == self._known
        self._known, self._known_at = (self._known if same else known), began

    @staticmethod
    def _ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # who waits has it; where nobody does, nobody needs it
