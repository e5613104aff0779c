"""Order lines or behaviour events -> interactions for a recommender: which lines count, and as what.

One interaction is one CSV line of the columns that Amazon Personalize knows: USER_ID, ITEM_ID, TIMESTAMP (whole
seconds since 1970), EVENT_TYPE, EVENT_VALUE, and context. The expressions here are projections: one row out for each
line in, in the same order. Reasons and limits stand in ``docs/interactions.md``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.datatypes as dt

from transforms import clean_orders, schema
from transforms.errors import UsageError, rejected
from transforms.schema import Reason

if TYPE_CHECKING:
    import ibis.expr.types as ir

ID_MAX_CHARACTERS = 256  # Personalize's longest USER_ID, ITEM_ID and EVENT_TYPE
CONTEXT_MAX_CHARACTERS = 1000  # a longer categorical value fails the whole import
MOST_CONTEXT = 5  # columns of metadata that a set of interactions may have beside the reserved ones
PURCHASE = "purchase"
RESERVED = (
    "USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE", "IMPRESSION", "RECOMMENDATION_ID",
    "EVENT_ATTRIBUTION_SOURCE",
)  # fmt: skip
ORDER_CONTEXT = ("country", "channel", "category")  # what orders have of it
EVENT_COLUMNS = ("customer_id", "item_id", "occurred_at", "event_type", "event_value")
_CONTEXT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

# Microseconds. A plain integer is a time only within these years: whatever the unit, the same number is then a time in
# one unit alone, so that milliseconds read as seconds (or the other way round) cannot pass.
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
FIRST_INTEGER_YEAR = 1980
_INTEGER_PATTERN = r"^-?[0-9]{1,18}$"
_SECOND = 1_000_000

EXCLUDED: tuple[Reason, ...] = (
    Reason("no_customer", "customer_id", "a line of a known customer"),
    Reason("no_item", "item_id", "a line that says which item"),
    Reason("no_event_type", "event_type", "a line that says what happened, or --event_type for those that do not"),
    Reason("return", "amount", "a quantity and an amount above 0"),
    Reason("before_1970", "ordered_at", "a time that TIMESTAMP can hold"),
    Reason("before_since", "ordered_at", "at or after --since"),
    Reason("after_until", "ordered_at", "before --until"),
)
"""Lines that are fine but no interactions, or outside the window; in this order, ``no_customer`` before all else."""

_AT_MOST = f"at most {ID_MAX_CHARACTERS} characters"
_OWN_LETTERS = (
    Reason("customer_id_too_long", "customer_id", _AT_MOST),
    Reason("item_id_too_long", "item_id", _AT_MOST),
    Reason("event_type_too_long", "event_type", _AT_MOST),
    Reason("context_too_long", "context", f"at most {CONTEXT_MAX_CHARACTERS} characters"),
)
_OWN_NAMES = {reason.name for reason in _OWN_LETTERS}


@dataclass(frozen=True)
class Wanted:
    """What the interactions are to be.

    Attributes:
      events: whether the lines are behaviour events; otherwise they are order lines.
      event_type: of every order line; of the events that have none.
      values: whether there is EVENT_VALUE.
      context: our names of further columns.
      since, until: only interactions at or after, and before 00:00 UTC of it.
      time_unit: of events' times that are integers.
    """

    events: bool = False
    event_type: str | None = PURCHASE
    values: bool = True
    context: tuple[str, ...] = ()
    since: datetime.date | None = None
    until: datetime.date | None = None
    time_unit: str = "s"

    @property
    def mode(self) -> str:
        """Personalize's word for an import of it."""
        return "INCREMENTAL" if self.since else "FULL"

    def letters(self) -> tuple[Reason, ...]:
        """The reasons of dead letters, with what is accepted."""
        if not self.events:
            return (*(reason for reason in schema.DEAD_LETTERS if reason.name not in _OWN_NAMES), *_OWN_LETTERS)
        known = {reason.name: reason for reason in schema.DEAD_LETTERS}
        return (
            known["malformed_line"],
            known["bad_customer_id"],
            Reason("bad_occurred_at", "occurred_at", time_accepted(self.time_unit)),
            Reason("bad_event_value", "event_value", known["bad_amount"].accepted),
            *_OWN_LETTERS,
        )


def time_accepted(unit: str) -> str:
    years = f"{FIRST_INTEGER_YEAR} to {schema.LAST_YEAR}"
    return f"{schema.TIME_ACCEPTED}, or whole {UNIT_NAMES[unit]} since 1970 of the years {years}"


