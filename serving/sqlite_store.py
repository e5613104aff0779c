"""The embedded serving store: one SQLite file in WAL mode.

Readers and the one writer do not block each other, and a read transaction sees one snapshot, so a
lookup gets the pointer and the rows it points at from the same moment. Several processes on one
machine may use the file; a network file system may not hold it (WAL needs shared memory).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from serving.store import Clock, Generation, PointerMoved, Row, RowCountMismatch, State, Store, Superseded, utc_now
from transforms.errors import UsageError, rejected
from transforms.schema import PREDICTIONS, Type, names

if TYPE_CHECKING:
    import pyarrow as pa

APPLICATION_ID = 0x434C5650  # "CLVP": tells our file from any other program's
LAYOUT_VERSION = 1
BUSY_TIMEOUT_SECONDS = 60  # a writer waits for another's transaction: one batch, or deleting a generation
WRITE_CACHE_KIB = 65_536  # the default of 2 MB thrashes when customers arrive in random order
IDS_PER_QUERY = 500  # well below SQLite's oldest limit of 999 variables

_TYPES = {Type.STRING: "TEXT", Type.INT: "INTEGER", Type.FLOAT: "REAL", Type.DATE: "TEXT"}
_COLUMNS = names(PREDICTIONS)
_DATES = [column.name for column in PREDICTIONS if column.type is Type.DATE]

# WITHOUT ROWID keeps the row in the key's own tree: one descent a lookup, and a generation is one range.
_LAYOUT = f"""
CREATE TABLE generations (
  name TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('staged', 'sealed')), attempt INTEGER NOT NULL,
  as_of TEXT NOT NULL, horizon_days INTEGER NOT NULL, model_version TEXT NOT NULL,
  rows INTEGER NOT NULL, dead_letters TEXT NOT NULL,
  created_at TEXT NOT NULL, sealed_at TEXT, published_at TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE pointer (
  id INTEGER PRIMARY KEY CHECK (id = 1), generation TEXT NOT NULL REFERENCES generations (name)
) STRICT;
CREATE TABLE predictions (
  generation TEXT NOT NULL, {", ".join(f"{c.name} {_TYPES[c.type]} NOT NULL" for c in PREDICTIONS)},
  PRIMARY KEY (generation, customer_id)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT_VERSION};
