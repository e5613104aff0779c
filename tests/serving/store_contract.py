"""What every serving store promises; a backend's tests subclass ``StoreContract``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.store import Generation, PointerMoved, RowCountMismatch, State, Store, Superseded
from transforms import schema
from transforms.errors import UsageError

AS_OF = date(2011, 12, 10)
START = datetime(2026, 1, 1, tzinfo=UTC)


class SteppingClock:
    """Each call is one second later than the one before."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def prediction(customer_id: str | None, value: float = 1.0, as_of: date = AS_OF, **changes: Any) -> dict[str, Any]:
    """A usable row whose figures all follow from ``value``."""
    return {
        "customer_id": customer_id,
        "as_of": as_of,
        "horizon_days": 90,
        "model_version": "m1",
        "predicted_value": value,
        "value_p10": value / 2,
        "value_p50": value,
        "value_p90": value * 2,
        "purchase_probability": 0.5,
        "expected_orders": 1.5,
        "decile": 3,
    } | changes


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema.arrow_schema(schema.PREDICTIONS))


def generation(name: str, as_of: date = AS_OF) -> Generation:
    return Generation(name, as_of, 90, "m1")


def fill(store: Store, name: str, rows: list[dict[str, Any]], as_of: date = AS_OF) -> None:
    attempt = store.begin(generation(name, as_of))
    assert attempt is not None
    store.write(name, attempt, batch_of(rows))
    store.seal(name, attempt, len(rows), {})


