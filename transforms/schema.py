"""Every column of the system, once: name, type, unit, role and exact formula.

Everything that needs a list of columns (Arrow schemas, BigQuery schemas, TensorFlow feature specs,
Datastore properties, ``docs/data_contract.md``) derives it from here. Importing this module is
instant: it pulls in nothing but the standard library, the derivations import what they need.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class Type(enum.Enum):
    """A column's type; each knows its Arrow and BigQuery names."""

    STRING = ("string", "STRING")
    INT = ("int64", "INT64")
    FLOAT = ("float64", "FLOAT64")
    # (38, 9) is BigQuery's NUMERIC, and the only decimal both engines sum without rounding.
    MONEY = ("decimal128(38, 9)", "NUMERIC")
    DATE = ("date32", "DATE")
    TIMESTAMP = ("timestamp[us, UTC]", "TIMESTAMP")

    @property
    def arrow(self) -> pa.DataType:
        import pyarrow as pa

        return {
            Type.STRING: pa.string(),
            Type.INT: pa.int64(),
            Type.FLOAT: pa.float64(),
            Type.MONEY: pa.decimal128(38, 9),
            Type.DATE: pa.date32(),
            Type.TIMESTAMP: pa.timestamp("us", tz="UTC"),
        }[self]

    @property
    def bigquery(self) -> str:
        return str(self.value[1])


class Role(enum.Enum):
    """What a column is for. Only FEATURE columns may ever be read by a model."""

    ID = "id"
    FEATURE = "feature"
    LABEL = "label"
    SPLIT = "split"
    PREDICTION = "prediction"
    ORDER = "order"


class Scale(enum.Enum):
    """How ``transforms/preprocessing.py`` feeds a model input to a network."""

    # Money and counts have heavy tails, and a network extrapolates wildly along them. Durations grow by
    # themselves as a shop grows older: there the next snapshot's values are a step beyond, and mean something.
    LOG = "signed log1p, moved into the range of the train split, then z-score"
    DURATION = "log1p, then z-score"
    LINEAR = "z-score"  # shares
    VOCABULARY = "index into the vocabulary of the train split"


@dataclass(frozen=True)
class Column:
    """One column. ``formula`` is exact: the tests' second implementation is written from it."""

    name: str
    type: Type
    role: Role
    unit: str
    formula: str
    nulls: str = "never null"
    model_input: Scale | None = None

    @property
    def nullable(self) -> bool:
        return self.nulls != "never null"


CUSTOMER_ID_MAX_BYTES = 1500  # Datastore's longest key name: a longer id could never be looked up
MONEY_LIMIT = 10**15  # an order line's |amount| stays below, so that 10^14 lines still sum within NUMERIC
FACTOR_LIMIT = 10**10  # |quantity| and |unit_price| stay below, so that their product is exact in 38 digits
RECENT_WINDOWS_DAYS = (30, 90, 180, 365)
YEAR_DAYS = 365
FIRST_YEAR, LAST_YEAR = 1900, 2199  # outside lie the garbage and the sentinels (0001-01-01, 9999-12-31)
SPLITS = ("train", "validation", "test")
# The first four hex digits of MD5(customer_id), compared as strings: the same on every engine.
SPLIT_BOUNDS = {"train": "cccd", "validation": "e666"}  # 80%, then 10%; the rest is test


def _order(name: str, type_: Type, unit: str, formula: str, nulls: str = "never null") -> Column:
    return Column(name, type_, Role.ORDER, unit, formula, nulls)


