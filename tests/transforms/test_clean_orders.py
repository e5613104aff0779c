"""Cleaning: every type a source may hold says the same as the brute force; times, numbers and ids one by one."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests import brute_force, engine_runs
from tests.order_strategies import BAD_NUMBERS, BAD_TIMES, GOOD_NUMBERS, GOOD_TIMES, line
from transforms import schema

ORDER_NAMES = schema.names(schema.ORDERS)


def clean(columns: dict[str, pa.Array]) -> list[dict[str, Any]]:
    raw = pa.table(columns)
    return engine_runs.on_duckdb(engine_runs.clean_sql(raw.schema, "duckdb"), raw=raw).to_pylist()


def cleaned_column(name: str, values: pa.Array) -> list[tuple[Any, str | None]]:
    """(value, reason) of each line, with good values in the other needed columns."""
    n = len(values)
    columns = {
        "customer_id": pa.array(["c"] * n),
        "ordered_at": pa.array(["2012-02-02"] * n),
        "amount": pa.array(["1"] * n),
    }
    return [(row[name], row["reason"]) for row in clean({**columns, name: values})]


def test_one_line_out_for_each_line_in_and_in_their_order() -> None:
    values = pa.array([str(i) if i % 3 else "bad" for i in range(10_000)])
    assert [value for value, _ in cleaned_column("amount", values)] == [
        Decimal(i) if i % 3 else None for i in range(10_000)
    ]


def test_a_source_needs_only_three_columns() -> None:
    (row,) = clean({"customer_id": pa.array(["c"]), "ordered_at": pa.array(["2012-02-02"]), "amount": pa.array(["1"])})
    assert row["reason"] is None
    assert {name for name in ORDER_NAMES if row[name] is None} == {
        "quantity", "order_id", "item_id", "country", "channel", "category",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values", "bad"),
    [
        ("ordered_at", (*GOOD_TIMES, *BAD_TIMES), "bad_ordered_at"),
        ("amount", (*GOOD_NUMBERS, *BAD_NUMBERS), "bad_amount"),
    ],
    ids=["times", "numbers"],
)
def test_text(name: str, values: tuple[str, ...], bad: str) -> None:
    for text, (value, reason) in zip(values, cleaned_column(name, pa.array(values)), strict=True):
        orders, rejected = brute_force.clean(
            [line(**{"customer_id": "c", "ordered_at": "2012-02-02", "amount": "1", name: text})]
        )
        assert reason == (rejected[0][0] if rejected else None), text
        assert reason in (None, bad), text
        if orders:
            assert value == orders[0][name], text


NOON = datetime(2012, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([date(2012, 2, 29)]), datetime(2012, 2, 29, tzinfo=UTC)),
        (pa.array([date(2012, 2, 29)]).cast(pa.date64()), datetime(2012, 2, 29, tzinfo=UTC)),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("s")), NOON),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), NOON),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("us")), NOON),
        (pa.array([NOON], pa.timestamp("us", "UTC")), NOON),
        (pa.array([NOON], pa.timestamp("us", "America/New_York")), NOON),
        (pa.array(["2012-02-29T12:00Z"], pa.large_string()), NOON),
        (pa.array(["2012-02-29T12:00Z"], pa.string_view()), NOON),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_typed_times(values: pa.Array, expected: datetime) -> None:
    assert cleaned_column("ordered_at", values) == [(expected, None)]


@pytest.mark.parametrize("year", [1, 1899, 1900, 2199, 2200, 9999])
def test_years_of_garbage_and_of_sentinels(year: int) -> None:
    moment = datetime(year, 6, 1, tzinfo=UTC)
    usable = schema.FIRST_YEAR <= year <= schema.LAST_YEAR
    for values in (pa.array([moment]), pa.array([moment.date()]), pa.array([moment.date().isoformat()])):
        assert cleaned_column("ordered_at", values) == [(moment, None) if usable else (None, "bad_ordered_at")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7], pa.int8()), "7"),
        (pa.array([2**64 - 1], pa.uint64()), None),
        (pa.array([0.1], pa.float64()), "0.1"),
        (pa.array([19.99], pa.float32()), "19.99"),
        (pa.array([5e-05], pa.float64()), "0.00005"),
        (pa.array([float("nan")], pa.float64()), None),
        (pa.array([float("inf")], pa.float64()), None),
        (pa.array([Decimal("12.34")], pa.decimal128(10, 2)), "12.34"),
        (pa.array([Decimal("0.0000000005")], pa.decimal128(20, 10)), "0"),
        (pa.array([Decimal("0.0000000015")], pa.decimal128(20, 10)), "0.000000002"),
        (pa.array([Decimal("999999999999999.9999999999")], pa.decimal128(38, 10)), None),
        (pa.array(["1e3"], pa.large_string()), "1000"),
    ],
    ids=lambda value: f"{value.type}-{value[0]}" if isinstance(value, pa.Array) else "",
)
def test_typed_numbers(values: pa.Array, expected: str | None) -> None:
    wanted = (None, "bad_amount") if expected is None else (Decimal(expected), None)
    assert cleaned_column("amount", values) == [wanted]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([-7], pa.int32()), ("-7", None)),
        (pa.array([2**64 - 1], pa.uint64()), (str(2**64 - 1), None)),
        (pa.array([12346.0], pa.float64()), ("12346", None)),
        (pa.array([12346.0], pa.float32()), ("12346", None)),
        (pa.array([1e6], pa.float64()), ("1000000", None)),
        (pa.array([0.5], pa.float64()), (None, "bad_customer_id")),
        (pa.array([float("nan")], pa.float64()), (None, "no_customer")),
        (pa.array(["x"], pa.large_string()), ("x", None)),
        (pa.array([" "]), (" ", None)),
    ],
    ids=lambda value: f"{value.type}-{value[0]}" if isinstance(value, pa.Array) else "",
)
def test_typed_ids(values: pa.Array, expected: tuple[str | None, str | None]) -> None:
    assert cleaned_column("customer_id", values) == [expected]


@pytest.mark.parametrize(
    "values", [pa.nulls(1), pa.array([""]), pa.array([None], pa.int64())], ids=lambda v: str(v.type)
)
def test_an_optional_column_may_hold_nothing(values: pa.Array) -> None:
    for name in ("order_id", "country"):
        assert cleaned_column(name, values) == [(None, None)]


def test_whole_numbers_are_good_order_ids() -> None:
    assert cleaned_column("order_id", pa.array([536365], pa.int64())) == [("536365", None)]
