"""uvicorn's HTTP/1.1 with bounds on what a client may send before the application sees a request.

``uvicorn.Config(app, http=BoundedProtocol)``. What it adds to uvicorn's httptools protocol, which holds a head of any size for
any time:

- a head (request line and headers) over MAX_HEAD_BYTES is answered 431, and so is a trailer or a chunk's extension of that size;
- a head that is not complete HEAD_SECONDS after its first byte is answered 408; a connection that sends no head for as long
  before its first request, or sends nothing but line ends or the rest of a body that was answered already, is closed. After an
  answer uvicorn's own keep-alive timeout holds;
- what is not HTTP is answered 400;
- more than MAX_PIPELINED requests waiting behind one that is being answered are answered 400: 256 KiB hold 14,000 of them, which
  become over 10 MB here (measured);
- a request to change the protocol is served as HTTP/1.1, with a body 400: the parser takes such a body for the next request;
- trailers do not get into the headers of the application;
- of more than MAX_CONNECTIONS the one longest idle is closed, which waits for a request or has not begun its first; where none is
  idle, the new one. A connection whose request is being read or answered is left alone. Closing so is a warning in the log, at most
  one in WARNING_SECONDS.

These answers are ``application/problem+json``, come after those to the requests before, and close the connection. A client that
is still sending is read on for a moment, or it would see its connection reset in place of the answer. Who was refused and why
goes to the log at INFO, which is not seen where logging begins at WARNING, as the lookup service sets it: anybody could fill the
log. How long a body may take is for the application to bound.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from serving.problems import MEDIA_TYPE, Problem

# A Google ID token has about 1 KiB, the cookies and traces of a proxy some more. Cloud Run itself lets 64 KiB through.
MAX_HEAD_BYTES = 32 * 1024
# A head comes in one or two packets.
HEAD_SECONDS = 10.0
# No client that pipelines has a hundred requests open.
MAX_PIPELINED = 100
# A process has 1,024 descriptors where nobody says otherwise; the rest is for the store, the log and Google's keys.
MAX_CONNECTIONS = 800
WARNING_SECONDS = 60.0
LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024

# What a header takes beside its name and value: the colon, a space, the line's end.
_BESIDE_HEADER_BYTES = 4
# Of the request line: GET, two spaces, the version, the line's end; and the empty line.
_BESIDE_HEADERS_BYTES = 17


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
      config, server_state, app_state, _loop: what uvicorn gives.
      max_head_bytes, head_seconds, max_connections: the bounds; for others than the module's give uvicorn a ``functools.partial``.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_head_bytes: int = MAX_HEAD_BYTES,
        head_seconds: float = HEAD_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.ws_protocol_class = None  # its heads would pass by these bounds, and nothing here speaks it
        self._max_head_bytes, self._head_seconds = max_head_bytes, head_seconds
        self._max_connections = max_connections
        self._open = _open_ones.setdefault(server_state, _Open())
        self._in_head = False
        # Bytes since the parser last had something whole: what it holds, but for the first packet's part of it.
        self._held_bytes = 0
        # Bytes of the packets the head came in: no more than this is its size.
        self._packets_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._reason: Problem | None = None  # why a callback stopped the parser
        self._refusal: Problem | None = None
        self._dropped_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections and not self._make_room():
            transport.close()
            return
        self._deadline = self.loop.call_later(self._head_seconds, self._too_late)
        self._open.idle[self] = None

    def _make_room(self) -> bool:
        """Whether an idle connection could be closed for this one."""
        oldest = self._open.take_oldest_idle()
        self._open.warn(self._max_connections, oldest is not None, self)
        if oldest is not None:
            oldest.transport.close()
        return oldest is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.idle.pop(self, None)
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._drop(data)
            return
        self._unset_keepalive_if_required()
        size = len(data)
        self._held_bytes += size
        self._packets_bytes = self._packets_bytes + size if self._in_head else size
        if not self._feed(data):
            self._refuse(self._reason or Problem("invalid_request", "This is not HTTP/1.1"))
        elif self._held_bytes > self._max_head_bytes:
            self._refuse(self._too_large())
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self._head_seconds, self._too_late)
        elif self._deadline is not None:
            self._disarm()

    def _feed(self, data: bytes) -> bool:
        """Whether the parser could read it."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if data:
                    continue
            except httptools.HttpParserError:
                return False
            return True

    # What the parser calls

    def on_message_begin(self) -> None:
        self._in_head = True
        self._open.idle.pop(self, None)
        if self._deadline is not None:  # the time runs from the first byte
            self._disarm()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._packets_bytes > self._max_head_bytes < _head_bytes(self.url, self.headers):
            self._stop(self._too_large())
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(
                Problem("invalid_request", f"More than {MAX_PIPELINED} requests wait for the answer to one before them")
            )
        if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
            self._stop(
                Problem("invalid_request", "A request with a body cannot ask for another protocol: leave Upgrade out")
            )
        super().on_headers_complete()
        self._in_head = False
        self._held_bytes = 0
        self.headers = []  # trailers go here, the application has the list before

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.headers and _head_bytes(b"", self.headers) > self._max_head_bytes:
            self._stop(self._too_large())
        self._held_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is None:  # requests wait, or the connection is closing
            return
        if self._refusal is not None:
            self._answer(self._refusal)
        elif self._in_head:  # it has its own time, which may be longer
            self._unset_keepalive_if_required()
        else:
            self._open.idle[self] = None

    # Refusing

    def _stop(self, reason: Problem) -> None:
        self._reason = reason
        raise httptools.HttpParserError

    def _too_large(self) -> Problem:
        return Problem(
            "head_too_large", f"The head of a request, a trailer too, has at most {self._max_head_bytes} bytes"
        )

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # the client may have sent it: requests before it are being answered
            self._deadline = self.loop.call_later(self._head_seconds, self._too_late)
        elif self._in_head:
            self._refuse(
                Problem("too_slow", f"The head of the request was not complete after {self._head_seconds:g} s")
            )
        else:
            self.transport.close()

    def _refuse(self, refusal: Problem) -> None:
        self._refusal = refusal
        self._open.idle.pop(self, None)
        self._disarm()
        client = ":".join(map(str, self.client or ("-",)))
        self.logger.info("%s - refused %d: %s", client, refusal.status, refusal.detail)
        cycle = self.cycle
        if cycle is None:
            self._answer(refusal)
        elif self._in_head or not cycle.more_body:
            if cycle.response_complete:
                self._answer(refusal)
        elif self.pipeline:  # it is the body of the last that waits
            self.pipeline.popleft()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._answer(refusal)

    def _answer(self, refusal: Problem) -> None:
        """Answer and end our side of the connection."""
        self._unset_keepalive_if_required()
        body = refusal.body()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[refusal.status] + lines + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        if self._dropped_bytes > LINGER_BYTES:
            self.transport.close()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@dataclass
