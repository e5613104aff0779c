"""How many commits are under way at once: fewer as soon as the store pushes back, more again little by little."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CommitWindow:
    """Additive increase, multiplicative decrease, as TCP finds the bandwidth of a shared line (RFC 5681).

    Threads share it. Within a round of commits one halving is enough: those that were under way when the limit was
    halved say nothing new when they fail too.
    """

    def __init__(self, most: int) -> None:
        """Begins with all ``most`` allowed at once."""
        self._most = most
        self._limit = float(most)
        self._under_way = 0
        self._halvings = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many may be under way, at least 1."""
        return int(self._limit)

    @contextmanager
    def one(self) -> Iterator[Slot]:
        """Waits for a place and holds it."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self.limit)
            self._under_way += 1
            slot = Slot(self, self._halvings)
        try:
            yield slot
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def grow(self) -> None:
        """One more after as many successes as may be under way."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def halve(self, since: int) -> None:
        """Halves the limit, unless that happened since the ``since``-th halving."""
        with self._changed:
            if since == self._halvings:
                self._limit = max(1.0, self._limit / 2)
                self._halvings += 1


class Slot:
    """A commit's place in the window, which it tells how it went."""

    def __init__(self, window: CommitWindow, halvings: int) -> None:
        self._window, self._halvings = window, halvings

    def done(self) -> None:
        self._window.grow()

    def pushed_back(self) -> None:
        self._window.halve(self._halvings)
