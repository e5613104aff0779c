"""The contract on both of Google's emulators, and what only Datastore can get wrong."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
from google.cloud import datastore

from serving import datastore_rows, datastore_store
from serving.datastore_client import connect
from serving.datastore_store import DatastoreStore
from serving.datastore_writer import Outcome, Writer
from serving.entity_bytes import Namespace, Records
from serving.rate_budget import Ramp, RateBudget
from serving.store import (
    Content,
    Generation,
    PointerMoved,
    RowCountMismatch,
    State,
    Store,
    StoreFailed,
    Writing,
    open_store,
)
from tests.emulators.datastore_proxy import DatastoreProxy, refused, reply_lost, slow
from tests.serving.store_contract import (
    AS_OF,
    START,
    SteppingClock,
    StoreContract,
    batch_of,
    begin,
    fill,
    generation,
    names_of,
    prediction,
)
from transforms import schema
from transforms.errors import UsageError

if TYPE_CHECKING:
    from tests.emulators.services import Datastore

pytestmark = pytest.mark.emulators
UNAVAILABLE, ABORTED, DEADLINE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


class TestDatastoreStore(StoreContract):
    @pytest.fixture
    def open_store(self, datastore_uri: str, clock: SteppingClock) -> Callable[[], Store]:
        return partial(open_store, datastore_uri, create=True, clock=clock)


@pytest.fixture(autouse=True)
def one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulators count what was written last: what is too low stays so."""
    monkeypatch.setattr(datastore_store, "COUNT_PAUSES", ())


@pytest.fixture
def store(datastore_uri: str) -> Iterator[Store]:
    with open_store(datastore_uri, create=True) as store:
        yield store


@pytest.fixture
def google(datastore_uri: str) -> datastore.Client:
    """Google's own client, on the same store."""
    return datastore.Client(project=project_of(datastore_uri))


@pytest.fixture
def proxy(datastore_emulator: Datastore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatastoreProxy]:
    """Stands between the emulator and every store opened from now on."""
    with DatastoreProxy(datastore_emulator.host) as proxy:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
        yield proxy


def project_of(uri: str) -> str:
    return uri.partition("://")[2]


def entities(google: datastore.Client, namespace: str = "", kind: str = "CustomerValue") -> list[datastore.Entity]:
    return list(google.query(kind=kind, namespace=namespace).fetch())


def of_generation(google: datastore.Client, name: str, attempts: int = 3) -> dict[str, int]:
    """Rows by the namespace they are in."""
    counts = {f"{name}.{attempt}": len(entities(google, f"{name}.{attempt}")) for attempt in range(1, attempts + 1)}
    return {namespace: count for namespace, count in counts.items() if count}


