"""The local warehouse: a partition is one generation's rows, whatever is killed, repeated or slow."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import warehouse as warehouses
from pipelines.warehouse import COLUMNS, LocalWarehouse, became_current
from serving.store import Generation
from tests.pipelines.published import EARLIER, Records, part_of, rows_of, stage, write_part
from tests.serving.store_contract import AS_OF
from transforms import schema
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test handles it."""


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(str(tmp_path / "wh"))


@pytest.fixture
def records() -> Records:
    return Records()


def published(warehouse: LocalWarehouse, records: Records, name: str, rows: list[dict[str, Any]]) -> bool:
    """Stages rows as a generation of their own day, has it become current and publishes it."""
    stage(warehouse, records.add(name, len(rows), rows[0]["as_of"]), rows)
    return warehouse.publish(records.switch(name), records)


def held(warehouse: LocalWarehouse, as_of: Any = AS_OF) -> list[dict[str, Any]]:
    return pq.ParquetFile(warehouse.path(as_of)).read().to_pylist()


def files(warehouse: LocalWarehouse, as_of: Any = AS_OF) -> list[str]:
    return sorted(path.name for path in Path(warehouse.path(as_of)).parent.iterdir())


def test_a_part_has_the_rows_and_their_generation() -> None:
    table = part_of(rows_of("g1", 3))
    assert table.schema == schema.arrow_schema(COLUMNS)
    assert table.to_pylist() == rows_of("g1", 3)
    empty = warehouses.with_generation(pa.RecordBatch.from_pylist([], schema.arrow_schema(schema.PREDICTIONS)), "g")
    assert empty.num_rows == 0 and empty.schema == schema.arrow_schema(COLUMNS)


def test_the_partition_is_the_rows_by_customer(warehouse: LocalWarehouse, records: Records) -> None:
    rows = rows_of("g1", 25)
    assert published(warehouse, records, "g1", rows[::-1])
    assert held(warehouse) == rows
    assert pq.ParquetFile(warehouse.path(AS_OF)).metadata.row_group(0).column(0).compression == "ZSTD"
    assert files(warehouse) == ["predictions.parquet"]


def test_nothing_staged_is_seen_by_a_reader_of_the_directory(warehouse: LocalWarehouse, records: Records) -> None:
    published(warehouse, records, "g1", rows_of("g1", 3, as_of=EARLIER))
    stage(warehouse, records.add("g2", 5), rows_of("g2", 5))
    root = Path(warehouse.path(AS_OF)).parents[1]
    found = ds.dataset(root, schema.arrow_schema(COLUMNS), format="parquet").to_table()
    assert found.to_pylist() == rows_of("g1", 3, as_of=EARLIER)


