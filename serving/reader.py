"""Customers' predictions for a service: quick, never older than stated, and never of two generations in one answer.

    request -> the pointer, remembered for seconds -> rows, remembered as JSON -> the store, by threads

What makes the answers right although much is remembered:

- A generation's rows do not change: a replay only adds customers who had none. So what is remembered is that a
  customer has a row, never that one has none.
- Each answer is made with one pointer. Where a row is missing, the generation may have been replaced and deleted
  since the pointer was read; so the pointer is read once more, and if it has moved the answer is begun anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import orjson

from serving.pointer_cache import PointerCache
from serving.store import Clock, Generation, Row, Store, utc_now
from serving.worker_threads import WorkerThreads


@dataclass(frozen=True)
class Answer:
    """The rows found, as JSON by customer; ``generation`` is None where nothing is served at all."""

    generation: Generation | None
    rows: dict[str, bytes]


@dataclass
class Figures:
    """What was done since the start.

    Attributes:
      remembered: rows that did not have to be asked for.
      asked: customers that the store was asked for.
    """

    remembered: int = 0
    asked: int = 0


@dataclass
class _Remembered:
    """Rows of one generation, the latest asked for at the end."""

    generation: Generation | None = None
    rows: OrderedDict[str, bytes] = field(default_factory=OrderedDict)


class Reader:
    """Answers for one event loop.

    Args:
      open_store: opens the store for reading, with the time it may take to answer.
      threads: calls to the store at a time.
      pointer_seconds: how long a switch may stay unnoticed.
      rows_kept: rows remembered at most, some 700 bytes each.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        threads: int,
        pointer_seconds: float,
        rows_kept: int,
        clock: Clock = utc_now,
    ) -> None:
        self.figures = Figures()
        self.threads = WorkerThreads(open_store, threads)
        self.pointer = PointerCache(lambda: self.threads.run(lambda store: store.current()), pointer_seconds)
        self._rows_kept = rows_kept
        self._clock = clock
        self._kept = _Remembered()

    async def served(self) -> Generation | None:
        """The generation that answers are of now.

        Raises:
          StoreFailed: the store did not answer.
          UsageError: it cannot be read until a person has mended something.
        """
        return self._alive(await self.pointer.get())

    async def look_up(self, customer_ids: Iterable[str]) -> Answer:
        """The rows of those customers that have one, all of one generation. Raises as ``served``."""
        wanted = dict.fromkeys(customer_ids)
        generation = await self.served()
        while generation is not None:
            found = await self._rows(generation, wanted)
            if len(found) == len(wanted):
                return Answer(generation, found)
            again = self._alive(await self.pointer.get_since(self.pointer.now()))
            if again is not None and _rows_are_the_same(again, generation):
                return Answer(generation, found)
            generation = again
        return Answer(None, {})

    def _alive(self, generation: Generation | None) -> Generation | None:
        return None if generation is None or generation.has_expired(self._clock()) else generation

    async def _rows(self, generation: Generation, wanted: Iterable[str]) -> dict[str, bytes]:
        kept = self._kept
        if kept.generation is not generation:
            if kept.generation is None or not _rows_are_the_same(kept.generation, generation):
                kept = self._kept = _Remembered()
            kept.generation = generation
        rows, found, missing = kept.rows, {}, []
        for customer_id in wanted:
            if customer_id in rows:
                rows.move_to_end(customer_id)
                found[customer_id] = rows[customer_id]
            else:
                missing.append(customer_id)
        self.figures.remembered += len(found)
        if missing:
            self.figures.asked += len(missing)
            answer = await self.threads.rows(generation, missing)
            for customer_id in missing:
                if customer_id in answer:
                    found[customer_id] = rows[customer_id] = _json(answer[customer_id])
            while len(rows) > self._rows_kept:
                rows.popitem(last=False)
        return found


def _rows_are_the_same(one: Generation, other: Generation) -> bool:
    return one.rows_id() == other.rows_id()


def _json(row: Row) -> bytes:
    # A copy: orjson's own result keeps the room it was written in, ten times what it holds.
    return bytes(memoryview(orjson.dumps(row)))
