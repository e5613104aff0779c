"""Who takes part in benchmarks.lookup_soak: callers of the service, who publishes meanwhile, and who watches its process."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import dataclass, field
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks.lookup_service import Answer, Connection, ConnectionLost, Service, get, post, request
from benchmarks.lookup_soak_checks import (
    AS_OF,
    MODEL_VERSION,
    UNKNOWN,
    Asked,
    Checker,
    History,
    Shop,
    etag_of,
    name_of,
)
from transforms.errors import JobFailed

if TYPE_CHECKING:
    from serving.store import Store

TOGETHER = 100
_UNKNOWN_OF_TOGETHER = 3
_JOIN_SECONDS = 60.0


class Part(threading.Thread):
    """Does ``once`` until it is told to stop; an error of its own is kept for ``finish``."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.once()
        except Exception as error:
            self.error = error

    def once(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Raises: JobFailed when it could not do its part."""
        self.ended.set()
        self.join(_JOIN_SECONDS)
        if self.error is not None or self.is_alive():
            raise JobFailed(f"{self.name} could not go on: {self.error or 'it does not end'}") from self.error


@dataclass
class Times:
    """Of each answer, when it came (``time.monotonic``), its status and the seconds it took."""

    answers: list[tuple[float, int, float]] = field(default_factory=list)

    def between(self, since: float, until: float) -> list[float]:
        """The sorted seconds of the answers of 200 that came then."""
        return sorted(took for came, status, took in list(self.answers) if since <= came < until and status == 200)

    def first_success(self, since: float) -> float | None:
        """Seconds until an answer of 200 came."""
        return min(
            (came - since for came, status, _ in list(self.answers) if came >= since and status == 200), default=None
        )

    def unavailable(self, since: float, until: float) -> int:
        return sum(status == 503 and since <= came < until for came, status, _ in list(self.answers))


class Caller(Part):
    """One connection and what it asks for, drawn from a seed; an answer that is not HTTP is wrong as well."""

    def __init__(self, number: int, seed: int, port: int, shop: Shop, checker: Checker, times: Times) -> None:
        super().__init__(f"caller {number}")
        self._draw = random.Random(f"{seed}.{number}")
        self._port, self._shop, self._checker, self._times = port, shop, checker, times
        self._connection = Connection(port)
        self._etags = [etag_of(0)]  # of a generation that never was
        self._kinds = itertools.cycle(self._draw.choices(
            (self._one, self._unchanged, self._unknown, self._together, self._alive), (50, 15, 5, 28, 2), k=1_000
        ))  # fmt: skip

    def once(self) -> None:
        next(self._kinds)()

    def _one(self) -> None:
        customer_id = self._customer()
        self._exchange(Asked([customer_id]), get(customer_id))

    def _unknown(self) -> None:
        customer_id = f"{UNKNOWN}{self._draw.randrange(1_000_000)}"
        self._exchange(Asked([customer_id]), get(customer_id))

    def _unchanged(self) -> None:
        """Mostly with the latest entity tag, sometimes with older ones too, as any cache on the way may."""
        customer_id, etags = self._customer(), self._etags[-self._draw.choice((1, 1, 1, 2)) :]
        if self._draw.random() < 0.1:
            etags = self._etags[:1]
        weak = self._draw.choice(("", "W/"))
        listed = ", ".join(weak + etag for etag in etags)
        self._exchange(Asked([customer_id], etags=etags), get(customer_id, f"If-None-Match: {listed}\r\n"))

    def _together(self) -> None:
        indices = self._draw.sample(
            range(self._shop.customers), min(TOGETHER, self._shop.customers) - _UNKNOWN_OF_TOGETHER
        )
        ids = [*map(str, indices), *(f"{UNKNOWN}{number}" for number in range(_UNKNOWN_OF_TOGETHER))]
        self._draw.shuffle(ids)
        self._exchange(Asked(ids, together=True), post(ids))

    def _alive(self) -> None:
        """Whoever starts and stops the service must not take a store that is away for a service that is."""
        answer, _, _ = self._answer(request("GET", "/health/live"))
        if answer is not None and answer.status != 200:
            self._checker.note(f"/health/live answered {answer.status}")

    def _exchange(self, asked: Asked, sent: bytes) -> None:
        answer, began, ended = self._answer(sent)
        if answer is None:
            return
        self._times.answers.append((ended, answer.status, ended - began))
        self._checker.check(asked, answer, began, ended)
        etag = answer.header("etag")
        if etag and etag != self._etags[-1]:
            self._etags = [*self._etags[-3:], etag]

    def _answer(self, sent: bytes) -> tuple[Answer | None, float, float]:
        began = monotonic()
        try:
            return self._connection.ask(sent), began, monotonic()
        except (ConnectionLost, OSError) as error:
            self._checker.note(f"no answer to {sent[:80]!r}: {error}")
            self._connection.close()
            self._connection = Connection(self._port)
            return None, began, monotonic()

    def _customer(self) -> str:
        return str(self._draw.randrange(self._shop.customers))


class Publisher(Part):
    """Publishes, rolls back, deletes and expires, in turn; it reaches the store even while the service does not.

    Args:
      pause_seconds: between two changes.
    """

    def __init__(self, uri: str, shop: Shop, history: History, pause_seconds: float) -> None:
        super().__init__("the publisher")
        self._uri, self._shop, self._history, self._pause_seconds = uri, shop, history, pause_seconds
        self._newest, self._current = 0, 0
        self._turns = itertools.cycle(
            (
                self._publish,
                self._publish_and_delete,
                self._publish,
                self._roll_back,
                self._go_on,
                self._publish_and_expire,
            )
        )

    def publish_first(self) -> None:
        with self._open() as store:
            self._publish(store)

    def once(self) -> None:
        if not self.ended.wait(self._pause_seconds):
            with self._open() as store:
                next(self._turns)(store)

    def _open(self) -> Store:
        from serving.store import open_store

        return open_store(self._uri, create=True)

    def _publish(self, store: Store) -> None:
        from serving.store import Content, Generation

        number, self._newest = self._newest + 1, self._newest + 1
        table, name = self._shop.table(number), name_of(number)
        attempt = store.begin(Generation(name, AS_OF, 90, MODEL_VERSION))
        assert attempt == 1, "no generation is staged twice"
        for batch in table.to_batches(5_000):
            store.write(name, attempt, batch)
        store.seal(name, attempt, Content(table.num_rows), {})
        self._switch(store, number)

    def _publish_and_delete(self, store: Store) -> None:
        """The one before goes at once, while the service may still answer from it."""
        before = self._current
        self._publish(store)
        store.delete(name_of(before))

    def _publish_and_expire(self, store: Store) -> None:
        self._publish(store)
        store.expire(keep=1)

    def _roll_back(self, store: Store) -> None:
        self._switch(store, self._current - 1)

    def _go_on(self, store: Store) -> None:
        self._switch(store, self._newest)

    def _switch(self, store: Store, number: int) -> None:
        expected = name_of(self._current) if self._current else None
        with self._history.switching(number):
            store.switch(name_of(number), expected)
        self._current = number


@dataclass(frozen=True)
class Sample:
    """The service's process at one moment (``time.monotonic``)."""

    at: float
    rss_mib: float
    threads: int
    open_files: int


class Watcher(Part):
    """Looks at the service's process every so often."""

    def __init__(self, service: Service, every_seconds: float) -> None:
        super().__init__("the watcher")
        self._service, self._every_seconds = service, every_seconds
        self.samples: list[Sample] = []

    def once(self) -> None:
        service = self._service
        self.samples.append(Sample(monotonic(), service.rss_bytes() / 2**20, service.threads(), service.open_files()))
        self.ended.wait(self._every_seconds)

    def typical(self, since: float, until: float) -> Sample:
        """The median of each figure over a time."""
        samples = [each for each in self.samples if since <= each.at < until] or self.samples[-1:]
        return Sample(
            since, median(s.rss_mib for s in samples), int(median(s.threads for s in samples)),
            int(median(s.open_files for s in samples)),
        )  # fmt: skip
