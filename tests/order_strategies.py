"""Order lines to test with: Hypothesis strategies around one fixed cutoff, and a fixture of awkward cases.

Rows are dicts with the ten input names of the data contract (``INPUTS``). All values of a column are of
one Python type (or None), so that ``to_table`` gives the Arrow column a real source would have, and
``tests.brute_force.clean`` can be asked about the same rows.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

Row = dict[str, Any]

INPUTS = (
    "customer_id", "ordered_at", "amount", "quantity", "unit_price",
    "order_id", "item_id", "country", "channel", "category",
)  # fmt: skip

# The day after a leap day: month and year arithmetic that is not day arithmetic goes wrong here.
CUTOFF = date(2012, 3, 1)
HORIZON_DAYS = 60
HISTORY_DAYS = 400

# Days from the cutoff: both sides of every window's ends (for HORIZON_DAYS and HISTORY_DAYS), and beyond them.
DAYS = (
    -900, -731, -730, -729, -401, -400, -399, -366, -365, -364, -361, -360, -359, -306, -305, -304, -181, -180, -179,
    -91, -90, -89, -61, -60, -59, -31, -30, -29, -2, -1, 0, 1, 30, 59, 60, 61, 400,
)  # fmt: skip
TIMES = (time(), time(0, 30), time(12), time(23, 30), time(23, 59, 59, 999999))
# None is a time without zone, which means UTC.
ZONES = (None, UTC, *(timezone(timedelta(minutes=minutes)) for minutes in (60, -300, 330)))

CUSTOMERS = ("a", "B", "é", "e\u0301", "客")
ORDER_IDS = (None, None, "", "9", "10", "o", "Ø")
ITEM_IDS = (None, None, "", "i", "I", "ï")
# The last two sort one way by code points and the other way by UTF-16 units.
PLACES = (None, "", "A", "Z", "a", "ä", "\uff5e", "\U0001f600")

# At most 15 significant digits: a double holds them so exactly that its shortest text is the same number.
# More purchases than returns, or hardly a set would have a customer of the population.
_PURCHASES = ("10", "20", "30", "0.01", "10.00001", "1234.123456789", "99.99", "33.333333333", "0.000000001")
AMOUNTS = tuple(map(Decimal, (
    *_PURCHASES, *_PURCHASES, "0", "-0.01", "-10", "-10.00001", "-1234.123456789", "-0.000000001",
    "100000000000000", "-100000000000000", "99999999999999.9",
)))  # fmt: skip
UNIT_PRICES = tuple(map(Decimal, (
    "0", "0.000000001", "0.000000003", "-0.000000005", "1.25", "0.33333", "12.345678912", "99999", "-2.5",
)))  # fmt: skip
QUANTITIES = tuple(map(Decimal, ("0", "1", "2", "3", "-1", "0.5", "1.5", "12", "0.333333333", "999999")))


def _money_fields() -> st.SearchStrategy[tuple[Decimal | None, ...]]:
    """(amount, quantity, unit_price): an amount, with or without quantity; a product; or any, all and none of them."""
    none, amount, quantity, price = st.none(), *map(st.sampled_from, (AMOUNTS, QUANTITIES, UNIT_PRICES))
    only_amount = st.tuples(amount, none, none)
    any_of_them = st.tuples(none | amount, none | quantity, none | price)
    with_quantity, product = st.tuples(amount, quantity, none), st.tuples(none, quantity, price)
    return st.one_of(only_amount, only_amount, with_quantity, product, any_of_them)


def _sizes(max_size: int) -> st.SearchStrategy[int]:
    """Left to itself, Hypothesis seldom makes sets in which a customer buys twice."""
    return st.sampled_from((max_size, max_size // 2, max_size // 4, 1, 0))


@st.composite
def raw_order_rows(draw: st.DrawFn, max_size: int = 24, money: type | None = None) -> list[Row]:
    """Small sets of typed lines: one to three customers, few days, many ties, some lines twice.

    Args:
      max_size: most lines.
      money: ``Decimal`` or ``float`` for the numbers of the set; either when None.
    """
    size = draw(_sizes(max_size))
    customers = draw(st.lists(st.sampled_from(CUSTOMERS), min_size=1, max_size=3))
    days = [
        *draw(st.lists(st.sampled_from(DAYS), min_size=1, max_size=5)),
        *draw(st.lists(st.sampled_from([day for day in DAYS if -HISTORY_DAYS <= day < 0]), min_size=3, max_size=6)),
        draw(st.sampled_from([day for day in DAYS if 0 <= day < HORIZON_DAYS])),
    ]
    fields = st.tuples(
        st.sampled_from((*(customers * 6), None, "")),
        st.sampled_from(days),
        st.sampled_from(TIMES),
        st.sampled_from(ZONES),
        _money_fields(),
        *map(st.sampled_from, (ORDER_IDS, ITEM_IDS, PLACES, PLACES, PLACES)),
    )
    rows: list[Row] = []
    for customer_id, day, at, zone, numbers, *texts in draw(st.lists(fields, min_size=size, max_size=size)):
        ordered_at = datetime.combine(CUTOFF + timedelta(days=day), at, zone)
        rows.append(dict(zip(INPUTS, (customer_id, ordered_at, *numbers, *texts), strict=True)))
    if draw(st.booleans()) and rows:
        rows[-1] = dict(rows[0])
    number: type = money or draw(st.sampled_from([Decimal, float]))
    return [
        {name: number(value) if isinstance(value, Decimal) else value for name, value in row.items()} for row in rows
    ]


ODD_CUSTOMERS = ("", None, " a", "007", "7.0", "NULL", "nan", "é" * 750, "é" * 751, "x" * 1501)
GOOD_TIMES = (
    "2012-02-29", "2012-03-01", "2012-02-29 23:59:59.999999", "2012-03-01 00:00:00", "2012-03-01T00:30:00+01:00",
    "2012-02-29T23:30:00-01:00", "2012-02-29 23:30", "2012-01-31T00:00:00.5Z", "2011-03-02 00:00:00.0+00:00",
    "2011-03-01T23:59Z", "2012-04-29 23:59:59", "2012-04-30", "2009-12-31T23:45:00+05:45",
)  # fmt: skip
BAD_TIMES = (
    "2011-02-29", "2012-02-30", "2012-13-01", "2012-00-10", "2012-02-29 24:00:00", "2012-02-29 12:60", "29/02/2012",
    "2012-2-9", "2012-02-29 12:00:60", " 2012-02-29", "2012-02-29 ", "2012-02-29T", "2012-02-29\n", "20120229",
    "1330473600", "yesterday", "NaT", "2012-02-29 12:00:00+1", "2012-02-29 12:00:00 UTC", "２０１２-02-29",
)  # fmt: skip
GOOD_NUMBERS = (
    "0", "-0", "1", "+2", "-3", "10.50", ".5", "5.", "1e3", "1E-3", "-2.5e+1", "0.0000000005", "0.0000000015",
    "-0.0000000025", "0.00000000049999999999", "007", "1234.123456789", "99999.99999",
)  # fmt: skip
LARGE_FACTORS = ("9e8", "-9e8", "4e7", "99999999.5")  # usable each, the product of most pairs is not
BAD_NUMBERS = (
    "NaN", "nan", "inf", "-Infinity", "1,5", "1,000.00", "1_000", "£5", "5 ", " 5", "--1", "+", ".", "e5", "1e", "0x10",
    "1e1.5", "twelve", "\u0661", "5\n",
)  # fmt: skip


def _mostly(good: tuple[str, ...], bad: tuple[str, ...], absent: int) -> st.SearchStrategy[str | None]:
    """Eight times each good value, once each bad one, ``absent`` times null and empty text."""
    return st.sampled_from((*(good * 8), *bad, *((None, "") * absent)))


@st.composite
def mixed_text_rows(draw: st.DrawFn, max_size: int = 24) -> list[Row]:
    """Small sets of lines as a CSV gives them, every value text or None, a good part of them unusable."""
    odd = st.sampled_from(ODD_CUSTOMERS) | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5)
    customers = [draw(st.sampled_from(CUSTOMERS)), *draw(st.lists(odd, max_size=3))]
    fields = {
        "customer_id": st.sampled_from(customers),
        "ordered_at": _mostly(GOOD_TIMES, BAD_TIMES, 1),
        "amount": _mostly(GOOD_NUMBERS, (*BAD_NUMBERS, "1e15", "-1e15", "999999999999999.9", "1e20"), 80),
        "quantity": _mostly(GOOD_NUMBERS + 3 * LARGE_FACTORS, (*BAD_NUMBERS, "1e10", "-1e10", "9999999999.9"), 8),
        "unit_price": _mostly(GOOD_NUMBERS + 3 * LARGE_FACTORS, (*BAD_NUMBERS, "1e10", "-1e10", "9999999999.9"), 4),
        "order_id": st.sampled_from(ORDER_IDS),
        "item_id": st.sampled_from(ITEM_IDS),
        "country": st.sampled_from(PLACES),
        "channel": st.sampled_from(PLACES),
        "category": st.sampled_from(PLACES),
    }
    size = draw(_sizes(max_size))
    return draw(st.lists(st.fixed_dictionaries(fields), min_size=size, max_size=size))


def to_table(rows: list[Row]) -> pa.Table:
    """Rows as an Arrow table of ``INPUTS``, each column of the type its Python values have.

    ``str`` string, ``int`` int64, ``float`` float64, ``Decimal`` decimal128(38, 9), ``datetime``
    timestamp[us, UTC] (naive means UTC), ``date`` date32; columns without a value take the contract's type.

    Raises:
      ValueError: a column holds values of two types.
    """
    return pa.table({name: _column(name, [row[name] for row in rows]) for name in INPUTS})


_MONEY = pa.decimal128(38, 9)
_INSTANT = pa.timestamp("us", tz="UTC")
_ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), Decimal: _MONEY, datetime: _INSTANT, date: pa.date32(),
}  # fmt: skip
_EMPTY_TYPES = {"ordered_at": _INSTANT, "amount": _MONEY, "quantity": _MONEY, "unit_price": _MONEY}


def _column(name: str, values: list[Any]) -> pa.Array:
    types = {type(value) for value in values if value is not None}
    if len(types) > 1:
        raise ValueError(f"column {name} holds values of {sorted(t.__name__ for t in types)}, accepted is one type")
    arrow_type = _ARROW_TYPES[types.pop()] if types else _EMPTY_TYPES.get(name, pa.string())
    if arrow_type == _INSTANT:
        values = [v.replace(tzinfo=UTC) if v is not None and v.tzinfo is None else v for v in values]
    return pa.array(values, arrow_type)


def line(customer_id: Any, ordered_at: Any, amount: Any = None, **others: Any) -> Row:
    """One row with every input name; what is not given is None."""
    unknown = others.keys() - set(INPUTS)
    if unknown:
        raise ValueError(f"unknown columns {sorted(unknown)}, accepted are {INPUTS}")
    return {**dict.fromkeys(INPUTS), "customer_id": customer_id, "ordered_at": ordered_at, "amount": amount, **others}


AWKWARD_IDS = (
    "é", "e\u0301", "客\U0001f600", "O'Brien \"Bob\"", 'a,b;c\t"d"', "two\nlines", "back\\slash", " 7 ", "7", "007",
    "7.0", "NULL", "nan", "%s{0}$1", "i" * 1500, "é" * 750,
)  # fmt: skip


def awkward_orders() -> list[Row]:
    """Every case the contract names, around ``CUTOFF`` and ``HORIZON_DAYS``; all values text or None, as from a CSV."""
    twice = line("duplicates", "2012-01-05 10:00:00", "7.77", order_id="d1", item_id="x")
    return [
        # One order, one line.
        line("one-order", "2012-02-01", "10"),
        # Nobody: only returns; only totals of zero; an order taken back whole; bought after the cutoff alone.
        line("only-returns", "2012-01-10", "-5"),
        line("only-returns", "2012-02-10", "-2.5", order_id="r"),
        line("only-zero", "2012-01-10", "0"),
        line("only-zero", "2012-01-11", "-0"),
        line("taken-back", "2012-01-10", "30", order_id="t"),
        line("taken-back", "2012-01-20", "-30", order_id="t"),
        line("only-later", "2012-03-01", "10"),
        # The cutoff's midnight, the last microsecond before it, and offsets that move a line across it.
        line("midnight", "2012-02-29 23:59:59.999999", "1", order_id="m1"),
        line("midnight", "2012-03-01 00:00:00", "2", order_id="m2"),
        line("midnight", "2012-03-01T00:30:00+01:00", "4", order_id="m3"),
        line("midnight", "2012-02-29T23:30:00-01:00", "8", order_id="m4"),
        line("midnight", "2012-02-29 23:30", "16", order_id="m5"),
        # The label window's last instant, and the first after it.
        line("midnight", "2012-04-29 23:59:59.999999", "32"),
        line("midnight", "2012-04-30", "64"),
        # Equal times: first and last order are told apart by the order key, compared as text ("10" < "9").
        line("equal-times", "2012-01-15 12:00:00", "3", order_id="9"),
        line("equal-times", "2012-01-15T12:00:00Z", "5", order_id="10"),
        line("equal-times", "2012-01-15 12:00:00.000000", "7"),
        # A return on the same day under its own order id, and one that reaches back into an older order.
        line("same-day-return", "2012-01-20 09:00:00", "50", order_id="s1", quantity="2"),
        line("same-day-return", "2012-01-20 17:00:00", "-20", order_id="s2", quantity="-1"),
        line("same-day-return", "2012-02-20 17:00:00", "-10", order_id="s1", quantity="-1"),
        # Without order id a day is one order, whatever the zone the line was written in.
        line("same-day", "2012-01-20 00:10:00", "5"),
        line("same-day", "2012-01-20T23:50:00", "6"),
        line("same-day", "2012-01-21T00:50:00+01:00", "7"),
        # Orders astride the cutoff: worth 20 before it; worth less than nothing before it.
        line("astride", "2012-02-29 22:00:00", "20", order_id="x"),
        line("astride", "2012-03-01 22:00:00", "-5", order_id="x"),
        line("astride-negative", "2012-02-28", "-20", order_id="y"),
        line("astride-negative", "2012-03-02", "50", order_id="y"),
        # Far past: a year-ago window that is there, and one that begins a day too early for the history.
        line("year-ago", "2011-03-02", "11"),
        line("year-ago", "2011-04-30 23:59:59", "13"),
        line("year-ago", "2011-05-01", "17"),
        line("year-ago", "2010-03-02", "19"),
        line("year-ago", "2010-03-01 23:59:59", "23"),
        line("just-a-year", "2011-03-02", "11"),
        line("almost-a-year", "2011-03-03", "11"),
        # Labels: returns above purchases are floored; a day that nets to nothing is no order day.
        line("future-return", "2012-02-01", "9"),
        line("future-return", "2012-03-05 08:00:00", "10"),
        line("future-return", "2012-03-05 20:00:00", "-10"),
        line("future-return", "2012-03-06", "-3"),
        # Two equal lines are two lines.
        twice,
        dict(twice),
        # Ties of categories: by code points; UTF-16 or a locale would choose otherwise. Empty is null.
        line("ties", "2012-01-01", "1", category="b", country="\U0001f600", channel=""),
        line("ties", "2012-01-02", "1", category="B", country="\uff5e", channel=""),
        line("ties", "2012-01-03", "1", category="", country="", channel="web"),
        line("ties", "2012-01-04", "-1", category="ä", country=None, channel=None),
        # The amount given wins over a contradicting product, even over a price that is none.
        line("contradiction", "2012-01-08", "10", quantity="3", unit_price="99"),
        line("contradiction", "2012-01-09", "10", quantity="2.5", unit_price="NaN"),
        # Half-even at the tenth decimal, of amounts and of products.
        line("ties-of-rounding", "2012-01-01", "0.0000000005", order_id="h0"),
        line("ties-of-rounding", "2012-01-02", "0.0000000015", order_id="h1"),
        line("ties-of-rounding", "2012-01-03", "-0.0000000025", order_id="h2"),
        line("ties-of-rounding", "2012-01-04", None, order_id="h3", quantity="0.5", unit_price="0.000000005"),
        line("ties-of-rounding", "2012-01-05", None, order_id="h4", quantity="1.5", unit_price="0.000000001"),
        # As large as a line may be.
        line("large", "2012-01-01", "999999999999999.999999999", order_id="l1"),
        line("large", "2012-01-02", "-999999999999999.999999999", order_id="l2"),
        line("large", "2012-01-03", None, order_id="l3", quantity="9999999999.999999999", unit_price="0.000000001"),
        # Ids: text is kept as it is, and ids that look alike stay apart.
        *(line(customer_id, "2012-02-02", str(value)) for value, customer_id in enumerate(AWKWARD_IDS, start=1)),
        # No customer goes before every other reason.
        line(None, "2012-02-02", "1"),
        line("", "not a date", "not a number"),
        # Dead letters, each reason, and the precedence among them.
        line("i" * 1501, "2012-02-02", "1"),
        line("i" * 2000, "not a date", "not a number"),
        line("é" * 751, "2012-02-02", "1"),
        line("dead", None, "1"),
        line("dead", "", "NaN"),
        line("dead", "2011-02-29", "1"),
        line("dead", "2012-02-29 24:00:00", "1"),
        line("dead", "29.02.2012", "1"),
        line("dead", "2012-02-02", "NaN"),
        line("dead", "2012-02-02", "-inf", quantity="many"),
        line("dead", "2012-02-02", "1,5"),
        line("dead", "2012-02-02", "1", quantity="many"),
        line("dead", "2012-02-02", None, quantity="1e10", unit_price="1"),
        line("dead", "2012-02-02", None, quantity="1", unit_price="inf"),
        line("dead", "2012-02-02", None, quantity=None, unit_price="free"),
        line("dead", "2012-02-02", None, quantity="1", unit_price="-1e10"),
        line("dead", "2012-02-02", None, quantity="1"),
        line("dead", "2012-02-02", "", unit_price="1"),
        line("dead", "2012-02-02", None),
        line("dead", "2012-02-02", "1e15"),
        line("dead", "2012-02-02", None, quantity="-1e9", unit_price="1e6"),
    ]


def awkward_floats() -> list[Row]:
    """What pandas makes of ids and numbers with gaps: float columns, NaN and infinities; times are ``datetime``."""
    day = datetime(2012, 2, 2, 12)
    return [
        line(12346.0, day, 0.1),
        line(12346.0, day, 0.2),
        line(-7.0, day, 5e-05),
        line(9007199254740991.0, day, None, quantity=3.0, unit_price=0.1),
        line(0.5, day, 1.0),
        line(math.inf, day, 1.0),
        line(math.nan, day, 1.0),
        line(None, day, 1.0),
        line(1.0, day, math.nan),
        line(1.0, day, -math.inf),
        line(1.0, day, 1.0, quantity=math.nan),
        line(1.0, day, None, quantity=1.0, unit_price=math.nan),
        line(1.0, None, 1.0),
    ]
