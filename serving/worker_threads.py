"""Threads that read the store for an event loop, many requests with one call.

    threads = WorkerThreads(lambda: open_store(uri, patience_seconds=2.0), number=8)
    generation = await threads.run(lambda store: store.current())
    rows = await threads.rows(generation, ["12347"])

While they are busy the customers that are asked for meanwhile wait together, and the next free thread asks the
store for all of them at once: the busier the service, the fewer calls a customer costs.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from serving.store import Generation, Row, Store

T = TypeVar("T")
# So many customers are read in little more time than one is; a request for more is a call of its own.
MOST_TOGETHER = 100


@dataclass
class _Job:
    """What a thread does, and who waits for it: several requests for rows of one generation, or one of anything else."""

    work: Callable[[Store], Any]
    waiting: list[asyncio.Future[Any]]


@dataclass
class _Wanted:
    generation: Generation
    customer_ids: Collection[str]
    waiting: asyncio.Future[dict[str, Row]]


class WorkerThreads:
    """Each thread has a store of its own, opened when first needed and opened anew after it has failed.

    All methods but the constructor belong to one event loop.

    Args:
      open_store: called in each thread.
      number: how many calls for rows may be under way at a time; one more thread is there for anything else.
    """

    def __init__(self, open_store: Callable[[], Store], number: int) -> None:
        self.calls = 0
        self._open_store = open_store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._wanted: deque[_Wanted] = deque()
        self._free = number
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"store-reader-{index}", daemon=True)
            for index in range(number + 1)
        ]

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets the threads end after what they are doing, without waiting for it."""
        for _ in self._threads:
            self._jobs.put(None)

    def run(self, work: Callable[[Store], T]) -> asyncio.Future[T]:
        """Does ``work`` in a thread; raises what it raises."""
        waiting = self._future()
        self._jobs.put(_Job(work, [waiting]))
        return waiting

    def rows(self, generation: Generation, customer_ids: Collection[str]) -> asyncio.Future[dict[str, Row]]:
        """``Store.rows``: those found of at least these customers. Raises what the store raises."""
        while self._wanted and self._wanted[0].waiting.done():  # those who gave up on a store that hangs
            self._wanted.popleft()
        waiting = self._future()
        self._wanted.append(_Wanted(generation, customer_ids, waiting))
        self._send()
        return waiting

    def _future(self) -> asyncio.Future[Any]:
        assert self._loop is not None, "not started"
        return self._loop.create_future()

    def _send(self) -> None:
        """Hands what is wanted to the threads that are free."""
        while self._free and (together := self._next()):
            self._free -= 1
            self.calls += 1
            generation = together[0].generation
            ids = together[0].customer_ids if len(together) == 1 else [i for w in together for i in w.customer_ids]
            self._jobs.put(_Job(_RowsOf(generation, ids), [each.waiting for each in together]))

    def _next(self) -> list[_Wanted]:
        """The longest waiting, and those after it that go with it; who has given up is left out."""
        together: list[_Wanted] = []
        size = 0
        while self._wanted:
            first = self._wanted[0]
            if not first.waiting.done():
                size += len(first.customer_ids)
                if together and (size > MOST_TOGETHER or first.generation is not together[0].generation):
                    break
                together.append(first)
            self._wanted.popleft()
        return together

    def _work(self) -> None:
        assert self._loop is not None
        store: Store | None = None
        while job := self._jobs.get():
            result, error = None, None
            try:
                store = store or self._open_store()
                result = job.work(store)
            except Exception as raised:  # whoever waits gets it
                _close(store)
                store, error = None, raised
            try:
                self._loop.call_soon_threadsafe(self._done, job, result, error)
            except RuntimeError:  # the loop has ended, and nobody waits any more
                break
        _close(store)

    def _done(self, job: _Job, result: Any, error: Exception | None) -> None:
        if isinstance(job.work, _RowsOf):
            self._free += 1
        for waiting in job.waiting:
            if waiting.done():
                continue
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(result)
        self._send()


@dataclass(frozen=True)
class _RowsOf:
    generation: Generation
    customer_ids: Collection[str]

    def __call__(self, store: Store) -> dict[str, Row]:
        return store.rows(self.generation, self.customer_ids)


def _close(store: Store | None) -> None:
    with suppress(Exception):  # one that has failed may fail at this too, and its thread has others to serve
        if store is not None:
            store.close()
