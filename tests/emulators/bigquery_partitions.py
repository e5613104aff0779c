"""Teaches local-bigquery partition decorators: ``table$YYYYMMDD`` means one day of a partitioned table.

Without this it would take ``orders$20110808`` for the name of one more table. Runs inside the server.

What BigQuery does, and so does this: a query, load or copy job may write to a partition, and then replaces
(WRITE_TRUNCATE), extends (WRITE_APPEND) or refuses to touch (WRITE_EMPTY) that day alone, atomically; rows of
another day fail the job, and so does a copy of columns that may be null over such as may not; a partition can be
looked up, listed, copied from and deleted. On the way two figures of every table are put right: the number of rows (the emulator's still counts deleted ones) and the time of
the last change by a job.
"""

from __future__ import annotations

import datetime
import re
import uuid
from dataclasses import dataclass
from typing import Any

from local_bigquery.catalog import metadata, names, tabledata, tables
from local_bigquery.engine import database, results, types
from local_bigquery.errors import BigQueryError, already_exists
from local_bigquery.jobs import copy
from local_bigquery.models import JobConfigurationTableCopy, Table, TableFieldSchema

Reference = tuple[str, str, str]

_DECORATED = re.compile(r"(.+)\$([0-9]{8})")
_plain_annotate, _plain_columns, _plain_delete, _plain_load, _plain_name, _plain_write = (
    tables.annotate, tables.columns, tables.delete, tables.load, tables.name, tables.write,
)  # fmt: skip
_plain_decorated = copy.decorated


@dataclass(frozen=True)
class Partition:
    """One day of a table: the table's (project, dataset, table), the written id and the day."""

    table: Reference
    table_id: str
    day: datetime.date

    @property
    def label(self) -> str:
        return names.label(*self.table[:2], self.table_id)

    def condition(self) -> str:
        """SQL that holds for the partition's rows.

        Raises:
          BigQueryError: there is no such table (notFound), or it has no daily partitions by a column (invalid).
        """
        partitioning = _plain_load(*self.table).timePartitioning
        if not partitioning or not partitioning.field or (partitioning.type or "DAY") != "DAY":
            raise BigQueryError("invalid", f"{self.label}: the table is not partitioned by the days of a column")
        return f"CAST({database.quote(partitioning.field)} AS DATE) = DATE '{self.day}'"

    def rows(self, selected: str = "*") -> str:
        return f"(SELECT {selected} FROM {_plain_name(*self.table)} WHERE {self.condition()})"


def partition_of(project_id: str, dataset_id: str, table_id: str) -> Partition | None:
    """The partition a table id names, or None where it has no decorator."""
    if not (match := _DECORATED.fullmatch(table_id)):
        return None
    try:
        day = datetime.datetime.strptime(match[2], "%Y%m%d").date()
    except ValueError:
        raise BigQueryError("invalid", f"Invalid partition decorator: {table_id}") from None
    return Partition((project_id, dataset_id, match[1]), table_id, day)


def write(
    cur: Any,
    query: str,
    params: dict | None,
    reference: Reference,
    config: Any,
    default: str = "WRITE_EMPTY",
    prefix: str = "Invalid schema update. ",
    isolated: bool = False,
) -> bool:
    """``tables.write``, of a partition too. Returns whether a table was created."""
    partition = partition_of(*reference)
    if partition:
        created = _write_partition(cur, query, params, partition, config, default, prefix)
    else:
        created = _plain_write(cur, query, params, reference, config, default, prefix, isolated)
    annotate(reference, Table(lastModifiedTime=metadata.now()))
    return created


def annotate(reference: Reference, changes: Table) -> None:
    """``tables.annotate``: what is said of a partition is said of its table."""
    partition = partition_of(*reference)
    _plain_annotate(partition.table if partition else reference, changes)


def _write_partition(
    cur: Any, query: str, params: dict | None, partition: Partition, config: Any, default: str, prefix: str
) -> bool:
    created = _create_if_needed(cur, query, params, partition, config)
    if isinstance(config, JobConfigurationTableCopy):
        _require_same_modes(config, partition, prefix)
    condition = partition.condition()
    staged = database.quote("bq", "main", uuid.uuid4().hex)  # the emulator's own, in memory
    results.materialise(cur, query, staged, params)
    try:
        _require_same_columns(cur, staged, partition, prefix)
        if cur.sql(f"SELECT 1 FROM {staged} WHERE ({condition}) IS NOT TRUE LIMIT 1").fetchall():
            raise BigQueryError(
                "invalid",
                f"Some rows belong to different partitions rather than destination partition {partition.label}",
            )
        with database.writing(*partition.table):
            _replace(cur, staged, partition, condition, config.writeDisposition or default)
    finally:
        cur.execute(f"DROP TABLE {staged}")
    return created


