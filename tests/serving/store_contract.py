"""What every serving store promises; a backend's tests subclass ``StoreContract``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.store import (
    ABANDONED,
    BEING_STAGED,
    Content,
    Generation,
    IsCurrent,
    PointerMoved,
    RowCountMismatch,
    State,
    Store,
    Superseded,
    WentBack,
    Written,
)
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


def content_of(rows: list[dict[str, Any]]) -> Content:
    values = [row["predicted_value"] for row in rows]
    return Content(len(rows), sum(values), values.count(0))


def begin(store: Store, name: str, as_of: date = AS_OF) -> int:
    attempt = store.begin(generation(name, as_of))
    assert attempt is not None
    return attempt


def fill(store: Store, name: str, rows: list[dict[str, Any]], as_of: date = AS_OF) -> None:
    attempt = begin(store, name, as_of)
    assert store.write(name, attempt, batch_of(rows)).refused == ()
    store.seal(name, attempt, content_of(rows), {})


def names_of(store: Store) -> list[str]:
    return [generation.name for generation in store.generations()]


class StoreContract:
    """Subclasses give ``open_store``: each call is another connection to one and the same empty store, at ``clock``."""

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

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
        asked = replace(generation("g1"), warehouse="project.dataset über")
        attempt = store.begin(asked)
        begun = store.find("g1")
        assert attempt is not None and begun is not None and begun.begun_at is not None and begun.begun_at > START
        assert begun == replace(
            asked, attempt=attempt, created_at=begun.begun_at, begun_at=begun.begun_at, expires_at=begun.expires_at
        )
        assert not begun.was_current()
        store.write("g1", attempt, batch_of([prediction("c1", 2.5), prediction("c2", 0.0)]))
        store.seal("g1", attempt, Content(2, 2.5, 1), {"negative": 2})
        store.switch("g1", None, {"rollback": "“why” it was\n" * 200})
        found = store.find("g1")
        assert found is not None and found.sealed_at is not None and found.published_at is not None
        assert begun.begun_at < found.sealed_at < found.published_at
        assert found == store.current() == replace(
            begun, state=State.SEALED, content=Content(2, 2.5, 1), dead_letters={"negative": 2},
            notes={"rollback": "“why” it was\n" * 200}, sealed_at=found.sealed_at, published_at=found.published_at,
        )  # fmt: skip
        assert found.was_current()
        fill(store, "g2", [prediction("c2")])
        store.switch("g2", "g1", {"zeros": "a new shop"})
        store.switch("g1", "g2")
        again = store.find("g1")
        assert again is not None and again.published_at is not None and again.published_at > found.published_at
        assert again == replace(found, published_at=again.published_at, notes={}), "notes are of the last switch"
        assert names_of(store) == ["g2", "g1"]
        assert store.find("g3") is None

    def test_generations_come_in_the_order_they_were_begun(self, store: Store) -> None:
        first = begin(store, "g1")
        begin(store, "g2")
        assert names_of(store) == ["g2", "g1"]
        second = begin(store, "g1")
        assert (second > first, names_of(store)) == (True, ["g1", "g2"])
        found = store.find("g1")
        assert found is not None and found.created_at is not None and found.begun_at is not None
        assert found.created_at < found.begun_at

    def test_what_is_staged_can_be_read_back(self, store: Store) -> None:
        rows = [prediction(f"c{i}", i / 7) for i in range(1203)]
        attempt = begin(store, "g1")
        assert store.read_back("g1", ["c1"]) == {}
        for start in (0, 700):
            store.write("g1", attempt, batch_of(rows[start : start + 700]))
        for _ in range(2):  # before and after it is sealed
            asked = [*(row["customer_id"] for row in rows), "c7", "nobody", "", "\ud800", "__reserved__", "x" * 1501]
            found = store.read_back("g1", iter(asked))
            assert found == {row["customer_id"]: row | {"generation": "g1"} for row in rows}
            store.seal("g1", attempt, content_of(rows), {})
        assert store.read_back("g2", ["c1"]) == {}
        assert store.lookup_many(["c1"]) == {}, "it is not current"

    def test_lookup_many_ignores_unknown_repeated_and_impossible_ids(self, store: Store) -> None:
        fill(store, "g1", [prediction(f"c{i}") for i in range(1203)])
        store.switch("g1", None)
        asked = [f"c{i}" for i in range(1200)] + ["c7", "nobody", "", "\ud800", "__reserved__", "x" * 1501]
        assert set(store.lookup_many(iter(asked))) == {f"c{i}" for i in range(1200)}
        assert store.lookup_many([]) == {}

    def test_rows_are_what_lookups_give_while_it_is_current(self, store: Store) -> None:
        fill(store, "g1", [prediction(f"c{i}", i / 7) for i in range(1203)])
        store.switch("g1", None)
        served = store.current()
        assert served is not None
        asked = [f"c{i}" for i in range(1200)] + ["c7", "nobody", "", "\ud800", "__reserved__", "x" * 1501]
        assert store.rows(served, iter(asked)) == store.lookup_many(asked)
        assert set(store.rows(served, asked)) == {f"c{i}" for i in range(1200)}
        assert store.rows(served, []) == store.rows(served, ["nobody"]) == {}

    def test_rows_are_of_the_generation_asked_for_whatever_is_current(self, store: Store) -> None:
        served: list[Generation] = []
        for name, value in (("g1", 1.0), ("g2", 2.0), ("g3", 3.0)):
            fill(store, name, [prediction("c1", value), prediction(name, value)])
            store.switch(name, served[-1].name if served else None)
            current = store.current()
            assert current is not None
            served.append(current)
        for each, value in zip(served, (1.0, 2.0, 3.0), strict=True):
            rows = store.rows(each, ["c1", "g1", "g2", "g3"])
            assert rows == {i: prediction(i, value) | {"generation": each.name} for i in ("c1", each.name)}

    def test_rows_added_later_are_there(self, store: Store) -> None:
        fill(store, "g1", [prediction("c1")])
        store.switch("g1", None)
        served = store.current()
        assert served is not None and set(store.rows(served, ["c1", "c2"])) == {"c1"}
        store.add("g1", batch_of([prediction("c2", 2.0)]))
        assert store.rows(served, ["c1", "c2"])["c2"] == prediction("c2", 2.0) | {"generation": "g1"}

    def test_rows_of_what_was_deleted_are_gone_and_no_others_come_instead(
        self, open_store: Callable[[], Store]
    ) -> None:
        with open_store() as store, open_store() as reader:
            for name, previous in (("g1", None), ("g2", "g1")):
                fill(store, name, [prediction("c1")])
                store.switch(name, previous)
                if name == "g1":
                    served = reader.current()
            assert served is not None and set(reader.rows(served, ["c1"])) == {"c1"}
            store.delete("g1")
            assert reader.rows(served, ["c1", "c2"]) == {}
            assert reader.find("g1") is None
            fill(store, "g3", [prediction("c1"), prediction("c2")])
            assert reader.rows(served, ["c1", "c2"]) == {}

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        ids=st.sets(
            # What is reserved is refused before it gets here (serving/checks.py).
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda i: i[:2] != "__"),
            min_size=1,
        ),
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

    def test_writing_a_batch_again_changes_nothing_and_a_customer_again_replaces_the_row(self, store: Store) -> None:
        attempt = begin(store, "g1")
        for value in (1.0, 1.0, 2.0):
            store.write("g1", attempt, batch_of([prediction("c1", value), prediction("c2", 1.0)]))
        store.seal("g1", attempt, Content(2, 3.0), {})
        assert store.read_back("g1", ["c1"])["c1"]["predicted_value"] == 2.0

    def test_writing_nothing(self, store: Store) -> None:
        attempt = begin(store, "g1")
        assert store.write("g1", attempt, batch_of([])).refused == Written().refused == ()
        store.seal("g1", attempt, Content(), {})
        store.seal("g1", attempt, Content(), {})

    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_seal_counts(self, store: Store, rows: int) -> None:
        attempt = begin(store, "g1")
        store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2")]))
        with pytest.raises(RowCountMismatch, match=f"g1 holds 2 staged rows, expected are {rows}"):
            store.seal("g1", attempt, Content(rows), {})
        with pytest.raises(UsageError, match="'g1' is staged: only a sealed one can become current"):
            store.switch("g1", None)

    def test_sealing_again_is_fine_with_the_same_figures_alone(self, store: Store) -> None:
        rows = [prediction("c1", 0.1), prediction("c2", 0.2), prediction("c3", 0.0)]
        attempt = begin(store, "g1")
        store.write("g1", attempt, batch_of(rows))
        for _ in range(2):
            store.seal("g1", attempt, content_of(rows), {"negative": 2})
        before = store.find("g1")
        for content, dead_letters in (
            (replace(content_of(rows), zeros=2), {"negative": 2}),
            (content_of(rows), {"negative": 3}),
        ):
            with pytest.raises(Superseded, match="it is sealed, attempt 1"):
                store.seal("g1", attempt, content, dead_letters)
        with pytest.raises(Superseded, match="it is sealed, attempt 1"):
            store.seal("g1", attempt + 1, content_of(rows), {"negative": 2})
        assert store.find("g1") == before

    def test_a_bad_batch_is_staged_not_at_all(self, store: Store) -> None:
        attempt = begin(store, "g1")
        with pytest.raises(Exception):  # noqa: B017 - each backend has its own; publish never sends such rows
            store.write("g1", attempt, batch_of([prediction("c1"), prediction("c2", decile=None)]))
        store.seal("g1", attempt, Content(), {})

    def test_begin_again_empties_and_shuts_the_other_attempt_out(self, open_store: Callable[[], Store]) -> None:
        with open_store() as one, open_store() as other:
            first = begin(one, "g1")
            one.write("g1", first, batch_of([prediction("stale")]))
            second = begin(other, "g1")
            assert second == first + 1
            assert other.read_back("g1", ["stale"]) == {}
            with pytest.raises(Superseded, match="attempt 1 to stage generation g1 was overtaken"):
                one.write("g1", first, batch_of([prediction("c1")]))
            with pytest.raises(Superseded):
                one.seal("g1", first, Content(1), {})
            other.write("g1", second, batch_of([prediction("c1")]))
            other.seal("g1", second, Content(1, 1.0), {})
            assert one.begin(generation("g1")) is None
            with pytest.raises(Superseded, match="it is sealed, attempt 2"):
                other.write("g1", second, batch_of([prediction("c2")]))
            assert set(one.read_back("g1", ["stale", "c1", "c2"])) == {"c1"}

    def test_writing_to_what_was_deleted(self, store: Store) -> None:
        attempt = begin(store, "g1")
        store.delete("g1")
        for act in (
            lambda: store.write("g1", attempt, batch_of([prediction("c1")])),
            lambda: store.seal("g1", attempt, Content(), {}),
        ):
            with pytest.raises(Superseded, match="it is gone"):
                act()
        with pytest.raises(UsageError, match="'g1' is unknown: only a sealed one can have rows added"):
            store.add("g1", batch_of([prediction("c1")]))

    @pytest.mark.parametrize("current", [False, True])
    def test_mended_rows_are_added(self, store: Store, current: bool) -> None:
        fill(store, "g1", [prediction("c1")])
        if current:
            store.switch("g1", None)
        before = store.find("g1")
        assert before is not None
        mended = [prediction("c1", 2.0), prediction("c2", 0.0)]
        for _ in range(2):
            assert store.add("g1", batch_of(mended)).refused == ()
        assert store.find("g1") == before
        for _ in range(2):
            store.amend("g1", Content(2, 2.0, 1), {"negative": 1})
        assert store.find("g1") == replace(before, content=Content(2, 2.0, 1), dead_letters={"negative": 1})
        rows = {row["customer_id"]: row | {"generation": "g1"} for row in mended}
        assert store.read_back("g1", rows) == rows
        assert store.lookup_many(rows) == (rows if current else {})
        with pytest.raises(RowCountMismatch, match="g1 holds 2 staged rows, expected are 3"):
            store.amend("g1", Content(3), {})

    def test_only_what_is_sealed_is_added_to(self, store: Store) -> None:
        begin(store, "g1")
        with pytest.raises(UsageError, match="'g1' is staged: only a sealed one can have rows added"):
            store.add("g1", batch_of([prediction("c1")]))
        for name, state in (("g1", "staged"), ("g2", "unknown")):
            with pytest.raises(UsageError, match=f"'{name}' is {state}: only a sealed one can be amended"):
                store.amend(name, Content(), {})
        assert store.read_back("g1", ["c1"]) == {}

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

    def test_who_is_late_does_not_lead_forward_again(self, store: Store) -> None:
        for name in ("g1", "g2"):
            fill(store, name, [prediction("c1")])
        store.switch("g1", None)
        known = store.find("g2")
        store.switch("g2", "g1", known=known)
        store.switch("g1", "g2")  # somebody rolled back
        with pytest.raises(WentBack, match=r"g2 was not switched to again: .* generation g1 .* is now"):
            store.switch("g2", "g1", known=known)
        current = store.current()
        assert current is not None and current.name == "g1"
        store.switch("g2", "g1", known=store.find("g2"))  # who knows of the rollback means it
        current = store.current()
        assert current is not None and current.name == "g2"

    def test_of_many_switches_at_once_one_wins(self, open_store: Callable[[], Store]) -> None:
        rivals = [f"g{i}" for i in range(8)]
        with open_store() as store:
            for name in rivals:
                fill(store, name, [prediction("c1")])
        barrier = threading.Barrier(len(rivals))
        failed: list[BaseException] = []
        won: list[str] = []
        told: list[str] = []

        def publish(name: str) -> None:
            with open_store() as store:
                barrier.wait()
                try:
                    store.switch(name, None)
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
        assert (len(won), failed) == (1, [])
        assert told == won * (len(rivals) - 1)

    def test_delete_takes_the_rows_and_spares_the_current(self, store: Store) -> None:
        fill(store, "g1", [prediction("c1")])
        fill(store, "g2", [prediction("c1")])
        store.switch("g1", None)
        with pytest.raises(IsCurrent, match="'g1' is current: switch to another one before deleting it"):
            store.delete("g1")
        for _ in range(2):
            store.delete("g2")
        store.delete("never heard of")
        assert names_of(store) == ["g1"]
        assert store.find("g2") is None
        assert store.read_back("g2", ["c1"]) == {}
        with pytest.raises(UsageError, match="'g2' is unknown"):
            store.switch("g2", "g1")
        attempt = begin(store, "g2")
        store.seal("g2", attempt, Content(), {})  # nothing of the former g2 is left
        store.switch("g2", "g1")
        assert store.lookup("c1") is None

    def test_expire_keeps_the_current_and_those_that_were_served_last(self, store: Store) -> None:
        previous = None
        for number in range(5):
            fill(store, f"g{number}", [prediction("c1")])
        for name in ("g3", "g0", "g4", "g1"):
            store.switch(name, previous)
            previous = name
        assert store.expire(keep=2) == ["g3"], "begun late, but served first"
        assert names_of(store) == ["g4", "g2", "g1", "g0"], "g2 may be about to be switched to"
        assert store.expire(keep=2) == []
        assert store.expire(keep=0) == ["g4", "g0"]
        assert store.lookup("c1") == prediction("c1") | {"generation": "g1"}

    def test_what_never_was_current_expires_when_nobody_can_be_about_to_publish_it(
        self, store: Store, clock: SteppingClock
    ) -> None:
        older = AS_OF - timedelta(days=1)
        fill(store, "current", [prediction("c1")])
        store.switch("current", None)
        fill(store, "older-sealed", [prediction("c1")], older)
        begin(store, "older-staged", older)
        fill(store, "sealed", [prediction("c1")])
        begin(store, "staged")
        clock.now += BEING_STAGED - timedelta(minutes=1)
        assert store.expire(keep=0) == []
        clock.now += timedelta(minutes=2)
        begin(store, "older-again", older)
        assert sorted(store.expire(keep=5)) == ["older-sealed", "older-staged"]
        clock.now += ABANDONED - BEING_STAGED
        begin(store, "older-again", older)
        assert sorted(store.expire(keep=5)) == ["sealed", "staged"]
        assert names_of(store) == ["older-again", "current"]

    def test_nothing_expires_where_nothing_is_current(self, store: Store, clock: SteppingClock) -> None:
        fill(store, "g1", [prediction("c1")])
        clock.now += timedelta(days=30)
        assert store.expire(keep=0) == []

    def test_others_are_told_before_a_generation_goes(self, open_store: Callable[[], Store]) -> None:
        told: list[str] = []
        with open_store() as store, open_store() as other:
            for name, previous in (("g1", None), ("g2", "g1"), ("g3", "g2")):
                fill(store, name, [prediction("c1")])
                store.switch(name, previous)

            def tell(generation: Generation) -> None:
                assert other.find(generation.name) is not None, "it is still known"
                told.append(generation.name)

            def killed(generation: Generation) -> None:
                told.append(generation.name)
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                store.expire(0, killed)
            assert names_of(store) == ["g3", "g2", "g1"], "nothing is forgotten"
            assert sorted(store.expire(0, tell)) == ["g1", "g2"]
            assert (told[0], sorted(told[1:])) == ("g2", ["g1", "g2"])
            with pytest.raises(IsCurrent):
                store.delete("g3", tell)
            store.delete("never heard of", tell)
            assert len(told) == 3

    def test_a_generation_that_became_current_again_does_not_expire(
        self, open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_store() as store, open_store() as other:
            for name, previous in (("g1", None), ("g2", "g1"), ("g3", "g2")):
                fill(store, name, [prediction("c1")])
                store.switch(name, previous)
            delete, told = store.delete, []

            def halted(name: str, before: Callable[[Generation], None] | None = None) -> None:
                if name == "g2":
                    other.switch("g2", "g3")  # a rollback, after it was decided what expires
                delete(name, before)

            monkeypatch.setattr(store, "delete", halted)
            assert store.expire(0, lambda generation: told.append(generation.name)) == told == ["g1"]
            assert store.lookup("c1") == prediction("c1") | {"generation": "g2"}
