"""A real uvicorn with the bounds, and clients that write raw bytes to its socket."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import http_protocol
from serving.http_protocol import MAX_HEAD_BYTES, MAX_PIPELINED, BoundedProtocol

HEAD_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 2
# For a machine that is busy.
SLACK_SECONDS = 4
ROOT = Path(__file__).parents[2]
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it saw. /early does not read the body, /slow and /slower wait first, /started fails to wait with its head."""
    await asyncio.sleep({"/slow": 0.3, "/slower": HEAD_SECONDS + 0.5}.get(scope["path"], 0))
    start = {"type": "http.response.start", "status": 200}
    if scope["path"] == "/started":
        await send({**start, "headers": [(b"content-length", b"4")]})
    body, more = b"", scope["path"] != "/early"
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = body + event["body"], event["more_body"]
    names = [name.decode("latin-1") for name, _ in scope["headers"]]
    seen = {"path": scope["path"], "names": names, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    content = b"late" if scope["path"] == "/started" else json.dumps(seen).encode()
    if scope["path"] != "/started":
        await send({**start, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


def server(http: Any, loop: Any = "uvloop", keep_alive: int = KEEP_ALIVE_SECONDS) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=http,
            loop=loop,
            lifespan="off",
            log_config=None,
            timeout_keep_alive=keep_alive,
            log_level="info",
        )
    )


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    return listener


@contextlib.contextmanager
def running(http: Any, loop: str, keep_alive: int = KEEP_ALIVE_SECONDS) -> Iterator[int]:
    serving, listener = server(http, loop, keep_alive), listening()
    thread = threading.Thread(target=serving.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    serving.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with running(functools.partial(BoundedProtocol, head_seconds=HEAD_SECONDS), request.param) as port:
        yield port


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing a client sends makes the server log an error, whatever the test is about."""
    caplog.set_level(logging.INFO)
    yield
    assert not [entry for entry in caplog.records if entry.exc_info or entry.levelno >= logging.ERROR]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        return json.loads(self.body)


class Wire:
    """One connection of a client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, *pieces: bytes, pause_seconds: float = 0.0) -> Wire:
        for piece in pieces:
            self._socket.sendall(piece)
            time.sleep(pause_seconds)
        return self

    def answer(self) -> Answer | None:
        """The next answer, None where the server has closed."""
        line = self._file.readline()
        if not line:
            return None
        headers = {}
        while (header := self._file.readline()) != b"\r\n":
            name, _, value = header.decode().partition(": ")
            headers[name] = value.strip()
        return Answer(int(line.split()[1]), headers, self._file.read(int(headers["content-length"])))

    def answers(self) -> list[Answer]:
        """All until the server closes."""
        return list(iter(self.answer, None))  # type: ignore[arg-type]


def post(body: bytes, path: bytes = b"/a", *, chunks: int = 0) -> bytes:
    if not chunks:
        return b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)
    size = max(1, len(body) // chunks)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (path, encoded)


def head(size: int) -> bytes:
    """A GET with a head of so many bytes."""
    start = b"GET /a HTTP/1.1\r\nHost: h\r\nX-Long: "
    return start + b"v" * (size - len(start) - 4) + b"\r\n\r\n"


def assert_refused(answer: Answer | None, status: int, says: str) -> None:
    assert answer is not None
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close" and "date" in answer.headers
    assert answer.seen["status"] == status and says in answer.seen["detail"]


def assert_body(answer: Answer | None, body: bytes) -> None:
    assert answer is not None and answer.status == 200
    assert (answer.seen["bytes"], answer.seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


# What has to work as before


BODY = random.Random(1).randbytes(300_000)
REQUESTS = [GET, post(b"x"), post(BODY[:5000]), post(BODY[:5000], chunks=7), GET, post(b"", chunks=1), post(BODY[:70])]
SENT = [b"", b"x", BODY[:5000], BODY[:5000], b"", b"", BODY[:70]]


def test_one_request_after_another(port: int) -> None:
    with Wire(port) as wire:
        for _ in range(3):
            for request, body in zip(REQUESTS, SENT, strict=True):
                assert_body(wire.send(request).answer(), body)


@pytest.mark.parametrize("seed", range(8))
def test_pipelined_requests_cut_anywhere(port: int, seed: int) -> None:
    chance = random.Random(seed)
    order = [chance.randrange(len(REQUESTS)) for _ in range(40)]
    stream = b"".join(REQUESTS[number] for number in order)
    cuts = sorted({0, len(stream), *(chance.randrange(len(stream)) for _ in range(chance.choice([0, 5, 60])))})
    with Wire(port) as wire:
        wire.send(*(stream[begin:end] for begin, end in itertools.pairwise(cuts)))
        for number in order:
            assert_body(wire.answer(), SENT[number])


def test_a_head_split_at_every_byte(port: int) -> None:
    request = post(b"body", chunks=2)
    with Wire(port) as wire:
        for at in range(1, len(request)):
            assert_body(wire.send(request[:at], request[at:]).answer(), b"body")
        assert_body(wire.send(*(request[at : at + 1] for at in range(len(request)))).answer(), b"body")


@pytest.mark.parametrize("chunks", [0, 1, 100, 20_000])
def test_a_body_far_larger_than_a_head(port: int, chunks: int) -> None:
    with Wire(port) as wire:
        assert_body(wire.send(post(BODY, chunks=chunks) + head(MAX_HEAD_BYTES)).answer(), BODY)
        assert_body(wire.answer(), b"")
        assert_body(wire.send(post(BODY, chunks=chunks), GET).answer(), BODY)


def test_a_slow_body_is_not_a_slow_head(port: int) -> None:
    request = post(b"0123456789")
    with Wire(port) as wire:
        wire.send(
            request[:-10], *(request[at : at + 1] for at in range(len(request) - 10, len(request))), pause_seconds=0.1
        )
        assert_body(wire.answer(), b"0123456789")


def test_expect_continue(port: int) -> None:
    with Wire(port) as wire:
        wire.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert wire._file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert wire._file.readline() == b"\r\n"
        assert_body(wire.send(b"ok").answer(), b"ok")


@pytest.mark.parametrize("ask", [b"h2c", b"websocket"])
def test_another_protocol_is_not_spoken(port: int, ask: bytes) -> None:
    upgrade = b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: %b\r\n" % ask
    upgrade += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with Wire(port) as wire:
        wire.send(upgrade + GET + upgrade, GET)
        assert [wire.answer().seen["path"] for _ in range(4)] == ["/b", "/a", "/b", "/a"]  # type: ignore[union-attr]


def test_no_request_is_smuggled_in_a_body_behind_an_upgrade(port: int) -> None:
    request = post(GET).replace(b"Host: h\r\n", b"Host: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")
    with Wire(port) as wire:
        (answer,) = wire.send(request).answers()
    assert_refused(answer, 400, "leave Upgrade out")


def test_trailers_are_no_headers(port: int) -> None:
    request = post(b"body", chunks=1)[:-2] + b"Authorization: Bearer x\r\n\r\n"
    with Wire(port) as wire:
        for _ in range(2):
            answer = wire.send(request).answer()
            assert_body(answer, b"body")
            assert answer is not None and answer.seen["names"] == ["host", "transfer-encoding"]


# The size of a head


def test_the_largest_head(port: int) -> None:
    with Wire(port) as wire:
        assert_body(wire.send(head(MAX_HEAD_BYTES)).answer(), b"")
        assert_body(wire.send(head(MAX_HEAD_BYTES) * 3).answer(), b"")
        assert [wire.answer().status for _ in range(2)] == [200, 200]  # type: ignore[union-attr]
        (answer,) = wire.send(head(MAX_HEAD_BYTES + 1)).answers()
        assert_refused(answer, 431, "at most 32768 bytes")


@pytest.mark.parametrize(
    "content",
    [
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b" " * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\n" + b"n" * MAX_HEAD_BYTES,
        b"\r\n" * MAX_HEAD_BYTES,
    ],
    ids=["target", "open target", "many headers", "spaces", "name", "line ends"],
)
@pytest.mark.parametrize("pieces", [1, 9])
def test_a_head_over_the_bound(port: int, content: bytes, pieces: int) -> None:
    size = len(content) // pieces + 1
    with Wire(port) as wire, contextlib.suppress(ConnectionError):
        wire.send(*(content[at : at + size] for at in range(0, len(content), size)), pause_seconds=0.005)
        *_, answer = wire.answers()
        assert_refused(answer, 431, "at most 32768 bytes")


def spoil_body(port: int, path: bytes, cut: int, rest: bytes) -> list[Answer] | bytes:
    """What comes after a spoilt end of a body: for /a all answers, for the others the bytes behind what was sent before."""
    with Wire(port) as wire:
        wire.send(post(b"x" * 10, path, chunks=1)[:-cut])
        if path == b"/early":
            assert wire.answer().status == 200  # type: ignore[union-attr]
        elif path == b"/started":
            while wire._file.readline() != b"\r\n":
                pass
        with contextlib.suppress(ConnectionError):
            wire.send(rest)
        if path == b"/a":
            return wire.answers()
        with contextlib.suppress(ConnectionError):
            return wire._file.read()
        return b""


@pytest.mark.parametrize("rest", [b"t: " + b"v" * 400_000, b"t: v\r\n" * 70_000, b"t: v\r\n" * 10_000 + b"\r\n"])
@pytest.mark.parametrize("path", [b"/a", b"/early", b"/started"])
def test_endless_trailers(port: int, rest: bytes, path: bytes) -> None:
    seen = spoil_body(port, path, 2, rest)
    if path == b"/a":
        assert_refused(seen[0], 431, "a trailer too")  # type: ignore[arg-type]
    assert len(seen) == (path == b"/a")


def test_the_answer_arrives_though_the_client_still_sends(port: int) -> None:
    for _ in range(20):
        with Wire(port) as wire:
            wire.send(b"GET / HTTP/1.1\r\nx: " + b"v" * 900_000)
            assert_refused(wire.answer(), 431, "at most")


# The time of a head


def closed_after(wire: Wire) -> tuple[list[Answer], float]:
    begun = time.monotonic()
    return wire.answers(), time.monotonic() - begun


@pytest.mark.parametrize("begun", [b"G", b"GET /a HTTP/1.1\r\n", GET[:-1]])
def test_a_head_that_does_not_end(port: int, begun: bytes) -> None:
    with Wire(port) as wire:
        (answer,), seconds = closed_after(wire.send(begun))
        assert_refused(answer, 408, "not complete after 1 s")
        assert HEAD_SECONDS - 0.1 < seconds < HEAD_SECONDS + SLACK_SECONDS


def test_dripping_does_not_prolong(port: int) -> None:
    with Wire(port) as wire:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for at in range(200):
                wire.send(b"GET /a HTTP/1.1\r\n"[at : at + 1] or b"a: b\r\n")
                time.sleep(0.02)
                wire._socket.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    if wire._socket.recv(1, socket.MSG_PEEK):
                        break
        assert HEAD_SECONDS - 0.1 < time.monotonic() - begun < HEAD_SECONDS + SLACK_SECONDS
        assert b" 408 " in wire._socket.recv(1000)


def test_the_time_of_a_head_begins_with_its_first_byte(port: int) -> None:
    with Wire(port) as wire:
        time.sleep(HEAD_SECONDS * 0.7)
        wire.send(GET[:5])
        time.sleep(HEAD_SECONDS * 0.7)
        assert_body(wire.send(GET[5:]).answer(), b"")
        wire.send(GET[:5])
        time.sleep(HEAD_SECONDS * 0.7)
        assert_body(wire.send(GET[5:]).answer(), b"")


@pytest.mark.parametrize("begun", [b"", b"\r\n"])
def test_a_connection_that_says_nothing_is_closed(port: int, begun: bytes) -> None:
    with Wire(port) as wire:
        answers, seconds = closed_after(wire.send(begun) if begun else wire)
        assert not answers and HEAD_SECONDS - 0.1 < seconds < HEAD_SECONDS + SLACK_SECONDS


def test_after_an_answer_uvicorns_keep_alive_holds(port: int) -> None:
    with Wire(port) as wire:
        wire.send(GET).answer()
        time.sleep(HEAD_SECONDS + 0.2)
        assert_body(wire.send(GET).answer(), b"")
        answers, seconds = closed_after(wire)
        assert not answers and KEEP_ALIVE_SECONDS - 0.3 < seconds < KEEP_ALIVE_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("first", [GET, post(b"x" * 1000, b"/early")[:-900]], ids=["line ends", "rest of a body"])
def test_what_is_no_request_does_not_keep_a_connection(port: int, first: bytes) -> None:
    """Each byte would put off the keep-alive timeout."""
    filler = b"\r\n" if first == GET else b"x"
    with Wire(port) as wire:
        wire.send(first).answer()
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 9:
                wire.send(filler, pause_seconds=0.05)
        assert time.monotonic() - begun < HEAD_SECONDS + SLACK_SECONDS


def test_a_head_begun_behind_a_slow_answer(port: int) -> None:
    slow = GET.replace(b"/a", b"/slow")
    with Wire(port) as wire:
        answers, seconds = closed_after(wire.send(slow + GET[:9]))
        assert [answer.status for answer in answers] == [200, 408]
        assert seconds < HEAD_SECONDS + SLACK_SECONDS


def test_a_head_the_server_does_not_read_is_not_slow(port: int) -> None:
    """It reads no further while requests wait, which is no fault of the client."""
    with Wire(port) as wire:
        wire.send(GET.replace(b"/a", b"/slower") + GET + GET[:9])
        time.sleep(0.2)
        wire.send(GET[9:])
        assert [wire.answer().status for _ in range(3)] == [200] * 3  # type: ignore[union-attr]


def test_a_head_has_its_own_time_behind_an_answer() -> None:
    """Not that of uvicorn's keep-alive, which is for a connection that says nothing."""
    bounded = functools.partial(BoundedProtocol, head_seconds=KEEP_ALIVE_SECONDS + SLACK_SECONDS)
    with running(bounded, "uvloop") as port, Wire(port) as wire:
        assert_body(wire.send(GET.replace(b"/a", b"/slow") + GET[:9]).answer(), b"")
        time.sleep(KEEP_ALIVE_SECONDS + 0.5)
        assert_body(wire.send(GET[9:]).answer(), b"")


# The number of connections

LIMIT = 10
SLOWER = GET.replace(b"/a", b"/slower")


@pytest.fixture(params=["uvloop", "asyncio"])
def crowded(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that takes LIMIT connections."""
    with running(functools.partial(BoundedProtocol, max_connections=LIMIT), request.param, keep_alive=60) as port:
        yield port


@pytest.fixture
def open_wires() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def answered(wire: Wire) -> Wire:
    assert_body(wire.send(GET).answer(), b"")
    return wire


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


def test_the_connections_idle_longest_make_room(
    crowded: int, open_wires: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    wires = [answered(open_wires.enter_context(Wire(crowded))) for _ in range(LIMIT)]
    assert not warnings(caplog)
    answered(wires[0])  # now it is the one used last
    wires += [answered(open_wires.enter_context(Wire(crowded))) for _ in range(20)]
    expected_open = wires[-LIMIT:]
    for wire in wires:
        if wire not in expected_open:
            assert wire.answer() is None
    for wire in expected_open:
        answered(wire)
    (warning,) = warnings(caplog)
    assert "More than 10 connections" in warning and warning.endswith("1 idle, 0 new")


def test_the_order_is_that_of_the_last_answer(crowded: int, open_wires: contextlib.ExitStack) -> None:
    wires = [answered(open_wires.enter_context(Wire(crowded))) for _ in range(LIMIT)]
    answered(wires[0])
    answered(open_wires.enter_context(Wire(crowded)))
    assert wires[1].answer() is None
    for wire in (wires[0], *wires[2:]):
        answered(wire)


def test_connections_that_never_said_anything_make_room(crowded: int, open_wires: contextlib.ExitStack) -> None:
    silent = [open_wires.enter_context(Wire(crowded)) for _ in range(3 * LIMIT)]
    answered(open_wires.enter_context(Wire(crowded)))
    for wire in silent[: 2 * LIMIT + 1]:
        assert wire.answer() is None


BUSY = {
    "answered": (SLOWER, b""),
    "its head is read": (GET[:9], GET[9:]),
    "its body is read": (post(b"0123456789")[:-5], b"56789"),
}


@pytest.mark.parametrize("kind", BUSY)
def test_a_busy_connection_is_never_closed_for_a_new_one(
    crowded: int, open_wires: contextlib.ExitStack, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, rest = BUSY[kind]
    busy = [answered(open_wires.enter_context(Wire(crowded))).send(first) for _ in range(LIMIT)]
    time.sleep(0.2)  # until all of them are read
    for _ in range(5):
        assert open_wires.enter_context(Wire(crowded)).answer() is None
    for wire in busy:
        answer = (wire.send(rest) if rest else wire).answer()
        assert answer is not None and answer.status == 200
    (warning,) = warnings(caplog)
    assert warning.endswith("0 idle, 1 new")
    answered(open_wires.enter_context(Wire(crowded)))  # they are idle again
    assert busy[0].answer() is None


def test_one_idle_among_busy_ones(crowded: int, open_wires: contextlib.ExitStack) -> None:
    idle = answered(open_wires.enter_context(Wire(crowded)))
    busy = [open_wires.enter_context(Wire(crowded)).send(SLOWER) for _ in range(LIMIT - 1)]
    time.sleep(0.2)
    newer = answered(open_wires.enter_context(Wire(crowded)))
    assert idle.answer() is None
    answered(open_wires.enter_context(Wire(crowded)))
    assert newer.answer() is None
    for wire in busy:
        assert_body(wire.answer(), b"")


def test_connections_that_ended_do_not_count(crowded: int, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3 * LIMIT):
        with Wire(crowded) as wire:
            wire.send(GET if number % 2 else SLOWER[:9])
            if number % 2:
                wire.answer()
        time.sleep(0.01)
    assert not warnings(caplog)


def test_the_warning_comes_again_and_counts(
    crowded: int,
    open_wires: contextlib.ExitStack,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "WARNING_SECONDS", 1.0)
    for _ in range(LIMIT + 7):
        answered(open_wires.enter_context(Wire(crowded)))
    assert [warning[-13:] for warning in warnings(caplog)] == ["1 idle, 0 new"]
    time.sleep(1.1)
    answered(open_wires.enter_context(Wire(crowded)))
    assert [warning[-13:] for warning in warnings(caplog)] == ["1 idle, 0 new", "7 idle, 0 new"]


# What is not HTTP

BAD = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "control character": b"GET / HTTP/1.1\r\nx: \x00\r\n\r\n",
    "header without a colon": b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\n\r\n",
    "tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "host only": b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_http(port: int, name: str) -> None:
    for before in (b"", GET, GET.replace(b"/a", b"/slow")):
        with Wire(port) as wire:
            *good, bad = wire.send(before + BAD[name] + GET).answers()
            assert [answer.status for answer in good] == [200] * bool(before)
            assert_refused(bad, 400, "")
            assert bad.seen["code"] == "invalid_request"


@pytest.mark.parametrize("path", [b"/a", b"/early", b"/started"])
def test_a_broken_body(port: int, path: bytes) -> None:
    """Of an answer that has begun the rest never comes; after a whole one nothing does."""
    seen = spoil_body(port, path, 5, b"no size\r\n")
    if path == b"/a":
        assert_refused(seen[0], 400, "not HTTP")  # type: ignore[arg-type]
    assert len(seen) == (path == b"/a")


def test_the_broken_body_of_a_request_that_waits(port: int) -> None:
    slow = GET.replace(b"/a", b"/slow")
    with Wire(port) as wire:
        answers = wire.send(slow + slow + post(b"x", chunks=1)[:-5] + b"no size\r\n").answers()
        assert [answer.status for answer in answers] == [200, 200, 400]


def test_more_requests_at_once_than_anybody_needs(port: int) -> None:
    with Wire(port) as wire:
        answers = wire.send(GET * 10_000).answers()
    assert [answer.status for answer in answers[:-1]] == [200] * (MAX_PIPELINED + 1)
    assert_refused(answers[-1], 400, "requests wait")


def test_a_refusal_is_one_line_of_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with Wire(port) as wire:
        wire.send(b"\x00").answers()
    (entry,) = [entry for entry in caplog.records if "refused" in entry.getMessage()]
    assert re.fullmatch(r"127\.0\.0\.1:\d+ - refused 400: This is not HTTP/1\.1", entry.getMessage())


# A process of its own, for what its log and its memory say


def serve(kind: str) -> None:
    """The server of `process`: says its port, and serves until it is ended."""
    logging.basicConfig(level=logging.INFO)
    listener = listening()
    print(listener.getsockname()[1], flush=True)
    bounded = functools.partial(BoundedProtocol, head_seconds=5.0)
    server({"bounded": bounded, "uvicorn": HttpToolsProtocol}[kind], keep_alive=5).run([listener])


@contextlib.contextmanager
def process(kind: str, log: Path) -> Iterator[tuple[int, int]]:
    """The port and the process id."""
    code = f"from tests.serving.test_http_protocol import serve; serve({kind!r})"
    with log.open("wb") as stream:
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=stream)
        try:
            assert child.stdout is not None
            yield int(child.stdout.readline()), child.pid
            assert child.poll() is None, "the server has ended"
        finally:
            child.terminate()
            child.communicate(timeout=20)


def test_2000_random_byte_strings(tmp_path: Path) -> None:
    chance = random.Random(7)
    parts = [*REQUESTS, *BAD.values(), b"\r\n", b"HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"GET / ", b"x: y\r\n"]
    with process("bounded", tmp_path / "log") as (port, _):
        for number in range(2000):
            content = chance.randbytes(chance.randrange(200))
            if number % 2:
                content = b"".join(chance.choice([*parts, content[:3]]) for _ in range(chance.randrange(1, 6)))
                at = chance.randrange(len(content) + 1)
                content = content[:at] + content[at + chance.randrange(3) :]
            with Wire(port) as wire, contextlib.suppress(ConnectionError):
                wire.send(content[:90], content[90:])
                if number % 50 == 0:
                    wire._socket.shutdown(socket.SHUT_WR)
                    wire._file.read()
        with Wire(port) as wire:
            assert_body(wire.send(GET).answer(), b"")
    log = (tmp_path / "log").read_text()
    assert log.count("refused 400") > 500
    assert "Traceback" not in log and "ERROR" not in log


def peak_megabytes(pid: int) -> float:
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def grown_megabytes(kind: str, log: Path) -> float:
    """By how much 16 clients with a header of 8 MB each make the server grow."""
    with process(kind, log) as (port, pid), contextlib.ExitStack() as stack:
        with Wire(port) as wire:
            wire.send(GET).answer()
        before = peak_megabytes(pid)
        wires = [stack.enter_context(Wire(port)).send(b"GET / HTTP/1.1\r\nx: ") for _ in range(16)]
        for _ in range(32):
            for wire in wires:
                with contextlib.suppress(ConnectionError):
                    wire.send(b"v" * 256_000)
        time.sleep(0.3)
        return peak_megabytes(pid) - before


def test_memory_does_not_grow_with_an_endless_header(tmp_path: Path) -> None:
    assert grown_megabytes("uvicorn", tmp_path / "log") > 100  # else this protocol is not needed any more
    assert grown_megabytes("bounded", tmp_path / "log") < 16
