"""The contract on SQLite, and what only a file can get wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from serving.sqlite_store import IDS_PER_QUERY
from serving.store import Store, open_store, resolve
from tests.serving.store_contract import SteppingClock, StoreContract, fill, prediction
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
    def open_store(self, tmp_path: Path) -> Callable[[], Store]:
        return partial(open_store, f"sqlite://{tmp_path}/new folder/100%?#é.db", create=True, clock=SteppingClock())


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
    from serving import sqlite_store

    open_store(f"sqlite://{tmp_path}/s.db", create=True).close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sqlite_store._LOOKUP} (?, ?)", "ab"))
    assert "SEARCH p USING PRIMARY KEY (generation=? AND customer_id=?)" in plan


def test_uris_name_absolute_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("sqlite:///a/b.db") == "sqlite:///a/b.db"
    assert resolve("sqlite://a/b.db") == f"sqlite://{tmp_path}/a/b.db"


@pytest.mark.parametrize(
    "uri", ["datastore://project/kind", "serving.db", "sqlite:serving.db", "sqlite://", "sqlite://a/", ""]
)
def test_other_uris_are_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(uri)
    assert str(error.value) == (
        f"--serving {uri!r} is not usable: accepted is sqlite:///absolute/path.db or sqlite://relative/path.db"
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
    for path, message in ((text, "file is not a database"), (foreign, "accepted is a serving store of layout 1")):
        before = path.read_bytes()
        with pytest.raises(UsageError, match=message):
            open_store(f"sqlite://{path}", create=create)
        assert path.read_bytes() == before


def test_a_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not open as a serving store"):
        open_store(f"sqlite://{tmp_path}", create=True)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    open_store(f"sqlite://{tmp_path}/s.db", create=True).close()
    with open_store(f"sqlite://{tmp_path}/s.db") as store, pytest.raises(sqlite3.OperationalError, match="readonly"):
        fill(store, "g1", [prediction("c1")])
