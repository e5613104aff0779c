"""Features directories as the trainer reads them: which may be used together, and their rows."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transforms import schema, storage
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

OUT_OF_TIME, BY_CUSTOMER = "out of time", "by customer"


@dataclass(frozen=True)
class Snapshot:
    """One features directory. ``manifest_hash`` (64 hex digits) identifies its content."""

    uri: str
    cutoff: datetime.date
    horizon_days: int
    history_days: int | None
    transform_fingerprint: str
    schema_fingerprint: str
    manifest_hash: str
    manifest: dict[str, Any] = field(repr=False, compare=False)

    @property
    def label_end(self) -> datetime.date:
        """The first day no label sees."""
        return self.cutoff + datetime.timedelta(days=self.horizon_days)


def open_snapshot(uri: str) -> Snapshot:
    """A finished features directory.

    Raises:
      UsageError: it has no manifest, or one of another kind.
    """
    manifest = storage.read_manifest(uri, "features")
    arguments: dict[str, Any] = manifest["arguments"]
    return Snapshot(
        uri,
        datetime.date.fromisoformat(arguments["cutoff"]),
        int(arguments["horizon_days"]),
        arguments.get("history_days"),
        str(manifest["transform_fingerprint"]),
        str(arguments["schema_fingerprint"]),
        hashlib.sha256(storage.read_bytes(storage.join(uri, storage.MANIFEST))).hexdigest(),
        manifest,
    )


def judged_by(training: Sequence[Snapshot], evaluation: Snapshot) -> str:
    """How a model of ``training`` is judged on ``evaluation``: OUT_OF_TIME, or BY_CUSTOMER when it is one of them.

    Raises:
      UsageError: the snapshots do not fit together, or the evaluation would see days the training labels saw.
    """
    first = training[0]
    for snapshot in (*training, evaluation):
        if snapshot.schema_fingerprint != schema.fingerprint(schema.CUSTOMERS):
            raise UsageError(f"{snapshot.uri!r} was made with other feature formulas than this code's: make it anew")
    for other in (*training[1:], evaluation):
        _require_equal("horizon_days", first, other)
        _require_equal("history_days", first, other)
    for other in training[1:]:
        if other.transform_fingerprint != first.transform_fingerprint:
            raise UsageError(
                f"--features {other.uri!r} was transformed unlike {first.uri!r}: make all training snapshots but one "
                "with pipelines.features --reuse_transform naming that one"
            )
    if storage.resolve(evaluation.uri)[1] in [storage.resolve(snapshot.uri)[1] for snapshot in training]:
        return BY_CUSTOMER
    for snapshot in training:
        if evaluation.cutoff < snapshot.label_end:
            raise UsageError(
                f"--evaluation {evaluation.uri!r} has cutoff {evaluation.cutoff}, "
                f"inside the labels of {snapshot.uri!r}: accepted is a cutoff from {snapshot.label_end} on, or one of the --features directories"
            )
    return OUT_OF_TIME


def _require_equal(name: str, first: Snapshot, other: Snapshot) -> None:
    expected, found = getattr(first, name), getattr(other, name)
    if expected != found:
        raise UsageError(f"{other.uri!r} has {name} {found}: accepted is {expected}, as in {first.uri!r}")


def read_transformed(snapshots: Sequence[Snapshot], splits: Sequence[str], most_rows: int | None = None) -> pa.Table:
    """The transformed rows of some splits of all the snapshots: flat columns, labels included.

    Args:
      most_rows: about so many rows at random, the same ones every time; by default all.

    Raises:
      UsageError: there is none, or its labels are missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    share = _share(snapshots, splits, most_rows)
    rows = pa.concat_tables([_read(s, "transformed", splits, share) for s in snapshots])
    where = ", ".join(snapshot.uri for snapshot in snapshots)
    if not rows.num_rows:
        raise UsageError(
            f"--features {where} has no customer in the {' or '.join(splits)} split: accepted are snapshots of more customers"
        )
    if not all(pc.all(pc.is_finite(rows[name])).as_py() for name in schema.names(schema.LABELS)):
        raise UsageError(f"--features {where} has customers without labels: accepted are snapshots made for training")
    return rows


def read_customers(
    snapshot: Snapshot, splits: Sequence[str] | None = None, columns: Sequence[str] | None = None,
    most_rows: int | None = None,
) -> pa.Table:  # fmt: skip
    """``schema.CUSTOMERS`` of a snapshot, or some of its columns.

    Args:
      splits: by default all.
      most_rows: about so many rows at random, the same ones every time; by default all.

    Raises:
      UsageError: there is no such customer, or labels are missing.
    """
    splits = splits or schema.SPLITS
    rows = _read(snapshot, "raw", splits, _share([snapshot], splits, most_rows), columns)
    if not rows.num_rows:
        raise UsageError(
            f"{snapshot.uri!r} has no customer in the {' or '.join(splits)} split: accepted is a larger snapshot"
        )
    if any(rows[name].null_count for name in schema.names(schema.LABELS) if name in rows.column_names):
        raise UsageError(f"{snapshot.uri!r} has customers without labels: accepted is a snapshot with a horizon")
    return rows


def _share(snapshots: Sequence[Snapshot], splits: Sequence[str], most_rows: int | None) -> float:
    """The share of the rows to read so that they are about ``most_rows``."""
    if most_rows is None:
        return 1.0
    rows = sum(snapshot.manifest["splits"].get(split, 0) for snapshot in snapshots for split in splits)
    return min(1.0, most_rows / max(rows, 1))


def _read(
    snapshot: Snapshot, folder: str, splits: Sequence[str], share: float, columns: Sequence[str] | None = None
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    directory = storage.join(snapshot.uri, folder)
    filesystem, _ = storage.resolve(directory)
    paths = storage.list_parts(directory, snapshot.manifest)
    chosen = None if set(splits) == set(schema.SPLITS) else ds.field(schema.SPLIT.name).isin(list(splits))
    tables = []
    for path in paths:
        part = pq.read_table(path, filesystem=filesystem, filters=chosen, columns=columns)
        tables.append(part if share >= 1 else part.filter(_dice(path, part.num_rows) < share))
    return pa.concat_tables(tables)


def _dice(path: str, rows: int) -> Any:
    """[rows] numbers in [0, 1): the same for the same part of a snapshot, wherever the snapshot lies."""
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(path.rsplit("/", 1)[-1].encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(rows)
