"""Where orders come from: what every source tells before a job starts, and which columns and types it accepts.

A source is files (``order_files.py``) or BigQuery (``bigquery_orders.py``). Everything a wrong one can be
told before a job starts is told there: what is missing, types that cannot become orders, no rows at all.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transforms import schema, storage
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("customer_id", "ordered_at", "amount", "quantity", "unit_price",
           "order_id", "item_id", "country", "channel", "category")  # fmt: skip


@dataclass(frozen=True)
class LineKind:
    """Which lines a source holds, and how a person speaks of them. Those of orders unless it says otherwise.

    Attributes:
      argument: names the source on the command line.
      needed: columns a source must have; ``amount`` may be quantity and unit_price instead.
      integer_times: whether the time may be an integer.
      others: columns that may be text or any number.
      extent: raw lines -> one row: how many, first and last day, then what ``judge`` wants; None: ``pushdown.extent``.
      judge: looks at the rest of the extents of all batches. Raises UsageError.
    """

    argument: str = "--orders"
    line: str = "order line"
    columns: tuple[str, ...] = COLUMNS
    needed: tuple[str, ...] = ("customer_id", "ordered_at", "amount")
    time: str = "ordered_at"
    integer_times: bool = False
    moneys: tuple[str, ...] = ("amount", "quantity", "unit_price")
    others: tuple[str, ...] = ()
    time_accepted: str = schema.TIME_ACCEPTED
    extent: Callable[[Any], Any] | None = None
    judge: Callable[[str, list[tuple[Any, ...]]], None] | None = None


ORDER_LINES = LineKind()


@dataclass(frozen=True)
class OrdersSource:
    """A checked source: which columns of which types it has, how many lines, from which day to which."""

    uri: str
    columns: dict[str, str]  # our names -> theirs, where they differ
    schema: pa.Schema  # our names -> the types the source holds
    rows: int
    first_day: datetime.date
    last_day: datetime.date
    pinned: bool  # whether its lines are the same whenever they are read

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this source's orders from others': part of the arguments of every step that reads them."""
        return {"orders": self.uri, "columns": self.columns}

    @property
    def provenance(self) -> dict[str, Any]:
        """What else a manifest tells of the orders: how many lines there were, and as of when."""
        return {"rows": self.rows, "first_day": str(self.first_day), "last_day": str(self.last_day)}

    @property
    def revision(self) -> Any:
        """Differs, as JSON, wherever the orders may differ."""
        raise NotImplementedError

    @property
    def end(self) -> datetime.date:
        """The data's end: the day after the last order day."""
        return self.last_day + datetime.timedelta(days=1)

    def trusted_end(self, today: datetime.date) -> datetime.date:
        """The data's end as a default: one mistyped year must not make everything be as of the future.

        Raises:
          UsageError: the end lies in the future.
        """
        if self.last_day > today:
            raise UsageError(
                f"--orders {self.uri!r} reaches to {self.last_day}, after today, {today}: mend the line, or say --as_of"
            )
        return self.end


def parse_columns(text: str | None, known: tuple[str, ...] = COLUMNS) -> dict[str, str]:
    """``our_name=their_name,...`` or a TOML file (pairs at the top, or in a table ``[columns]``)."""
    if not text:
        return {}
    if text.endswith(".toml"):
        pairs = _read_toml(text)
    else:
        parts = [part.partition("=") for part in text.split(",")]
        if any(not theirs for _, _, theirs in parts):
            raise rejected("--columns", text, "our_name=their_name,... or a .toml file")
        pairs = {ours.strip(): theirs.strip() for ours, _, theirs in parts}
    for ours, theirs in pairs.items():
        if ours not in known:
            raise rejected("--columns", ours, "one of " + ", ".join(known))
        twice = [other for other in known if other != ours and pairs.get(other, other) == theirs]
        if twice and (twice[0] in pairs or theirs in known):
            raise UsageError(
                f"--columns {text!r} means the column {theirs} for {ours} and for {twice[0]}: accepted is one"
            )
    return pairs


def _read_toml(path: str) -> dict[str, str]:
    import tomllib

    try:
        content = tomllib.loads(storage.read_bytes(path).decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"--columns {path!r} is not readable: {error}") from error
    content = content.get("columns", content)
    if not all(isinstance(value, str) for value in content.values()):
        raise rejected("--columns", path, "a TOML file of pairs such as customer_id = 'CustomerID'")
    return dict(content)