class TestLayout:
    NAME = "2011-12-10-0a1b2c3d4e5f"

    def test_rows(self, datastore_uri: str, google: datastore.Client) -> None:
        ttl = timedelta(days=7)
        with open_store(datastore_uri, create=True, clock=SteppingClock(), writing=Writing(ttl=ttl)) as store:
            fill(store, self.NAME, [prediction("c1", 2.5), prediction("Zoë/名", -0.0)])
            found = store.find(self.NAME)
        assert found is not None and found.begun_at is not None
        for customer_id, value in (("c1", 2.5), ("Zoë/名", -0.0)):
            key = google.key("CustomerValue", customer_id, namespace=f"{self.NAME}.1")
            entity = google.get(key)
            assert dict(entity) == prediction(customer_id, value) | {
                "as_of": datetime(2011, 12, 10, tzinfo=UTC),
                "expire_at": found.begun_at + ttl,
            }
            assert entity.exclude_from_indexes == {*schema.names(schema.PREDICTIONS), "expire_at"}
            assert entity.key.flat_path == ("CustomerValue", customer_id)
            assert entity.key.namespace == f"{self.NAME}.1"

    def test_records(self, store: Store, google: datastore.Client) -> None:
        fill(store, self.NAME, [prediction("c1", 2.5)])
        store.switch(self.NAME, None, {"zeros": "why"})
        root = google.key("CustomerValueServing", "predictions")
        pointer = google.get(root)
        record = google.get(google.key("CustomerValueGeneration", self.NAME, parent=root))
        assert (pointer["generation"], pointer["attempt"]) == (self.NAME, 1)
        assert {name: record[name] for name in ("state", "rows", "total_value", "zeros", "notes", "as_of")} == {
            "state": "sealed", "rows": 1, "total_value": 2.5, "zeros": 0, "notes": '{"zeros": "why"}',
            "as_of": datetime(2011, 12, 10, tzinfo=UTC),
        }  # fmt: skip
        for entity in (pointer, record):
            assert entity.exclude_from_indexes == set(entity), "no index is paid for"

    def test_two_attempts_do_not_mix(self, store: Store, google: datastore.Client) -> None:
        first = begin(store, "g1")
        store.write("g1", first, batch_of([prediction("c1"), prediction("stale")]))
        second = begin(store, "g1")
        store.write("g1", second, batch_of([prediction("c1", 2.0)]))
        assert of_generation(google, "g1") == {"g1.1": 2, "g1.2": 1}
        store.seal("g1", second, Content(1, 2.0), {})
        store.switch("g1", None)
        assert store.lookup_many(["c1", "stale"]) == {"c1": prediction("c1", 2.0) | {"generation": "g1"}}

    def test_other_databases_are_others(self, datastore_uri: str, datastore_emulator: Datastore) -> None:
        with open_store(datastore_uri) as default, open_store(f"{datastore_uri}/(default)") as same:
            fill(default, "g1", [prediction("c1")])
            assert names_of(same) == ["g1"]
        with open_store(f"{datastore_uri}/another") as other:
            if datastore_emulator.name == "firestore":  # the other emulator has one database only
                assert names_of(other) == []
                fill(other, "g2", [prediction("c1")])
                assert names_of(other) == ["g2"]
        with open_store(datastore_uri) as default:
            assert names_of(default) == ["g1"]


