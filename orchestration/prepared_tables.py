"""The dataset and the tables that preparation fills: made when missing, and otherwise held to what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.bigquery import Table, client, explained
from transforms import schema
from transforms.errors import UsageError
from transforms.schema import Column, Role, Type

if TYPE_CHECKING:
    from google.cloud import bigquery

PARTITION = "loaded_on"
DEFAULT_LOCATION = "US"
_LOADED_ON = Column(PARTITION, Type.DATE, Role.ORDER, "day", "the --loaded_on of the preparation that wrote the row")


@dataclass(frozen=True)
class Layout:
    """A table's columns, in order, and what its rows are kept together by."""

    columns: tuple[Column, ...]
    description: str
    clustered_by: tuple[str, ...] = ()

    def fields(self) -> list[dict[str, str]]:
        # NULLABLE throughout: to BigQuery a query's result may always be null, and it refuses that in a REQUIRED column.
        return [{**field, "mode": "NULLABLE"} for field in schema.bigquery_schema(self.columns)]


ORDERS = Layout(
    (*schema.ORDERS, _LOADED_ON),
    "Usable order lines, cleaned by orchestration.prepare: docs/data_contract.md",
    ("customer_id",),
)
DEAD_LETTERS = Layout(
    (
        _LOADED_ON,
        Column("stage", Type.STRING, Role.ORDER, "", "what refused the line"),
        Column("reason", Type.STRING, Role.ORDER, "", "one of the dead letters' reasons of docs/data_contract.md"),
        Column("detail", Type.STRING, Role.ORDER, "", "the column to blame, its value, and what is accepted instead"),
        Column("payload", Type.STRING, Role.ORDER, "", "the raw line under our column names, a JSON object"),
    ),
    "Order lines that cannot be used, kept by orchestration.prepare so that they can be mended and loaded again",
)


def ensure_dataset(
    billing: str, project: str, name: str, location: str | None, labels: dict[str, str]
) -> bigquery.Dataset:
    """The dataset, made in ``location`` (default US) when missing. An existing one is never changed.

    Raises:
      UsageError: it exists in another location, or may not be seen or made.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    reference = bigquery.DatasetReference(project, name)
    with explained(f"--dataset {project}.{name}"):
        try:
            found = client(billing).get_dataset(reference)
        except NotFound:
            wanted = bigquery.Dataset(reference)
            wanted.location = location or DEFAULT_LOCATION
            wanted.labels = labels
            # Somebody else may make it meanwhile: then theirs counts, and is looked at like any other.
            client(billing).create_dataset(wanted, exists_ok=True)
            found = client(billing).get_dataset(reference)
    if location and str(found.location).upper() != location.upper():
        raise UsageError(
            f"--location {location!r} is not where --dataset {project}.{name} is: accepted is {found.location}, or "
            "another --dataset; a dataset cannot be moved"
        )
    return found


def ensure_table(billing: str, table: Table, layout: Layout, *, replace: bool) -> None:
    """Makes the table when missing.

    Args:
      replace: whether the table will be replaced whole, so that its columns need not fit.

    Raises:
      UsageError: what exists by that name is no table of daily partitions of this layout.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    with explained(str(table)):
        try:
            found = client(billing).get_table(table.reference)
        except NotFound:
            wanted = bigquery.Table(table.reference, [bigquery.SchemaField.from_api_repr(f) for f in layout.fields()])
            wanted.description = layout.description
            wanted.time_partitioning = bigquery.TimePartitioning(field=PARTITION)
            wanted.clustering_fields = list(layout.clustered_by) or None
            client(billing).create_table(wanted, exists_ok=True)
            return
    _require_partitions(found, table)
    if not replace:
        _require_columns(found, table, layout)


def _require_partitions(found: Any, table: Table) -> None:
    partitioning = found.time_partitioning
    if not partitioning or (partitioning.field, partitioning.type_) != (PARTITION, "DAY"):
        have = (
            f"partitioned by {partitioning.field or 'ingestion time'}" if partitioning else "without daily partitions"
        )
        raise UsageError(
            f"{table} is a {found.table_type} {have}: accepted is a table partitioned by the days of {PARTITION}, or a "
            "name that is free"
        )


def _require_columns(found: Any, table: Table, layout: Layout) -> None:
    have = {(field.name, field.field_type) for field in found.schema}
    want = {(column.name, column.type.bigquery) for column in layout.columns}
    if have != want:
        differences = ", ".join(f"{name} {type_}" for name, type_ in sorted(have ^ want))
        raise UsageError(
            f"{table} differs from the columns of orders in {differences}: accepted are exactly the contract's; "
            "--replace makes it anew"
        )


def describe(billing: str, table: Table, layout: Layout) -> None:
    """Writes the columns' descriptions where they are not as they should be: a table replaced whole has lost them."""
    from google.cloud import bigquery

    wanted = {field["name"]: field["description"] for field in layout.fields()}
    with explained(str(table)):
        found = client(billing).get_table(table.reference)
        if all(field.description == wanted.get(field.name) for field in found.schema):
            return
        found.schema = [
            bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "description": wanted.get(field.name)})
            for field in found.schema
        ]
        client(billing).update_table(found, ["schema"])
