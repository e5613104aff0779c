"""Thousands of requests that are none, sent to the lookup service, which has to stay what it is.

    python -m benchmarks.lookup_malformed --requests 10000
    python -m benchmarks.lookup_malformed --requests 1000 --seed 7

Starts the service on a small SQLite store and sends what a seed draws: noise, good requests with bytes changed, broken
HTTP, JSON, UTF-8 and percent-encodings, ids and heads that are too long, wrong methods and types, lengths that lie,
chunks that are none. Checked: every answer is HTTP with a status that blames the caller (or 200, where the request was
good after all), refusals are problems that a program can read; good requests in between are answered as ever; there is
no traceback in the log; memory stays within {memory} MiB; connections are given back. Requests that are incomplete get no
answer until the service's own time limits; they are left after {patience:g} s. Exit code 1 when a check fails; the last
line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.lookup_malformed_requests import malformed
from benchmarks.lookup_service import HOST, Connection, Service, get
from benchmarks.lookup_soak_checks import AS_OF, MODEL_VERSION, PROBLEM, Shop, name_of
from transforms.cli import ArgumentParser, whole_number
from transforms.errors import JobFailed

NAME = "lookup_malformed"
PACKAGES = ("fastapi", "httptools", "pydantic", "uvicorn", "uvloop")
STATUSES = frozenset({100, 200, 304, 400, 404, 405, 408, 413, 415, 431})
# Bodies of two megabytes on six connections at once, and what the allocator keeps of them. A leak of 3 KB a request is more.
MOST_GROWTH_MIB = 24.0
# An answer takes a millisecond; what has none by then is waiting for the rest of the request.
PATIENCE_SECONDS = 0.1
_MORE_SECONDS = 0.02  # between two packets of answers
_SENDERS = 6
_GOOD_EVERY = 50
_WARM_REQUESTS = 300
_GOOD = "1"
_CLOSING_SECONDS = 20.0
_SHOWN = 10
_HEAD_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Figures:
    """What came of the requests; ``unanswered`` were left or closed without a word, as they were not complete."""

    requests: int
    answers: int
    unanswered: int
    warm_rss_mib: float
    end_rss_mib: float
    peak_rss_mib: float
    seconds: float


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the statuses, the table and the JSON line, and returns what the line says.

    Raises:
      JobFailed: a check failed.
      UsageError: an unusable argument.
    """
    description = (__doc__ or "").format(memory=f"{MOST_GROWTH_MIB:g}", patience=PATIENCE_SECONDS)
    parser = ArgumentParser("python -m benchmarks.lookup_malformed", description=description)
    parser.add_argument("--requests", type=whole_number(1), default=10_000, help="to be sent")
    parser.add_argument("--seed", type=whole_number(0), default=1, help="same seed, same requests")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="clv-malformed-") as directory:
        uri = f"sqlite://{os.path.join(directory, 'serving.db')}"
        row = _publish(uri)
        with Service("serving.app", "--serving", uri, "--no_auth", "--port", "0") as service:
            siege = Siege(service, row, options.requests, options.seed)
            result = siege.run()
    print(f"answers by status: {dict(sorted(siege.statuses.items()))}")
    for name, value in {**result["figures"]["service"], **result["ratios"]}.items():
        print(f"{name:16}  {value:>12,}")
    print(json.dumps(result))
    if not result["aim_met"]:
        for wrong in siege.wrong[:_SHOWN]:
            print(f"wrong: {wrong}", file=sys.stderr)
        raise JobFailed("; ".join(f"{name} is {result['ratios'][name]:g}" for name in _above(result)))
    return result


def _above(result: dict[str, Any]) -> list[str]:
    return [name for name, value in result["ratios"].items() if value > result["aim"][name]]


def _publish(uri: str) -> dict[str, Any]:
    """A small generation; returns the row of the customer who is asked for in between."""
    from serving.store import Content, Generation, open_store

    shop, name = Shop(1_500), name_of(2)
    table = shop.table(2)
    with open_store(uri, create=True) as store:
        attempt = store.begin(Generation(name, AS_OF, 90, MODEL_VERSION))
        assert attempt is not None, "the store is new"
        for batch in table.to_batches():
            store.write(name, attempt, batch)
        store.seal(name, attempt, Content(table.num_rows), {})
        store.switch(name, None)
    return shop.row(2, _GOOD)


