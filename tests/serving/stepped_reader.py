"""A reader whose threads, loop and clock move when told, over a store with a history: for every order of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from serving.pointer_cache import PointerCache
from serving.reader import Answer, Reader
from serving.store import Content, Generation, Row, State, StoreFailed
from serving.worker_threads import WorkerThreads
from tests.serving.store_contract import generation

SECONDS = 5.0
START = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[str, int]


def key_of(served: Generation) -> Key:
    return served.name, served.attempt


class History:
    """A store, and all that was ever true of it, by moments that are counted.

    Attributes:
      rows: those there are, by generation; deleting takes them one by one.
      since: when each row was written. What is deleted stays in it: it is what the generation holds by right.
      pointed: what was current from which moment on, and which second that was.
    """

    def __init__(self) -> None:
        self.moment = 0
        self.seconds = 0.0
        self.rows: dict[Key, set[str]] = {}
        self.since: dict[tuple[Key, str], int] = {}
        self.pointed: list[tuple[int, float, Generation | None]] = [(0, 0.0, None)]
        self.failures = 0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def clock(self) -> float:
        """Grows from call to call, as a real one does."""
        return self.seconds + 1e-6 * self.tick()

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    @property
    def pointer(self) -> Generation | None:
        return self.pointed[-1][2]

    def point(self, served: Generation) -> None:
        self.pointed.append((self.tick(), self.seconds, served))

    def publish(self, name: str, attempt: int, customers: Iterable[str], lives_seconds: float | None) -> Generation:
        served = replace(
            generation(name), attempt=attempt, state=State.SEALED, content=Content(1),
            expires_at=None if lives_seconds is None else self.now() + timedelta(seconds=lives_seconds),
        )  # fmt: skip
        self.rows[key_of(served)] = set()
        for customer in customers:
            self.add(served, customer)
        self.point(served)
        return served

    def add(self, served: Generation, customer: str) -> None:
        self.rows[key_of(served)].add(customer)
        self.since.setdefault((key_of(served), customer), self.tick())

    def amend(self) -> None:
        """As a replay ends: the record's figures change, and nothing else."""
        if self.pointer:
            self.point(replace(self.pointer, content=Content(self.pointer.content.rows + 1)))

    def forget(self, key: Key, customers: Iterable[str]) -> None:
        self.tick()
        self.rows[key] -= set(customers)

    def current(self) -> Generation | None:
        return replace(self.pointer) if self.pointer else None  # each reading makes objects of its own

    def read(self, served: Generation, customers: Iterable[str]) -> dict[str, Row]:
        there = self.rows.get(key_of(served), set())
        return {
            c: {"customer_id": c, "generation": served.name, "attempt": served.attempt} for c in customers if c in there
        }

    def close(self) -> None:
        pass

    def served_since(self, moment: int, seconds: float) -> Iterator[Generation | None]:
        """All that was current at the moment or later, or at the second or later."""
        for index, (_, _, served) in enumerate(self.pointed):
            ended = self.pointed[index + 1][:2] if index + 1 < len(self.pointed) else None
            if ended is None or ended[0] >= moment or ended[1] >= seconds:
                yield served


class _AsStore:
    """What a thread sees: it may be told to fail."""

    def __init__(self, history: History, failing: bool) -> None:
        self._history, self._failing = history, failing

    def current(self) -> Generation | None:
        self._fail()
        return self._history.current()

    def rows(self, served: Generation, customers: Iterable[str]) -> dict[str, Row]:
        self._fail()
        return self._history.read(served, customers)

    def _fail(self) -> None:
        if self._failing:
            self._history.failures += 1
            raise StoreFailed("put in")


