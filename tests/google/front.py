"""Google's hosts led to stubs on this machine, by environment variables alone.

    with front.opened({"dataflow.googleapis.com": stub.url}, folder) as google:
        subprocess.run(..., env={**os.environ, **google})
        assert google.refused == []

Some programs take no other address than Google's own: Airflow's operators are such. They do honour a proxy and a
certificate authority. This proxy ends the encryption itself and hands on what is inside: HTTP to the stub as it is,
gRPC by way of transcode.py. Nothing reaches a host that is not named. (httplib2 knows proxies only where PySocks is
installed; without it, it asks the real host.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.google.certificates import Authority

TRANSCODE = Path(__file__).with_name("transcode.py")
_LOCAL = "localhost,127.0.0.1,::1"
_SECONDS = 30.0  # for the proxy and the transcoder to come and to go; some machines are slow
_CHUNK = 64 * 1024
_HEAD_BYTES = 16 * 1024


class Variables(dict[str, str]):
    """Environment variables of a process whose Google is on this machine.

    ``refused`` grows while the proxy runs: the first line of every request that it did not pass on.
    """

    def __init__(self, variables: Mapping[str, str], refused: list[str]) -> None:
        super().__init__(variables)
        self.refused = refused


@contextlib.contextmanager
def opened(hosts: Mapping[str, str], folder: Path, grpc_python: str | Path = sys.executable) -> Iterator[Variables]:
    """Runs the proxy while the block lasts.

    Args:
      hosts: by host the URL of the server that answers for it, ``{"dataflow.googleapis.com": "http://localhost:8080"}``.
      folder: for certificates.
      grpc_python: an interpreter with the gRPC clients of the services, best the one that will call.

    Raises:
      RuntimeError: the transcoder did not start; the text says why.
    """
    authority = Authority(folder)
    with _transcoder(sorted(set(hosts.values())), grpc_python) as ports:
        routes = {host: Route.of(host, url, ports[url], authority) for host, url in hosts.items()}
        with Proxy(routes) as proxy:
            yield Variables(_variables(f"http://127.0.0.1:{proxy.port}", str(authority.bundle)), proxy.refused)


def _variables(proxy: str, bundle: str) -> dict[str, str]:
    # gRPC reads the small letters, some HTTP libraries the capitals.
    both = {"https_proxy": proxy, "http_proxy": proxy, "no_proxy": _LOCAL}
    return {
        **both,
        **{name.upper(): value for name, value in both.items()},
        "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "CURL_CA_BUNDLE": bundle,
        "HTTPLIB2_CA_CERTS": bundle,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": bundle,
        # Google's metadata server is asked past any proxy. It is not here: a search for it takes seconds.
        "NO_GCE_CHECK": "true",
    }


class Route:
    """Where a host's connections go, and the certificate they are met with."""

    def __init__(self, context: ssl.SSLContext, http: tuple[str, int], grpc: tuple[str, int]) -> None:
        self.context, self.http, self.grpc = context, http, grpc

    @classmethod
    def of(cls, host: str, url: str, grpc_port: int, authority: Authority) -> Route:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.issue(host))
        # Whoever knows both gets what the stubs speak; gRPC knows the second alone.
        context.set_alpn_protocols(["http/1.1", "h2"])
        parts = urllib.parse.urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"the server for {host} needs a host and a port, got {url!r}")
        return cls(context, (parts.hostname, parts.port), ("127.0.0.1", grpc_port))


class Proxy:
    """An HTTP proxy for CONNECT to port 443 of the hosts in ``routes``, in a thread of its own."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.refused: list[str] = []
        self._targets = {f"{host}:443": route for host, route in routes.items()}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._ready.wait(_SECONDS):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_SECONDS)

    async def _run(self) -> None:
        # Its end cancels what is still connected: asyncio.run does.
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_BYTES)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Connections break off and handshakes fail at the caller's will: it is told, and its libraries tell the test.
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            try:
                await self._pass_on(reader, writer)
            finally:
                writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first = head.partition("\r\n")[0]
        verb, target, *_ = [*first.split(), "", ""]
        route = self._targets.get(target.lower()) if verb == "CONNECT" else None
        if route is None:
            self.refused.append(first)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await writer.start_tls(route.context)
        is_grpc = writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        inner_reader, inner_writer = await asyncio.open_connection(*(route.grpc if is_grpc else route.http))
        both = [asyncio.create_task(_pump(reader, inner_writer)), asyncio.create_task(_pump(inner_reader, writer))]
        try:
            # Neither protocol goes on when one side has closed.
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            inner_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while received := await reader.read(_CHUNK):
            writer.write(received)
            await writer.drain()


@contextlib.contextmanager
def _transcoder(urls: list[str], python: str | Path) -> Iterator[dict[str, int]]:
    """Runs transcode.py; yields the port of each URL's gRPC server."""
    # A proxy of the machine's own has nothing to do with addresses of this machine.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [str(python), "-P", str(TRANSCODE), *urls]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{TRANSCODE.name} did not start by {python}: exit code {process.wait(_SECONDS)}")
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
