"""Threads that read for an event loop: what goes together, who is told what, and what is left afterwards."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from serving.store import Generation, Row, StoreFailed
from serving.worker_threads import MOST_TOGETHER, WorkerThreads
from tests.serving.service import at_most, turns, until
from tests.serving.store_contract import generation

G1, G2 = generation("g1"), generation("g2")


class Stores:
    """Opens stores that answer when told, and remembers what was done to them."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed: list[str] = []  # by threads
        self.reads: list[tuple[str, list[str]]] = []
        self.answering = threading.Event()
        self.answering.set()
        self.fails: Callable[[Collection[str]], Exception | None] = lambda ids: None
        self.open_fails: Exception | None = None
        self.close_fails: Exception | None = None
        self.lock = threading.Lock()

    def open(self) -> Any:
        with self.lock:
            self.opened += 1
        if self.open_fails:
            raise self.open_fails
        return _Store(self)


class _Store:
    """Of one thread; SQLite itself would refuse another one's."""

    def __init__(self, stores: Stores) -> None:
        self._stores, self._thread = stores, threading.get_ident()
        self.closed = False

    def rows(self, served: Generation, ids: Collection[str]) -> dict[str, Row]:
        assert threading.get_ident() == self._thread
        assert not self.closed
        with self._stores.lock:
            self._stores.reads.append((served.name, list(ids)))
        assert self._stores.answering.wait(10)
        if error := self._stores.fails(ids):
            raise error
        return {i: {"customer_id": i, "generation": served.name} for i in ids if i != "nobody"}

    def close(self) -> None:
        assert threading.get_ident() == self._thread
        assert not self.closed
        self.closed = True
        self._stores.closed.append(threading.current_thread().name)
        if self._stores.close_fails:
            raise self._stores.close_fails


Test = Callable[[WorkerThreads, Stores], Coroutine[Any, Any, None]]


def with_threads(number: int = 1) -> Callable[[Test], Callable[[], None]]:
    """Runs the test in an event loop; afterwards all threads have ended, and each store is closed that was opened."""

    def decorate(test: Test) -> Callable[[], None]:
        def run() -> None:
            stores = Stores()
            before = set(threading.enumerate())
            with at_most(30):
                asyncio.run(main(stores))
            until(lambda: set(threading.enumerate()) <= before, "the threads to end")
            assert len(stores.closed) == stores.opened - (stores.open_fails is not None)

        async def main(stores: Stores) -> None:
            threads = WorkerThreads(stores.open, number)
            threads.start()
            try:
                await test(threads, stores)
            finally:
                stores.answering.set()
                threads.stop()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


async def busy(threads: WorkerThreads, stores: Stores, number: int = 1) -> list[asyncio.Future[Any]]:
    """Keeps so many threads reading until ``answering`` is set."""
    stores.answering.clear()
    before = len(stores.reads)
    reading = [threads.rows(G1, [f"busy{i}"]) for i in range(number)]
    await until_reads(stores, before + number)
    return reading


async def until_reads(stores: Stores, count: int) -> None:
    while len(stores.reads) < count:
        await asyncio.sleep(0.001)


@with_threads()
async def test_rows_come_of_the_generation_asked_for(threads: WorkerThreads, stores: Stores) -> None:
    assert await threads.rows(G1, ["a", "nobody"]) == {"a": {"customer_id": "a", "generation": "g1"}}
    assert await threads.run(lambda store: "anything") == "anything"


@with_threads()
async def test_while_threads_are_busy_requests_are_put_together(threads: WorkerThreads, stores: Stores) -> None:
    reading = await busy(threads, stores)
    waiting = [threads.rows(G1, [f"c{i}"]) for i in range(MOST_TOGETHER + 20)]
    stores.answering.set()
    for number, each in enumerate(waiting):
        assert (await each)[f"c{number}"]["customer_id"] == f"c{number}"
    assert [len(ids) for _, ids in stores.reads] == [1, MOST_TOGETHER, 20]
    assert threads.calls == 3
    assert set(await reading[0]) == {"busy0"}


