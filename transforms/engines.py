"""One expression, two engines: the patches and settings that make DuckDB and BigQuery agree.

Ibis writes the SQL. Where the engines have no common spelling for something whose exact value
matters (decimal rounding, bytes, MD5), the expressions call one of the functions below, and
``compile_sql`` replaces the call by each engine's own words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import ibis
import ibis.expr.datatypes as dt
import sqlglot
from ibis.backends.sql.compilers import BigQueryCompiler, DuckDBCompiler
from sqlglot import expressions as sge

if TYPE_CHECKING:
    import duckdb
    import ibis.expr.types as ir

Engine = Literal["duckdb", "bigquery"]

MONEY = dt.Decimal(38, 9)


@ibis.udf.scalar.builtin(name="clv_parse_money")
def parse_money(text: str) -> MONEY:  # type: ignore[valid-type]
    """Text -> money, rounded half-even to 9 decimals; NULL where it is no number or too large."""


@ibis.udf.scalar.builtin(name="clv_multiply_money")
def multiply_money(left: MONEY, right: MONEY) -> MONEY:  # type: ignore[valid-type]
    """The exact product, rounded half-even to 9 decimals; NULL where a factor reaches FACTOR_LIMIT."""


@ibis.udf.scalar.builtin(name="clv_utf8_bytes")
def utf8_bytes(text: str) -> int:  # type: ignore[empty-body]
    """Length in UTF-8 bytes, the unit of Datastore's limits."""


@ibis.udf.scalar.builtin(name="clv_md5_hex")
def md5_hex(text: str) -> str:  # type: ignore[empty-body]
    """MD5 of the UTF-8 bytes as 32 lower-case hex digits."""


@ibis.udf.scalar.builtin(name="clv_json_text")
def json_text(value) -> str:  # type: ignore[no-untyped-def, empty-body]
    """A struct as the text of a JSON object, in the order of its fields."""


@ibis.udf.scalar.builtin(name="clv_parse_timestamp")
def parse_timestamp(text: str) -> dt.Timestamp("UTC"):  # type: ignore
    """ISO 8601 text -> instant, UTC where it names no zone; NULL where there is no such time."""


# {0}, {1} stand for the arguments. DECIMAL(38,18) x 10^-18 keeps what half-even rounding at 9
# decimals needs to see; DECIMAL(19,9) holds FACTOR_LIMIT and multiplies into 38 digits exactly.
_SPELLINGS: dict[Engine, dict[str, str]] = {
    "duckdb": {
        # ROUND_EVEN is slow, and hardly a number has more than nine decimals: rounding is left to those that do.
        "CLV_PARSE_MONEY": "CASE WHEN TRY_CAST(TRY_CAST({0} AS DECIMAL(38, 9)) AS DECIMAL(38, 18))"
        " = TRY_CAST({0} AS DECIMAL(38, 18)) THEN TRY_CAST({0} AS DECIMAL(38, 9))"
        " ELSE CAST(ROUND_EVEN(TRY_CAST({0} AS DECIMAL(38, 18)), 9) AS DECIMAL(38, 9)) END",
        "CLV_MULTIPLY_MONEY": "CAST(ROUND_EVEN(TRY_CAST({0} AS DECIMAL(19, 9))"
        " * TRY_CAST({1} AS DECIMAL(19, 9)), 9) AS DECIMAL(38, 9))",
        "CLV_UTF8_BYTES": "STRLEN({0})",
        "CLV_MD5_HEX": "MD5({0})",
        "CLV_JSON_TEXT": "CAST(TO_JSON({0}) AS TEXT)",
        "CLV_PARSE_TIMESTAMP": "TRY_CAST({0} AS TIMESTAMPTZ)",
    },
    "bigquery": {
        "CLV_PARSE_MONEY": "SAFE_CAST(ROUND(SAFE_CAST({0} AS BIGNUMERIC), 9, 'ROUND_HALF_EVEN') AS NUMERIC)",
        "CLV_MULTIPLY_MONEY": "SAFE_CAST(ROUND(CAST({0} AS BIGNUMERIC) * CAST({1} AS BIGNUMERIC),"
        " 9, 'ROUND_HALF_EVEN') AS NUMERIC)",
        "CLV_UTF8_BYTES": "BYTE_LENGTH({0})",
        "CLV_MD5_HEX": "TO_HEX(MD5({0}))",
        "CLV_JSON_TEXT": "TO_JSON_STRING({0})",
        # BigQuery wants seconds; people often leave them out.
        "CLV_PARSE_TIMESTAMP": "SAFE_CAST(REGEXP_REPLACE({0}, r'^(.{{10}}[T ][0-9]{{2}}:[0-9]{{2}})(Z|[+-].*)?$',"
        " r'\\1:00\\2') AS TIMESTAMP)",
    },
}

_COMPILERS = {"duckdb": DuckDBCompiler, "bigquery": BigQueryCompiler}


def compile_sql(
    expression: ir.Table, engine: Engine, *, pretty: bool = False, tables: dict[str, sge.Query] | None = None
) -> str:
    """The expression as one SELECT statement of the engine's dialect.

    Args:
      tables: what the expression's tables of these names are, as parsed SELECTs; the others are the engine's own.
    """
    compiler = _COMPILERS[engine]()
    spellings = _SPELLINGS[engine]

    def spell(node: sge.Expression) -> sge.Expression:
        if isinstance(node, sge.Anonymous) and node.name.upper() in spellings:
            arguments = [argument.transform(spell).sql(dialect=compiler.dialect) for argument in node.expressions]
            text = spellings[node.name.upper()].format(*arguments)
            return sqlglot.parse_one(text, dialect=compiler.dialect)
        return node

    tree = compiler.to_sqlglot(expression).transform(spell)
    # Before the expression's own common tables, which read from these.
    given = [
        sge.CTE(this=query, alias=sge.TableAlias(this=sge.to_identifier(name)))
        for name, query in (tables or {}).items()
    ]
    if given:
        own = tree.args.get("with_")
        tree.set("with_", sge.With(expressions=[*given, *(own.expressions if own else [])]))
    return str(tree.sql(dialect=compiler.dialect, pretty=pretty))


def duckdb_connection(threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB with the settings the expressions rely on.

    The time zone is UTC because TIMESTAMPTZ -> DATE follows it, and a New York machine would
    move an order at 00:30 UTC to the day before: over the cutoff.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": threads})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = true")
    return connection
