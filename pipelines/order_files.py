"""Orders from files, Parquet or CSV: what is there, and its rows as Arrow batches."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines import orders_source
from pipelines.orders_source import ORDER_LINES, LineKind, OrdersSource
from transforms import schema, storage
from transforms.errors import UsageError, one_line, rejected

if TYPE_CHECKING:
    import pyarrow as pa

# Big enough that the work per batch outweighs its overhead, small enough to hold several.
BATCH_ROWS = 131_072
CSV_BLOCK_BYTES = 16 << 20
SPLIT_ROWS = 2_000_000


@dataclass(frozen=True)
class OrdersFormat:
    """How the files are to be read. ``columns`` maps our names to the files' names."""

    columns: dict[str, str] = field(default_factory=dict)
    csv_delimiter: str = ","
    csv_encoding: str = "utf8"
    kind: LineKind = ORDER_LINES


@dataclass(frozen=True)
class Split:
    """A part of the source that one worker reads: a CSV file, or some row groups of a Parquet file."""

    uri: str
    path: str
    row_groups: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OrderFiles(OrdersSource):
    """Files, and the splits of them to read."""

    format: OrdersFormat
    splits: tuple[Split, ...]
    files: tuple[dict[str, Any], ...]

    @property
    def identity(self) -> dict[str, Any]:
        how = self.format
        csv = {"delimiter": how.csv_delimiter, "encoding": how.csv_encoding}
        return {**super().identity, "files": list(self.files), "csv": csv}

    @property
    def revision(self) -> Any:
        return list(self.files)


def inspect(uri: str, how: OrdersFormat) -> OrderFiles:
    """Looks at the files: footers of Parquet, one pass over CSV (whose rows nothing else counts).

    Raises:
      UsageError: no file, no row, a missing column, or a type that cannot become the schema's.
    """
    filesystem, infos = storage.glob(uri)
    infos = [info for info in infos if _is_parquet(info.path) or _is_csv(info.path)]
    if not infos:
        raise rejected(
            how.kind.argument, uri, "a .parquet, .csv or .csv.gz file, a folder or a pattern of such files that exists"
        )
    found: pa.Schema | None = None
    splits: list[Split] = []
    rows, days = 0, _Days()
    for info in infos:
        theirs, file_splits = _layout(filesystem, info.path, uri, how)
        ours = orders_source.our_schema(theirs, how.columns, info.path, kind=how.kind)
        if found is not None and not found.equals(ours):
            raise UsageError(
                f"{how.kind.argument} {uri!r}: {info.path} holds {orders_source.differences(ours, found, how.kind.columns)}, unlike "
                f"{infos[0].path}: accepted are files of one schema"
            )
        found = ours
        splits += file_splits
        rows += _measure(filesystem, info.path, file_splits, how, ours, days)
    assert found is not None
    if not rows:
        raise UsageError(f"{how.kind.argument} {uri!r} has no lines: accepted is at least one {how.kind.line}")
    if how.kind.judge:
        how.kind.judge(uri, days.others)
    if days.first is None or days.last is None:
        raise UsageError(
            f"{how.kind.argument} {uri!r} has {rows} lines, none with a usable {how.kind.time}: accepted is {how.kind.time_accepted}"
        )
    files = tuple({"path": info.path, "bytes": info.size, "modified": str(info.mtime)} for info in infos)
    return OrderFiles(uri, how.columns, found, rows, days.first, days.last, True, how, tuple(splits), files)


def read_split(split: Split, how: OrdersFormat, only: tuple[str, ...] | None = None) -> Iterator[pa.RecordBatch]:
    """The split's lines as record batches with our column names; malformed CSV lines are in none of them."""
    for batch, _ in read_split_with_malformed(split, how, only):
        yield batch


