"""The plan of a publish: sizes counted a second way, costs and times worked out by hand, and what a person reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import publish_plan, publish_toml
from pipelines.publish_guards import judge, settle
from pipelines.publish_plan import Destination, Sizes, describe, plan, sizes
from pipelines.publish_toml import Prices
from serving.rate_budget import Ramp
from serving.store import Content, Generation, State
from tests.serving.store_contract import prediction
from transforms import schema

ROOT = Path(__file__).resolve().parents[2]
PRICES = Prices(date(2025, 6, 1), "nam5", "the price list", 0.18, 0.02, 0.18, 0.02)
DATASTORE, TABLE = "datastore://my-project", "my-project.shop.predictions"
RAMP = Ramp(500, 50, 5)
BOTH = Destination(DATASTORE, RAMP, TABLE)
NEW = Generation(
    "2011-12-10-0a1b2c3d4e5f", date(2011, 12, 10), 90, "m2", content=Content(200_000, 4_000_000.0, 10),
    dead_letters={"not_finite": 1000, "missing_value": 1},
)  # fmt: skip
CURRENT = Generation(
    "2011-11-10-5f4e3d2c1b0a", date(2011, 11, 10), 90, "m1", State.SEALED, content=Content(160_000, 3_600_000.0)
)
MEASURED = Sizes(entities=200_000 * 400, table=200_000 * 120)


def planned(
    new: Generation = NEW,
    current: Generation | None = CURRENT,
    to: Destination = BOTH,
    overrides: Mapping[str, str] | None = None,
    measured: Sizes = MEASURED,
) -> dict[str, Any]:
    judgement = settle(judge(new, current, publish_toml.read().guards), overrides or {})
    made = plan(new, current, judgement, measured, to, PRICES)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    return made


# --- Sizes ----------------------------------------------------------------------------------------------------------


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema.arrow_schema(schema.PREDICTIONS))


def entity_size(row: dict[str, Any], namespace: str) -> int:
    """Google's rules, value by value."""

    def text(value: str) -> int:
        return len(value.encode()) + 1

    key = text(namespace) + text("CustomerValue") + text(row["customer_id"]) + 16
    properties = sum(text(name) + (text(value) if isinstance(value, str) else 8) for name, value in row.items())
    return key + properties + text("expire_at") + 8 + 32


def row_size(row: dict[str, Any]) -> int:
    return sum(2 + len(value.encode()) if isinstance(value, str) else 8 for value in row.values())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), max_size=20))
def test_sizes_are_those_of_the_rows(ids: list[str]) -> None:
    rows = [prediction(customer_id) for customer_id in ids]
    expected = Sizes(
        sum(entity_size(row, f"{NEW.name}.1") for row in rows),
        sum(row_size({**row, "generation": NEW.name}) for row in rows),
    )
    batch = batch_of(rows)
    assert sizes(batch, NEW.name) == expected
    middle = len(rows) // 2
    assert sizes(batch[:middle], NEW.name) + sizes(batch[middle:], NEW.name) == expected


def test_the_size_of_one_row_by_hand() -> None:
    """Key 6 + 14 + 3 + 16; names 12+6+13+14+16+10+10+10+21+16+7 and 10; texts 3 + 3; ten values of 8; 32."""
    row = {**prediction("c1"), "model_version": "m1"}
    assert sizes(batch_of([row]), "gen") == Sizes(39 + 145 + 6 + 80 + 32, 4 + 4 + 9 * 8 + 5)


# --- Time and costs -------------------------------------------------------------------------------------------------


def test_how_long_the_ramp_makes_it() -> None:
    """150,000 in the first five minutes at 500/s, the other 50,000 at 750/s."""
    assert planned()["store"] == {
        "serving": DATASTORE,
        "writes": 200_000,
        "bytes": 80_000_000,
        "bytes_per_entity": 400.0,
        "ramp": "500/50/5",
        "seconds": pytest.approx(300 + 50_000 / 750),
    }
    assert planned(to=Destination(DATASTORE))["store"]["seconds"] is None


def test_what_it_costs() -> None:
    costs = {cost["item"]: (cost["quantity"], cost["usd"], cost["per"]) for cost in planned()["costs"]}
    assert costs == {
        "Datastore writes": (200_000, pytest.approx(0.36), "publish"),
        "Datastore deletes, when it expires": (200_000, pytest.approx(0.04), "publish"),
        "Datastore storage of this generation": (80_000_000, pytest.approx(0.18 * 80e6 / 2**30), "month"),
        "BigQuery load and copy": (2, 0.0, "publish"),
        "BigQuery storage, staged and partition": (48_000_000, pytest.approx(0.02 * 48e6 / 2**30), "month"),
    }


def test_what_is_staged_already_is_not_paid_for_again() -> None:
    made = planned(to=Destination(DATASTORE, RAMP, staged=True))
    assert (made["store"]["writes"], made["store"]["seconds"]) == (0, 0)
    assert made["costs"][0]["usd"] == 0
    assert "all rows are staged already" in "\n".join(describe(made))


def test_a_store_on_this_machine_costs_nothing_and_has_no_ramp() -> None:
    made = planned(to=Destination("sqlite:///tmp/serving.db", RAMP))
    assert made["costs"] == []
    assert made["store"] == {
        "serving": "sqlite:///tmp/serving.db", "writes": 200_000, "bytes": None, "bytes_per_entity": None,
        "ramp": None, "seconds": None,
    }  # fmt: skip
    text = "\n".join(describe(made))
    assert "sqlite:///tmp/serving.db: 200,000 rows\n" in text
    assert "costs" not in text


# --- What would happen ----------------------------------------------------------------------------------------------


