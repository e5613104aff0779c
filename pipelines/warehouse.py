"""Where analysts read predictions: one partition per ``as_of``, replaced as a whole by what is published.

A generation is staged first, where no reader sees it, and becomes its day's partition once the store has switched::

    parts -> stage -> can_publish -> (the store switches) -> publish
                                                             append: mended rows, before or after
                                                             discard: what is staged of an expired generation
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol

from transforms import schema
from transforms.errors import UsageError, rejected
from transforms.schema import Column, Role, Type

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.store import Generation

COLUMNS: tuple[Column, ...] = (
    *schema.PREDICTIONS,
    Column("generation", Type.STRING, Role.PREDICTION, "", "the published set of predictions that the row belongs to"),
)
"""Of the staged parts and of what analysts read."""

GENERATION_KEY = b"generation"  # in the Parquet footer: which generation a partition holds
_PARTS = "_parts.json"  # which of a directory's files are the generation's: a repeated bundle may leave others

Published = Callable[[], Sequence["Generation"]]
"""The store's generations at the time of the call: ``Store.generations``."""


class Warehouse(Protocol):
    """Where analysts read predictions. A reader sees a partition's old content or the new, never both.

    Every method may be repeated, also after a kill at any moment. Errors that a person mends are UsageErrors; a
    service that fails for the time being is a JobFailed.
    """

    @property
    def MOST_PARTS(self) -> int | None:
        """How many files ``stage`` takes at most, None for any number."""

    @property
    def name(self) -> str:
        """How a generation's record names it (``Generation.warehouse``), the same wherever the command is run."""

    def check(self) -> None:
        """Whether everything needed is there and fits; nothing is changed.

        Raises:
          UsageError: it does not; one line.
        """

    def parts(self, generation: str, attempt: int) -> str:
        """The directory where an attempt leaves its rows, as Parquet files of ``with_generation``'s tables."""

    def stage(self, generation: Generation, parts: Sequence[str], rows: int) -> None:
        """Stages these files of the attempt's ``parts`` directory, out of the readers' sight.

        Args:
          parts: the files' names, all of them and no other; none where every row is a dead letter.
          rows: what they hold together.

        Raises:
          UsageError: they hold another number of rows.
        """

    def append(self, generation: Generation, part: str, rows: int) -> None:
        """Adds one more file of the ``parts`` directory to what is staged; a file that was added is not added twice."""

    def can_publish(self, generation: Generation) -> None:
        """Whether ``publish`` will find what it needs of the generation, asked before the store switches.

        Raises:
          UsageError: what is staged of it is gone, or expired, or not whole, and the partition holds something else;
            or it has no row at all.
        """

    def publish(self, generation: Generation, generations: Published) -> bool:
        """Has the partition of the generation's day hold what is published, which the store must say it is.

        Of several generations of one day the partition holds the one that became current last, whichever publish is
        slower and wherever one was killed, as long as the last one's publish is run to its end.

        Args:
          generations: asked for what became current when; the records, not this call's arguments, decide.

        Returns:
          Whether the partition holds this generation; False where another one of its day became current later.

        Raises:
          UsageError: as ``can_publish``.
        """

    def discard(self, generation: Generation) -> None:
        """Deletes what all attempts have staged of a generation, and their parts; no partition changes."""


def with_generation(rows: pa.RecordBatch, generation: str) -> pa.Table:
    """Rows of ``schema.PREDICTIONS`` as a part holds them: with the constant column ``generation``."""
    import pyarrow as pa

    constant = pa.repeat(pa.scalar(generation, pa.string()), rows.num_rows)
    return pa.Table.from_batches([rows]).append_column("generation", constant)


def became_current(generations: Iterable[Generation], as_of: date | None = None) -> list[Generation]:
    """Those that have been current, the last first; of one day where ``as_of`` is given."""
    published = [g for g in generations if g.published_at and as_of in (None, g.as_of)]
    return sorted(published, key=lambda g: (g.published_at, g.name), reverse=True)


def require_content(about: str, generation: Generation) -> None:
    """Raises: UsageError for a generation without rows: it would empty its day's partition."""
    if not generation.content.rows:
        raise UsageError(
            f"{about}: generation {generation.name} has no row, and its partition as of {generation.as_of} would be "
            "empty: accepted is a generation with rows"
        )


def gone(about: str, generation: Generation, ttl: timedelta | None = None) -> UsageError:
    """What is staged of the generation is missing where it has to be published."""
    after = f" (it expires {ttl.days} days after its staging)" if ttl else ""
    return UsageError(
        f"{about} has nothing staged of generation {generation.name} any more{after}, and its partition as of "
        f"{generation.as_of} holds something else: accepted is a generation that is still staged, or predictions made "
        "and published anew"
    )