class SteppedThreads(WorkerThreads):
    """WorkerThreads whose thread is the test: it takes jobs, does them, and hands results over, when told."""

    def __init__(self, history: History, number: int) -> None:
        super().__init__(lambda: history, number)  # type: ignore[arg-type, return-value]
        self._history = history
        self.under_way: list[Any] = []
        self.done: list[tuple[Any, Any, Exception | None]] = []

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def take_all(self) -> None:
        while not self._jobs.empty():
            self.under_way.append(self._jobs.get())

    def do(self, index: int, failing: bool = False) -> None:
        """The store is asked at this moment; the loop does not know the result yet."""
        job = self.under_way.pop(index)
        self._history.tick()
        try:
            self.done.append((job, job.work(_AsStore(self._history, failing)), None))
        except StoreFailed as error:
            self.done.append((job, None, error))

    def hand_over(self, index: int) -> None:
        """At the loop's next turn, as a thread does it."""
        assert self._loop is not None
        self._loop.call_soon(self._done, *self.done.pop(index))


@dataclass
class Request:
    customers: list[str]
    moment: int
    seconds: float
    answering: asyncio.Task[Answer]
    cancelled: bool = False
    checked: bool = field(default=False)


class SteppedReader:
    """Ask, let things happen, and hold every answer to what was true."""

    def __init__(self, rows_kept: int = 3, threads: int = 1) -> None:
        self.history = History()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.complaints: list[dict[str, Any]] = []
        self.threads = SteppedThreads(self.history, threads)
        self.threads.begin(self.loop)
        opened: Callable[[], Any] = lambda: self.history  # noqa: E731
        self.reader = Reader(opened, threads, SECONDS, rows_kept, self.history.now)
        self.reader.threads = self.threads
        self.reader.pointer = PointerCache(
            lambda: self.threads.run(lambda store: store.current()), SECONDS, self.history.clock
        )
        self.requests: list[Request] = []

    def ask(self, customers: list[str]) -> Request:
        async def look_up() -> Answer:
            return await self.reader.look_up(customers)

        request = Request(customers, self.history.tick(), self.history.seconds, self.loop.create_task(look_up()))
        self.requests.append(request)
        return request

    def turn(self, count: int = 1) -> None:
        """So many turns of the loop; answers that came are checked."""
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self.threads.take_all()
        for request in self.requests:
            if request.answering.done() and not request.checked:
                request.checked = True
                self._check(request)

    def settle(self) -> None:
        """Until every request is answered, with a store that works."""
        for _ in range(400):
            self.turn(3)
            if all(request.answering.done() for request in self.requests):
                break
            while self.threads.under_way:
                self.threads.do(0)
            while self.threads.done:
                self.threads.hand_over(0)
        assert all(request.answering.done() for request in self.requests), "somebody waits for ever"
        assert self.complaints == []

    def close(self) -> None:
        self.loop.close()

    def _check(self, request: Request) -> None:
        if request.answering.cancelled():
            assert request.cancelled
            return
        if request.answering.exception():
            assert isinstance(request.answering.exception(), StoreFailed) and self.history.failures
            return
        answer, history = request.answering.result(), self.history
        served = list(history.served_since(request.moment, request.seconds - SECONDS))
        if answer.generation is None:
            assert answer.rows == {}
            assert any(each is None or each.has_expired(history.now()) for each in served), "something was served"
            return
        key = key_of(answer.generation)
        assert key in [key_of(each) for each in served if each], "what is served is too old"
        asked_at = START + timedelta(seconds=request.seconds)
        assert not answer.generation.has_expired(asked_at)
        for customer, row in answer.rows.items():
            expected = {"customer_id": customer, "generation": key[0], "attempt": key[1]}
            assert orjson.loads(row) == expected, "rows of two generations in one answer"
        assert set(answer.rows) <= set(request.customers)
        for customer in set(request.customers) - set(answer.rows):
            written = history.since.get((key, customer))
            assert written is None or written > request.moment, f"{customer} has a row and was told to have none"
        assert len(self.reader._kept.rows) <= max(self.reader._rows_kept, 0) or not self.reader._kept.rows
