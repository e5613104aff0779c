"""The proxy puts in the faults that it is told to, counts them, and leaves everything else as the emulator has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import datastore
from grpc import StatusCode

from tests.emulators.datastore_proxy import DatastoreProxy, refused, reply_lost, slow
from tests.emulators.services import Datastore

pytestmark = pytest.mark.emulators


@pytest.fixture
def proxy(datastore_emulator: Datastore) -> Iterator[DatastoreProxy]:
    with DatastoreProxy(datastore_emulator.host, seed=7) as proxy:
        yield proxy


@pytest.fixture
def direct(datastore_uri: str) -> datastore.Client:
    """A client of the emulator itself, in the project that ``client`` reaches through the proxy."""
    return datastore.Client(datastore_uri.removeprefix("datastore://"), namespace="n")


@pytest.fixture
def client(proxy: DatastoreProxy, direct: datastore.Client, monkeypatch: pytest.MonkeyPatch) -> datastore.Client:
    monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
    return datastore.Client(direct.project, namespace="n")


def _put(client: datastore.Client, *names: str) -> None:
    """One commit, which the client does not repeat."""
    entities = [datastore.Entity(client.key("K", name), exclude_from_indexes=["x"]) for name in names]
    for entity in entities:
        entity["x"] = entity.key.name
    client.put_multi(entities)


def _names(client: datastore.Client) -> list[str]:
    query = client.query(kind="K")
    query.keys_only()
    return sorted(entity.key.name for entity in query.fetch())


def _failures(client: datastore.Client, calls: int) -> list[str]:
    """The names of the errors of so many commits, "" for those that passed."""
    found = []
    for number in range(calls):
        try:
            _put(client, f"c{number}")
            found.append("")
        except exceptions.GoogleAPICallError as error:
            found.append(type(error).__name__)
    return found


def test_without_faults_everything_passes(
    proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client
) -> None:
    _put(client, "a", "b")
    with client.transaction() as transaction:
        entity = client.get(client.key("K", "a"), transaction=transaction)
        entity["x"] = "ä" * 100_000
        transaction.put(entity)
    assert direct.get(direct.key("K", "a"))["x"] == "ä" * 100_000
    assert _names(client) == _names(direct) == ["a", "b"]
    _put(datastore.Client(client.project, namespace="other"), "z")
    assert _names(client) == ["a", "b"]
    assert (
        proxy.counts["calls"]
        == proxy.counts["forwarded"]
        == sum(proxy.counts[f"forwarded.{method}"] for method in ("Commit", "Lookup", "BeginTransaction", "RunQuery"))
    )
    assert (proxy.counts["forwarded.Commit"], proxy.counts["mutations"]) == (3, 4)


def test_the_emulator_s_own_errors_pass_unchanged(client: datastore.Client, direct: datastore.Client) -> None:
    said = []
    for each in (client, direct):
        with pytest.raises(exceptions.InvalidArgument) as refusal:
            _put(each, "good", "__reserved__")
        said.append(str(refusal.value))
    assert said[0] == said[1]


def test_a_share_of_calls_is_refused_and_not_carried_out(
    proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client
) -> None:
    proxy.faults = (refused(0.3, StatusCode.ABORTED, StatusCode.UNAVAILABLE, methods=("Commit",)),)
    failures = _failures(client, 100)
    assert {"", "Aborted", "ServiceUnavailable"} == set(failures)
    assert _names(direct) == sorted(f"c{number}" for number, failure in enumerate(failures) if not failure)
    assert proxy.counts["refused"] == 100 - failures.count("") == 100 - proxy.counts["forwarded"]
    assert 15 <= proxy.counts["refused"] <= 45  # four standard deviations
    _names(client)  # no other method is hit


def test_a_lost_reply_is_of_a_commit_that_was_carried_out(
    proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client
) -> None:
    proxy.faults = (reply_lost(0.5, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED),)
    failures = _failures(client, 40)
    assert {"", "ServiceUnavailable", "DeadlineExceeded"} == set(failures)
    assert len(_names(direct)) == 40
    assert proxy.counts["reply_lost"] == 40 - failures.count("")
    proxy.faults = (reply_lost(1.0, StatusCode.UNAVAILABLE),)
    with pytest.raises(exceptions.InvalidArgument):  # was not carried out: there is no reply of success to lose
        _put(client, "__reserved__")


def test_one_seed_draws_the_same_faults_again(datastore_emulator: Datastore, client: datastore.Client) -> None:
    seen = []
    for seed in (1, 1, 2):
        with DatastoreProxy(datastore_emulator.host, seed) as proxy, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
            proxy.faults = (refused(0.5, StatusCode.ABORTED, StatusCode.INTERNAL),)
            seen.append(_failures(datastore.Client(client.project), 30))
    assert seen[0] == seen[1] != seen[2]


def test_slow_calls(proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client) -> None:
    proxy.faults = (slow(1.0, 0.4, methods=("Commit",)),)
    before = time.monotonic()
    _put(client, "a")
    assert time.monotonic() - before >= 0.4
    with pytest.raises(exceptions.DeadlineExceeded):
        client.put(datastore.Entity(client.key("K", "b")), timeout=0.1)
    until = time.monotonic() + 5
    while "b" not in _names(direct) and time.monotonic() < until:
        time.sleep(0.05)
    assert _names(direct) == ["a", "b"], "late, but carried out"
    assert proxy.counts["slow"] == 2


def test_everything_is_exhausted_for_a_time(proxy: DatastoreProxy, client: datastore.Client) -> None:
    proxy.exhaust(0.5)
    for call in (lambda: _put(client, "a"), lambda: client.transaction().begin()):
        with pytest.raises(exceptions.ResourceExhausted):
            call()
    assert (proxy.counts["exhausted"], proxy.counts["forwarded"]) == (2, 0)
    time.sleep(0.5)
    _put(client, "a")


def test_writes_above_the_limit_are_refused(
    proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client
) -> None:
    proxy.writes_per_second = 50
    began = time.monotonic()
    passed = 0
    while time.monotonic() - began < 1.5:
        with contextlib.suppress(exceptions.ResourceExhausted):
            _put(client, *(f"{passed}-{i}" for i in range(10)))
            passed += 10
    # The burst, and what the bucket gained; less what a last commit of 10 could not use.
    assert 50 + 1.5 * 50 - 20 <= passed <= 50 + 50 * (time.monotonic() - began)
    assert len(_names(direct)) == passed == proxy.counts["mutations"]
    assert proxy.counts["limited"] > 0
    with pytest.raises(exceptions.ResourceExhausted):
        _put(client, *(f"x{i}" for i in range(51)))


def test_an_outage_cuts_calls_in_flight_and_ends(
    proxy: DatastoreProxy, client: datastore.Client, direct: datastore.Client
) -> None:
    _put(client, "a")
    proxy.faults = (slow(1.0, 0.5),)
    cut: list[Exception] = []

    def write() -> None:
        try:
            _put(client, "b")
        except exceptions.GoogleAPICallError as error:
            cut.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while not proxy.counts["slow"]:
        time.sleep(0.01)
    host = proxy.host
    with proxy.down():
        thread.join(timeout=10)
        assert isinstance(cut[0], exceptions.ServiceUnavailable | exceptions.Cancelled)
        with pytest.raises(exceptions.ServiceUnavailable):
            _put(client, "c")
    proxy.faults = ()
    assert proxy.host == host
    until = time.monotonic() + 10  # the client's channel tries again after a second
    while "d" not in _names(direct) and time.monotonic() < until:
        with contextlib.suppress(exceptions.ServiceUnavailable):
            _put(client, "d")
    assert "d" in _names(direct) and "c" not in _names(direct)


def test_a_process_of_its_own_reaches_it(proxy: DatastoreProxy, client: datastore.Client) -> None:
    code = (
        "from google.cloud import datastore\n"
        f"client = datastore.Client({client.project!r}, namespace='n')\n"
        "client.put(datastore.Entity(client.key('K', 'theirs')))"
    )
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=True, timeout=60)
    assert _names(client) == ["theirs"]
    assert proxy.counts["forwarded.Commit"] == 1


def test_other_services_are_unknown(proxy: DatastoreProxy) -> None:
    with grpc.insecure_channel(proxy.host) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/google.firestore.v1.Firestore/Commit")(b"")
    assert refusal.value.code() is StatusCode.UNIMPLEMENTED