@with_threads(3)
async def test_while_there_are_free_threads_nobody_waits(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores, 3)
    waiting = threads.rows(G1, ["a"])
    await asyncio.sleep(0.02)
    assert len(stores.reads) == 3, "no more calls at a time than there may be"
    stores.answering.set()
    await waiting


@with_threads()
async def test_requests_of_two_generations_are_not_put_together(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores)
    asked = [(G1, "a"), (G1, "b"), (G2, "c"), (G2, "d"), (G1, "e"), (replace(G1, attempt=2), "f")]
    waiting = [threads.rows(of, [customer]) for of, customer in asked]
    stores.answering.set()
    for (of, customer), each in zip(asked, waiting, strict=True):
        assert (await each)[customer]["generation"] == of.name
    assert stores.reads[1:] == [("g1", ["a", "b"]), ("g2", ["c", "d"]), ("g1", ["e"]), ("g1", ["f"])]


@with_threads()
async def test_a_large_request_is_a_call_of_its_own(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores)
    sizes = [2, MOST_TOGETHER + 1, 3, MOST_TOGETHER - 3, 1, 1000]
    waiting = [threads.rows(G1, [f"{number}.{i}" for i in range(size)]) for number, size in enumerate(sizes)]
    stores.answering.set()
    for size, each in zip(sizes, waiting, strict=True):
        assert len(await each) >= size
    assert [len(ids) for _, ids in stores.reads[1:]] == [2, MOST_TOGETHER + 1, MOST_TOGETHER, 1, 1000]


@with_threads()
async def test_an_error_reaches_all_who_wait_and_the_store_is_opened_anew(
    threads: WorkerThreads, stores: Stores
) -> None:
    await busy(threads, stores)
    stores.fails = lambda ids: StoreFailed("away") if "bad" in ids else None
    waiting = [threads.rows(G1, [customer]) for customer in ("a", "bad", "b")]
    stores.answering.set()
    for each in waiting:
        with pytest.raises(StoreFailed, match="away"):
            await each
    assert len(stores.closed) == 1
    for _ in range(4):  # whichever thread it is: a store that was closed says so when it is used
        assert set(await threads.rows(G1, ["a"])) == {"a"}


@with_threads(2)
async def test_what_fails_does_not_use_threads_up(threads: WorkerThreads, stores: Stores) -> None:
    stores.fails = lambda ids: ValueError("a defect")
    for _ in range(20):
        with pytest.raises(ValueError, match="a defect"):
            await threads.rows(G1, ["a"])
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda store: 1 // 0)
    stores.fails = lambda ids: None
    await busy(threads, stores, 2)
    assert await threads.run(lambda store: 1) == 1


@with_threads()
async def test_a_store_that_does_not_open_is_tried_again(threads: WorkerThreads, stores: Stores) -> None:
    stores.open_fails = StoreFailed("away")
    with pytest.raises(StoreFailed, match="away"):
        await threads.rows(G1, ["a"])
    stores.open_fails = None
    assert set(await threads.rows(G1, ["a"])) == {"a"}
    stores.closed.append("the one that never was open")


@with_threads()
async def test_a_store_that_does_not_even_close_does_no_more_harm(threads: WorkerThreads, stores: Stores) -> None:
    stores.fails, stores.close_fails = lambda ids: StoreFailed("away"), OSError("not even that")
    with pytest.raises(StoreFailed, match="away"):
        await asyncio.wait_for(threads.rows(G1, ["a"]), 5)
    stores.fails = lambda ids: None
    assert set(await asyncio.wait_for(threads.rows(G1, ["a"]), 5)) == {"a"}
    stores.close_fails = None


