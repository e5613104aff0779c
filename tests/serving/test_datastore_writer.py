"""The writer against the emulators, with faults in between: the proxy's, and those put into single calls."""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from google.cloud.datastore_v1 import types
from grpc import RpcError
from grpc import StatusCode as Code
from hypothesis import given
from hypothesis import strategies as st

from serving.commit_window import CommitWindow
from serving.datastore_client import Connection, Patience
from serving.datastore_writer import (
    LATENCIES,
    MAX_BYTES,
    MAX_ENTITIES,
    Refused,
    Writer,
    cut,
    latency_quantile,
)  # fmt: skip
from serving.entity_bytes import KIND, Namespace, Records, deletes, upserts
from serving.rate_budget import Ramp, RateBudget
from serving.store import StoreFailed, utc_now
from transforms import schema
from transforms.errors import UsageError

if TYPE_CHECKING:
    from tests.emulators.services import Datastore

EXPIRE_AT = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
AT_ONCE = Patience(deadline_seconds=60, first_pause_seconds=0.001, longest_pause_seconds=0.05)


def predictions(ids: list[str]) -> pa.RecordBatch:
    rows = len(ids)
    of_type = {
        schema.Type.STRING: pa.array(["m1"] * rows),
        schema.Type.INT: pa.array(np.arange(rows) % 10 + 1),
        schema.Type.FLOAT: pa.array(np.arange(rows) / 7),
        schema.Type.DATE: pa.array([datetime.date(2011, 12, 10)] * rows),
    }
    columns = {column.name: of_type[column.type] for column in schema.PREDICTIONS} | {"customer_id": pa.array(ids)}
    return pa.RecordBatch.from_pydict(columns, schema=schema.arrow_schema(schema.PREDICTIONS))


def unlimited() -> RateBudget:
    return RateBudget(None, utc_now())


class Answer(RpcError):
    """An error as a store would answer it."""

    def __init__(self, code: Code, details: str = "so it is") -> None:
        self._code, self._details = code, details

    def code(self) -> Code:
        return self._code

    def details(self) -> str:
        return self._details


class Faulty:
    """A store in memory behind ``Connection``'s interface, whose every commit passes ``fault`` first."""

    project, database, uri = "test-project", "", "datastore://test-project"

    def __init__(self, fault: Callable[[Faulty, list[str]], None] = lambda store, ids: None) -> None:
        self.fault = fault
        self.commits: list[list[str]] = []
        self.stored: Counter[str] = Counter()
        self.calls = self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def commit(self, request: bytes, timeout: float) -> bytes:
        ids = [mutation.upsert.key.path[0].name for mutation in types.CommitRequest.pb().FromString(request).mutations]
        with self._lock:
            self.calls += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.fault(self, ids)
            with self._lock:
                self.commits.append(ids)
                self.stored.update(ids)
        finally:
            with self._lock:
                self.under_way -= 1
        return b""


def records_of(ids: list[str]) -> Records:
    return upserts(predictions(ids), Namespace("test-project", "", "g.1"), EXPIRE_AT)


IDS = [f"c{number}" for number in range(2_345)]


class TestCut:
    @given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 8), st.integers(1, 100))
    def test_commits_are_whole_in_order_and_bounded(self, sizes: list[int], entities: int, size: int) -> None:
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        commits = list(cut(offsets, entities, size))
        assert [n for first, end in commits for n in range(first, end)] == list(range(len(sizes)))
        for first, end in commits:
            assert end - first <= entities
            assert offsets[end] - offsets[first] <= size or end == first + 1
            # One more would not have fitted.
            assert end == len(sizes) or end - first == entities or offsets[end + 1] - offsets[first] > size

    def test_the_limits_are_datastores(self) -> None:
        assert (MAX_ENTITIES, MAX_BYTES) == (500, 3_500_000)


class TestWindow:
    def test_it_halves_once_a_round_and_grows_by_one_a_round(self) -> None:
        window = CommitWindow(8)
        with window.one() as one, window.one() as two:
            one.pushed_back()
            two.pushed_back()  # begun before the halving: says nothing new
        assert window.limit == 4
        for expected in (4, 2, 1, 1):
            assert window.limit == expected
            with window.one() as slot:
                slot.pushed_back()
        for expected, successes in ((2, 1), (3, 3), (8, 100)):
            for _ in range(successes):
                with window.one() as slot:
                    slot.done()
            assert window.limit == expected