def read_split_with_malformed(
    split: Split, how: OrdersFormat, only: tuple[str, ...] | None = None
) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
    """Batches, each with the text of the malformed CSV lines met while reading it.

    Args:
      only: our names of the columns to read; all where it is not given.

    Raises:
      UsageError: the file turns out to be damaged, or not in its encoding.
    """
    import pyarrow as pa

    only = how.kind.columns if only is None else only
    filesystem, _ = storage.resolve(split.uri)
    names = {theirs: ours for ours, theirs in how.columns.items()}
    if _is_parquet(split.path):
        batches = _parquet_batches(filesystem, split, how, only)
    else:
        batches = _csv_batches(filesystem, split.path, how, only)
    try:
        for batch, malformed in batches:
            yield batch.rename_columns([names.get(name, name) for name in batch.schema.names]), malformed
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise UsageError(
            f"{how.kind.argument} {split.uri!r}: {split.path} is not readable: {_readable(error)}"
        ) from error


def _is_parquet(path: str) -> bool:
    return path.endswith((".parquet", ".pq"))


def _is_csv(path: str) -> bool:
    return path.endswith((".csv", ".csv.gz"))


def _layout(filesystem: Any, path: str, uri: str, how: OrdersFormat) -> tuple[pa.Schema, list[Split]]:
    """The file's own schema and how to split it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if _is_csv(path):
            with _open_csv(filesystem, path, how, None, []) as reader:
                return reader.schema, [Split(uri, path)]
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            return parquet.schema_arrow, list(_row_group_splits(parquet.metadata, uri, path))
    except (pa.ArrowException, UnicodeError, OSError, LookupError) as error:
        raise UsageError(f"{how.kind.argument} {uri!r}: {path} is not readable: {_readable(error)}") from error


def _readable(error: BaseException) -> str:
    text = one_line(str(error), 300)
    return f"{text}; another encoding is named by --csv_encoding, such as latin-1" if "UTF8" in text else text


def _row_group_splits(metadata: Any, uri: str, path: str) -> Iterator[Split]:
    groups: list[int] = []
    rows = 0
    for index in range(metadata.num_row_groups):
        groups.append(index)
        rows += metadata.row_group(index).num_rows
        if rows >= SPLIT_ROWS:
            yield Split(uri, path, tuple(groups))
            groups, rows = [], 0
    if groups:
        yield Split(uri, path, tuple(groups))


def _parquet_batches(
    filesystem: Any, split: Split, how: OrdersFormat, only: tuple[str, ...]
) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(split.path) as file:
        # Without pre-buffering the whole row group's bytes are not held beside its batches.
        parquet = pq.ParquetFile(file, pre_buffer=False)
        present = set(parquet.schema_arrow.names)
        wanted = [name for name in (how.columns.get(ours, ours) for ours in only) if name in present]
        groups = list(split.row_groups) if split.row_groups is not None else None
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False):
            yield (
                pa.RecordBatch.from_arrays(
                    [orders_source.plain(column) for column in batch.columns], batch.schema.names
                ),
                [],
            )


def _csv_batches(
    filesystem: Any, path: str, how: OrdersFormat, only: tuple[str, ...]
) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
    import pyarrow as pa

    malformed: list[str] = []
    with _open_csv(filesystem, path, how, only, malformed) as reader:
        for batch in reader:
            found, malformed[:] = malformed[:], []
            yield batch, found
        if malformed:
            yield pa.RecordBatch.from_pylist([], reader.schema), malformed


def _open_csv(filesystem: Any, path: str, how: OrdersFormat, only: tuple[str, ...] | None, malformed: list[str]) -> Any:
    """A streaming reader of a CSV file, every column as text; what does not parse goes to ``malformed``."""
    import pyarrow as pa
    from pyarrow import csv

    def keep(row: Any) -> str:
        malformed.append(row.text or "")
        return "skip"

    header = csv_header(filesystem, path, how)
    wanted = header if only is None else [n for n in (how.columns.get(ours, ours) for ours in only) if n in header]
    return csv.open_csv(
        _csv_stream(filesystem, path),
        csv.ReadOptions(block_size=CSV_BLOCK_BYTES, encoding=how.csv_encoding),
        csv.ParseOptions(delimiter=how.csv_delimiter, newlines_in_values=True, invalid_row_handler=keep),
        csv.ConvertOptions(
            column_types={name: pa.string() for name in header},
            include_columns=wanted,
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _csv_stream(filesystem: Any, path: str) -> Any:
    return filesystem.open_input_stream(path, compression="gzip" if path.endswith(".gz") else None)


def csv_header(filesystem: Any, path: str, how: OrdersFormat) -> list[str]:
    """The columns that a CSV file names in its first line."""
    import csv
    import io

    with _csv_stream(filesystem, path) as stream:
        head = stream.read(1 << 16).decode(how.csv_encoding, errors="replace").removeprefix("\ufeff")
    return next(csv.reader(io.StringIO(head, newline=""), delimiter=how.csv_delimiter), [])


@dataclass
class _Days:
    first: datetime.date | None = None
    last: datetime.date | None = None
    others: list[tuple[Any, ...]] = field(default_factory=list)  # what the extents of a kind tell beyond days

    def add(self, first: datetime.date | None, last: datetime.date | None) -> None:
        self.first = min((d for d in (self.first, first) if d), default=None)
        self.last = max((d for d in (self.last, last) if d), default=None)


def _measure(filesystem: Any, path: str, splits: list[Split], how: OrdersFormat, ours: pa.Schema, days: _Days) -> int:
    """Adds the file's first and last order day to ``days`` and returns its number of rows."""
    if _is_parquet(path):
        known = _days_of_footer(filesystem, path, how.columns.get(how.kind.time, how.kind.time))
        if known is not None:
            days.add(*known[1:])
            return known[0]
    return sum(_scan_days(split, how, ours, days) for split in splits)