class _Open:
    """Of one server's connections those that are idle, the one idle longest first, and what was closed to keep the limit."""

    idle: dict[BoundedProtocol, None] = field(default_factory=dict)
    closed_idle: int = 0
    closed_new: int = 0
    next_warning: float = -math.inf

    def take_oldest_idle(self) -> BoundedProtocol | None:
        while self.idle:
            oldest = next(iter(self.idle))
            del self.idle[oldest]
            if not oldest.transport.is_closing():
                return oldest
        return None

    def warn(self, limit: int, closed_idle: bool, newest: BoundedProtocol) -> None:
        self.closed_idle += closed_idle
        self.closed_new += not closed_idle
        if newest.loop.time() < self.next_warning:
            return
        self.next_warning = newest.loop.time() + WARNING_SECONDS
        newest.logger.warning(
            "More than %d connections: for each new one the one idle longest is closed, where none is idle the new one; "
            "closed since the last such warning: %d idle, %d new",
            limit, self.closed_idle, self.closed_new,
        )  # fmt: skip
        self.closed_idle = self.closed_new = 0


# What uvicorn makes for each server and gives to each of its connections has no place for this.
_open_ones: WeakKeyDictionary[ServerState, _Open] = WeakKeyDictionary()

_BODY_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


def _head_bytes(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """A head of this content as it usually is written: the parser keeps neither the method's length nor spaces around values."""
    size = _BESIDE_HEADERS_BYTES + len(url) + _BESIDE_HEADER_BYTES * len(headers)
    for name, value in headers:
        size += len(name) + len(value)
    return size