class Siege:
    """Sends the requests on a few threads and looks at what comes back."""

    def __init__(self, service: Service, row: dict[str, Any], requests: int, seed: int) -> None:
        self._service, self._row, self._requests, self._seed = service, row, requests, seed
        self._lock = threading.Lock()
        self._sent = 0
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0
        self.wrong: list[str] = []
        self._rss: list[float] = []
        self._warm_rss = 0.0

    def run(self) -> dict[str, Any]:
        """The result, in the benchmarks' form."""
        sockets, began = self._service.sockets(), time.monotonic()
        senders = [threading.Thread(target=self._send_all, args=(number,)) for number in range(_SENDERS)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        seconds = time.monotonic() - began
        self._hold_service(sockets)
        warm, end = self._warm_rss or self._rss[0], self._rss[-1]
        figures = Figures(
            self._sent, sum(self.statuses.values()), self.unanswered, round(warm, 1), round(end, 1),
            round(max(self._rss), 1), round(seconds, 1),
        )  # fmt: skip
        measured = {"wrong": float(len(self.wrong)), "rss_growth_mib": max(self._rss) - warm}
        aim = {"wrong": 0, "rss_growth_mib": MOST_GROWTH_MIB}
        return harness.verdict(NAME, PACKAGES, {"service": figures}, measured, aim)

    def _send_all(self, number: int) -> None:
        draw = random.Random(f"{self._seed}.{number}")
        while (count := self._next()) is not None:
            sent = malformed(draw)
            try:
                self._hold(sent, _exchange(self._service.port, sent))
                if count % _GOOD_EVERY == 0:
                    self._hold_good(count)
            except Exception as error:  # whatever it is, it is not what the service should do
                self._note(f"{error!r} for {_short(sent)}")
                if not self._service.runs():
                    return

    def _next(self) -> int | None:
        with self._lock:
            if self._sent >= self._requests:
                return None
            self._sent += 1
            return self._sent

    def _note(self, wrong: str) -> None:
        with self._lock:
            self.wrong.append(wrong)

    def _hold(self, sent: bytes, received: bytes) -> None:
        """Looks at every answer in what was received; the last may be cut off where we no longer waited."""
        if not received:
            with self._lock:
                self.unanswered += 1
            return
        while received:
            status, body, rest = _split(received, without_body=sent.startswith(b"HEAD "))
            with self._lock:
                self.statuses[status] += 1
            if status not in STATUSES:
                raise AssertionError(f"status {status}")
            if status >= 400 and body is not None:
                json.loads(body)["code"]
                if PROBLEM.encode() not in received[: received.find(_HEAD_END)]:
                    raise AssertionError(f"no problem: {received[:300]!r}")
            received = rest if _HEAD_END in rest else b""

    def _hold_good(self, count: int) -> None:
        with contextlib.closing(Connection(self._service.port)) as connection:
            answer = connection.ask(get(_GOOD))
        if answer.status != 200 or answer.json() != self._row:
            self._note(f"a good request was answered {answer.status}: {answer.body[:200]!r}")
        rss = self._service.rss_bytes() / 2**20
        with self._lock:
            self._rss.append(rss)
            if count >= _WARM_REQUESTS and not self._warm_rss:
                self._warm_rss = rss

    def _hold_service(self, sockets_before: int) -> None:
        service = self._service
        if not service.runs():
            self.wrong.insert(0, f"the service has ended: {service.log()[-2000:]}")
            return
        self._hold_good(self._sent)
        until = time.monotonic() + _CLOSING_SECONDS
        while service.sockets() > sockets_before and time.monotonic() < until:
            time.sleep(0.1)
        if service.sockets() > sockets_before:
            self.wrong.append(f"{service.sockets()} sockets are open, {sockets_before} were before")
        log = service.log()
        for bad in ("Traceback", "ERROR", "CRITICAL"):
            if bad in log:
                self.wrong.append(f"the log has {bad}: {log[max(0, log.find(bad) - 200) : log.find(bad) + 1500]}")


def _exchange(port: int, sent: bytes) -> bytes:
    """What comes back until the service closes or says nothing for a while."""
    received = []
    with socket.create_connection((HOST, port), 10.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError, TimeoutError):  # it need not take all that it refuses
            connection.sendall(sent)
        connection.settimeout(PATIENCE_SECONDS)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while more := connection.recv(1 << 18):
                received.append(more)
                connection.settimeout(_MORE_SECONDS)
    return b"".join(received)


def _split(received: bytes, without_body: bool) -> tuple[int, bytes | None, bytes]:
    """Status and body of the first answer, and what comes after; the body is None where not all of it came."""
    line = _STATUS_LINE.match(received)
    if line is None:
        raise AssertionError(f"not HTTP: {received[:200]!r}")
    status, end = int(line[1]), received.find(_HEAD_END)
    if end < 0 or without_body:
        return status, None, b""
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", received[: end + 2].lower())
    size = int(length[1]) if length else 0
    body, rest = received[end + 4 : end + 4 + size], received[end + 4 + size :]
    return status, body if len(body) == size else None, rest


def _short(sent: bytes) -> str:
    return repr(sent if len(sent) <= 200 else sent[:150] + b"..." + sent[-30:])


if __name__ == "__main__":
    sys.exit(main())
