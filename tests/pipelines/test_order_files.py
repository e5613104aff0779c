"""Orders from files: the same lines whatever the format, and one clear line about what cannot be read."""

from __future__ import annotations

import datetime
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import order_files, orders_source
from pipelines.order_files import OrderFiles, OrdersFormat
from tests import order_strategies
from tests.order_strategies import INPUTS, Row, line
from tests.pipelines.features_data import csv_text, write_csv, write_parquet
from transforms.errors import UsageError

NOON = datetime.datetime(2012, 2, 29, 12, tzinfo=datetime.UTC)
THEIRS = {"customer_id": "CustomerID", "ordered_at": "Invoice Date", "amount": "total", "country": "Länder"}
PLAIN = OrdersFormat()


def inspect(path: Path | str, **how: Any) -> OrderFiles:
    return order_files.inspect(str(path), OrdersFormat(**how))


def lines_of(source: OrderFiles) -> list[Row]:
    """Every line of the source, in order."""
    return [
        row
        for split in source.splits
        for batch in order_files.read_split(split, source.format)
        for row in batch.to_pylist()
    ]


def malformed_of(source: OrderFiles) -> list[str]:
    pairs = [pair for split in source.splits for pair in order_files.read_split_with_malformed(split, source.format)]
    return [text for _, malformed in pairs for text in malformed]


def as_read(rows: list[Row]) -> list[Row]:
    """Rows of text as a CSV gives them: empty is null."""
    return [{name: value or None for name, value in row.items()} for row in rows]


