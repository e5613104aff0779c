"""How a stub of a Google service speaks HTTP: JSON bodies, Google's error bodies, answers that are lost."""

from __future__ import annotations

import contextlib
import http.server
import json
from typing import Any, Protocol

from tests.dataflow.discovery import Refused


class Dropped(Exception):
    """The work is done, and nobody hears of it: the connection ends without an answer."""


class Service(Protocol):
    """What a stub answers, and what it refused."""

    refusals: list[str]

    def answer(self, verb: str, path: str, body: bytes) -> Any:
        """Raises: Refused, Dropped, or JSONDecodeError for a body that is no JSON."""


def handler_of(service: Service) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, content = 200, service.answer(self.command, self.path, body)
            except Dropped:
                self.close_connection = True
                return
            except (Refused, json.JSONDecodeError) as error:
                refused = error if isinstance(error, Refused) else _no_json(error)
                service.refusals.append(f"{refused.status} {refused}")
                status = refused.status
                content = {"error": {"code": status, "message": str(refused), "status": refused.reason}}
                if refused.details:
                    content["error"]["details"] = list(refused.details)
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

        def log_message(self, *_: Any) -> None:
            """Silence: the stub tells what it was asked and what it refused."""

    return Handler


def _no_json(error: json.JSONDecodeError) -> Refused:
    return Refused(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {error}")
