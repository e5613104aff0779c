"""The second implementation: plain Python, line by line, written from docs/data_contract.md alone.

Slow and obvious on purpose. It shares nothing with the expression it judges but the column list of
``transforms/schema.py``: no Arrow, no SQL, exact ``Decimal`` and ``Fraction`` instead of float sums.

Where the contract leaves room, the reading taken here is marked "Reading:".
"""

from __future__ import annotations

import decimal
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from transforms import schema

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

NINE_DECIMALS = Decimal("0.000000001")
ZERO = Decimal(0)
# Wide enough that no sum or product of admissible numbers is ever rounded by Python itself.
EXACT = decimal.Context(
    prec=200,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=decimal.MIN_EMIN,
    Emax=decimal.MAX_EMAX,
    traps=[decimal.InvalidOperation],
)

_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE]([+-]?[0-9]+))?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?)?"
)
# Reading: exponents may have any number of digits; Decimal's may not. Beyond this the value is 0 or far out of range.
_EXPONENT_LIMIT = 10**9


class Unusable(Exception):
    """A raw line that is not used; the first argument is the reason's name in the contract."""


# --- Lines ---------------------------------------------------------------------------------------------------------


def clean(rows: Iterable[Row]) -> tuple[list[Row], list[tuple[str, Row]]]:
    """Splits raw lines into usable order lines and the rest.

    Args:
      rows: lines with the contract's input names (``customer_id, ordered_at, amount, quantity,
        unit_price, order_id, item_id, country, channel, category``; a missing name counts as null);
        values are text, int, float, ``Decimal``, ``datetime`` (naive means UTC), ``date`` or None.

    Returns:
      Lines with the columns of ``schema.ORDERS``, in the order given; and the other lines as they
      came, each after its reason: ``no_customer`` or one of ``schema.DEAD_LETTERS``.
    """
    orders: list[Row] = []
    rejected: list[tuple[str, Row]] = []
    for row in rows:
        try:
            orders.append(clean_line(row))
        except Unusable as unusable:
            rejected.append((str(unusable), row))
    return orders, rejected


def clean_line(row: Row) -> Row:
    """One usable order line with the columns of ``schema.ORDERS``. The checks stand in the contract's precedence.

    Raises:
      Unusable: with the first reason that applies.
    """
    customer_id = _customer_id(_given(row, "customer_id"))
    ordered_at = _time(_given(row, "ordered_at"))
    amount = _number(_given(row, "amount"), "bad_amount", schema.MONEY_LIMIT)
    quantity = _number(_given(row, "quantity"), "bad_quantity", schema.FACTOR_LIMIT)
    if amount is None:
        unit_price = _number(_given(row, "unit_price"), "bad_unit_price", schema.FACTOR_LIMIT)
        if quantity is None or unit_price is None:
            raise Unusable("missing_amount")
        amount = _rounded(EXACT.multiply(quantity, unit_price))
    if EXACT.abs(amount) >= schema.MONEY_LIMIT:
        raise Unusable("amount_out_of_range")
    return {
        "customer_id": customer_id,
        "ordered_at": ordered_at,
        "order_day": ordered_at.date(),
        "amount": amount,
        "quantity": quantity,
        **{name: _text(_given(row, name)) for name in ("order_id", "item_id", "country", "channel", "category")},
    }


def _given(row: Row, name: str) -> Any:
    value = row.get(name)
    return None if value == "" else value


def _text(value: Any) -> str | None:
    """Text as it is, a whole number without '.0', NaN as null. Reading: what the contract says of customer_id."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        if math.isfinite(value) and value == int(value):
            return str(int(value))
    return str(value)


def _customer_id(value: Any) -> str:
    text = _text(value)
    if text is None:
        raise Unusable("no_customer")
    whole = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and text.lstrip("-").isdigit()
    if not (isinstance(value, str) or whole):
        raise Unusable("bad_customer_id")
    if len(text.encode()) > schema.CUSTOMER_ID_MAX_BYTES:
        raise Unusable("customer_id_too_long")
    return text


def _time(value: Any) -> datetime:
    try:
        instant = _instant(value)
    except (ValueError, OverflowError):
        raise Unusable("bad_ordered_at") from None
    if not schema.FIRST_YEAR <= instant.year <= schema.LAST_YEAR:
        raise Unusable("bad_ordered_at")
    return instant


def _instant(value: Any) -> datetime:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    if isinstance(value, str):
        return _parsed_time(value)
    raise ValueError(value)


def _parsed_time(text: str) -> datetime:
    """Raises ValueError or OverflowError for anything but a real time of the calendar."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    microsecond = int((match[7] or "").ljust(6, "0"))
    local = datetime(year, month, day, hour, minute, second, microsecond, UTC)
    if match[9] is None:
        return local
    ahead = time(int(match[10]), int(match[11]))  # refuses minutes above 59
    offset = timedelta(hours=ahead.hour, minutes=ahead.minute)
    if offset > timedelta(hours=14):
        raise ValueError(text)
    return local.replace(tzinfo=timezone(offset if match[9] == "+" else -offset)).astimezone(UTC)