class TestStrangeEntities:
    """Rows that this program did not write, or that somebody changed."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [(name, value) for name in ("decile", "predicted_value", "model_version", "as_of", "expire_at") for value in (..., None)]
        + [
            ("decile", "3"), ("decile", 3.0), ("predicted_value", 1), ("predicted_value", "1"), ("model_version", 1),
            ("model_version", b"m1"), ("as_of", "2011-12-10"), ("as_of", 1), ("expire_at", "2099-01-01"), ("expire_at", 0),
        ],
    )  # fmt: skip
    def test_are_told_in_one_line(self, store: Store, google: datastore.Client, name: str, value: object) -> None:
        fill(store, "g1", [prediction("c1"), prediction("c 2")])
        store.switch("g1", None)
        served = store.current()
        assert served is not None
        entity = google.get(google.key("CustomerValue", "c 2", namespace="g1.1"))
        if value is ...:
            del entity[name]
        else:
            entity[name] = value
        google.put(entity)
        for act in (store.lookup_many, lambda ids: store.rows(served, ids)):
            assert set(act(["c1"])) == {"c1"}
            with pytest.raises(UsageError) as error:
                act(["c1", "c 2"])
            assert f"an entity CustomerValue in g1.1 has no {name}" in str(error.value)
            assert "\n" not in str(error.value)

    def test_what_a_later_version_adds_is_passed_over(self, store: Store, google: datastore.Client) -> None:
        fill(store, "g1", [prediction("c1")])
        entity = google.get(google.key("CustomerValue", "c1", namespace="g1.1"))
        entity["colour"] = "red"
        google.put(entity)
        assert store.read_back("g1", ["c1"]) == {"c1": prediction("c1") | {"generation": "g1"}}


class TestPatience:
    def test_a_reader_gives_up_when_it_said(self, store: Store, proxy: DatastoreProxy, datastore_uri: str) -> None:
        fill(store, "g1", [prediction("c1")])
        store.switch("g1", None)
        with open_store(datastore_uri, patience_seconds=0.7) as reader:
            served = reader.current()
            assert served is not None
            proxy.exhaust(60.0)
            for act in (reader.current, lambda: reader.rows(served, ["c1"]), lambda: reader.lookup("c1")):
                began = time.monotonic()
                with pytest.raises(
                    StoreFailed, match=r"in 0\.7 s and \d+ tries; the last answer was RESOURCE_EXHAUSTED"
                ):
                    act()
                assert time.monotonic() - began < 1.5
            proxy.exhaust(0.0)
            assert set(reader.rows(served, ["c1"])) == {"c1"}

    def test_an_answer_that_does_not_come_is_given_up_too(
        self, store: Store, proxy: DatastoreProxy, datastore_uri: str
    ) -> None:
        with open_store(datastore_uri, patience_seconds=1.0) as reader:
            assert reader.current() is None
            proxy.faults = (slow(1.0, 4.0),)
            began = time.monotonic()
            with pytest.raises(StoreFailed, match="DEADLINE_EXCEEDED"):
                reader.current()
            assert time.monotonic() - began < 3
            proxy.faults = ()

    def test_a_publish_stays_as_patient_as_it_was(self, datastore_uri: str) -> None:
        with open_store(datastore_uri) as patient, open_store(datastore_uri, patience_seconds=1.0) as reader:
            assert isinstance(patient, DatastoreStore) and isinstance(reader, DatastoreStore)
            assert patient._connection.patience.deadline_seconds == 300.0
            assert reader._connection.patience.deadline_seconds == 1.0


class TestExpiry:
    def test_rows_that_have_expired_are_not_served_though_they_are_there(self, datastore_uri: str) -> None:
        clock, ttl = SteppingClock(), timedelta(days=60)
        with open_store(datastore_uri, clock=clock) as store:
            fill(store, "g1", [prediction("c1")])
            store.switch("g1", None)
            found = store.find("g1")
            assert found is not None and found.begun_at is not None
            clock.now = found.begun_at + ttl - timedelta(seconds=2)
            assert store.lookup("c1") is not None
            assert store.lookup("c1") is None
            assert store.read_back("g1", ["c1"])

    def test_nor_are_those_of_a_generation_that_a_reader_still_believes_in(self, datastore_uri: str) -> None:
        clock, ttl = SteppingClock(), timedelta(days=60)
        with open_store(datastore_uri, clock=clock) as store:
            fill(store, "g1", [prediction("c1")])
            store.switch("g1", None)
            served = store.current()
            assert served is not None and served.begun_at is not None
            clock.now = served.begun_at + ttl - timedelta(seconds=2)
            assert set(store.rows(served, ["c1"])) == {"c1"}
            assert store.rows(served, ["c1"]) == {}

    def test_mended_rows_expire_with_the_generation_they_belong_to(
        self, datastore_uri: str, google: datastore.Client
    ) -> None:
        clock = SteppingClock()
        with open_store(datastore_uri, clock=clock) as store:
            fill(store, "g1", [prediction("c1")])
        clock.now += timedelta(days=20)
        with open_store(datastore_uri, clock=clock, writing=Writing(ttl=timedelta(days=1))) as later:
            later.add("g1", batch_of([prediction("c2")]))
        one, other = (entity["expire_at"] for entity in entities(google, "g1.1"))
        assert one == other == START + timedelta(days=60, seconds=1)


class TestPublishingAnewAfterExpiry:
    TTL = timedelta(days=60)

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

    @pytest.fixture
    def store(self, datastore_uri: str, clock: SteppingClock) -> Iterator[Store]:
        with open_store(datastore_uri, clock=clock, writing=Writing(ttl=self.TTL)) as store:
            yield store

    def test_nothing_is_switched_to_that_would_serve_nobody(self, store: Store, clock: SteppingClock) -> None:
        fill(store, "g1", [prediction("c1")])
        found = store.find("g1")
        assert found is not None and found.begun_at is not None
        assert found.expires_at == found.begun_at + self.TTL
        clock.now = found.expires_at - timedelta(seconds=2)
        assert not found.has_expired(clock())
        with pytest.raises(UsageError, match=r"'g1' expired on 2026-03-02 and would serve nobody: publish its pred"):
            store.switch("g1", None)
        assert store.current() is None

    def test_a_former_one(self, store: Store, clock: SteppingClock) -> None:
        rows = [prediction("c1"), prediction("c2")]
        fill(store, "g1", rows)
        store.switch("g1", None)
        clock.now += self.TTL / 2
        fill(store, "g2", rows)
        store.switch("g2", "g1")
        assert store.begin(generation("g1")) is None, "not yet"
        clock.now += self.TTL / 2
        before = store.find("g1")
        assert begin(store, "g1") == 2
        begun = store.find("g1")
        assert before is not None and begun is not None and not begun.has_expired(clock.now)
        assert (begun.published_at, begun.content) == (before.published_at, before.content)
        assert not begun.was_current()
        assert store.read_back("g1", ["c1"]) == {}
        store.write("g1", 2, batch_of(rows))
        store.seal("g1", 2, Content(2, 2.0), {})
        store.switch("g1", "g2")
        assert store.lookup("c1") == rows[0] | {"generation": "g1"}

    def test_the_current_one(self, store: Store, clock: SteppingClock, google: datastore.Client) -> None:
        rows = [prediction("c1")]
        fill(store, "g1", rows)
        store.switch("g1", None)
        served = store.current()
        assert served is not None and store.begin(generation("g1")) is None
        clock.now += self.TTL
        for attempt in (2, 3):  # the second publish finds what the first one, killed, left
            assert begin(store, "g1") == attempt
            store.write("g1", attempt, batch_of(rows))
            assert store.current() == replace_known(store.find("g1"), served)
            assert store.rows(served, ["c1"]) == {}, "what is staged is nobody's yet"
        store.expire(keep=0)
        assert of_generation(google, "g1") == {"g1.1": 1, "g1.3": 1}, (
            "the attempt overtaken is neither served nor staged"
        )
        store.seal("g1", 3, Content(1, 1.0), {})
        assert store.begin(generation("g1")) is None
        current = store.current()
        assert current is not None and current.has_expired(clock()), "staged, and not switched to yet"
        assert store.lookup("c1") is None
        store.switch("g1", "g1")
        current = store.current()
        assert current is not None and current == store.find("g1") and not current.has_expired(clock())
        assert store.lookup("c1") == rows[0] | {"generation": "g1"}
        store.expire(keep=0)
        assert of_generation(google, "g1") == {"g1.3": 1}


def replace_known(record: Generation | None, served: Generation) -> Generation:
    """What is served, as a record of a later attempt has it."""
    assert record is not None
    return replace(served, begun_at=record.begun_at, sealed_at=None)


class TestOtherVersions:
    def entities(self, google: datastore.Client) -> list[datastore.Entity]:
        root = google.key("CustomerValueServing", "predictions")
        found = [google.get(key) for key in (root, google.key("CustomerValueGeneration", "g1", parent=root))]
        return [entity for entity in found if entity is not None]

    def test_what_a_later_version_adds_is_ignored(self, store: Store, google: datastore.Client) -> None:
        fill(store, "g1", [prediction("c1")])
        store.switch("g1", None)
        before = store.current()
        for entity in self.entities(google):
            assert entity["layout"] == 1
            entity.update({"their_own": ["a", 1], "nothing": None})
            google.put(entity)
        assert store.current() == store.find("g1") == before
        assert store.lookup("c1") is not None

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layout": 2}, r"was written by a newer version of this program: its layout is 2, accepted is up to 1$"),
            ({"attempt": None}, r"was not written by this program: accepted is a database without it$"),
        ],
    )
    def test_what_cannot_be_read_is_said_in_one_line(
        self, store: Store, google: datastore.Client, which: int, change: dict[str, int | None], message: str
    ) -> None:
        fill(store, "g1", [prediction("c1")])
        store.switch("g1", None)
        entity = self.entities(google)[which]
        for name, value in change.items():
            if value is None:
                del entity[name]
            else:
                entity[name] = value
        google.put(entity)
        what = ("CustomerValueServing 'predictions'", "CustomerValueGeneration 'g1'")[which]
        acts = [store.current, store.generations, lambda: store.switch("g1", "g1")]
        for act in [*acts, lambda: store.lookup("c1")] if which == 0 else [*acts, lambda: store.find("g1")]:
            with pytest.raises(UsageError, match=rf"^datastore://test-\w+: the entity {what} {message}"):
                act()


class TestDeletion:
    def test_nothing_is_left_of_a_generation(self, store: Store, google: datastore.Client) -> None:
        for _ in range(3):
            attempt = begin(store, "g1")
            store.write("g1", attempt, batch_of([prediction(f"c{i}") for i in range(1201)]))
        store.delete("g1")
        assert of_generation(google, "g1") == {}

    def test_attempts_that_were_overtaken_go_when_generations_expire(
        self, store: Store, google: datastore.Client
    ) -> None:
        for name in ("g1", "g2"):
            for _ in range(2):
                store.write(name, begin(store, name), batch_of([prediction("c1")]))
        for name in ("g1", "g2"):
            store.write(name, begin(store, name), batch_of([prediction("c1")]))
        store.seal("g1", 3, Content(1, 1.0), {})
        store.switch("g1", None)
        assert store.expire() == []
        assert of_generation(google, "g1") == {"g1.3": 1}
        assert of_generation(google, "g2") == {"g2.3": 1}, "in the making"

    def test_a_deletion_that_was_killed_is_finished(
        self, store: Store, google: datastore.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(store, "g1", [prediction("c1")])
        fill(store, "g2", [prediction(f"c{i}") for i in range(20)])
        store.switch("g1", None)
        with monkeypatch.context() as patch:
            patch.setattr(datastore_rows, "delete_rows", killed)
            with pytest.raises(KeyboardInterrupt):
                store.delete("g2")
        found = store.find("g2")
        assert found is not None and found.state is State.DELETING
        with pytest.raises(UsageError, match="'g2' is deleting: only a sealed one"):
            store.switch("g2", "g1")
        assert store.expire() == ["g2"]
        assert (names_of(store), of_generation(google, "g2")) == (["g1"], {})

    def test_who_was_overtaken_cannot_delete_what_is_published_anew(
        self, datastore_uri: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A deletion halts before its first row; another finishes it, and the generation is published again."""
        fill(store, "g1", [prediction("old")])
        delete_rows = datastore_rows.delete_rows

        def halted(*arguments: object) -> None:
            monkeypatch.setattr(datastore_rows, "delete_rows", delete_rows)
            with open_store(datastore_uri) as other:
                other.delete("g1")
                fill(other, "g1", [prediction("new")])
                other.switch("g1", None)
            delete_rows(*arguments)

        monkeypatch.setattr(datastore_rows, "delete_rows", halted)
        store.delete("g1")
        assert store.lookup_many(["old", "new"]).keys() == {"new"}
        current = store.current()
        assert current is not None and current.state is State.SEALED

    def test_a_generation_being_deleted_can_be_published_again(
        self, store: Store, google: datastore.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(store, "g1", [prediction("old")])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(datastore_rows, "delete_rows", killed)
            store.delete("g1")
        fill(store, "g1", [prediction("new")])
        store.switch("g1", None)
        store.expire()
        assert store.lookup_many(["old", "new"]).keys() == {"new"}
        assert of_generation(google, "g1") == {"g1.2": 1}

    def test_numbers_of_attempts_are_remembered_for_as_long_as_rows_may_live(
        self, datastore_uri: str, google: datastore.Client
    ) -> None:
        clock = SteppingClock()
        with open_store(datastore_uri, clock=clock) as store:
            fill(store, "g1", [prediction("c1")])
            store.delete("g1")
            clock.now += timedelta(days=59)
            store.expire()
            assert begin(store, "g1") == 2
            store.delete("g1")
            clock.now += timedelta(days=61)
            store.expire()
        assert entities(google, kind="CustomerValueGeneration") == []

    def test_rows_are_deleted_in_ranges_and_the_first_error_ends_it(
        self, datastore_uri: str, datastore_emulator: Datastore, store: Store, google: datastore.Client
    ) -> None:
        fill(store, "g1", [prediction(f"c{i}") for i in range(2000)])
        connection = connect(project_of(datastore_uri))
        at = Namespace(connection.project, "", "g1.1")
        sizes: list[int] = []

        class Told(Writer):
            def write(self, records: Records) -> Outcome:
                sizes.append(len(records))
                if failing:
                    raise StoreFailed("it fails")
                return super().write(records)

        writer, failing = Told(connection, RateBudget(None, START)), True
        with pytest.raises(StoreFailed, match="it fails"):
            datastore_rows.delete_rows(connection, at, writer)
        failing = False
        sizes.clear()
        datastore_rows.delete_rows(connection, at, writer)
        assert sum(sizes) == 2000
        # Firestore's emulator has no __scatter__: there it is one range.
        assert len(sizes) == (datastore_rows.PARTS_DELETED if datastore_emulator.name == "datastore" else 1)
        assert of_generation(google, "g1") == {}


def killed(*_: object) -> None:
    raise KeyboardInterrupt


class TestCounting:
    @pytest.mark.parametrize("parts", [1, 2, 7])
    def test_in_ranges_of_keys(self, datastore_uri: str, store: Store, parts: int) -> None:
        ids = [f"{i:x}{'é' * (i % 3)}" for i in range(1100)]
        fill(store, "g1", [prediction(customer_id) for customer_id in ids])
        connection = connect(project_of(datastore_uri))
        at = Namespace(connection.project, "", "g1.1")
        keys = sorted(
            (connection.key("CustomerValue", i, namespace="g1.1") for i in ids), key=lambda k: k.path[0].name.encode()
        )
        bounds = [None, *keys[:: len(keys) // parts][1:parts], None]
        counts = [
            connection.count(datastore_rows._keys_between(start, end), at.name)
            for start, end in itertools.pairwise(bounds)
        ]
        assert (len(counts), sum(counts)) == (parts, len(ids))
        assert min(counts) >= len(ids) // parts

    def test_ranges_are_of_about_one_size_and_cover_everything(
        self, datastore_uri: str, datastore_emulator: Datastore, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(store, "g1", [prediction(f"c{i}") for i in range(900)])
        connection = connect(project_of(datastore_uri))
        at = Namespace(connection.project, "", "g1.1")
        ranges = datastore_rows.ranges(connection, at, 4)
        sizes = [connection.count(datastore_rows._keys_between(*between), at.name) for between in ranges]
        # Firestore's emulator has no __scatter__: there it is one range.
        assert len(sizes) == (4 if datastore_emulator.name == "datastore" else 1)
        assert sum(sizes) == 900
        assert len(sizes) == 1 or min(sizes) > 90
        monkeypatch.setattr(datastore_rows, "ROWS_PER_COUNT", 100)
        assert datastore_rows.count_rows(connection, at, 900) == 900


class TestRefused:
    def test_a_row_the_store_refuses_is_a_dead_letter_and_its_neighbours_are_stored(self, store: Store) -> None:
        rows = [prediction(f"c{i}") for i in range(700)]
        rows[300] = prediction("__reserved__", 3.0)
        attempt = begin(store, "g1")
        written = store.write("g1", attempt, batch_of(rows))
        (letter,) = written.refused
        assert (letter.stage, letter.reason, letter.payload) == ("store", "refused_by_store", rows[300])
        assert letter.detail and "\n" not in letter.detail
        assert written.figures["entities"] == 699
        assert written.figures["bisections"] > 0
        store.seal("g1", attempt, Content(699, 699.0), {"refused_by_store": 1})

    def test_writes_keep_to_the_ramp(self, datastore_uri: str) -> None:
        with open_store(datastore_uri, writing=Writing(Ramp(400, 50, 5), share=0.5)) as store:
            attempt = begin(store, "g1")
            began = datetime.now(UTC)
            for part in range(3):
                store.write("g1", attempt, batch_of([prediction(f"c{part}-{i}") for i in range(200)]))
            assert timedelta(seconds=0.9) < datetime.now(UTC) - began < timedelta(seconds=10)


class TestFaults:
    """Every change of a record is known to be one's own when the answer to it was lost."""

    @pytest.fixture
    def store(self, datastore_uri: str, proxy: DatastoreProxy) -> Iterator[Store]:
        with open_store(datastore_uri, create=True) as store:
            yield store

    def losing(self, proxy: DatastoreProxy, act: Callable[[], object], code: grpc.StatusCode) -> object:
        """Does it while the first commit's answer is lost."""
        proxy.faults = (reply_lost(1.0, code, methods=("Commit",)),)
        timer = threading.Thread(target=until_lost, args=(proxy, proxy.counts["reply_lost"]))
        timer.start()
        try:
            return act()
        finally:
            timer.join()
            assert not proxy.faults, "no answer was lost"

    @pytest.mark.parametrize("code", [UNAVAILABLE, DEADLINE, ABORTED])
    def test_answers_that_are_lost(self, store: Store, proxy: DatastoreProxy, code: grpc.StatusCode) -> None:
        assert self.losing(proxy, lambda: store.begin(generation("g1")), code) == 1
        store.write("g1", 1, batch_of([prediction("c1")]))
        self.losing(proxy, lambda: store.seal("g1", 1, Content(1, 1.0), {}), code)
        self.losing(proxy, lambda: store.switch("g1", None), code)
        self.losing(proxy, lambda: store.amend("g1", Content(1, 1.0), {"negative": 2}), code)
        current = store.current()
        assert current is not None and current.dead_letters == {"negative": 2} and current.attempt == 1
        fill(store, "g2", [prediction("c1")])
        self.losing(proxy, lambda: store.switch("g2", "g1"), code)
        self.losing(proxy, lambda: store.delete("g1"), code)
        assert names_of(store) == ["g2"]

    def test_an_answer_is_lost_and_another_publish_follows_at_once(
        self,
        store: Store,
        proxy: DatastoreProxy,
        datastore_uri: str,
        datastore_emulator: Datastore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The switch was made, and was then overtaken: not "somebody else won"."""
        for name in ("g1", "g2"):
            fill(store, name, [prediction("c1")])
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", datastore_emulator.host)
        direct = open_store(datastore_uri)
        proxy.faults = (reply_lost(1.0, UNAVAILABLE, methods=("Commit",)),)

        def overtake() -> None:
            until_lost(proxy, 0, lambda: direct.switch("g2", "g1"))

        rival = threading.Thread(target=overtake)
        rival.start()
        store.switch("g1", None)
        rival.join()
        current = store.current()
        assert current is not None and current.name == "g2"

    def test_a_whole_publish_under_constant_faults(self, store: Store, proxy: DatastoreProxy) -> None:
        faults = (refused(0.05, UNAVAILABLE, ABORTED, DEADLINE), reply_lost(0.05, UNAVAILABLE, DEADLINE))
        rows = [prediction(f"c{i}", float(i)) for i in range(300)]
        previous = None
        for name in ("g1", "g2", "g3", "g4"):
            proxy.faults = faults
            fill(store, name, rows)
            store.switch(name, previous)
            assert len(store.lookup_many(row["customer_id"] for row in rows)) == 300
            previous = name
        assert store.expire(keep=1) == ["g2", "g1"]
        proxy.faults = ()
        assert names_of(store) == ["g4", "g3"]
        assert proxy.counts["refused"] > 1 and proxy.counts["reply_lost"] > 1

    def test_of_many_switches_at_once_one_wins_though_answers_are_lost(
        self, store: Store, proxy: DatastoreProxy, datastore_uri: str
    ) -> None:
        rivals = [f"g{i}" for i in range(8)]
        for name in rivals:
            fill(store, name, [prediction("c1")])
        proxy.faults = (reply_lost(0.3, UNAVAILABLE, ABORTED, methods=("Commit",)), refused(0.1, ABORTED))
        won, told, failed = race(datastore_uri, rivals, lambda store, name: store.switch(name, None))
        proxy.faults = ()
        assert (len(won), failed) == (1, [])
        assert told == won * 7

    def test_a_store_that_stays_away_is_told_in_one_line(self, store: DatastoreStore, proxy: DatastoreProxy) -> None:
        connection = store._connection
        patience = connection.patience
        connection.patience = type(patience)(deadline_seconds=0.6, first_pause_seconds=0.05)
        with proxy.down():
            for act in (lambda: store.lookup("c1"), lambda: store.begin(generation("g1"))):
                with pytest.raises(
                    StoreFailed, match=r"did not do .* in 0\.6 s and \d+ tries; the last answer was UNAVAIL"
                ):
                    act()
        connection.patience = patience
        assert store.lookup("c1") is None


def until_lost(proxy: DatastoreProxy, before: int, then: Callable[[], object] = lambda: None) -> None:
    """Ends the faults once one more answer was lost."""
    for _ in range(2000):
        if proxy.counts["reply_lost"] > before:
            break
        threading.Event().wait(0.002)
    proxy.faults = ()
    then()


def race(
    uri: str, rivals: list[str], act: Callable[[Store, str], object]
) -> tuple[list[str], list[str], list[BaseException]]:
    """Who won, whom the others were told of, and what else went wrong."""
    barrier = threading.Barrier(len(rivals))
    won: list[str] = []
    told: list[str] = []
    failed: list[BaseException] = []

    def publish(name: str) -> None:
        with open_store(uri) as store:
            barrier.wait()
            try:
                act(store, name)
                won.append(name)
            except PointerMoved as lost:
                told.append(lost.winner.name if lost.winner else "nobody")
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=publish, args=(name,)) for name in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, told, failed


class TestContention:
    def test_changes_of_many_at_once_all_happen(self, datastore_uri: str, store: Store) -> None:
        """One entity group: every transaction meets all others, and none of them fails for it."""
        names = [f"g{i}" for i in range(8)]
        won, told, failed = race(datastore_uri, names, lambda store, name: fill(store, name, [prediction("c1")]))
        assert (sorted(won), told, failed) == (names, [], [])
        assert sorted(names_of(store)) == names

    def test_one_generation_begun_by_many_has_as_many_attempts(self, datastore_uri: str, store: Store) -> None:
        attempts: list[int] = []
        _, _, failed = race(datastore_uri, ["g1"] * 8, lambda store, name: attempts.append(begin(store, name)))
        assert (sorted(attempts), failed) == (list(range(1, 9)), [])

    def test_readers_see_one_generation_and_miss_nobody(self, datastore_uri: str, store: Store) -> None:
        """While generations are switched to, and the ones before deleted at once."""
        ids = [f"c{i}" for i in range(1100)]  # more than one lookup's worth
        fill(store, "g0", [prediction(i, 0.0) for i in ids])
        store.switch("g0", None)
        stop, wrong, reads = threading.Event(), [], [0]

        def read() -> None:
            with open_store(datastore_uri) as reader:
                while not stop.is_set():
                    rows = reader.lookup_many([*ids, "nobody"])
                    kinds = {(row["generation"], f"g{row['predicted_value']:.0f}") for row in rows.values()}
                    if len(rows) != len(ids) or len(kinds) != 1 or len(set(kinds.pop())) != 1:
                        wrong.append(rows)
                    reads[0] += 1

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(1, 6):
            fill(store, f"g{number}", [prediction(i, float(number)) for i in ids])
            store.switch(f"g{number}", f"g{number - 1}")
            store.delete(f"g{number - 1}")
        stop.set()
        for reader in readers:
            reader.join()
        assert not wrong
        assert reads[0] > 10


def test_lost_rows_are_found_by_the_count(store: Store, google: datastore.Client) -> None:
    attempt = begin(store, "g1")
    store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2")]))
    google.delete(google.key("CustomerValue", "c1", namespace="g1.1"))
    with pytest.raises(RowCountMismatch, match="g1 holds 1 staged rows, expected are 2"):
        store.seal("g1", attempt, Content(2, 2.0), {})
    assert AS_OF == store.generations()[0].as_of


class TestCountsThatLag:
    """The concurrency mode "optimistic with entity groups" counts what was written a moment ago some time later."""

    @pytest.mark.parametrize("lagging", [0, 1, 3])
    def test_a_count_that_is_too_low_is_asked_for_again(
        self, datastore_uri: str, monkeypatch: pytest.MonkeyPatch, lagging: int
    ) -> None:
        monkeypatch.setattr(datastore_store, "COUNT_PAUSES", (1.0, 2.0, 4.0))
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == lagging:  # now it is seen
                writer.write("g1", attempt, batch_of([prediction("c2")]))

        project = project_of(datastore_uri)
        with DatastoreStore(project, sleep=sleep) as store, DatastoreStore(project) as writer:
            attempt = begin(store, "g1")
            store.write("g1", attempt, batch_of([prediction("c1")]))
            if lagging:
                store.seal("g1", attempt, Content(2, 2.0), {})
                assert slept == [1.0, 2.0, 4.0][:lagging]
            else:
                with pytest.raises(RowCountMismatch, match="g1 holds 1 staged rows, expected are 2"):
                    store.seal("g1", attempt, Content(2, 2.0), {})
                assert slept == [1.0, 2.0, 4.0]

    def test_one_that_is_too_high_is_not(self, datastore_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datastore_store, "COUNT_PAUSES", (1.0,))
        slept: list[float] = []
        with DatastoreStore(project_of(datastore_uri), sleep=slept.append) as store:
            attempt = begin(store, "g1")
            store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2")]))
            with pytest.raises(RowCountMismatch):
                store.seal("g1", attempt, Content(1, 1.0), {})
        assert slept == []
