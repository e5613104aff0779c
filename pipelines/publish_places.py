"""The places a publish writes to, as its arguments name them."""

from __future__ import annotations

import datetime
import os
import sys
import uuid
from typing import TYPE_CHECKING

from serving import store as stores
from serving.store import Store, Writing
from transforms import storage
from transforms.errors import UsageError, one_line, rejected

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.publish_options import Places
    from pipelines.warehouse import Warehouse
    from serving.store import Generation


def open_store(places: Places, create: bool = False) -> Store:
    return stores.open_store(places.serving, create=create, writing=Writing(ttl=ttl(places)))


def open_existing(places: Places) -> Store:
    """For changes of what is there.

    Raises:
      UsageError: there is no such store.
    """
    open_store(places).close()  # one that is opened for writing would be made
    return open_store(places, create=True)


def ttl(places: Places) -> datetime.timedelta:
    return datetime.timedelta(days=places.ttl_days)


def open_warehouse(places: Places) -> Warehouse | None:
    """Raises: UsageError where it is not usable, before anything is staged."""
    from pipelines.bigquery import Table
    from pipelines.bigquery_predictions import BigQueryWarehouse
    from pipelines.warehouse import LocalWarehouse

    warehouse: Warehouse
    if places.bigquery_table:
        table = Table.parse("--bigquery_table", places.bigquery_table)
        warehouse = BigQueryWarehouse(table, places.staging or "", ttl(places))
    elif places.warehouse:
        warehouse = LocalWarehouse(places.warehouse)
    else:
        return None
    warehouse.check()
    return warehouse


def warehouse_name(places: Places) -> str | None:
    """How a generation's record names the warehouse it was staged for."""
    from pipelines.bigquery import SCHEME

    if places.bigquery_table:
        return f"{SCHEME}{places.bigquery_table.removeprefix(SCHEME)}"
    return os.path.abspath(places.warehouse) if places.warehouse else None


def require_same_warehouse(generation: Generation, places: Places) -> None:
    """Raises: UsageError where the store and another warehouse than the generation's would come apart."""
    here = warehouse_name(places)
    if generation.warehouse != here:
        staged = f"for {generation.warehouse}" if generation.warehouse else "without a warehouse"
        raise UsageError(
            f"generation {generation.name} was staged {staged}, this command names {here or 'none'}: accepted is the same "
            "--warehouse or --bigquery_table as at its publish (another one begins with the next predictions)"
        )


def require_writable(directory: str) -> None:
    """Raises: UsageError where nothing can be written to ``--dead_letters``; found out before all rows are staged."""
    if not storage.is_local(directory) and not directory.startswith("gs://"):
        raise rejected("--dead_letters", directory, "a directory, local or gs://, whose manifest can change")
    probe = storage.join(directory, f"_probe-{uuid.uuid4().hex}")
    try:
        storage.write_bytes(probe, b"")
        filesystem, path = storage.resolve(probe)
        filesystem.delete_file(path)
    except OSError as error:
        raise UsageError(
            f"--dead_letters {directory!r} cannot be written to ({one_line(str(error))}): accepted is a directory, local "
            "or gs://"
        ) from error


def refuse_remote_workers(places: Places, beam_options: PipelineOptions) -> None:
    """Raises: UsageError where workers on other machines could not reach a place on this one."""
    from apache_beam.options.pipeline_options import StandardOptions

    from pipelines.options import is_local

    if is_local(beam_options):
        return
    runner = beam_options.view_as(StandardOptions).runner
    if stores.is_local(places.serving):
        raise rejected("--runner", runner, f"a runner on this machine, where --serving {places.serving} is")
    if places.warehouse:
        raise rejected("--runner", runner, f"a runner on this machine, where --warehouse {places.warehouse} is")


def say(line: str) -> None:
    print(f"publish {line}", file=sys.stderr, flush=True)