def _number(value: Any, reason: str, limit: int | None = None) -> Decimal | None:
    """A number rounded half-even to 9 decimals, or None where there is none.

    Raises:
      Unusable: with ``reason`` when it is not a finite number, or (rounded) not below the limit in size.
    """
    if value is None:
        return None
    exact = _exact_number(value)
    if exact is None:
        raise Unusable(reason)
    rounded = _rounded(exact)
    if limit is not None and EXACT.abs(rounded) >= limit:
        raise Unusable(reason)
    return rounded


def _exact_number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is None:
            return None
        exponent = max(-_EXPONENT_LIMIT, min(_EXPONENT_LIMIT, int(match[2] or 0)))
        return Decimal(f"{match[1]}e{exponent}")
    # A float is the number a person would have written: its shortest text, not its binary expansion.
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return number if number.is_finite() else None


def _rounded(number: Decimal) -> Decimal:
    """Half-even to 9 decimals; numbers of 30 digits and more, out of every range, pass as they are."""
    if number and number.adjusted() >= 30:
        return number
    # Adding zero turns -0 into 0.
    return EXACT.add(number.quantize(NINE_DECIMALS, context=EXACT), ZERO)


# --- Windows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """The half-open range of UTC days [start, end)."""

    start: date
    end: date

    def __contains__(self, day: date) -> bool:
        return self.start <= day < self.end


def _days_before(cutoff: date, start: int, end: int = 0) -> Window:
    """[cutoff - start, cutoff - end), both in days."""
    return Window(cutoff - timedelta(days=start), cutoff - timedelta(days=end))


def _history(cutoff: date, history_days: int | None) -> Window:
    return Window(date.min, cutoff) if history_days is None else _days_before(cutoff, history_days)


def _label_window(cutoff: date, horizon_days: int, labels: bool) -> Window:
    return Window(cutoff, cutoff + timedelta(days=horizon_days if labels else 0))


# --- Customers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrderGroup:
    """The lines of one customer with one order_id, or of one day without order_id."""

    key: str
    lines: tuple[Row, ...]

    @property
    def value(self) -> Decimal:
        return _total(self.lines)

    @property
    def time(self) -> datetime:
        return min(line["ordered_at"] for line in self.lines)

    @property
    def day(self) -> date:
        return self.time.date()


def order_groups(lines: Iterable[Row]) -> list[OrderGroup]:
    """The order groups of one customer's lines."""
    members: dict[tuple[str, date | None], list[Row]] = {}
    for line in lines:
        order_id = line["order_id"]
        group = ("", line["order_day"]) if order_id is None else (order_id, None)
        members.setdefault(group, []).append(line)
    return [OrderGroup(key, tuple(grouped)) for (key, _), grouped in members.items()]


def placed_orders(lines: Iterable[Row]) -> list[OrderGroup]:
    """The orders (order groups of positive value) of one customer, first to last."""
    groups = [group for group in order_groups(lines) if group.value > 0]
    return sorted(groups, key=lambda group: (group.time, group.key))


def customer_features(
    orders: Iterable[Row], cutoff: date, horizon_days: int, history_days: int | None = None, labels: bool = True
) -> dict[str, Row]:
    """One row a customer of the population.

    Args:
      orders: usable lines with the columns of ``schema.ORDERS``.
      cutoff: C; features see nothing on or after it.
      horizon_days: H, whole days.
      history_days: how far back features look; None is all history.
      labels: False for a prediction, where the labels are null.

    Returns:
      customer_id -> every column of ``schema.CUSTOMERS``, in that order.
    """
    history = _history(cutoff, history_days)
    future = _label_window(cutoff, horizon_days, labels)
    rows: dict[str, Row] = {}
    for customer_id, lines in _by_customer(orders).items():
        seen = [line for line in lines if line["order_day"] in history]
        placed = placed_orders(seen)
        if placed:
            rows[customer_id] = {
                "customer_id": customer_id,
                **_order_features(placed, cutoff),
                **_window_features(seen, placed, cutoff, horizon_days),
                **_line_features(seen),
                **(_labels(lines, future) if labels else {"future_value": None, "future_orders": None}),
                "split": split_of(customer_id),
            }
            rows[customer_id] = {name: rows[customer_id][name] for name in schema.names(schema.CUSTOMERS)}
    return rows


