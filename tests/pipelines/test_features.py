"""The real ``pipelines.features``: the awkward orders in every form against the brute force, bad input, running again."""

from __future__ import annotations

import datetime
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import features
from tests import brute_force, order_strategies
from tests.order_strategies import CUTOFF, HORIZON_DAYS, INPUTS, Row, line
from tests.pipelines.features_data import (
    WINDOW,
    assert_same_customers,
    csv_text,
    expected_activity,
    expected_customers,
    expected_lines,
    letters,
    numbers,
    read_rows,
    refused,
    stamps,
    write_csv,
    write_parquet,
)
from transforms import schema, storage
from transforms.errors import UsageError

ROWS = order_strategies.awkward_orders()
USABLE = brute_force.clean(ROWS)[0]
THEIRS = {"customer_id": "CustomerID", "ordered_at": "Invoice Date", "amount": "total"}


def make(*arguments: Any) -> dict[str, Any]:
    return features.run([*WINDOW, *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def orders_csv(folder: Path) -> str:
    return write_csv(folder / "orders.csv", ROWS)


@pytest.fixture(scope="module")
def one_bucket(folder: Path, orders_csv: str) -> Path:
    """A CSV file, one bucket, the default runner."""
    make("--orders", orders_csv, "--output", folder / "one", "--buckets", 1)
    return folder / "one"


@pytest.fixture(scope="module")
def seven_buckets(folder: Path, one_bucket: Path) -> Path:
    """The lines shuffled over several compressed CSV files with foreign names, seven buckets travelling as bytes."""
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    for number, start in enumerate(range(0, len(ROWS), 30)):
        write_csv(folder / f"part-{number}.csv.gz", shuffled[start : start + 30], names=THEIRS)
    pairs = ",".join(f"{ours}={theirs}" for ours, theirs in THEIRS.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.options.is_local", lambda _: False)  # as on a cluster
        make("--orders", folder / "part-*.csv.gz", "--columns", pairs, "--output", folder / "seven", "--buckets", 7,
             "--reuse_transform", one_bucket)  # fmt: skip
    return folder / "seven"


@pytest.fixture(scope="module")
def sixty_four_buckets(folder: Path) -> Path:
    """The usable lines typed, in Parquet row groups, names from a TOML file, 64 buckets, DirectRunner by its name."""
    typed = order_strategies.to_table(
        [{**dict.fromkeys(INPUTS), **{k: v for k, v in row.items() if k in INPUTS}} for row in USABLE[::-1]]
    )
    foreign = typed.rename_columns([THEIRS.get(name, name) for name in INPUTS])
    (folder / "map.toml").write_text("".join(f'{ours} = "{theirs}"\n' for ours, theirs in THEIRS.items()))
    orders = write_parquet(folder / "orders.parquet", foreign, 10)
    make("--orders", orders, "--columns", folder / "map.toml", "--output", (folder / "many").as_uri(), "--buckets", 64,
         "--runner", "DirectRunner")  # fmt: skip
    return folder / "many"


def test_features_equal_the_brute_force(one_bucket: Path) -> None:
    customers = read_rows(one_bucket / "raw")
    brute_force.assert_equal(expected_customers(ROWS), customers)
    assert customers.schema == schema.arrow_schema(schema.CUSTOMERS)


def test_neither_buckets_files_formats_nor_runner_matter(
    one_bucket: Path, seven_buckets: Path, sixty_four_buckets: Path
) -> None:
    customers = read_rows(one_bucket / "raw")
    for other in (seven_buckets, sixty_four_buckets):
        assert_same_customers(customers, read_rows(other / "raw"))
        brute_force.assert_equal(expected_customers(ROWS), read_rows(other / "raw"))
    for directory, most in ((one_bucket, 1), (seven_buckets, 7), (sixty_four_buckets, 64)):
        parts = [path.name for path in sorted((directory / "raw").iterdir())]
        assert 1 <= len(parts) <= most and all(name.endswith(f"-of-{most:05d}.parquet") for name in parts)


def test_every_line_is_accounted_for(one_bucket: Path, seven_buckets: Path, sixty_four_buckets: Path) -> None:
    for directory, rows in ((one_bucket, ROWS), (seven_buckets, ROWS), (sixty_four_buckets, None)):
        manifest = storage.read_manifest(str(directory), "features")
        lines = manifest["lines"]
        assert lines["read"] == lines["used"] + sum(lines["excluded"].values()) + sum(lines["dead_letters"].values())
        if rows:
            assert lines == expected_lines(rows)
        else:
            assert lines["read"] == len(USABLE) and not lines["dead_letters"]
            assert lines["used"] == expected_lines(ROWS)["used"]


def test_the_manifest_has_the_customers_activity(
    one_bucket: Path, seven_buckets: Path, sixty_four_buckets: Path
) -> None:
    for directory in (one_bucket, seven_buckets, sixty_four_buckets):
        found = storage.read_manifest(str(directory), "features")["activity"]
        assert list(found) == sorted(found)
        assert numbers(found) == expected_activity(ROWS)


def test_dead_letters_hold_the_lines_as_they_came(one_bucket: Path) -> None:
    expected = [
        (reason, {name: value or None for name, value in row.items()})
        for reason, row in brute_force.clean(ROWS)[1]
        if reason != "no_customer"
    ]
    found = [(letter["reason"], letter["payload"]) for letter in letters(one_bucket)]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert {letter["stage"] for letter in letters(one_bucket)} == {"clean_orders"}
    examples = storage.read_manifest(str(one_bucket), "features")["dead_letter_examples"]
    assert examples.keys() == {reason for reason, _ in expected}
    for reason, example in examples.items():
        details = [letter["detail"] for letter in letters(one_bucket) if letter["reason"] == reason]
        assert any(detail.startswith(example.removesuffix("...")) for detail in details) and len(example) <= 200


def test_the_transformed_rows_are_the_raw_customers(one_bucket: Path, sixty_four_buckets: Path) -> None:
    for directory in (one_bucket, sixty_four_buckets):
        raw, transformed = read_rows(directory / "raw"), read_rows(directory / "transformed")
        assert transformed["customer_id"].to_pylist() == raw["customer_id"].to_pylist()
        assert transformed["split"].to_pylist() == raw["split"].to_pylist()
        assert transformed["future_orders"].to_pylist() == raw["future_orders"].to_pylist()
        assert (directory / "transform_fn" / "transform_fn" / "saved_model.pb").exists()


def test_the_manifest_tells_what_was_made(one_bucket: Path, orders_csv: str) -> None:
    manifest = storage.read_manifest(str(one_bucket), "features")
    arguments = manifest["arguments"]
    assert (arguments["cutoff"], arguments["horizon_days"], arguments["history_days"]) == (
        str(CUTOFF),
        HORIZON_DAYS,
        None,
    )
    assert arguments["orders"] == orders_csv and arguments["files"][0]["bytes"] == os.path.getsize(orders_csv)
    assert arguments["schema_fingerprint"] == schema.fingerprint(schema.CUSTOMERS)
    assert manifest["data_end"] == "2012-05-01" and manifest["transform_fingerprint"]
    customers = read_rows(one_bucket / "raw")
    assert manifest["rows"] == customers.num_rows == sum(manifest["splits"].values())
    assert manifest["splits"] == {split: customers["split"].to_pylist().count(split) for split in manifest["splits"]}


def test_nothing_of_the_work_stays_behind(one_bucket: Path, seven_buckets: Path, sixty_four_buckets: Path) -> None:
    for directory in (one_bucket, seven_buckets, sixty_four_buckets):
        kept = {"raw", "transformed", "transform_fn", "dead_letters", "statistics", storage.MANIFEST}
        assert {path.name for path in directory.iterdir()} == kept
    assert not list((sixty_four_buckets / "dead_letters").iterdir())


def test_a_shop_that_was_closed_since(tmp_path: Path) -> None:
    """No order on the window's last two days: the labels are those of an order that nobody placed there."""
    rows = [line("a", "2012-02-02", "1"), line("a", "2012-04-28", "7"), line("b", "2012-02-03", "2")]
    orders = write_csv(tmp_path / "orders.csv", rows)
    made = make("--orders", orders, "--output", tmp_path / "closed", "--horizon_days", 61, "--quiet_days", 2)
    # Somebody bought on the last day, and is no customer yet as of the cutoff: now nothing has to be believed.
    orders = write_csv(tmp_path / "open.csv", [*rows, line("new", "2012-04-30", "5")])
    make("--orders", orders, "--output", tmp_path / "open", "--horizon_days", 61)
    assert_same_customers(read_rows(tmp_path / "open" / "raw"), read_rows(tmp_path / "closed" / "raw"))
    assert made["data_end"] == "2012-04-29", "what is believed does not become what was seen"
    assert "quiet_days" not in made["arguments"]


# --- Running again --------------------------------------------------------------------------------------------------


def test_a_second_run_answers_at_once_and_rewrites_nothing(
    one_bucket: Path, orders_csv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(one_bucket)
    monkeypatch.setattr(features, "build_pipeline", None)  # called, it would fail
    made = make("--orders", orders_csv, "--output", one_bucket, "--quiet_days", 3)  # decides nothing of what is in it
    assert made == storage.read_manifest(str(one_bucket), "features")
    assert stamps(one_bucket) == before


@pytest.mark.parametrize(
    "more", [["--horizon_days", "30"], ["--history_days", "365"], ["--cutoff", "2012-02-01"]], ids=str
)
def test_other_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], one_bucket: Path, orders_csv: str, more: list[str]
) -> None:
    before = stamps(one_bucket)
    message = refused(capsys, features.main, [*WINDOW, "--orders", orders_csv, "--output", str(one_bucket), *more])
    assert message.startswith(f"--output {str(one_bucket)!r} holds another result ({more[0][2:]} was ")
    assert stamps(one_bucket) == before


def test_other_orders_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, one_bucket: Path, orders_csv: str
) -> None:
    """Not only another path: the same path with another content."""
    kept = Path(orders_csv).read_bytes(), os.stat(orders_csv).st_mtime_ns
    try:
        Path(orders_csv).write_bytes(kept[0] + b"late,2012-02-02,1,,,,,,,\n")
        assert "holds another result (files was" in refused(
            capsys, features.main, [*WINDOW, "--orders", orders_csv, "--output", str(one_bucket)]
        )
    finally:
        Path(orders_csv).write_bytes(kept[0])
        os.utime(orders_csv, ns=(kept[1], kept[1]))


def test_a_half_finished_directory_is_made_anew(tmp_path: Path, one_bucket: Path, orders_csv: str) -> None:
    """Cut off before its manifest, with leftovers no run of today would write; a reused transform gives the same rows."""
    half = tmp_path / "half"
    shutil.copytree(one_bucket, half)
    first = storage.read_manifest(str(one_bucket), "features")
    (half / storage.MANIFEST).unlink()
    arguments = {**first["arguments"], "transform": first["transform_fingerprint"]}
    (half / storage.STARTED).write_text(json.dumps({"kind": "features", "arguments": arguments, "attempt": "killed"}))
    shutil.copy(next((half / "raw").iterdir()), half / "raw" / "part-99999-of-99999.parquet")
    (half / "_buckets").mkdir()
    (half / "_buckets" / "x.arrow").write_bytes(b"half")
    with pytest.raises(UsageError, match="not a complete features directory"):
        storage.read_manifest(str(half), "features")
    made = make("--orders", orders_csv, "--output", half, "--reuse_transform", one_bucket)
    assert read_rows(half / "raw").equals(read_rows(one_bucket / "raw"))
    assert read_rows(half / "transformed").equals(read_rows(one_bucket / "transformed"))
    assert not (half / "_buckets").exists() and not (half / storage.STARTED).exists()
    assert made["transform_fingerprint"] == first["transform_fingerprint"]


def test_a_foreign_directory_is_refused_and_untouched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, orders_csv: str
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refused(capsys, features.main, [*WINDOW, "--orders", orders_csv, "--output", str(tmp_path)])
    assert "is not empty and not a half-finished step" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failing_job_leaves_no_manifest(
    tmp_path: Path, one_bucket: Path, orders_csv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("transforms.storage.write_parquet", broken)
    with pytest.raises(OSError, match="disk full"):
        make("--orders", orders_csv, "--output", tmp_path / "out", "--reuse_transform", one_bucket)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == [storage.STARTED]


# --- Bad input ------------------------------------------------------------------------------------------------------

GOOD = [line("a", "2012-02-02", "1"), line("a", "2012-04-30", "1")]


def refused_orders(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | bytes, *more: str) -> str:
    path = tmp_path / "orders.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return refused(capsys, features.main, [*WINDOW, "--orders", str(path), "--output", str(tmp_path / "out"), *more])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "orders.csv is not readable: Empty CSV file"),
        ("customer_id,ordered_at,amount\n", "has no lines: accepted is at least one order line"),
        ("customer_id,amount\na,1\n", "has no column ordered_at: name it by --columns ordered_at=..."),
        ("customer_id,ordered_at,amount\na,9999-12-31,1\nb,soon,1\n", "has 2 lines, none with a usable ordered_at"),
        ("customer_id,ordered_at,amount\n1,2,3,4\n", "has 1 lines, none with a usable ordered_at"),
        ("customer_id,ordered_at,amount\né,2012-02-02,1\n".encode("latin-1"), "invalid UTF8 data"),
    ],
    ids=["empty", "header", "no column", "no times", "malformed", "latin-1"],
)
def test_unusable_orders(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | bytes, said: str) -> None:
    message = refused_orders(capsys, tmp_path, content)
    assert said in message and "orders.csv" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--orders", "absent.parquet"], "--orders 'absent.parquet' is not usable: accepted is a .parquet, .csv"),
        (["--columns", "client=x"], "--columns 'client' is not usable: accepted is one of customer_id"),
        (["--columns", "country=land"], "--columns 'country=land' is not usable: accepted is a column of"),
        (["--columns", "absent.toml"], "--columns 'absent.toml' is not readable"),
        (["--csv_delimiter", ";;"], "argument --csv_delimiter: ';;' is not usable: accepted is one ASCII character"),
        (["--csv_encoding", "klingon"], "unknown encoding: klingon"),
        (["--cutoff", "1.3.2012"], "argument --cutoff: '1.3.2012' is not usable: accepted is a date such as 2011-08-08"),
        (["--horizon_days", "0"], "argument --horizon_days: '0' is not usable: accepted is a whole number from 1 to 100000"),
        (["--history_days", "99999999999"], "argument --history_days: '99999999999' is not usable"),
        (["--history_days", "x"], "argument --history_days: 'x' is not usable"),
        (["--buckets", "0"], "argument --buckets: '0' is not usable"),
        (["--cutoff", "2012-02-02"], "--cutoff 2012-02-02 leaves no orders on one side: accepted is a day after 2012-02-02 and not after 2012-04-30"),
        (["--cutoff", "2011-01-01"], "--cutoff 2011-01-01 leaves no orders on one side"),
        (["--cutoff", "2012-05-01"], "--cutoff 2012-05-01 leaves no orders on one side"),
        (["--horizon_days", "62"], "--horizon_days 62 from --cutoff 2012-03-01 reaches past the last order day 2012-04-30: accepted is at most 61"),
        (["--horizon_days", "62"], "accepted is at most 61, an earlier cutoff, or --quiet_days 1 if the shop was closed since"),
        (["--horizon_days", "65", "--quiet_days", "3"], "reaches past the last order day 2012-04-30 by more than --quiet_days 3: accepted is at most 64, an earlier cutoff, or --quiet_days 4 if"),
        (["--cutoff", "2012-05-01", "--horizon_days", "1", "--quiet_days", "9"], "--cutoff 2012-05-01 leaves no orders on one side"),
        (["--quiet_days", "-1"], "argument --quiet_days: '-1' is not usable: accepted is a whole number from 0 to 100000"),
        (["--history_day", "30"], "--history_day is known neither to this command nor to Beam"),
        (["--no_such_thing"], "--no_such_thing is known neither to this command nor to Beam"),
        (["--runner", "NoRunner"], "--runner 'NoRunner' is not usable: accepted is DataflowRunner"),
        (["--reuse_transform", "absent"], "absent is not a complete features directory: it has no manifest.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_bad_argument_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], said: str
) -> None:
    assert said in refused_orders(capsys, tmp_path, csv_text(GOOD), *more)
    assert not (tmp_path / "out").exists()