def test_publishing_again_changes_nothing(warehouse: LocalWarehouse, records: Records) -> None:
    published(warehouse, records, "g1", rows_of("g1", 4))
    before = Path(warehouse.path(AS_OF)).stat()
    assert warehouse.publish(records["g1"], records)
    after = Path(warehouse.path(AS_OF)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_back_to_an_earlier_generation_of_the_day_and_forth(warehouse: LocalWarehouse, records: Records) -> None:
    first, second = rows_of("g1", 4, 1.0), rows_of("g2", 5, 2.0)
    published(warehouse, records, "g1", first)
    published(warehouse, records, "g2", second)
    assert held(warehouse) == second
    for name, rows in (("g1", first), ("g2", second), ("g1", first)):
        assert warehouse.publish(records.switch(name), records)
        assert held(warehouse) == rows


def test_one_that_is_not_the_latest_of_its_day_changes_nothing(warehouse: LocalWarehouse, records: Records) -> None:
    stage(warehouse, records.add("g1", 4), rows_of("g1", 4))
    records.switch("g1")
    published(warehouse, records, "g2", rows_of("g2", 5))
    assert not warehouse.publish(records["g1"], records)
    assert held(warehouse) == rows_of("g2", 5)
    assert files(warehouse) == ["predictions.parquet"]


def test_another_day_s_generation_does_not_count(warehouse: LocalWarehouse, records: Records) -> None:
    stage(warehouse, records.add("g1", 4), rows_of("g1", 4))
    records.switch("g1")
    published(warehouse, records, "g2", rows_of("g2", 5, as_of=EARLIER))
    assert warehouse.publish(records["g1"], records)
    assert (held(warehouse), held(warehouse, EARLIER)) == (rows_of("g1", 4), rows_of("g2", 5, as_of=EARLIER))


def test_rows_are_counted(warehouse: LocalWarehouse, records: Records) -> None:
    generation = records.add("g1", 4)
    directory = warehouse.parts("g1", 1)
    write_part(directory, "part-0.parquet", rows_of("g1", 4))
    with pytest.raises(UsageError, match="holds 4 rows, expected are 5"):
        warehouse.stage(generation, ["part-0.parquet"], 5)
    with pytest.raises(UsageError, match=r"part-1.parquet is missing"):
        warehouse.stage(generation, ["part-0.parquet", "part-1.parquet"], 4)
    with pytest.raises(UsageError, match="has nothing staged of generation g1"):
        warehouse.publish(records.switch("g1"), records)


def test_what_a_repeated_bundle_or_another_attempt_left_is_not_published(
    warehouse: LocalWarehouse, records: Records
) -> None:
    stage(warehouse, records.add("g1", 9), rows_of("g1", 9, 7.0))
    second = records.add("g1", 4, attempt=2)
    stage(warehouse, second, rows_of("g1", 4))
    write_part(warehouse.parts("g1", 2), "part-left.parquet", rows_of("g1", 4, 9.0))
    assert warehouse.publish(records.switch("g1"), records)
    assert held(warehouse) == rows_of("g1", 4)


def test_mended_rows_are_added_once_before_and_after_the_switch(warehouse: LocalWarehouse, records: Records) -> None:
    rows = rows_of("g1", 9)
    generation = records.add("g1", 5)
    stage(warehouse, generation, rows[:5])
    directory = warehouse.parts("g1", 1)
    early, late = (
        write_part(directory, "mended-0.parquet", rows[5:7]),
        write_part(directory, "mended-1.parquet", rows[7:]),
    )
    for _ in range(2):
        warehouse.append(generation, early, 2)
    assert warehouse.publish(records.switch("g1"), records)
    assert held(warehouse) == rows[:7]
    with pytest.raises(UsageError, match="holds 2 rows, expected are 3"):
        warehouse.append(records["g1"], late, 3)
    for _ in range(2):
        warehouse.append(records["g1"], late, 2)
        assert warehouse.publish(records["g1"], records)
        assert held(warehouse) == rows


def test_mended_rows_of_what_is_gone_are_refused(warehouse: LocalWarehouse, records: Records) -> None:
    published(warehouse, records, "g1", rows_of("g1", 4))
    warehouse.discard(records["g1"])
    write_part(warehouse.parts("g1", 1), "mended.parquet", rows_of("g1", 1))
    with pytest.raises(UsageError, match="has nothing staged of generation g1 any more"):
        warehouse.append(records["g1"], "mended.parquet", 1)


def test_of_a_discarded_generation_only_the_partition_is_left(warehouse: LocalWarehouse, records: Records) -> None:
    published(warehouse, records, "g1", rows_of("g1", 4))
    published(warehouse, records, "g2", rows_of("g2", 5))
    for _ in range(2):
        warehouse.discard(records["g1"])
        warehouse.discard(records["g2"])
    assert not Path(warehouse.parts("g1", 1)).parent.exists()
    assert warehouse.publish(records["g2"], records)
    assert held(warehouse) == rows_of("g2", 5)
    with pytest.raises(UsageError, match="generation g1 any more, and its partition as of 2011-12-10 holds something"):
        warehouse.publish(records.switch("g1"), records)


def test_all_attempts_of_a_discarded_generation_go(warehouse: LocalWarehouse, records: Records) -> None:
    for attempt in (1, 2, 3):
        stage(warehouse, records.add("g1", 4, attempt=attempt), rows_of("g1", 4))
    stage(warehouse, records.add("g2", 5), rows_of("g2", 5))
    warehouse.discard(records["g1"])
    staged = Path(warehouse.parts("g1", 1)).parents[1]
    assert [path.name for path in staged.iterdir()] == ["g2"]


def everything(warehouse: LocalWarehouse) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(warehouse.name).rglob("*")}


