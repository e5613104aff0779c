"""Tables of ours: what is refused, by BigQuery's own description of a table; and that what is made stays, on the emulator."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from google.api_core.exceptions import Forbidden
from google.cloud import bigquery as google

from pipelines import bigquery, bigquery_tables, features_table
from pipelines.bigquery import Table
from pipelines.bigquery_tables import Layout
from tests.pipelines import bigquery_data
from transforms.errors import UsageError
from transforms.schema import Column, Role, Type

PROJECT = "test-project"
TABLE = Table("my-project", "shop", "visits")
LAYOUT = Layout(
    (
        Column("day", Type.DATE, Role.ORDER, "day", "when"),
        Column("customer_id", Type.STRING, Role.ID, "", "who"),
        Column("pages", Type.INT, Role.ORDER, "pages", "how many"),
    ),
    "day",
    ("customer_id",),
    "Visits",
)
DAY_MS = 86_400_000


def described(**changes: Any) -> google.Table:
    """A table as the REST API describes one of the layout, but for the changes."""
    fields = [("day", "DATE"), ("customer_id", "STRING"), ("pages", "INTEGER")]
    resource = {
        "tableReference": {"projectId": TABLE.project, "datasetId": TABLE.dataset, "tableId": TABLE.table},
        "type": "TABLE",
        "schema": {"fields": [{"name": name, "type": type_, "mode": "NULLABLE"} for name, type_ in fields]},
        "timePartitioning": {"type": "DAY", "field": "day"},
        "clustering": {"fields": ["customer_id"]},
    }
    return google.Table.from_api_repr({**copy.deepcopy(resource), **changes})


def fields(**changes: dict[str, str] | None) -> dict[str, Any]:
    kept = [{**f, **(changes.get(f["name"], {}) or {})} for f in described().to_api_repr()["schema"]["fields"]]
    added = [{"name": name, **more} for name, more in changes.items() if more and name not in {f["name"] for f in kept}]
    return {"fields": [f for f in kept if changes.get(f["name"], f) is not None] + added}


def refused(found: google.Table, **others: bool) -> str:
    with pytest.raises(UsageError) as raised:
        bigquery_tables.require(found, TABLE, LAYOUT, "--visits p.d.t", **others)
    (line,) = str(raised.value).splitlines()
    assert line.startswith("--visits p.d.t is not usable: ")
    return line


def test_its_own_description_is_accepted() -> None:
    bigquery_tables.require(described(), TABLE, LAYOUT, "")


SHAPES = [
    ({"type": "VIEW"}, "the type VIEW, not TABLE"),
    ({"timePartitioning": None}, "no daily partitions by day"),
    ({"timePartitioning": {"type": "DAY"}}, "no daily partitions by day"),
    ({"timePartitioning": {"type": "MONTH", "field": "day"}}, "no daily partitions by day"),
    ({"timePartitioning": {"type": "DAY", "field": "seen"}}, "no daily partitions by day"),
]
CONTENTS = [
    ({"schema": fields(customer_id={"mode": "REQUIRED"})}, "customer_id as REQUIRED STRING, not STRING"),
    ({"schema": fields(pages={"mode": "REPEATED"})}, "pages as REPEATED INTEGER, not INTEGER"),
    ({"schema": fields(pages={"type": "FLOAT"})}, "pages as FLOAT, not INTEGER"),
    ({"schema": fields(pages=None)}, "pages as no column, not INTEGER"),
    ({"schema": fields(more={"type": "STRING", "mode": "NULLABLE"})}, "more as STRING, not a column"),
    ({"clustering": {"fields": ["pages"]}}, "clustering by pages, not by customer_id"),
    ({"clustering": None}, "clustering by nothing, not by customer_id"),
]
EXPIRING = [
    (
        {"timePartitioning": {"type": "DAY", "field": "day", "expirationMs": str(60 * DAY_MS)}},
        "deletes each of its partitions 60 days after its date: accepted is a table that is kept, by ALTER TABLE `my-project.shop.visits` SET OPTIONS (partition_expiration_days = NULL)",
    ),
    ({"expirationTime": "1893456000000"}, "deletes all of it on 2030-01-01: accepted is a table that is kept"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), [*SHAPES, *CONTENTS, *EXPIRING])
def test_another_table_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    assert said in refused(described(**changes))


@pytest.mark.parametrize(("changes", "said"), [*SHAPES, *EXPIRING])
def test_of_a_table_that_is_replaced_whole_the_shape_must_fit(changes: dict[str, Any], said: str) -> None:
    assert said in refused(described(**changes), replaced=True)


@pytest.mark.parametrize("changes", [changes for changes, _ in CONTENTS])
def test_of_a_table_that_is_replaced_whole_the_columns_need_not_fit(changes: dict[str, Any]) -> None:
    bigquery_tables.require(described(**changes), TABLE, LAYOUT, "", replaced=True)


def test_many_differences_are_counted() -> None:
    said = refused(described(schema={"fields": [{"name": "x", "type": "STRING", "mode": "NULLABLE"}]}))
    assert "pages as no column, not INTEGER and 1 more: accepted is" in said


# --- What is made -----------------------------------------------------------------------------------------------------


class Defaults:
    """What BigQuery does where the emulator does not: a new table takes the dataset's default for its partitions.

    ``sandbox`` refuses, as BigQuery does without billing, to take an expiration off.
    """

    def __init__(self, patch: pytest.MonkeyPatch, sandbox: bool = False) -> None:
        client = bigquery.client(PROJECT)
        self._client, self._api, self._sandbox = client, client._connection.api_request, sandbox
        patch.setattr(client._connection, "api_request", self.api_request)

    def api_request(self, **request: Any) -> Any:
        data = request.get("data")
        if request["method"] == "POST" and request["path"].endswith("/tables") and "timePartitioning" in data:
            dataset = self._client.get_dataset(".".join(request["path"].split("/")[2:5:2]))
            if dataset.default_partition_expiration_ms and "expirationMs" not in data["timePartitioning"]:
                default = str(dataset.default_partition_expiration_ms)
                data = {**data, "timePartitioning": {**data["timePartitioning"], "expirationMs": default}}
                request["data"] = data
        if self._sandbox and request["method"] == "PATCH" and '"expirationMs": null' in json.dumps(data):
            raise Forbidden("Billing has not been enabled for this project.")
        return self._api(**request)


def expiring(dataset: str, **defaults: int) -> None:
    client = bigquery_data.client()
    found = client.get_dataset(dataset)
    for name, milliseconds in defaults.items():
        setattr(found, name, milliseconds)
    client.update_dataset(found, list(defaults))
    assert all(getattr(client.get_dataset(dataset), name) == value for name, value in defaults.items())


DEFAULTS = [{"default_partition_expiration_ms": 60 * DAY_MS}, {"default_table_expiration_ms": 60 * DAY_MS}]


@pytest.mark.emulators
@pytest.mark.parametrize("defaults", DEFAULTS)
def test_a_new_table_stays_in_a_dataset_whose_tables_go(
    defaults: dict[str, int], dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiring(dataset, **defaults)
    Defaults(monkeypatch)
    table = Table.parse("a", f"{dataset}.features")
    for _ in range(2):
        features_table.create(PROJECT, table)
        features_table.require_usable(PROJECT, table, None)
        found = bigquery_data.client().get_table(table.reference)
        assert found.expires is None and found.time_partitioning.expiration_ms is None
        assert (found.time_partitioning.type_, found.time_partitioning.field) == ("DAY", "cutoff")


@pytest.mark.emulators
def test_a_table_that_cannot_be_kept_is_refused_at_once_and_again(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiring(dataset, default_partition_expiration_ms=60 * DAY_MS)
    Defaults(monkeypatch, sandbox=True)
    table = Table.parse("a", f"{dataset}.features")
    with pytest.raises(UsageError, match="would expire, as its dataset has it, and cannot be kept: Billing has not"):
        features_table.create(PROJECT, table)
    with pytest.raises(UsageError, match="deletes each of its partitions 60 days after its date"):
        features_table.create(PROJECT, table)


@pytest.mark.emulators
def test_a_table_made_meanwhile_is_held_to_the_layout(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table.parse("a", f"{dataset}.visits")
    client = bigquery.client(PROJECT)
    create = client.create_table

    def second(wanted: google.Table) -> google.Table:
        bigquery_data.query(f"CREATE TABLE `{table}` AS SELECT 1 AS a")
        return create(wanted)

    monkeypatch.setattr(client, "create_table", second)
    with pytest.raises(UsageError, match="no daily partitions by day"):
        bigquery_tables.ensure(PROJECT, table, LAYOUT, "--visits")


@pytest.mark.emulators
def test_a_new_table_has_the_layout(dataset: str) -> None:
    table = Table.parse("a", f"{dataset}.visits")
    for _ in range(2):
        bigquery_tables.ensure(PROJECT, table, LAYOUT, "--visits")
    found = bigquery_data.client().get_table(table.reference)
    assert (found.description, found.clustering_fields) == ("Visits", ["customer_id"])
    assert {f.name: (f.field_type, f.mode) for f in found.schema} == {
        "day": ("DATE", "NULLABLE"), "customer_id": ("STRING", "NULLABLE"), "pages": ("INTEGER", "NULLABLE"),
    }  # fmt: skip
