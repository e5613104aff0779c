"""Cloud Build as far as `gcloud builds submit` sees it: takes a build and says that it succeeded.

    with CloudBuild() as service:      # lead gcloud to service.url
        ...
        service.builds[0].steps()      # each step's arguments, as Cloud Build would start it

As the service does, it refuses a build whose substitutions and templates do not match.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.emulators.services import HOST

_USED = re.compile(r"\$\{(_[A-Z0-9_]+)\}|\$(_[A-Z0-9_]+)")
_ID = "00000000-0000-0000-0000-000000000001"


@dataclass(frozen=True)
class Submitted:
    """A build as gcloud sent it."""

    body: dict[str, Any]

    @property
    def source(self) -> str:
        """Where the archive of the sources is."""
        found = self.body["source"]["storageSource"]
        return f"gs://{found['bucket']}/{found['object']}"

    def steps(self) -> list[list[str]]:
        return [[self._with_values(word) for word in step["args"]] for step in self.body["steps"]]

    def images(self) -> list[str]:
        return [self._with_values(name) for name in self.body["images"]]

    def unmatched(self) -> set[str]:
        """Substitutions that are used and not given, or given and not used."""
        texts = json.dumps([self.body["steps"], self.body["images"]])
        used = {braced or bare for braced, bare in _USED.findall(texts)}
        return used ^ self.body.get("substitutions", {}).keys()

    def _with_values(self, text: str) -> str:
        return _USED.sub(lambda found: self.body["substitutions"][found[1] or found[2]], text)


class CloudBuild:
    """The server, while the context lasts."""

    def __init__(self) -> None:
        self.builds: list[Submitted] = []

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}"

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        parent = re.match(r"/v1/projects/([\w-]+)/locations/global/builds(/|$|\?)", path)
        if parent is None:
            return 404, _error(404, f"{method} {path} is not known here")
        build = {"id": _ID, "projectId": parent[1], "status": "SUCCESS", "options": {"logging": "NONE"}}
        if method == "GET":
            return 200, build
        submitted = Submitted(body)
        if unmatched := submitted.unmatched():
            return 400, _error(400, f"substitutions that do not match: {', '.join(sorted(unmatched))}")
        self.builds.append(submitted)
        return 200, {"name": f"operations/build/{parent[1]}/1", "metadata": {"build": build}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*service.answer("GET", self.path, {}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(*service.answer("POST", self.path, json.loads(body)))

            def _send(self, status: int, content: dict[str, Any]) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}