ORDERS: tuple[Column, ...] = (
    _order("customer_id", Type.STRING, "", f"the id as text, at most {CUSTOMER_ID_MAX_BYTES} UTF-8 bytes, not trimmed; a whole number below 10^15 given as float loses its '.0'"),
    _order("ordered_at", Type.TIMESTAMP, "UTC", f"instant of the line in whole microseconds (finer parts of a typed timestamp are cut off); a time without zone is UTC, a date is its midnight; in the years {FIRST_YEAR} to {LAST_YEAR} (UTC)"),
    _order("order_day", Type.DATE, "UTC day", "the UTC day of ordered_at"),
    _order("amount", Type.MONEY, "orders' currency", f"amount rounded half-even to 9 decimals if given, else the product of quantity and unit_price, each rounded so, rounded so again; |amount| < 10^{len(str(MONEY_LIMIT)) - 1}"),
    _order("quantity", Type.MONEY, "units", "units of the line, rounded half-even to 9 decimals", "null when not given"),
    _order("order_id", Type.STRING, "", "the order the line belongs to", "null when not given or empty"),
    _order("item_id", Type.STRING, "", "what was ordered", "null when not given or empty"),
    _order("country", Type.STRING, "", "as given", "null when not given or empty"),
    _order("channel", Type.STRING, "", "as given", "null when not given or empty"),
    _order("category", Type.STRING, "", "as given", "null when not given or empty"),
)  # fmt: skip

CUSTOMER_ID = Column("customer_id", Type.STRING, Role.ID, "", "the customer")


def _feature(
    name: str, type_: Type, unit: str, formula: str, nulls: str = "never null", scale: Scale | None = None
) -> Column:
    return Column(name, type_, Role.FEATURE, unit, formula, nulls, scale)


def _recent_columns(days: int) -> tuple[Column, ...]:
    window, before = f"[C-{days}, C)", f"[C-{2 * days}, C-{days})"
    model_input = Scale.LOG if days in (90, 365) else None
    return (
        _feature(f"value_{days}d", Type.MONEY, "money", f"sum of amount over lines with order_day in {window}", scale=model_input),
        _feature(f"orders_{days}d", Type.INT, "orders", f"orders with order day in {window}", scale=model_input),
        _feature(f"value_trend_{days}d", Type.MONEY, "money", f"value_{days}d minus the sum of amount over lines with order_day in {before}"),
        _feature(f"orders_trend_{days}d", Type.INT, "orders", f"orders_{days}d minus the orders with order day in {before}"),
    )  # fmt: skip


_TOP = (
    "the most frequent non-null value over all lines (each line counts once); among equally frequent "
    "values the smallest by Unicode code points"
)
_YEAR_AGO_NULLS = f"null when age_days < {YEAR_DAYS}: the customer's history does not reach back that far"
_ONE_DAY = "null when order_days < 2"

