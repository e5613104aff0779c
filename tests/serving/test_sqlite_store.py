"""The contract on SQLite, and what only a file can get wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from serving import sqlite_store
from serving.sqlite_store import IDS_PER_QUERY, SqliteStore
from serving.store import Content, Generation, State, Store, StoreFailed, open_store, resolve
from tests.serving.store_contract import (
    AS_OF,
    START,
    SteppingClock,
    StoreContract,
    batch_of,
    begin,
    fill,
    names_of,
    prediction,
)
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
# Reads more ids than go into one query, so that a lookup which is not one snapshot gets caught.
CUSTOMERS = 2 * IDS_PER_QUERY + 1
READS = 50
READER = f"""
import sys
from serving.store import open_store
ids = [f"c{{i}}" for i in range({CUSTOMERS})]
seen = set()
with open_store(sys.argv[1]) as store:
    print("reading", flush=True)
    for _ in range({READS}):
        rows = store.lookup_many(ids)
        assert len(rows) == {CUSTOMERS}, len(rows)
        kinds = {{(row["generation"], row["predicted_value"]) for row in rows.values()}}
        assert len(kinds) == 1, f"mixed read: {{kinds}}"
        seen |= kinds
print(sorted(seen))
"""


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path, clock: SteppingClock) -> Callable[[], Store]:
        return partial(open_store, f"sqlite://{tmp_path}/new folder/100%?#é.db", create=True, clock=clock)


def test_a_reading_process_never_sees_two_generations(tmp_path: Path) -> None:
    uri = f"sqlite://{tmp_path}/serving.db"
    with open_store(uri, create=True) as store:
        for name, value in (("g1", 1.0), ("g2", 2.0)):
            fill(store, name, [prediction(f"c{i}", value) for i in range(CUSTOMERS)])
        store.switch("g1", None)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, uri], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        while reader.poll() is None:  # it makes so many reads, however fast this machine is, and ends
            store.switch("g2", "g1")
            store.switch("g1", "g2")
        output, errors = reader.communicate()
    assert reader.returncode == 0, errors
    assert output.strip() == "[('g1', 1.0), ('g2', 2.0)]"


def test_two_processes_may_create_the_same_store(tmp_path: Path) -> None:
    command = [
        sys.executable, "-c",
        f"from serving.store import open_store; open_store('sqlite://{tmp_path}/s.db', create=True).close()",
    ]  # fmt: skip
    makers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(maker.communicate(timeout=60)[1], maker.returncode) for maker in makers] == [("", 0)] * 4
    with open_store(f"sqlite://{tmp_path}/s.db") as store:
        assert store.generations() == []


def test_a_lookup_is_a_key_search(tmp_path: Path) -> None:
    open_store(f"sqlite://{tmp_path}/s.db", create=True).close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sqlite_store._LOOKUP} (?, ?)", "ab"))
    assert "SEARCH p USING PRIMARY KEY (generation=? AND customer_id=?)" in plan


def test_uris_name_absolute_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("sqlite:///a/b.db") == "sqlite:///a/b.db"
    assert resolve("sqlite://a/b.db") == f"sqlite://{tmp_path}/a/b.db"


@pytest.mark.parametrize(
    "uri", ["datastore://My Project", "datastore://", "serving.db", "sqlite:serving.db", "sqlite://", "sqlite://a/", ""]
)
def test_other_uris_are_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(uri)
    assert str(error.value) == (
        f"--serving {uri!r} is not usable: accepted is sqlite:///absolute/path.db, sqlite://relative/path.db, "
        "datastore://project or datastore://project/database"
    )


def test_reading_a_missing_file_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accepted is an existing store"):
        open_store(f"sqlite://{tmp_path}/missing.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
def test_other_peoples_files_are_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    text, foreign = tmp_path / "text.db", tmp_path / "foreign.db"
    text.write_text("not a database, but longer than the header of one: " * 20)
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    for path, message in ((text, "file is not a database"), (foreign, "accepted is a serving store of layout 2")):
        before = path.read_bytes()
        with pytest.raises(UsageError, match=message):
            open_store(f"sqlite://{path}", create=create)
        assert path.read_bytes() == before


def test_a_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not open as a serving store"):
        open_store(f"sqlite://{tmp_path}", create=True)


@pytest.mark.parametrize("below", ["", "/folder"])
def test_a_path_below_a_file_is_refused_in_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=r"accepted is a file in a folder that exists or can be made \(.*\)$"):
        open_store(f"sqlite://{tmp_path}/file{below}/s.db", create=True)
    with pytest.raises(UsageError, match="accepted is an existing store"):
        open_store(f"sqlite://{tmp_path}/file{below}/s.db")


def test_a_store_that_another_program_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_SECONDS", 0.05)
    uri, told = f"sqlite://{tmp_path}/s.db", r"^--serving 'sqlite://.*' failed: database is locked; [^\n]*$"
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreFailed, match=told):
        open_store(uri, create=True)
    other.execute("ROLLBACK")
    with open_store(uri, create=True) as store:
        attempt = begin(store, "g1")
        other.execute("BEGIN IMMEDIATE")
        for act in (
            lambda: store.write("g1", attempt, batch_of([prediction("c1")])),
            lambda: store.switch("g1", None),
            lambda: store.delete("g1"),
        ):
            with pytest.raises(StoreFailed, match=told):
                act()
        other.execute("ROLLBACK")
        fill(store, "g1", [prediction("c1")])
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreFailed, match=told):
        open_store(uri)
    other.close()


def test_a_full_disk(tmp_path: Path) -> None:
    rows = [prediction(f"c{i}") for i in range(5000)]
    with SqliteStore(f"{tmp_path}/s.db", create=True) as store:
        fill(store, "g1", rows[:10])
        store.switch("g1", None)
        attempt = begin(store, "g2")
        store._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(StoreFailed, match=r"^--serving 'sqlite://.*' failed: database or disk is full; [^\n]*$"):
            store.write("g2", attempt, batch_of(rows))
        assert store.lookup("c1") is not None
        assert store.read_back("g2", [row["customer_id"] for row in rows]) == {}
        store._connection.execute("PRAGMA max_page_count = 100000")
        fill(store, "g2", rows)
        assert names_of(store) == ["g2", "g1"]


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    open_store(f"sqlite://{tmp_path}/s.db", create=True).close()
    with open_store(f"sqlite://{tmp_path}/s.db") as store, pytest.raises(sqlite3.OperationalError, match="readonly"):
        fill(store, "g1", [prediction("c1")])


LAYOUT_1 = """
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
  generation TEXT NOT NULL, customer_id TEXT NOT NULL, as_of TEXT NOT NULL, horizon_days INTEGER NOT NULL,
  model_version TEXT NOT NULL, predicted_value REAL NOT NULL, value_p10 REAL NOT NULL, value_p50 REAL NOT NULL,
  value_p90 REAL NOT NULL, purchase_probability REAL NOT NULL, expected_orders REAL NOT NULL, decile INTEGER NOT NULL,
  PRIMARY KEY (generation, customer_id)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 0x434C5650;