class TestWriter:
    def test_every_entity_once_in_full_commits_on_several_threads(self) -> None:
        store = Faulty(lambda store, ids: time.sleep(0.02))
        outcome = Writer(store, unlimited(), in_flight=4).write(records_of(IDS))
        assert store.stored == Counter(IDS)
        assert sorted(map(len, store.commits)) == [345, 500, 500, 500, 500]
        assert store.most_under_way == 4
        figures = outcome.figures
        assert (outcome.refused, figures["entities"], figures["commits"]) == ((), 2_345, 5)
        assert figures["bytes"] > len(records_of(IDS).data)
        assert 0.1 <= figures["latency_seconds"]
        assert latency_quantile(figures, 0.5) in LATENCIES[2:]

    def test_nothing_is_written_of_nothing(self) -> None:
        store = Faulty()
        assert Writer(store, unlimited()).write(records_of([])).figures == {}
        assert not store.calls

    @pytest.mark.parametrize(
        "code",
        [
            Code.ABORTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL,
            Code.CANCELLED, Code.UNKNOWN,
        ],
    )  # fmt: skip
    def test_what_may_pass_is_tried_again(self, code: Code) -> None:
        def fault(store: Faulty, ids: list[str]) -> None:
            if store.calls % 2:
                raise Answer(code)

        store = Faulty(fault)
        outcome = Writer(store, unlimited(), in_flight=1, patience=AT_ONCE).write(records_of(IDS))
        assert store.stored == Counter(IDS)
        assert outcome.figures["retries"] == outcome.figures[f"retries_{code.name}"] == 5

    def test_a_store_that_pushes_back_gets_fewer_commits_at_once_and_later_more(self) -> None:
        def fault(store: Faulty, ids: list[str]) -> None:
            time.sleep(0.005)
            if store.under_way > 2:
                raise Answer(Code.RESOURCE_EXHAUSTED)

        store = Faulty(fault)
        writer = Writer(store, unlimited(), in_flight=8, patience=AT_ONCE)
        outcome = writer.write(records_of([f"c{number}" for number in range(20_000)]))
        assert len(store.stored) == 20_000
        assert writer.window.limit <= 4
        assert outcome.figures["retries"] < 40
        store.fault = lambda store, ids: None
        writer.write(records_of([f"c{number}" for number in range(40_000)]))
        assert writer.window.limit == 8

    def test_the_deadline_ends_it_with_what_was_said_and_no_thread_is_left(self) -> None:
        def fault(store: Faulty, ids: list[str]) -> None:
            if "c7" in ids:
                raise Answer(Code.UNAVAILABLE, "come\nback later")

        store = Faulty(fault)
        patience = Patience(deadline_seconds=0.3, first_pause_seconds=0.01, longest_pause_seconds=0.05)
        began = time.monotonic()
        with pytest.raises(
            StoreFailed,
            match=r"datastore://test-project did not take a commit of 500 entities in 0.3 s and \d+ tries; "
            "the last answer was UNAVAILABLE: come back later$",
        ):
            Writer(store, unlimited(), patience=patience).write(records_of(IDS))
        assert 0.3 <= time.monotonic() - began < 5
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("datastore-writer")]

    @pytest.mark.parametrize(
        ("code", "advice"),
        [
            (Code.PERMISSION_DENIED, "roles/datastore.user"),
            (Code.UNAUTHENTICATED, "gcloud auth application-default login"),
            (Code.NOT_FOUND, "gcloud firestore databases create"),
            (Code.FAILED_PRECONDITION, "Datastore mode"),
        ],
    )
    def test_what_a_person_mends_ends_it_at_once(self, code: Code, advice: str) -> None:
        def fault(store: Faulty, ids: list[str]) -> None:
            if store.calls == 5:
                raise Answer(code)
            time.sleep(0.01)

        store = Faulty(fault)
        with pytest.raises(UsageError, match=advice) as error:
            Writer(store, unlimited(), in_flight=2).write(records_of([f"c{number}" for number in range(50_000)]))
        assert "\n" not in str(error.value)
        assert store.calls <= 8, "the others are not sent any more"

    def test_a_store_that_refuses_everything_is_not_asked_for_every_entity(self) -> None:
        def refuse(store: Faulty, ids: list[str]) -> None:
            raise Answer(Code.INVALID_ARGUMENT, "the project is not this one")

        store = Faulty(refuse)
        with pytest.raises(UsageError, match="refused each of the first 100 entities: the project is not this one"):
            Writer(store, unlimited(), in_flight=1).write(records_of(IDS))
        assert store.calls < 300

    def test_an_error_does_not_wait_for_the_rate(self) -> None:
        def fault(store: Faulty, ids: list[str]) -> None:
            raise Answer(Code.PERMISSION_DENIED)

        began = time.monotonic()
        with pytest.raises(UsageError):
            Writer(Faulty(fault), RateBudget(Ramp(1, 0, 5), utc_now())).write(records_of(IDS))
        assert time.monotonic() - began < 5

    def test_the_rate_is_kept_and_commits_are_no_more_than_a_seconds_worth(self) -> None:
        store = Faulty()
        began = time.monotonic()
        outcome = Writer(store, RateBudget(Ramp(2_000, 0, 5), utc_now(), share=0.1)).write(records_of(IDS[:500]))
        assert 1.4 < time.monotonic() - began < 6
        assert max(map(len, store.commits)) <= 200
        assert outcome.figures["throttled_seconds"] > 1

    @given(st.sets(st.integers(0, 1_199), max_size=30))
    def test_of_bad_entities_each_is_found_and_all_others_are_stored(self, bad: set[int]) -> None:
        names = {f"c{number}" for number in bad}

        def fault(store: Faulty, ids: list[str]) -> None:
            if refused := names.intersection(ids):
                raise Answer(Code.INVALID_ARGUMENT, f"no\n {min(refused)}")

        store = Faulty(fault)
        outcome = Writer(store, unlimited()).write(records_of(IDS[:1_200]))
        assert outcome.refused == tuple(Refused(number, f"no c{number}") for number in sorted(bad))
        assert store.stored == Counter(set(IDS[:1_200]) - names)
        assert outcome.figures.get("refused", 0) == len(bad)
        assert outcome.figures.get("bisections", 0) <= len(bad) * 9


