"""Load on a contestant of benchmarks.lookup: client processes, each with its share of the connections.

    with Clients(customer_ids) as clients:
        load = clients.run(target, Cell(ids=1, connections=8), seconds=2.0, seed=1, began=lambda: None)

One process of Python threads would be the bottleneck at 64 connections, whoever answers: only one thread of it runs at
a time. So the connections are shared out among a few processes, for every contestant in the same way.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import random
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from benchmarks.harness import OutputsDiffer
from benchmarks.lookup_contestants import Ask, Target

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

PROCESSES = 4
# Requests of each connection before anything is measured.
WARM_UP_REQUESTS = 20
# From the word to begin until the threads of all processes do.
START_SECONDS = 0.05


@dataclass(frozen=True)
class Cell:
    """One kind of load: so many ids a request, on so many connections at once."""

    ids: int
    connections: int


@dataclass(frozen=True)
class Load:
    """What came of it: each request's seconds, sorted, and the requests a second of all connections together."""

    seconds: list[float]
    requests_per_second: float

    def percentile(self, percent: float) -> float:
        """Milliseconds that so many percent of the requests did not exceed."""
        return 1000 * self.seconds[min(int(len(self.seconds) * percent / 100), len(self.seconds) - 1)]


@dataclass(frozen=True)
class _Share:
    """One process's part: threads ``first``, ``first + 1``, ... of all connections."""

    target: Target
    ids: int
    first: int
    threads: int
    seconds: float
    seed: str


class Clients:
    """The client processes, which draw from ``customer_ids``."""

    def __init__(self, customer_ids: Sequence[str], processes: int = PROCESSES) -> None:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._pipes: list[Pipe] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_client, args=(theirs, list(customer_ids)), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(5.0)
            if process.is_alive():
                process.terminate()

    def run(self, target: Target, cell: Cell, seconds: float, seed: str, began: Callable[[], object]) -> Load:
        """Load for so many seconds; ``began`` is called when every connection has been warmed up.

        Raises:
          OutputsDiffer: an answer was not the one expected.
        """
        used = self._pipes[: cell.connections]
        counts = [len(range(index, cell.connections, len(used))) for index in range(len(used))]
        for index, (pipe, threads) in enumerate(zip(used, counts, strict=True)):
            pipe.send(_Share(target, cell.ids, sum(counts[:index]), threads, seconds, seed))
        self._results(used)
        began()
        start = time.monotonic() + START_SECONDS
        for pipe in used:
            pipe.send(start)
        times = [threads for process in self._results(used) for threads in process]
        rate = sum(len(each) / (ended - start) for each, ended in times)
        return Load(sorted(nanoseconds / 1e9 for each, _ in times for nanoseconds in each), rate)

    def _results(self, used: Sequence[Pipe]) -> list[Any]:
        results = [pipe.recv() for pipe in used]
        for result in results:
            if isinstance(result, Exception):
                raise OutputsDiffer(f"a client failed: {result}") from result
        return results


def _client(pipe: Pipe, customer_ids: list[str]) -> None:
    """A client process: shares come in, times go out, until the pipe is closed."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            _work(pipe, pipe.recv(), customer_ids)


def _work(pipe: Pipe, share: _Share, customer_ids: list[str]) -> None:
    try:
        workers = [_Worker(share, index, customer_ids) for index in range(share.first, share.first + share.threads)]
    except Exception as error:
        pipe.send(error)
        return
    # All at once: a connection that waited for others to be warmed up, one by one, would be closed as idle.
    _in_threads([worker.warm_up for worker in workers])
    failed = _error(workers)
    pipe.send(failed)
    if failed:
        return
    start: float = pipe.recv()
    _in_threads([functools.partial(worker.run, start) for worker in workers])
    pipe.send(_error(workers) or [(worker.times, worker.ended) for worker in workers])


def _in_threads(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _error(workers: Sequence[_Worker]) -> Exception | None:
    return next((worker.error for worker in workers if worker.error), None)


class _Worker:
    """One connection, and what its thread does."""

    def __init__(self, share: _Share, index: int, customer_ids: list[str]) -> None:
        # The same draws for every contestant.
        self._draw = random.Random(f"{share.seed}.{index}")
        self._ids, self._customer_ids = share.ids, self._draw.sample(customer_ids, len(customer_ids))
        self._seconds = share.seconds
        self._ask: Ask = share.target.open()
        self.times, self.ended = array("q"), 0.0
        self.error: Exception | None = None

    def warm_up(self) -> None:
        try:
            for _ in range(WARM_UP_REQUESTS):
                self._ask(self._next())
        except Exception as error:
            self.error = error

    def run(self, start: float) -> None:
        until, now = start + self._seconds, time.perf_counter_ns
        time.sleep(max(0.0, start - time.monotonic()))
        try:
            while time.monotonic() < until:
                wanted = self._next()
                began = now()
                self._ask(wanted)
                self.times.append(now() - began)
        except Exception as error:
            self.error = error
        self.ended = time.monotonic()

    def _next(self) -> list[str]:
        """Neighbours of a shuffled list: each customer is as likely, and none comes twice."""
        first = self._draw.randrange(len(self._customer_ids) - self._ids + 1)
        return self._customer_ids[first : first + self._ids]