def test_what_can_be_published_is_known_before_the_switch(warehouse: LocalWarehouse, records: Records) -> None:
    stage(warehouse, records.add("g1", 4), rows_of("g1", 4))
    stage(warehouse, records.add("g2", 5), rows_of("g2", 5))
    before = everything(warehouse)
    warehouse.can_publish(records["g1"])
    assert everything(warehouse) == before
    for name in ("g1", "g2"):
        warehouse.publish(records.switch(name), records)
        warehouse.discard(records[name])
    before = everything(warehouse)
    warehouse.can_publish(records["g2"])  # the partition holds it
    refused_alike(warehouse, records, "g1", "has nothing staged of generation g1 any more")
    assert everything(warehouse) == before


def refused_alike(warehouse: LocalWarehouse, records: Records, name: str, says: str) -> None:
    """The check before the switch and the publish after it say the same."""
    with pytest.raises(UsageError, match=says) as early:
        warehouse.can_publish(records[name])
    with pytest.raises(UsageError) as late:
        warehouse.publish(records.switch(name), records)
    assert str(early.value) == str(late.value)
    assert len(str(early.value).splitlines()) == 1


def test_rows_that_are_missing_are_noticed_before_the_switch(warehouse: LocalWarehouse, records: Records) -> None:
    names = stage(warehouse, records.add("g1", 4), rows_of("g1", 4))
    records.add("g1", 5)
    refused_alike(warehouse, records, "g1", "holds 4 rows, expected are 5")
    records.add("g1", 4)
    (Path(warehouse.parts("g1", 1)) / names[0]).unlink()
    refused_alike(warehouse, records, "g1", "part-00000.parquet is missing")


def test_mended_rows_that_the_record_does_not_count_yet_are_published(
    warehouse: LocalWarehouse, records: Records
) -> None:
    rows = rows_of("g1", 5)
    stage(warehouse, records.add("g1", 4), rows[:4])
    warehouse.append(records["g1"], write_part(warehouse.parts("g1", 1), "mended.parquet", rows[4:]), 1)
    warehouse.can_publish(records["g1"])
    assert warehouse.publish(records.switch("g1"), records)
    assert held(warehouse) == rows


def test_a_generation_without_rows_is_staged_but_not_published(warehouse: LocalWarehouse, records: Records) -> None:
    published(warehouse, records, "g1", rows_of("g1", 4))
    warehouse.stage(records.add("g2", 0), [], 0)
    refused_alike(warehouse, records, "g2", "generation g2 has no row")
    assert held(warehouse) == rows_of("g1", 4)
    warehouse.append(records["g2"], write_part(warehouse.parts("g2", 1), "mended.parquet", rows_of("g2", 2)), 2)
    records.add("g2", 2)
    assert warehouse.publish(records.switch("g2"), records)
    assert held(warehouse) == rows_of("g2", 2)


def test_its_name_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalWarehouse("wh/").name == LocalWarehouse(str(tmp_path / "wh")).name == str(tmp_path / "wh")


