"""Dead letters keep the row as it came, in lines that any JSON reader reads."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import dead_letters, schema
from transforms.dead_letters import DeadLetter

MOMENT = datetime.datetime(2012, 2, 29, 23, 30, tzinfo=datetime.UTC)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None), (7, 7), (0.1, 0.1), ("two\nlines \"quoted\" é \u2028", "two\nlines \"quoted\" é \u2028"),
        (float("nan"), "nan"), (float("-inf"), "-inf"), (Decimal("1.10"), "1.10"),
        (MOMENT, "2012-02-29 23:30:00+00:00"), (MOMENT.date(), "2012-02-29"), (b"\xff", "\ufffd"),
        ({"a": float("inf")}, {"a": "inf"}),
    ],
    ids=repr,
)  # fmt: skip
def test_every_value_becomes_one_line_of_json(value: Any, written: Any) -> None:
    line = DeadLetter("stage", "reason", "detail", {"value": value}).to_json()
    assert "\n" not in line
    assert strict(line) == {"stage": "stage", "reason": "reason", "detail": "detail", "payload": {"value": written}}


@given(st.dictionaries(st.text(), st.none() | st.text() | st.floats() | st.integers() | st.decimals()))
def test_no_payload_breaks_the_line(payload: dict[str, Any]) -> None:
    line = DeadLetter("stage", "reason", "detail", payload).to_json()
    assert "\n" not in line and strict(line)["payload"].keys() == payload.keys()


def test_lines_keep_their_rows_and_say_what_is_accepted() -> None:
    rows = pa.RecordBatch.from_pylist([{"customer_id": "a", "amount": "x"}, {"customer_id": "b" * 1501, "amount": "1"}])
    first, second = dead_letters.of_lines(rows, ["bad_amount", "customer_id_too_long"])
    assert (first.stage, first.reason, first.payload) == (
        "clean_orders",
        "bad_amount",
        {"customer_id": "a", "amount": "x"},
    )
    assert first.detail == schema.explain("bad_amount", {"amount": "x"})
    assert second.payload["customer_id"] == "b" * 1501


def test_malformed_lines_keep_their_text() -> None:
    (letter,) = dead_letters.of_malformed(["1,2,3,4"])
    assert letter == DeadLetter("read_orders", "malformed_line", letter.detail, {"line": "1,2,3,4"})
    assert letter.detail == "line='1,2,3,4': accepted is as many fields as the header has"
