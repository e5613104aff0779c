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
_MAKE = "python -m orchestration.prepare --only dataset, with the same arguments"
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
    return _located(found, location)


def require_dataset(billing: str, project: str, name: str, location: str | None) -> bigquery.Dataset:
    """The dataset, which has to be there.

    Raises:
      UsageError: it is missing, exists in another location, or may not be seen.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    with explained(f"--dataset {project}.{name}"):
        try:
            found = client(billing).get_dataset(bigquery.DatasetReference(project, name))
        except NotFound:
            raise UsageError(
                f"--dataset {project}.{name} is not there: accepted is to run {_MAKE}, before this"
            ) from None
    return _located(found, location)


def _located(found: bigquery.Dataset, location: str | None) -> bigquery.Dataset:
    if location and str(found.location).upper() != location.upper():
        raise UsageError(
            f"--location {location!r} is not where --dataset {found.project}.{found.dataset_id} is: accepted is "
            f"{found.location}, or another --dataset; a dataset cannot be moved"
        )
    return found


def ensure_table(billing: str, table: Table, layout: Layout, *, replaced: bool) -> None:
    """Makes the table when there is none; ``replaced`` is for ``bigquery_tables.require``, as are its errors."""
    bigquery_tables.ensure(billing, table, layout, str(table), replaced=replaced)


def require_table(billing: str, table: Table, layout: Layout, *, replaced: bool) -> None:
    """As ``ensure_table``, and the table has to be there.

    Raises:
      UsageError: it is missing, or ``bigquery_tables.require`` refuses it.
    """
    from google.api_core.exceptions import NotFound

    with explained(str(table)):
        try:
            found = client(billing).get_table(table.reference)
        except NotFound:
            raise UsageError(f"table {table} is not there: accepted is to run {_MAKE}, before this") from None
    bigquery_tables.require(found, table, layout, str(table), replaced=replaced)


def mend(billing: str, table: Table, layout: Layout) -> None:
    """Gives a table that was replaced whole its descriptions again, and takes off the expiration it got anew.

    Raises:
      UsageError: it cannot be kept.
    """
    found = describe(billing, table, {field["name"]: field["description"] for field in layout.fields()})
    bigquery_tables.keep(billing, found, table, str(table))


def describe(billing: str, table: Table, wanted: dict[str, str]) -> bigquery.Table:
    """Gives a table's columns these descriptions, the others none, where they are not so yet."""
    from google.cloud import bigquery

    with explained(str(table)):
        found = client(billing).get_table(table.reference)
        if all(field.description == wanted.get(field.name) for field in found.schema):
            return found
        found.schema = [
            bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "description": wanted.get(field.name)})
            for field in found.schema
        ]
        return client(billing).update_table(found, ["schema"])
