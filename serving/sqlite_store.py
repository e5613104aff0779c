"""The embedded serving store: one SQLite file in WAL mode.

Readers and the one writer do not block each other, and a read transaction sees one snapshot, so a
lookup gets the pointer and the rows it points at from the same moment. Several processes on one
machine may use the file; a network file system may not hold it (WAL needs shared memory).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from serving.store import (
    Clock,
    Content,
    Generation,
    IsCurrent,
    PointerMoved,
    Row,
    RowCountMismatch,
    State,
    Store,
    StoreFailed,
    Superseded,
    WentBack,
    Written,
    switched_at,
    utc_now,
)
from transforms.errors import UsageError, one_line, rejected
from transforms.schema import PREDICTIONS, Type, names

if TYPE_CHECKING:
    import pyarrow as pa

APPLICATION_ID = 0x434C5650  # "CLVP": tells our file from any other program's
LAYOUT_VERSION = 2
OLDER_LAYOUTS = (1,)  # read as they are, and migrated by whoever opens them for writing
BUSY_TIMEOUT_SECONDS = 60  # a writer waits for another's transaction: one batch, or deleting a generation
WRITE_CACHE_KIB = 65_536  # the default of 2 MB thrashes when customers arrive in random order
IDS_PER_QUERY = 500  # well below SQLite's oldest limit of 999 variables

# What passes, or is mended outside of the store: another program's lock, a full disk, one that fails.
_MAY_PASS = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR")

_TYPES = {Type.STRING: "TEXT", Type.INT: "INTEGER", Type.FLOAT: "REAL", Type.DATE: "TEXT"}
_COLUMNS = names(PREDICTIONS)
_DATES = [column.name for column in PREDICTIONS if column.type is Type.DATE]

_SINCE_2 = (
    "total_value REAL NOT NULL DEFAULT 0.0", "zeros INTEGER NOT NULL DEFAULT 0", "notes TEXT NOT NULL DEFAULT '{}'",
    "begun_at TEXT", "warehouse TEXT",
)  # fmt: skip
# WITHOUT ROWID keeps the row in the key's own tree: one descent a lookup, and a generation is one range.
_LAYOUT = f"""
CREATE TABLE generations (
  name TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('staged', 'sealed')), attempt INTEGER NOT NULL,
  as_of TEXT NOT NULL, horizon_days INTEGER NOT NULL, model_version TEXT NOT NULL,
  rows INTEGER NOT NULL, dead_letters TEXT NOT NULL,
  created_at TEXT NOT NULL, sealed_at TEXT, published_at TEXT,
  {", ".join(_SINCE_2)}
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
_MIGRATE_1 = f"""
{";".join(f"ALTER TABLE generations ADD COLUMN {column}" for column in _SINCE_2)};
UPDATE generations SET begun_at = created_at;
UPDATE generations SET (total_value, zeros) = (
  SELECT coalesce(sum(predicted_value), 0.0), coalesce(sum(predicted_value = 0), 0)
  FROM predictions WHERE generation = generations.name
) WHERE state = 'sealed';
PRAGMA user_version = {LAYOUT_VERSION}
"""
_UPSERT = f"INSERT OR REPLACE INTO predictions (generation, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"
_SELECT = f"SELECT {', '.join(f'p.{name}' for name in _COLUMNS)}, p.generation FROM"
# CROSS JOIN fixes the order: the one pointer row first, then one key search a customer.
_LOOKUP = f"{_SELECT} pointer CROSS JOIN predictions AS p ON p.generation = pointer.generation WHERE p.customer_id IN"
_READ_BACK = f"{_SELECT} predictions AS p WHERE p.generation = ? AND p.customer_id IN"