def test_outcomes() -> None:
    few = replace(NEW, content=Content(10, 200.0))
    override = {"customers": "shop closed", "total_value": "so it is"}
    none_usable = replace(NEW, content=Content())
    to = Destination(DATASTORE)
    only = Destination(DATASTORE, stage_only=True)
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"would switch from {CURRENT.name} to {NEW.name}", planned()),
        (f"would switch from nothing to {NEW.name}", planned(current=None)),
        (f"generation {CURRENT.name} is current already: nothing to do", planned(CURRENT)),
        (
            f"would be refused by guard dead_letters, customers, total_value: {CURRENT.name} stays current",
            planned(few),
        ),
        (
            "would be refused by guard dead_letters: nothing is current, and nothing would be",
            planned(few, current=None),
        ),
        (
            f"would switch from {CURRENT.name} to {NEW.name}, passing over guard customers, total_value",
            planned(replace(few, dead_letters={}), overrides=override),
        ),
        ("would be refused: no row is usable", planned(none_usable, measured=Sizes())),
        (f"would be staged and left there: {CURRENT.name} stays current", planned(to=only)),
        (f"would switch from {CURRENT.name} to {NEW.name}", planned(to=to)),
    ]
    assert [made["outcome"] for _, made in cases] == [expected for expected, _ in cases]
    for expected, made in cases:
        assert describe(made)[-1] == f"outcome: {expected}"


def test_a_person_reads_it() -> None:
    assert describe(planned()) == [
        "generation  2011-12-10-0a1b2c3d4e5f",
        "input       201,001 rows: 200,000 usable, 1,001 dead letters (missing_value 1, not_finite 1,000)",
        "serving     datastore://my-project: 200,000 entities of 400 bytes, 76.3 MiB; the ramp 500/50/5 takes 6 min 07 s",
        "bigquery    my-project.shop.predictions: 22.9 MiB loaded, then copied over as_of=2011-12-10",
        "",
        "                                   new                  current   change",
        "generation     2011-12-10-0a1b2c3d4e5f  2011-11-10-5f4e3d2c1b0a  changed",
        "as_of                       2011-12-10               2011-11-10  changed",
        "horizon_days                        90                       90",
        "model_version                       m2                       m1  changed",
        "customers                      200,000                  160,000   +25.0%",
        "total_value               4,000,000.00             3,600,000.00   +11.1%",
        "mean_value                       20.00                    22.50   -11.1%",
        "",
        "guards:",
        "  passed: dead_letters 1,001 of 201,001 rows, 0.50%: accepted is at most 5%",
        "  passed: missing 1 of 201,001 rows, 0.00%: accepted is at most 1%",
        "  passed: zeros 10 of 200,000 customers, 0.01%: accepted is at most 10%",
        "  passed: customers 200,000, 1.25 of the 160,000 in generation 2011-11-10-5f4e3d2c1b0a: accepted is 0.8 to 1.5",
        "  passed: total_value 4,000,000.00, 1.11 of the 3,600,000.00 in generation 2011-11-10-5f4e3d2c1b0a: accepted is 0.5 to 2",
        "  passed: as_of 2011-12-10, 30 days after the 2011-11-10 of generation 2011-11-10-5f4e3d2c1b0a: accepted is at most 0 days before",
        "  not applicable: model_version m2 not checked: no --registry was given",
        "",
        "costs in US dollars:",
        "  Datastore writes                        200,000 entities  0.36",
        "  Datastore deletes, when it expires      200,000 entities  0.04",
        "  Datastore storage of this generation    76.3 MiB          0.01 a month",
        "  BigQuery load and copy                  2 jobs            free",
        "  BigQuery storage, staged and partition  45.8 MiB          below 0.01 a month",
        "  list prices of 2025-06-01 for nam5; check them at the price list",
        "",
        "outcome: would switch from 2011-11-10-5f4e3d2c1b0a to 2011-12-10-0a1b2c3d4e5f",
    ]


def test_the_operators_page_shows_what_is_printed_and_what_it_takes() -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    printed = describe(planned())
    assert "\n".join(printed[: printed.index("guards:") - 1]) in page
    header, times = (
        re.findall(r"(?<=\| )[^|]+?(?= \|)", line) for line in re.findall(r"(?m)^\| (?:customers|at best).*$", page)
    )
    expected = [publish_plan._duration(RAMP.seconds_for(int(number.replace(",", "")))) for number in header[1:]]
    assert times[1:] == expected


def test_the_operators_page_states_the_costs_of_a_million_customers() -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    row = prediction("C0000012345") | {"model_version": "ziln-2011-04-07-cb260a9b"}
    one = sizes(batch_of([row]), NEW.name)
    assert f"some {round(one.entities, -1)} bytes and a BigQuery row some {round(one.table, -1)}." in page
    million = replace(NEW, content=Content(10**6, 1.0))
    judgement = settle([], {})
    measured = Sizes(one.entities * 10**6, one.table * 10**6)
    costs = plan(million, None, judgement, measured, BOTH, publish_toml.read().prices)["costs"]
    writes, deletes, stored = (f"{cost['usd']:.2f}" for cost in costs[:3])
    assert f"{writes} US dollars of writes and {deletes} of deletes a publish, and {stored} a month" in page


def test_without_a_current_generation_there_is_no_comparison() -> None:
    lines = describe(planned(replace(NEW, content=Content()), current=None, measured=Sizes()))
    assert "                                   new" in lines
    assert "mean_value                           -" in lines
    assert not any("current" in line and "change" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"), (90_061, "25 h 01 min")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert publish_plan._duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 * 2**40, "5,120.0 GiB")]
)
def test_bytes(number: int, said: str) -> None:
    assert publish_plan._bytes(number) == said