FEATURES: tuple[Column, ...] = (
    _feature("lines", Type.INT, "order lines", "number of lines"),
    _feature("orders", Type.INT, "orders", "number of orders"),
    _feature("order_days", Type.INT, "days", "number of distinct order days"),
    _feature("frequency", Type.INT, "days", "order_days - 1: repeat order days, the literature's x", scale=Scale.LOG),
    _feature("recency_days", Type.INT, "days", "last order day - first order day, the literature's t_x", scale=Scale.DURATION),
    _feature("age_days", Type.INT, "days", "C - first order day, the literature's T", scale=Scale.DURATION),
    _feature("days_since_last", Type.INT, "days", "C - last order day", scale=Scale.DURATION),
    _feature("value_total", Type.MONEY, "money", "sum of amount over all lines: net of returns", scale=Scale.LOG),
    _feature("order_value_total", Type.MONEY, "money", "sum of order value over orders"),
    _feature("order_value_mean", Type.FLOAT, "money per order", "order_value_total / orders", scale=Scale.LOG),
    _feature("order_value_std", Type.FLOAT, "money", "population standard deviation of order value: sqrt(mean((order value - order_value_mean)^2)); 0 for one order"),
    _feature("order_value_max", Type.MONEY, "money", "largest order value", scale=Scale.LOG),
    _feature("order_value_first", Type.MONEY, "money", "value of the order with the smallest (order time, order key)"),
    _feature("order_value_last", Type.MONEY, "money", "value of the order with the largest (order time, order key)", scale=Scale.LOG),
    _feature("basket_size_mean", Type.FLOAT, "units per order", "sum over the lines of orders of quantity (1 where null) / orders"),
    _feature("gap_days_mean", Type.FLOAT, "days", "recency_days / frequency: mean distance of consecutive order days", _ONE_DAY, Scale.DURATION),
    _feature("gap_days_std", Type.FLOAT, "days", "population standard deviation of the distances g of consecutive order days: sqrt(frequency * sum(g^2) - sum(g)^2) / frequency", _ONE_DAY),
    *(column for days in RECENT_WINDOWS_DAYS for column in _recent_columns(days)),
    _feature("value_year_ago", Type.MONEY, "money", f"sum of amount over lines with order_day in [C-{YEAR_DAYS}, min(C-{YEAR_DAYS}+H, C))", _YEAR_AGO_NULLS, Scale.LOG),
    _feature("orders_year_ago", Type.INT, "orders", f"orders with order day in [C-{YEAR_DAYS}, min(C-{YEAR_DAYS}+H, C))", _YEAR_AGO_NULLS, Scale.LOG),
    _feature("return_lines", Type.INT, "order lines", "number of lines with amount < 0"),
    _feature("return_value", Type.MONEY, "money", "minus the sum of the negative amounts: >= 0"),
    _feature("return_share", Type.FLOAT, "share", "return_value / sum of the positive amounts", scale=Scale.LINEAR),
    _feature("distinct_items", Type.INT, "items", "number of distinct non-null item_id; 0 when there is none", scale=Scale.LOG),
    _feature("country", Type.STRING, "", f"country: {_TOP}", "null when every line's is null", Scale.VOCABULARY),
    _feature("channel", Type.STRING, "", f"channel: {_TOP}", "null when every line's is null"),
    _feature("category", Type.STRING, "", f"category: {_TOP}", "null when every line's is null"),
)  # fmt: skip

_NO_LABEL = "null in a snapshot made without labels (for a prediction)"
LABELS: tuple[Column, ...] = (
    Column("future_value", Type.MONEY, Role.LABEL, "money", "sum of amount over the lines with order_day in [C, C+H), floored at 0; 0 when there is none", _NO_LABEL),
    Column("future_orders", Type.INT, Role.LABEL, "days", "number of days in [C, C+H) on which the sum of amount over the customer's lines is > 0", _NO_LABEL),
)  # fmt: skip

SPLIT = Column(
    "split", Type.STRING, Role.SPLIT, "",
    "h = the first 4 lower-case hex digits of MD5(customer_id as UTF-8), compared as a string: "
    + ", ".join(f"'{name}' if h < '{bound}'" for name, bound in SPLIT_BOUNDS.items())
    + ", else 'test'",
)  # fmt: skip

CUSTOMERS: tuple[Column, ...] = (CUSTOMER_ID, *FEATURES, *LABELS, SPLIT)
"""A features directory's ``raw/``: one row a customer."""


def _prediction(name: str, type_: Type, unit: str, formula: str) -> Column:
    return Column(name, type_, Role.PREDICTION, unit, formula)


