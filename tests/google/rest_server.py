"""A server that answers any request as a test says, and keeps what it was asked."""

from __future__ import annotations

import http.server
import threading
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """A request: ``address`` is path and query."""

    verb: str
    address: str
    headers: dict[str, str]
    body: bytes


class RestServer:
    """``answer`` is status and body of every answer; None closes the connection without one."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: tuple[int, bytes] | None = (200, b"{}")

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("localhost", 0), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(server: RestServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append(Asked(self.command, self.path, headers, body))
            if server.answer is None:
                self.close_connection = True
                return
            status, content = server.answer
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

        def log_message(self, *_: Any) -> None:
            """Silence: ``asked`` tells."""

    return Handler
