"""TensorFlow's own gs:// file system on the emulated Cloud Storage.

TensorFlow knows Google's own hosts, and no variable that names another; tf.Transform
writes its graphs through it. It does honour a proxy and a certificate authority: this one ends the
encryption itself and hands the bytes to the emulator. It refuses every other host, so that nothing
on this machine's side of it can reach the real cloud.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.google.certificates import Authority

HOSTS = ("www.googleapis.com", "storage.googleapis.com")  # objects are read from the second, all else is the first's


@contextlib.contextmanager
def proxied(emulator: str, folder: Path) -> Iterator[dict[str, str]]:
    """Runs the proxy; yields the environment variables that lead a process's TensorFlow to ``emulator`` (host:port)."""
    authority = Authority(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue(*HOSTS))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, context, emulator), daemon=True).start()
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{server.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": str(authority.bundle),
            # Without it TensorFlow asks the machine's metadata server, which only Google's machines have.
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        }


def _accept(server: socket.socket, context: ssl.SSLContext, emulator: str) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return  # closed: the test is over
        threading.Thread(target=_serve, args=(client, context, emulator), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, emulator: str) -> None:
    with contextlib.suppress(OSError), client:
        request = b""
        while b"\r\n\r\n" not in request:
            received = client.recv(4096)
            if not received:
                return
            request += received
        if not request.startswith(tuple(f"CONNECT {host}:443 ".encode() for host in HOSTS)):
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(client, server_side=True) as secure:
            _Forward(secure, emulator)


class _Forward(http.server.BaseHTTPRequestHandler):
    """Serves one decrypted connection: each request goes to the emulator, its answer comes back."""

    protocol_version = "HTTP/1.1"

    def __init__(self, secure: ssl.SSLSocket, emulator: str) -> None:
        self.emulator = http.client.HTTPConnection(emulator, timeout=60)
        super().__init__(secure, ("", 0), None)  # type: ignore[arg-type]

    def forward(self) -> None:
        body = self._body()
        known = self._answer_without_emulator(body)
        if known is not None:
            self._answer(200, {"Content-Type": "application/json"}, known)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_HOP}
        self.emulator.request(self.command, self.path, body=body, headers=headers)
        answer = self.emulator.getresponse()
        content = answer.read()
        self._answer(answer.status, dict(answer.getheaders()), content)

    def _answer_without_emulator(self, body: bytes) -> bytes | None:
        """What Cloud Storage answers where the emulator cannot."""
        if self.command == "POST" and not body and "uploadType=media" in self.path:
            # TensorFlow marks a folder by an empty object named with a slash at its end. The emulator keeps
            # objects as files, which cannot be files and folders; a folder with something in it needs no mark.
            return b"{}"
        if self.path.endswith("/storageLayout"):
            return b'{"kind": "storage#storageLayout", "hierarchicalNamespace": {"enabled": false}}'
        return None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OF_ONE_HOP:
                # Where an upload goes on: here again, since the emulator does not understand chunks.
                self.send_header(
                    name, value.replace(f"http://{self.emulator.host}:{self.emulator.port}", f"https://{HOSTS[0]}")
                )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward

    def log_message(self, *_: Any) -> None:
        """Silence: the emulator keeps a log of its own."""


_OF_ONE_HOP = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}