def _create_if_needed(cur: Any, query: str, params: dict | None, partition: Partition, config: Any) -> bool:
    partitioning = getattr(config, "timePartitioning", None)
    if tables.exists(*partition.table) or not partitioning or config.createDisposition == "CREATE_NEVER":
        return False
    return _plain_write(cur, f"SELECT * FROM ({query}) WHERE false", params, partition.table, config)


def _require_same_columns(cur: Any, staged: str, partition: Partition, prefix: str) -> None:
    relation = cur.sql(f"SELECT * FROM {staged} LIMIT 0")
    given = {
        (name.casefold(), types.field(name, kind).type)
        for name, kind in zip(relation.columns, relation.types, strict=True)
    }
    wanted = {(field.name.casefold(), field.type) for field in _plain_columns(*partition.table)}
    for name, kind in sorted(given ^ wanted):
        problem = "is not in the table" if (name, kind) in given else "is missing"
        raise BigQueryError("invalid", f"{prefix}{partition.label}: field {name} of type {kind} {problem}")


def _require_same_modes(config: JobConfigurationTableCopy, partition: Partition, prefix: str) -> None:
    required = {field.name.casefold() for field in _plain_columns(*partition.table) if field.mode == "REQUIRED"}
    for source in config.sourceTables or [config.sourceTable]:
        for field in columns(*tables.reference(source)):
            if field.name.casefold() in required and field.mode != "REQUIRED":
                problem = f"Field {field.name} has changed mode from REQUIRED to NULLABLE"
                raise BigQueryError("invalid", f"{prefix}{partition.label}: {problem}")


def _replace(cur: Any, staged: str, partition: Partition, condition: str, disposition: str) -> None:
    table = _plain_name(*partition.table)
    if disposition == "WRITE_EMPTY" and cur.sql(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1").fetchall():
        raise already_exists("Table", partition.label)
    cur.execute("BEGIN TRANSACTION")
    try:
        if disposition == "WRITE_TRUNCATE":
            cur.execute(f"DELETE FROM {table} WHERE {condition}")
        cur.execute(f"INSERT INTO {table} BY NAME SELECT * FROM {staged}")
        cur.execute("COMMIT")
    except BaseException:
        cur.execute("ROLLBACK")
        raise


def load(project_id: str, dataset_id: str, table_id: str) -> Table:
    """``tables.load``: of a partition its table, under its own name and with its own number of rows."""
    partition = partition_of(project_id, dataset_id, table_id)
    if not partition:
        table = _plain_load(project_id, dataset_id, table_id)
        if table.type != "TABLE" or not tables.fields(table):
            return table
        return table.replace(numRows=_count(_plain_name(project_id, dataset_id, table_id)))
    table = _plain_load(*partition.table)
    reference = table.tableReference.replace(tableId=table_id)
    return table.replace(id=partition.label, tableReference=reference, numRows=_count(partition.rows()))


def _count(source: str) -> str:
    with database.cursor() as cur:
        [(rows,)] = cur.sql(f"SELECT count(*) FROM {source}").fetchall()
    return str(rows)


def columns(project_id: str, dataset_id: str, table_id: str) -> list[TableFieldSchema]:
    partition = partition_of(project_id, dataset_id, table_id)
    return _plain_columns(*(partition.table if partition else (project_id, dataset_id, table_id)))


def name(project_id: str, dataset_id: str, table_id: str) -> str:
    """What stands after FROM where rows are listed, which is in the order of their ids."""
    partition = partition_of(project_id, dataset_id, table_id)
    return partition.rows("rowid, *") if partition else _plain_name(project_id, dataset_id, table_id)


def decorated(project_id: str, dataset_id: str, table_id: str) -> str | None:
    """The source of a copy job that is a part of a table."""
    partition = partition_of(project_id, dataset_id, table_id)
    return partition.rows() if partition else _plain_decorated(project_id, dataset_id, table_id)


def delete(project_id: str, dataset_id: str, table_id: str) -> None:
    if not (partition := partition_of(project_id, dataset_id, table_id)):
        _plain_delete(project_id, dataset_id, table_id)
        return
    with database.writing(*partition.table):
        database.execute(f"DELETE FROM {_plain_name(*partition.table)} WHERE {partition.condition()}")


def teach() -> None:
    tables.write, tables.load, tables.columns, tables.delete = write, load, columns, delete
    tables.annotate = annotate
    tabledata.load, tabledata.columns, tabledata.name = load, columns, name
    copy.decorated = decorated
