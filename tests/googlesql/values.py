"""Translate Arrow columns to GoogleSQL wire values and back.

Each SQL type has exactly one Arrow type:

=========== ========================
BOOL        bool
INT64       int64
FLOAT64     float64
STRING      string
BYTES       binary
DATE        date32
TIMESTAMP   timestamp(us, tz=UTC)
DATETIME    timestamp(us)
NUMERIC     decimal128(38, 9)
BIGNUMERIC  decimal256(76, 38)
=========== ========================

A wire value is what the ``ValueProto`` field named by ``Codec.field`` takes; NULL is ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from functools import partial
from typing import Any

import pyarrow as pa

_MICROS = 1_000_000
# The default decimal context rounds to 28 digits; BIGNUMERIC holds up to 77.
_EXACT = Context(prec=80)


@dataclass(frozen=True)
class Codec:
    """How one SQL type is spelt in Arrow and on the wire."""

    kind: str
    """Name of the type in the server's ``TypeKind`` enum."""
    field: str
    """Name of the ``ValueProto`` field that carries a value of the type."""
    arrow: pa.DataType
    as_arrow: pa.DataType | None = None
    """Arrow type to list values as, where the wire wants a count of units and not an object."""
    to_wire: Callable[[Any], Any] | None = None
    from_wire: Callable[[Any], Any] | None = None

    def encode(self, column: pa.ChunkedArray) -> list[Any]:
        """Return the wire values of an Arrow column of type ``self.arrow``."""
        values = (column.cast(self.as_arrow) if self.as_arrow else column).to_pylist()
        return _map_present(self.to_wire, values)

    def decode(self, values: list[Any]) -> pa.Array:
        """Return wire values as an Arrow array of type ``self.arrow``.

        Raises ``pa.ArrowInvalid`` for a value that Arrow cannot hold: BIGNUMERIC has a partial
        77th digit, decimal256 has 76.
        """
        return pa.array(_map_present(self.from_wire, values), self.arrow)


def for_arrow(column: str, arrow: pa.DataType) -> Codec:
    """Return the codec of an Arrow type. Raises ``TypeError`` if it has none."""
    if arrow not in _BY_ARROW:
        raise TypeError(f"column {column!r}: no GoogleSQL type for Arrow type {arrow}")
    return _BY_ARROW[arrow]


def for_kind(column: str, kind: str) -> Codec:
    """Return the codec of a ``TypeKind`` name. Raises ``TypeError`` if there is none."""
    if kind not in _BY_KIND:
        raise TypeError(f"column {column!r}: no Arrow type for GoogleSQL type {kind}")
    return _BY_KIND[kind]


def _map_present(function: Callable[[Any], Any] | None, values: list[Any]) -> list[Any]:
    if function is None:
        return values
    return [None if value is None else function(value) for value in values]


def _decimal_to_wire(scale: int, value: Decimal) -> bytes:
    """Return ``value * 10**scale`` as little-endian two's complement bytes."""
    scaled = int(_EXACT.scaleb(value, scale))
    return scaled.to_bytes(scaled.bit_length() // 8 + 1, "little", signed=True)


def _decimal_from_wire(scale: int, data: bytes) -> Decimal:
    return _EXACT.scaleb(Decimal(int.from_bytes(data, "little", signed=True)), -scale)


def _timestamp_to_wire(micros: int) -> dict[str, int]:
    """Return microseconds since the epoch as a ``google.protobuf.Timestamp``."""
    # divmod floors, so that nanos is never negative, as Timestamp wants.
    seconds, rest = divmod(micros, _MICROS)
    return {"seconds": seconds, "nanos": rest * 1000}


def _timestamp_from_wire(timestamp: Any) -> int:
    return int(timestamp.seconds * _MICROS + timestamp.nanos // 1000)


# How many bits each field of a DATETIME has on the wire, from the last to the first.
_DATETIME_BITS = (("second", 6), ("minute", 6), ("hour", 5), ("day", 5), ("month", 4), ("year", 14))


def _datetime_to_wire(value: datetime) -> dict[str, int]:
    seconds, shift = 0, 0
    for name, bits in _DATETIME_BITS:
        seconds |= getattr(value, name) << shift
        shift += bits
    return {"bit_field_datetime_seconds": seconds, "nanos": value.microsecond * 1000}


def _datetime_from_wire(value: Any) -> datetime:
    seconds, fields = value.bit_field_datetime_seconds, {}
    for name, bits in _DATETIME_BITS:
        fields[name] = seconds & ((1 << bits) - 1)
        seconds >>= bits
    return datetime(**fields, microsecond=value.nanos // 1000)


def _decimal_codec(name: str, scale: int, arrow: pa.DataType) -> Codec:
    return Codec(
        f"TYPE_{name.upper()}",
        f"{name}_value",
        arrow,
        to_wire=partial(_decimal_to_wire, scale),
        from_wire=partial(_decimal_from_wire, scale),
    )


_CODECS = (
    Codec("TYPE_BOOL", "bool_value", pa.bool_()),
    Codec("TYPE_INT64", "int64_value", pa.int64()),
    Codec("TYPE_DOUBLE", "double_value", pa.float64()),
    Codec("TYPE_STRING", "string_value", pa.string()),
    Codec("TYPE_BYTES", "bytes_value", pa.binary()),
    Codec("TYPE_DATE", "date_value", pa.date32(), as_arrow=pa.int32()),
    Codec(
        "TYPE_TIMESTAMP",
        "timestamp_value",
        pa.timestamp("us", tz="UTC"),
        as_arrow=pa.int64(),
        to_wire=_timestamp_to_wire,
        from_wire=_timestamp_from_wire,
    ),
    Codec(
        "TYPE_DATETIME",
        "datetime_value",
        pa.timestamp("us"),
        to_wire=_datetime_to_wire,
        from_wire=_datetime_from_wire,
    ),
    _decimal_codec("numeric", 9, pa.decimal128(38, 9)),
    _decimal_codec("bignumeric", 38, pa.decimal256(76, 38)),
)
_BY_ARROW = {codec.arrow: codec for codec in _CODECS}
_BY_KIND = {codec.kind: codec for codec in _CODECS}
