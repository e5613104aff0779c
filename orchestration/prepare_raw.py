"""The raw table between its load and the cleaning: the descriptions of its columns say what they are, and of which day.

A load that replaces a table replaces its schema in the same instant: lines and descriptions cannot part.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration import prepared_tables
from orchestration.raw_orders import RawOrders
from pipelines.bigquery import Table, client, explained
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

_DESCRIPTION = re.compile(
    r"(?P<ours>[a-z_]+): `(?P<theirs>.*)` of the (?P<kind>CSV|Parquet) files loaded on (?P<day>\d{4}-\d{2}-\d{2})",
    re.DOTALL,
)
_MOST_CHARACTERS = 900  # of a column's name; BigQuery keeps 1,024 of a description
_AGAIN = "python -m orchestration.prepare --only load, with the same --dataset, --raw_table and --loaded_on"


@dataclass(frozen=True)
class Loaded:
    """The lines in a raw table.

    ``columns`` maps our names to the files', where they differ; ``about`` is what a person named the lines by.
    """

    raw: RawOrders
    rows: int
    columns: dict[str, str]
    about: str


def described(raw: RawOrders, columns: dict[str, str], loaded_on: datetime.date) -> tuple[tuple[str, ...], ...]:
    """The raw table's columns as (name, type) and, where they are ours, a description that ``find`` understands."""
    ours = {theirs: name for name, theirs in raw.names.items()}
    kind = "CSV" if raw.empty_is_null else "Parquet"

    def description(column: str) -> str:
        theirs = _shortened(columns.get(ours[column], ours[column]))
        return f"{ours[column]}: `{theirs}` of the {kind} files loaded on {loaded_on}"

    return tuple((name, type_, *([description(name)] if name in ours else [])) for name, type_ in raw.fields)


def mark(project: str, table: Table, fields: tuple[tuple[str, ...], ...], rows: int) -> None:
    """Sees to it that the descriptions are there after the load of ``rows`` lines.

    BigQuery may leave them out where files have a schema of their own. Lines that somebody loaded meanwhile stay theirs.
    """
    with explained(str(table)):
        found = client(project).get_table(table.reference)
    if int(found.num_rows or 0) == rows:
        prepared_tables.describe(project, table, {name: text for name, _, *texts in fields for text in texts})


def find(project: str, table: Table, loaded_on: datetime.date, columns: dict[str, str]) -> Loaded:
    """What was loaded into the raw table.

    Args:
      project: pays for asking.
      columns: our names -> the files', as somebody believes them to be: they have to be what was loaded.

    Raises:
      UsageError: there is no such table, somebody else made it, its lines are another day's, or other columns are ours.
    """
    from google.api_core.exceptions import NotFound

    with explained(str(table)):
        try:
            found = client(project).get_table(table.reference)
        except NotFound:
            raise UsageError(f"raw table {table} is not there: accepted is to run {_AGAIN}, before this") from None
    told = {field.name: match for field in found.schema if (match := _DESCRIPTION.fullmatch(field.description or ""))}
    if not told:
        raise UsageError(
            f"table {table} is no raw table, or of an older version: accepted is to run {_AGAIN}, before this"
        )
    days = {match["day"] for match in told.values()}
    if days != {str(loaded_on)}:
        raise UsageError(
            f"raw table {table} holds the lines of {', '.join(sorted(days))}, not of --loaded_on {loaded_on}: accepted is "
            f"to run {_AGAIN}, before this"
        )
    theirs = {match["ours"]: match["theirs"] for match in told.values()}
    for name, given in columns.items():
        if theirs.get(name) != _shortened(given):
            raise rejected(
                "--columns", f"{name}={given}", f"{name}={theirs.get(name, '')} as {table} was loaded, or no --columns"
            )
    types = {field.name: _type(table, field) for field in found.schema if field.name in told}
    return Loaded(_raw(found.schema, told, types), int(found.num_rows or 0), theirs, f"raw table {table}")


def _shortened(name: str) -> str:
    return name[:_MOST_CHARACTERS]


def _raw(fields: list[SchemaField], told: dict[str, re.Match[str]], types: dict[str, pa.DataType]) -> RawOrders:
    """The lines as ``raw_orders.inspect`` tells of the files, as far as a table knows it."""
    import pyarrow as pa

    from pipelines import orders_source

    by_name = {match["ours"]: column for column, match in told.items()}
    names = {ours: by_name[ours] for ours in orders_source.COLUMNS if ours in by_name}
    return RawOrders(
        uris=(),
        files=(),
        fields=tuple((field.name, field.field_type) for field in fields),
        names=names,
        schema=pa.schema([(ours, types[column]) for ours, column in names.items()]),
        settings={},
        empty_is_null=any(match["kind"] == "CSV" for match in told.values()),
    )


def _type(table: Table, field: SchemaField) -> pa.DataType:
    import pyarrow as pa

    types = {
        "STRING": pa.string(), "INTEGER": pa.int64(), "FLOAT": pa.float64(), "NUMERIC": pa.decimal128(38, 9),
        # Its scale says that it is not money yet; that it has more digits does not matter to a statement.
        "BIGNUMERIC": pa.decimal128(38, 38),
        "DATE": pa.date32(), "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    if field.field_type not in types:
        raise UsageError(
            f"raw table {table} has {field.name} as {field.field_type}: accepted is to run {_AGAIN}, before this"
        )
    return types[field.field_type]
