"""Order files in Cloud Storage as BigQuery will load them: which files, which columns of which types.

A CSV's columns are loaded as text, all of them, in the header's order: whatever cannot be an order becomes a dead
letter of the cleaning and fails no load. Of Parquet the columns that the cleaning reads are loaded, in the types
the files hold; what else there is (lists, times of day, ...) stays in the files.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestration import cloud_storage
from pipelines.order_files import OrdersFormat
from transforms import storage
from transforms.errors import JobFailed, UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_FILES = 10_000  # BigQuery's limit on the URIs of one load job
_ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "ascii": "UTF-8", "iso8859-1": "ISO-8859-1"}
# BigQuery's rules for names of columns, without the exotic; no character passes that means something inside backticks.
_NAME, _PLAIN_NAME = re.compile(r"[^\W\d][\w %&+:=<>#|-]{0,299}"), re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = re.compile(r"_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER|_CHANGE_", re.IGNORECASE)
# NUMERIC has 29 digits before the point and 9 after it, BIGNUMERIC 38 and 38 (and part of a 39th).
_NUMERIC, _BIGNUMERIC = (29, 9), (38, 38)


@dataclass(frozen=True)
class RawOrders:
    """Checked files of one kind and one set of columns.

    ``fields`` are the raw table's columns (name, BigQuery type); ``names`` maps our names to them;
    ``schema`` gives our columns' types as the raw table holds them; ``settings`` are ``pipelines.bigquery.Load``'s;
    ``files`` tells path, bytes and time of change of each.
    """

    uris: tuple[str, ...]
    files: tuple[dict[str, Any], ...]
    fields: tuple[tuple[str, str], ...]
    names: dict[str, str]
    schema: pa.Schema
    settings: dict[str, Any]
    empty_is_null: bool

    @property
    def bytes(self) -> int:
        return sum(file["bytes"] for file in self.files)

    def select(self, table: str) -> str:
        """SQL: our columns of the raw table (quoted name), under our names."""
        template = "NULLIF(`{}`, '') AS `{}`" if self.empty_is_null else "`{}` AS `{}`"
        columns = [template.format(theirs, ours) for ours, theirs in self.names.items()]
        return f"SELECT {', '.join(columns)} FROM {table}"


def inspect(uri: str, how: OrdersFormat) -> RawOrders:
    """Looks at the files' headers or footers.

    Args:
      uri: a file, a folder or a pattern in Cloud Storage.

    Raises:
      UsageError: no such bucket, files of another kind, a missing column, a type that cannot become the schema's or
        that BigQuery would not load as it is, files that differ, or more of them than one job loads.
      JobFailed: there is no file yet, or Cloud Storage fails for the time being.
    """
    if not uri.startswith("gs://"):
        raise rejected("--orders", uri, "a file, a folder or a pattern in Cloud Storage, gs://...")
    with cloud_storage.explained("--orders", uri):
        filesystem, infos = storage.glob(uri)
    kinds = {suffix: [i for i in infos if i.path.endswith(suffix)] for suffix in (".parquet", ".pq", ".csv", ".csv.gz")}
    parquet, csv = kinds[".parquet"] + kinds[".pq"], kinds[".csv"] + kinds[".csv.gz"]
    if parquet and csv:
        raise UsageError(
            f"--orders {uri!r} names {csv[0].path} and {parquet[0].path}: accepted are files of one kind, CSV or Parquet"
        )
    if not 0 < len(parquet + csv) <= _MOST_FILES:
        wanted = rejected("--orders", uri, f"1 to {_MOST_FILES:,} .parquet, .csv or .csv.gz files that exist")
        if infos:
            raise wanted
        cloud_storage.require_bucket("--orders", uri)
        raise JobFailed(str(wanted))  # an export may be late: the same command is right once it is there
    found = _inspect_csv(filesystem, csv, how) if csv else _inspect_parquet(filesystem, parquet, how)
    used = csv or parquet
    return RawOrders(
        uris=tuple(f"gs://{info.path}" for info in used),
        files=tuple({"path": info.path, "bytes": info.size, "modified": str(info.mtime)} for info in used),
        empty_is_null=bool(csv),
        **found,
    )


def _inspect_csv(filesystem: Any, infos: Sequence[Any], how: OrdersFormat) -> dict[str, Any]:
    import pyarrow as pa

    from pipelines import orders_source

    encoding = _encoding(how.csv_encoding)
    header = _csv_header(filesystem, infos[0].path, how)
    for info in infos[1:]:
        other = _csv_header(filesystem, info.path, how)
        if other != header:  # BigQuery goes by position: two columns that changed places would change their meaning
            raise UsageError(
                f"{info.path} has the columns {', '.join(other)}, unlike {infos[0].path} with {', '.join(header)}: "
                "accepted are files of the same columns in the same order"
            )
    text = pa.schema([pa.field(name, pa.string()) for name in header])
    ours = orders_source.our_schema(text, how.columns, infos[0].path)
    names = _column_names(header)
    return {
        "fields": tuple((name, "STRING") for name in names),
        "names": {name: names[header.index(how.columns.get(name, name))] for name in ours.names},
        "schema": ours,
        "settings": {
            "source_format": "CSV",
            "skip_leading_rows": 1,
            "allow_quoted_newlines": True,
            "field_delimiter": how.csv_delimiter,
            "encoding": encoding,
        },
    }


def _csv_header(filesystem: Any, path: str, how: OrdersFormat) -> list[str]:
    from pipelines import order_files

    with cloud_storage.reading(path):
        return order_files.csv_header(filesystem, path, how)


def _encoding(name: str) -> str:
    try:
        return _ENCODINGS[codecs.lookup(name).name]
    except LookupError:
        raise rejected("--csv_encoding", name, "utf8 or latin-1: BigQuery reads no other") from None


def _column_names(header: list[str]) -> list[str]:
    """The header's names, or ``column_N`` for those that BigQuery does not take or, whatever their case, has already."""
    names: list[str] = []
    for position, name in enumerate(header, 1):
        taken = {other.lower() for other in names}
        if not _accepted(name) or name.lower() in taken:
            name = f"column_{position}"
            while name in taken:
                name += "_"
        names.append(name)
    return names


