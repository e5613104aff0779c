"""Raw order lines -> orders, each with the reason why it is not used, as one Ibis expression.

The rules and their precedence stand in ``docs/data_contract.md``. The expression is a projection:
one row out for each row in, in the same order.
"""

from __future__ import annotations

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from transforms import engines, schema

NUMBER_PATTERN = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
TIME_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))?)?$"
)
_WHOLE_PATTERN = r"^-?[0-9]+$"
_YEARS = (schema.FIRST_YEAR, schema.LAST_YEAR + 1)
_TEXTS = ("order_id", "item_id", "country", "channel", "category")


RAW_PREFIX = "raw_"


def clean_orders(raw: ir.Table, *, keep_raw: bool = False) -> ir.Table:
    """Types and checks raw lines.

    Args:
      raw: columns named as in ``schema.ORDERS`` (without order_day) or ``unit_price``; any of the
        types ``pipelines.orders_source`` accepts; optional ones may be absent.
      keep_raw: whether the raw columns come along, with ``RAW_PREFIX`` before their names: what a dead
        letter keeps, where the order of rows does not tell which is whose.

    Returns:
      The columns of ``schema.ORDERS`` and ``reason``: null for a usable line, else a name from
      ``schema.EXCLUDED`` or ``schema.DEAD_LETTERS``.
    """
    kept = {RAW_PREFIX + name: raw[name] for name in raw.columns} if keep_raw else {}
    given = {name: column_of(raw, name) for name in ("customer_id", "ordered_at", "amount", "quantity", "unit_price")}
    typed = raw.select(
        customer_id=identifier(given["customer_id"]),
        ordered_at=instant(given["ordered_at"]),
        amount=money(given["amount"]),
        quantity=money(given["quantity"]),
        unit_price=money(given["unit_price"]),
        has_id=is_present(given["customer_id"]),
        has_amount=given["amount"].notnull(),
        has_quantity=given["quantity"].notnull(),
        has_unit_price=given["unit_price"].notnull(),
        **{name: identifier(column_of(raw, name)) for name in _TEXTS},
        **kept,
    )
    priced = typed.mutate(
        order_day=typed.ordered_at.date(),
        amount=below(typed.amount, schema.MONEY_LIMIT),
        quantity=below(typed.quantity, schema.FACTOR_LIMIT),
        unit_price=below(typed.unit_price, schema.FACTOR_LIMIT),
    )
    product = engines.multiply_money(priced.quantity, priced.unit_price)
    valued = priced.mutate(amount=ibis.ifelse(priced.has_amount, priced.amount, product))
    reason = ibis.cases(
        (~valued.has_id, "no_customer"),
        (valued.customer_id.isnull(), "bad_customer_id"),
        (engines.utf8_bytes(valued.customer_id) > schema.CUSTOMER_ID_MAX_BYTES, "customer_id_too_long"),
        (valued.ordered_at.isnull(), "bad_ordered_at"),
        (valued.has_amount & valued.amount.isnull(), "bad_amount"),
        (valued.has_quantity & valued.quantity.isnull(), "bad_quantity"),
        (~valued.has_amount & valued.has_unit_price & valued.unit_price.isnull(), "bad_unit_price"),
        (valued.amount.isnull(), "missing_amount"),
        (below(valued.amount, schema.MONEY_LIMIT).isnull(), "amount_out_of_range"),
        else_=ibis.null(dt.string),
    )
    return valued.select(*schema.names(schema.ORDERS), *kept, reason=reason)


