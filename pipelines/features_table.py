"""The table that keeps the customers of every cutoff for analysts: a partition a cutoff, each replaced whole."""

from __future__ import annotations

from pipelines import bigquery, bigquery_tables
from pipelines.bigquery import Table
from pipelines.bigquery_tables import Layout
from transforms import schema
from transforms.errors import rejected
from transforms.schema import Column, Role, Type

PARTITION, CLUSTERING = "cutoff", ("customer_id",)
LAYOUT = Layout(
    (
        Column(PARTITION, Type.DATE, Role.SPLIT, "day", "features see order days before it, labels those from it on"),
        Column("horizon_days", Type.INT, Role.SPLIT, "days", "days of the labels", "null where there are none"),
        *schema.CUSTOMERS,
    ),
    PARTITION,
    CLUSTERING,
)


def create(project: str, table: Table) -> None:
    """Creates the table where there is none, of partitions that stay.

    Raises:
      UsageError: its dataset is missing, it may not be created or kept, or another has come by that name.
    """
    bigquery_tables.ensure(project, table, LAYOUT, f"--features_table {table}")


def require_usable(project: str, table: Table, location: str | None) -> None:
    """Holds the table, or the dataset that is to get it, against what will be written: before a query is paid for.

    Raises:
      UsageError: it has another layout or place, its partitions expire, or there is no such dataset; one line with
        its name.
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
    if found:
        bigquery_tables.require(found, table, LAYOUT, argument)