class SqliteStore(Store):
    def __init__(
        self, path: str, create: bool = False, clock: Clock = utc_now, patience_seconds: float | None = None
    ) -> None:
        """Opens the file; see ``serving.store.open_store``.

        Raises:
          StoreFailed: another program keeps it locked, or the disk fails; so does every method.
        """
        self._path = path
        self._clock = clock
        if not create and not os.path.isfile(path):
            raise rejected("--serving", f"sqlite://{path}", "an existing store (python -m pipelines.publish makes one)")
        if create:
            self._make_folder()
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(path)}?mode={'rwc' if create else 'ro'}",
                uri=True, timeout=patience_seconds or BUSY_TIMEOUT_SECONDS, isolation_level=None,
            )  # fmt: skip
            self._file = _identity(path)
            self._prepare(create)
        except sqlite3.DatabaseError as error:
            if _may_pass(error):
                raise self._failed(error) from error
            raise UsageError(f"--serving 'sqlite://{path}' does not open as a serving store: {error}") from error

    def _make_folder(self) -> None:
        folder = os.path.dirname(self._path) or "."
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            accepted = f"a file in a folder that exists or can be made ({folder}: {error.strerror})"
            raise rejected("--serving", f"sqlite://{self._path}", accepted) from error

    def _prepare(self, create: bool) -> None:
        self._connection.row_factory = sqlite3.Row
        if create:
            self._create()
        if not self._is_ours():
            raise rejected("--serving", f"sqlite://{self._path}", f"a serving store of layout {LAYOUT_VERSION}")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _create(self) -> None:
        """Lays out an empty file; another program's file is left exactly as it is."""
        if not self._is_empty() and not self._is_ours():
            return
        self._connection.execute("PRAGMA journal_mode = WAL")
        # FULL: once a publish has reported the switch, a power cut must not take it back.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA cache_size = -{WRITE_CACHE_KIB}")
        if self._layout() != LAYOUT_VERSION:
            with self._transaction():  # asked again inside: another process may create or migrate the same store
                if self._is_empty():
                    self._execute_all(_LAYOUT)
                elif self._layout() != LAYOUT_VERSION:
                    self._execute_all(_MIGRATE_1)

    def _is_empty(self) -> bool:
        return bool(self._value("SELECT count(*) FROM sqlite_master") == 0)

    def _is_ours(self) -> bool:
        known = (LAYOUT_VERSION, *OLDER_LAYOUTS)
        return self._value("PRAGMA application_id") == APPLICATION_ID and self._layout() in known

    def _layout(self) -> int:
        return int(self._value("PRAGMA user_version"))

    def _execute_all(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self._connection.execute(statement)

    def current(self) -> Generation | None:
        self._require_same_file()
        found = self._found("SELECT generations.* FROM pointer JOIN generations ON name = pointer.generation")
        return next(map(_generation, found), None)

    def generations(self) -> list[Generation]:
        found = self._found("SELECT * FROM generations")
        return sorted(map(_generation, found), key=lambda g: (g.begun_at, g.name), reverse=True)

    def find(self, name: str) -> Generation | None:
        return next(map(_generation, self._found("SELECT * FROM generations WHERE name = ?", name)), None)

    def begin(self, generation: Generation) -> int | None:
        with self._transaction():
            found = self.find(generation.name)
            if found and found.state is State.SEALED:
                return None
            attempt, now = found.attempt + 1 if found else 1, self._clock()
            self._connection.execute("DELETE FROM predictions WHERE generation = ?", (generation.name,))
            self._connection.execute(
                "INSERT OR REPLACE INTO generations (name, state, attempt, as_of, horizon_days, model_version, rows, "
                "dead_letters, created_at, begun_at, warehouse) VALUES (?, 'staged', ?, ?, ?, ?, 0, '{}', ?, ?, ?)",
                (
                    generation.name, attempt, generation.as_of.isoformat(), generation.horizon_days,
                    generation.model_version, ((found and found.created_at) or now).isoformat(), now.isoformat(),
                    generation.warehouse,
                ),
            )  # fmt: skip
        return attempt

    def write(self, name: str, attempt: int, batch: pa.RecordBatch) -> Written:
        columns = _sqlite_columns(batch)
        with self._transaction():
            self._assert_attempt(name, attempt)
            self._upsert(name, columns)
        return Written()

    def read_back(self, name: str, customer_ids: Iterable[str]) -> dict[str, Row]:
        return self._rows(_READ_BACK, (name,), customer_ids)

    def seal(self, name: str, attempt: int, content: Content, dead_letters: Mapping[str, int]) -> None:
        with self._transaction():
            if self._holds(name, attempt, content, dead_letters):
                return
            self._assert_attempt(name, attempt)
            self._hold_to(name, content)
            self._connection.execute(
                "UPDATE generations SET state = 'sealed', sealed_at = ? WHERE name = ?", (self._now(), name)
            )
            self._describe(name, content, dead_letters)

    def add(self, name: str, batch: pa.RecordBatch) -> Written:
        columns = _sqlite_columns(batch)
        with self._transaction():
            self._assert_sealed(name, "have rows added")
            self._upsert(name, columns)
        return Written()

    def amend(self, name: str, content: Content, dead_letters: Mapping[str, int]) -> None:
        with self._transaction():
            self._assert_sealed(name, "be amended")
            self._hold_to(name, content)
            self._describe(name, content, dead_letters)

    def switch(
        self,
        name: str,
        expected_current: str | None,
        notes: Mapping[str, str] | None = None,
        known: Generation | None = None,
    ) -> None:
        with self._transaction():
            current, found = self.current(), self.find(name)
            if (current.name if current else None) != expected_current:
                raise PointerMoved(name, expected_current, current)
            self._assert_sealed(name, "become current")
            if known and found and known.published_at != found.published_at:
                raise WentBack(name, current)
            at = switched_at(self._clock(), current, found)
            self._connection.execute("INSERT OR REPLACE INTO pointer VALUES (1, ?)", (name,))
            self._connection.execute(
                "UPDATE generations SET published_at = ?, notes = ? WHERE name = ?",
                (at.isoformat(), _json(notes or {}), name),
            )

    def lookup_many(self, customer_ids: Iterable[str]) -> dict[str, Row]:
        return self._rows(_LOOKUP, (), customer_ids)

    def rows(self, served: Generation, customer_ids: Iterable[str]) -> dict[str, Row]:
        self._require_same_file()  # another store of the same reader may have found ``served`` in another file
        return self._rows(_READ_BACK, (served.name,), customer_ids)

    def delete(self, name: str, before: Callable[[Generation], None] | None = None) -> None:
        with self._transaction():  # ``before`` is inside: meanwhile nobody switches
            current, found = self.current(), self.find(name)
            if current and current.name == name:
                raise IsCurrent(name)
            if found and before:
                before(found)
            self._connection.execute("DELETE FROM predictions WHERE generation = ?", (name,))
            self._connection.execute("DELETE FROM generations WHERE name = ?", (name,))

    def close(self) -> None:
        self._connection.close()

    def _assert_attempt(self, name: str, attempt: int) -> None:
        found = self.find(name)
        if found is None or found.state is not State.STAGED or found.attempt != attempt:
            raise Superseded(name, attempt, found)

    def _assert_sealed(self, name: str, to: str) -> None:
        found = self.find(name)
        if found is None or found.state is not State.SEALED:
            raise UsageError(
                f"generation {name!r} is {found.state.value if found else 'unknown'}: only a sealed one can {to}"
            )

    def _holds(self, name: str, attempt: int, content: Content, dead_letters: Mapping[str, int]) -> bool:
        """Whether it is sealed with these figures."""
        found = self.find(name)
        same = (State.SEALED, attempt, content, dict(dead_letters))
        return found is not None and (found.state, found.attempt, found.content, found.dead_letters) == same

    def _hold_to(self, name: str, content: Content) -> None:
        staged = self._value("SELECT count(*) FROM predictions WHERE generation = ?", name)
        if staged != content.rows:
            raise RowCountMismatch(name, staged, content.rows)

    def _describe(self, name: str, content: Content, dead_letters: Mapping[str, int]) -> None:
        self._connection.execute(
            "UPDATE generations SET rows = ?, total_value = ?, zeros = ?, dead_letters = ? WHERE name = ?",
            (content.rows, content.total_value, content.zeros, _json(dead_letters), name),
        )

    def _upsert(self, name: str, columns: list[list[Any]]) -> None:
        self._connection.executemany(_UPSERT, zip([name] * len(columns[0]), *columns, strict=True))

    def _rows(self, select: str, parameters: tuple[str, ...], customer_ids: Iterable[str]) -> dict[str, Row]:
        """The rows of customers, all from one snapshot."""
        rows: dict[str, Row] = {}
        remaining = filter(_is_text, dict.fromkeys(customer_ids))
        with self._transaction("DEFERRED"):
            while chunk := list(islice(remaining, IDS_PER_QUERY)):
                placeholders = ", ".join("?" * len(chunk))
                for found in self._connection.execute(f"{select} ({placeholders})", (*parameters, *chunk)):
                    rows[found["customer_id"]] = _prediction(found)
        return rows

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._told():
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What keeps the store from working, in one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if _may_pass(error):
                raise self._failed(error) from error
            raise

    def _failed(self, error: sqlite3.Error) -> StoreFailed:
        return StoreFailed(
            f"--serving 'sqlite://{self._path}' failed: {one_line(str(error))}; the same command goes on"
        )

    def _require_same_file(self) -> None:
        """Raises: StoreFailed where the path names another file by now, or none: this one is nobody's any more."""
        if _identity(self._path) != self._file:
            raise StoreFailed(f"--serving 'sqlite://{self._path}' was deleted or replaced since it was opened")

    def _found(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        with self._told():
            return self._connection.execute(sql, parameters).fetchall()

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._connection.execute(sql, parameters).fetchone()[0]

    def _now(self) -> str:
        return self._clock().isoformat()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _may_pass(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(_MAY_PASS)  # Python's own errors have none


def _is_text(customer_id: str) -> bool:
    """False for what no UTF-8 text can hold (lone surrogates): such a customer cannot exist."""
    try:
        customer_id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sqlite_columns(batch: pa.RecordBatch) -> list[list[Any]]:
    import pyarrow as pa

    # Key order within a batch: neighbours share pages, and sorting here costs a tenth of what it saves.
    columns = batch.select(_COLUMNS).sort_by("customer_id").columns
    texts = [column.cast(pa.string()) if pa.types.is_date(column.type) else column for column in columns]
    return [column.to_pylist() for column in texts]


def _prediction(found: sqlite3.Row) -> Row:
    row = dict(found)
    for name in _DATES:
        row[name] = date.fromisoformat(row[name])
    return row


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)


def _generation(found: sqlite3.Row) -> Generation:
    values = dict(found)
    for name in ("created_at", "begun_at", "sealed_at", "published_at"):
        values[name] = values.get(name) and datetime.fromisoformat(values[name])
    content = Content(values.pop("rows"), values.pop("total_value", 0.0), values.pop("zeros", 0))
    return Generation(
        **values
        | {
            "content": content,
            "as_of": date.fromisoformat(values["as_of"]),
            "state": State(values["state"]),
            "dead_letters": json.loads(values["dead_letters"]),
            "notes": json.loads(values.get("notes", "{}")),
            "begun_at": values["begun_at"] or values["created_at"],  # all that layout 1 knows
        }
    )
