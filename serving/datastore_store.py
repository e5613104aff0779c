"""The serving store for production: Datastore, or Firestore in Datastore mode.

The rows of a generation are entities ``CustomerValue``, key name = customer id, in the namespace
``{generation}.{attempt}``. Every attempt at staging has a namespace of its own: a half-staged one need not be emptied
first, and whoever was overtaken cannot write into another's rows. What becomes of generations is in
``datastore_records``; each change of it is one transaction that recognises what it did when the answer was lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from serving import datastore_records as records
from serving import datastore_rows as rows
from serving.datastore_client import Patience, Transaction, connect
from serving.datastore_records import Pointer, Record
from serving.store import (
    KEEP_GENERATIONS,
    Clock,
    Content,
    Generation,
    IsCurrent,
    PointerMoved,
    Row,
    RowCountMismatch,
    State,
    Store,
    Superseded,
    WentBack,
    Writing,
    Written,
    switched_at,
    utc_now,
)
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.datastore_writer import Writer
    from serving.entity_bytes import Namespace

STAGE, REFUSED = "store", "refused_by_store"
# In the concurrency mode "optimistic with entity groups" a count may not see the latest writes yet: seconds, a minute
# in all, after which one that is too low is asked for again.
COUNT_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class DatastoreStore(Store):
    def __init__(
        self,
        project: str,
        database: str = "",
        writing: Writing | None = None,
        clock: Clock = utc_now,
        sleep: Callable[[float], object] = time.sleep,
        patience_seconds: float | None = None,
    ) -> None:
        """Opens the store; see ``serving.store.open_store``. Nothing is sent yet.

        Raises:
          UsageError: no credentials.
        """
        self._connection = connect(project, database, Patience(patience_seconds) if patience_seconds else None)
        self._writing = writing or Writing()
        self._clock = clock
        self._sleep = sleep
        self._writer: tuple[str, int, Writer] | None = None

    def current(self) -> Generation | None:
        # By keys: a query would read every generation, and the lookup service asks this often.
        pointer = records.read_pointer(self._connection)
        while pointer:
            record = records.read_record(self._connection, pointer.generation)
            if record and record.gone_at is None:
                return _served(pointer, record)
            # Only what is not current is deleted: it was left between the two readings.
            before, pointer = pointer, records.read_pointer(self._connection)
            if pointer == before:
                raise UsageError(
                    f"{self._connection.uri}: the current generation {before.generation!r} has no record: switch to another "
                    "one (python -m pipelines.publish rollback)"
                )
        return None

    def generations(self) -> list[Generation]:
        _, found = records.read_all(self._connection)
        living = [record.generation for record in found.values() if record.gone_at is None]
        return sorted(living, key=lambda generation: (generation.begun_at, generation.name), reverse=True)

    def find(self, name: str) -> Generation | None:
        return _living(records.read_record(self._connection, name))

    def begin(self, generation: Generation) -> int | None:
        token, now = secrets.token_hex(8), self._clock()

        def work(transaction: Transaction) -> int | None:
            _, _, found = records.read_in(transaction, generation.name)
            if found and found.token == token:  # the answer to this very change was lost
                return found.generation.attempt
            before = _living(found)
            if before and before.state is State.SEALED and not before.has_expired(now):
                return None
            # Of what has expired, current or not, it stays known that it was published and what it held.
            kept = before if before and before.state is not State.DELETING else generation
            begun = replace(
                kept, state=State.STAGED, attempt=found.generation.attempt + 1 if found else 1,
                created_at=before.created_at if before else now, begun_at=now, sealed_at=None,
                expires_at=now + self._writing.ttl, warehouse=generation.warehouse,
            )  # fmt: skip
            records.put_record(transaction, Record(begun, token))
            return begun.attempt

        return self._connection.transact(work)

    def write(self, name: str, attempt: int, batch: pa.RecordBatch) -> Written:
        found = records.read_record(self._connection, name)
        return self._write(_staging(name, attempt, found), batch)

    def add(self, name: str, batch: pa.RecordBatch) -> Written:
        found = records.read_record(self._connection, name)
        return self._write(_sealed(name, found, "have rows added"), batch)

    def read_back(self, name: str, customer_ids: Iterable[str]) -> dict[str, Row]:
        found = records.read_record(self._connection, name)
        if found is None or found.gone_at:
            return {}
        return self._rows(name, found.generation.attempt, customer_ids)

    def seal(self, name: str, attempt: int, content: Content, dead_letters: Mapping[str, int]) -> None:
        sealed: dict[str, Any] = {"state": State.SEALED, "content": content, "dead_letters": dict(dead_letters)}

        def is_done(found: Record | None) -> bool:
            generation = _living(found)
            return generation is not None and generation == replace(generation, attempt=attempt, **sealed)

        def work(transaction: Transaction) -> None:
            _, _, found = records.read_in(transaction, name)
            if not is_done(found):
                records.put_record(transaction, _staging(name, attempt, found).changed(**sealed, sealed_at=now))

        found = records.read_record(self._connection, name)
        if is_done(found):
            return
        self._hold_to(_staging(name, attempt, found), content)
        now = self._clock()
        self._connection.transact(work)

    def amend(self, name: str, content: Content, dead_letters: Mapping[str, int]) -> None:
        counted = _sealed(name, records.read_record(self._connection, name), "be amended")
        self._hold_to(counted, content)

        def work(transaction: Transaction) -> None:
            found = _sealed(name, records.read_in(transaction, name)[2], "be amended")
            if found.generation.attempt != counted.generation.attempt:
                raise Superseded(name, counted.generation.attempt, found.generation)
            records.put_record(transaction, found.changed(content=content, dead_letters=dict(dead_letters)))

        self._connection.transact(work)

    def switch(
        self,
        name: str,
        expected_current: str | None,
        notes: Mapping[str, str] | None = None,
        known: Generation | None = None,
    ) -> None:
        token, now = secrets.token_hex(8), self._clock()

        def work(transaction: Transaction) -> None:
            pointer, current, found = records.read_in(transaction, name)
            if token in (pointer and pointer.token, found and found.token):  # the answer to this very change was lost
                return
            if (pointer.generation if pointer else None) != expected_current:
                raise PointerMoved(name, expected_current, _served(pointer, current) if pointer and current else None)
            sealed = _sealed(name, found, "become current")
            if known and known.published_at != sealed.generation.published_at:
                raise WentBack(name, _served(pointer, current) if pointer and current else None)
            expires_at = _expires_at(sealed)
            if expires_at <= now:
                raise UsageError(
                    f"generation {name!r} expired on {expires_at.date()} and would serve nobody: publish its "
                    "predictions anew"
                )
            records.put_pointer(transaction, Pointer(name, sealed.generation.attempt, token, expires_at))
            at = switched_at(now, sealed.generation, current.generation if current else None)
            records.put_record(transaction, sealed.changed(token, notes=dict(notes or {}), published_at=at))

        self._connection.transact(work)

    def lookup_many(self, customer_ids: Iterable[str]) -> dict[str, Row]:
        wanted, now = list(dict.fromkeys(customer_ids)), self._clock()
        pointer = records.read_pointer(self._connection)
        while pointer:
            found = self._rows(pointer.generation, pointer.attempt, wanted, now)
            if len(found) == len(wanted):
                return found
            # No row may mean no such customer, or that the generation was replaced and deleted meanwhile.
            before, pointer = pointer, records.read_pointer(self._connection)
            if pointer == before:
                return found
        return {}

    def rows(self, served: Generation, customer_ids: Iterable[str]) -> dict[str, Row]:
        return self._rows(served.name, served.attempt, customer_ids, self._clock())

    def delete(self, name: str, before: Callable[[Generation], None] | None = None) -> None:
        def mark(transaction: Transaction) -> Generation | None:
            pointer, _, found = records.read_in(transaction, name)
            if pointer and pointer.generation == name:
                raise IsCurrent(name)
            if found is None or found.gone_at:
                return None
            dying = found.changed(state=State.DELETING)
            records.put_record(transaction, dying)
            return dying.generation

        def bury(transaction: Transaction) -> None:
            _, _, found = records.read_in(transaction, name)
            # Otherwise somebody else has finished this, or begun the generation again.
            if found and found.generation.state is State.DELETING and found.generation.attempt == attempt:
                records.put_record(transaction, replace(found, gone_at=now))

        dying, now = self._connection.transact(mark), self._clock()
        if dying:
            attempt = dying.attempt
            if before:
                before(dying)
            self._delete_attempts(name, range(1, attempt + 1))
            self._connection.transact(bury)

    def expire(
        self, keep: int = KEEP_GENERATIONS, before_each: Callable[[Generation], None] | None = None
    ) -> list[str]:
        """As every store's; what attempts that were overtaken left goes too, and tombstones as old as a row may get."""
        expired = super().expire(keep, before_each)
        too_old = self._clock() - self._writing.ttl
        pointer, found = records.read_all(self._connection)
        for name, record in found.items():
            if record.gone_at is None:
                served = pointer.attempt if pointer and pointer.generation == name else None
                self._delete_attempts(name, (n for n in range(1, record.generation.attempt) if n != served))
            elif record.gone_at < too_old:
                self._forget(name, record.gone_at)
        return expired

    def close(self) -> None:
        """The connection is the process's."""

    def _rows(
        self, name: str, attempt: int, customer_ids: Iterable[str], now: datetime | None = None
    ) -> dict[str, Row]:
        """The rows of one attempt; where ``now`` is given, but those that have expired."""
        found = rows.read_rows(self._connection, self._namespace(name, attempt), customer_ids)
        return {
            row["customer_id"]: row | {"generation": name}
            for row, expires_at in found
            if now is None or expires_at > now
        }

    def _write(self, record: Record, batch: pa.RecordBatch) -> Written:
        from serving.entity_bytes import upserts
        from transforms.dead_letters import DeadLetter

        generation = record.generation
        at = self._namespace(generation.name, generation.attempt)
        outcome = self._writer_of(generation).write(upserts(batch, at, _expires_at(record)))
        refused = tuple(
            DeadLetter(STAGE, REFUSED, each.detail, batch.slice(each.row, 1).to_pylist()[0]) for each in outcome.refused
        )
        return Written(refused, outcome.figures)

    def _writer_of(self, generation: Generation) -> Writer:
        """One for all writes to an attempt: its rate, and what it learnt of the store, go on from write to write."""
        if self._writer is None or self._writer[:2] != (generation.name, generation.attempt):
            self._writer = (generation.name, generation.attempt, self._new_writer(generation.begun_at, self._writing))
        return self._writer[2]

    def _new_writer(self, begun_at: datetime | None, writing: Writing) -> Writer:
        from serving.datastore_writer import Writer
        from serving.rate_budget import RateBudget

        return Writer(
            self._connection, RateBudget(writing.ramp, begun_at or self._clock(), writing.share, now=self._clock)
        )

    def _delete_attempts(self, name: str, attempts: Iterable[int]) -> None:
        # Without the ramp: those keys were written, and so their range has been split among servers already.
        writer = self._new_writer(None, Writing())
        for attempt in attempts:
            rows.delete_rows(self._connection, self._namespace(name, attempt), writer)

    def _forget(self, name: str, gone_at: datetime) -> None:
        def work(transaction: Transaction) -> None:
            _, _, found = records.read_in(transaction, name)
            if found and found.gone_at == gone_at:
                transaction.delete(records.record_key(self._connection, name))

        self._connection.transact(work)

    def _hold_to(self, record: Record, content: Content) -> None:
        generation = record.generation
        at = self._namespace(generation.name, generation.attempt)
        staged = rows.count_rows(self._connection, at, content.rows)
        for pause in COUNT_PAUSES:
            if staged >= content.rows:
                break
            self._sleep(pause)
            staged = rows.count_rows(self._connection, at, content.rows)
        if staged != content.rows:
            raise RowCountMismatch(generation.name, staged, content.rows)

    def _namespace(self, name: str, attempt: int) -> Namespace:
        return records.namespace(self._connection, name, attempt)


def _living(record: Record | None) -> Generation | None:
    return record.generation if record and record.gone_at is None else None


def _served(pointer: Pointer, record: Record) -> Generation:
    """The current generation. Its record may be of a later attempt: it is published anew after its rows expired."""
    return replace(record.generation, state=State.SEALED, attempt=pointer.attempt, expires_at=pointer.expires_at)


def _expires_at(record: Record) -> datetime:
    assert record.generation.expires_at is not None  # ``begin`` gives one to every generation
    return record.generation.expires_at


def _staging(name: str, attempt: int, record: Record | None) -> Record:
    """The record, if this attempt may write.

    Raises:
      Superseded: it may not.
    """
    found = _living(record)
    if record is None or found is None or found.state is not State.STAGED or found.attempt != attempt:
        raise Superseded(name, attempt, found)
    return record


def _sealed(name: str, record: Record | None, to: str) -> Record:
    """The record, if it is sealed.

    Raises:
      UsageError: it is not, and so cannot be done ``to``.
    """
    found = _living(record)
    if record is None or found is None or found.state is not State.SEALED:
        raise UsageError(
            f"generation {name!r} is {found.state.value if found else 'unknown'}: only a sealed one can {to}"
        )
    return record
