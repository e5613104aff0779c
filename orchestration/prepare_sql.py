"""The statements that prepare the warehouse, each compiled from the expressions the file jobs run on DuckDB."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import sqlglot
from sqlglot import expressions as sge

from orchestration.raw_orders import RawOrders
from pipelines.bigquery import Table
from transforms import clean_orders, engines, schema

USABLE = "usable"  # stands for no reason where lines are counted by reason


@dataclass(frozen=True)
class Statements:
    """SELECT statements of GoogleSQL.

    ``account`` and ``written`` count lines by ``reason`` (USABLE for orders): of the raw lines, and of what the
    tables hold of the day. ``orders`` and ``dead_letters`` give the rows of those tables.
    """

    account: str
    dead_letters: str
    orders: str
    written: str


def statements(
    raw: RawOrders, raw_table: Table, orders: Table, dead_letters: Table, loaded_on: datetime.date
) -> Statements:
    """The statements for the lines in ``raw_table``, loaded on a day."""
    lines = ibis.table(ibis.Schema.from_pyarrow(raw.schema), name="raw")
    source = {"raw": _parsed(raw.select(raw_table.sql))}
    day = ibis.literal(loaded_on, dt.date)
    cleaned = clean_orders.clean_orders(lines)
    usable = cleaned.filter(cleaned.reason.isnull()).select(*schema.names(schema.ORDERS), loaded_on=day)
    dead = clean_orders.dead_letters(lines).select(day.name("loaded_on"), "stage", "reason", "detail", "payload")
    tables = {name: _parsed(f"SELECT * FROM {t.sql}") for name, t in (("orders", orders), ("dead", dead_letters))}
    return Statements(
        account=_compiled(_by_reason(cleaned.mutate(reason=cleaned.reason.fill_null(USABLE))), source),
        dead_letters=_compiled(dead, source),
        orders=_compiled(usable, source),
        written=_compiled(_written(day), tables),
    )


def _by_reason(lines: ir.Table) -> ir.Table:
    return lines.group_by("reason").agg(order_lines=lines.count())


def _written(day: ir.DateScalar) -> ir.Table:
    orders = ibis.table({"loaded_on": dt.date}, name="orders")
    dead = ibis.table({"loaded_on": dt.date, "reason": dt.string}, name="dead")
    used = orders.filter(orders.loaded_on == day)
    counted = used.agg(order_lines=used.count()).select(reason=ibis.literal(USABLE), order_lines=ibis._.order_lines)
    return ibis.union(counted, _by_reason(dead.filter(dead.loaded_on == day)))


def _parsed(select: str) -> sge.Query:
    tree = sqlglot.parse_one(select, dialect="bigquery")
    assert isinstance(tree, sge.Query)
    return tree


def _compiled(expression: ir.Table, tables: dict[str, sge.Query]) -> str:
    return engines.compile_sql(expression, "bigquery", pretty=True, tables=tables)