def dead_letters(raw: ir.Table) -> ir.Table:
    """Raw lines -> the dead letters among them, where the rows cannot come to Python.

    Args:
      raw: as for ``clean_orders``.

    Returns:
      ``stage, reason, detail, payload``, all text. ``detail`` is ``schema.explain``'s, word for word where the value is
      text of printable characters; ``payload`` is a JSON object of the raw columns.
    """
    lines = clean_orders(raw, keep_raw=True)
    letters = lines.filter(lines.reason.isin([rule.name for rule in schema.DEAD_LETTERS]))
    details = [
        (letters.reason == rule.name, _python_text(letters, rule.column, f": accepted is {rule.accepted}"))
        for rule in schema.DEAD_LETTERS
    ]
    return letters.select(
        stage=ibis.literal("clean_orders"),
        reason=letters.reason,
        detail=ibis.cases(*details),
        payload=engines.json_text(ibis.struct({name: letters[RAW_PREFIX + name] for name in raw.columns})),
    )


def _python_text(letters: ir.Table, name: str, then: str) -> ir.StringValue:
    """``name=value`` with the raw value as Python writes it, and the text that follows."""
    if RAW_PREFIX + name not in letters.columns:
        return ibis.literal(f"{name}=None{then}")
    value = letters[RAW_PREFIX + name]
    text = value.cast(dt.string)
    if value.type().is_string():
        for character, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            text = text.replace(character, escaped)
        only_single = value.contains("'") & ~value.contains('"')
        single = ibis.literal("'") + text.replace("'", "\\'") + "'"
        text = ibis.ifelse(only_single, ibis.literal('"') + text + '"', single)
    return ibis.literal(f"{name}=") + text.fill_null("None") + then


def order_days(raw: ir.Table) -> ir.DateValue:
    """The order day of each raw line, as ``clean_orders`` has it; reads nothing but ordered_at."""
    return instant(column_of(raw, "ordered_at")).date()


def column_of(raw: ir.Table, name: str) -> ir.Value:
    """The column, with empty text as null; null throughout where the source has no such column."""
    if name not in raw.columns:
        return ibis.null(dt.string)
    column = raw[name]
    return column.nullif("") if column.type().is_string() else column


def is_present(identifier: ir.Value) -> ir.BooleanValue:
    # pandas writes a missing whole number as NaN: no id, not a wrong one.
    if identifier.type().is_floating():
        return identifier.notnull() & ~identifier.isnan()
    return identifier.notnull()


def identifier(column: ir.Value) -> ir.StringValue:
    if column.type().is_floating():
        text = column.cast(dt.float64).cast(dt.string).re_replace(r"\.0$", "").re_replace("^-0$", "0")
        return ibis.ifelse(text.re_search(_WHOLE_PATTERN), text, ibis.null(dt.string))
    return column if column.type().is_string() else column.cast(dt.string)


def instant(column: ir.Value) -> ir.TimestampValue:
    """The instant; null where the text is no time, or the time is outside the years of the contract."""
    if column.type().is_string():
        instant = engines.parse_timestamp(ibis.ifelse(column.re_search(TIME_PATTERN), column, ibis.null(dt.string)))
    else:
        instant = column.cast(dt.Timestamp("UTC"))
    start, end = (ibis.literal(f"{year}-01-01 00:00:00+00:00").cast(dt.Timestamp("UTC")) for year in _YEARS)
    return ibis.ifelse((instant >= start) & (instant < end), instant, ibis.null(dt.Timestamp("UTC")))


def money(column: ir.Value) -> ir.DecimalValue:
    """The column as money; null where it is null or not a finite number."""
    kind = column.type()
    if kind.is_integer() or (kind.is_decimal() and kind.scale is not None and kind.scale <= 9):
        return column.try_cast(engines.MONEY)
    if kind.is_floating():
        # Through the shortest text: what the person wrote, not the binary fraction nearest to it.
        # A 32-bit float's own: 19.99 is not 19.989999771.
        column = column.cast(dt.string)
    elif kind.is_decimal():
        column = column.cast(dt.string)
    return engines.parse_money(ibis.ifelse(column.re_search(NUMBER_PATTERN), column, ibis.null(dt.string)))


def below(number: ir.DecimalValue, limit: int) -> ir.DecimalValue:
    """The number, null where its size reaches the limit."""
    return ibis.ifelse(number.abs() < ibis.literal(limit).cast(engines.MONEY), number, ibis.null(engines.MONEY))