PRAGMA user_version = 1;
INSERT INTO generations VALUES
  ('g1', 'sealed', 2, '2011-12-10', 90, 'm1', 3, '{"negative": 4}', '2026-01-01T00:00:00+00:00',
   '2026-01-01T00:00:01+00:00', '2026-01-01T00:00:02+00:00'),
  ('g2', 'staged', 1, '2011-12-11', 90, 'm1', 0, '{}', '2026-01-02T00:00:00+00:00', NULL, NULL);
INSERT INTO pointer VALUES (1, 'g1');
INSERT INTO predictions VALUES
  ('g1', 'c1', '2011-12-10', 90, 'm1', 0.5, 0.25, 0.5, 1.0, 0.5, 1.5, 3),
  ('g1', 'c2', '2011-12-10', 90, 'm1', 0.0, 0.0, 0.0, 0.0, 0.5, 1.5, 3),
  ('g1', 'c3', '2011-12-10', 90, 'm1', 2.0, 1.0, 2.0, 4.0, 0.5, 1.5, 3),
  ('g2', 'c1', '2011-12-11', 90, 'm1', 9.0, 1.0, 2.0, 4.0, 0.5, 1.5, 3);
"""


@pytest.fixture
def layout_1(tmp_path: Path) -> str:
    """A store as the version before this one wrote it."""
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.executescript(LAYOUT_1)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return f"sqlite://{tmp_path}/old.db"


def test_a_store_of_the_former_layout_is_read_as_it_is(layout_1: str, tmp_path: Path) -> None:
    before = (tmp_path / "old.db").read_bytes()
    with open_store(layout_1) as store:
        assert store.lookup("c3") == prediction("c3", 2.0) | {"generation": "g1"}
        current = store.current()
        assert current is not None
        assert (current.content.rows, current.dead_letters, current.begun_at) == (3, {"negative": 4}, START)
        assert [g.name for g in store.generations()] == ["g2", "g1"]
    assert (tmp_path / "old.db").read_bytes() == before


def test_a_store_of_the_former_layout_is_migrated_by_who_writes(layout_1: str) -> None:
    with open_store(layout_1) as reader, open_store(layout_1, create=True) as store:
        migrated = Generation(
            "g1", AS_OF, 90, "m1", State.SEALED, 2, Content(3, 2.5, 1), {"negative": 4}, {},
            START, START, START + timedelta(seconds=1), START + timedelta(seconds=2),
        )  # fmt: skip
        assert store.current() == reader.current() == migrated
        staged = store.find("g2")
        assert staged is not None and (staged.state, staged.content) == (State.STAGED, Content())
        assert store.lookup("c3") == reader.lookup("c3") == prediction("c3", 2.0) | {"generation": "g1"}
        fill(store, "g3", [prediction("c1", 7.0)])
        store.switch("g3", "g1", {"rollback": "try"})
        row = reader.lookup("c1")
        assert row is not None and row["generation"] == "g3"
    with open_store(layout_1, create=True) as store:
        assert store.find("g1") == migrated


def test_two_processes_may_migrate_the_same_store(layout_1: str) -> None:
    command = [
        sys.executable, "-c",
        f"from serving.store import open_store; open_store({layout_1!r}, create=True).close()",
    ]  # fmt: skip
    makers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(maker.communicate(timeout=60)[1], maker.returncode) for maker in makers] == [("", 0)] * 4


def test_the_layouts_do_not_differ_by_how_they_came_about(layout_1: str, tmp_path: Path) -> None:
    open_store(layout_1, create=True).close()
    open_store(f"sqlite://{tmp_path}/new.db", create=True).close()
    described = []
    for name in ("old.db", "new.db"):
        with sqlite3.connect(tmp_path / name) as connection:
            described.append(connection.execute("PRAGMA table_info(generations)").fetchall())
    assert described[0] == described[1]


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


class TestAFileThatIsNotThereAnyMore:
    """A connection goes on reading a file that nobody can find any more, and would serve it for ever."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        for name, value in (("s.db", 1.0), ("other.db", 2.0)):
            with open_store(f"sqlite://{tmp_path}/{name}", create=True) as store:
                fill(store, f"g{value:.0f}", [prediction("c1", value)])
                store.switch(f"g{value:.0f}", None)
        return tmp_path / "s.db"

    def test_deleted(self, path: Path) -> None:
        with open_store(f"sqlite://{path}") as store:
            assert store.current() is not None
            remove(path)
            with pytest.raises(StoreFailed, match=rf"^--serving 'sqlite://{path}' was deleted or replaced[^\n]*$"):
                store.current()

    def test_replaced(self, path: Path) -> None:
        with open_store(f"sqlite://{path}") as store:
            served = store.current()
            assert served is not None
            remove(path)
            (path.parent / "other.db").rename(path)
            for act in (store.current, lambda: store.rows(served, ["c1"])):
                with pytest.raises(StoreFailed, match="was deleted or replaced since it was opened"):
                    act()
        with open_store(f"sqlite://{path}") as store:
            current = store.current()
            assert current is not None and current.name == "g2"

    def test_moved_away_and_back(self, path: Path) -> None:
        with open_store(f"sqlite://{path}") as store:
            path.rename(path.parent / "away.db")
            with pytest.raises(StoreFailed):
                store.current()
            (path.parent / "away.db").rename(path)
            assert store.current() is not None

    def test_a_publish_is_no_replacement(self, path: Path) -> None:
        with open_store(f"sqlite://{path}") as reader, open_store(f"sqlite://{path}", create=True) as store:
            fill(store, "g9", [prediction("c1", 9.0)])
            store.switch("g9", "g1")
            current = reader.current()
            assert current is not None and current.name == "g9"


def test_a_lock_is_waited_for_as_long_as_told(tmp_path: Path) -> None:
    uri = f"sqlite://{tmp_path}/s.db"
    open_store(uri, create=True).close()
    locking = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    locking.execute("PRAGMA locking_mode = EXCLUSIVE")
    locking.execute("BEGIN EXCLUSIVE")
    for patience in (0.1, 0.6):
        began = time.monotonic()
        with pytest.raises(StoreFailed, match="database is locked"):
            open_store(uri, patience_seconds=patience)
        assert patience * 0.9 < time.monotonic() - began < patience + 2
    locking.close()


def test_the_rows_of_a_generation_are_found_by_key(tmp_path: Path) -> None:
    open_store(f"sqlite://{tmp_path}/s.db", create=True).close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        plan = " ".join(
            row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sqlite_store._READ_BACK} (?, ?)", "gab")
        )
    assert "SEARCH p USING PRIMARY KEY (generation=? AND customer_id=?)" in plan
