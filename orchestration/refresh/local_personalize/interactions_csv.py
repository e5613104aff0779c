"""What an import looks for in the files it is given: header, types, ids, timestamps, number of rows."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from orchestration.refresh.local_personalize.faults import ServiceError

LEAST_ROWS = 1000  # of a bulk import of interactions
LONGEST_ID = 256
MOST_BYTES = {"FULL": 100 * 1000**3, "INCREMENTAL": 1000**3}
# Seconds of the year 5138: anything later is milliseconds.
LAST_SECOND = 100_000_000_000
ID_FIELDS = ("USER_ID", "ITEM_ID")
NEEDED = {"USER_ID": "string", "ITEM_ID": "string", "TIMESTAMP": "long"}
_TYPES = ("string", "int", "long", "float", "double", "boolean", "null")


class DataRefused(Exception):
    """The reason of an import that ends CREATE FAILED."""


def schema_fields(text: str) -> dict[str, frozenset[str]]:
    """The fields of an Avro schema with the types each may have, in their order; InvalidInputException when it is none."""
    try:
        schema = json.loads(text)
        fields = {field["name"]: _types(field["type"]) for field in schema["fields"]}
        doubled = len(fields) != len(schema["fields"])
    except (ValueError, KeyError, TypeError):
        raise _refused("it is not an Avro record with a list of fields, each with a name and a type") from None
    if schema.get("type") != "record" or not fields or doubled:
        raise _refused("it must be a record with at least one field, each named once")
    for name, types in fields.items():
        if unknown := sorted(types - set(_TYPES)):
            raise _refused(f"the field {name} has the type {unknown[0]!r}: accepted are {', '.join(_TYPES)}")
    return fields


def _refused(why: str) -> ServiceError:
    return ServiceError("InvalidInputException", f"The schema is not valid: {why}.")


def _types(given: Any) -> frozenset[str]:
    return frozenset([given] if isinstance(given, str) else given)


def must_be_interactions(fields: Mapping[str, frozenset[str]]) -> None:
    """InvalidInputException unless the fields are enough for interactions."""
    for name, kind in NEEDED.items():
        if fields.get(name) != frozenset([kind]):
            raise _refused(f"interactions need the field {name} of type {kind}")


def checked_rows(files: Iterable[bytes], fields: Mapping[str, frozenset[str]], mode: str) -> int:
    """Reads every file of an import; the number of rows, or DataRefused with the reason."""
    rows = size = number = 0
    for number, data in enumerate(files, 1):
        size += len(data)
        if size > MOST_BYTES[mode]:
            raise DataRefused(
                f"The data is larger than {MOST_BYTES[mode]} bytes, the most of an import in mode {mode}."
            )
        rows += _file_rows(f"file {number}", data, fields)
    if not number:
        raise DataRefused("There are no CSV files at the data location.")
    if rows < LEAST_ROWS:
        raise DataRefused(f"The dataset has {rows} rows: at least {LEAST_ROWS} are needed.")
    return rows


def _file_rows(where: str, data: bytes, fields: Mapping[str, frozenset[str]]) -> int:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataRefused(f"The {where} is not UTF-8 at byte {error.start}.") from None
    header = text.split("\n", 1)[0].removesuffix("\r")
    if header.split(",") != list(fields):
        raise DataRefused(f"The header of {where} is {header!r}: the schema needs {','.join(fields)!r}, unquoted.")
    checks = [(name, _field_check(name, types)) for name, types in fields.items()]
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows)
    return sum(1 for _ in _checked(where, rows, checks))


def _checked(
    where: str, rows: Iterator[list[str]], checks: list[tuple[str, Callable[[str], bool]]]
) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 2):
        if len(row) != len(checks):
            raise DataRefused(f"Row {number} of {where} has {len(row)} fields: the schema has {len(checks)}.")
        for (name, fits), value in zip(checks, row, strict=True):
            if not fits(value):
                raise DataRefused(
                    f"Row {number} of {where}: the value {value[:80]!r} of {name} does not fit the schema."
                )
        yield row


def _field_check(name: str, types: frozenset[str]) -> Callable[[str], bool]:
    if name in ID_FIELDS:
        return lambda value: 1 <= len(value) <= LONGEST_ID
    if name == "TIMESTAMP":
        return lambda value: value.isdecimal() and int(value) < LAST_SECOND
    nullable = "null" in types
    readers = [_READERS[each] for each in sorted(types - {"null"})]

    def fits(value: str) -> bool:
        return (not value and nullable) or any(_reads(reader, value) for reader in readers)

    return fits


def _reads(reader: Callable[[str], Any], value: str) -> bool:
    try:
        reader(value)
    except ValueError:
        return False
    return True


def _whole(bits: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not -(2 ** (bits - 1)) <= (number := int(value)) < 2 ** (bits - 1):
            raise ValueError(value)
        return number

    return read


def _finite(value: str) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError(value)
    return value.lower() == "true"


def _filled(value: str) -> str:
    if not value:
        raise ValueError("a string that is not nullable is empty")
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "string": _filled,
    "int": _whole(32),
    "long": _whole(64),
    "float": _finite,
    "double": _finite,
    "boolean": _boolean,
}


def s3_reader(client: Any) -> Callable[[str], Iterator[bytes]]:
    """What reads the CSV files of a location (s3://bucket/key or a prefix) by a boto3 S3 client, one after the other."""

    def read(location: str) -> Iterator[bytes]:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        for key in keys:
            # A prefix without its slash must not read its neighbours: s3://b/run/2 is not s3://b/run/20.
            under = key == prefix or not prefix or key.startswith(prefix.rstrip("/") + "/")
            if under and key.lower().endswith(".csv"):
                yield client.get_object(Bucket=bucket, Key=key)["Body"].read()

    return read
