"""pipelines.interactions: the real command on files, held against plain Python on the same lines."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from pipelines import interactions, interactions_job, snapshot_job
from tests.pipelines import interactions_data
from tests.pipelines.features_data import letters, refused, stamps
from tests.pipelines.interactions_data import (
    Line,
    expected_lines,
    expected_rows,
    figures,
    fingerprint,
    manifest_of,
    no_limits,
    order_lines,
    read_rows,
    shop,
    write_csv,
)  # fmt: skip
from transforms import interactions_files, storage
from transforms.errors import UsageError

HEADER = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE"]


def export(orders: str, output: Path, *more: str) -> dict[str, Any]:
    assert interactions.main(["--orders", orders, "--output", str(output), *more]) == 0
    return manifest_of(output)


def check_against(output: Path, lines: list[Line], **window: Any) -> None:
    """Everything a manifest and the files say, computed a second way."""
    manifest, rows = manifest_of(output), expected_rows(lines, **window)
    headers, found = read_rows(output)
    assert found == rows
    assert all(header == HEADER for header in headers)
    assert manifest["lines"] == expected_lines(lines, **window)
    assert {name: manifest[name] for name in figures(found)} == figures(found)
    assert manifest["estimates"] == []
    assert manifest["fingerprint"] == fingerprint(HEADER, found)
    seconds = [int(row[2]) for row in found]
    assert datetime.datetime.fromisoformat(manifest["first_at"]).timestamp() == min(seconds)
    assert datetime.datetime.fromisoformat(manifest["last_at"]).timestamp() == max(seconds)
    files = {str(path): path for path in (output / "interactions").iterdir()}
    assert {file["path"] for file in manifest["files"]} == set(files)
    assert all(files[file["path"]].stat().st_size == file["bytes"] for file in manifest["files"])
    assert manifest["bytes"] == sum(file["bytes"] for file in manifest["files"])
    assert sum(file["rows"] for file in manifest["files"]) == manifest["rows"] == len(rows)
    dead = Counter(letter["reason"] for letter in letters(output))
    assert dict(dead) == manifest["lines"]["dead_letters"]


@settings(max_examples=8)
@given(order_lines)
def test_lines_add_up_and_the_csv_is_exactly_the_usable_ones(lines: list[Line]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        orders = write_csv(place / "orders.csv", lines)
        arguments = ["--orders", orders, "--output", f"{place}/out", *no_limits(place)]
        if not expected_rows(lines):
            assert interactions.main(arguments) == 2
            assert not (place / "out" / "manifest.json").exists()
            return
        assert interactions.main(arguments) == 0
        check_against(place / "out", lines)


def test_a_full_export(tmp_path: Path) -> None:
    lines = shop()
    manifest = export(write_csv(tmp_path / "orders.csv", lines), tmp_path / "out")
    check_against(tmp_path / "out", lines)
    assert manifest["mode"] == "FULL" and manifest["since"] is None and manifest["until"] is None
    assert manifest["data"] == f"{tmp_path}/out/interactions"
    assert [check["check"] for check in manifest["validation"]][:4] == [
        "rows",
        "unique_interactions",
        "users_with_two",
        "bytes",
    ]
    assert all(check["passed"] for check in manifest["validation"])
    assert json.loads((tmp_path / "out" / "schema.avsc").read_text()) == {
        "type": "record", "name": "Interactions", "namespace": "com.amazonaws.personalize.schema", "version": "1.0",
        "fields": [
            {"name": "USER_ID", "type": "string"}, {"name": "ITEM_ID", "type": "string"}, {"name": "TIMESTAMP", "type": "long"},
            {"name": "EVENT_TYPE", "type": "string"}, {"name": "EVENT_VALUE", "type": "float"},
        ],
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "interactions",
        "manifest.json",
        "schema.avsc",
    ]


def test_since_and_until_make_an_incremental_export(tmp_path: Path) -> None:
    lines = shop()
    window = {"since": datetime.date(2024, 1, 3), "until": datetime.date(2024, 1, 16)}
    arguments = [part for name, day in window.items() for part in (f"--{name}", str(day))]
    manifest = export(write_csv(tmp_path / "orders.csv", lines), tmp_path / "out", *arguments)
    check_against(tmp_path / "out", lines, **window)
    assert (manifest["mode"], manifest["since"], manifest["until"]) == ("INCREMENTAL", "2024-01-03", "2024-01-16")
    assert {"before_since", "after_until"} == set(manifest["lines"]["excluded"])
    # What a whole data set must have, an addition to it need not.
    assert not {"unique_interactions", "users_with_two"} & {check["check"] for check in manifest["validation"]}


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    lines = shop()
    (tmp_path / "many").mkdir()
    for number in range(3):
        write_csv(tmp_path / "many" / f"{number}.csv", lines[::-1][number::3])
    table = pa.table({name: [line[name] for line in lines] for name in interactions_data.COLUMNS})
    pq.write_table(table, tmp_path / "typed.parquet", row_group_size=400)
    one = export(write_csv(tmp_path / "one.csv", lines), tmp_path / "a")
    many = export(str(tmp_path / "many"), tmp_path / "b")
    typed = export(str(tmp_path / "typed.parquet"), tmp_path / "c")
    assert len(many["files"]) == 3
    assert one["fingerprint"] == many["fingerprint"] == typed["fingerprint"]
    twice = export(write_csv(tmp_path / "twice.csv", [*lines, lines[0]]), tmp_path / "d")
    lines[0]["amount"], lines[90]["amount"] = lines[90]["amount"], "7"
    other = export(write_csv(tmp_path / "other.csv", lines), tmp_path / "e")
    no_value = export(str(tmp_path / "one.csv"), tmp_path / "f", "--no_event_value")
    assert len({made["fingerprint"] for made in (one, twice, other, no_value)}) == 4
    assert twice["rows"] == 1501 and twice["unique_interactions"] == 1500


def test_a_part_is_cut_after_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shop()
    monkeypatch.setattr(interactions_job, "STATEMENT_LINES", 1)
    build = interactions_job.Export

    def small(*given: Any) -> Any:
        return build(*given, 400)

    monkeypatch.setattr(interactions_job, "Export", small)
    manifest = export(write_csv(tmp_path / "orders.csv", lines), tmp_path / "out")
    assert [file["rows"] for file in manifest["files"]] == [400, 400, 400, 300]
    check_against(tmp_path / "out", lines)


def test_running_again_does_nothing_and_other_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    export(orders, output)
    before = stamps(output)
    export(orders, output)
    assert stamps(output) == before
    said = refused(capsys, interactions.main, ["--orders", orders, "--output", str(output), "--no_event_value"])
    assert "values was True, is False" in said
    assert stamps(output) == before


def test_a_half_written_directory_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    wanted = export(orders, output)
    arguments = wanted["arguments"]
    (output / "manifest.json").unlink()
    (output / "_started.json").write_text(
        json.dumps({"kind": "interactions", "arguments": arguments, "attempt": "old"})
    )
    (output / "interactions" / "part-00099-0000.csv").write_text("half")
    manifest = export(orders, output)
    assert manifest["fingerprint"] == wanted["fingerprint"] and manifest["files"] == wanted["files"]
    assert len(list((output / "interactions").iterdir())) == 1


def test_what_a_retried_piece_left_is_gone(tmp_path: Path) -> None:
    """A piece that failed on its way and was read again by another name, as a stream of a new session is."""
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    write = interactions_files.Parts.close

    def leaving(parts: interactions_files.Parts) -> None:
        write(parts)
        (Path(parts.directory) / "part-orphan-0000.csv").write_text("USER_ID\nx\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions_files.Parts, "close", leaving)
        manifest = export(orders, output)
    assert [path.name for path in (output / "interactions").iterdir()] == ["part-00000-0000.csv"]
    assert manifest["rows"] == 1500


def test_an_overtaken_attempt_does_not_finish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    begin = interactions_files.Parts._begin

    def overtaken(parts: interactions_files.Parts) -> None:
        begin(parts)
        started = json.loads((output / "_started.json").read_text())
        (output / "_started.json").write_text(json.dumps(started | {"attempt": "newer"}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions_files.Parts, "_begin", overtaken)
        assert interactions.main(["--orders", orders, "--output", str(output)]) == 2
    assert "was begun anew by another run" in capsys.readouterr().err
    assert not (output / "manifest.json").exists()


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"rows": 999}, [], "fit for an import (FULL): rows is 999, accepted is at least 1,000; unique_interactions is 999"),
        ({"users": 1500}, [], "users_with_two is 0, accepted is at least 25"),
        ({"rows": 999}, ["--since", "2024-01-01"], "fit for an import (INCREMENTAL): rows is 999, accepted is at least 1,000"),
        ({}, ["--newest_within_days", "3", "--until", "2024-02-01"], "newest_within_days is 2024-01-18T16:43:00+00:00, "),
        ({}, ["--since", "2025-01-01"], "no line is an interaction: 1,500 read; excluded: 1,500 before_since; dead letters: none"),
    ],
)  # fmt: skip
def test_too_little_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, int], more: list[str], said: str
) -> None:
    orders = write_csv(tmp_path / "orders.csv", shop(**change))
    assert said in refused(capsys, interactions.main, ["--orders", orders, "--output", f"{tmp_path}/out", *more])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_much_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = write_csv(tmp_path / "orders.csv", shop())
    limits = tmp_path / "limits.toml"
    limits.write_text("maximum_incremental_bytes = 1000")
    arguments = ["--orders", orders, "--output", f"{tmp_path}/out", "--limits", str(limits), "--since", "2024-01-01"]
    assert (
        "bytes is 5" in (said := refused(capsys, interactions.main, arguments)) and "accepted is at most 1,000" in said
    )


def test_the_future_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shop()
    tomorrow = interactions_data.NOW + datetime.timedelta(days=1)
    lines[3]["ordered_at"] = tomorrow.isoformat(timespec="seconds")
    orders = write_csv(tmp_path / "orders.csv", lines)
    said = refused(capsys, interactions.main, ["--orders", orders, "--output", f"{tmp_path}/out"])
    assert f"newest_not_in_the_future is {tomorrow.isoformat(timespec='seconds')}, accepted is at most" in said
    assert export(orders, tmp_path / "before", "--until", "2025-01-01")["lines"]["excluded"] == {"after_until": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "2024-02-01", "--until", "2024-02-01"], "--since '2024-02-01' is not usable: accepted is a day before --until"),
        (["--event_type", " "], "--event_type ' ' is not usable"),
        (["--event_type", "x" * 257], "accepted is a text of 1 to 256 characters"),
        (["--context", "device"], "--context 'device' is not usable: accepted is of orders: country, channel, category"),
        (["--context", "country"], "has no column country: name it by --columns country=..."),
        (["--time_unit", "ms"], "--time_unit ms is about --events"),
        (["--columns", "item_id=Nothing"], "--columns 'item_id=Nothing' is not usable"),
        (["--buckets", "3"], "--buckets is known neither to this command nor to Beam"),
        (["--events", "x.csv"], "not allowed with argument --orders"),
        (["--limits", "none.toml"], "--limits 'none.toml' is not readable"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    orders = write_csv(tmp_path / "orders.csv", shop(30))
    assert said in refused(capsys, interactions.main, ["--orders", orders, "--output", f"{tmp_path}/out", *arguments])


def test_orders_without_items_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = write_csv(tmp_path / "orders.csv", shop(30), ("customer_id", "ordered_at", "amount"))
    said = refused(capsys, interactions.main, ["--orders", orders, "--output", f"{tmp_path}/out"])
    assert said.endswith("has no column item_id: name it by --columns item_id=...")


@pytest.mark.parametrize(
    ("text", "said"),
    [("minimum = 1", "minimum is unknown: accepted are minimum_rows"), ("minimum_rows = -1", "whole number of at least 0"),
     ("minimum_rows = true", "whole number of at least 0"), ("minimum_rows =", "is not readable")],
)  # fmt: skip
def test_limits_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    orders = write_csv(tmp_path / "orders.csv", shop(30))
    (tmp_path / "limits.toml").write_text(text)
    arguments = ["--orders", orders, "--output", f"{tmp_path}/out", "--limits", f"{tmp_path}/limits.toml"]
    assert said in refused(capsys, interactions.main, arguments)


def test_lines_that_went_missing_are_a_defect(tmp_path: Path) -> None:
    """The account is checked against the files, not assumed."""
    orders = write_csv(tmp_path / "orders.csv", shop())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions_files.Parts, "write", lambda self, lines: None)
        with pytest.raises(RuntimeError, match="lines do not add up"):
            interactions.main(["--orders", orders, "--output", f"{tmp_path}/out"])


def test_orders_that_change_meanwhile_are_refused() -> None:
    with pytest.raises(UsageError, match="had 3 lines when the job began, and 2 when it read them"):
        snapshot_job.require_lines("orders.csv", 3, 2)


def test_context_and_an_own_event_type(tmp_path: Path) -> None:
    lines = shop()
    for number, line in enumerate(lines):
        line["country"] = ["DE", "", 'F"R'][number % 3]
    orders = write_csv(tmp_path / "orders.csv", lines, (*interactions_data.COLUMNS, "country"))
    export(orders, tmp_path / "out", "--context", "country", "--event_type", "buy,now")
    headers, rows = read_rows(tmp_path / "out")
    assert headers == [[*HEADER, "COUNTRY"]]
    assert {row[3] for row in rows} == {"buy,now"}
    assert Counter(row[5] for row in rows) == {"DE": 500, "": 500, 'F"R': 500}
    schema = json.loads((tmp_path / "out" / "schema.avsc").read_text())
    assert schema["fields"][-1] == {"name": "COUNTRY", "type": ["string", "null"], "categorical": True}
    assert storage.read_manifest(str(tmp_path / "out"), "interactions")["rows"] == 1500