def _days_of_footer(filesystem: Any, path: str, column: str) -> tuple[int, datetime.date, datetime.date] | None:
    """Rows, first and last day from a Parquet footer; None where it does not tell."""
    import pyarrow.parquet as pq
    from pyarrow import types as t

    with filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        if not (
            t.is_timestamp(parquet.schema_arrow.field(column).type)
            or t.is_date(parquet.schema_arrow.field(column).type)
        ):
            return None
        index = parquet.metadata.schema.names.index(column)
        groups = [
            parquet.metadata.row_group(i).column(index).statistics for i in range(parquet.metadata.num_row_groups)
        ]
        if not groups or not all(statistics is not None and statistics.has_min_max for statistics in groups):
            return None
        low, high = _utc_day(min(s.min for s in groups)), _utc_day(max(s.max for s in groups))
        if low.year < schema.FIRST_YEAR or high.year > schema.LAST_YEAR:
            return None  # lines that will be dead letters must not decide where the data end
        return parquet.metadata.num_rows, low, high


def _utc_day(moment: datetime.date) -> datetime.date:
    if not isinstance(moment, datetime.datetime):
        return moment
    return (moment.astimezone(datetime.UTC) if moment.tzinfo else moment).date()


def _scan_days(split: Split, how: OrdersFormat, ours: pa.Schema, days: _Days) -> int:
    """One pass over the time alone, parsed by the same expression as in the job."""
    import ibis

    from transforms import engines, pushdown

    extent = (how.kind.extent or pushdown.extent)(ibis.table(ibis.Schema.from_pyarrow(ours), name="raw"))
    sql = engines.compile_sql(extent, "duckdb")
    connection = engines.duckdb_connection()
    rows = 0
    for batch, malformed in read_split_with_malformed(split, how, (how.kind.time,)):
        connection.register("raw", batch)
        # All of the result: DuckDB refuses the next batch while a row might still be fetched.
        ((_, low, high, *others),) = connection.execute(sql).fetchall()
        days.add(low, high)
        days.others.append(tuple(others))
        rows += batch.num_rows + len(malformed)
    return rows
