"""The dataset and the tables that preparation fills: made when missing, and otherwise held to what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import bigquery_tables
from pipelines.bigquery import Table, client, explained
from pipelines.bigquery_tables import Layout
from transforms import schema
from transforms.errors import UsageError
from transforms.schema import Column, Role, Type

if TYPE_CHECKING:
    from google.cloud import bigquery

PARTITION = "loaded_on"
DEFAULT_LOCATION = "US"
_LOADED_ON = Column(PARTITION, Type.DATE, Role.ORDER, "day", "the --loaded_on of the preparation that wrote the row")


ORDERS = Layout(
    (*schema.ORDERS, _LOADED_ON),
    PARTITION,
    ("customer_id",),
    "Usable order lines, cleaned by orchestration.prepare: docs/data_contract.md",
)
DEAD_LETTERS = Layout(
    (
        _LOADED_ON,
        Column("stage", Type.STRING, Role.ORDER, "", "what refused the line"),
        Column("reason", Type.STRING, Role.ORDER, "", "one of the dead letters' reasons of docs/data_contract.md"),
        Column("detail", Type.STRING, Role.ORDER, "", "the column to blame, its value, and what is accepted instead"),
        Column("payload", Type.STRING, Role.ORDER, "", "the raw line under our column names, a JSON object"),
    ),
    PARTITION,
    description="Order lines that cannot be used, kept by orchestration.prepare so that they can be mended and loaded again",
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


def mend(billing: str, table: Table, layout: Layout) -> None:
    """Gives a table that was replaced whole its descriptions again, and takes off the expiration it got anew.

    Raises:
      UsageError: it cannot be kept.
    """
    from google.cloud import bigquery

    wanted = {field["name"]: field["description"] for field in layout.fields()}
    with explained(str(table)):
        found = client(billing).get_table(table.reference)
        if any(field.description != wanted.get(field.name) for field in found.schema):
            found.schema = [
                bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "description": wanted.get(field.name)})
                for field in found.schema
            ]
            found = client(billing).update_table(found, ["schema"])
    bigquery_tables.keep(billing, found, table, str(table))
