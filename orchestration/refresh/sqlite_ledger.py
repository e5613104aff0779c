"""The ledger as a file on this machine: for trying it out, and for one machine that does everything.

One table, ``refresh_ledger``: a row's revision is a column, the rest of it one JSON object, so that
``sqlite3 FILE 'SELECT * FROM refresh_ledger'`` shows it all. The file must be on a disk of this machine: locks and the
write-ahead log do not work over a network.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestration.refresh.ledger import Conflict, Ledger, Row
from orchestration.refresh.service import Busy, NoAccess
from transforms.errors import JobFailed, UsageError, one_line

# How long others may write before this counts as busy: a write takes milliseconds, so it is a queue of thousands.
_BUSY_SECONDS = 10.0
_PAUSE_SECONDS = 0.02
_COLUMNS = ["campaign_name", "base_date", "revision", "attributes"]
_LAYOUT = """
CREATE TABLE refresh_ledger(
  campaign_name TEXT NOT NULL, base_date TEXT NOT NULL, revision INTEGER NOT NULL, attributes TEXT NOT NULL,
  PRIMARY KEY(campaign_name, base_date)
) WITHOUT ROWID"""
_INSERT = "INSERT INTO refresh_ledger(attributes, revision, campaign_name, base_date) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_UPDATE = (
    "UPDATE refresh_ledger SET attributes = ?, revision = ? WHERE campaign_name = ? AND base_date = ? AND revision = ?"
)
_SELECT = "SELECT base_date, revision, attributes FROM refresh_ledger WHERE campaign_name = ?"

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_NO_LEDGER = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_ERROR)


class SqliteLedger(Ledger):
    """A ledger in a file, which is made where there is none, as is its directory.

    One instance is for all threads of a process; another process makes its own, also one that was forked.

    Args:
      path: of the file; a relative one means where this process is now.
      busy_seconds: how long to wait while others write.

    Raises:
      UsageError: the file is something else, or cannot be made.
      Busy, NoAccess, JobFailed: others write all the time; it may not be written; the disk is full or fails. Every
        method raises these too.
    """

    def __init__(self, path: str, busy_seconds: float = _BUSY_SECONDS) -> None:
        self._path, self._busy_seconds = path, busy_seconds
        self._lock = threading.Lock()
        file = os.path.abspath(path)
        self._make_directory(os.path.dirname(file))
        with self._told():
            # Without a transaction around them single statements are committed one by one.
            self._connection = sqlite3.connect(
                file, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _make_directory(self, directory: str) -> None:
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise self._no_ledger(f"{directory}: {error.strerror}") from error

    def _prepare(self) -> None:
        until = time.monotonic() + self._busy_seconds
        while True:
            try:
                with self._told():
                    return self._lay_out()
            except Busy:
                # SQLite does not wait by itself where the journal's mode is changed.
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def _lay_out(self) -> None:
        execute = self._connection.execute
        # FULL: an intent that was written must outlive a power cut, or its call is made twice.
        execute("PRAGMA synchronous = FULL")
        if not self._tables():
            execute("PRAGMA journal_mode = WAL")
            execute("BEGIN IMMEDIATE")
            try:
                if not self._tables():
                    execute(_LAYOUT)
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
        columns = [name for _, name, *_ in execute("PRAGMA table_info(refresh_ledger)")]
        if columns != _COLUMNS:
            raise self._no_ledger(f"it has the tables {', '.join(self._tables())}")

    def _tables(self) -> list[str]:
        return [name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def _read(self, campaign: str, key: str) -> Row | None:
        found = self._execute(f"{_SELECT} AND base_date = ?", campaign, key)[0]
        return self._row(campaign, *found[0]) if found else None

    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        found = self._execute(f"{_SELECT} ORDER BY base_date", campaign)[0]
        return iter([(each[0], self._row(campaign, *each)) for each in found])

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        attributes = {name: value for name, value in row.items() if name != "revision"}
        values = (json_of(attributes, f"{campaign} {key}"), row["revision"], campaign, key)
        changed = self._execute(_UPDATE, *values, expected)[1] if expected else self._execute(_INSERT, *values)[1]
        if changed != 1:
            raise Conflict(f"{campaign} {key} has not the revision {expected}")

    def campaigns(self) -> list[str]:
        found = self._execute("SELECT DISTINCT campaign_name FROM refresh_ledger ORDER BY campaign_name")[0]
        return [name for (name,) in found]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _execute(self, sql: str, *values: Any) -> tuple[list[tuple], int]:
        """The rows found, and how many were changed."""
        with self._lock, self._told():
            cursor = self._connection.execute(sql, values)
            return cursor.fetchall(), cursor.rowcount

    def _row(self, campaign: str, key: str, revision: int, attributes: str) -> Row:
        try:
            return {**json.loads(attributes), "revision": revision}
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"the ledger's row of {campaign} {key} in {self._path} is damaged: {one_line(str(error))}"
            ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as what is to be done about them."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # Python's own errors have none
            if code is None:
                raise
            said = f"sqlite://{self._path}: {one_line(str(error))}"
            if code & 0xFF in _BUSY:
                raise Busy(said) from error
            if code & 0xFF in _FORBIDDEN:
                raise NoAccess(said) from error
            if code & 0xFF in _NO_LEDGER:
                raise self._no_ledger(str(error)) from error
            raise JobFailed(said) from error

    def _no_ledger(self, why: str) -> UsageError:
        return UsageError(
            f"the ledger 'sqlite://{self._path}' is not usable: {one_line(why)}; "
            "accepted is a ledger's file, or a path where one can be made"
        )


def json_of(row: Row, whose: str) -> str:
    """A row as text. Raises: UsageError for what no ledger can keep."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:  # also of what no UTF-8 text can hold
        raise UsageError(
            f"{whose} cannot be kept in the ledger: {one_line(str(error))}; accepted are UTF-8 text and finite numbers"
        ) from error
    return text
