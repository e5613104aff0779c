"""A webhook that keeps the events it is sent."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sink:
    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, dag: str) -> list[dict[str, Any]]:
        """The events of a DAG's runs, oldest first."""
        return [event for event in self.events if event["run"].startswith(f"{dag}/")]


@contextlib.contextmanager
def opened() -> Iterator[Sink]:
    sink = Sink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sink.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silence: ``events`` tells."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink.url = f"http://127.0.0.1:{server.server_address[1]}/events"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
