"""Tables that are ours in BigQuery: made when missing, and otherwise held to what they should be before a job is paid for.

Their partitions stay for ever. BigQuery gives a new table the default expiration of its dataset, and in its sandbox
every dataset has one, of 60 days: the partition of an older day would be gone as soon as it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import bigquery
from pipelines.bigquery import Table
from transforms import schema
from transforms.errors import UsageError
from transforms.schema import Column

if TYPE_CHECKING:
    from google.cloud import bigquery as google

# The REST API answers with the older names of some types.
_OLD_NAMES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
_DAY_MS = 24 * 60 * 60 * 1000
_SHOWN = 3  # differences in one line; a table of somebody else's has dozens


@dataclass(frozen=True)
class Layout:
    """A table's columns, in order, the DATE column it has daily partitions by, and what its rows are kept together by."""

    columns: tuple[Column, ...]
    partitioned_by: str
    clustered_by: tuple[str, ...] = ()
    description: str | None = None

    def fields(self) -> list[dict[str, str]]:
        # NULLABLE throughout: to BigQuery a query's result may always be null, and it refuses that in a REQUIRED column.
        return [{**field, "mode": "NULLABLE"} for field in schema.bigquery_schema(self.columns)]


def ensure(billing: str, table: Table, layout: Layout, about: str, *, replaced: bool = False) -> None:
    """Makes the table when there is none.

    Args:
      billing: the project that asks.
      about: what a person named the table by, to begin a message with.
      replaced: as for ``require``.

    Raises:
      UsageError: its dataset is missing, it may not be made or would expire, or ``require`` refuses what is there.
    """
    from google.api_core.exceptions import Conflict, NotFound

    client = bigquery.client(billing)
    with bigquery.explained(about):
        try:
            found = client.get_table(table.reference)
        except NotFound:
            try:
                keep(billing, client.create_table(_new(table, layout)), table, about)
                return
            except Conflict:  # made by another run meanwhile: then it is looked at like any other
                found = client.get_table(table.reference)
    require(found, table, layout, about, replaced=replaced)


def _new(table: Table, layout: Layout) -> google.Table:
    from google.cloud import bigquery as google

    made = google.Table(table.reference, [google.SchemaField.from_api_repr(field) for field in layout.fields()])
    made.description = layout.description
    made.time_partitioning = google.TimePartitioning(field=layout.partitioned_by)
    made.clustering_fields = list(layout.clustered_by) or None
    return made


def keep(billing: str, found: Any, table: Table, about: str) -> None:
    """Takes the expiration off a table that this process has made.

    Raises:
      UsageError: BigQuery does not let it go, as in the sandbox.
    """
    partitioning = found.time_partitioning
    if found.expires is None and not (partitioning and partitioning.expiration_ms):
        return
    found.expires = None
    if partitioning:
        partitioning.expiration_ms = None  # told as a null: what is not told stays
        found.time_partitioning = partitioning
    with bigquery.explained(f"{about} would expire, as its dataset has it, and cannot be kept"):
        found = bigquery.client(billing).update_table(found, ["expires", "time_partitioning"])
    _require_lasting(found, table, about)


def require(found: Any, table: Table, layout: Layout, about: str, *, replaced: bool = False) -> None:
    """Holds a table that exists against its layout.

    Args:
      found: what BigQuery says of it.
      replaced: whether it will be replaced whole, so that its columns and clustering need not fit.

    Raises:
      UsageError: it is another kind of table, has other columns, or forgets.
    """
    problems = _differences_of_shape(found, layout)
    content = [] if problems or replaced else _differences_of_columns(found, layout)
    if problems or content:
        every = [*problems, *content]
        more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
        raise UsageError(
            f"{about} is not usable: it has {'; '.join(every[:_SHOWN])}{more}: accepted is a table that this command has "
            "made, or the name of none"
        )
    _require_lasting(found, table, about)


def _differences_of_shape(found: Any, layout: Layout) -> list[str]:
    if found.table_type != "TABLE":
        return [f"the type {found.table_type}, not TABLE"]
    by = found.time_partitioning and found.time_partitioning.type_ == "DAY" and found.time_partitioning.field
    return [] if by == layout.partitioned_by else [f"no daily partitions by {layout.partitioned_by}"]


def _differences_of_columns(found: Any, layout: Layout) -> list[str]:
    have = {field.name: _shown(field.field_type, field.mode) for field in found.schema}
    want = {field["name"]: _shown(field["type"], field["mode"]) for field in layout.fields()}
    problems = [
        f"{name} as {have.get(name, 'no column')}, not {want.get(name, 'a column')}"
        for name in dict.fromkeys([*want, *have])
        if have.get(name) != want.get(name)
    ]
    if tuple(found.clustering_fields or ()) != layout.clustered_by:
        problems.append(
            f"clustering by {', '.join(found.clustering_fields or ['nothing'])}, not by "
            f"{', '.join(layout.clustered_by) or 'nothing'}"
        )
    return problems


def _shown(type_: str, mode: str) -> str:
    """A column's type as the REST API answers with it, and its mode where values are not simply optional."""
    return f"{mode} {_OLD_NAMES.get(type_, type_)}".removeprefix("NULLABLE ")


def _require_lasting(found: Any, table: Table, about: str) -> None:
    partitioning = found.time_partitioning
    if partitioning and partitioning.expiration_ms:
        days = f"{int(partitioning.expiration_ms) / _DAY_MS:g}"
        what, option = f"each of its partitions {days} days after its date", "partition_expiration_days"
    elif found.expires:
        what, option = f"all of it on {found.expires:%Y-%m-%d}", "expiration_timestamp"
    else:
        return
    raise UsageError(
        f"{about} is not usable: BigQuery deletes {what}: accepted is a table that is kept, by ALTER TABLE {table.sql} SET "
        f"OPTIONS ({option} = NULL) (in the sandbox, without billing, every table expires)"
    )
