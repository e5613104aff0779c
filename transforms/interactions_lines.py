"""Raw lines -> lines of CSV, each with its hashes, as one statement of DuckDB a batch. Nothing happens row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ibis

from transforms import engines, interactions
from transforms.interactions import Field, Wanted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_SPECIAL = (b'"', b",", b"\r", b"\n")  # what RFC 4180 wants in quotes
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
            cents = raw_schema.set(amount, pa.field("amount", pa.decimal128(18, 2)))
            of_cents = cls._compile(cents, wanted, sure_amounts=True)
        return replace(cls._compile(raw_schema, wanted, sure_amounts=False), of_cents=of_cents)

    @classmethod
    def _compile(cls, raw_schema: pa.Schema, wanted: Wanted, *, sure_amounts: bool) -> Statements:
        raw = ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw")
        lines = interactions.lines(raw, wanted, sure_amounts=sure_amounts)
        fields = interactions.fields_of(lines, wanted)
        cleaned = engines.compile_sql(lines, "duckdb")
        constant = None if wanted.events else wanted.event_type
        return cls(
            fields,
            _statement(cleaned, fields, constant, quoting=False),
            _statement(cleaned, fields, constant, quoting=True),
        )

    @property
    def header(self) -> bytes:
        return (",".join(field.name for field in self.fields) + "\n").encode()


def _statement(cleaned: str, fields: Sequence[Field], event_type: str | None, *, quoting: bool) -> str:
    pieces, constant = [], ""
    for number, field in enumerate(fields):
        constant += "," if number else ""
        if field.name == "EVENT_TYPE" and event_type is not None:
            constant += quoted(event_type)
            continue
        pieces += [_literal(constant)] if constant else []
        pieces.append(_cell(field, quoting))
        constant = ""
    line = f"concat({', '.join(pieces)}, {_literal(constant)}, chr(10))"
    typed = ", EVENT_TYPE AS event_type" if event_type is None else ""
    hashed = ["user_hash", "item_hash", *(_hashed(field) for field in fields[2:])]
    # Hashed once more: of several columns DuckDB mixes the last one's hash in by XOR alone, which sums would show.
    return (
        f"SELECT reason, CASE WHEN reason IS NULL THEN {line} ELSE '' END AS line, hash(hash({', '.join(hashed)})) AS row_hash,"
        f" user_hash, item_hash, TIMESTAMP AS seconds{typed}"
        f" FROM (SELECT *, hash(USER_ID) AS user_hash, hash(ITEM_ID) AS item_hash FROM ({cleaned}))"
    )


def _cell(field: Field, quoting: bool) -> str:
    name = f'"{field.name}"'
    if not (field.text and quoting):
        return name
    return (
        f"CASE WHEN regexp_matches({name}, '{_SPECIAL_SQL}') "
        f"THEN '\"' || replace({name}, '\"', '\"\"') || '\"' ELSE {name} END"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hashed(field: Field) -> str:
    # Amounts come as decimals or as floats, and are equal where the numbers are.
    return f'CAST("{field.name}" AS DOUBLE)' if field.type == "float" else f'"{field.name}"'


def quoted(text: str) -> str:
    """A CSV value as RFC 4180 has it."""
    return '"' + text.replace('"', '""') + '"' if any(character in text.encode() for character in _SPECIAL) else text


def read_lines(connection: duckdb.DuckDBPyConnection, statements: Statements, raw: pa.Table) -> pa.Table:
    """One row for each raw line: ``reason``, ``line`` (CSV with its line feed; empty where there is a reason), and the hashes of 64 bits ``row_hash`` (of all
    values), ``user_hash`` and ``item_hash``, ``seconds`` and, for events, ``event_type``."""
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
    if column.buffers()[2] is None:
        return False
    data = column.buffers()[2].to_pybytes()  # `in` looks at many bytes at once, a pattern at one
    return any(character in data for character in _SPECIAL)
