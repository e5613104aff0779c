"""Google as far as ID tokens go: keys, their certificates on a real HTTP server, and tokens signed with them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.auth import crypt, jwt

EMAIL = "front-end@shop.iam.gserviceaccount.com"
AUDIENCE = "https://lookup.example.com"


class Key:
    """One of the keys, with the certificate that publishes it."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.private = rsa.generate_private_key(65537, 2048)

    @cached_property
    def certificate(self) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federated-signon.system.gserviceaccount.com")])
        builder = x509.CertificateBuilder(name, name, self.private.public_key(), x509.random_serial_number())
        begins = datetime.now(UTC) - timedelta(days=1)
        builder = builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=16))
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    @cached_property
    def signer(self) -> crypt.Signer:
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return crypt.RSASigner.from_string(pem, self.key_id)


class GoogleKeys:
    """The server, while the context lasts.

    What it answers with can be changed at any time: ``cache_control``, ``age`` (the header), ``status``, ``answer`` (in place of
    the certificates), ``delay_seconds``. ``requests`` counts.

    Args:
      clock: what tokens take their times from, seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.requests = 0
        self.cache_control: str | None = "public, max-age=19871, must-revalidate, no-transform"
        self.age: str | None = None
        self.status = 200
        self.answer: bytes | None = None
        self.delay_seconds = 0.0
        self.keys: list[Key] = []
        self.rotate()

    def __enter__(self) -> GoogleKeys:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self.down()

    _server: ThreadingHTTPServer | None = None
    _port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/oauth2/v1/certs"

    def up(self) -> None:
        """Serve, at the same URL as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections until ``up``."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def rotate(self) -> None:
        """Sign with a new key from now on; of the old ones the latest stays published, as Google does it."""
        self.keys = [*self.keys[-1:], Key(f"key{self.keys[-1].key_id[3:] if self.keys else ''}0")]

    def token(self, email: str | None = EMAIL, audience: str | None = AUDIENCE, **claims: Any) -> str:
        """A token as Google makes it, signed with the newest key.

        Args:
          claims: in place of or beside the usual ones; None leaves a claim out.
        """
        now = int(self._clock())
        usual = {"iss": "https://accounts.google.com", "sub": "1", "azp": "1", "iat": now, "exp": now + 3600}
        given = {**usual, "aud": audience, "email": email, "email_verified": True, **claims}
        return self.signed({name: value for name, value in given.items() if value is not None})

    def signed(self, claims: Any, header: Mapping[str, Any] | None = None, key: Key | None = None) -> str:
        """Any claims, under any header, by any key."""
        return jwt.encode((key or self.keys[-1]).signer, claims, dict(header or {})).decode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                google.requests += 1
                time.sleep(google.delay_seconds)
                body = google.answer or json.dumps({key.key_id: key.certificate for key in google.keys}).encode()
                self.send_response(google.status)
                headers = {"Cache-Control": google.cache_control, "Age": google.age, "Content-Length": str(len(body))}
                for name, value in headers.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler
