"""Server processes for the benchmarks of the lookup service, and a client that costs them little.

with Service("serving.app", "--serving", uri, "--no_auth", "--port", "0") as service:
    answer = Connection(service.port).ask(get("12347"))
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import ONE_THREAD, ROOT
from transforms.errors import JobFailed

HOST = "127.0.0.1"
# Without tokens the service answers nobody who calls it by another name.
HOST_NAME = "localhost"
READY_SECONDS = 120.0
STOP_SECONDS = 20.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MOST_BYTES = 1 << 18


class Service:
    """``python -m MODULE ARGUMENTS``, which names its port on stderr: answering on entering, gone on leaving."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, **ONE_THREAD, "NO_GCE_CHECK": "true", **(environment or {})}
        self.port = 0

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=ROOT, env=self._environment
        )
        try:
            self.port = self._port()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def runs(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()  # the program's name before it may hold spaces
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self) -> int:
        """Those of its open files that are connections, or wait for some."""
        count = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed since
                count += os.readlink(f"/proc/{self.pid}/fd/{name}").startswith("socket:")
        return count

    def metric(self, name: str, **labels: str) -> float:
        """One figure of /metrics; 0 where it is not there yet."""
        named = ",".join(f'{key}="{value}"' for key, value in labels.items())
        sample = f"{name}{{{named}}} " if named else f"{name} "
        with contextlib.closing(Connection(self.port)) as connection:
            page = connection.ask(request("GET", "/metrics")).body.decode()
        return next((float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(sample)), 0.0)

    def _port(self) -> int:
        deadline = time.monotonic() + READY_SECONDS
        while not (found := _ADDRESS.search(self.log())):
            if not self.runs() or time.monotonic() > deadline:
                raise JobFailed(f"{' '.join(self._command[1:])} did not start: {self.log()}")
            time.sleep(0.02)
        return int(found[1])

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@dataclass(frozen=True)
class Answer:
    """An HTTP response; ``head`` is its status line and headers as they came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode("latin-1")
        return None

    def json(self) -> Any:
        return json.loads(self.body)


class ConnectionLost(Exception):
    """The service closed the connection before its answer was complete."""


class Connection:
    """One connection that is kept; it blocks, and reads no more of an answer than it must to know its end."""

    def __init__(self, port: int, timeout_seconds: float = 60.0) -> None:
        self._socket = socket.create_connection((HOST, port), timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, sent: bytes) -> Answer:
        """Sends one request.

        Raises:
          ConnectionLost: there was no whole answer.
        """
        self._socket.sendall(sent)
        return self.read()

    def send(self, sent: bytes) -> None:
        self._socket.sendall(sent)

    def read(self) -> Answer:
        received = self._more(b"")
        while (end := received.find(b"\r\n\r\n")) < 0:
            received = self._more(received)
        status, head, end = int(received[9:12]), received[:end], end + 4
        wanted = end + _content_length(head)
        if len(received) < wanted:
            parts, size = [received], len(received)
            while size < wanted:
                parts.append(self._more(b""))
                size += len(parts[-1])
            received = b"".join(parts)
        return Answer(status, head, received[end:wanted])

    def close(self) -> None:
        self._socket.close()

    def _more(self, received: bytes) -> bytes:
        more = self._socket.recv(_MOST_BYTES)
        if not more:
            raise ConnectionLost(f"the connection was closed after {len(received)} bytes of an answer")
        return received + more if received else more


def _content_length(head: bytes) -> int:
    lines = head.lower()
    start = lines.find(b"\r\ncontent-length:")
    if start < 0:
        return 0
    end = lines.find(b"\r\n", start + 17)
    return int(lines[start + 17 : end if end > 0 else len(lines)])


def request(method: str, target: str, headers: str = "", body: bytes = b"") -> bytes:
    """The bytes of one request; ``headers`` are lines, each with its end."""
    return f"{method} {target} HTTP/1.1\r\nHost: {HOST_NAME}\r\n{headers}\r\n".encode() + body


def get(customer_id: str, headers: str = "") -> bytes:
    """A request for one customer, whose id needs no percent-encoding."""
    return request("GET", f"/v1/customers/{customer_id}/value", headers)


def post(customer_ids: Sequence[str]) -> bytes:
    """A request for several customers, whose ids need no escapes in JSON."""
    body = ('{"customer_ids":["' + '","'.join(customer_ids) + '"]}').encode()
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return request("POST", "/v1/customers:lookup", headers, body)
