"""Lines of CSV by one statement: the same whichever of the statements makes them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipelines.interactions_data import csv_line
from transforms import engines, interactions_lines
from transforms.interactions import Wanted
from transforms.interactions_lines import Statements

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


def read(raw: pa.Table, statements: Statements = STATEMENTS) -> pa.Table:
    with engines.duckdb_connection() as connection:
        return interactions_lines.read_lines(connection, statements, raw)


@settings(max_examples=40)
@given(st.lists(floats, min_size=1, max_size=6))
def test_amounts_as_cents_are_the_same_amounts(amounts: list[float]) -> None:
    raw = table(amounts)
    assert read(raw).equals(read(raw, replace(STATEMENTS, of_cents=None)))


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


@settings(max_examples=40)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=5),
        min_size=1,
        max_size=5,
    )
)
def test_lines_and_their_hashes(ids: list[str]) -> None:
    made = read(table([1.5] * len(ids), ids))
    assert made["reason"].to_pylist() == [None] * len(ids)
    lines = [csv_line([each, "b", "1704067200", "purchase", "1.5"]) for each in ids]
    assert [line.encode() for line in made["line"].to_pylist()] == lines
    numbers = [(high << 64) + low for low, high in zip(made["low"].to_pylist(), made["high"].to_pylist(), strict=True)]
    assert numbers == [int.from_bytes(hashlib.md5(line).digest(), "little") for line in lines]
    users = made["user_hash"].to_numpy()
    assert len(np.unique(users)) == len(set(ids))


@pytest.mark.parametrize("special", [",", '"', "\n", "\r"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_both_statements_make_the_same_lines(special: str, kind: pa.DataType) -> None:
    raw = table([1.0, 2.0], ["plain", f"a{special}b"])
    raw = raw.set_column(0, "customer_id", raw["customer_id"].cast(kind))
    assert interactions_lines._has_special(raw)
    plain = raw.slice(0, 1).combine_chunks().take([0])
    assert not interactions_lines._has_special(plain)
    assert read(plain)["line"][0] == read(raw)["line"][0]
