"""Which predictions may be served: vectorised checks that turn the others into dead letters.

A row gets the first reason that applies, in the order of ``rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from transforms.dead_letters import DeadLetter
from transforms.schema import CUSTOMER_ID_MAX_BYTES, PREDICTIONS, Type

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "publish"
QUANTILES = ("value_p10", "value_p50", "value_p90")
NOT_NEGATIVE = ("predicted_value", *QUANTILES, "expected_orders")
_FLOATS = tuple(column.name for column in PREDICTIONS if column.type is Type.FLOAT)


@dataclass(frozen=True)
class Rule:
    """One way for a row to be unusable. ``bad`` maps a batch to a boolean array; null counts as fine."""

    reason: str
    columns: tuple[str, ...]
    accepted: str
    bad: Callable[[pa.RecordBatch], pa.Array]


_DUPLICATE = Rule("duplicate_customer_id", ("customer_id",), "one row a customer; these differ", lambda _: None)
_REPEATED = Rule("repeated_row", ("customer_id",), "one row a customer; an equal one is served", lambda _: None)


@dataclass(frozen=True)
class Constants:
    """What every row of a predictions directory must say, because its manifest does."""

    as_of: date
    horizon_days: int
    model_version: str


def rules(constants: Constants) -> list[Rule]:
    """Every check, in order of precedence."""
    import pyarrow.compute as pc

    def column_rule(reason: str, name: str, accepted: str, bad: Callable[[pa.Array], pa.Array]) -> Rule:
        return Rule(reason, (name,), accepted, lambda batch: bad(batch.column(name)))

    def outside(low: float, high: float) -> Callable[[pa.Array], pa.Array]:
        return lambda values: pc.or_(pc.less(values, low), pc.greater(values, high))

    def differs(value: Any) -> Callable[[pa.Array], pa.Array]:
        return lambda values: pc.not_equal(values, value)

    def disordered(batch: pa.RecordBatch) -> pa.Array:
        p10, p50, p90 = (batch.column(name) for name in QUANTILES)
        return pc.or_(pc.greater(p10, p50), pc.greater(p50, p90))

    others = [column.name for column in PREDICTIONS if column.name != "customer_id"]
    return [
        column_rule(
            "missing_customer_id", "customer_id", "a customer's id",
            lambda ids: pc.fill_null(pc.equal(ids, ""), True),
        ),
        column_rule(
            "customer_id_too_long", "customer_id", f"at most {CUSTOMER_ID_MAX_BYTES} UTF-8 bytes",
            lambda ids: pc.greater(pc.binary_length(ids), CUSTOMER_ID_MAX_BYTES),
        ),
        column_rule(
            "reserved_customer_id", "customer_id", "an id that does not begin and end with __, which Datastore reserves",
            lambda ids: pc.match_substring_regex(ids, "(?s)^__.*__$"),
        ),
        *(column_rule("missing_value", name, "a value", pc.is_null) for name in others),
        *(
            column_rule(f"wrong_{name}", name, f"the manifest's {value!s}", differs(value))
            for name, value in vars(constants).items()
        ),
        *(column_rule("not_finite", name, "a finite number", lambda v: pc.invert(pc.is_finite(v))) for name in _FLOATS),
        *(column_rule("negative", name, "at least 0", lambda v: pc.less(v, 0.0)) for name in NOT_NEGATIVE),
        column_rule("probability_out_of_range", "purchase_probability", "0 to 1", outside(0.0, 1.0)),
        Rule("quantiles_out_of_order", QUANTILES, " <= ".join(QUANTILES), disordered),
        column_rule("decile_out_of_range", "decile", "1 to 10", outside(1, 10)),
    ]  # fmt: skip


def split_readable(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """The rows whose texts are UTF-8, which Parquet does not enforce, and the others as dead letters."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
        return batch, []
    except pa.ArrowInvalid:
        pass
    texts = [index for index, field in enumerate(batch.schema) if pa.types.is_string(field.type)]
    raw = batch
    for index in texts:
        raw = raw.set_column(index, batch.schema.names[index], batch.column(index).cast(pa.binary()))
    readable, letters = [], []
    for row in raw.to_pylist():  # one by one: nobody has many of these
        bad = [name for name in (batch.schema.names[index] for index in texts) if not _is_utf8(row[name])]
        readable.append(not bad)
        if bad:
            letters.append(_dead_letter(Rule("not_utf8", tuple(bad), "UTF-8 text", lambda _: None), row))
    return batch.filter(pa.array(readable)), letters


def _is_utf8(text: bytes | None) -> bool:
    try:
        (text or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def split_repeated(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """One row of each customer of rows that are usable but may be several a customer, and the others as dead letters.

    Of rows that are equal in every column one is kept; where they differ nobody can say which is right.
    """
    import pyarrow as pa

    rows: dict[str, list[dict[str, Any]]] = {}
    for row in batch.to_pylist():  # one by one: nobody has many of these
        rows.setdefault(row["customer_id"], []).append(row)
    usable, letters = [], []
    for _, same in sorted(rows.items()):
        if all(row == same[0] for row in same):
            usable.append(same[0])
            letters += [_dead_letter(_REPEATED, row) for row in same[1:]]
        else:
            letters += [_dead_letter(_DUPLICATE, row) for row in same]
    return pa.RecordBatch.from_pylist(usable, schema=batch.schema), letters


def split(batch: pa.RecordBatch, checks: list[Rule]) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """The usable rows of a batch, in order, and the others as dead letters."""
    import pyarrow as pa
    import pyarrow.compute as pc

    broken = pa.nulls(batch.num_rows, pa.int8())
    for index, rule in enumerate(checks):
        hit = pc.and_(pc.is_null(broken), pc.fill_null(rule.bad(batch), False))
        if hit.true_count:
            broken = pc.if_else(hit, pa.scalar(index, pa.int8()), broken)
    if broken.null_count == batch.num_rows:
        return batch, []
    unusable = pc.is_valid(broken)
    rows = batch.filter(unusable).to_pylist()
    letters = [
        _dead_letter(checks[index], row) for index, row in zip(broken.filter(unusable).to_pylist(), rows, strict=True)
    ]
    return batch.filter(pc.is_null(broken)), letters


def _dead_letter(rule: Rule, row: dict[str, Any]) -> DeadLetter:
    values = ", ".join(f"{name}={_readable(row[name])}" for name in rule.columns)
    return DeadLetter(STAGE, rule.reason, f"{values}: accepted is {rule.accepted}", row)


def _readable(value: Any) -> str:
    return str(value) if isinstance(value, date) else repr(value)
