"""Starts local-bigquery, corrected where it differs from BigQuery in ways that matter here.

Run by the Python of the emulators' own environment, with local-bigquery's arguments. What is corrected:

- Decimals. The emulator's BIGNUMERIC is DuckDB's DECIMAL(38, 18), which holds every number our statements make
  of it; but its product has 36 decimals and overflows from 100 x 100 on, and ROUND(x, n, 'ROUND_HALF_EVEN')
  goes through a double. Both become functions on Python's decimals.
- Partition decorators: see ``bigquery_partitions``.
- A read session's ``snapshot_time``, which it ignores.

The statements themselves stay as BigQuery gets them.
"""

from __future__ import annotations

import contextvars
import decimal
import sys
from typing import Any

import bigquery_partitions  # beside this file, which is run as a script
from local_bigquery import cli
from local_bigquery.grpc import read
from local_bigquery.sql import native, rules, translate
from sqlglot import exp

BIGNUMERIC = "DECIMAL(38, 18)"
_QUANTUM = decimal.Decimal(1).scaleb(-18)
_EXACT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_UP)


def multiply(left: decimal.Decimal, right: decimal.Decimal) -> decimal.Decimal:
    """The product, rounded half away from zero at the emulator's 18 decimals (BigQuery's own at 38)."""
    return _EXACT.multiply(left, right).quantize(_QUANTUM, context=_EXACT)


def round_half_even(number: decimal.Decimal, digits: int) -> decimal.Decimal:
    """The number at this many decimals, ties to the even neighbour."""
    return number.quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_EVEN, _EXACT)


def _exact_product(node: exp.Expression, _context: object) -> exp.Expression:
    if isinstance(node, exp.Mul) and node.type and node.type.this == exp.DataType.Type.BIGDECIMAL:
        return exp.func("_bignumeric_multiply", node.this, node.expression)
    return node


def _exact_rounding(node: exp.Expression, _context: object) -> exp.Expression:
    # Only NUMERIC and BIGNUMERIC can be rounded by a named mode.
    if isinstance(node, exp.Round) and getattr(node.args.get("truncate"), "name", "") == "ROUND_HALF_EVEN":
        return exp.func("_bignumeric_round_half_even", node.this, node.args["decimals"])
    return node


def teach_exact_decimals() -> None:
    native.FUNCTIONS["_bignumeric_multiply"] = (multiply, [BIGNUMERIC, BIGNUMERIC], BIGNUMERIC)
    native.FUNCTIONS["_bignumeric_round_half_even"] = (round_half_even, [BIGNUMERIC, "INTEGER"], BIGNUMERIC)
    rules.NODE_RULES.extend([_exact_product, _exact_rounding])


def teach_snapshot_time() -> None:
    """Makes a read session select its table as of the time its modifiers name."""
    moment: contextvars.ContextVar[str] = contextvars.ContextVar("moment", default="")
    create_session = read.create_session

    def create_session_at(request: Any) -> Any:
        modifiers = request.read_session.table_modifiers
        wanted = modifiers.snapshot_time.isoformat() if "snapshot_time" in modifiers else ""
        token = moment.set(wanted)
        try:
            return create_session(request)
        finally:
            moment.reset(token)

    def parse_at(sql: str) -> list[exp.Expression]:
        trees = translate.parse(sql)
        if moment.get():
            as_of = exp.Version(this="TIMESTAMP", kind="AS OF", expression=exp.Literal.string(moment.get()))
            trees[0].find(exp.Table).set("version", as_of)
        return trees

    read.create_session, read.parse = create_session_at, parse_at


if __name__ == "__main__":
    teach_exact_decimals()
    teach_snapshot_time()
    bigquery_partitions.teach()
    sys.exit(cli.main())
