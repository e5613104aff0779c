"""Lines of CSV by one statement: the same whichever of the statements makes them."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipelines.interactions_data import csv_line
from transforms import engines, interactions_lines
from transforms.interactions import Wanted
from transforms.interactions_lines import Statements, read_lines
from transforms.interactions_summary import sum_of

SCHEMA = pa.schema(
    [("customer_id", pa.string()), ("ordered_at", pa.string()), ("item_id", pa.string()), ("amount", pa.float64())]
)
STATEMENTS = Statements.compile(SCHEMA, Wanted())
floats = st.one_of(
    st.floats(), st.integers(-(10**16), 10**16).map(lambda cents: cents / 100), st.decimals(-1000, 1000, places=2).map(float),
    st.sampled_from([0.0, -0.0, 0.005, 0.1 + 0.2, 1e15, 1e13 + 0.01, 5e-324]),
)  # fmt: skip


def table(amounts: list[Any], ids: list[str] | None = None) -> pa.Table:
    count = len(amounts)
    columns = [ids or ["a"] * count, ["2024-01-01"] * count, ["b"] * count, amounts]
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with engines.duckdb_connection() as connection:
        yield connection


def test_amounts_as_cents_are_the_same_amounts(connection: duckdb.DuckDBPyConnection) -> None:
    """The quick statement for sure amounts and the one that checks them: the same rows, in other words."""

    @settings(max_examples=20)
    @given(st.lists(floats, min_size=1, max_size=6))
    def same(amounts: list[float]) -> None:
        raw = table(amounts)
        quick = read_lines(connection, STATEMENTS, raw)
        full = read_lines(connection, replace(STATEMENTS, of_cents=None), raw)
        assert values(quick) == values(full)
        assert quick.drop_columns(["line"]).equals(full.drop_columns(["line"]))

    same()


def values(made: pa.Table) -> list[Any]:
    cells = [line.rstrip("\n").rsplit(",", 1) for line in made["line"].to_pylist()]
    return [(line[0], float(line[1])) if line != [""] else None for line in cells]


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(since=datetime.date(2024, 1, 2)), Wanted(values=False)])
def test_both_statements_exclude_the_same_lines(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> None:
    """Everything but the amount is judged by both, in the same order of reasons."""
    ids = ["", None, "x" * 257, "é" * 256, "é" * 257, "ok"]
    times = ["2024-01-01", "2024-01-02", "1969-01-01", "soon", None]
    rows = list(itertools.product(ids, times, ["i", "", None, "y" * 257], [1.0, 0.0, -2.5], [None, 1, 0, -1]))
    schema = SCHEMA.append(pa.field("quantity", pa.int64()))
    raw = pa.table(dict(zip(schema.names, map(list, zip(*rows, strict=True)), strict=True)), schema)
    statements = Statements.compile(schema, wanted)
    quick = read_lines(connection, statements, raw)
    full = read_lines(connection, replace(statements, of_cents=None), raw)
    used = pc.is_null(quick["reason"])
    assert len(quick["reason"].unique()) == (9 if wanted.since else 8)  # and null
    assert quick["reason"].equals(full["reason"])
    assert quick["row_hash"].filter(used).equals(full["row_hash"].filter(used))
    assert [line == "" for line in quick["line"].to_pylist()] == [not each for each in used.to_pylist()]


@pytest.mark.parametrize(
    ("amounts", "taken"),
    [([1.25, -3.1, 0.0], True), ([1.25, 0.005], False), ([1e15], False), ([float("nan")], False), ([float("inf")], False),
     ([None, 1.0], False), ([9_999_999_999_999.99], True), ([0.1 + 0.2], False)],
)  # fmt: skip
def test_when_amounts_are_cents(amounts: list[Any], taken: bool) -> None:
    cents = interactions_lines._in_cents(table(amounts))
    assert (cents is not None) == taken
    if cents is not None:
        assert [float(value) for value in cents["amount"].to_pylist()] == amounts


def test_lines_and_their_hashes(connection: duckdb.DuckDBPyConnection) -> None:
    text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=5)

    @settings(max_examples=20)
    @given(st.lists(text, min_size=1, max_size=5))
    def exact(ids: list[str]) -> None:
        made = read_lines(connection, STATEMENTS, table([1.5] * len(ids), ids))
        assert made["reason"].to_pylist() == [None] * len(ids)
        lines = [csv_line([each, "b", "1704067200", "purchase", "1.50"]) for each in ids]
        assert [line.encode() for line in made["line"].to_pylist()] == lines
        for name in ("user_hash", "row_hash"):
            assert len(made[name].unique()) == len(set(ids))

    exact()


def test_a_row_hash_is_of_every_column(connection: duckdb.DuckDBPyConnection) -> None:
    schema = pa.schema(
        [("customer_id", pa.string()), ("item_id", pa.string()), ("occurred_at", pa.int64()), ("event_type", pa.string()),
         ("event_value", pa.float64()), ("device", pa.string()), ("level", pa.float64())]
    )  # fmt: skip
    row: list[Any] = ["u", "i", 1_700_000_000, "view", 2.5, "phone", 1.0]
    others: list[Any] = ["v", "j", 1_700_000_001, "buy", None, None, 2.0]
    rows = [row, *([*row[:at], other, *row[at + 1 :]] for at, other in enumerate(others))]
    rows += [["i", "u", *row[2:]], [*row[:3], "phone", 2.5, "view", 1.0]]  # the same values in other columns
    statements = Statements.compile(schema, Wanted(events=True, event_type=None, context=("device", "level")))
    raw = pa.table(dict(zip(schema.names, map(list, zip(*rows, strict=True)), strict=True)), schema)
    made = read_lines(connection, statements, raw)
    assert made["reason"].null_count == len(rows) == len(made["row_hash"].unique())
    zeros = (
        raw.slice(0, 2).set_column(6, "level", pa.array([0.0, -0.0])).set_column(0, "customer_id", pa.array(["u", "u"]))
    )
    made = read_lines(connection, statements, zeros)
    assert len(made["row_hash"].unique()) == len(made["line"].unique()) == 1


def test_sums_of_hashes_tell_swapped_values(connection: duckdb.DuckDBPyConnection) -> None:
    """The values of two columns in other pairs are other rows: their hashes have another sum."""
    users, amounts = [f"u{n}" for n in range(200)], [n + 1.25 for n in range(200)]
    sums = set()
    for turn in range(50):
        made = read_lines(connection, STATEMENTS, table([*amounts[turn:], *amounts[:turn]], users))
        sums.add(sum_of(made["row_hash"].to_numpy()))
    assert len(sums) == 50


@pytest.mark.parametrize("special", [",", '"', "\n", "\r"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_both_statements_make_the_same_lines(
    connection: duckdb.DuckDBPyConnection, special: str, kind: pa.DataType
) -> None:
    raw = table([1.0, 2.0], ["plain", f"a{special}b"])
    raw = raw.set_column(0, "customer_id", raw["customer_id"].cast(kind))
    assert interactions_lines._has_special(raw)
    plain = raw.slice(0, 1).combine_chunks().take([0])
    assert not interactions_lines._has_special(plain)
    made = [read_lines(connection, STATEMENTS, each) for each in (plain, raw)]
    assert made[0]["line"][0] == made[1]["line"][0]
