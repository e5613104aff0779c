"""The connection: what it sends again, what it says, and how it gets to worker processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from serving.datastore_client import Connection, Patience, connect, explained, message
from serving.store import StoreFailed
from tests.emulators.datastore_proxy import DatastoreProxy, refused, slow
from transforms.errors import UsageError

if TYPE_CHECKING:
    from tests.emulators.services import Datastore

OUTAGE_SECONDS = 12.0  # after so long gRPC's own pause is 4 s and more
ROOT = Path(__file__).resolve().parents[2]


class Failure(grpc.RpcError):
    """What gRPC raises: an error that knows its code and the server's words."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "accepted"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient\npermissions.", "roles/datastore.user"),
        (grpc.StatusCode.NOT_FOUND, "The database (default) does not exist", "gcloud firestore databases create"),
        (grpc.StatusCode.FAILED_PRECONDITION, "not available for Firestore in Native Mode", "in Datastore mode"),
        (grpc.StatusCode.UNAUTHENTICATED, "invalid credentials", "gcloud auth application-default login"),
        (grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed: RefreshError()", "application-default login"),
        (grpc.StatusCode.INVALID_ARGUMENT, "no such thing", "no such thing"),
    ],
)  # fmt: skip
def test_errors_name_the_store_and_what_mends_them_in_one_line(
    code: grpc.StatusCode, details: str, accepted: str
) -> None:
    text = str(explained(Failure(code, details), "datastore://shop-1/eu"))
    assert text.startswith(f"datastore://shop-1/eu: {code.name}: ")
    assert accepted in text and "\n" not in text


def test_without_credentials_there_is_one_line(tmp_path: Path) -> None:
    code = "from serving.lookup import main; import sys; sys.exit(main(['--serving', 'datastore://shop-12', 'c1']))"
    environment = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: datastore://shop-12: no Google Cloud credentials found: accepted are working")
    assert done.stderr.count("\n") == 1


def test_pauses_grow_and_are_spread() -> None:
    patience = Patience(first_pause_seconds=0.1, longest_pause_seconds=20.0)
    for tries, most in ((1, 0.2), (3, 0.8), (9, 20.0), (5000, 20.0)):
        pauses = [patience.pause(tries) for _ in range(200)]
        assert 0 <= min(pauses) < most / 4 < most * 3 / 4 < max(pauses) <= most


def key_of(connection: Connection, name: str) -> Any:
    # Below one root: a transaction of the Datastore emulator takes 25 entity groups.
    return connection.key("Root", "r", "K", name, namespace="n")


