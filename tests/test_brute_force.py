"""The second implementation, so that it may be trusted: numbers worked out by hand, and what must not matter."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force
from tests.order_strategies import (
    AWKWARD_IDS,
    CUTOFF,
    HISTORY_DAYS,
    HORIZON_DAYS,
    Row,
    awkward_floats,
    awkward_orders,
    line,
    mixed_text_rows,
    raw_order_rows,
    to_table,
)
from transforms import schema

D = Decimal
LABELS = tuple(schema.names(schema.LABELS))
histories = st.sampled_from((None, HISTORY_DAYS, 365, 30))
horizons = st.sampled_from((1, 30, HORIZON_DAYS, 365, 400))


def cleaned(rows: list[Row]) -> list[Row]:
    orders, rejected = brute_force.clean(rows)
    assert not rejected
    return orders


def features(rows: list[Row], **options: Any) -> dict[str, Row]:
    return brute_force.customer_features(cleaned(rows), CUTOFF, HORIZON_DAYS, **options)


ANN = [
    # 740 days before the cutoff.
    line("ann", "2010-02-20 10:00", None, quantity="2", unit_price="6.50", order_id="o1", item_id="i1", country="UK"),
    # 365 days before; two lines of one day are one order of 27.
    line("ann", "2011-03-02 09:00", "12", item_id="i1", country="UK", channel="web"),
    line("ann", "2011-03-02 18:00", "15", item_id="i2", country="FR", channel="shop"),
    # 82 days before; its return, 15 days before, belongs to it: 40 - 21 = 19.
    line("ann", "2011-12-10 12:00", "40", quantity="4", order_id="o2", item_id="i3"),
    line("ann", "2012-02-15 12:00", "-21", quantity="-1.5", order_id="o2", item_id="i3"),
    # 10 days before: a return of no order.
    line("ann", "2012-02-20 12:00", "-5", item_id="i4", category="toys"),
    # The last half hour before the cutoff; the order goes on after it, where only the label sees it.
    line("ann", "2012-02-29 23:30", "21", order_id="o3", country="FR"),
    line("ann", "2012-03-01 00:00", "7.5", order_id="o3", item_id="i5", country="FR"),
    line("ann", "2012-03-10", "-2"),
    # The last day of the horizon, and the first after it.
    line("ann", "2012-04-29 23:59:59", "4"),
    line("ann", "2012-04-30", "1000"),
]


def test_a_customer_worked_out_by_hand() -> None:
    assert features(ANN)["ann"] == {
        "customer_id": "ann",
        "lines": 7,
        "orders": 4,
        "order_days": 4,
        "frequency": 3,
        "recency_days": 739,
        "age_days": 740,
        "days_since_last": 1,
        "value_total": D(75),
        "order_value_total": D(80),
        "order_value_mean": 20.0,
        # Orders of 13, 27, 19 and 21: deviations -7, 7, -1, 1, their mean square 25.
        "order_value_std": 5.0,
        "order_value_max": D(27),
        "order_value_first": D(13),
        "order_value_last": D(21),
        # 2, then 1 + 1, then 4 - 1.5, then 1: 7.5 units in 4 orders.
        "basket_size_mean": 1.875,
        "gap_days_mean": 739 / 3,
        # Gaps of 375, 283 and 81: 3 * 227,275 - 739^2 = 135,704.
        "gap_days_std": math.sqrt(135704) / 3,
        "value_30d": D(-5),
        "orders_30d": 1,
        "value_trend_30d": D(-5),
        "orders_trend_30d": 1,
        "value_90d": D(35),
        "orders_90d": 2,
        "value_trend_90d": D(35),
        "orders_trend_90d": 2,
        "value_180d": D(35),
        "orders_180d": 2,
        "value_trend_180d": D(35),
        "orders_trend_180d": 2,
        "value_365d": D(62),
        "orders_365d": 3,
        "value_trend_365d": D(62),
        "orders_trend_365d": 3,
        "value_year_ago": D(27),
        "orders_year_ago": 1,
        "return_lines": 2,
        "return_value": D(26),
        "return_share": 26 / 101,
        "distinct_items": 4,
        # Two UK, two FR.
        "country": "FR",
        "channel": "shop",
        "category": "toys",
        "future_value": D("9.5"),
        "future_orders": 2,
        # MD5("ann") begins with 7e0d.
        "split": "train",
    }
    assert brute_force.line_audit(cleaned(ANN), CUTOFF, HORIZON_DAYS) == {
        "used": 10,
        "excluded": {"before_history": 0, "after_window": 1, "no_order_before_cutoff": 0},
    }


BOB = [
    line("bob", "2011-12-01 05:00", "1", order_id="u"),  # C-91
    line("bob", "2011-12-02 05:00", "6", order_id="v"),  # C-90
    line("bob", "2011-12-31 05:00", "4", order_id="r"),  # C-61
    line("bob", "2012-01-01 05:00", "2", order_id="q"),  # C-60
    line("bob", "2012-01-30 05:00", "8", order_id="p"),  # C-31
    line("bob", "2012-02-10 05:00", "3", order_id="9"),  # C-20, twice at once
    line("bob", "2012-02-10 05:00", "5", order_id="10"),
]


def test_windows_are_half_open_on_both_sides() -> None:
    bob = features(BOB)["bob"]
    assert [bob[f"value_{days}d"] for days in (30, 90, 180, 365)] == [8, 28, 29, 29]
    assert [bob[f"orders_{days}d"] for days in (30, 90, 180, 365)] == [2, 6, 7, 7]
    assert [bob[f"value_trend_{days}d"] for days in (30, 90, 180, 365)] == [-2, 27, 29, 29]
    assert [bob[f"orders_trend_{days}d"] for days in (30, 90, 180, 365)] == [0, 5, 7, 7]
    assert bob["age_days"] == 91
    assert bob["value_year_ago"] is None and bob["orders_year_ago"] is None


def test_equal_times_are_told_apart_by_the_order_key_as_text() -> None:
    assert features(BOB)["bob"]["order_value_last"] == 3
    assert features(BOB[-2:])["bob"]["order_value_first"] == 5


def test_the_history_hides_lines_from_features_orders_and_population() -> None:
    bob = features(BOB, history_days=60)["bob"]
    assert (bob["lines"], bob["value_total"], bob["age_days"], bob["value_trend_90d"]) == (4, 18, 60, 18)
    assert brute_force.line_audit(cleaned(BOB), CUTOFF, HORIZON_DAYS, 60)["excluded"]["before_history"] == 3
    # One order of -30 altogether, of 20 within the history.
    dee = [line("dee", "2011-12-01", "-50", order_id="z"), line("dee", "2012-02-01", "20", order_id="z")]
    assert features(dee) == {}
    assert features(dee, history_days=60)["dee"]["order_value_total"] == 20


def test_a_prediction_has_no_labels_and_does_not_use_the_lines_of_the_horizon() -> None:
    ann = features(ANN, labels=False)["ann"]
    assert ann["future_value"] is None and ann["future_orders"] is None
    assert brute_force.line_audit(cleaned(ANN), CUTOFF, HORIZON_DAYS, labels=False) == {
        "used": 7,
        "excluded": {"before_history": 0, "after_window": 4, "no_order_before_cutoff": 0},
    }


@pytest.mark.parametrize(("horizon_days", "value", "orders"), [(1, 12, 1), (60, 25, 2), (61, 42, 3), (500, 42, 3)])
def test_the_year_ago_window_is_as_long_as_the_horizon_and_ends_at_the_cutoff(
    horizon_days: int, value: int, orders: int
) -> None:
    rows = [
        line("a", "2011-03-01", "5"),
        line("a", "2011-03-02", "12"),
        line("a", "2011-04-30", "13"),
        line("a", "2011-05-01", "17"),
        line("a", "2012-03-01", "99"),
    ]
    row = brute_force.customer_features(cleaned(rows), CUTOFF, horizon_days)["a"]
    assert (row["value_year_ago"], row["orders_year_ago"]) == (value, orders)


@pytest.mark.parametrize(
    ("customer_id", "split"),
    # MD5 begins with cccc, cccd, e665, e666.
    [("57276", "train"), ("87925", "validation"), ("170370", "validation"), ("232546", "test")],
)
def test_splits_at_their_bounds(customer_id: str, split: str) -> None:
    assert brute_force.split_of(customer_id) == split


def test_the_awkward_orders_worked_out_by_hand() -> None:
    orders, rejected = brute_force.clean(awkward_orders())
    assert Counter(reason for reason, _ in rejected) == {
        "no_customer": 2,
        "customer_id_too_long": 3,
        "bad_ordered_at": 5,
        "bad_amount": 4,
        "bad_quantity": 2,
        "bad_unit_price": 3,
        "missing_amount": 3,
        "amount_out_of_range": 1,
    }
    rows = brute_force.customer_features(orders, CUTOFF, HORIZON_DAYS)

    def values(*columns: str) -> dict[str, tuple[Any, ...]]:
        return {customer: tuple(row[column] for column in columns) for customer, row in rows.items()}

    nobody = {"only-returns", "only-zero", "taken-back", "only-later", "astride-negative"}
    assert not nobody & rows.keys()
    assert len(rows) == 15 + 16
    # lines, order_value_total, order_value_first, order_value_last, future_value, future_orders
    summary = values(
        "lines", "order_value_total", "order_value_first", "order_value_last", "future_value", "future_orders"
    )
    assert {customer: summary[customer] for customer in list(rows)[:15]} == {
        "one-order": (1, 10, 10, 10, 0, 0),
        # The offset's line and the one at 23:30 are at one instant, and "m3" < "m5".
        "midnight": (3, 21, 4, 1, 42, 2),
        "equal-times": (3, 15, 7, 3, 0, 0),
        # 50 - 10 = 40 on the first day; -20 of the second order id is no order.
        "same-day-return": (3, 40, 40, 40, 0, 0),
        "same-day": (3, 18, 18, 18, 0, 0),
        "astride": (1, 20, 20, 20, 0, 0),
        "year-ago": (5, 83, 23, 17, 0, 0),
        "just-a-year": (1, 11, 11, 11, 0, 0),
        "almost-a-year": (1, 11, 11, 11, 0, 0),
        "future-return": (1, 9, 9, 9, 0, 0),
        "duplicates": (2, D("15.54"), D("15.54"), D("15.54"), 0, 0),
        "ties": (4, 3, 1, 1, 0, 0),
        "contradiction": (2, 20, 10, 10, 0, 0),
        "ties-of-rounding": (5, D("6e-9"), D("2e-9"), D("2e-9"), 0, 0),
        "large": (3, D("1000000000000009.999999999"), D("999999999999999.999999999"), 10, 0, 0),
    }
    assert values("country", "channel", "category")["ties"] == ("\uff5e", "web", "B")
    assert values("value_year_ago", "orders_year_ago", "value_trend_365d")["year-ago"] == (24, 2, 41 - 19)
    assert values("value_year_ago", "age_days")["just-a-year"] == (11, 365)
    assert values("value_year_ago", "age_days")["almost-a-year"] == (None, 364)
    assert values("basket_size_mean", "return_share")["same-day-return"] == (1.0, 0.6)
    assert values("order_value_std", "value_total", "return_lines")["ties-of-rounding"] == (0.0, D("4e-9"), 1)
    assert values("value_total")["large"] == (10,)
    assert [row["value_total"] for row in list(rows.values())[15:]] == list(range(1, 17))
    assert tuple(rows)[15:] == AWKWARD_IDS
    audit = brute_force.line_audit(orders, CUTOFF, HORIZON_DAYS)
    assert audit == {
        "used": 71 - 10,
        "excluded": {"before_history": 0, "after_window": 1, "no_order_before_cutoff": 9},
    }


def test_float_columns_with_gaps() -> None:
    orders, rejected = brute_force.clean(awkward_floats())
    assert [(order["customer_id"], order["amount"]) for order in orders] == [
        ("12346", D("0.1")),
        ("12346", D("0.2")),
        ("-7", D("0.00005")),
        ("9007199254740991", D("0.3")),
    ]
    assert [reason for reason, _ in rejected] == [
        "bad_customer_id", "bad_customer_id", "no_customer", "no_customer",
        "bad_amount", "bad_amount", "bad_quantity", "bad_unit_price", "bad_ordered_at",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        ("2011-08-08", datetime(2011, 8, 8, tzinfo=UTC)),
        ("2011-08-08 23:30:00", datetime(2011, 8, 8, 23, 30, tzinfo=UTC)),
        ("2011-08-08T23:30:00.5+01:00", datetime(2011, 8, 8, 22, 30, 0, 500000, UTC)),
        ("2011-08-08T00:10-05:30", datetime(2011, 8, 8, 5, 40, tzinfo=UTC)),
        ("2012-02-29T12:00:00.000001Z", datetime(2012, 2, 29, 12, 0, 0, 1, UTC)),
        (date(2011, 8, 8), datetime(2011, 8, 8, tzinfo=UTC)),
        (datetime(2011, 8, 8, 1), datetime(2011, 8, 8, 1, tzinfo=UTC)),
        (datetime(2011, 8, 8, 1, tzinfo=timezone(timedelta(hours=2))), datetime(2011, 8, 7, 23, tzinfo=UTC)),
    ],
)
def test_times(given_time: Any, expected: datetime) -> None:
    (order,) = cleaned([line("a", given_time, "1")])
    assert order["ordered_at"] == expected
    assert order["ordered_at"].utcoffset() == timedelta(0)
    assert order["order_day"] == expected.date()


@pytest.mark.parametrize(
    "given_time",
    ["2011-02-29", "2011-08-08 24:00", "2011-08-08Z", "2011-08-08 ", "2011-08-08\n", "8/8/2011", "2011-08-08 1:00",
     "2011-08-08 10:00+24:00", "2011-08-08 10:00+01:60", "0001-01-01 00:00+01:00", "", None, 1312761600, 1.5, True],
)  # fmt: skip
def test_times_that_are_none(given_time: Any) -> None:
    assert brute_force.clean([line("a", given_time, "1")])[1][0][0] == "bad_ordered_at"


@pytest.mark.parametrize(
    ("given_amount", "expected"),
    [
        ("-12.34", "-12.34"), ("1e3", "1000"), (".5", "0.5"), ("5.", "5"), ("+007", "7"), (12, "12"), (0.1, "0.1"),
        (2.675, "2.675"), (1e-9, "0.000000001"), (D("1.0000000025"), "1.000000002"), ("1.0000000035", "1.000000004"),
        ("0.0000000005", "0"), ("0.00000000050000000001", "0.000000001"), ("1e-99999999999999999999", "0"),
        ("999999999999999.9999999994", "999999999999999.999999999"),
    ],
)  # fmt: skip
def test_amounts(given_amount: Any, expected: str) -> None:
    (order,) = cleaned([line("a", "2012-02-01", given_amount)])
    assert order["amount"].as_tuple() == D(expected).quantize(D("1e-9")).as_tuple()


@pytest.mark.parametrize(
    ("reason", "values"),
    [
        ("bad_amount", ("NaN", "inf", "1,5", " 5", "5\n", "1_000", "\u0661", ".", math.nan, -math.inf, D("NaN"), True)),
        ("bad_amount", ("1e15", "-1e15", 10**15, 1e300, "999999999999999.9999999996", "1e999999999999999999")),
    ],
)  # fmt: skip
def test_amounts_that_are_none(reason: str, values: tuple[Any, ...]) -> None:
    _, rejected = brute_force.clean([line("a", "2012-02-01", value) for value in values])
    assert [found for found, _ in rejected] == [reason] * len(values)


def test_a_price_is_not_looked_at_beside_an_amount_but_a_quantity_is() -> None:
    (order,) = cleaned([line("a", "2012-02-01", "1", quantity="3", unit_price="free")])
    assert (order["amount"], order["quantity"]) == (1, 3)
    assert brute_force.clean([line("a", "2012-02-01", "1", quantity="few")])[1][0][0] == "bad_quantity"


# --- What must not matter ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rows=raw_order_rows() | mixed_text_rows(), seed=st.integers(0, 99), history_days=histories, horizon_days=horizons
)
def test_the_order_of_lines_changes_nothing(
    rows: list[Row], seed: int, history_days: int | None, horizon_days: int
) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    (orders, rejected), (other_orders, other_rejected) = brute_force.clean(rows), brute_force.clean(shuffled)
    assert Counter(reason for reason, _ in rejected) == Counter(reason for reason, _ in other_rejected)
    arguments = (CUTOFF, horizon_days, history_days)
    assert brute_force.customer_features(orders, *arguments) == brute_force.customer_features(other_orders, *arguments)
    assert brute_force.line_audit(orders, *arguments) == brute_force.line_audit(other_orders, *arguments)


def without(columns: tuple[str, ...], rows: dict[str, Row]) -> dict[str, Row]:
    return {customer: {k: v for k, v in row.items() if k not in columns} for customer, row in rows.items()}


@settings(max_examples=60, deadline=None)
@given(rows=raw_order_rows(), others=raw_order_rows(), history_days=histories, horizon_days=horizons)
def test_lines_at_or_after_the_cutoff_change_no_feature(
    rows: list[Row], others: list[Row], history_days: int | None, horizon_days: int
) -> None:
    orders = brute_force.clean(rows)[0]
    later = [order for order in brute_force.clean(others)[0] if order["order_day"] >= CUTOFF]
    arguments = (CUTOFF, horizon_days, history_days)
    before = brute_force.customer_features(orders, *arguments)
    after = brute_force.customer_features(orders + later, *arguments)
    assert without(LABELS, before) == without(LABELS, after)


@settings(max_examples=60, deadline=None)
@given(rows=raw_order_rows(), others=raw_order_rows(), horizon_days=horizons)
def test_lines_outside_the_horizon_change_no_label(rows: list[Row], others: list[Row], horizon_days: int) -> None:
    orders = brute_force.clean(rows)[0]
    end = CUTOFF + timedelta(days=horizon_days)
    outside = [order for order in brute_force.clean(others)[0] if not CUTOFF <= order["order_day"] < end]
    before = brute_force.customer_features(orders, CUTOFF, horizon_days)
    after = brute_force.customer_features(orders + outside, CUTOFF, horizon_days)
    # Earlier lines may well bring a customer into the population or out of it.
    for customer in before.keys() & after.keys():
        assert [before[customer][name] for name in LABELS] == [after[customer][name] for name in LABELS]


@settings(max_examples=60, deadline=None)
@given(rows=raw_order_rows() | mixed_text_rows(), history_days=histories, horizon_days=horizons, labels=st.booleans())
def test_every_line_is_accounted_for(
    rows: list[Row], history_days: int | None, horizon_days: int, labels: bool
) -> None:
    orders, rejected = brute_force.clean(rows)
    assert len(orders) + len(rejected) == len(rows)
    audit = brute_force.line_audit(orders, CUTOFF, horizon_days, history_days, labels)
    assert audit["used"] + sum(audit["excluded"].values()) == len(orders)
    population = brute_force.customer_features(orders, CUTOFF, horizon_days, history_days, labels)
    future = CUTOFF + timedelta(days=horizon_days)
    in_horizon = sum(CUTOFF <= o["order_day"] < future and o["customer_id"] in population for o in orders)
    assert audit["used"] == sum(row["lines"] for row in population.values()) + (in_horizon if labels else 0)


@settings(max_examples=60, deadline=None)
@given(rows=raw_order_rows(), history_days=histories, horizon_days=horizons)
def test_columns_agree_with_each_other(rows: list[Row], history_days: int | None, horizon_days: int) -> None:
    orders = brute_force.clean(rows)[0]
    columns = schema.by_name(schema.CUSTOMERS)
    for row in brute_force.customer_features(orders, CUTOFF, horizon_days, history_days).values():
        assert list(row) == list(columns)
        assert all(columns[name].nullable for name, value in row.items() if value is None)
        assert row["recency_days"] + row["days_since_last"] == row["age_days"]
        assert 1 <= row["order_days"] <= row["orders"] <= row["lines"]
        assert 0 < row["order_value_max"] <= row["order_value_total"]
        assert (row["gap_days_mean"] is None) == (row["order_days"] < 2)
        assert (row["value_year_ago"] is None) == (row["age_days"] < 365)
        if horizon_days >= 365 and row["value_year_ago"] is not None:
            assert row["value_year_ago"] == row["value_365d"]
        assert row["future_value"] >= 0 and row["return_value"] >= 0
        assert (row["return_lines"] == 0) == (row["return_value"] == 0) == (row["return_share"] == 0)


# --- The judge, and the strategies ---------------------------------------------------------------------------------


def customers_table(rows: dict[str, Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows.values()), schema=schema.arrow_schema(schema.CUSTOMERS))


def test_the_judge_accepts_what_is_equal_up_to_float_rounding() -> None:
    rows = features(ANN + BOB)
    brute_force.assert_equal(rows, customers_table(rows))
    near = {c: {k: v * (1 + 5e-10) if isinstance(v, float) else v for k, v in row.items()} for c, row in rows.items()}
    brute_force.assert_equal(rows, customers_table(near))


def test_the_judge_accepts_dust_of_the_deviation_only() -> None:
    equal_orders = features([line("a", "2012-01-01", "10"), line("a", "2012-01-02", "10")])
    assert equal_orders["a"]["order_value_std"] == 0.0 and equal_orders["a"]["gap_days_std"] == 0.0
    dust = {"a": {**equal_orders["a"], "order_value_std": 5e-9}}
    brute_force.assert_equal(equal_orders, customers_table(dust))
    for column, value in (("order_value_std", 5e-8), ("gap_days_std", 5e-9)):
        with pytest.raises(AssertionError, match=f"'a', column {column}"):
            brute_force.assert_equal(equal_orders, customers_table({"a": {**equal_orders["a"], column: value}}))


@pytest.mark.parametrize("column", schema.names(schema.CUSTOMERS)[1:])
def test_the_judge_notices_every_column(column: str) -> None:
    rows = features(ANN)
    value = rows["ann"][column]
    by_a_little = {int: lambda v: v + 1, float: lambda v: v * (1 + 1e-8), str: lambda v: v + " "}
    wrong = by_a_little.get(type(value), lambda v: v + D("1e-9"))(value)
    for found in (wrong, None):
        with pytest.raises(AssertionError, match=f"customer 'ann', column {column}: expected"):
            brute_force.assert_equal(rows, customers_table({"ann": {**rows["ann"], column: found}}))


def test_the_judge_notices_customers() -> None:
    both = features(ANN + BOB)
    ann = {"ann": both["ann"]}
    with pytest.raises(AssertionError, match="without a row: 'bob'"):
        brute_force.assert_equal(both, customers_table(ann))
    with pytest.raises(AssertionError, match="should have no row: 'bob'"):
        brute_force.assert_equal(ann, customers_table(both))
    with pytest.raises(AssertionError, match="more than one row: 'ann'"):
        brute_force.assert_equal(ann, pa.concat_tables([customers_table(ann)] * 2))
    with pytest.raises(AssertionError, match=r"lacks the columns \['lines'\]"):
        brute_force.assert_equal(ann, customers_table(ann).drop_columns(["lines"]))


@settings(max_examples=40, deadline=None)
@given(rows=raw_order_rows() | mixed_text_rows())
def test_an_arrow_table_holds_the_same_lines(rows: list[Row]) -> None:
    again = to_table(rows).to_pylist()
    assert brute_force.clean(again)[0] == brute_force.clean(rows)[0]


@settings(max_examples=40, deadline=None)
@given(rows=raw_order_rows(money=Decimal))
def test_money_as_floats_is_the_same_money(rows: list[Row]) -> None:
    as_floats = [{k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in rows]
    assert brute_force.clean(as_floats)[0] == brute_force.clean(rows)[0]


def test_tables_are_typed_as_sources_type_them() -> None:
    table = to_table(awkward_floats())
    assert (table.schema.field("customer_id").type, table.schema.field("amount").type) == (pa.float64(), pa.float64())
    assert set(to_table(awkward_orders()).schema.types) == {pa.string()}
    with pytest.raises(ValueError, match="amount holds values of"):
        to_table([line("a", "2012-01-01", 1), line("a", "2012-01-01", 1.5)])


def test_the_strategies_reach_every_case() -> None:
    seen: Counter[str] = Counter()

    def collect(rows: list[Row]) -> None:
        orders, rejected = brute_force.clean(rows)
        seen.update(reason for reason, _ in rejected)
        seen.update(brute_force.line_audit(orders, CUTOFF, HORIZON_DAYS, HISTORY_DAYS)["excluded"])
        for row in brute_force.customer_features(orders, CUTOFF, HORIZON_DAYS, HISTORY_DAYS).values():
            seen["repeat order day"] += row["frequency"] > 0
            seen["label"] += row["future_value"] > 0
            seen["return"] += row["return_lines"] > 0
            seen["year ago"] += row["orders_year_ago"] not in (None, 0)
            seen["two orders a day"] += row["orders"] > row["order_days"]

    for strategy in (raw_order_rows(), mixed_text_rows()):
        settings(max_examples=250, deadline=None, derandomize=True, database=None)(given(strategy)(collect))()
    # A customer id of text is never bad, and a line that is a dict has its fields.
    cases = {rule.name for rule in (*schema.EXCLUDED, *schema.DEAD_LETTERS)} - {"malformed_line", "bad_customer_id"}
    cases |= {"repeat order day", "label", "return", "year ago", "two orders a day"}
    assert not {case: seen[case] for case in cases if seen[case] < 3}, seen