def line_audit(
    orders: Iterable[Row], cutoff: date, horizon_days: int, history_days: int | None = None, labels: bool = True
) -> dict[str, Any]:
    """What became of every usable line: ``{"used": lines, "excluded": {reason: lines}}``, every reason present.

    Arguments as for ``customer_features``.
    """
    history = _history(cutoff, history_days)
    future = _label_window(cutoff, horizon_days, labels)
    excluded = {"before_history": 0, "after_window": 0, "no_order_before_cutoff": 0}
    used = 0
    for lines in _by_customer(orders).values():
        known = bool(placed_orders(line for line in lines if line["order_day"] in history))
        for line in lines:
            if line["order_day"] < history.start:
                excluded["before_history"] += 1
            elif line["order_day"] >= future.end:
                excluded["after_window"] += 1
            elif not known:
                excluded["no_order_before_cutoff"] += 1
            else:
                used += 1
    return {"used": used, "excluded": excluded}


@dataclass
class Day:
    """What the population did on a day."""

    order_days: int = 0
    first_days: int = 0
    value: Decimal = ZERO


def daily_activity(
    orders: Iterable[Row], cutoff: date, horizon_days: int, history_days: int | None = None, labels: bool = True
) -> dict[date, Day]:
    """The days on which customers of the population have used lines. Arguments as for ``customer_features``."""
    history = _history(cutoff, history_days)
    future = _label_window(cutoff, horizon_days, labels)
    days: dict[date, Day] = {}
    for lines in _by_customer(orders).values():
        placed = placed_orders(line for line in lines if line["order_day"] in history)
        if not placed:
            continue
        own_days = {order.day for order in placed}
        for day in {line["order_day"] for line in lines if line["order_day"] in history or line["order_day"] in future}:
            value = _total(line for line in lines if line["order_day"] == day)
            found = days.setdefault(day, Day())
            found.order_days += day in own_days if day < cutoff else value > 0
            found.first_days += day == min(own_days)
            found.value = EXACT.add(found.value, value)
    return days


def split_of(customer_id: str) -> str:
    digits = hashlib.md5(customer_id.encode(), usedforsecurity=False).hexdigest()[:4]
    if digits < "cccd":
        return "train"
    return "validation" if digits < "e666" else "test"


def _by_customer(orders: Iterable[Row]) -> dict[str, list[Row]]:
    lines: dict[str, list[Row]] = {}
    for order in orders:
        lines.setdefault(order["customer_id"], []).append(order)
    return lines


def _total(lines: Iterable[Row]) -> Decimal:
    return _sum(line["amount"] for line in lines)


