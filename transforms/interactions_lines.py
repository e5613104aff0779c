"""Raw lines -> lines of CSV, each with its hashes, as one statement of DuckDB a batch. Nothing happens row by row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis

from transforms import engines, interactions
from transforms.interactions import Field, Wanted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_SPECIAL = re.compile(rb'[",\r\n]')  # what RFC 4180 wants in quotes
_SPECIAL_SQL = '[",\\r\\n]'


@dataclass(frozen=True)
class Statements:
    """The compiled SQL of one job, made once at construction so that workers need no Ibis.

    Attributes:
      plain: where no text has a character that has to be quoted.
      quoting: everywhere else; the same lines.
      of_cents: the two for amounts as ``_in_cents`` has them; None where amounts are no floats anyway.
    """

    fields: tuple[Field, ...]
    plain: str
    quoting: str
    of_cents: Statements | None = None

    @classmethod
    def compile(cls, raw_schema: pa.Schema, wanted: Wanted) -> Statements:
        """Args: raw_schema: our column names with the types the source holds."""
        import pyarrow as pa

        of_cents, amount = None, raw_schema.get_field_index("amount")
        if not wanted.events and amount >= 0 and pa.types.is_float64(raw_schema.field(amount).type):
            of_cents = cls.compile(raw_schema.set(amount, pa.field("amount", pa.decimal128(18, 2))), wanted)
        lines = interactions.lines(ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw"), wanted)
        fields = interactions.fields_of(lines, wanted)
        cleaned = engines.compile_sql(lines, "duckdb")
        constant = None if wanted.events else wanted.event_type
        return cls(
            fields,
            _statement(cleaned, fields, constant, quoting=False),
            _statement(cleaned, fields, constant, quoting=True),
            of_cents,
        )

    @property
    def header(self) -> bytes:
        return (",".join(field.name for field in self.fields) + "\n").encode()


def _statement(cleaned: str, fields: Iterable[Field], event_type: str | None, *, quoting: bool) -> str:
    cells = []
    for field in fields:
        cell = f'"{field.name}"'
        if field.name == "EVENT_TYPE" and event_type is not None:
            cell = "'" + quoted(event_type).replace("'", "''") + "'"
        elif field.text and quoting:
            cell = (
                f"CASE WHEN regexp_matches({cell}, '{_SPECIAL_SQL}') "
                f"THEN '\"' || replace({cell}, '\"', '\"\"') || '\"' ELSE {cell} END"
            )
        cells.append(cell)
    line = "concat(" + ", ',', ".join(cells) + ", chr(10))"
    kind, typed = (", event_type", ", EVENT_TYPE AS event_type") if event_type is None else ("", "")
    # The whole number once: the functions that give a half of it at a time cost four times as much.
    return (
        f"SELECT reason, line, CAST(md5 & 18446744073709551615 AS UBIGINT) AS low, CAST(md5 >> 64 AS UBIGINT) AS high,"
        f" user_hash, item_hash, seconds{kind} FROM (SELECT *, md5_number(line) AS md5 FROM ("
        f"SELECT reason, CASE WHEN reason IS NULL THEN {line} END AS line, hash(USER_ID) AS user_hash,"
        f" hash(ITEM_ID) AS item_hash, TIMESTAMP AS seconds{typed}"
        f" FROM ({cleaned})))"
    )


def quoted(text: str) -> str:
    """A CSV value as RFC 4180 has it."""
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text.encode()) else text


def read_lines(connection: duckdb.DuckDBPyConnection, statements: Statements, raw: pa.Table) -> pa.Table:
    """One row for each raw line: ``reason`` or ``line`` (CSV with its line feed), and the line's ``low`` and ``high`` 64 bits of
    MD5, ``user_hash``, ``item_hash``, ``seconds`` and, for events, ``event_type``."""
    cents = _in_cents(raw) if statements.of_cents else None
    if statements.of_cents and cents is not None:
        statements, raw = statements.of_cents, cents
    connection.register("raw", raw)
    sql = statements.quoting if _has_special(raw) else statements.plain
    return connection.sql(sql).to_arrow_table()


def _in_cents(raw: pa.Table) -> pa.Table | None:
    """The lines with float amounts as decimals of two places, None where that would change one.

    A float becomes money through its shortest text, which costs a quarter of the whole statement. Below 10^15 cents that
    text has at most two places wherever cents / 100 is the very float.
    """
    import numpy as np
    import pyarrow as pa

    at = raw.schema.get_field_index("amount")
    if raw.column(at).null_count:
        return None
    chunks = []
    for chunk in raw.column(at).chunks:
        amounts = chunk.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            cents = np.rint(amounts * 100)
            if not ((np.abs(cents) < 1e15) & (cents / 100 == amounts)).all():
                return None
        halves = np.empty((len(cents), 2), np.int64)
        halves[:, 0] = cents
        halves[:, 1] = halves[:, 0] >> 63
        chunks.append(pa.Array.from_buffers(pa.decimal128(18, 2), len(cents), [None, pa.py_buffer(halves)]))
    return raw.set_column(at, "amount", pa.chunked_array(chunks, pa.decimal128(18, 2)))


def _has_special(raw: pa.Table) -> bool:
    """Whether a text of the lines may hold a character to be quoted; the buffers are looked at as they are."""
    return any(_chunk_has_special(chunk) for column in raw.columns for chunk in column.chunks)


def _chunk_has_special(column: Any) -> bool:
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return bool(pa.types.is_string_view(column.type))
    data = column.buffers()[2]
    return data is not None and _SPECIAL.search(memoryview(data)) is not None
