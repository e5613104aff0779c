"""The ledger in a file: the contract, many processes, and files that are none."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.refresh.ledger import Conflict, Ledger
from orchestration.refresh.record import Head
from orchestration.refresh.service import Busy
from orchestration.refresh.sqlite_ledger import SqliteLedger
from tests.orchestration.refresh.ledger_contract import DAY, LedgerContract, new_record
from transforms.errors import JobFailed, UsageError

PROCESSES = 16


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        self.path = str(tmp_path / "refresh.db")
        self.opened: list[Ledger] = []
        yield self.another()
        for each in self.opened:
            each.close()

    def another(self, ledger: Ledger | None = None) -> Ledger:
        if len(self.opened) < 2:
            self.opened.append(SqliteLedger(self.path))
        return self.opened[-1]


def _race(path: str, barrier: Any, answers: Any) -> None:
    """Opens the ledger at the same moment as all others, then makes and replaces the same rows as they."""
    barrier.wait(60)
    ledger = SqliteLedger(path)
    won = []
    record = new_record()
    for _ in range(10):
        barrier.wait(60)
        try:
            ledger.write(record)
            won.append(1)
        except Conflict:
            won.append(0)
        barrier.wait(60)
        found = ledger.record("shop", DAY)
        assert found is not None
        record = found
    for _ in range(20):  # nobody's write is lost where everybody tries again
        while True:
            try:
                ledger.write_head(ledger.head("shop"))
                break
            except Conflict:
                continue
    answers.put(won)


def test_of_sixteen_processes_one_writes_each_revision(tmp_path: Path) -> None:
    path = str(tmp_path / "made" / "here" / "refresh.db")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=_race, args=(path, barrier, answers)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    won = [answers.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    assert [sum(each) for each in zip(*won, strict=True)] == [1] * 10
    ledger = SqliteLedger(path)
    record = ledger.record("shop", DAY)
    assert record is not None
    assert (record.revision, ledger.head("shop").revision) == (10, 20 * PROCESSES)


def test_what_was_written_is_there_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "refresh.db"
    script = f"""
import os, signal
from orchestration.refresh.sqlite_ledger import SqliteLedger
from tests.orchestration.refresh.ledger_contract import new_record
SqliteLedger({str(path)!r}).write(new_record(note="before the end"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    found = SqliteLedger(str(path)).record("shop", DAY)
    assert found is not None
    assert found.note == "before the end"


def test_the_table_reads_without_this_code(tmp_path: Path) -> None:
    path = tmp_path / "refresh.db"
    ledger = SqliteLedger(str(path))
    ledger.write(new_record(note="für später"))
    ledger.write_head(Head("shop"))
    with sqlite3.connect(path) as connection:
        found = connection.execute(
            "SELECT campaign_name, base_date, revision, attributes ->> 'state', attributes ->> 'note' FROM refresh_ledger"
        ).fetchall()
        assert found == [("shop", "2026-07-01", 1, "started", "für später"), ("shop", "head", 1, None, None)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_lock_that_lasts_is_busy_and_one_that_does_not_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "refresh.db")
    ledger = SqliteLedger(path, busy_seconds=0.2)
    record = ledger.write(new_record())
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy, match=r"sqlite://.*refresh\.db: database is locked"):
        ledger.write(record)
    assert ledger.record("shop", DAY) == record  # readers are not held up
    timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    timer.start()
    assert SqliteLedger(path, busy_seconds=10).write(record).revision == 2
    timer.join()
    other.close()


def test_a_new_file_that_others_lock_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "refresh.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Busy, match="locked"):
        SqliteLedger(str(path), busy_seconds=0.1)
    other.close()


def _other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE predictions(customer_id TEXT)")


def _other_ledger(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE refresh_ledger(campaign TEXT)")


@pytest.mark.parametrize(
    "make",
    [
        _other_database,
        _other_ledger,
        lambda path: path.write_text("a page of text, and no database " * 100),
        lambda path: path.mkdir(),
    ],
)
def test_a_file_that_is_no_ledger_is_told_in_one_line_and_left_alone(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "refresh.db"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(UsageError, match=r"sqlite://.*refresh\.db' is not usable: .*; accepted is") as caught:
        SqliteLedger(str(path))
    assert "\n" not in str(caught.value)
    assert path.is_dir() or path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"not usable: .*file.*accepted is"):
        SqliteLedger(str(tmp_path / "file" / "refresh.db"))


def test_a_row_that_is_no_json_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "refresh.db"
    ledger = SqliteLedger(str(path))
    ledger.write(new_record())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE refresh_ledger SET attributes = '{'")
    with pytest.raises(UsageError, match=r"row of shop 2026-07-01 in .* is damaged"):
        ledger.record("shop", DAY)


def test_a_full_disk_is_told_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    """A limit on the file's pages is how SQLite can be told that the disk is full."""
    ledger = SqliteLedger(str(tmp_path / "refresh.db"))
    record = ledger.write(new_record())
    ledger._connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(JobFailed, match=r"refresh\.db: database or disk is full"):
        ledger.write(new_record(note="x" * 100_000, revision=1))
    assert ledger.record("shop", DAY) == record


def test_a_relative_path_is_where_the_process_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = SqliteLedger("work/refresh.db")
    record = ledger.write(new_record())
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    assert ledger.record("shop", DAY) == record
    assert (tmp_path / "work" / "refresh.db").is_file()


def test_memory_is_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is gone with its process would be none."""
    monkeypatch.chdir(tmp_path)
    SqliteLedger(":memory:").write(new_record())
    assert SqliteLedger(":memory:").record("shop", DAY) is not None
