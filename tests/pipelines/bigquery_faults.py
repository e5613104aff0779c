"""Faults of BigQuery for tests: answers of its REST API lost or replaced, calls of its Storage API that break.

Everything else goes to the emulator: what is injected is the fault alone.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
import pyarrow as pa
import pytest
import requests
from google.cloud.bigquery_storage_v1 import types

from pipelines import bigquery

PROJECT = "test-project"
ROWS_A_MESSAGE = 2
Answer = Callable[[requests.Response], requests.Response]


class Rest:
    """Watches the requests of our client of a project, and tampers with the answers to some.

    ``inserted`` holds the ids of the jobs that were asked for, repetitions too.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.inserted: list[str] = []
        self._faults: list[tuple[str, Answer]] = []
        session = bigquery.client(PROJECT)._http
        self._request = session.request
        patch.setattr(session, "request", self.request)

    def tamper(self, job: str, answer: Answer, times: int = 1) -> None:
        """Has ``answer`` make the answers to the next insertions of jobs whose id matches the pattern."""
        self._faults += [(job, answer)] * times

    def request(self, method: str, url: str, data: Any = None, **others: Any) -> requests.Response:
        response = self._request(method=method, url=url, data=data, **others)
        if method != "POST" or not re.search(r"/jobs(\?|$)", url):
            return response
        content = json.loads(data)
        if content["configuration"].get("dryRun"):
            return response
        job_id = content["jobReference"]["jobId"]
        self.inserted.append(job_id)
        for fault in self._faults:
            if re.search(fault[0], job_id):
                self._faults.remove(fault)
                return fault[1](response)
        return response


def lost(_: requests.Response) -> requests.Response:
    """The job was inserted, but nobody hears of it."""
    raise requests.exceptions.ConnectionError("the connection was reset")


def failed(reason: str, message: str) -> Answer:
    """The job has ended with this error."""

    def answer(response: requests.Response) -> requests.Response:
        error = {"reason": reason, "message": message, "location": "query"}
        job = {**response.json(), "status": {"state": "DONE", "errorResult": error, "errors": [error]}}
        response._content = json.dumps(job).encode()
        return response

    return answer


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test handles it."""


class Requests:
    """The requests of our client of a project that change something, numbered from 0: before one of them something happens.

    A process that is killed while it reads has changed as much as one that is killed before its next change.
    ``reached`` tells whether it has happened.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached = False
        self._number, self._at = 0, -1
        self._then: Callable[[], Any] = lambda: None
        self._held: tuple[str, list[Callable[[], requests.Response]]] | None = None
        session = bigquery.client(PROJECT)._http
        self._request = session.request
        patch.setattr(session, "request", self.request)

    def kill(self, at: int) -> None:
        """Has the process die before a change, counted from now on."""

        def die() -> None:
            raise Killed

        self.meanwhile(at, die)

    def meanwhile(self, at: int, then: Callable[[], Any]) -> None:
        """Has ``then`` run before a change, counted from now on, whose own changes do not count."""
        self.reached, self._number, self._at, self._then = False, 0, at, then

    def leave(self) -> None:
        """Nothing happens any more."""
        self._at = -1

    def hold(self, job: str, sent: list[Callable[[], requests.Response]]) -> None:
        """Has the process die after it has sent the first job whose id matches, which stays on its way in ``sent``."""
        self._held = (job, sent)

    def request(self, method: str, url: str, data: Any = None, **others: Any) -> requests.Response:
        def send() -> requests.Response:
            return self._request(method=method, url=url, data=data, **others)

        if method == "GET":
            return send()
        if self._held and re.search(self._held[0], str(data)):
            (_, sent), self._held = self._held, None
            sent.append(send)
            raise Killed
        number, self._number = self._number, self._number + 1
        if number == self._at:
            self.reached, self._at = True, -1
            self._then()
        return send()


class Answering:
    """A service on this machine that answers every request with ``status`` and an error in Google's form."""

    def __init__(self) -> None:
        self.status = 503

        class Handler(BaseHTTPRequestHandler):
            def answer(handler) -> None:
                handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                error = {"code": self.status, "message": "out to lunch", "errors": [{"message": "out to lunch"}]}
                content = json.dumps({"error": error}).encode()
                handler.send_response(self.status)
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(content)))
                handler.end_headers()
                handler.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class RpcError(grpc.RpcError):
    """What gRPC raises for a status."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        self._status, self._message = status, message

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def result(self) -> None:
        raise self


class Storage(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """The Storage Read API, of which the next calls fail: sessions before they are made, streams after some messages.

    ``sessions`` and ``streams`` count the calls. An end of a stream is an error, or None where it ends silently.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sessions = self.streams = 0
        self.offsets: list[int] = []
        self.no_session: list[RpcError] = []
        self.ends: list[tuple[int, RpcError | None]] = []
        self._client = self._connect()
        patch.setattr(bigquery, "storage_client", lambda: self._client)

    def _connect(self) -> Any:
        from google.cloud import bigquery_storage
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        address = os.environ["BIGQUERY_STORAGE_EMULATOR_HOST"]
        plain = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        channel = grpc.intercept_channel(plain, self)
        return bigquery_storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.sessions += 1
        if self.no_session:
            return self.no_session.pop(0)
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        self.streams += 1
        self.offsets.append(request.offset)
        call = continuation(details, request)
        return Broken(call, *self.ends.pop(0)) if self.ends else call


class Broken:
    """A stream that ends early, of messages of few rows each, as many as there would be of a large table."""

    def __init__(self, call: Any, messages: int, error: RpcError | None) -> None:
        self._call, self._error = call, error
        self._messages = itertools.islice(_small(call), messages)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        for message in self._messages:
            return message
        if self._error:
            raise self._error
        raise StopIteration

    def cancel(self) -> None:
        self._call.cancel()


def _small(messages: Any) -> Iterator[Any]:
    for message in messages:
        schema = pa.ipc.read_schema(pa.py_buffer(message.arrow_schema.serialized_schema))
        page = pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), schema)
        for start in range(0, page.num_rows, ROWS_A_MESSAGE):
            rows = page.slice(start, ROWS_A_MESSAGE)
            small = types.ReadRowsResponse(
                arrow_schema=message.arrow_schema, row_count=rows.num_rows,
                arrow_record_batch={"serialized_record_batch": rows.serialize().to_pybytes()},
            )  # fmt: skip
            yield types.ReadRowsResponse.pb(small)