@pytest.fixture
def connection(datastore_emulator: Datastore, datastore_uri: str) -> Iterator[Connection]:
    connection = Connection(datastore_uri.removeprefix("datastore://"), patience=AT_ONCE)
    yield connection
    connection.close()


def stored(connection: Connection) -> dict[str, dict[str, Any]]:
    """Id -> properties, read by Google's own client."""
    from google.cloud import datastore

    client = datastore.Client(project=connection.project)
    query = client.query(kind=KIND, namespace="g.1")
    query.keys_only()
    keys = [entity.key for entity in query.fetch()]
    # By key: one emulator fills a query's page beyond what that client takes.
    parts = [client.get_multi(keys[first : first + 500]) for first in range(0, len(keys), 500)]
    return {entity.key.name: dict(entity) for part in parts for entity in part}


def expected(batch: pa.RecordBatch) -> dict[str, dict[str, Any]]:
    midnight = {"as_of": datetime.datetime(2011, 12, 10, tzinfo=datetime.UTC), "expire_at": EXPIRE_AT}
    return {row["customer_id"]: row | midnight for row in batch.to_pylist()}


@pytest.mark.emulators
class TestOnEmulators:
    def test_upserts_and_deletions(self, connection: Connection) -> None:
        at, batch = Namespace(connection.project, "", "g.1"), predictions([*IDS, "ü" * 700, "\U0001f600", " "])
        writer = Writer(connection, unlimited())
        assert writer.write(upserts(batch, at, EXPIRE_AT)).refused == ()
        assert stored(connection) == expected(batch)
        assert writer.write(deletes(batch["customer_id"].slice(3), at)).figures["commits"] == 5
        assert set(stored(connection)) == set(IDS[:3])

    def test_what_the_store_refuses_is_found_among_the_others(self, connection: Connection) -> None:
        at, bad = Namespace(connection.project, "", "g.1"), {17: "__reserved__", 900: "", 901: "x" * 1501}
        ids = [bad.get(number, text) for number, text in enumerate(IDS)]
        batch = predictions(ids)
        outcome = Writer(connection, unlimited()).write(upserts(batch, at, EXPIRE_AT))
        found = {refused.row for refused in outcome.refused}
        assert found and found <= set(bad)  # which of them, the emulators do not agree
        assert stored(connection).keys() == {text for row, text in enumerate(ids) if row not in found}
        assert all(refused.detail and "\n" not in refused.detail for refused in outcome.refused)

    def test_all_that_goes_wrong_at_once(self, datastore_emulator: Datastore, connection: Connection) -> None:
        from tests.emulators.datastore_proxy import DatastoreProxy, refused, reply_lost, slow

        passing = (Code.ABORTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        batch = predictions([f"c{number}" for number in range(10_000)])
        with DatastoreProxy(datastore_emulator.host) as proxy, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
            through = Connection(connection.project)
            proxy.faults = (refused(0.2, *passing), reply_lost(0.2, *passing), slow(0.1, 3.0))
            proxy.exhaust(1.0)
            writer = Writer(through, unlimited(), patience=AT_ONCE, call_seconds=2.0)
            outcome = writer.write(upserts(batch, Namespace(connection.project, "", "g.1"), EXPIRE_AT))
            through.close()
            assert min(proxy.counts[fault] for fault in ("refused", "reply_lost", "exhausted")) > 0
        assert outcome.refused == ()
        assert outcome.figures["entities"] == 10_000
        assert outcome.figures["retries"] >= proxy.counts["refused"] + proxy.counts["exhausted"]
        assert stored(connection) == expected(batch)
