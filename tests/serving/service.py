"""The lookup service for tests: the real application on the real server, in a thread, and a small HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import uvicorn

from serving.app import server
from serving.app_options import AppOptions
from serving.store import open_store
from tests.serving.store_contract import fill

LOCAL = "127.0.0.1"
GIVE_UP_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a problem, after a look at whether it is one as documented."""
        problem = self.json()
        assert self.headers["content-type"] == "application/problem+json"
        assert set(problem) == {"type", "title", "status", "detail", "code"}
        assert (problem["status"], problem["type"]) == (self.status, "about:blank")
        assert problem["title"] and problem["detail"] and len(problem["detail"]) < 500
        assert "\n" not in problem["detail"], "one line"
        return str(problem["code"])


class Client:
    """Sends one request a connection, exactly as told."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        host: str | None = "",
        seconds: float = GIVE_UP_SECONDS,
    ) -> Answer:
        """Args: host: the Host header, None for none, "" for the usual one."""
        connection = http.client.HTTPConnection(LOCAL, self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if host is not None:
                connection.putheader("Host", host or f"{LOCAL}:{self.port}")
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None and "transfer-encoding" not in {name.lower() for name, _ in headers}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            if body:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                    connection.send(body)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, [(name.replace("_", "-"), value) for name, value in headers.items()])

    def value(self, customer_id: str, **headers: str) -> Answer:
        return self.get(value_path(customer_id), **headers)

    def post(self, path: str, content: Any, content_type: str | None = "application/json", **how: Any) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.call("POST", path, [("Content-Type", content_type)] if content_type else [], body, **how)

    def look_up(self, ids: list[str]) -> Answer:
        return self.post("/v1/customers:lookup", {"customer_ids": ids})

    def connect(self) -> socket.socket:
        return socket.create_connection((LOCAL, self.port), timeout=GIVE_UP_SECONDS)


def value_path(customer_id: str) -> str:
    return f"/v1/customers/{quote(customer_id, safe='')}/value"


def options(uri: str, **changes: Any) -> AppOptions:
    """As ``--no_auth`` on any free port would have them."""
    usual: dict[str, Any] = {
        "host": LOCAL, "port": 0, "audience": None, "callers": None, "pointer_seconds": 5.0, "store_seconds": 2.0,
        "rows_kept": 50_000, "threads": 4, "most_requests": 512,
    }  # fmt: skip
    return AppOptions(serving=uri, **usual | changes)


@contextlib.contextmanager
def running(uri: str, **changes: Any) -> Iterator[Client]:
    """The service in a thread of this process, where faults can be put in; ends its threads."""
    served = server(options(uri, **changes))
    thread = threading.Thread(target=served.run, name="service", daemon=True)
    thread.start()
    try:
        yield Client(_port_of(served, thread))
    finally:
        served.should_exit = True
        thread.join(GIVE_UP_SECONDS)
        assert not thread.is_alive(), "the service does not end"


def _port_of(served: uvicorn.Server, thread: threading.Thread) -> int:
    until(lambda: served.started or not thread.is_alive(), "the service to listen")
    return int(served.servers[0].sockets[0].getsockname()[1])


def until(true: Any, what: str, seconds: float = GIVE_UP_SECONDS) -> None:
    """Waits for what another thread or process does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)


def publish(uri: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Makes a generation of these rows the current one."""
    with open_store(uri, create=True) as store:
        before = store.current()
        fill(store, name, rows)
        store.switch(name, before.name if before else None)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what would go on forever, even where the event loop itself does."""

    def over(number: int, frame: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


async def turns(count: int = 20) -> None:
    """Lets everything that is ready in the event loop happen."""
    for _ in range(count):
        await asyncio.sleep(0)
