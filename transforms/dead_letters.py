"""The dead letter: a row that cannot be used, kept with the reason, so that it can be mended and replayed."""

from __future__ import annotations

import datetime
import decimal
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from transforms import schema

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DeadLetter:
    """One row: the stage that refused it, the reason's name, one readable line, and the row as it came."""

    stage: str
    reason: str
    detail: str
    payload: dict[str, Any]

    def to_json(self) -> str:
        """One JSON line. Values JSON has no type for become text; a float that is no number its name."""
        # Escaped to ASCII: some readers of JSON Lines end a line at U+2028 and its like.
        return json.dumps(_plain(asdict(self)), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, datetime.date | decimal.Decimal):
        return str(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def of_lines(rows: pa.RecordBatch, reasons: list[str]) -> list[DeadLetter]:
    """Dead letters of raw order lines; ``reasons`` are names from ``schema.DEAD_LETTERS``, one a row."""
    return [
        DeadLetter("clean_orders", reason, schema.explain(reason, payload), payload)
        for payload, reason in zip(rows.to_pylist(), reasons, strict=True)
    ]


def of_malformed(lines: list[str]) -> list[DeadLetter]:
    """Dead letters of CSV lines that have more or fewer fields than the header."""
    payloads = [{"line": line} for line in lines]
    return [
        DeadLetter("read_orders", "malformed_line", schema.explain("malformed_line", payload), payload)
        for payload in payloads
    ]
