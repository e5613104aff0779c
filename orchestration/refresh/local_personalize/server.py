"""The service over HTTP, as boto3 speaks to it.

Statuses follow the clock: an import, a training and a deployment take as long as is said here, and what was made is gone when
the server ends. Nothing is recommended; there is everything that a refresh of a campaign needs.

examples:
  python -m orchestration.refresh.local_personalize.server --port 9800
  AWS_ENDPOINT_URL_PERSONALIZE=http://127.0.0.1:9800 aws personalize list-solutions
  # what imports name is read and checked, from any S3:
  AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000 python -m orchestration.refresh.local_personalize.server --check_data
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from transforms.cli import ArgumentParser, exit_code, number, whole_number
from transforms.errors import UsageError

if TYPE_CHECKING:
    from orchestration.refresh.local_personalize.core import LocalPersonalize

TARGET = "AmazonPersonalize."
CONTENT_TYPE = "application/x-amz-json-1.1"
MOST_BYTES = 1_000_000  # of a request; the longest schema has 20,000 characters
SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/,\s]+/\d{8}/[a-z0-9-]+/personalize/aws4_request, *"
    r"SignedHeaders=[a-z0-9;-]+, *Signature=[0-9a-f]{64}"
)


class _Refused(Exception):
    """An answer that the service itself is not asked for."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer waits for the acknowledgement of its own headers
    wbufsize = -1
    server: _Listener

    def do_POST(self) -> None:
        from orchestration.refresh.local_personalize.faults import Dropped, ServiceError

        try:
            operation, parameters = self._asked()
            self._reply(200, self.server.service.call(operation, parameters))
        except Dropped:
            self.close_connection = True  # and no answer
        except (_Refused, ServiceError) as refused:
            self._reply(refused.status, {"__type": refused.code, "message": refused.message})
        except Exception as defect:
            traceback.print_exc(file=sys.stderr)
            self._reply(500, {"__type": "InternalFailure", "message": f"a defect of the local service: {defect}"})

    def do_GET(self) -> None:
        self._reply(404, {"__type": "UnknownOperationException", "message": "The service only answers POST /."})

    def _asked(self) -> tuple[str, dict[str, Any]]:
        """The operation and its parameters."""
        body = self._body()
        if not SIGNATURE.fullmatch(self.headers.get("Authorization", "")):
            raise _Refused("MissingAuthenticationTokenException", "The request has no signature for personalize.", 403)
        target = self.headers.get("X-Amz-Target", "")
        if self.path != "/" or not target.startswith(TARGET):
            raise _Refused("UnknownOperationException", f"There is no operation {target!r} at {self.path}.", 404)
        if self.headers.get_content_type() != CONTENT_TYPE:
            raise _Refused("SerializationException", f"The content type must be {CONTENT_TYPE}.")
        try:
            parameters = json.loads(body or b"{}")
        except ValueError:
            raise _Refused("SerializationException", "The body is not JSON.") from None
        if not isinstance(parameters, dict):
            raise _Refused("SerializationException", "The body is not a JSON object.")
        return target.removeprefix(TARGET), parameters

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True  # what follows is not the start of a request
            raise _Refused("SerializationException", f"Content-Length must be given, and at most {MOST_BYTES}.")
        return self.rfile.read(int(length))

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", self.server.request_id())
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass  # service.calls is the record


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, service: LocalPersonalize, port: int) -> None:
        self.service = service
        self._requests, self._open = 0, set[socket.socket]()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def request_id(self) -> str:
        with self._lock:
            self._requests += 1
            return f"00000000-0000-4000-8000-{self._requests:012d}"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is nothing to report
            super().handle_error(request, client_address)

    def cut_all(self) -> None:
        """Ends the connections that are kept alive: a server that is closed must not go on answering."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it ended meanwhile


class Server:
    """Serves at 127.0.0.1 from the moment it is made until it is closed; ``port`` 0 takes a free one.

    with Server(LocalPersonalize()) as server:
        boto3.client("personalize", endpoint_url=server.url, ...)
    """

    def __init__(self, service: LocalPersonalize, port: int = 0) -> None:
        self.service = service
        try:
            self._listener = _Listener(service, port)
        except OSError as error:
            raise UsageError(
                f"--port {port} is not usable: {error.strerror or error}; accepted is a free port"
            ) from None
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._listener.cut_all()
        self._thread.join()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m orchestration.refresh.local_personalize.server", description=__doc__)
    seconds = number(0, 1e6, "seconds")
    parser.add_argument("--port", type=whole_number(0, 65535), default=0, help="at 127.0.0.1; 0: any that is free")
    parser.add_argument("--import_seconds", type=seconds, default=3.0, help="how long an import takes")
    parser.add_argument("--training_seconds", type=seconds, default=5.0, help="how long a solution version takes")
    parser.add_argument(
        "--deployment_seconds", type=seconds, default=2.0, help="how long a campaign or its update takes"
    )
    parser.add_argument("--region", default="eu-central-1", help="the one in the ARNs")
    parser.add_argument(
        "--check_data",
        action="store_true",
        help="imports read their CSV files from S3 (credentials as boto3 finds them)",
    )
    return parser.parse_args(argv)


def _reader(region: str) -> Any:
    import boto3

    from orchestration.refresh.local_personalize.interactions_csv import s3_reader

    return s3_reader(boto3.client("s3", region_name=region))


def run(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize

    durations = Durations(args.import_seconds, args.training_seconds, args.deployment_seconds)
    read_data = _reader(args.region) if args.check_data else None
    service = LocalPersonalize(durations=durations, read_data=read_data, region=args.region)
    with Server(service, args.port) as server:
        print(f"export AWS_ENDPOINT_URL_PERSONALIZE={server.url}", flush=True)
        threading.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
