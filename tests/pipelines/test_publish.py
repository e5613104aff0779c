"""Publishing real directories through the real command, killed at every phase boundary."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import publish, publish_conclude, publish_guards, publish_input, publish_stage, repeated_customers
from pipelines.warehouse import LocalWarehouse
from serving.sqlite_store import SqliteStore
from serving.store import PointerMoved, Store, Superseded, Written, open_store
from tests.pipelines.publishing import EARLIER, TOLERANT, Place
from tests.serving.store_contract import prediction

ROOT = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test handles it."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_everything_arrives_everywhere(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [prediction(f"c{i % 997:03d}-{i}", i / 7) for i in range(2000)]
    result = place.publish(place.predictions("p", rows[:500], rows[500:501], rows[501:]))
    name = result["generation"]
    assert result == {
        "generation": name, "previous": None, "rows": 2000, "dead_letters": {}, "already_current": False, "switched": True,
    }  # fmt: skip
    assert name.startswith("2011-12-10-")
    assert place.served(*(row["customer_id"] for row in rows)) == {
        row["customer_id"]: row | {"generation": name} for row in rows
    }
    assert place.warehouse().to_pylist() == sorted(rows, key=lambda row: row["customer_id"])
    assert place.letters(name) == []
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if ": guard " not in line] == [
        f"publish {name}: staging 2000 rows from 3 files",
        f"publish {name}: 2000 rows staged, 0 dead letters",
        f"publish {name}: is current now; previous generation: none",
        f"publish {name}: warehouse partition as_of=2011-12-10 holds it",
    ]


def test_batches_of_one_file_are_told_apart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_input, "BATCH_ROWS", 7)
    rows = [prediction(f"c{i}", 1.0 if i % 5 else -1.0) for i in range(50)]
    result = place.publish(place.predictions("p", rows), *TOLERANT)
    assert (result["rows"], result["dead_letters"]) == (40, {"negative": 10})
    assert [letter["payload"]["customer_id"] for letter in place.letters(result["generation"])] == [
        f"c{i}" for i in range(0, 50, 5)
    ]


def test_unusable_rows_become_dead_letters(place: Place) -> None:
    strange = 'Zoë "\n\r\u2028 \x00 名'
    bad = [
        (prediction("é" * 1000), "customer_id_too_long"),
        (prediction("x" * 2000), "customer_id_too_long"),
        (prediction(None), "missing_customer_id"),
        (prediction(strange + "!", value_p50=math.nan), "not_finite"),
        (prediction("swapped", value_p10=2.0, value_p90=0.5), "quantiles_out_of_order"),
        (prediction("other day", as_of=EARLIER), "wrong_as_of"),
    ]
    good = [prediction(strange), prediction("é" * 750), prediction("it's; DROP TABLE predictions --")]
    result = place.publish(
        place.predictions("p", [*good, *(row for row, _ in bad[:3])], [row for row, _ in bad[3:]]), *TOLERANT
    )
    assert result["rows"] == 3
    assert result["dead_letters"] == {
        "customer_id_too_long": 2,
        "missing_customer_id": 1,
        "not_finite": 1,
        "quantiles_out_of_order": 1,
        "wrong_as_of": 1,
    }
    letters = place.letters(result["generation"])
    assert [(letter["payload"]["customer_id"], letter["reason"]) for letter in letters] == [
        (row["customer_id"], reason) for row, reason in bad
    ]
    assert letters[3]["payload"] == bad[3][0] | {"value_p50": "nan", "as_of": "2011-12-10"}
    ids = [row["customer_id"] for row in good]
    assert set(place.served(*ids, "swapped", "other day")) == set(ids)
    assert place.warehouse().column("customer_id").to_pylist() == sorted(ids)


def test_the_same_publish_twice_changes_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("p", [prediction("c1"), prediction("c2", decile=0)])
    first = place.publish(directory, *TOLERANT)
    capsys.readouterr()
    tree = {path: path.stat().st_mtime_ns for path in place.root.rglob("*") if not path.name.startswith("serving.db")}
    with open_store(place.uri) as store:
        before = store.generations()
    again = place.publish(directory)
    assert again == first | {"previous": first["generation"], "already_current": True, "switched": False}
    assert f"publish {first['generation']}: is the current generation already" in capsys.readouterr().err
    with open_store(place.uri) as store:
        assert store.generations() == before
    assert {p: p.stat().st_mtime_ns for p in place.root.rglob("*") if not p.name.startswith("serving.db")} == tree


def test_an_older_as_of_is_refused_and_an_equal_one_is_not(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    current = place.publish(place.predictions("new", [prediction("c1", 2.0)]))
    old = place.predictions("old", [prediction("c1", 1.0, EARLIER)], as_of=EARLIER)
    message = place.refused(capsys, old, code=publish_guards.NOT_SWITCHED)
    assert "not switched: as_of 2011-11-10, 30 days before the 2011-12-10" in message
    assert message.endswith("or say why they are right: --override as_of=REASON")
    assert place.served_by("c1") == {current["generation"]}
    assert place.generations() == [current["generation"]]
    better = place.publish(place.predictions("better", [prediction("c1", 3.0)]))
    assert better["previous"] == current["generation"]
    assert place.warehouse().column("predicted_value").to_pylist() == [3.0]


def test_former_generations_expire(place: Place) -> None:
    days = [date(2011, 12, day) for day in range(1, 6)]
    names = [
        place.publish(place.predictions(f"p{day}", [prediction("c1", as_of=day)], as_of=day), "--keep_generations", "1")
        for day in days
    ]
    assert place.generations() == [names[4]["generation"], names[3]["generation"]]
    assert [place.warehouse(day).num_rows for day in days] == [1] * 5


def test_customers_that_occur_twice(place: Place) -> None:
    """Equal rows are one; of different ones nobody can say which is right; a bad one beside a good one is no doubt."""
    rows = [
        [prediction("c1"), prediction("differs"), prediction("same", 7.0), prediction("half", -1.0)],
        [prediction("c3"), prediction("differs", 9.0), prediction("same", 7.0), prediction("half", 2.0)],
        [prediction("same", 7.0), prediction("c4"), prediction("differs")],
    ]
    result = place.publish(place.predictions("p", *rows), "--override", "dead_letters=a test of duplicates")
    assert result["dead_letters"] == {"duplicate_customer_id": 3, "negative": 1, "repeated_row": 2}
    assert result["rows"] == 5
    served = place.served("c1", "c3", "c4", "differs", "same", "half")
    assert {name: row["predicted_value"] for name, row in served.items()} == {
        "c1": 1.0, "c3": 1.0, "c4": 1.0, "same": 7.0, "half": 2.0,
    }  # fmt: skip
    letters = place.letters(result["generation"])
    assert Counter((each["reason"], each["payload"]["customer_id"]) for each in letters) == {
        ("duplicate_customer_id", "differs"): 3, ("repeated_row", "same"): 2, ("negative", "half"): 1,
    }  # fmt: skip
    assert place.warehouse().column("customer_id").to_pylist() == sorted(served)


def test_rows_of_no_customer_are_no_customer_that_occurs_twice(place: Place) -> None:
    """Their ids hash alike, but nothing of them is left to be compared."""
    rows = [prediction(None), prediction(None), prediction(""), prediction("x", -1.0), prediction("x", -2.0)]
    result = place.publish(place.predictions("p", [prediction("c1"), *rows]), *TOLERANT)
    assert (result["rows"], result["dead_letters"]) == (1, {"missing_customer_id": 3, "negative": 2})


def test_hashes_find_every_customer_that_occurs_twice(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(publish_input, "BATCH_ROWS", 50)
    monkeypatch.setattr(repeated_customers, "HASHES_PER_BUCKET", 60)  # several buckets
    ids = [f"c{i}" for i in range(400)] + [f"c{i}" for i in range(0, 400, 40)]
    result = place.publish(
        place.predictions("p", [prediction(i, value) for value, i in enumerate(ids, 1)]),
        "--override", "dead_letters=a test",
    )  # fmt: skip
    assert (result["rows"], result["dead_letters"]) == (390, {"duplicate_customer_id": 20})


def test_text_that_is_not_utf8_is_a_dead_letter(place: Place) -> None:
    directory = place.predictions("p", [prediction(f"c{i}") for i in range(40)])
    part = f"{directory}/part-00000.parquet"
    table = pq.read_table(part)
    raw = [b"caf\xe9", *(f"c{i}".encode() for i in range(1, 40))]
    ids = pa.Array.from_buffers(pa.string(), 40, pa.array(raw, pa.binary()).buffers())
    pq.write_table(table.set_column(0, "customer_id", ids), part)
    manifest = Path(directory, "manifest.json")
    content = json.loads(manifest.read_text())
    content["parts"][0]["sha256"] = hashlib.sha256(Path(part).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    result = place.publish(directory)
    assert (result["rows"], result["dead_letters"]) == (39, {"not_utf8": 1})
    (letter,) = place.letters(result["generation"])
    assert letter["payload"]["customer_id"] == "caf\ufffd"
    assert "customer_id=b'caf\\xe9': accepted is UTF-8 text" in letter["detail"]


def test_a_total_beyond_all_floats_trips_the_guard(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    good = place.publish(place.predictions("good", [prediction("c1"), prediction("c2")]))
    huge = prediction("c1", 1e308)
    directory = place.predictions(
        "huge", [huge | {"value_p90": 1e308}, huge | {"customer_id": "c2", "value_p90": 1e308}]
    )
    assert "not switched: total_value inf" in place.refused(capsys, directory, code=3)
    assert place.served_by("c1") == {good["generation"]}


def test_nothing_usable_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    good = place.publish(place.predictions("good", [prediction("c1")]))
    bad = place.predictions("bad", [prediction("c1", decile=0), prediction("c2", -1.0)])
    for _ in range(2):
        assert "has no usable row (2 dead letters (decile_out_of_range 1, negative 1))" in place.refused(capsys, bad)
    assert place.served_by("c1") == {good["generation"]}


def test_unusable_directories_are_refused_before_anything_is_written(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    half = place.predictions("half", [prediction("c1")])
    os.remove(f"{half}/manifest.json")
    lost = place.predictions("lost", [prediction("c1")], [prediction("c2")])
    os.remove(f"{lost}/part-00001.parquet")
    typed = place.predictions("typed", [prediction("c1")])
    table = pq.read_table(f"{typed}/part-00000.parquet")
    pq.write_table(table.cast(table.schema.set(10, pa.field("decile", pa.int32()))), f"{typed}/part-00000.parquet")
    narrow = place.predictions("narrow", [prediction("c1")])
    pq.write_table(table.drop_columns(["value_p90"]), f"{narrow}/part-00000.parquet")
    wide = place.predictions("wide", [prediction("c1")])
    pq.write_table(table.append_column("note", [["x"]]), f"{wide}/part-00000.parquet")
    cases = {
        str(place.root / "missing"): "it has no manifest.json",
        half: "it has no manifest.json",
        lost: "part-00001.parquet is missing; make it anew",
        typed: "has decile as int32, accepted is int64",
        narrow: "lacks the column value_p90",
        wide: "has the columns ['note'] too",
        place.predictions("empty"): "has no rows",
    }
    for directory, message in cases.items():
        assert message in place.refused(capsys, directory)
    assert not (place.root / "serving.db").exists()


@pytest.mark.parametrize(
    ("said", "value"),
    [("as_of", "yesterday"), ("as_of", 5), ("horizon_days", "90"), ("horizon_days", 0), ("horizon_days", None),
     ("model_version", None), ("parts", None), ("parts", ["part-00000.parquet"])],
)  # fmt: skip
def test_a_manifest_that_says_nonsense_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str], said: str, value: Any
) -> None:
    directory = place.predictions("p", [prediction("c1")])
    manifest = Path(directory, "manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {said: value}))
    assert f"its manifest says {said}={value!r}: accepted is " in place.refused(capsys, directory)


def test_damaged_files_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("p", [prediction(f"c{i}") for i in range(500)])
    part = Path(directory, "part-00000.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[:-8])
    assert "part-00000.parquet is damaged: " in place.refused(capsys, directory)
    other = place.predictions("other", [prediction(f"c{i}", 2.0) for i in range(500)])
    part.write_bytes(Path(other, "part-00000.parquet").read_bytes())
    assert "part-00000.parquet is not the file that its manifest speaks of" in place.refused(capsys, directory)
    part.write_bytes(whole)
    assert place.publish(directory)["rows"] == 500


def test_dead_letters_that_cannot_be_written_are_found_before_anything_is_staged(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = place.predictions("p", [prediction("c1")])
    (place.root / "file").write_text("")
    message = place.refused(capsys, directory, "--dead_letters", f"{place.root}/file/letters")
    assert "--dead_letters" in message
    assert "cannot be written to" in message
    assert "'' is not usable: accepted is a directory" in place.refused(capsys, directory, "--dead_letters", "")
    assert place.publish(directory)["switched"]


def test_each_writer_has_its_share_of_the_rate(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[publish_stage.Target] = []
    original = publish.stage

    def watched(predictions: Any, target: publish_stage.Target, *others: Any) -> Any:
        targets.append(target)
        return original(predictions, target, *others)

    monkeypatch.setattr(publish, "stage", watched)
    files = [[prediction(f"c{i}")] for i in range(3)]
    place.publish(place.predictions("a", *files), "--shards", "16")
    place.publish(place.predictions("b", *files, [prediction("c3")]), "--shards", "2")
    assert [target.writing.share for target in targets] == [1 / 3, 1 / 2]


def test_arguments_are_refused_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("p", [prediction("c1")])
    assert "--servng" in place.refused(capsys, directory, "--servng", "x")
    assert "--serving 'datastore://P' is not usable" in place.refused(capsys, directory, "--serving", "datastore://P")
    assert "--ramp 'fast' is not usable" in place.refused(capsys, directory, "--ramp", "fast")
    assert "--override 'size=big'" in place.refused(capsys, directory, "--override", "size=big")
    table = ["--bigquery_table", "my-project.shop.predictions"]
    assert "accepted is one of them" in place.refused(capsys, directory, *table)
    assert "--ttl_days" in place.refused(capsys, directory, "--ttl_days", "9" * 12)
    assert publish.main(["--serving", place.uri, "status"]) == 2
    assert "status comes first: python -m pipelines.publish status" in capsys.readouterr().err
    assert "--warehouse 'gs://b' is not usable" in place.refused(capsys, directory, "--warehouse", "gs://b")
    assert "--runner 'FlinkRunner' is not usable" in place.refused(capsys, directory, "--runner", "FlinkRunner")


BOUNDARIES = [
    (SqliteStore, "begin"), (publish, "stage"), (LocalWarehouse, "stage"), (SqliteStore, "seal"), (publish_conclude, "guard"),
    (SqliteStore, "switch"), (LocalWarehouse, "publish"), (SqliteStore, "expire"),
]  # fmt: skip


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "phase"), BOUNDARIES, ids=[f"{owner.__name__}.{phase}" for owner, phase in BOUNDARIES]
)
def test_killed_at_a_phase_boundary_and_run_again(place: Place, owner: Any, phase: str, moment: str) -> None:
    before = [prediction(f"c{i:02d}", 1.0, EARLIER) for i in range(39)]
    old = place.publish(place.predictions("old", before, as_of=EARLIER), "--override", "total_value=it doubles")
    rows = [prediction(f"c{i:02d}", 2.0 if i else -1.0) for i in range(40)]
    directory = place.predictions("new", rows[:5], rows[5:])
    original = getattr(owner, phase)

    def killed(*arguments: Any, **named: Any) -> None:
        if moment == "after":
            original(*arguments, **named)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, phase, killed)
        with pytest.raises(Killed):
            place.publish(directory)
    ids = [f"c{i:02d}" for i in range(40)]
    assert len(place.served_by(*ids)) == 1
    switched = (phase, moment) in {("switch", "after")} or phase in {"publish", "expire"}
    assert (old["generation"] in place.served_by(*ids)) != switched

    result = place.publish(directory)
    assert (result["rows"], result["dead_letters"], result["already_current"]) == (39, {"negative": 1}, switched)
    assert place.served_by(*ids) == {result["generation"]}
    assert place.warehouse().to_pylist() == rows[1:]
    assert [letter["payload"]["customer_id"] for letter in place.letters(result["generation"])] == ["c00"]
    assert sorted(path.name for path in (place.root / "wh/predictions/as_of=2011-12-10").iterdir()) == [
        "predictions.parquet"
    ]


def test_a_process_killed_while_staging(place: Place) -> None:
    directory = place.predictions("p", [prediction("c1"), prediction("bad", -1.0)], [prediction("c2")])
    program = (
        "import os, sys; from pipelines import publish; from serving.sqlite_store import SqliteStore\n"
        "write = SqliteStore.write\n"
        "def once(*a): write(*a); os._exit(9)\n"
        "SqliteStore.write = once; publish.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, *place.arguments(directory)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, check=False).returncode == 9
    with open_store(place.uri) as store:
        assert store.current() is None
        assert [(g.state.value, g.attempt) for g in store.generations()] == [("staged", 1)]
        stale = place.root / "dl" / store.generations()[0].name / "part-00009-00000.jsonl"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("of the interrupted attempt\n")
    result = place.publish(directory, *TOLERANT)
    assert (result["rows"], result["dead_letters"]) == (2, {"negative": 1})
    assert not stale.exists()
    assert set(place.served("c1", "c2", "bad")) == {"c1", "c2"}
    with open_store(place.uri) as store:
        assert [g.attempt for g in store.generations()] == [2]


def during(owner: Any, phase: str, then: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs ``then`` once, when the publish under test reaches ``phase``."""
    original = getattr(owner, phase)

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(owner, phase, original)
        then()
        return original(*arguments)

    monkeypatch.setattr(owner, phase, interrupted)