"""
_UPSERT = f"INSERT OR REPLACE INTO predictions (generation, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"
# CROSS JOIN fixes the order: the one pointer row first, then one key search a customer.
_LOOKUP = f"""
SELECT {", ".join(f"p.{name}" for name in _COLUMNS)}, p.generation
FROM pointer CROSS JOIN predictions AS p ON p.generation = pointer.generation WHERE p.customer_id IN """


class SqliteStore(Store):
    def __init__(self, path: str, create: bool = False, clock: Clock = utc_now) -> None:
        """Opens the file; see ``serving.store.open_store``."""
        self._path = path
        self._clock = clock
        if not create and not os.path.isfile(path):
            raise rejected("--serving", f"sqlite://{path}", "an existing store (python -m pipelines.publish makes one)")
        if create:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(path)}?mode={'rwc' if create else 'ro'}",
                uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None,
            )  # fmt: skip
            self._prepare(create)
        except sqlite3.DatabaseError as error:
            raise UsageError(f"--serving 'sqlite://{path}' does not open as a serving store: {error}") from error

    def _prepare(self, create: bool) -> None:
        self._connection.row_factory = sqlite3.Row
        if create:
            self._create()
        if self._identity() != (APPLICATION_ID, LAYOUT_VERSION):
            raise rejected("--serving", f"sqlite://{self._path}", f"a serving store of layout {LAYOUT_VERSION}")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _create(self) -> None:
        """Lays out an empty file; another program's file is left exactly as it is."""
        if not self._is_empty() and self._identity() != (APPLICATION_ID, LAYOUT_VERSION):
            return
        self._connection.execute("PRAGMA journal_mode = WAL")
        # FULL: once a publish has reported the switch, a power cut must not take it back.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA cache_size = -{WRITE_CACHE_KIB}")
        if self._is_empty():
            with self._transaction():
                if self._is_empty():  # asked again inside: another process may create the same store
                    for statement in filter(str.strip, _LAYOUT.split(";")):
                        self._connection.execute(statement)

    def _is_empty(self) -> bool:
        return bool(self._value("SELECT count(*) FROM sqlite_master") == 0)

    def _identity(self) -> tuple[int, int]:
        return self._value("PRAGMA application_id"), self._value("PRAGMA user_version")

    def current(self) -> Generation | None:
        found = self._connection.execute(
            "SELECT generations.* FROM pointer JOIN generations ON name = pointer.generation"
        ).fetchone()
        return _generation(found) if found else None

    def generations(self) -> list[Generation]:
        found = self._connection.execute("SELECT * FROM generations ORDER BY created_at DESC, name DESC")
        return [_generation(row) for row in found.fetchall()]

    def find(self, name: str) -> Generation | None:
        found = self._connection.execute("SELECT * FROM generations WHERE name = ?", (name,)).fetchone()
        return _generation(found) if found else None

    def begin(self, generation: Generation) -> int | None:
        with self._transaction():
            found = self.find(generation.name)
            if found and found.state is State.SEALED:
                return None
            attempt = found.attempt + 1 if found else 1
            self._connection.execute("DELETE FROM predictions WHERE generation = ?", (generation.name,))
            self._connection.execute(
                "INSERT OR REPLACE INTO generations VALUES (?, 'staged', ?, ?, ?, ?, 0, '{}', ?, NULL, NULL)",
                (
                    generation.name, attempt, generation.as_of.isoformat(), generation.horizon_days,
                    generation.model_version, self._now(),
                ),
            )  # fmt: skip
        return attempt

    def write(self, name: str, attempt: int, batch: pa.RecordBatch) -> None:
        # Key order within a batch: neighbours share pages, and sorting here costs a tenth of what it saves.
        columns = _sqlite_columns(batch.select(_COLUMNS).sort_by("customer_id"))
        with self._transaction():
            self._assert_attempt(name, attempt)
            self._connection.executemany(_UPSERT, zip([name] * batch.num_rows, *columns, strict=True))

    def seal(self, name: str, attempt: int, rows: int, dead_letters: Mapping[str, int]) -> None:
        with self._transaction():
            self._assert_attempt(name, attempt)
            staged = self._value("SELECT count(*) FROM predictions WHERE generation = ?", name)
            if staged != rows:
                raise RowCountMismatch(name, staged, rows)
            self._connection.execute(
                "UPDATE generations SET state = 'sealed', rows = ?, dead_letters = ?, sealed_at = ? WHERE name = ?",
                (rows, json.dumps(dict(dead_letters), sort_keys=True), self._now(), name),
            )

    def switch(self, name: str, expected_current: str | None) -> None:
        with self._transaction():
            current = self.current()
            if (current.name if current else None) != expected_current:
                raise PointerMoved(name, expected_current, current)
            found = self.find(name)
            if found is None or found.state is not State.SEALED:
                state = found.state.value if found else "unknown"
                raise UsageError(f"generation {name!r} is {state}: only a sealed one can become current")
            self._connection.execute("INSERT OR REPLACE INTO pointer VALUES (1, ?)", (name,))
            self._connection.execute("UPDATE generations SET published_at = ? WHERE name = ?", (self._now(), name))

    def lookup_many(self, customer_ids: Iterable[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        remaining = filter(_is_text, dict.fromkeys(customer_ids))
        with self._transaction("DEFERRED"):
            while chunk := list(islice(remaining, IDS_PER_QUERY)):
                placeholders = ", ".join("?" * len(chunk))
                for found in self._connection.execute(f"{_LOOKUP} ({placeholders})", chunk):
                    rows[found["customer_id"]] = _prediction(found)
        return rows

    def delete(self, name: str) -> None:
        with self._transaction():
            current = self.current()
            if current and current.name == name:
                raise UsageError(f"generation {name!r} is current: switch to another one before deleting it")
            self._connection.execute("DELETE FROM predictions WHERE generation = ?", (name,))
            self._connection.execute("DELETE FROM generations WHERE name = ?", (name,))

    def close(self) -> None:
        self._connection.close()

    def _assert_attempt(self, name: str, attempt: int) -> None:
        found = self.find(name)
        if found is None or found.state is not State.STAGED or found.attempt != attempt:
            raise Superseded(name, attempt, found)

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._connection.execute(sql, parameters).fetchone()[0]

    def _now(self) -> str:
        return self._clock().isoformat()


def _is_text(customer_id: str) -> bool:
    """False for what no UTF-8 text can hold (lone surrogates): such a customer cannot exist."""
    try:
        customer_id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sqlite_columns(batch: pa.RecordBatch) -> list[list[Any]]:
    import pyarrow as pa

    texts = [column.cast(pa.string()) if pa.types.is_date(column.type) else column for column in batch.columns]
    return [column.to_pylist() for column in texts]


def _prediction(found: sqlite3.Row) -> Row:
    row = dict(found)
    for name in _DATES:
        row[name] = date.fromisoformat(row[name])
    return row


def _generation(found: sqlite3.Row) -> Generation:
    values = dict(found)
    for name in ("created_at", "sealed_at", "published_at"):
        values[name] = values[name] and datetime.fromisoformat(values[name])
    return Generation(
        **values
        | {
            "as_of": date.fromisoformat(values["as_of"]),
            "state": State(values["state"]),
            "dead_letters": json.loads(values["dead_letters"]),
        }
    )