class StoreContract:
    """Subclasses give ``open_store``: each call is another connection to one and the same empty store."""

    @pytest.fixture
    def open_store(self) -> Iterator[Callable[[], Store]]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: Callable[[], Store]) -> Iterator[Store]:
        with open_store() as store:
            yield store

    def test_an_empty_store_serves_nobody(self, store: Store) -> None:
        assert store.current() is None
        assert store.generations() == []
        assert store.lookup("c1") is None
        assert store.expire() == []

    def test_rows_come_back_as_written_after_the_switch_and_not_before(self, store: Store) -> None:
        rows = [prediction(f"c{i}", value=i / 7) for i in range(10)]
        fill(store, "g1", rows)
        assert store.lookup("c1") is None
        store.switch("g1", None)
        for row in rows:
            assert store.lookup(row["customer_id"]) == row | {"generation": "g1"}
        assert store.lookup("nobody") is None

    def test_generation_records(self, store: Store) -> None:
        attempt = store.begin(generation("g1"))
        assert attempt == 1
        assert store.find("g1") == Generation("g1", AS_OF, 90, "m1", attempt=1, created_at=START + timedelta(seconds=1))
        store.write("g1", attempt, batch_of([prediction("c1")]))
        store.seal("g1", attempt, 1, {"negative": 2})
        store.switch("g1", None)
        sealed = Generation(
            "g1", AS_OF, 90, "m1", State.SEALED, attempt=1, rows=1, dead_letters={"negative": 2},
            created_at=START + timedelta(seconds=1), sealed_at=START + timedelta(seconds=2),
            published_at=START + timedelta(seconds=3),
        )  # fmt: skip
        assert store.current() == store.find("g1") == sealed
        fill(store, "g2", [prediction("c2")])
        assert [g.name for g in store.generations()] == ["g2", "g1"]

    def test_lookup_many_ignores_unknown_repeated_and_impossible_ids(self, store: Store) -> None:
        fill(store, "g1", [prediction(f"c{i}") for i in range(1203)])
        store.switch("g1", None)
        asked = [f"c{i}" for i in range(1200)] + ["c7", "nobody", "", "\ud800"]
        assert set(store.lookup_many(iter(asked))) == {f"c{i}" for i in range(1200)}
        assert store.lookup_many([]) == {}

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        ids=st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1),
        value=st.floats(0, 1e300),
    )
    def test_any_text_and_any_float_survive(self, open_store: Callable[[], Store], ids: set[str], value: float) -> None:
        with open_store() as store:
            current = store.current()
            name = f"g{len(store.generations())}"
            rows = {i: prediction(i, value, value_p90=value) for i in ids}
            fill(store, name, list(rows.values()))
            store.switch(name, current.name if current else None)
            assert store.lookup_many(ids) == {i: row | {"generation": name} for i, row in rows.items()}

    def test_writing_a_batch_again_changes_nothing(self, store: Store) -> None:
        attempt = store.begin(generation("g1"))
        assert attempt is not None
        for _ in range(2):
            store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2")]))
        store.seal("g1", attempt, 2, {})

    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_seal_counts(self, store: Store, rows: int) -> None:
        attempt = store.begin(generation("g1"))
        assert attempt is not None
        store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2")]))
        with pytest.raises(RowCountMismatch, match=f"g1 holds 2 staged rows, expected are {rows}"):
            store.seal("g1", attempt, rows, {})
        with pytest.raises(UsageError, match="'g1' is staged: only a sealed one"):
            store.switch("g1", None)

    def test_a_bad_batch_is_staged_not_at_all(self, store: Store) -> None:
        attempt = store.begin(generation("g1"))
        assert attempt is not None
        with pytest.raises(Exception):  # noqa: B017 - each backend has its own; publish never sends such rows
            store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2", decile=None)]))
        store.seal("g1", attempt, 0, {})

    def test_begin_again_empties_and_shuts_the_other_attempt_out(self, open_store: Callable[[], Store]) -> None:
        with open_store() as one, open_store() as other:
            first = one.begin(generation("g1"))
            assert first is not None
            one.write("g1", first, batch_of([prediction("stale")]))
            second = other.begin(generation("g1"))
            assert second == first + 1
            with pytest.raises(Superseded, match="attempt 1 to stage generation g1 was overtaken"):
                one.write("g1", first, batch_of([prediction("c1")]))
            with pytest.raises(Superseded):
                one.seal("g1", first, 1, {})
            other.write("g1", second, batch_of([prediction("c1")]))
            other.seal("g1", second, 1, {})
            assert one.begin(generation("g1")) is None
            with pytest.raises(Superseded, match="it is sealed, attempt 2"):
                other.write("g1", second, batch_of([prediction("c2")]))

    def test_writing_to_what_was_deleted(self, store: Store) -> None:
        attempt = store.begin(generation("g1"))
        assert attempt is not None
        store.delete("g1")
        with pytest.raises(Superseded, match="it is gone"):
            store.write("g1", attempt, batch_of([prediction("c1")]))

    def test_switch_says_who_won(self, store: Store) -> None:
        for name in ("g1", "g2", "g3"):
            fill(store, name, [prediction("c1")])
        store.switch("g1", None)
        store.switch("g2", "g1")
        with pytest.raises(
            PointerMoved, match=r"g3 was not switched to: generation g2 .* is current now, not g1"
        ) as lost:
            store.switch("g3", "g1")
        assert lost.value.winner == store.current()
        row = store.lookup("c1")
        assert row is not None and row["generation"] == "g2"
        with pytest.raises(UsageError, match="'g9' is unknown"):
            store.switch("g9", "g2")
        store.switch("g1", "g2")  # a rollback is a switch like any other
        current = store.current()
        assert current is not None and current.name == "g1"

    def test_of_many_switches_at_once_one_wins(self, open_store: Callable[[], Store]) -> None:
        rivals = [f"g{i}" for i in range(8)]
        with open_store() as store:
            for name in rivals:
                fill(store, name, [prediction("c1")])
        barrier = threading.Barrier(len(rivals))
        won: list[str] = []
        told: list[str] = []

        def publish(name: str) -> None:
            with open_store() as store:
                barrier.wait()
                try:
                    store.switch(name, None)
                    won.append(name)
                except PointerMoved as lost:
                    assert lost.winner is not None
                    told.append(lost.winner.name)

        threads = [threading.Thread(target=publish, args=(name,)) for name in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert told == won * (len(rivals) - 1)

    def test_delete_takes_the_rows_and_spares_the_current(self, store: Store) -> None:
        fill(store, "g1", [prediction("c1")])
        fill(store, "g2", [prediction("c1")])
        store.switch("g1", None)
        with pytest.raises(UsageError, match="'g1' is current"):
            store.delete("g1")
        store.delete("g2")
        store.delete("g2")
        assert [g.name for g in store.generations()] == ["g1"]
        attempt = store.begin(generation("g2"))
        assert attempt == 1
        store.seal("g2", attempt, 0, {})  # nothing of the former g2 is left

    def test_expire_keeps_the_current_and_the_newest_others(self, store: Store) -> None:
        for number in range(5):
            fill(store, f"g{number}", [prediction("c1")])
        store.begin(generation("abandoned", AS_OF - timedelta(days=1)))
        store.begin(generation("in-the-making"))
        store.switch("g1", None)
        assert sorted(store.expire(keep=2)) == ["abandoned", "g0", "g2"]
        assert [g.name for g in store.generations()] == ["in-the-making", "g4", "g3", "g1"]
