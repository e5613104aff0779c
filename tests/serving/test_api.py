"""The interface over HTTP, on each store, and what it says of itself."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serving import api, store
from serving.api import MOST_BODY_BYTES
from serving.store import StoreFailed
from tests.serving.api_contract import FIRST, ApiContract, checked, fresh_name
from tests.serving.faulty_store import Faults
from tests.serving.service import Answer, Client, publish, running, until, value_path
from tests.serving.store_contract import prediction
from transforms.errors import UsageError

if TYPE_CHECKING:
    from tests.emulators.datastore_proxy import DatastoreProxy
    from tests.emulators.services import Datastore

LOOKUP = "/v1/customers:lookup"


class TestSqlite(ApiContract):
    @pytest.fixture(scope="class")
    def new_uri(self, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
        return lambda: f"sqlite://{tmp_path_factory.mktemp('api')}/serving.db"


@pytest.mark.emulators
class TestDatastore(ApiContract):
    @pytest.fixture(scope="class")
    def new_uri(self, datastore_emulator: Datastore) -> Callable[[], str]:
        return lambda: f"datastore://{fresh_name()}"

    @pytest.fixture
    def proxy(self, datastore_emulator: Datastore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatastoreProxy]:
        from tests.emulators.datastore_proxy import DatastoreProxy

        with DatastoreProxy(datastore_emulator.host) as proxy:
            monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
            yield proxy

    def test_an_outage_is_told_in_time_and_over_soon(self, new_uri: Callable[[], str], proxy: DatastoreProxy) -> None:
        uri = new_uri()
        publish(uri, "g1", [prediction("c1"), prediction("c2")])
        with running(uri, pointer_seconds=1.0, store_seconds=1.0) as client:
            assert client.value("c1").status == 200
            with proxy.down():
                until(lambda: client.value("c1").status == 503, "the pointer to be too old")
                for _ in range(3):
                    began = time.monotonic()
                    assert client.value("c2").code == "store_unavailable"
                    assert client.get("/health/ready").status == 503
                    assert time.monotonic() - began < 5
                    assert client.get("/health/live").status == 200
            began = time.monotonic()
            until(lambda: client.value("c2").status == 200, "the store to be found again")
            assert time.monotonic() - began < 4
            assert client.get("/health/ready").status == 200

    def test_one_entity_that_is_broken_is_our_logs_business(
        self, new_uri: Callable[[], str], caplog: pytest.LogCaptureFixture
    ) -> None:
        from google.cloud import datastore

        uri = new_uri()
        publish(uri, "g1", [prediction("c1"), prediction("c2")])
        google = datastore.Client(project=uri.partition("://")[2])
        entity = google.get(google.key("CustomerValue", "c2", namespace="g1.1"))
        del entity["decile"]
        google.put(entity)
        with running(uri) as client:
            answer = client.value("c2")
            assert (answer.status, answer.code) == (503, "store_unavailable")
            assert b"decile" not in answer.body and "has no decile" in caplog.text
            assert client.value("c1").status == 200


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that no test changes."""
    uri = f"sqlite://{tmp_path_factory.mktemp('api')}/serving.db"
    publish(uri, FIRST, [prediction("c1"), prediction("c2")])
    return uri


