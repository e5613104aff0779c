"""The service as a process: how it starts, how it ends, and what it needs."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from serving import app, store
from tests.serving.faulty_store import Faults
from tests.serving.service import LOCAL, Client, publish, running, until, value_path
from tests.serving.store_contract import prediction

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "serving.app"]
# The service in a process that prints, when it was asked for everything, which modules it needed.
MODULES = """
import os, re, signal, sys, threading, time
from urllib.request import Request, urlopen
from serving import app
class Said:
    text = ""
    def write(self, text): self.text += text
    def flush(self): pass
sys.stderr = said = Said()
def ask():
    while not (found := re.search(r"http://127.0.0.1:\\d+", said.text)): time.sleep(0.01)
    for path in ("/v1/customers/c1/value", "/v1/generation", "/metrics", "/docs", "/openapi.json", "/", "/health/ready"):
        urlopen(found[0] + path).read()
    body, headers = b'{"customer_ids": ["c1", "nobody"]}', {"Content-Type": "application/json"}
    urlopen(Request(found[0] + "/v1/customers:lookup", body, headers)).read()
    print(*sorted(sys.modules), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=ask).start()
app.main(["--serving", sys.argv[1], "--no_auth", "--port", "0"])
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite://{tmp_path_factory.mktemp('app')}/serving.db"
    publish(uri, "g1", [prediction("c1")])
    return uri


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PORT"} | more


class Process:
    """A service that has said where it serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.said = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert found, self.said + process.stderr.read()
        self.client = Client(int(found[1]))

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """All else that it said."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)[1]


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[Process]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(**variables), stderr=subprocess.PIPE, text=True
    )
    try:
        yield Process(process)
    finally:
        process.kill()
        process.communicate()