def context_names(text: str) -> tuple[str, ...]:
    """``NAME[,NAME]`` as given on a command line.

    Raises:
      UsageError: one cannot be a column of Personalize's, or there are too many.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not _CONTEXT_NAME.fullmatch(name) or name.upper() in RESERVED or name in EVENT_COLUMNS:
            raise rejected(
                "--context", name, f"letters, digits and _, a letter first, and none of {', '.join(RESERVED)}"
            )
    if len({name.upper() for name in names}) < len(names):
        raise rejected("--context", text, "each column once")
    if len(names) > MOST_CONTEXT:
        raise rejected("--context", text, f"at most {MOST_CONTEXT} columns, as Personalize has it")
    return names


@dataclass(frozen=True)
class Field:
    """A column of the CSV files: its name, Personalize's type, whether it may be empty, and whether it is text."""

    name: str
    type: str
    nullable: bool = False
    text: bool = False
    categorical: bool = False

    def to_json(self) -> dict[str, Any]:
        types: Any = [self.type, "null"] if self.nullable else self.type
        return {"name": self.name, "type": types} | ({"categorical": True} if self.categorical else {})


def fields_of(lines: ir.Table, wanted: Wanted) -> tuple[Field, ...]:
    """The CSV's columns, in order, of what ``lines`` gives."""
    fields = [Field("USER_ID", "string", text=True), Field("ITEM_ID", "string", text=True), Field("TIMESTAMP", "long")]
    fields.append(Field("EVENT_TYPE", "string", text=True))
    if "EVENT_VALUE" in lines.columns:
        fields.append(Field("EVENT_VALUE", "float", nullable=wanted.events))
    for name in (name.upper() for name in wanted.context):
        kind = lines[name].type()
        if kind.is_string():
            fields.append(Field(name, "string", nullable=True, text=True, categorical=True))
        else:
            fields.append(Field(name, "long" if kind.is_integer() else "double", nullable=True))
    return tuple(fields)


def avro_schema(fields: Iterable[Field]) -> dict[str, Any]:
    """The schema that Personalize's CreateSchema takes."""
    return {
        "type": "record", "name": "Interactions", "namespace": "com.amazonaws.personalize.schema",
        "fields": [field.to_json() for field in fields], "version": "1.0",
    }  # fmt: skip


