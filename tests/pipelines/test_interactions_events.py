"""pipelines.interactions --events: foreign columns, times in every form, context, and what is refused."""

from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import interactions
from tests.pipelines.features_data import letters, refused
from tests.pipelines.interactions_data import manifest_of, no_limits, read_rows, write_csv

BASE = 1_700_000_000  # 2023-11-14 22:13:20 UTC
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}


def run(folder: Path, events: str, *more: str) -> tuple[dict[str, Any], list[list[str]]]:
    """The manifest and the rows."""
    assert interactions.main(["--events", events, "--output", f"{folder}/out", *no_limits(folder), *more]) == 0
    return manifest_of(folder / "out"), read_rows(folder / "out")[1]


def parquet(folder: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), folder / "events.parquet")
    return str(folder / "events.parquet")


def clicks(times: Any, **more: Any) -> dict[str, Any]:
    count = len(times)
    return {
        "customer_id": [f"u{n % 3}" for n in range(count)], "item_id": [f"i{n}" for n in range(count)],
        "occurred_at": times, "event_type": ["click"] * count, **more,
    }  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("text", [False, True])
def test_integers_in_their_unit(tmp_path: Path, unit: str, text: bool) -> None:
    times = [(BASE + n) * UNITS[unit] + (UNITS[unit] - 1) for n in range(5)]
    events = parquet(tmp_path, clicks([str(time) for time in times] if text else pa.array(times)))
    manifest, rows = run(tmp_path, events, *([] if unit == "s" else ["--time_unit", unit]))
    assert [int(row[2]) for row in sorted(rows, key=lambda row: row[1])] == [BASE + n for n in range(5)]
    assert manifest["first_at"] == "2023-11-14T22:13:20+00:00"
    assert manifest["source"]["first_day"] == "2023-11-14"


@pytest.mark.parametrize("given", UNITS)
@pytest.mark.parametrize("held", UNITS)
@pytest.mark.parametrize("text", [False, True])
def test_another_unit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, held: str, text: bool
) -> None:
    if given == held:
        return
    times = [BASE * UNITS[held] + n for n in range(5)]
    events = parquet(tmp_path, clicks([str(time) for time in times] if text else pa.array(times)))
    arguments = ["--events", events, "--output", f"{tmp_path}/out", "--time_unit", given]
    said = refused(capsys, interactions.main, arguments)
    assert said.startswith(
        f"--events {events!r}: occurred_at {times[0]} is not usable in --time_unit {given}: 5 of 5 look like"
    )
    assert said.endswith(f"accepted is --time_unit {held}")


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime.datetime(2024, 1, 1, 12), datetime.datetime(2024, 1, 2)], pa.timestamp("us")),
        pa.array(
            [datetime.datetime(2024, 1, 1, 12), datetime.datetime(2024, 1, 2)], pa.timestamp("ns", "Europe/Paris")
        ),
        pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]),
        pa.array(["2024-01-01T12:00:00+01:00", "2024-01-02"]),
    ],
)
def test_typed_times(tmp_path: Path, times: pa.Array) -> None:
    _, rows = run(tmp_path, parquet(tmp_path, clicks(times)))
    utc = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    wanted = []
    for value in times.to_pylist():
        at = datetime.datetime.fromisoformat(str(value))
        at = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
        wanted.append(str((at - utc) // datetime.timedelta(seconds=1)))
    assert [row[2] for row in rows] == wanted


def test_every_fate_of_an_event(tmp_path: Path) -> None:
    good = {"customer_id": "u", "item_id": "i", "occurred_at": str(BASE), "event_type": "view", "event_value": "2.5"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"event_value": ""}, ""),
        ({"event_value": "-1"}, ""),
        ({"customer_id": ""}, "no_customer"),
        ({"item_id": ""}, "no_item"),
        ({"event_type": ""}, "no_event_type"),
        ({"occurred_at": "0"}, "bad_occurred_at"),
        ({"occurred_at": str(BASE * 1000)}, "bad_occurred_at"),
        ({"occurred_at": "soon"}, "bad_occurred_at"),
        ({"occurred_at": "1960-01-01"}, "before_1970"),
        ({"event_value": "much"}, "bad_event_value"),
        ({"customer_id": "é" * 257}, "customer_id_too_long"),
        ({"item_id": "x" * 257}, "item_id_too_long"),
        ({"event_type": "x" * 257}, "event_type_too_long"),
    ]
    events = write_csv(tmp_path / "events.csv", [good | change for change, _ in cases], list(good))
    with open(events, "a") as file:
        file.write("one,two,3,4,5,6,7\n")
    manifest, rows = run(tmp_path, events)
    lines = manifest["lines"]
    wanted: dict[str, int] = {"malformed_line": 1}
    for _, reason in cases:
        if reason:
            wanted[reason] = wanted.get(reason, 0) + 1
    assert {**lines["excluded"], **lines["dead_letters"]} == wanted
    assert lines["read"] == len(cases) + 1 and lines["used"] == 3
    assert sorted(row[4] for row in rows) == ["", "-1.0", "2.5"]
    kept = letters(tmp_path / "out")
    assert sorted(letter["reason"] for letter in kept) == sorted(
        name for name, count in lines["dead_letters"].items() for _ in range(count)
    )
    (late,) = [letter for letter in kept if letter["payload"].get("occurred_at") == str(BASE * 1000)]
    assert (
        late["detail"].startswith(f"occurred_at='{BASE}000': accepted is ISO 8601")
        and "whole seconds" in late["detail"]
    )


