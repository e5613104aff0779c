"""DynamoDB on this machine, twice: moto in this process, and dynalite, whose conditional writes are atomic.

    with moto() as url, Proxy(url) as proxy: ...         a proxy loses, delays and refuses what it is told to
    with Dynalite() as dynalite: ... dynalite.url ...    needs Node and `make dynalite`

``point_at`` has boto3 find one of them, and no credentials or settings of the person who runs the tests.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.emulators.services import HOST, Emulator, _free_ports

TABLE = "refresh_ledger"
REGION = "eu-central-1"
_DYNALITE = Path(__file__).resolve().parents[2] / "dynalite" / "node_modules" / "dynalite" / "cli.js"


def point_at(patch: pytest.MonkeyPatch, url: str, service: str = "DYNAMODB") -> None:
    """boto3 finds the service there, by environment variables as a person would set them."""
    patch.setenv(f"AWS_ENDPOINT_URL_{service}", url)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", REGION)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
        patch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, "/dev/null")
    for name in ("NO_PROXY", "no_proxy"):
        patch.setenv(name, f"{HOST},localhost")


@contextmanager
def moto() -> Iterator[str]:
    """A DynamoDB at this URL. Its tables are the process's: they outlive the block."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(HOST, 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    try:
        yield url
    finally:
        server.stop()


class Dynalite(Emulator):
    """DynamoDB's API on ``url``; everything in memory, tables ready at once."""

    name = "dynalite"
    ready_path = "/"  # DynamoDB's own health check

    def problem(self) -> str | None:
        if shutil.which("node") is None:
            return "dynalite needs Node: install it with npm, then run `make dynalite`"
        return None if _DYNALITE.is_file() else "dynalite is not installed: run `make dynalite`"

    def python(self) -> str:
        return sys.executable

    def command(self) -> list[str]:
        node = shutil.which("node")
        assert node is not None
        (self.port,) = _free_ports(1)
        return [node, str(_DYNALITE), "--host", HOST, "--port", str(self.port), "--createTableMs", "0"]


@dataclass
class Fault:
    """What happens to the next ``times`` requests of an operation, such as PutItem, after the first ``after``.

    ``lost_reply``: it is done, and the connection is cut. ``lost_request``: the connection is cut. Otherwise the answer
    is the error ``kind`` with the ``status`` and the ``message``.
    """

    operation: str
    kind: str
    times: int = 1
    after: int = 0
    status: int = 400
    message: str = "so it was asked for"


class Proxy:
    """Passes requests on to a DynamoDB, but for the ``faults``; ``requests`` are the operations that were asked for."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.faults, self.requests = upstream, list[Fault](), list[str]()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((HOST, 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, operation: str) -> Fault | None:
        with self._lock:
            self.requests.append(operation)
            for each in self.faults:
                if each.operation == operation and each.times:
                    if each.after:
                        each.after -= 1
                    else:
                        each.times -= 1
                        return each
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.proxy.fault(self.headers["X-Amz-Target"].split(".")[-1])
        if fault is None or fault.kind == "lost_reply":
            status, answer, headers = _post(self.proxy.upstream, self.path, body, dict(self.headers))
        elif fault.kind != "lost_request":
            status, headers = fault.status, {"Content-Type": "application/x-amz-json-1.0"}
            kind = f"com.amazonaws.dynamodb.v20120810#{fault.kind}"
            answer = json.dumps({"__type": kind, "message": fault.message}).encode()
        if fault is not None and fault.kind.startswith("lost"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name in ("Content-Type", "x-amz-crc32", "x-amzn-RequestId"):
            if value := headers.get(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def _post(url: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()