@pytest.mark.parametrize("phase", ["_require_rows", "_write_parts", "_write_sorted", "became_current"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_and_run_again(
    warehouse: LocalWarehouse, records: Records, phase: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(warehouse, records, "g1", rows_of("g1", 4))
    rows = rows_of("g2", 6)
    records.add("g2", 6)
    original = getattr(warehouses, phase)

    def killed(*arguments: Any) -> Any:
        if moment == "after":
            original(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(warehouses, phase, killed)
        stage(warehouse, records["g2"], rows)
        warehouse.publish(records.switch("g2"), records)
    assert held(warehouse) == rows_of("g1", 4)
    stage(warehouse, records["g2"], rows)
    assert warehouse.publish(records.switch("g2"), records)
    assert (held(warehouse), files(warehouse)) == (rows, ["predictions.parquet"])


def test_of_two_processes_replacing_one_partition_the_later_waits(
    warehouse: LocalWarehouse, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first, already found to be the latest, is about to move its file into place."""
    for name, value in (("first", 1.0), ("second", 2.0)):
        stage(warehouse, records.add(name, 1), rows_of(name, 1, value))
        records.switch(name)
    target = Path(warehouse.path(AS_OF))
    program = (
        "import sys; from datetime import UTC, datetime; from pipelines.warehouse import LocalWarehouse\n"
        "from serving.store import Content, Generation, State; from tests.serving.store_contract import AS_OF\n"
        "g = Generation('second', AS_OF, 90, 'm1', State.SEALED, 1, Content(1), published_at=datetime.now(UTC))\n"
        "assert LocalWarehouse(sys.argv[1]).publish(g, lambda: [g])"
    )
    started: list[subprocess.Popen[bytes]] = []
    looks: list[bool] = []  # whether the partition was the first's, whenever it looked
    holds = LocalWarehouse._holds

    def looked(*arguments: Any) -> bool:
        looks.append(holds(*arguments))
        return looks[-1]

    def generations() -> Sequence[Generation]:
        if started:  # the second was so fast that the first, looking once more, finds its partition replaced
            return records()
        second = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "wh")], cwd=ROOT)
        started.append(second)
        while second.poll() is None and not list(target.parent.glob("_second.*")):
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1)  # ample for renaming a file
        return [records["first"]]

    try:
        monkeypatch.setattr(LocalWarehouse, "_holds", looked)
        # Before its last look the second may have followed; then it must not say that the partition is its own.
        assert warehouse.publish(records["first"], generations) == looks[-1]
        assert len(looks) == 2
        assert started[0].wait(60) == 0
    finally:
        started[0].kill()
        started[0].wait()
    assert held(warehouse) == rows_of("second", 1, 2.0)
    assert files(warehouse) == [target.name]


def test_a_slow_publish_does_not_undo_a_later_one(warehouse: LocalWarehouse, records: Records) -> None:
    stage(warehouse, records.add("slow", 1), rows_of("slow", 1))
    stage(warehouse, records.add("fast", 2), rows_of("fast", 2))
    records.switch("slow")
    original = warehouses._write_sorted
    with pytest.MonkeyPatch.context() as patch:

        def meanwhile(*arguments: Any) -> None:
            patch.undo()
            assert warehouse.publish(records.switch("fast"), records)
            original(*arguments)

        patch.setattr(warehouses, "_write_sorted", meanwhile)
        assert not warehouse.publish(records["slow"], records)
    assert held(warehouse) == rows_of("fast", 2)


def test_rows_mended_while_a_slow_publish_is_writing_stay(warehouse: LocalWarehouse, records: Records) -> None:
    rows = rows_of("g1", 5)
    stage(warehouse, records.add("g1", 4), rows[:4])
    generation = records.switch("g1")
    original = warehouses._write_sorted
    with pytest.MonkeyPatch.context() as patch:

        def meanwhile(*arguments: Any) -> None:
            patch.undo()
            warehouse.append(generation, write_part(warehouse.parts("g1", 1), "mended.parquet", rows[4:]), 1)
            assert warehouse.publish(generation, records)
            original(*arguments)

        patch.setattr(warehouses, "_write_sorted", meanwhile)
        assert warehouse.publish(generation, records)
    assert held(warehouse) == rows


def test_an_unusable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    LocalWarehouse(str(tmp_path / "not yet/there")).check()
    assert not (tmp_path / "not yet").exists()
    with pytest.raises(UsageError, match="file is not a directory that may be written to"):
        LocalWarehouse(str(tmp_path / "file/below")).check()
    with pytest.raises(UsageError, match="accepted is a local directory"):
        LocalWarehouse("gs://bucket/wh")


@given(st.lists(st.tuples(st.sampled_from([AS_OF, EARLIER]), st.none() | st.integers(0, 5)), max_size=8), st.randoms())
def test_who_became_current_last_is_first_whatever_the_order(times: list[tuple[Any, int | None]], random: Any) -> None:
    instants = [None if second is None else datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for _, second in times]
    found = [
        Generation(f"g{i}", as_of, 90, "m1", published_at=instant)
        for i, ((as_of, _), instant) in enumerate(zip(times, instants, strict=True))
    ]
    random.shuffle(found)
    for as_of in (None, AS_OF):
        ordered = became_current(found, as_of)
        wanted = {g.name for g in found if g.published_at and (as_of is None or g.as_of == as_of)}
        assert {g.name for g in ordered} == wanted
        pairs = [(g.published_at, g.name) for g in ordered if g.published_at]
        assert pairs == sorted(pairs, reverse=True)