def test_a_mistyped_argument_that_is_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--orders", "x", "--cutof", "2012-03-01", "--horizon_days", "30", "--output", str(tmp_path)]
    assert "--cutoff" in refused(capsys, features.main, arguments)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_place_of_the_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, orders_csv: str, below: str
) -> None:
    (tmp_path / "taken").write_text("x")
    message = refused(
        capsys, features.main, [*WINDOW, "--orders", orders_csv, "--output", str(tmp_path / "taken" / below)]
    )
    assert message.startswith("--output ") and "is a file, accepted is a directory" in message


def test_a_wrong_type_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = pa.table({"customer_id": ["a"], "ordered_at": [datetime.date(2012, 2, 2)], "amount": [True]})
    path = write_parquet(tmp_path / "orders.parquet", table)
    message = refused(capsys, features.main, [*WINDOW, "--orders", path, "--output", str(tmp_path / "out")])
    assert "column amount has type bool, not usable as amount: accepted is integer, float, decimal or text" in message


def test_no_usable_line_at_all(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Only the job can see it; still one line, without the worker's traceback, and no manifest."""
    rows = [{**row, "amount": "NaN"} for row in GOOD]
    message = refused_orders(capsys, tmp_path, csv_text(rows))
    assert (
        message
        == "no customer has a usable order before the cutoff: 2 lines read, excluded {}, dead letters {'bad_amount': 2}"
    )
    with pytest.raises(UsageError, match="not a complete features directory"):
        storage.read_manifest(str(tmp_path / "out"), "features")


def odd_rows() -> list[Row]:
    """What else comes in real files: sentinels, strange ids, numbers that are none; enough good lines around them."""
    return [
        *(line(f"c{i}", "2012-02-02", "1.5") for i in range(20)),
        line("c1", "2012-04-30", "2"),
        line("c1", "9999-12-31", "2"),
        line("c1", "0001-01-01", "2"),
        line("c1", "2012-02-02", "NaN"),
        line("c1", "2012-02-02", "inf"),
        line("c1", "2012-02-30", "1"),
        line("", "2012-02-02", "1"),
        line("x" * 2000, "2012-02-02", "1"),
        line("q\"uo'te, \n客\U0001f600", "2012-02-02", "1"),
    ]


def test_odd_lines_are_counted_with_examples_and_the_good_ones_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, one_bucket: Path
) -> None:
    """Latin letters in Latin-1, lines with too many fields, dates that would move the data's end."""
    rows = [*(row for row in odd_rows() if "客" not in (row["customer_id"] or "")), line("Zoë", "2012-02-02", "3")]
    text = csv_text(rows) + "one,two\n" + "1,2,3,4,5,6,7,8,9,10,11\n"
    (tmp_path / "orders.csv").write_bytes(text.encode("latin-1"))
    arguments = [
        "--orders",
        str(tmp_path / "orders.csv"),
        "--csv_encoding",
        "latin-1",
        "--output",
        str(tmp_path / "out"),
    ]
    assert features.main([*WINDOW, *arguments, "--reuse_transform", str(one_bucket)]) == 0
    manifest = storage.read_manifest(str(tmp_path / "out"), "features")
    expected = expected_lines(rows)
    expected["read"] += 2
    expected["dead_letters"]["malformed_line"] = 2
    assert manifest["lines"] == expected
    assert manifest["data_end"] == "2012-05-01"
    brute_force.assert_equal(expected_customers(rows), read_rows(tmp_path / "out" / "raw"))
    said = capsys.readouterr().err
    for reason, count in expected["dead_letters"].items():
        assert f"dead letters: {count} {reason}" in said
    examples = manifest["dead_letter_examples"]
    assert examples.keys() == expected["dead_letters"].keys()
    assert all(f"{reason}, such as {example}" in said for reason, example in examples.items())
    malformed = {
        letter["payload"]["line"] for letter in letters(tmp_path / "out") if letter["reason"] == "malformed_line"
    }
    assert malformed == {"one,two", "1,2,3,4,5,6,7,8,9,10,11"}


def test_the_features_of_a_file_uri_are_where_it_says(sixty_four_buckets: Path) -> None:
    """Beam's own file systems do not know file://, the command does."""
    assert storage.read_manifest(sixty_four_buckets.as_uri(), features.KIND)["rows"] == len(expected_customers(ROWS))
