"""A predictions directory as publish reads it: checked as a whole first, then batch by batch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transforms.errors import UsageError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.checks import Constants

# Rows checked and staged at a time: some 10 MB of Arrow, and one transaction of the embedded store.
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Predictions:
    """A complete predictions directory; ``generation`` depends on nothing but its manifest.

    Attributes:
      paths: the files.
      digests: what the manifest says each holds (SHA-256); "" where it does not.
      batches: how many ``read_batches`` gives of all files.
    """

    directory: str
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    rows: int
    batches: int
    constants: Constants
    generation: str


def open_predictions(directory: str) -> Predictions:
    """Reads the manifest and every file's footer.

    Raises:
      UsageError: the directory is half-written or damaged, has other columns than predictions have, other row
        counts than its manifest says, or no row at all.
    """
    from transforms import storage
    from transforms.schema import PREDICTIONS, arrow_schema

    manifest = storage.read_manifest(directory, "predictions")
    missing = {"rows", "as_of", "horizon_days", "model_version", "parts"} - manifest.keys()
    if missing:
        raise UsageError(f"--predictions {directory!r}: its manifest says nothing about {', '.join(sorted(missing))}")
    constants = _constants(directory, manifest)
    paths = storage.list_parts(directory, manifest)
    digests = {part["name"]: str(part.get("sha256", "")) for part in manifest["parts"]}
    expected, rows, batches = arrow_schema(PREDICTIONS), 0, 0
    for path in paths:
        found, size = _footer(directory, path)
        if found != expected:
            raise UsageError(f"--predictions {directory!r}: {path} {_difference(found, expected)}")
        rows, batches = rows + size, batches + -(-size // BATCH_ROWS)
    if rows != manifest["rows"]:
        raise UsageError(
            f"--predictions {directory!r} has {rows} rows in its files, but its manifest says {manifest['rows']}"
        )
    if not rows:
        raise UsageError(
            f"--predictions {directory!r} has no rows: publishing it would leave every customer without one"
        )
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    return Predictions(
        directory, tuple(paths), tuple(digests[os.path.basename(path)] for path in paths), rows, batches, constants,
        f"{constants.as_of}-{digest}",
    )  # fmt: skip


def _constants(directory: str, manifest: dict[str, Any]) -> Constants:
    from datetime import date

    from serving.checks import Constants

    as_of, horizon, version = (manifest[name] for name in ("as_of", "horizon_days", "model_version"))
    parts = manifest["parts"]
    accepted = {
        "as_of": (isinstance(as_of, str) and _is_date(as_of), "a day such as 2011-12-10"),
        "horizon_days": (type(horizon) is int and horizon > 0, "a whole number of at least 1"),
        "model_version": (isinstance(version, str) and bool(version), "a model's version"),
        "parts": (
            isinstance(parts, list) and all(isinstance(p, dict) and "name" in p for p in parts),
            "a list of files",
        ),
    }
    for name, (is_fine, wanted) in accepted.items():
        if not is_fine:
            raise UsageError(
                f"--predictions {directory!r}: its manifest says {name}={manifest[name]!r}: accepted is {wanted}"
            )
    return Constants(date.fromisoformat(as_of), horizon, version)


def _is_date(text: str) -> bool:
    from datetime import date

    try:
        return str(date.fromisoformat(text)) == text
    except ValueError:
        return False


def _footer(directory: str, path: str) -> tuple[pa.Schema, int]:
    """A file's columns and number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from transforms import storage

    try:
        with storage.resolve(directory)[0].open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            return parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(directory, path, error) from error


def _damaged(directory: str, path: str, error: Exception) -> UsageError:
    return UsageError(f"--predictions {directory!r}: {path} is damaged: {one_line(str(error))}")


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for field in expected:
        if field.name not in found.names:
            return f"lacks the column {field.name}"
        if found.field(field.name).type != field.type:
            return f"has {field.name} as {found.field(field.name).type}, accepted is {field.type}"
    extra = [name for name in found.names if name not in expected.names]
    return f"has the columns {extra} too" if extra else f"has its columns in another order than {expected.names}"


def read_batches(
    directory: str, source: tuple[int, str], digest: str = "", columns: list[str] | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Batches of one file, each with a name that is the same whenever the file is read.

    Args:
      digest: what the file's content must hash to, where it is known; the file is then held in memory as a whole.

    Raises:
      UsageError: the file is damaged, or another one than the manifest speaks of.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from transforms import storage

    index, path = source
    try:
        with storage.resolve(directory)[0].open_input_file(path) as file:
            content: Any = file
            if digest:
                content = pa.py_buffer(file.read())
                if hashlib.sha256(content).hexdigest() != digest:
                    raise UsageError(f"--predictions {directory!r}: {path} is not the file that its manifest speaks of")
            parquet = pq.ParquetFile(content if content is file else pa.BufferReader(content))
            for number, batch in enumerate(parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns)):
                yield f"part-{index:05d}-{number:05d}", batch
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(directory, path, error) from error