@with_threads()
async def test_who_gave_up_is_passed_over(threads: WorkerThreads, stores: Stores) -> None:
    reading = await busy(threads, stores)
    gone = threads.rows(G1, [f"gone{i}" for i in range(MOST_TOGETHER)])
    alone = threads.rows(G2, ["gone"])
    staying = [threads.rows(G1, ["a"]), threads.rows(G1, ["b"])]
    for each in (*reading, gone, alone):
        each.cancel()
    stores.answering.set()
    assert [set(await each) for each in staying] == [{"a", "b"}] * 2
    assert stores.reads[1:] == [("g1", ["a", "b"])]
    assert threads.calls == 2


@with_threads()
async def test_where_all_gave_up_nothing_is_read_and_the_thread_is_free(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores)
    for each in [threads.rows(G1, ["gone"]) for _ in range(3)]:
        each.cancel()
    stores.answering.set()
    await asyncio.sleep(0.02)
    assert len(stores.reads) == 1
    assert set(await threads.rows(G1, ["a"])) == {"a"}


@with_threads()
async def test_who_gave_up_while_the_store_hangs_is_not_kept(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores)
    for _ in range(100):
        threads.rows(G1, ["gone"] * 1000).cancel()
    assert len(threads._wanted) == 1
    waiting = threads.rows(G1, ["a"])
    stores.answering.set()
    assert set(await waiting) == {"a"}


@with_threads(2)
async def test_the_pointer_is_read_though_all_threads_for_rows_are_busy(threads: WorkerThreads, stores: Stores) -> None:
    await busy(threads, stores, 2)
    threads.rows(G1, ["waits"])
    assert await asyncio.wait_for(threads.run(lambda store: "g1"), 5) == "g1"
    assert len(stores.reads) == 2


@with_threads(3)
async def test_each_thread_has_one_store_of_its_own(threads: WorkerThreads, stores: Stores) -> None:
    assert stores.opened == 0, "opened when first needed"
    for _ in range(5):
        reading = await busy(threads, stores, 3)
        stores.answering.set()
        await asyncio.gather(*reading)
    assert 3 <= stores.opened <= 4


@with_threads(2)
async def test_nobody_is_held_on_to_afterwards(threads: WorkerThreads, stores: Stores) -> None:
    kept: list[Callable[[], Any]] = [weakref.ref(threads.rows(G1, [f"c{i}"])) for i in range(50)]
    error = threads.run(lambda store: 1 // 0)
    kept.append(weakref.ref(error))
    await asyncio.wait([error])
    error.exception()
    del error
    await threads.rows(G1, ["last"])
    await threads.run(lambda store: None)
    await threads.run(lambda store: None)  # both threads have let go of what they did before
    for _ in range(3):
        await asyncio.gather(*(threads.run(lambda store: None) for _ in range(9)))
    await turns()
    gc.collect()
    assert sum(each() is not None for each in kept) <= 3, "what a thread did last it may hold until its next job"


def test_a_loop_that_ended_meanwhile_ends_the_threads() -> None:
    """As when the service is killed while the store hangs."""
    stores, before = Stores(), set(threading.enumerate())

    async def main() -> None:
        threads = WorkerThreads(stores.open, 2)
        threads.start()
        await busy(threads, stores, 2)

    asyncio.run(main())
    stores.answering.set()
    until(lambda: len(set(threading.enumerate()) - before) <= 1, "those that read to end")
    assert len(stores.closed) == 2


def test_stopping_waits_for_nobody_and_ends_what_is_under_way() -> None:
    stores, before = Stores(), set(threading.enumerate())

    async def main() -> None:
        threads = WorkerThreads(stores.open, 2)
        threads.start()
        reading = await busy(threads, stores, 2)
        threads.stop()
        stores.answering.set()
        await asyncio.gather(*reading)

    with at_most(20):
        asyncio.run(main())
    until(lambda: set(threading.enumerate()) <= before, "the threads to end")
    assert len(stores.closed) == stores.opened