def _sum(numbers: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for number in numbers:
        total = EXACT.add(total, number)
    return total.quantize(NINE_DECIMALS, context=EXACT)


def _order_features(placed: Sequence[OrderGroup], cutoff: date) -> Row:
    values = [order.value for order in placed]
    days = sorted({order.day for order in placed})
    total = _sum(values)
    units = _sum(
        Decimal(1) if line["quantity"] is None else line["quantity"] for order in placed for line in order.lines
    )
    recency_days = (days[-1] - days[0]).days
    frequency = len(days) - 1
    return {
        "orders": len(placed),
        "order_days": len(days),
        "frequency": frequency,
        "recency_days": recency_days,
        "age_days": (cutoff - days[0]).days,
        "days_since_last": (cutoff - days[-1]).days,
        "order_value_total": total,
        "order_value_mean": float(total) / len(placed),
        "order_value_std": population_std(values),
        "order_value_max": max(values),
        "order_value_first": values[0],
        "order_value_last": values[-1],
        "basket_size_mean": float(units) / len(placed),
        "gap_days_mean": recency_days / frequency if frequency else None,
        "gap_days_std": _gap_days_std(days),
    }


def population_std(values: Sequence[Decimal]) -> float:
    """sqrt(mean((value - mean)^2)): the variance as an exact fraction, its root to 200 digits."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)
    return float(EXACT.sqrt(EXACT.divide(Decimal(variance.numerator), Decimal(variance.denominator))))


def _gap_days_std(days: Sequence[date]) -> float | None:
    """sqrt(frequency * sum(g^2) - sum(g)^2) / frequency over the gaps g of consecutive order days."""
    gaps = [(later - earlier).days for earlier, later in itertools.pairwise(days)]
    if not gaps:
        return None
    return math.sqrt(len(gaps) * sum(gap * gap for gap in gaps) - sum(gaps) ** 2) / len(gaps)


def _window_features(seen: Sequence[Row], placed: Sequence[OrderGroup], cutoff: date, horizon_days: int) -> Row:
    def value(window: Window) -> Decimal:
        return _total(line for line in seen if line["order_day"] in window)

    def count(window: Window) -> int:
        return sum(order.day in window for order in placed)

    features: Row = {}
    for days in (30, 90, 180, 365):
        recent, before = _days_before(cutoff, days), _days_before(cutoff, 2 * days, days)
        features[f"value_{days}d"] = value(recent)
        features[f"orders_{days}d"] = count(recent)
        features[f"value_trend_{days}d"] = EXACT.subtract(value(recent), value(before))
        features[f"orders_trend_{days}d"] = count(recent) - count(before)
    year_ago = _days_before(cutoff, 365, max(365 - horizon_days, 0))
    reaches_back = (cutoff - min(order.day for order in placed)).days >= 365
    features["value_year_ago"] = value(year_ago) if reaches_back else None
    features["orders_year_ago"] = count(year_ago) if reaches_back else None
    return features


def _line_features(seen: Sequence[Row]) -> Row:
    returns = [line for line in seen if line["amount"] < 0]
    return_value = EXACT.minus(_total(returns))
    bought = _total(line for line in seen if line["amount"] > 0)
    return {
        "lines": len(seen),
        "value_total": _total(seen),
        "return_lines": len(returns),
        "return_value": return_value,
        "return_share": float(return_value) / float(bought),
        "distinct_items": len({line["item_id"] for line in seen} - {None}),
        **{name: most_frequent(line[name] for line in seen) for name in ("country", "channel", "category")},
    }


def most_frequent(values: Iterable[str | None]) -> str | None:
    """The most frequent non-null value, the smallest by code points among equals; None when there is none."""
    counts = Counter(value for value in values if value is not None)
    # Python compares text by code points.
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _labels(lines: Iterable[Row], future: Window) -> Row:
    by_day: dict[date, list[Row]] = {}
    for line in lines:
        if line["order_day"] in future:
            by_day.setdefault(line["order_day"], []).append(line)
    totals = [_total(day_lines) for day_lines in by_day.values()]
    return {"future_value": max(_sum(totals), _sum([])), "future_orders": sum(total > 0 for total in totals)}


# --- Judging -------------------------------------------------------------------------------------------------------


def assert_equal(expected: Mapping[str, Row], actual: pa.Table) -> None:
    """Asserts that a table with the columns of ``schema.CUSTOMERS`` says what ``customer_features`` says.

    The same customers, once each. Nulls, text, whole numbers and money (``Decimal``, all digits) are
    equal and of the same type; floats agree within 1e-9 relative. order_value_std may also be off by 1e-9
    of the customer's order_value_max: the squares it sums are that large, and their rounding stays
    as dust when the deviation itself is small.

    Raises:
      AssertionError: naming customer, column and both values.
    """
    names = schema.names(schema.CUSTOMERS)
    missing = [name for name in names if name not in actual.column_names]
    assert not missing, f"the table lacks the columns {missing}"
    rows = actual.select(names).to_pylist()
    repeated = [customer for customer, rows_ in Counter(row["customer_id"] for row in rows).items() if rows_ > 1]
    assert not repeated, f"customers with more than one row: {_some(repeated)}"
    by_customer = {row["customer_id"]: row for row in rows}
    absent, surplus = expected.keys() - by_customer.keys(), by_customer.keys() - expected.keys()
    assert not absent, f"customers without a row: {_some(absent)}"
    assert not surplus, f"customers that should have no row: {_some(surplus)}"
    for customer, wanted in expected.items():
        for name in names:
            slack = 1e-9 * float(wanted["order_value_max"]) if name == "order_value_std" else 0.0
            found = by_customer[customer][name]
            assert _same(wanted[name], found, slack), (
                f"customer {customer!r}, column {name}: expected {wanted[name]!r}, found {found!r}"
            )


def _same(wanted: Any, found: Any, slack: float) -> bool:
    if type(wanted) is not type(found):
        return False
    if isinstance(wanted, float):
        return math.isclose(wanted, found, rel_tol=1e-9, abs_tol=slack)
    return bool(wanted == found)


def _some(customers: Iterable[Any]) -> str:
    listed = sorted(map(repr, customers))
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