def test_of_two_publishes_at_once_the_loser_is_told_who_won(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.publish(place.predictions("old", [prediction("c1", 1.0, EARLIER)], as_of=EARLIER))
    fast, slow = (
        place.predictions("fast", [prediction("c1", 1.2)]),
        place.predictions("slow", [prediction("c1", 1.3)]),
    )
    results: list[dict[str, Any]] = []
    during(publish_conclude, "guard", lambda: results.append(place.publish(fast)), monkeypatch)
    with pytest.raises(PointerMoved) as lost:
        place.publish(slow)
    assert lost.value.winner is not None
    assert lost.value.winner.name == results[0]["generation"] in str(lost.value)
    assert place.served_by("c1") == {results[0]["generation"]}
    assert place.warehouse().column("predicted_value").to_pylist() == [1.2]


def test_the_same_publish_at_once_is_one_publish(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = place.predictions("p", [prediction("c1")])
    results: list[dict[str, Any]] = []
    during(publish_conclude, "guard", lambda: results.append(place.publish(directory)), monkeypatch)
    assert place.publish(directory) == results[0]


def test_an_overtaken_attempt_gives_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = place.predictions("p", [prediction("c1")])
    results: list[dict[str, Any]] = []
    original = publish.stage

    def slow(*arguments: Any) -> Any:
        staged = original(*arguments)
        monkeypatch.setattr(publish, "stage", original)
        results.append(place.publish(directory))
        return staged

    monkeypatch.setattr(publish, "stage", slow)
    with pytest.raises(Superseded, match="it is sealed, attempt 2"):
        place.publish(directory)
    assert place.served_by("c1") == {results[0]["generation"]}


def test_a_slow_copy_does_not_undo_a_later_publish(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = (
        place.predictions("slow", [prediction("c1", 2.0)]),
        place.predictions("fast", [prediction("c1", 3.0)]),
    )
    during(publish_conclude, "complete", lambda: place.publish(fast), monkeypatch)
    place.publish(slow)
    assert place.served("c1")["c1"]["predicted_value"] == 3.0
    assert place.warehouse().column("predicted_value").to_pylist() == [3.0]


def test_a_lost_batch_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = place.predictions("p", [prediction("c1")], [prediction("c2")])
    original = SqliteStore.write

    def lossy(store: Store, name: str, attempt: int, batch: pa.RecordBatch) -> Written:
        if batch.column("customer_id")[0].as_py() == "c2":
            return Written()
        return original(store, name, attempt, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "write", lossy)
        assert "came back as None" in place.refused(capsys, directory, code=1)
    assert place.publish(directory)["rows"] == 2


def test_a_file_that_changes_while_it_is_published_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = place.predictions("p", [prediction("c1")], [prediction("c2"), prediction("c3")])
    part = f"{directory}/part-00001.parquet"
    whole = Path(part).read_bytes()
    original = pq.read_table(part)
    during(publish, "stage", lambda: pq.write_table(original.slice(1), part), monkeypatch)
    assert "is not the file that its manifest speaks of" in place.refused(capsys, directory)
    assert place.served("c1", "c3") == {}
    Path(part).write_bytes(whole)
    assert place.publish(directory)["rows"] == 3


def test_as_a_command_on_the_direct_runner(place: Place) -> None:
    directory = place.predictions("p", [prediction("c1"), prediction("c2", -1.0)])
    command = [
        sys.executable,
        "-m",
        "pipelines.publish",
        *place.arguments(directory, *TOLERANT, "--runner", "DirectRunner"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (name,) = place.served_by("c1")
    assert f"publish {name}: 1 rows staged, 1 dead letters (negative 1)" in done.stderr


def test_help_teaches_and_is_instant() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipelines.publish", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    for part in (
        "examples:",
        "--predictions",
        "--serving",
        "--dead_letters",
        "--warehouse",
        "(default: 2)",
        "--runner",
    ):
        assert part in done.stdout
