"""Writes mutations to Datastore: many commits at once, tried again until a deadline, bad entities found out.

    records -> commits of <= 500 entities and 3.5 MB -> rate budget -> window of commits under way -> Datastore
                     ^                                                                                 |
                     +---- in halves when the store refuses an entity in it, later when it is busy ----+

Upserts and deletions may be repeated, so a commit whose answer was lost is sent again.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from serving.commit_window import CommitWindow
from serving.datastore_client import CALL_SECONDS, Patience, code_of, described, explained, may_pass
from serving.entity_bytes import Records, header
from serving.store import StoreFailed
from transforms.errors import UsageError, one_line

if TYPE_CHECKING:
    import grpc
    import numpy as np

    from serving.rate_budget import RateBudget

MAX_ENTITIES = 500  # Datastore's limit of a commit
MAX_BYTES = 3_500_000  # Google states 10 MiB, but gRPC servers on the way, the emulators' too, end at 4 MiB
IN_FLIGHT = 8
PATIENCE = Patience(deadline_seconds=600.0)
# Upper ends of the latency histogram, seconds: of commits that were answered well. The last is beyond any timeout.
LATENCIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
# So many entities refused and none stored: it is not the entities.
MOST_REFUSED = 100
_LATENCY = "latency_below_{:g}_s"


class Connection(Protocol):
    """What is needed of a ``datastore_client.Connection``."""

    @property
    def project(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def uri(self) -> str: ...
    def commit(self, request: bytes, timeout: float) -> Any: ...


@dataclass(frozen=True)
class Refused:
    """An entity the store would not take: the row it was made of, and the store's words in one line."""

    row: int
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What one ``Writer.write`` did.

    Attributes:
      refused: what is not stored, by row.
      figures: ``entities`` and ``bytes`` stored, ``commits`` that stored them, ``retries`` and ``retries_{CODE}``,
        ``bisections``, ``refused``; in seconds, summed over the commits: ``latency_seconds`` of those answered well,
        ``throttled_seconds`` of waiting for the rate budget, ``back_off_seconds``; and how many of the answers took
        ``latency_below_{seconds}_s``, and no less than the next shorter one. All of them can be summed over writes.
    """

    refused: tuple[Refused, ...]
    figures: Mapping[str, float]


def latency_quantile(figures: Mapping[str, float], probability: float) -> float:
    """A bound in seconds below which this share of the commits was answered, from one or more writes' figures."""
    counts = [figures.get(_LATENCY.format(end), 0.0) for end in LATENCIES]
    wanted, seen = probability * sum(counts), 0.0
    for end, count in zip(LATENCIES, counts, strict=True):
        seen += count
        if seen >= wanted:
            return end
    return LATENCIES[-1]


