"""Starts local-bigquery, corrected where it differs from BigQuery in ways that matter here.

Run by the Python of the emulators' own environment, with local-bigquery's arguments. What is corrected:

- Decimals. The emulator's BIGNUMERIC is DuckDB's DECIMAL(38, 18), which holds every number our statements make
  of it; but its product has 36 decimals and overflows from 100 x 100 on, and ROUND(x, n, 'ROUND_HALF_EVEN')
  goes through a double. Both become functions on Python's decimals.
- Partition decorators: see ``bigquery_partitions``.
- A read session's ``snapshot_time``, which it ignores.
- A view's new statement: the emulator would show it and go on running the old one.
- The schema of a load that replaces a table: its descriptions are the table's then, where the emulator keeps the
  former ones.

The statements themselves stay as BigQuery gets them.
"""

from __future__ import annotations

import contextvars
import decimal
import sys
from typing import Any

import bigquery_partitions  # beside this file, which is run as a script
from local_bigquery import cli
from local_bigquery.catalog import metadata, tables
from local_bigquery.engine import database
from local_bigquery.grpc import read
from local_bigquery.jobs import query, runner
from local_bigquery.models import Table
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


def teach_load_schema() -> None:
    """Makes a load job with WRITE_TRUNCATE give the table (not one partition's) the schema it names."""
    load = runner.HANDLERS["load"]

    def load_with_schema(cursor: Any, config: Any, upload: str | None) -> Any:
        statistics = load(cursor, config, upload)
        reference = tables.reference(config.destinationTable)
        if config.writeDisposition == "WRITE_TRUNCATE" and config.schema_ and "$" not in reference[2]:
            tables.annotate(reference, Table(schema=config.schema_))
        return statistics

    runner.HANDLERS["load"] = load_with_schema


def teach_view_updates() -> None:
    """Makes an update of a view's statement change what the view selects."""
    update = tables.update

    def update_with_statement(
        project_id: str, dataset_id: str, table_id: str, body: Table, etag: str | None, replace: bool
    ) -> Table:
        if body.view and tables.load(project_id, dataset_id, table_id).type == "VIEW":
            metadata.check_etag(tables.load(project_id, dataset_id, table_id), etag)
            selected = query.translate_view(project_id, dataset_id, body.view.query)
            view = tables.name(project_id, dataset_id, table_id)
            database.execute(f"CREATE OR REPLACE VIEW {view} AS {selected}")
        return update(project_id, dataset_id, table_id, body, etag, replace)

    tables.update = update_with_statement


if __name__ == "__main__":
    teach_exact_decimals()
    teach_snapshot_time()
    teach_view_updates()
    teach_load_schema()
    bigquery_partitions.teach()
    sys.exit(cli.main())