class LocalWarehouse:
    """``DIR/predictions/as_of=YYYY-MM-DD/predictions.parquet``, sorted by customer_id, zstd.

    Staged parts wait in ``DIR/predictions/_staged/GENERATION/``, which dataset readers pass over for its underscore.
    """

    MOST_PARTS: ClassVar[None] = None

    def __init__(self, directory: str) -> None:
        """``directory`` is made when missing.

        Raises:
          UsageError: not a local path.
        """
        if "://" in directory:
            raise rejected("--warehouse", directory, "a local directory")
        self._about = f"--warehouse {directory!r}"
        self._root = os.path.join(os.path.abspath(directory), "predictions")

    @property
    def name(self) -> str:
        return os.path.dirname(self._root)

    def path(self, as_of: date) -> str:
        return os.path.join(self._root, f"as_of={as_of.isoformat()}", "predictions.parquet")

    def check(self) -> None:
        place = self._root
        while not os.path.exists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"{self._about} is not usable: {place} is not a directory that may be written to")

    def parts(self, generation: str, attempt: int) -> str:
        return os.path.join(self._staged(generation), f"attempt-{attempt}")

    def stage(self, generation: Generation, parts: Sequence[str], rows: int) -> None:
        directory = self.parts(generation.name, generation.attempt)
        _require_rows(directory, parts, rows)
        _write_parts(directory, parts)

    def append(self, generation: Generation, part: str, rows: int) -> None:
        directory = self.parts(generation.name, generation.attempt)
        _require_rows(directory, [part], rows)
        with self._locked():  # two replays at once must not lose each other's part
            found = _read_parts(directory)
            if found is None:
                raise gone(self._about, generation)
            if part not in found:
                _write_parts(directory, [*found, part])

    def can_publish(self, generation: Generation) -> None:
        self._ready(generation)

    def publish(self, generation: Generation, generations: Published) -> bool:
        while parts := self._ready(generation):  # again where rows were added while they were written
            if not self._replace(generation, parts, generations):
                return False
        return True

    def discard(self, generation: Generation) -> None:
        from transforms import storage

        storage.delete_directory(self._staged(generation.name))

    def _staged(self, generation: str) -> str:
        return os.path.join(self._root, "_staged", generation)

    def _ready(self, generation: Generation) -> list[str]:
        """The files that the partition is to be made of, none where it holds the generation already.

        Raises:
          UsageError: as ``can_publish``.
        """
        require_content(self._about, generation)
        directory = self.parts(generation.name, generation.attempt)
        names = _read_parts(directory)
        if names is None:
            if not self._holds(generation, None):
                raise gone(self._about, generation)
            return []
        rows = _count_rows(directory, names)
        if rows < generation.content.rows:  # there may be more: mended rows that the record does not count yet
            raise UsageError(f"{directory} holds {rows} rows, expected are {generation.content.rows}")
        return [] if self._holds(generation, rows) else [os.path.join(directory, name) for name in names]

    def _holds(self, generation: Generation, rows: int | None) -> bool:
        """Whether the partition is the generation's, with so many rows where that is known."""
        import pyarrow.parquet as pq

        if not os.path.exists(self.path(generation.as_of)):
            return False
        found = pq.read_metadata(self.path(generation.as_of))
        held = (found.metadata or {}).get(GENERATION_KEY)
        return held == generation.name.encode() and rows in (None, found.num_rows)

    def _replace(self, generation: Generation, parts: list[str], generations: Published) -> bool:
        target = self.path(generation.as_of)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        # A leading underscore keeps half-written files out of what dataset readers list.
        staged = os.path.join(os.path.dirname(target), f"_{generation.name}.{uuid.uuid4().hex}.writing")
        try:
            _write_sorted(parts, staged, generation.name)
            # Asked while nobody else can replace the partition: of two publishes the later one's rows stay.
            with self._locked():
                latest = became_current(generations(), generation.as_of)
                if not latest or latest[0].name != generation.name:
                    return False
                os.replace(staged, target)
                return True
        finally:
            if os.path.exists(staged):
                os.remove(staged)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds an exclusive lock of the operating system, which a killed process cannot leave behind."""
        os.makedirs(self._root, exist_ok=True)
        with open(os.path.join(self._root, "_lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read_parts(directory: str) -> list[str] | None:
    path = os.path.join(directory, _PARTS)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        names: list[str] = json.load(file)
    return names


def _write_parts(directory: str, names: Sequence[str]) -> None:
    from transforms import storage

    storage.write_bytes(os.path.join(directory, _PARTS), json.dumps(list(names), indent=1).encode())


def _require_rows(directory: str, parts: Sequence[str], rows: int) -> None:
    found = _count_rows(directory, parts)
    if found != rows:
        raise UsageError(f"{directory} holds {found} rows, expected are {rows}")


def _count_rows(directory: str, parts: Sequence[str]) -> int:
    import pyarrow.parquet as pq

    paths = [os.path.join(directory, part) for part in parts]
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"{path} is missing: accepted are all parts that were written")
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _write_sorted(parts: list[str], path: str, generation: str) -> None:
    """One Parquet file ordered by customer_id (by code points). Holds all rows in memory, twice while sorting."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.ParquetFile(part).read() for part in parts]
    table = pa.concat_tables([schema.arrow_schema(COLUMNS).empty_table(), *tables]).sort_by("customer_id")
    pq.write_table(table.replace_schema_metadata({GENERATION_KEY: generation.encode()}), path, compression="zstd")
    with open(path, "rb") as written:
        os.fsync(written.fileno())