def ended(*arguments: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def free_port() -> int:
    with closing(socket.create_server((LOCAL, 0))) as listening:
        return int(listening.getsockname()[1])


def test_it_says_where_it_serves_and_ends_when_told(uri: str) -> None:
    port = free_port()
    with started("--serving", uri, "--no_auth", PORT=str(port)) as service:
        assert service.said == f"serving {uri} on http://127.0.0.1:{port}\n"
        assert service.client.value("c1").status == 200
        assert service.end() == "", "nothing to complain of"
        assert service.process.returncode in (0, -signal.SIGTERM)


def test_an_answer_under_way_is_finished(uri: str) -> None:
    with started("--serving", uri, "--no_auth", "--port", "0") as service:
        body = b'{"customer_ids": ["c1"]}'
        with service.client.connect() as connection, service.client.connect() as idle:
            idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(65536)
            connection.sendall(
                b"POST /v1/customers:lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:5])
            )
            time.sleep(0.1)
            service.process.send_signal(signal.SIGTERM)
            until(lambda: _refuses(service.client.port), "it to take no more connections")
            connection.sendall(body[5:])
            received = b""
            while more := connection.recv(65536):
                received += more
            assert received.startswith(b"HTTP/1.1 200 ") and b'"found":[{' in received
        assert service.process.wait(10) in (0, -signal.SIGTERM)


def _refuses(port: int) -> bool:
    try:
        socket.create_connection((LOCAL, port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_port_in_use_is_told_in_one_line(uri: str) -> None:
    with closing(socket.create_server((LOCAL, 0))) as taken:
        port = taken.getsockname()[1]
        code, said = ended("--serving", uri, "--no_auth", "--port", str(port))
    assert code == 1
    assert said.startswith(f"error: --host 127.0.0.1 --port {port} cannot be listened on")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ("sqlite://{0}/missing.db", "accepted is an existing store"),
        ("sqlite://{0}/text.db", "file is not a database"),
        ("sqlite://{0}", "accepted is an existing store"),
        ("postgres://x", "accepted is sqlite:"),
    ],
)
def test_a_store_that_cannot_be_served_is_told_in_one_line(tmp_path: Path, serving: str, message: str) -> None:
    (tmp_path / "text.db").write_text("not a database, but longer than the header of one: " * 20)
    code, said = ended("--serving", serving.format(tmp_path), "--no_auth", "--port", "0")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("error: --serving ") and message in said


def test_a_store_that_is_away_may_come_back(tmp_path: Path) -> None:
    import sqlite3

    uri = f"sqlite://{tmp_path}/s.db"
    publish(uri, "g1", [prediction("c1")])
    locking = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    locking.execute("PRAGMA locking_mode = EXCLUSIVE")
    locking.execute("BEGIN EXCLUSIVE")
    process = subprocess.Popen(
        [*COMMAND, "--serving", uri, "--no_auth", "--port", "0", "--store_seconds", "0.2"],
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        warning = process.stderr.readline()
        assert warning.startswith("warning: --serving ") and "serving all the same" in warning
        service = Process(process)
        assert service.client.get("/health/ready").status == 503
        assert service.client.get("/health/live").status == 200
        locking.close()
        until(lambda: service.client.value("c1").status == 200, "the store to be found")
        assert service.client.get("/health/ready").status == 200
    finally:
        process.kill()
        process.communicate()


def test_help_is_instant_and_has_examples() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert "examples:\n  python -m serving.app --serving sqlite://" in done.stdout
    assert done.stderr == ""


def test_the_running_service_has_loaded_nothing_large(uri: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MODULES, uri], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "serving.reader" in loaded, done.stderr
    heavy = {"pyarrow", "tensorflow", "apache_beam", "numpy", "pandas", "duckdb", "google.cloud.datastore", "grpc"}
    assert loaded & heavy == set()


def test_it_runs_on_the_loop_it_names(uri: str) -> None:
    """uvicorn leaves the choice of the loop to who runs it."""
    with started("--serving", uri, "--no_auth", "--port", "0") as service:
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
        assert re.search(r"/uvloop/loop\S*\.so", maps)


def test_two_applications_in_one_process_do_not_meet(uri: str, tmp_path: Path) -> None:
    other = f"sqlite://{tmp_path}/s.db"
    publish(other, "g2", [prediction("c1", 2.0)])
    with running(uri) as one, running(other) as another:
        for _ in range(3):
            assert one.value("c1").json()["generation"] == "g1"
        assert another.value("c1").json()["generation"] == "g2"
        counted = [client.get("/metrics").body.decode() for client in (one, another)]
    route = 'clv_http_requests_total{method="GET",route="/v1/customers/{customer_id}/value",status="200"}'
    assert f"{route} 3.0" in counted[0] and f"{route} 1.0" in counted[1]
    assert 'generation="g1"' in counted[0] and 'generation="g1"' not in counted[1]


def test_a_service_that_ends_leaves_no_threads(uri: str) -> None:
    before = set(threading.enumerate())
    with running(uri, threads=3) as client:
        assert client.value("c1").status == 200
        assert len({each.name for each in threading.enumerate() if each.name.startswith("store-reader")}) == 4
    until(lambda: set(threading.enumerate()) <= before, "the threads to end")


def test_problems_are_made_without_threads(uri: str) -> None:
    """The framework would run a handler that is no coroutine in one of few threads."""
    before = set(threading.enumerate())
    with running(uri) as client:
        for path in (value_path("nobody"), "/nothing", value_path("")):
            assert client.get(path).status in (400, 404)
        assert client.call("PUT", "/").status == 405
        new = {each.name for each in set(threading.enumerate()) - before}
    assert not [name for name in new if "AnyIO" in name or "asyncio" in name]


def test_a_store_that_hangs_does_not_keep_the_service_from_ending(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(store.open_store)
    monkeypatch.setattr(store, "open_store", faults.open)
    from serving import app

    monkeypatch.setattr(app, "CLOSING_SECONDS", 1)
    with faults.hanging():
        began = time.monotonic()
        with running(uri) as client:
            asking = threading.Thread(target=lambda: client.value("c1"))
            asking.start()
            until(lambda: faults.hung, "the store to be asked")
        assert time.monotonic() - began < 5
        faults.go_on()
    asking.join()


def test_what_only_the_service_needs_is_asked_for_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvloop" else found(name))
    assert app.main(["--serving", "sqlite:///nowhere.db", "--no_auth"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the lookup service needs uvloop, ") and "serving/requirements.lock" in line