def lines(raw: ir.Table, wanted: Wanted, *, sure_amounts: bool = False) -> ir.Table:
    """Raw lines -> the columns of ``fields_of``, and ``reason``: null for an interaction, else why it is none.

    Args:
      raw: order lines as for ``clean_orders``, or events with (some of) EVENT_COLUMNS and the context.
      sure_amounts: whether every order line is known to have an amount, in decimals that are within all limits.
    """
    typed = _of_events(raw, wanted) if wanted.events else _of_orders(raw, wanted, sure_amounts)
    at = typed.at
    window = [(at < 0, "before_1970")]
    if wanted.since:
        window.append((at < _microseconds(wanted.since), "before_since"))
    if wanted.until:
        window.append((at >= _microseconds(wanted.until), "after_until"))
    context = [typed[name.upper()] for name in wanted.context]
    too_long = [(text.length() > CONTEXT_MAX_CHARACTERS, "context_too_long") for text in context if _is_text(text)]
    reason = ibis.cases(
        (typed.reason.notnull(), typed.reason),
        (typed.USER_ID.length() > ID_MAX_CHARACTERS, "customer_id_too_long"),
        (typed.ITEM_ID.isnull(), "no_item"),
        (typed.ITEM_ID.length() > ID_MAX_CHARACTERS, "item_id_too_long"),
        (typed.EVENT_TYPE.isnull(), "no_event_type"),
        (typed.EVENT_TYPE.length() > ID_MAX_CHARACTERS, "event_type_too_long"),
        *too_long,
        (typed.returned, "return"),
        *window,
        else_=ibis.null(dt.string),
    )
    value = {"EVENT_VALUE": typed.value} if "value" in typed.columns else {}
    return typed.select(
        "USER_ID", "ITEM_ID", TIMESTAMP=(at // _SECOND).cast(dt.int64), EVENT_TYPE=typed.EVENT_TYPE, **value,
        **{name.upper(): typed[name.upper()] for name in wanted.context}, reason=reason,
    )  # fmt: skip


def _of_orders(raw: ir.Table, wanted: Wanted, sure_amounts: bool) -> ir.Table:
    # Its own limit on ids is that of another service, in bytes; whatever breaks it breaks the one here.
    if sure_amounts:
        # Wide decimals cost most of all the checks. Those of a constant cost nothing, and the amounts pass them by.
        given = raw.mutate(amount=ibis.literal(1), sure_amount=raw["amount"])
        orders = clean_orders.clean_orders(given, keep_raw=True)
        amount = value = orders[clean_orders.RAW_PREFIX + "sure_amount"]
    else:
        orders = clean_orders.clean_orders(raw)
        amount, value = orders.amount, orders.amount.cast(dt.float64)
    return orders.select(
        USER_ID=orders.customer_id,
        ITEM_ID=orders.item_id,
        at=_epoch_us(orders.ordered_at),
        EVENT_TYPE=ibis.literal(wanted.event_type, dt.string),
        returned=(amount <= 0) | (orders.quantity.notnull() & (orders.quantity <= 0)),
        reason=orders.reason,
        **({"value": value} if wanted.values else {}),
        **{name.upper(): orders[name] for name in wanted.context},
    )


def _of_events(raw: ir.Table, wanted: Wanted) -> ir.Table:
    given = {name: clean_orders.column_of(raw, name) for name in (*EVENT_COLUMNS, *wanted.context)}
    has_id = clean_orders.is_present(given["customer_id"])
    user = clean_orders.identifier(given["customer_id"])
    at = _instant_us(given["occurred_at"], wanted.time_unit)
    value = clean_orders.below(clean_orders.money(given["event_value"]), schema.MONEY_LIMIT)
    bad_value = given["event_value"].notnull() & value.isnull()
    reason = ibis.cases(
        (~has_id, "no_customer"),
        (user.isnull(), "bad_customer_id"),
        (at.isnull(), "bad_occurred_at"),
        *([(bad_value, "bad_event_value")] if wanted.values else []),
        else_=ibis.null(dt.string),
    )
    event_type = clean_orders.identifier(given["event_type"])
    if wanted.event_type is not None:
        event_type = event_type.fill_null(wanted.event_type)
    return raw.select(
        USER_ID=user,
        ITEM_ID=clean_orders.identifier(given["item_id"]),
        at=at,
        EVENT_TYPE=event_type,
        returned=ibis.literal(False),
        reason=reason,
        **({"value": value.cast(dt.float64)} if wanted.values else {}),
        **{name.upper(): _context(given[name]) for name in wanted.context},
    )


def _context(column: ir.Value) -> ir.Value:
    kind = column.type()
    if kind.is_integer() or kind.is_string():
        return column
    number = column.cast(dt.float64)
    # One zero, not two that differ in their text alone.
    return ibis.ifelse(number.isnan() | number.isinf(), ibis.null(dt.float64), number + 0.0)


def _is_text(column: ir.Value) -> bool:
    return bool(column.type().is_string())


def _microseconds(day: datetime.date) -> int:
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
    return int(midnight.timestamp()) * _SECOND


@ibis.udf.scalar.builtin(name="epoch_us")
def _epoch_us(instant: dt.Timestamp("UTC")) -> int:  # type: ignore
    """Microseconds since 1970."""


@ibis.udf.scalar.builtin(name="make_timestamp")
def _make_timestamp(microseconds: int) -> dt.Timestamp():  # type: ignore
    """Its inverse, without a zone."""


# --- Times of events ------------------------------------------------------------------------------------------------


def _integers(column: ir.Value) -> ir.IntegerValue | None:
    """The column's values that are plain integers, null where one is not; None where the column holds none."""
    if column.type().is_integer():
        return column.cast(dt.int64)
    if column.type().is_string():
        return ibis.ifelse(column.re_search(_INTEGER_PATTERN), column, ibis.null(dt.string)).try_cast(dt.int64)
    return None


def _between(integers: ir.IntegerValue, unit: str) -> ir.BooleanValue:
    """Whether they are times of the years in question, in the unit."""
    years = (datetime.date(FIRST_INTEGER_YEAR, 1, 1), datetime.date(schema.LAST_YEAR + 1, 1, 1))
    low, high = (_microseconds(day) // UNITS[unit] for day in years)
    return (integers >= low) & (integers < high)


def _instant_us(column: ir.Value, unit: str) -> ir.IntegerValue:
    """The time in microseconds; null where it is none."""
    integers = _integers(column)
    if integers is None:
        return _epoch_us(clean_orders.instant(column))
    usable = ibis.ifelse(_between(integers, unit), integers, ibis.null(dt.int64)) * UNITS[unit]
    if column.type().is_integer():
        return usable
    return ibis.coalesce(usable, _epoch_us(clean_orders.instant(column)))


def extent(raw: ir.Table, unit: str) -> ir.Table:
    """One row: how many events, their first and last day, and for each of UNITS how many integers are times in it and
    the least of them."""
    column = clean_orders.column_of(raw, "occurred_at")
    integers = _integers(column)
    at = raw.select(
        day=_make_timestamp(_instant_us(column, unit)).date(),
        integer=ibis.null(dt.int64) if integers is None else integers,
    )
    looks: dict[str, ir.Value] = {}
    for name in UNITS:
        fits = _between(at.integer, name)
        looks |= {f"{name}_count": fits.sum().fill_null(0), f"{name}_least": at.integer.min(where=fits)}
    return at.aggregate(events=at.count(), first_day=at.day.min(), last_day=at.day.max(), **looks, n=at.count())


def require_unit(unit: str, uri: str, found: list[tuple[Any, ...]]) -> None:
    """Raises: UsageError where most of the times are integers of another unit than ``unit``.

    Args:
      found: what ``extent`` told beyond days, for each batch of the events.
    """
    events = sum(row[-1] for row in found)
    for number, name in enumerate(UNITS):
        count = sum(row[2 * number] for row in found)
        if name != unit and 2 * count > events:
            least = min(row[2 * number + 1] for row in found if row[2 * number])
            raise UsageError(
                f"--events {uri!r}: occurred_at {least} is not usable in --time_unit {unit}: {count:,} of {events:,} "
                f"look like {UNIT_NAMES[name]}: accepted is --time_unit {name}"
            )