def differences(schema_: pa.Schema, other: pa.Schema, columns: tuple[str, ...] = COLUMNS) -> str:
    names = [name for name in columns if name in schema_.names or name in other.names]
    types = {
        name: [str(s.field(name).type) if name in s.names else "no column" for s in (schema_, other)] for name in names
    }
    return ", ".join(f"{name} as {ours} (not {theirs})" for name, (ours, theirs) in types.items() if ours != theirs)


def our_schema(
    theirs: pa.Schema, columns: dict[str, str], where: str, shown: dict[str, str] | None = None,
    kind: LineKind = ORDER_LINES,
) -> pa.Schema:  # fmt: skip
    """Our columns of a source, with the types they have there.

    Args:
      columns: our names -> theirs, where they differ.
      where: names the file or table in messages.
      shown: their columns' types as a person knows them (default: Arrow's names).

    Raises:
      UsageError: naming the missing column or the wrong type, and what is accepted.
    """
    import pyarrow as pa

    for name in (columns.get(ours, ours) for ours in kind.columns):
        if theirs.names.count(name) > 1:
            raise UsageError(f"{where} has the column {name} {theirs.names.count(name)} times: accepted is once")
    fields = []
    for ours in kind.columns:
        name = columns.get(ours, ours)
        if name in theirs.names:
            fields.append(pa.field(ours, value_type(theirs.field(name).type)))
        elif ours in columns:
            raise rejected("--columns", f"{ours}={name}", f"a column of {where}: {', '.join(theirs.names)}")
    present = {field_.name for field_ in fields}
    product = {"quantity", "unit_price"} <= present
    for ours in kind.needed:
        if ours not in present and not (ours == "amount" and product):
            hint = " (or both quantity and unit_price)" if ours == "amount" else ""
            mend = f"name it by --columns {ours}=..."
            if where.endswith((".csv", ".csv.gz")) and len(theirs.names) == 1:
                mend += ", or the character between fields by --csv_delimiter"
            raise UsageError(f"{where} has no column {ours}{hint}: {mend}; it has {', '.join(theirs.names)}")
    for field_ in fields:
        name = columns.get(field_.name, field_.name)
        _check_type(field_, where, name, (shown or {}).get(name, str(field_.type)), kind)
    return pa.schema(fields)


def value_type(type_: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        return value_type(type_.value_type)
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", type_.tz)
    return type_


def plain(column: pa.Array) -> pa.Array:
    """The column in its ``value_type``. Nanoseconds are cut off: rounded, they could reach the next day."""
    import pyarrow as pa
    import pyarrow.compute as pc

    type_ = value_type(column.type)
    if pa.types.is_timestamp(type_) and type_ != column.type:
        if column.type.tz:  # floor the instant: an hour that a clock change repeats has no local time of its own
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        column = pc.floor_temporal(column, unit="microsecond")
    return column.cast(type_)


def _check_type(field_: pa.Field, where: str, theirs: str, shown: str, kind: LineKind) -> None:
    from pyarrow import types as t

    text = t.is_string(field_.type) or t.is_large_string(field_.type) or t.is_string_view(field_.type)
    number = t.is_integer(field_.type) or t.is_floating(field_.type) or t.is_decimal(field_.type)
    if field_.name == kind.time:
        fits, accepted = text or t.is_timestamp(field_.type) or t.is_date(field_.type), "timestamp, date or text"
        if kind.integer_times:
            fits, accepted = fits or t.is_integer(field_.type), "timestamp, date, text or integer"
    elif field_.name in kind.moneys or field_.name in kind.others:
        fits, accepted = text or number, "integer, float, decimal or text"
    elif field_.name == "customer_id":
        fits, accepted = text or t.is_integer(field_.type) or t.is_floating(field_.type), "text, integer or float"
    else:
        fits, accepted = text or t.is_integer(field_.type) or t.is_null(field_.type), "text or integer"
    if not fits:
        raise UsageError(
            f"{where}: column {theirs} has type {shown}, not usable as {field_.name}: accepted is {accepted}"
        )