_QUANTILE = "{}% quantile of the forecast distribution of future_value: 0 where P(no value) reaches it"
PREDICTIONS: tuple[Column, ...] = (
    CUSTOMER_ID,
    _prediction("as_of", Type.DATE, "UTC day", "the cutoff of the features: nothing on or after it was seen"),
    _prediction("horizon_days", Type.INT, "days", "the forecast covers [as_of, as_of + horizon_days)"),
    _prediction("model_version", Type.STRING, "", "the model that made the forecast"),
    _prediction("predicted_value", Type.FLOAT, "money", "mean of the forecast distribution of future_value, >= 0"),
    _prediction("value_p10", Type.FLOAT, "money", _QUANTILE.format(10)),
    _prediction("value_p50", Type.FLOAT, "money", _QUANTILE.format(50)),
    _prediction("value_p90", Type.FLOAT, "money", _QUANTILE.format(90)),
    _prediction("purchase_probability", Type.FLOAT, "probability", "P(future_orders >= 1)"),
    _prediction("expected_orders", Type.FLOAT, "days", "mean of the forecast distribution of future_orders"),
    _prediction("decile", Type.INT, "1..10", "1 + floor(10 * r / n), r = the row's rank from 0 among the run's n rows by (predicted_value descending, customer_id ascending by code points): 1 is the highest tenth"),
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """Why a line is not used. ``column`` names the input whose value is to blame."""

    name: str
    column: str
    accepted: str


EXCLUDED: tuple[Reason, ...] = (
    Reason("no_customer", "customer_id", "a line of a known customer"),
    Reason("before_history", "ordered_at", "on or after C - history_days, when --history_days is given"),
    Reason("after_window", "ordered_at", "before C + H (labels) or before C (prediction)"),
    Reason("no_order_before_cutoff", "amount", "a customer with at least one order of positive value before C"),
)
"""Lines that are fine but not used, counted by reason; in this order of precedence."""

TIME_ACCEPTED = f"ISO 8601 of the years {FIRST_YEAR} to {LAST_YEAR}, such as 2011-08-08, 2011-08-08 23:30 or 2011-08-08T23:30:00.5+01:00"
_NUMBER = "a finite decimal number such as -12.34 or 1e3"
DEAD_LETTERS: tuple[Reason, ...] = (
    Reason("malformed_line", "line", "as many fields as the header has"),
    Reason("bad_customer_id", "customer_id", "text, or a whole number (as float, below 10^15)"),
    Reason("customer_id_too_long", "customer_id", f"at most {CUSTOMER_ID_MAX_BYTES} UTF-8 bytes"),
    Reason("bad_ordered_at", "ordered_at", TIME_ACCEPTED),
    Reason("bad_amount", "amount", _NUMBER + f", |amount| < {MONEY_LIMIT:.0e}"),
    Reason("bad_quantity", "quantity", _NUMBER + f", |quantity| < {FACTOR_LIMIT:.0e}"),
    Reason("bad_unit_price", "unit_price", _NUMBER + f", |unit_price| < {FACTOR_LIMIT:.0e}"),
    Reason("missing_amount", "amount", "an amount, or both quantity and unit_price"),
    Reason("amount_out_of_range", "quantity", f"|quantity x unit_price| < {MONEY_LIMIT:.0e}"),
)
"""Lines that cannot be used, kept with their reason; in this order of precedence, after ``no_customer``."""


def names(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns]


def by_name(columns: Iterable[Column]) -> dict[str, Column]:
    return {column.name: column for column in columns}


def model_inputs() -> tuple[Column, ...]:
    """The features the network reads; the others are for people and for other models."""
    return tuple(column for column in FEATURES if column.model_input)


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """Arrow schema; every field is nullable in Arrow, nullness itself is checked by ``check``."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, column.type.arrow) for column in columns])


def bigquery_schema(columns: Iterable[Column]) -> list[dict[str, str]]:
    """BigQuery's REST table schema: name, type, mode and description of each column."""
    return [
        {
            "name": column.name,
            "type": column.type.bigquery,
            "mode": "NULLABLE" if column.nullable else "REQUIRED",
            # BigQuery refuses descriptions of more than 1,024 characters.
            "description": f"{column.formula} ({column.nulls})"[:1024],
        }
        for column in columns
    ]


def fingerprint(columns: Iterable[Column]) -> str:
    """A short hash that changes whenever a column's name, type, formula or use by the network does."""
    import hashlib

    text = repr([(c.name, c.type.name, c.formula, c.nulls, c.model_input) for c in columns])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def explain(reason: str, row: dict[str, Any]) -> str:
    """One line for a dead letter: the column, its value and what is accepted instead."""
    rule = next(rule for rule in DEAD_LETTERS if rule.name == reason)
    return f"{rule.column}={row.get(rule.column)!r}: accepted is {rule.accepted}"