@pytest.fixture(scope="module")
def client(uri: str) -> Iterator[Client]:
    with running(uri) as client:
        yield client


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Put into every store that is opened from now on."""
    faults = Faults(store.open_store)
    monkeypatch.setattr(store, "open_store", faults.open)
    return faults


def raw(client: Client, *parts: bytes | float) -> bytes:
    """Sends parts, sleeping where one is a number of seconds; all that comes back until the connection is closed."""
    with client.connect() as connection:
        for part in parts:
            if isinstance(part, bytes):
                connection.sendall(part)
            else:
                time.sleep(part)
        received = b""
        while more := connection.recv(65536):
            received += more
        return received


def head(client: Client, *headers: str, first: str = f"POST {LOOKUP} HTTP/1.1") -> bytes:
    lines = [first, f"Host: 127.0.0.1:{client.port}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class TestBodies:
    def test_one_that_says_it_is_too_large_is_not_waited_for(self, client: Client) -> None:
        answer = raw(client, head(client, f"Content-Length: {MOST_BODY_BYTES + 1}"))
        assert answer.startswith(b"HTTP/1.1 413 ") and b'"too_large"' in answer
        assert b"connection: close" in answer.lower()

    def test_one_of_just_the_size_is_read(self, client: Client) -> None:
        content = b'{"customer_ids": ["c1"]}'
        answer = client.post(LOOKUP, content + b" " * (MOST_BODY_BYTES - len(content)))
        assert (answer.status, answer.json()["missing"]) == (200, [])
        assert client.post(LOOKUP, content + b" " * (MOST_BODY_BYTES - len(content) + 1)).code == "too_large"

    def test_one_in_chunks_is_read_as_far_as_it_may_be_large(self, client: Client) -> None:
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with client.connect() as connection:
            connection.sendall(head(client, "Transfer-Encoding: chunked"))
            for _ in range(MOST_BODY_BYTES // 0x10000 + 1):
                connection.sendall(chunk)
            answer = connection.recv(65536)  # though the end has not been sent
        assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()

    def test_a_small_one_in_chunks_is_like_any_other(self, client: Client) -> None:
        answer = raw(
            client, head(client, "Transfer-Encoding: chunked", "Connection: close"),
            b'8\r\n{"custom\r\n', b'10\r\ner_ids": ["c1"]}\r\n', b"0\r\n\r\n",
        )  # fmt: skip
        assert answer.startswith(b"HTTP/1.1 200 ")

    def test_a_slow_one_is_told_so_and_the_store_is_not_blamed(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Though the store would have had to answer long before."""
        monkeypatch.setattr(api, "BODY_SECONDS", 0.5)
        with running(uri, store_seconds=0.05) as client:
            answer = raw(client, head(client, "Content-Length: 24"), b'{"customer_ids"')
        assert answer.startswith(b"HTTP/1.1 408 ") and b'"too_slow"' in answer
        assert b"connection: close" in answer.lower()

    def test_one_that_takes_longer_than_the_store_may_is_answered(self, uri: str) -> None:
        with running(uri, store_seconds=0.05) as client:
            answer = raw(
                client, head(client, "Content-Length: 24", "Connection: close"), b'{"customer_ids"', 0.5, b': ["c1"]}'
            )
        assert answer.startswith(b"HTTP/1.1 200 ")

    def test_who_goes_away_in_the_middle_is_no_failure_of_ours(
        self, uri: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running(uri) as client:
            with client.connect() as connection:
                connection.sendall(head(client, "Content-Length: 24") + b'{"customer_ids"')
                time.sleep(0.1)
            until(lambda: f'route="{LOOKUP}"' in client.get("/metrics").body.decode(), "the request to end")
            figures = client.get("/metrics").body.decode()
        assert f'clv_http_requests_total{{method="POST",route="{LOOKUP}",status="0"}} 1.0' in figures
        assert "Traceback" not in caplog.text and "failed" not in caplog.text


class TestAStoreThatFails:
    PATHS = ("/v1/customers/c1/value", "/v1/generation", "/health/ready")

    @pytest.mark.parametrize("error", [StoreFailed("secret-place is away"), UsageError("secret-place is bad")])
    def test_is_told_and_tried_again(self, uri: str, faults: Faults, error: Exception) -> None:
        with running(uri) as client:
            faults.error = error
            for answer in (*(client.get(path) for path in self.PATHS), client.look_up(["c1"])):
                assert (answer.status, answer.code) == (503, "store_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
                assert b"secret-place" not in answer.body, "places are for our own log"
            assert client.get("/health/live").status == client.get("/metrics").status == 200
            faults.error = None
            assert client.value("c1").status == client.get("/health/ready").status == 200

    def test_a_row_that_is_remembered_is_served_while_the_pointer_is_fresh(self, uri: str, faults: Faults) -> None:
        with running(uri, pointer_seconds=0.5) as client:
            assert client.value("c1").status == 200
            faults.error = StoreFailed("away")
            assert client.value("c1").status == 200
            assert client.value("c2").code == "store_unavailable"
            time.sleep(0.6)
            assert client.value("c1").code == "store_unavailable", "it may have been replaced"

    def test_a_defect_is_told_without_its_words(
        self, uri: str, faults: Faults, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running(uri) as client:
            faults.error = ZeroDivisionError("secret")
            answer = client.value("c1")
            faults.error = None
            assert client.value("c1").status == 200
        assert (answer.status, answer.code) == (500, "internal_error")
        assert b"secret" not in answer.body
        assert "ZeroDivisionError: secret" in caplog.text

    def test_one_that_hangs_does_not_take_the_service_with_it(self, uri: str, faults: Faults) -> None:
        with running(uri, store_seconds=0.1, threads=1, most_requests=4) as client, faults.hanging():
            began = time.monotonic()
            answers: list[Any] = []
            waiting = [
                threading.Thread(target=lambda path=path: answers.append(client.get(path)))
                for path in ("/v1/generation", "/health/ready", value_path("c1"))
            ]
            for each in waiting:
                each.start()
            until(lambda: faults.hung, "the store to be asked")
            assert client.get("/health/live").status == 200
            assert client.get("/docs").status == 200
            for each in waiting:
                each.join()
            assert {(answer.status, answer.code) for answer in answers} == {(503, "store_unavailable")}
            assert all(answer.headers["retry-after"] == "1" for answer in answers)
            assert time.monotonic() - began < 5, "four times the store's"
            faults.go_on()
            until(lambda: client.value("c1").status == 200, "the store to be used again")

    def test_a_file_that_is_deleted_or_replaced_is_noticed(self, tmp_path: Path) -> None:
        one, other = f"sqlite://{tmp_path}/one.db", f"sqlite://{tmp_path}/other.db"
        publish(one, "g1", [prediction("c1")])
        publish(other, "g2", [prediction("c1", 2.0)])
        with running(one, pointer_seconds=0.05) as client:
            assert client.value("c1").json()["generation"] == "g1"
            for suffix in ("", "-wal", "-shm"):
                Path(f"{tmp_path}/one.db{suffix}").unlink(missing_ok=True)
            until(lambda: client.value("c1").status == 503, "the file to be missed")
            assert client.get("/health/ready").status == 503
            Path(f"{tmp_path}/other.db").rename(f"{tmp_path}/one.db")
            until(lambda: client.value("c1").status == 200, "the other file to be opened")
            assert client.value("c1").json()["generation"] == "g2"

    def test_a_replaced_file_is_noticed_by_every_thread(self, tmp_path: Path) -> None:
        """Else one that still reads the old file would have no rows of the new one's generation."""
        one, other = f"sqlite://{tmp_path}/one.db", f"sqlite://{tmp_path}/other.db"
        publish(one, "g1", [prediction("c1")])
        publish(other, "g2", [prediction("c1", 2.0)])
        with running(one, pointer_seconds=0.05, rows_kept=0, threads=4) as client, ThreadPoolExecutor(16) as pool:
            assert {answer.status for answer in pool.map(client.value, ["c1"] * 200)} == {200}
            for suffix in ("", "-wal", "-shm"):
                Path(f"{tmp_path}/one.db{suffix}").unlink(missing_ok=True)
            Path(f"{tmp_path}/other.db").rename(f"{tmp_path}/one.db")
            time.sleep(0.1)
            answers = list(pool.map(client.value, ["c1"] * 200))
        assert {answer.status for answer in answers} <= {200, 503}, "and never 404"
        assert {answer.json()["generation"] for answer in answers if answer.status == 200} == {"g2"}

    def test_a_file_that_is_locked_is_waited_for_as_long_as_told(self, tmp_path: Path) -> None:
        uri = f"sqlite://{tmp_path}/s.db"
        publish(uri, "g1", [prediction("c1")])
        with running(uri, store_seconds=0.2) as client:
            locking = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
            locking.execute("PRAGMA locking_mode = EXCLUSIVE")
            locking.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            assert client.value("c1").code == "store_unavailable"
            assert 0.15 < time.monotonic() - began < 5
            locking.close()
            until(lambda: client.value("c1").status == 200, "the lock to be gone")


def test_while_generations_come_and_go_nobody_is_missed_and_none_are_mixed(tmp_path: Path) -> None:
    """Switches, rollbacks and deletions below readers that believe in what was for as long as they may."""
    uri, ids = f"sqlite://{tmp_path}/s.db", [f"c{number}" for number in range(120)]
    wrong: list[Any] = []
    seen: set[str] = set()
    stop = threading.Event()

    def publish_next(number: int) -> None:
        publish(uri, f"g{number}", [prediction(i, float(number)) for i in ids])

    def read(ask: Callable[[], Answer]) -> None:
        while not stop.is_set():
            answer = ask()
            rows = answer.json().get("found", [answer.json()])
            kinds = {(row.get("generation"), f"g{row.get('predicted_value', -1):.0f}") for row in rows}
            if answer.status != 200 or answer.json().get("missing") or [len({*kind}) for kind in kinds] != [1]:
                wrong.append(answer)
            seen.update(str(generation) for generation, _ in kinds)

    publish_next(0)
    with running(uri, pointer_seconds=0.2, rows_kept=60) as client:
        asks = [lambda: client.look_up(ids), lambda: client.look_up(ids[::7]), lambda: client.value("c5")]
        readers = [threading.Thread(target=read, args=(ask,)) for ask in asks]
        for reader in readers:
            reader.start()
        for number in range(1, 13):
            publish_next(number)
            with store.open_store(uri, create=True) as writer:
                if number % 4 == 0:
                    writer.switch(f"g{number - 1}", f"g{number}")
                    writer.switch(f"g{number}", f"g{number - 1}")
                writer.delete(f"g{number - 1}")
        until(lambda: "g12" in seen, "the last one to be seen")
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) > 3


class TestDocument:
    @pytest.fixture(scope="class")
    def document(self, client: Client) -> dict[str, Any]:
        content: dict[str, Any] = client.get("/openapi.json").json()
        return content

    def test_every_route_is_in_it_and_nothing_else(self, document: dict[str, Any]) -> None:
        assert {(path, method) for path, methods in document["paths"].items() for method in methods} == {
            ("/v1/customers/{customer_id}/value", "get"), (LOOKUP, "post"), ("/v1/generation", "get"),
            ("/health/live", "get"), ("/health/ready", "get"), ("/metrics", "get"),
        }  # fmt: skip

    def test_answers_are_as_it_says(
        self, client: Client, document: dict[str, Any], uri: str, faults: Faults, tmp_path: Path
    ) -> None:
        value = "/v1/customers/{customer_id}/value"
        gets = {
            value: value_path("c1"),
            **{path: path for path in ("/v1/generation", "/health/live", "/health/ready", "/metrics")},
        }

        def every(client: Client, **how: Any) -> None:
            for path, called in gets.items():
                checked(client.call("GET", called, **how), document, path, "GET")
            checked(client.post(LOOKUP, {"customer_ids": ["c1", "nobody"]}, **how), document, LOOKUP, "POST")

        every(client)
        checked(client.value("nobody"), document, value, "GET")
        checked(client.value(""), document, value, "GET")
        checked(client.value("c1", If_None_Match="*"), document, value, "GET")
        checked(client.post(LOOKUP, b"{"), document, LOOKUP, "POST")
        checked(client.post(LOOKUP, b"{}", "text/plain"), document, LOOKUP, "POST")
        checked(client.post(LOOKUP, b" " * (MOST_BODY_BYTES + 1)), document, LOOKUP, "POST")
        with running(uri) as failing:
            faults.error = StoreFailed("away")
            every(failing)
        faults.error = None
        empty = f"sqlite://{tmp_path}/empty.db"
        store.open_store(empty, create=True).close()
        with running(empty) as nothing:
            every(nothing)

    def test_requests_of_elsewhere_are_described(self, client: Client, document: dict[str, Any]) -> None:
        for path, called in {"/v1/generation": "/v1/generation", "/metrics": "/metrics"}.items():
            checked(client.call("GET", called, host="elsewhere"), document, path, "GET")

    def test_it_is_of_the_version_it_says(self, document: dict[str, Any]) -> None:
        """Generators of clients refuse a 3.0 document with what came with 3.1."""
        assert document["openapi"].startswith("3.0.")

        def walk(node: Any, inside_schema: bool = False) -> None:
            if isinstance(node, dict):
                assert node.get("type") != "null", f"3.1's null in 3.0: {node}"
                if inside_schema and "type" in node and isinstance(node["type"], str):
                    assert "examples" not in node, f"3.1's examples in 3.0: {node}"
                assert "const" not in node and "$defs" not in node, node
                for each in node.values():
                    walk(each, True)
            elif isinstance(node, list):
                for each in node:
                    walk(each, inside_schema)

        walk(document["paths"])
        walk(document["components"])
