"""The warehouse's copy of what is served: one partition per ``as_of``, replaced as a whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Protocol

from transforms.errors import rejected

if TYPE_CHECKING:
    import pyarrow as pa

GENERATION_KEY = b"generation"  # in the Parquet footer: which generation a partition holds


class Warehouse(Protocol):
    """Where analysts read predictions. A reader sees a partition's old content or the new, never both."""

    def holds(self, as_of: date, generation: str) -> bool:
        """Whether the partition is this generation's copy already."""

    def replace(
        self, as_of: date, generation: str, batches: Iterable[pa.RecordBatch], is_latest: Callable[[], bool]
    ) -> bool:
        """Makes the rows the partition's whole content; False, and no change, when ``is_latest`` says no.

        ``is_latest`` is asked when nobody else can replace the partition, so that of two publishes of
        one ``as_of`` the later one's rows stay, whichever of them is slower to copy.
        """


class LocalWarehouse:
    """``DIR/predictions/as_of=YYYY-MM-DD/predictions.parquet``, sorted by customer_id, zstd."""

    def __init__(self, directory: str) -> None:
        """``directory`` is made when missing.

        Raises:
          UsageError: not a local path.
        """
        if "://" in directory:
            raise rejected("--warehouse", directory, "a local directory")
        self._root = os.path.join(os.path.abspath(directory), "predictions")

    def path(self, as_of: date) -> str:
        return os.path.join(self._root, f"as_of={as_of.isoformat()}", "predictions.parquet")

    def holds(self, as_of: date, generation: str) -> bool:
        import pyarrow.parquet as pq

        if not os.path.exists(self.path(as_of)):
            return False
        metadata = pq.read_metadata(self.path(as_of)).metadata or {}
        return metadata.get(GENERATION_KEY) == generation.encode()

    def replace(
        self, as_of: date, generation: str, batches: Iterable[pa.RecordBatch], is_latest: Callable[[], bool]
    ) -> bool:
        target = self.path(as_of)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        # A leading underscore keeps half-written files out of what dataset readers list.
        staged = os.path.join(os.path.dirname(target), f"_{generation}.{os.getpid()}.writing")
        try:
            _write_sorted(batches, staged, generation)
            with _locked(os.path.join(self._root, "_lock")):
                if not is_latest():
                    return False
                os.replace(staged, target)
                return True
        finally:
            if os.path.exists(staged):
                os.remove(staged)


def _write_sorted(batches: Iterable[pa.RecordBatch], path: str, generation: str) -> None:
    """One Parquet file ordered by customer_id (by code points). Holds all rows in memory, twice while sorting."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_batches(batches).sort_by("customer_id")
    pq.write_table(table.replace_schema_metadata({GENERATION_KEY: generation.encode()}), path, compression="zstd")
    with open(path, "rb") as written:
        os.fsync(written.fileno())


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds an exclusive lock of the operating system, which a killed process cannot leave behind."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
