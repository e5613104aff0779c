"""The table that keeps the customers of every cutoff for analysts: a partition a cutoff, each replaced whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines import bigquery
from pipelines.bigquery import Table
from transforms import schema
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from google.cloud import bigquery as google

PARTITION, CLUSTERING = "cutoff", ("customer_id",)
# The REST API answers with the older names of some types.
_OLD_NAMES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


def fields() -> list[google.SchemaField]:
    """Its columns: the cutoff, the horizon, and those of ``schema.CUSTOMERS``, with their descriptions."""
    from google.cloud import bigquery as google

    columns: list[dict[str, str]] = [
        {
            "name": PARTITION,
            "type": "DATE",
            "description": "features see order days before it, labels those from it on",
        },
        {"name": "horizon_days", "type": "INT64", "description": "days of the labels; null where there are none"},
        *schema.bigquery_schema(schema.CUSTOMERS),
    ]
    # A query's columns are nullable: a partition of them does not fit into a table that requires values.
    return [google.SchemaField.from_api_repr({**column, "mode": "NULLABLE"}) for column in columns]


def create(project: str, table: Table) -> None:
    """Creates the table where there is none.

    Raises:
      UsageError: its dataset is missing, or it may not be created.
    """
    from google.cloud import bigquery as google

    made = google.Table(table.reference, fields())
    made.time_partitioning = google.TimePartitioning(field=PARTITION)
    made.clustering_fields = list(CLUSTERING)
    with bigquery.explained(f"--features_table {table}"):
        bigquery.client(project).create_table(made, exists_ok=True)


def require_usable(project: str, table: Table, location: str | None) -> None:
    """Holds the table, or the dataset that is to get it, against what will be written: before a query is paid for.

    Raises:
      UsageError: it has another layout or place, or there is no such dataset; one line with its name.
    """
    from google.api_core.exceptions import NotFound

    client = bigquery.client(project)
    argument = f"--features_table {table}"
    with bigquery.explained(argument):
        try:
            found = client.get_table(table.reference)
            place = found.location
        except NotFound:
            found, place = None, client.get_dataset(f"{table.project}.{table.dataset}").location
    if location and place and place.casefold() != location.casefold():
        raise rejected("--features_table", str(table), f"a table where the orders are, {location}, not in {place}")
    if found and (problems := _differences(found)):
        raise UsageError(
            f"{argument} is not usable: it has {'; '.join(problems[:3])}: accepted is a table that this command has made, "
            "or the name of none"
        )


def _differences(found: Any) -> list[str]:
    if found.table_type != "TABLE":
        return [f"the type {found.table_type}, not TABLE"]
    by = found.time_partitioning and found.time_partitioning.type_ == "DAY" and found.time_partitioning.field
    problems = [] if by == PARTITION else [f"no daily partitions by {PARTITION}"]
    if tuple(found.clustering_fields or ()) != CLUSTERING:
        problems.append(f"no clustering by {', '.join(CLUSTERING)}")
    theirs = {field.name: _shown(field) for field in found.schema}
    ours = {field.name: _shown(field) for field in fields()}
    return problems + [
        f"{name} as {theirs.get(name, 'no column')}, not {ours.get(name, 'a column')}"
        for name in dict.fromkeys([*ours, *theirs])
        if theirs.get(name) != ours.get(name)
    ]


def _shown(field: google.SchemaField) -> str:
    """The column's type as the REST API answers with it, and its mode where values are not simply optional."""
    type_ = _OLD_NAMES.get(field.field_type, field.field_type)
    return f"{field.mode} {type_}".removeprefix("NULLABLE ")