def refused(path: Path | str, **how: Any) -> str:
    with pytest.raises(UsageError) as error:
        inspect(path, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


AWKWARD = order_strategies.awkward_orders()


# --- What is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz"])
def test_csv_gives_back_every_line(tmp_path: Path, name: str) -> None:
    source = inspect(write_csv(tmp_path / name, AWKWARD))
    assert source.rows == len(AWKWARD)
    assert (source.first_day, source.last_day) == (datetime.date(2010, 3, 1), datetime.date(2012, 4, 30))
    assert source.end == datetime.date(2012, 5, 1)
    assert lines_of(source) == as_read(AWKWARD)
    assert not malformed_of(source)


def test_blocks_cut_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted newlines, several bytes a character and small blocks: a line never falls apart."""
    path = write_csv(tmp_path / "orders.csv", AWKWARD)
    monkeypatch.setattr(order_files, "CSV_BLOCK_BYTES", 4096)
    assert lines_of(inspect(path)) == as_read(AWKWARD)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "utf8"])
def test_csv_in_other_encodings_and_delimiters(tmp_path: Path, encoding: str) -> None:
    rows = [line("é", "2012-02-02", "1,5;x", country="Île"), line("ü;", "2012-02-03", "2")]
    path = tmp_path / "orders.csv"
    path.write_bytes(csv_text(rows, delimiter=";").encode(encoding))
    how = "utf8" if encoding == "utf-8-sig" else encoding  # what a spreadsheet saves begins with a byte order mark
    assert lines_of(inspect(path, csv_encoding=how, csv_delimiter=";")) == as_read(rows)


def test_foreign_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "orders.csv", AWKWARD, names=THEIRS)
    source = inspect(path, columns=THEIRS)
    assert set(source.schema.names) == set(INPUTS)
    assert lines_of(source) == as_read(AWKWARD)


def test_columns_nobody_asked_for_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("note,customer_id,ordered_at,amount\nx,a,2012-02-02,1\n")
    assert lines_of(inspect(path)) == [{"customer_id": "a", "ordered_at": "2012-02-02", "amount": "1"}]


def test_files_of_a_folder_and_of_a_pattern(tmp_path: Path) -> None:
    for number in (2, 1, 3):
        write_csv(tmp_path / f"part-{number}.csv", [line(f"c{number}", f"2012-02-0{number}", "1")])
    (tmp_path / "README.txt").write_text("not orders")
    for uri in (tmp_path, f"{tmp_path}/part-*.csv", tmp_path.as_uri()):
        source = inspect(uri)
        assert [row["customer_id"] for row in lines_of(source)] == ["c1", "c2", "c3"]
        assert (source.first_day.day, source.last_day.day) == (1, 3)
        assert [Path(file["path"]).name for file in source.files] == ["part-1.csv", "part-2.csv", "part-3.csv"]
        assert all(file["bytes"] > 0 and file["modified"] for file in source.files)


TYPED = pa.table({
    "customer_id": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "ordered_at": pa.array([NOON, NOON + datetime.timedelta(days=3), None, NOON], pa.timestamp("us", "UTC")),
    "amount": pa.array([Decimal("1.50"), Decimal("-2.00"), None, Decimal("0.01")], pa.decimal128(10, 2)),
    "country": pa.array(["UK", None, "UK", ""], pa.large_string()),
})  # fmt: skip


@pytest.mark.parametrize("rows_per_group", [1, 3, None])
def test_parquet_gives_back_every_line(
    tmp_path: Path, rows_per_group: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_files, "SPLIT_ROWS", 2)
    source = inspect(write_parquet(tmp_path / "orders.parquet", TYPED, rows_per_group))
    assert source.rows == 4
    assert (source.first_day, source.last_day) == (NOON.date(), datetime.date(2012, 3, 3))
    assert len(source.splits) == (1 if rows_per_group is None else 2)
    assert lines_of(source) == TYPED.to_pylist()
    assert source.schema.field("customer_id").type == pa.string()
    (first, *_) = order_files.read_split(source.splits[0], PLAIN)
    assert first.schema == source.schema


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_nanoseconds_are_cut_off(tmp_path: Path, zone: str | None) -> None:
    """Rounded to the nearest microsecond, the last instant of a day would be an order of the next."""
    moments = pa.array([-1, 1_330_559_999_999_999_999], pa.timestamp("ns", zone))
    table = pa.table({"customer_id": ["a", "b"], "ordered_at": moments, "amount": [1, 2]})
    source = inspect(write_parquet(tmp_path / "orders.parquet", table))
    assert (source.first_day, source.last_day) == (datetime.date(1969, 12, 31), datetime.date(2012, 2, 29))
    read = [
        row["ordered_at"].replace(tzinfo=datetime.UTC) if zone is None else row["ordered_at"]
        for row in lines_of(source)
    ]
    assert [moment.astimezone(datetime.UTC).isoformat() for moment in read] == [
        "1969-12-31T23:59:59.999999+00:00", "2012-02-29T23:59:59.999999+00:00",
    ]  # fmt: skip


def test_what_pandas_saves(tmp_path: Path) -> None:
    """Nanoseconds or not, ids with gaps as floats, an index column."""
    frame = pd.DataFrame({"customer_id": [12346.0, None], "ordered_at": pd.to_datetime(["2012-02-02 10:00", "2012-02-03 00:00"]), "amount": [0.1, 2.0]}, index=[5, 7])  # fmt: skip
    frame["country"] = pd.Categorical(["UK", None])
    frame.to_parquet(tmp_path / "orders.parquet")
    source = inspect(tmp_path / "orders.parquet")
    assert source.rows == 2 and source.end == datetime.date(2012, 2, 4)
    assert [row["customer_id"] for row in lines_of(source)] == [12346.0, None]
    assert [row["country"] for row in lines_of(source)] == ["UK", None]


GARBAGE_TIMES = ("0001-01-01", "1899-12-31", "2012-02-02", "2012-03-04", "2200-01-01", "9999-12-31")


@pytest.mark.parametrize(
    "typed", [str, datetime.date.fromisoformat, datetime.datetime.fromisoformat], ids=["text", "date", "time"]
)
@pytest.mark.parametrize("name", ["orders.csv", "orders.parquet"])
def test_garbage_dates_do_not_move_the_data_s_end(tmp_path: Path, typed: Any, name: str) -> None:
    moments = [typed(text) for text in GARBAGE_TIMES]
    table = pa.table({"customer_id": ["a"] * 6, "ordered_at": moments, "amount": [1] * 6})
    if name.endswith(".parquet"):
        write_parquet(tmp_path / name, table)
    else:
        table.to_pandas(date_as_object=True, timestamp_as_object=True).to_csv(tmp_path / name, index=False)
    source = inspect(tmp_path / name)
    assert source.rows == 6
    assert (source.first_day, source.last_day) == (datetime.date(2012, 2, 2), datetime.date(2012, 3, 4))


def test_parquet_without_statistics_is_measured_by_its_rows(tmp_path: Path) -> None:
    pq.write_table(TYPED, tmp_path / "orders.parquet", write_statistics=False)
    source = inspect(tmp_path / "orders.parquet")
    assert (source.rows, source.last_day) == (4, datetime.date(2012, 3, 3))


# --- Malformed lines ------------------------------------------------------------------------------------------------


def test_malformed_lines_are_kept_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("customer_id,ordered_at,amount\na,2012-02-02,1\nb,2012-02-02\nc,2012-02-02,1,5\nd,2012-02-03,4\n")
    source = inspect(path)
    assert source.rows == 4
    assert [row["customer_id"] for row in lines_of(source)] == ["a", "d"]
    assert malformed_of(source) == ["b,2012-02-02", "c,2012-02-02,1,5"]


def test_only_malformed_lines(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("customer_id,ordered_at,amount\n1,2,3,4\n1\n")
    assert "has 2 lines, none with a usable ordered_at" in refused(tmp_path / "orders.csv")


# --- Refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not readable: Empty CSV file"),
        (b"customer_id,ordered_at,amount\n", "has no lines: accepted is at least one order line"),
        (b"customer_id,ordered_at,amount\na,soon,1\nb,,1\n", "has 2 lines, none with a usable ordered_at"),
        (b"customer_id,when,amount\na,2012-02-02,1\n", "has no column ordered_at: name it by --columns ordered_at=...; it has customer_id, when, amount"),
        (b"customer_id,ordered_at,quantity\na,2012-02-02,1\n", "has no column amount (or both quantity and unit_price)"),
        ("customer_id,ordered_at,amount\né,2012-02-02,1\n".encode("latin-1"), "invalid UTF8 data"),
    ],
    ids=["empty", "header", "no times", "no ordered_at", "no amount", "latin-1"],
)  # fmt: skip
def test_unusable_csv(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "orders.csv").write_bytes(content)
    message = refused(tmp_path / "orders.csv")
    assert said in message and "orders.csv" in message


def test_an_encoding_that_turns_out_wrong_late_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look sees the first block only; the reading that meets the byte says so in one line."""
    monkeypatch.setattr(order_files, "CSV_BLOCK_BYTES", 4096)
    rows = [line(f"c{i}", "2012-02-02", "1") for i in range(1000)] + [line("é", "2012-02-02", "1")]
    source = inspect(write_csv(tmp_path / "orders.csv", rows, encoding="latin-1"))
    with pytest.raises(UsageError, match=r"orders\.csv is not readable: .*invalid UTF8 data"):
        lines_of(source)


def test_a_file_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(csv_text(AWKWARD * 500).encode())
    (tmp_path / "orders.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "orders.csv.gz is not readable" in refused(tmp_path / "orders.csv.gz")
    (tmp_path / "orders.parquet").write_bytes(b"PAR1 and then nothing")
    assert "orders.parquet is not readable" in refused(tmp_path / "orders.parquet")


def test_an_unknown_encoding(tmp_path: Path) -> None:
    assert "unknown encoding: klingon" in refused(write_csv(tmp_path / "orders.csv", AWKWARD), csv_encoding="klingon")


@pytest.mark.parametrize("uri", ["absent.csv", "absent/*.csv", ".", "orders.txt"])
def test_no_such_file(tmp_path: Path, uri: str) -> None:
    (tmp_path / "orders.txt").write_text("x")
    message = refused(f"{tmp_path}/{uri}")
    assert message.startswith(
        f"--orders '{tmp_path}/{uri}' is not usable: accepted is a .parquet, .csv or .csv.gz file"
    )


@pytest.mark.parametrize(
    ("name", "values", "accepted"),
    [
        ("customer_id", pa.array([True]), "text, integer or float"),
        ("ordered_at", pa.array([1330473600]), "timestamp, date or text"),
        ("ordered_at", pa.array([datetime.time(12)]), "timestamp, date or text"),
        ("amount", pa.array([b"1"]), "integer, float, decimal or text"),
        ("amount", pa.array([NOON]), "integer, float, decimal or text"),
        ("country", pa.array([1.5]), "text or integer"),
    ],
    ids=str,
)
def test_a_wrong_type_is_named_with_what_is_accepted(
    tmp_path: Path, name: str, values: pa.Array, accepted: str
) -> None:
    columns = {"customer_id": pa.array(["a"]), "ordered_at": pa.array([NOON]), "amount": pa.array([1.0])}
    path = write_parquet(tmp_path / "orders.parquet", pa.table({**columns, name: values}))
    message = refused(path)
    assert f"column {name} has type {values.type}, not usable as {name}: accepted is {accepted}" in message


def test_files_that_differ_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", TYPED)
    write_parquet(tmp_path / "b.parquet", TYPED.drop_columns("country"))
    assert "b.parquet holds country as no column (not large_string), unlike" in refused(tmp_path)


def test_the_end_of_the_data_is_not_believed_when_it_lies_in_the_future(tmp_path: Path) -> None:
    source = inspect(write_parquet(tmp_path / "orders.parquet", TYPED))
    assert source.trusted_end(source.last_day) == source.end
    with pytest.raises(UsageError, match="after today"):
        source.trusted_end(source.last_day - datetime.timedelta(days=1))


def test_zoned_nanoseconds_are_cut_off_even_where_the_clock_repeats_an_hour(tmp_path: Path) -> None:
    """2022-10-30 02:30 comes twice in Berlin: at 00:30 and at 01:30 UTC."""
    nanoseconds = [1_667_089_800_000_000_999, 1_667_093_400_000_000_999]
    column = pa.array(nanoseconds, pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns", "Europe/Berlin"))
    table = pa.table({"customer_id": ["a", "a"], "ordered_at": column, "amount": [1, 2]})
    read = lines_of(inspect(write_parquet(tmp_path / "orders.parquet", table)))
    assert [row["ordered_at"].timestamp() for row in read] == [1_667_089_800, 1_667_093_400]


# --- --columns ------------------------------------------------------------------------------------------------------


def test_columns_as_pairs_and_as_toml(tmp_path: Path) -> None:
    pairs = "customer_id=CustomerID, ordered_at=Invoice Date"
    expected = {"customer_id": "CustomerID", "ordered_at": "Invoice Date"}
    assert orders_source.parse_columns(pairs) == expected
    for head in ("", "[columns]\n"):
        (tmp_path / "map.toml").write_text(
            head + "".join(f'{ours} = "{theirs}"\n' for ours, theirs in expected.items())
        )
        assert orders_source.parse_columns(str(tmp_path / "map.toml")) == expected
    assert orders_source.parse_columns(None) == orders_source.parse_columns("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CustomerID", "--columns 'CustomerID' is not usable: accepted is our_name=their_name"),
        ("customer_id=", "accepted is our_name=their_name"),
        ("client=CustomerID", "--columns 'client' is not usable: accepted is one of customer_id, ordered_at"),
        ("absent.toml", "--columns 'absent.toml' is not readable"),
    ],
)
def test_a_wrong_map_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        orders_source.parse_columns(text)


@pytest.mark.parametrize("content", ["customer_id", "customer_id = 3", "[other]\na = 'b'"])
def test_a_wrong_toml_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.toml").write_text(content)
    with pytest.raises(UsageError, match=r"--columns '.*map\.toml'"):
        orders_source.parse_columns(str(tmp_path / "map.toml"))


def test_a_mapped_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "orders.csv", AWKWARD)
    message = refused(path, columns={"country": "land"})
    assert (
        "--columns 'country=land' is not usable: accepted is a column of" in message
        and "customer_id, ordered_at" in message
    )
