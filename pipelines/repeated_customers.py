"""Which customers may occur more than once among predictions: those whose id's hash does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines import publish_input
from pipelines.publish_input import Predictions
from transforms import engines
from transforms.errors import JobFailed

if TYPE_CHECKING:
    import pyarrow as pa

HASHES_PER_BUCKET = 4_000_000  # 32 MB, sorted in memory
# So many customers that occur twice are no slip any more; and one worker compares their rows, one by one.
MOST_REPEATED = 50_000


def id_hashes(predictions: Predictions, source: tuple[int, str]) -> Iterator[tuple[int, bytes]]:
    """(bucket, 64-bit hashes) of the customer ids of one file; equal ids are in one bucket."""
    import numpy as np

    buckets = -(-predictions.rows // HASHES_PER_BUCKET)
    for _, batch in publish_input.read_batches(predictions.directory, source, columns=["customer_id"]):
        hashes = hashes_of(batch)
        for bucket in range(buckets):
            yield bucket, (hashes if buckets == 1 else hashes[hashes % np.uint64(buckets) == bucket]).tobytes()


def hashes_of(batch: pa.RecordBatch) -> Any:
    """[rows] uint64; the same on every worker of a job."""
    import pyarrow as pa

    ids = pa.Table.from_arrays([batch.column("customer_id").cast(pa.binary())], ["id"])
    with engines.duckdb_connection() as connection:
        return connection.from_arrow(ids).project("hash(id) AS h").fetchnumpy()["h"]


def seen_twice(bucket: tuple[int, Iterable[bytes]]) -> Any:
    """The hashes that occur more than once, [n] uint64."""
    import numpy as np

    hashes = np.sort(np.frombuffer(b"".join(bucket[1]), np.uint64))
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def together(buckets: Iterable[Any]) -> Any:
    """The hashes of all buckets, [n] uint64. Raises: JobFailed where there are too many."""
    import numpy as np

    found = np.concatenate([np.empty(0, np.uint64), *buckets])
    if len(found) > MOST_REPEATED:
        raise JobFailed(
            f"{len(found):,} customers occur more than once among the predictions, more than {MOST_REPEATED:,}: "
            "accepted is one row a customer"
        )
    return found
