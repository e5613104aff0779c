"""The vectorised checks against a plain second implementation, row by row."""

from __future__ import annotations

import json
import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.checks import Constants, rules, split
from tests.serving.store_contract import AS_OF, batch_of, prediction

CONSTANTS = Constants(AS_OF, 90, "m1")
NUMBERS = st.sampled_from([None, 0.0, -0.0, 0.5, 1.0, 2.0, -1e-300, math.nan, math.inf, -math.inf])
ROWS = st.fixed_dictionaries(
    {
        "customer_id": st.sampled_from([None, "", "c", "é" * 750, "é" * 750 + "x", "x" * 1500, "x" * 1501]),
        "as_of": st.sampled_from([None, AS_OF, date(2011, 12, 9)]),
        "horizon_days": st.sampled_from([None, 90, 91]),
        "model_version": st.sampled_from([None, "m1", "m2"]),
        "purchase_probability": NUMBERS,
        "decile": st.sampled_from([None, 0, 1, 10, 11]),
    }
    | dict.fromkeys(("predicted_value", "value_p10", "value_p50", "value_p90", "expected_orders"), NUMBERS)
)
FLOATS = ("predicted_value", "value_p10", "value_p50", "value_p90", "purchase_probability", "expected_orders")


def expected_reason(row: dict[str, Any]) -> str | None:
    if row["customer_id"] in (None, ""):
        return "missing_customer_id"
    if len(row["customer_id"].encode()) > 1500:
        return "customer_id_too_long"
    if None in row.values():
        return "missing_value"
    for name, value in (("as_of", AS_OF), ("horizon_days", 90), ("model_version", "m1")):
        if row[name] != value:
            return f"wrong_{name}"
    if not all(math.isfinite(row[name]) for name in FLOATS):
        return "not_finite"
    if any(row[name] < 0 for name in FLOATS if name != "purchase_probability"):
        return "negative"
    if not 0 <= row["purchase_probability"] <= 1:
        return "probability_out_of_range"
    if not row["value_p10"] <= row["value_p50"] <= row["value_p90"]:
        return "quantiles_out_of_order"
    return None if 1 <= row["decile"] <= 10 else "decile_out_of_range"


def mostly_good(row: dict[str, Any], changed: set[str]) -> dict[str, Any]:
    return prediction("c") | {name: value for name, value in row.items() if name in changed}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.builds(mostly_good, ROWS, st.sets(st.sampled_from(list(prediction("c"))), max_size=4)), max_size=12))
def test_every_row_is_usable_or_one_dead_letter(rows: list[dict[str, Any]]) -> None:
    usable, letters = split(batch_of(rows), rules(CONSTANTS))
    reasons = [expected_reason(row) for row in rows]
    assert usable.to_pylist() == [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    assert [letter.reason for letter in letters] == [reason for reason in reasons if reason]
    bad_ids = [row["customer_id"] for row, reason in zip(rows, reasons, strict=True) if reason]
    lines = [json.loads(letter.to_json()) for letter in letters]
    assert [line["payload"]["customer_id"] for line in lines] == bad_ids


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"customer_id": ""}, "customer_id='': accepted is a customer's id"),
        ({"as_of": date(2011, 12, 9)}, "as_of=2011-12-09: accepted is the manifest's 2011-12-10"),
        ({"value_p50": math.nan}, "value_p50=nan: accepted is a finite number"),
        (
            {"value_p10": 9.0},
            "value_p10=9.0, value_p50=1.0, value_p90=2.0: accepted is value_p10 <= value_p50 <= value_p90",
        ),
        ({"decile": 11}, "decile=11: accepted is 1 to 10"),
    ],
)  # fmt: skip
def test_the_detail_names_column_value_and_what_is_accepted(change: dict[str, Any], detail: str) -> None:
    _, letters = split(batch_of([prediction("c1") | change]), rules(CONSTANTS))
    assert [(letter.stage, letter.detail) for letter in letters] == [("publish", detail)]