def test_events_without_a_type_take_the_one_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = clicks(pa.array([BASE, BASE + 1, BASE + 2]))
    columns["event_type"] = ["click", None, ""]
    _, rows = run(tmp_path, parquet(tmp_path, columns), "--event_type", "view")
    assert [row[3] for row in rows] == ["click", "view", "view"]
    del columns["event_type"]
    events = parquet(tmp_path, columns)
    said = refused(capsys, interactions.main, ["--events", events, "--output", f"{tmp_path}/other"])
    assert "has no column event_type: name it by --columns event_type=..." in said
    (tmp_path / "b").mkdir()
    assert {row[3] for row in run(tmp_path / "b", events, "--event_type", "view")[1]} == {"view"}


def test_foreign_names_and_context(tmp_path: Path) -> None:
    table = {
        "who": pa.array([7, 7, 8]), "what": ["a,b", 'a"b', "a\nb"], "at": pa.array([BASE] * 3), "kind": ["view", "buy", "view"],
        "device": ["phone", None, "desk\ttop"], "seconds": pa.array([1.5, float("nan"), None]), "page": pa.array([1, None, 3]),
        "price": pa.array([Decimal("1.10"), None, Decimal("2.00")]),
    }  # fmt: skip
    manifest, rows = run(
        tmp_path, parquet(tmp_path, table), "--columns", "customer_id=who,item_id=what,occurred_at=at,event_type=kind,level=page",
        "--context", "device,seconds,level,price",
    )  # fmt: skip
    assert rows == sorted([
        ["7", "a,b", str(BASE), "view", "phone", "1.5", "1", "1.1"],
        ["7", 'a"b', str(BASE), "buy", "", "", "", ""],
        ["8", "a\nb", str(BASE), "view", "desk\ttop", "", "3", "2.0"],
    ])  # fmt: skip
    assert manifest["columns"] == [
        "USER_ID",
        "ITEM_ID",
        "TIMESTAMP",
        "EVENT_TYPE",
        "DEVICE",
        "SECONDS",
        "LEVEL",
        "PRICE",
    ]
    assert manifest["event_types"] == ["buy", "view"]
    fields = {field["name"]: field for field in json.loads((tmp_path / "out" / "schema.avsc").read_text())["fields"]}
    assert list(fields) == manifest["columns"]
    assert fields["DEVICE"] == {"name": "DEVICE", "type": ["string", "null"], "categorical": True}
    assert fields["SECONDS"]["type"] == ["double", "null"] and fields["LEVEL"]["type"] == ["long", "null"]


def test_a_batch_without_quotes_and_one_with_are_written_alike(tmp_path: Path) -> None:
    """Two statements make the lines; a value that needs no quotes has none in either."""
    (tmp_path / "events").mkdir()
    for name, item in (("a", "plain"), ("b", "pl,ain")):
        table = clicks(pa.array([BASE, BASE + 1]), event_value=pa.array([0.1, 1e21 / 1e12]))
        table["item_id"] = [item, "plain"]
        pq.write_table(pa.table(table), tmp_path / "events" / f"{name}.parquet")
    run(tmp_path, str(tmp_path / "events"))
    lines = {path.name: path.read_bytes().split(b"\n") for path in (tmp_path / "out" / "interactions").iterdir()}
    plain, special = lines["part-00000-0000.csv"], lines["part-00001-0000.csv"]
    assert plain[0] == special[0] == b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE"
    assert plain[2] == special[2] == b"u1,plain,1700000001,click,1000000000.0"
    assert special[1] == b'u0,"pl,ain",1700000000,click,0.1' and plain[1] == b"u0,plain,1700000000,click,0.1"
    assert next(csv.reader(io.StringIO(special[1].decode()))) == ["u0", "pl,ain", "1700000000", "click", "0.1"]


def test_too_many_event_types_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = clicks(pa.array([BASE + n for n in range(12)]))
    columns["event_type"] = [f"type {n}" for n in range(12)]
    arguments = ["--events", parquet(tmp_path, columns), "--output", f"{tmp_path}/out", *no_limits(tmp_path)]
    assert "columns_and_event_types is 13, accepted is at most 10" in refused(capsys, interactions.main, arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--context", "item_id"], "--context 'item_id' is not usable"),
        (["--context", "event_value"], "--context 'event_value' is not usable"),
        (["--context", "User_Id"], "--context 'User_Id' is not usable"),
        (["--context", "a b"], "--context 'a b' is not usable"),
        (["--context", "a,A"], "accepted is each column once"),
        (["--context", "a,b,c,d,e,f"], "at most 5 columns"),
        (["--context", "weight"], "has no column weight: name it by --columns weight=..."),
        (["--columns", "amount=x"], "--columns 'amount' is not usable: accepted is one of customer_id, item_id, occurred_at"),
        (["--snapshot_time", "2024-01-01"], "--snapshot_time is about orders in BigQuery, --events"),
        (["--time_unit", "ns"], "invalid choice: 'ns'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    events = parquet(tmp_path, clicks(pa.array([BASE])))
    assert said in refused(capsys, interactions.main, ["--events", events, "--output", f"{tmp_path}/out", *arguments])


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("occurred_at", pa.array([1.5]), "not usable as occurred_at: accepted is timestamp, date, text or integer"),
        ("event_value", pa.array([True]), "not usable as event_value: accepted is integer, float, decimal or text"),
        ("occurred_at", pa.array(["soon"]), "has 1 lines, none with a usable occurred_at: accepted is ISO 8601"),
    ],
)
def test_wrong_types_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, values: pa.Array, said: str
) -> None:
    events = parquet(tmp_path, clicks(pa.array([BASE])) | {column: values})
    assert said in refused(capsys, interactions.main, ["--events", events, "--output", f"{tmp_path}/out"])


def test_events_are_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--events", "bigquery://my-project.shop.events", "--output", f"{tmp_path}/out"]
    assert "accepted are Parquet or CSV files" in refused(capsys, interactions.main, arguments)