def _accepted(name: str) -> bool:
    return bool((_PLAIN_NAME.fullmatch(name) or _NAME.fullmatch(name)) and not _RESERVED.match(name))


def _inspect_parquet(filesystem: Any, infos: Sequence[Any], how: OrdersFormat) -> dict[str, Any]:
    import pyarrow as pa

    from pipelines import orders_source

    schemas = [_parquet_schema(filesystem, info.path, how) for info in infos]
    for info, other in zip(infos, schemas, strict=True):
        if other != schemas[0]:
            differences = orders_source.differences(other, schemas[0])
            raise UsageError(
                f"{info.path} holds {differences}, unlike {infos[0].path}: accepted are files of one schema"
            )
    names = {name: how.columns.get(name, name) for name in schemas[0].names}
    types = {name: _bigquery_type(schemas[0].field(name), names[name], infos[0].path) for name in names}
    settings: dict[str, Any] = {"source_format": "PARQUET", "ignore_unknown_values": True}
    if not all(map(_PLAIN_NAME.fullmatch, names.values())):
        settings["column_name_character_map"] = "V2"  # keeps blanks and letters of every language
    return {
        "fields": tuple((theirs, types[ours][0]) for ours, theirs in names.items()),
        "names": names,
        "schema": pa.schema([(name, type_) for name, (_, type_) in types.items()]),
        "settings": settings,
    }


def _parquet_schema(filesystem: Any, path: str, how: OrdersFormat) -> pa.Schema:
    """Our columns with their types in the file, nanoseconds and all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines import orders_source

    with cloud_storage.reading(path), filesystem.open_input_file(path) as file:
        theirs = pq.ParquetFile(file).schema_arrow
    ours = orders_source.our_schema(theirs, how.columns, path)
    for name in ours.names:
        if not _accepted(column := how.columns.get(name, name)):
            raise UsageError(f"{path}: BigQuery has no column {column!r}: accepted are letters, digits, _ and blanks")
    return pa.schema([pa.field(name, theirs.field(how.columns.get(name, name)).type) for name in ours.names])


def _bigquery_type(field: pa.Field, theirs: str, path: str) -> tuple[str, pa.DataType]:
    """The type BigQuery loads a Parquet column as, and the Arrow type that stands for it.

    Raises:
      UsageError: it would load none or another value.
    """
    import pyarrow as pa
    from pyarrow import types as t

    from pipelines import orders_source

    refused = {
        "timestamp[ns]": (t.is_timestamp(field.type) and field.type.unit == "ns", "microseconds"),
        "uint64": (t.is_uint64(field.type), "int64, or text where that is too small"),
        # Its shortest text, 19.99, is what was meant; as the double that BigQuery makes of it, it is 19.989999771.
        "float32": (t.is_float32(field.type) or t.is_float16(field.type), "double or decimal"),
    }
    for kind, (applies, accepted) in refused.items():
        if applies:
            raise UsageError(f"{path}: column {theirs} is {kind}, which BigQuery changes: accepted is {accepted}")
    type_ = orders_source.value_type(field.type)
    if t.is_decimal(type_):
        return _decimal_type(type_, theirs, path), type_
    if t.is_timestamp(type_):
        return ("TIMESTAMP", pa.timestamp("us", "UTC")) if type_.tz else ("DATETIME", pa.timestamp("us"))
    if t.is_date(type_):
        return "DATE", pa.date32()
    if t.is_integer(type_) or t.is_null(type_):  # a column of nulls is stored as numbers
        return "INT64", pa.int64()
    return ("FLOAT64", pa.float64()) if t.is_floating(type_) else ("STRING", pa.string())


def _decimal_type(type_: Any, theirs: str, path: str) -> str:
    for name, (whole, scale) in (("NUMERIC", _NUMERIC), ("BIGNUMERIC", _BIGNUMERIC)):
        if type_.precision - type_.scale <= whole and 0 <= type_.scale <= scale:
            return name
    raise UsageError(
        f"{path}: column {theirs} is {type_}, more than BigQuery holds: accepted is at most 38 digits before the point "
        "and 38 after it"
    )
