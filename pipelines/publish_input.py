"""A predictions directory as publish reads it: checked as a whole first, then batch by batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.checks import Constants

# Rows checked and staged at a time: some 10 MB of Arrow, and one transaction of the embedded store.
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Predictions:
    """A complete predictions directory; ``generation`` depends on nothing but its manifest."""

    directory: str
    paths: tuple[str, ...]
    rows: int
    constants: Constants
    generation: str


def open_predictions(directory: str) -> Predictions:
    """Reads the manifest and every file's footer.

    Raises:
      UsageError: the directory is half-written, has other columns than predictions have, other row
        counts than its manifest says, or no row at all.
    """
    from datetime import date

    import pyarrow.parquet as pq

    from serving.checks import Constants
    from transforms import storage
    from transforms.schema import PREDICTIONS, arrow_schema

    manifest = storage.read_manifest(directory, "predictions")
    missing = {"rows", "as_of", "horizon_days", "model_version", "parts"} - manifest.keys()
    if missing:
        raise UsageError(f"--predictions {directory!r}: its manifest says nothing about {', '.join(sorted(missing))}")
    filesystem, _ = storage.resolve(directory)
    paths = storage.list_parts(directory, manifest)
    expected, rows = arrow_schema(PREDICTIONS), 0
    for path in paths:
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            found = parquet.schema_arrow.remove_metadata()
            if found != expected:
                raise UsageError(f"--predictions {directory!r}: {path} {_difference(found, expected)}")
            rows += parquet.metadata.num_rows
    if rows != manifest["rows"]:
        raise UsageError(
            f"--predictions {directory!r} has {rows} rows in its files, but its manifest says {manifest['rows']}"
        )
    if not rows:
        raise UsageError(
            f"--predictions {directory!r} has no rows: publishing it would leave every customer without one"
        )
    constants = Constants(
        date.fromisoformat(manifest["as_of"]), int(manifest["horizon_days"]), str(manifest["model_version"])
    )
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    return Predictions(directory, tuple(paths), rows, constants, f"{constants.as_of}-{digest}")  # fmt: skip


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for field in expected:
        if field.name not in found.names:
            return f"lacks the column {field.name}"
        if found.field(field.name).type != field.type:
            return f"has {field.name} as {found.field(field.name).type}, accepted is {field.type}"
    extra = [name for name in found.names if name not in expected.names]
    return f"has the columns {extra} too" if extra else f"has its columns in another order than {expected.names}"


def read_batches(
    directory: str, source: tuple[int, str], columns: list[str] | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Batches of one file, each with a name that is the same whenever the file is read."""
    import pyarrow.parquet as pq

    from transforms import storage

    index, path = source
    with storage.resolve(directory)[0].open_input_file(path) as file:
        for number, batch in enumerate(pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS, columns=columns)):
            yield f"part-{index:05d}-{number:05d}", batch
