"""The features table: what an analyst reads, replaced only by customers that have passed every check of their job."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from pipelines import bigquery, features_table
from pipelines.bigquery import Query, Table
from transforms import schema
from transforms.customer_features import Snapshot
from transforms.pushdown import FATE

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeepFeatures:
    """Copies the staged result of a job's query into the cutoff's partition of the features table.

    A result is staged beside that table, and not where BigQuery itself puts it: there it could not be above 10 GB.
    """

    staged: Table
    copy: Query

    @classmethod
    def of(cls, customers: Query, table: Table, snapshot: Snapshot) -> KeepFeatures:
        """Args: customers: the query that makes the customers, with the staged table as its destination."""
        assert customers.destination is not None
        names = ", ".join(f"`{name}`" for name in schema.names(schema.CUSTOMERS))
        horizon = str(snapshot.horizon_days) if snapshot.labels else "NULL"
        sql = (
            f"SELECT DATE '{snapshot.cutoff}' AS cutoff, CAST({horizon} AS INT64) AS horizon_days, {names} "
            f"FROM {customers.destination.sql} WHERE {FATE} IS NULL"
        )
        # Without the limit of bytes: what it scans has been paid for.
        copy = Query(
            customers.name.replace("-customers-", "-table-"), customers.project, sql, customers.location, customers.labels,
            destination=replace(table, partition=snapshot.cutoff),
            partitioned_by=features_table.PARTITION, clustered_by=features_table.CLUSTERING,
        )  # fmt: skip
        return cls(customers.destination, copy)

    def run(self) -> None:
        """Replaces the partition, then deletes the staged result; may be called again.

        Raises:
          UsageError: BigQuery refuses it; one line.
        """
        from google.api_core.exceptions import GoogleAPICallError

        target = self.copy.destination
        assert target is not None
        features_table.create(self.copy.project, replace(target, partition=None))
        bigquery.run(self.copy)
        try:
            bigquery.client(self.copy.project).delete_table(self.staged.reference, not_found_ok=True)
        except GoogleAPICallError as error:  # it goes by itself within a day
            _LOG.warning("%s is not deleted: %s", self.staged, bigquery.message(error))
