"""Ten thousand requests that are none: what is sent, what is noticed, and the real service under all of them."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import lookup_malformed
from benchmarks.lookup_malformed import Siege
from benchmarks.lookup_malformed_requests import _KINDS, malformed
from benchmarks.lookup_service import HOST, Service, get


def drawn(seed: int, count: int = 300) -> list[bytes]:
    draw = random.Random(seed)
    return [malformed(draw) for _ in range(count)]


def test_requests_are_a_matter_of_the_seed() -> None:
    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 150


@pytest.mark.parametrize("kind", dict.fromkeys(_KINDS), ids=lambda kind: kind.__name__)
def test_every_kind_can_be_drawn_again_and_again(kind: Callable[[random.Random], bytes]) -> None:
    draw = random.Random(3)
    assert all(isinstance(kind(draw), bytes) for _ in range(200))


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port that answers every connection so, and closes it."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    accepted, _ = server.accept()
                except TimeoutError:
                    continue
                with accepted:
                    accepted.settimeout(0.2)
                    accepted.recv(1 << 20)
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()


def answer(status: str, body: bytes, media_type: str = "application/problem+json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("bad", "noticed"),
    [
        (answer("500 Internal Server Error", b'{"code":"internal_error"}'), "status 500"),
        (answer("503 Service Unavailable", b'{"code":"overloaded"}'), "status 503"),
        (answer("400 Bad Request", b"Invalid HTTP request received."), "JSONDecodeError"),
        (answer("404 Not Found", b'{"detail":"Not Found"}'), "KeyError"),
        (answer("400 Bad Request", b'{"code":"x"}', "application/json"), "no problem"),
        (answer("200 OK", b"x") + answer("500 Internal Server Error", b'{"code":"x"}'), "status 500"),
        (b"\x15\x03\x01 what is this", "not HTTP"),
    ],
)
def test_a_service_that_breaks_the_rules_is_found_out(bad: bytes, noticed: str) -> None:
    with answering(bad) as port:
        service = Service("serving.app")
        service.port, service.runs = port, lambda: True  # type: ignore[method-assign]
        siege = Siege(service, {}, requests=3, seed=1)
        siege._send_all(0)
    assert len(siege.wrong) == 3 and all(noticed in wrong for wrong in siege.wrong), siege.wrong


def test_a_problem_is_taken_for_what_it_is() -> None:
    with answering(answer("400 Bad Request", b'{"code":"invalid_request"}')) as port:
        service = Service("serving.app")
        service.port = port
        siege = Siege(service, {}, requests=3, seed=1)
        siege._send_all(0)
    assert siege.wrong == [] and siege.statuses == {400: 3}


class TestCommand:
    def test_help_is_quick(self) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "benchmarks.lookup_malformed", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "--requests 10000" in done.stdout and "{" not in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"pyarrow", "numpy", "google", "grpc", "uvicorn", "fastapi"}

    @pytest.mark.parametrize("argument", ["--requests=0", "--seed=-1"])
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert lookup_malformed.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line and "accepted is a whole number" in line

    def test_the_service_outlives_ten_thousand(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = lookup_malformed.main(["--requests=10000", "--seed=20"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        result: dict[str, Any] = json.loads(captured.out.splitlines()[-1])
        figures = result["figures"]["service"]
        assert figures["requests"] == 10_000 and figures["answers"] > 5_000
        assert figures["unanswered"] < 2_000
        for status in (200, 400, 404, 405, 413, 415, 431):
            assert f"{status}: " in captured.out.splitlines()[0], "all of them can be had"

    def test_a_service_that_is_killed_meanwhile_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def killing(draw: random.Random) -> bytes:
            if draw.random() < 0.02:
                services[0]._process.kill()
                services[0]._process.wait()
            return get("1")

        services: list[Service] = []

        class Killed(Service):
            def __enter__(self) -> Service:
                services.append(self)
                return super().__enter__()

        monkeypatch.setattr(lookup_malformed, "Service", Killed)
        monkeypatch.setattr(lookup_malformed, "malformed", killing)
        assert lookup_malformed.main(["--requests=400"]) == 1
        assert "the service has ended" in capsys.readouterr().err
