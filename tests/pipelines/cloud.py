"""A whole cloud for tests of publishing: Datastore, and BigQuery where it is wanted, behind the real command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import bigquery, publish
from serving.store import open_store
from tests.pipelines.publishing import write_predictions
from tests.serving.store_contract import AS_OF

KIND = "CustomerValue"


@dataclass(frozen=True)
class Cloud:
    """A Datastore project and a folder, with BigQuery or without, and the command that publishes to them."""

    root: Path
    serving: str
    table: str | None = None
    bucket: str | None = None
    published: list[str] = field(default_factory=list)

    @property
    def project(self) -> str:
        return self.serving.removeprefix("datastore://")

    def places(self) -> list[str]:
        warehouse = ["--bigquery_table", self.table, "--staging", f"gs://{self.bucket}/staging"] if self.table else []
        return ["--serving", self.serving, *warehouse]

    def arguments(self, directory: str, *more: str) -> list[str]:
        letters = ["--dead_letters", f"{self.root}/dl"]
        return ["--predictions", directory, *self.places(), *letters, "--ramp", "off", *more]

    def publish(self, directory: str, *more: str) -> dict[str, Any]:
        result = publish.run(self.arguments(directory, *more))
        self.published.append(result["generation"])
        return result

    def predictions(self, name: str, *tables: pa.Table, as_of: date = AS_OF) -> str:
        return write_predictions(self.root / name, tables, as_of)

    def entities(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{namespace: {customer id: properties}} of all that publishes left, by Google's own client.

        The emulators do not list namespaces: asked for are those of the first attempts at every generation.
        """
        from google.cloud import datastore

        client = datastore.Client(project=self.project)
        namespaces = [f"{name}.{attempt}" for name in self.published for attempt in range(1, 5)]
        found = {n: dict(_pages(client.query(kind=KIND, namespace=n))) for n in namespaces}
        return {namespace: entities for namespace, entities in found.items() if entities}

    def served_rows(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        with open_store(self.serving) as store:
            return store.lookup_many(ids)

    def query(self, sql: str) -> list[dict[str, Any]]:
        assert self.table is not None
        client = bigquery.client(self.table.split(".")[0])
        return [dict(row) for row in client.query(sql).result()]

    def tables(self) -> list[str]:
        assert self.table is not None
        project, dataset, _ = self.table.split(".")
        return sorted(each.table_id for each in bigquery.client(project).list_tables(f"{project}.{dataset}"))


def _pages(query: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key name, properties) of what a query finds: the emulators would send all of it in one message, too long a one."""
    cursor = None
    while True:
        results = query.fetch(limit=2_000, start_cursor=cursor)
        found = list(results)
        yield from ((entity.key.name, dict(entity)) for entity in found)
        cursor = results.next_page_token
        if len(found) < 2_000 or cursor is None:
            return


def rows_by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["customer_id"]: row for row in table.to_pylist()}


def split(table: pa.Table, files: int) -> list[pa.Table]:
    size = -(-table.num_rows // files)
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def assert_serves(cloud: Cloud, generation: str, table: pa.Table) -> None:
    """Every row of the table is served by the generation, every column as it was."""
    wanted = rows_by_id(table)
    served = cloud.served_rows(list(wanted))
    assert served == {i: row | {"generation": generation} for i, row in wanted.items()}