@pytest.mark.emulators
class TestWithEmulators:
    @pytest.fixture
    def proxy(self, datastore_emulator: Datastore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatastoreProxy]:
        with DatastoreProxy(datastore_emulator.host) as proxy:
            monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
            yield proxy

    @pytest.fixture
    def connection(self, proxy: DatastoreProxy, datastore_uri: str) -> Iterator[Connection]:
        connection = Connection(
            datastore_uri.partition("://")[2], patience=Patience(deadline_seconds=10.0, first_pause_seconds=0.01)
        )
        yield connection
        connection.close()

    def put(self, connection: Connection, names: list[str]) -> None:
        def work(transaction: object) -> None:
            for name in names:
                transaction.put(message("Entity")(key=key_of(connection, name)))  # type: ignore[attr-defined]

        connection.transact(work)

    def test_lookups_queries_and_counts_go_on_beyond_one_answer(self, connection: Connection) -> None:
        names = [f"k{i}" for i in range(1100)]
        for start in range(0, len(names), 400):
            self.put(connection, names[start : start + 400])
        keys = (key_of(connection, name) for name in [*names, "nobody"])
        assert sorted(entity.key.path[-1].name for entity in connection.lookup(keys)) == sorted(names)
        query = message("Query")()
        query.kind.add(name="K")
        for limit, expected in ((None, 1100), (700, 700), (0, 0), (5000, 1100)):
            found = [entity.key.path[-1].name for page in connection.query(query, "n", limit) for entity in page]
            assert (len(found), len(set(found))) == (expected, expected)
        assert connection.count(query, "n") == 1100
        assert connection.count(query, "other") == 0

    def test_a_commit_is_sent_once_and_fails_as_it_does(self, connection: Connection, proxy: DatastoreProxy) -> None:
        proxy.faults = (refused(1.0, grpc.StatusCode.ABORTED),)
        with pytest.raises(grpc.RpcError) as error:
            connection.commit(b"", 5.0)
        assert error.value.code() is grpc.StatusCode.ABORTED
        assert proxy.counts["calls"] == 1

    def test_calls_are_sent_again(self, connection: Connection, proxy: DatastoreProxy) -> None:
        self.put(connection, ["k"])
        codes = (
            "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"
        )  # fmt: skip
        proxy.faults = (refused(0.5, *(grpc.StatusCode[code] for code in codes)),)
        for _ in range(20):
            assert len(list(connection.lookup([key_of(connection, "k")]))) == 1
        assert proxy.counts["refused"] > 5

    def test_other_errors_are_told_at_once(self, connection: Connection, proxy: DatastoreProxy) -> None:
        proxy.faults = (refused(1.0, grpc.StatusCode.PERMISSION_DENIED),)
        for act in (lambda: list(connection.lookup([connection.key("K", "k")])), lambda: self.put(connection, ["k"])):
            with pytest.raises(UsageError, match=r"PERMISSION_DENIED.*accepted is an account"):
                act()
        assert proxy.counts["calls"] == 2

    def test_it_gives_up_at_its_deadline(self, connection: Connection, proxy: DatastoreProxy) -> None:
        connection.patience = Patience(deadline_seconds=0.5, first_pause_seconds=0.05)
        proxy.exhaust(30.0)
        began = time.monotonic()
        with pytest.raises(StoreFailed, match=r"did not do Lookup in 0\.5 s and \d+ tries.*RESOURCE_EXHAUSTED"):
            list(connection.lookup([connection.key("K", "k")]))
        assert time.monotonic() - began < 2

    def test_it_is_back_soon_after_the_other_side_is(self, connection: Connection, proxy: DatastoreProxy) -> None:
        """gRPC itself would pause longer and longer between two tries to connect, up to two minutes."""
        self.put(connection, ["k"])
        wanted = key_of(connection, "k")
        connection.patience = Patience(deadline_seconds=0.5, first_pause_seconds=0.05)
        with proxy.down():
            failed, until = 0, time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < until:
                with pytest.raises(StoreFailed):
                    list(connection.lookup([wanted]))
                failed += 1
        assert failed >= OUTAGE_SECONDS / 2
        connection.patience = Patience(deadline_seconds=2.5, first_pause_seconds=0.05, longest_pause_seconds=0.1)
        assert len(list(connection.lookup([wanted]))) == 1

    def test_slow_answers_are_waited_for(self, connection: Connection, proxy: DatastoreProxy) -> None:
        self.put(connection, ["k"])
        proxy.faults = (slow(1.0, 0.3),)
        assert len(list(connection.lookup([key_of(connection, "k")]))) == 1

    def test_workers_get_their_own(self, proxy: DatastoreProxy, datastore_uri: str) -> None:
        connection = connect(datastore_uri.partition("://")[2])
        assert connect(connection.project) is connect(connection.project, "(default)") is connection
        assert connect(connection.project, "other") is not connection
        assert pickle.loads(pickle.dumps(connection)) is connection

    def test_workers_get_one_that_is_as_patient(self, proxy: DatastoreProxy, datastore_uri: str) -> None:
        project = datastore_uri.partition("://")[2]
        hasty = connect(project, patience=Patience(1.5))
        assert hasty is connect(project, "(default)", Patience(1.5)) is not connect(project)
        assert pickle.loads(pickle.dumps(hasty)) is hasty
        assert hasty.patience.deadline_seconds == 1.5