class Writer:
    """Writes at the budget's rate with up to ``in_flight`` commits under way, on as many threads.

    What it learnt of the store's capacity lasts from one ``write`` to the next.
    """

    def __init__(
        self,
        connection: Connection,
        budget: RateBudget,
        in_flight: int = IN_FLIGHT,
        patience: Patience = PATIENCE,
        call_seconds: float = CALL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._budget = budget
        self._in_flight = in_flight
        self._patience = patience
        self._call_seconds = call_seconds
        self._monotonic = monotonic
        self._header = header(connection.project, connection.database)
        self.window = CommitWindow(in_flight)

    def write(self, records: Records) -> Outcome:
        """Returns when every record is stored or refused; no two of them may be of one key.

        Raises:
          StoreFailed: a commit was not taken within the deadline; others may have been.
          UsageError: what a person has to mend, such as a missing permission.
        """
        commits = list(cut(records.offsets, self._budget.at_once(MAX_ENTITIES)))
        work = _Work(records)
        if commits:
            with ThreadPoolExecutor(min(self._in_flight, len(commits)), "datastore-writer") as pool:
                try:
                    for done in [pool.submit(self._guarded, work, *commit) for commit in commits]:
                        done.result()
                finally:
                    work.stop.set()  # nothing more is begun after an error, or when interrupted
        if work.error is not None:
            raise work.error
        return Outcome(tuple(sorted(work.refused, key=lambda refused: refused.row)), dict(work.figures))

    def _guarded(self, work: _Work, first: int, end: int) -> None:
        try:
            self._store(work, first, end)
        except BaseException as error:  # whatever it is ends the whole write, which raises it
            work.fail(error)

    def _store(self, work: _Work, first: int, end: int) -> None:
        """Stores records [first, end), but for those that the store refuses."""
        parts = [(first, end)]
        while parts and not work.stop.is_set():
            first, end = parts.pop()
            error = self._send(work, first, end)
            if error is None:
                continue
            if end - first == 1:
                work.refuse(first, one_line(error.details() or code_of(error)))
            else:
                middle = (first + end) // 2
                parts += [(middle, end), (first, middle)]
                work.count(bisections=1)

    def _send(self, work: _Work, first: int, end: int) -> grpc.RpcError | None:
        """Sends one commit until it is stored, or the write is over; returns the error of one with a bad entity.

        Raises:
          StoreFailed, UsageError: as ``write``.
        """
        import grpc

        records = work.records
        request = b"".join((self._header, records.data[records.offsets[first] : records.offsets[end]].data))
        until, tries = None, 0
        while self._wait_for_budget(work, end - first):
            with self.window.one() as slot:
                sent = self._monotonic()
                until = sent + self._patience.deadline_seconds if until is None else until
                try:
                    self._connection.commit(request, min(self._call_seconds, max(until - sent, 1.0)))
                except grpc.RpcError as failure:
                    if code_of(failure) == "INVALID_ARGUMENT":
                        return failure
                    if not may_pass(failure):
                        raise explained(failure, self._connection.uri) from failure
                    slot.pushed_back()
                    error = failure
                else:
                    slot.done()
                    work.stored(end - first, len(request), self._monotonic() - sent)
                    return None
            tries += 1
            self._back_off(work, error, end - first, tries, until - self._monotonic())
        return None

    def _wait_for_budget(self, work: _Work, entities: int) -> bool:
        """False when the write is over meanwhile."""
        seconds = self._budget.reserve(entities)
        if seconds:
            work.count(throttled_seconds=seconds)
            work.stop.wait(seconds)
        return not work.stop.is_set()

    def _back_off(self, work: _Work, error: grpc.RpcError, entities: int, tries: int, left: float) -> None:
        if left <= 0:
            raise StoreFailed(
                f"{self._connection.uri} did not take a commit of {entities} entities in "
                f"{self._patience.deadline_seconds:g} s and {tries} tries; the last answer was {described(error)}"
            ) from error
        pause = min(left, self._patience.pause(tries))
        work.count(retries=1, back_off_seconds=pause, **{f"retries_{code_of(error)}": 1})
        work.stop.wait(pause)


def cut(offsets: np.ndarray, most_entities: int, most_bytes: int = MAX_BYTES) -> Iterator[tuple[int, int]]:
    """Commits as [first, end) of the records: as many as fit; a record that alone is too large goes alone."""
    first, records = 0, len(offsets) - 1
    while first < records:
        # The last record that ends within the bytes.
        end = (
            bisect_left(offsets, offsets[first] + most_bytes + 1, first + 1, min(first + most_entities, records) + 1)
            - 1
        )
        end = max(end, first + 1)
        yield first, end
        first = end


class _Work:
    """One write, as its threads share it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.refused: list[Refused] = []
        self.figures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, **figures: float) -> None:
        with self._lock:
            self.figures.update(figures)  # type: ignore[arg-type] # a Counter adds up floats as well

    def stored(self, entities: int, size: int, seconds: float) -> None:
        bucket = LATENCIES[min(bisect_left(LATENCIES, seconds), len(LATENCIES) - 1)]
        self.count(entities=entities, commits=1, bytes=size, latency_seconds=seconds, **{_LATENCY.format(bucket): 1})

    def refuse(self, record: int, detail: str) -> None:
        """
        Raises:
          UsageError: the store takes none at all.
        """
        self.count(refused=1)
        with self._lock:
            self.refused.append(Refused(int(self.records.rows[record]), detail))
            if len(self.refused) >= MOST_REFUSED and not self.figures["entities"]:
                raise UsageError(f"Datastore refused each of the first {len(self.refused)} entities: {detail}")

    def fail(self, error: BaseException) -> None:
        """The first error counts; those after it are its consequences."""
        with self._lock:
            if self.error is None:
                self.error = error
        self.stop.set()
