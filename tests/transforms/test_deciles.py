"""Deciles against a plain sort of all rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import deciles

Row = tuple[float, str]

# Few values and ids near one another: ties at the boundaries are the rule. The last two ids sort one
# way by code points and the other way by UTF-16 units.
values = st.sampled_from((0.0, 0.0, 1.0, 1.0000000000000002, 2.5, 1e300, 5e-324))
alphabet = st.sampled_from(("", "a", "B", "b", "é", "客", "\uff5e", "\U0001f600"))


@st.composite
def runs(draw: st.DrawFn) -> list[Row]:
    ids = draw(st.lists(st.tuples(alphabet, st.integers(0, 30)), min_size=1, max_size=60, unique=True))
    return [(draw(values), f"{text}{number}") for text, number in ids]


def by_sorting(rows: list[Row]) -> dict[str, int]:
    ranked = sorted(rows, key=lambda row: (-row[0], row[1]))
    return {customer_id: 1 + 10 * rank // len(rows) for rank, (_, customer_id) in enumerate(ranked)}


def by_boundaries(rows: list[Row], parts: int = 1) -> dict[str, int]:
    """Boundaries of the whole run, then each of the parts alone, as the workers see them."""

    def ids_at(value: float) -> list[str]:
        return [customer_id for other, customer_id in rows if other == value]

    starts = deciles.boundaries(np.array([value for value, _ in rows]), ids_at)
    found: dict[str, int] = {}
    for part in (rows[start::parts] for start in range(parts)):
        part_values = pa.array([value for value, _ in part], pa.float64())
        ids = pa.array([customer_id for _, customer_id in part], pa.string())
        found |= dict(zip(ids.to_pylist(), deciles.deciles(part_values, ids, starts).to_pylist(), strict=True))
    return found


@given(runs(), st.integers(1, 3))
def test_deciles_equal_a_plain_sort(rows: list[Row], parts: int) -> None:
    assert by_boundaries(rows, parts) == by_sorting(rows)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 19, 20, 99, 100, 1001])
def test_every_run_size(n: int) -> None:
    rows = [(float(i * 7919 % 13), f"c{i}") for i in range(n)]
    found = by_boundaries(rows)
    assert found == by_sorting(rows)
    sizes = [list(found.values()).count(decile) for decile in range(1, 11)]
    assert max(sizes) - min(sizes) <= 1


def test_all_equal_is_ranked_by_id() -> None:
    found = by_boundaries([(1.0, f"c{i:03d}") for i in range(100)])
    assert [found[f"c{i:03d}"] for i in range(100)] == [1 + i // 10 for i in range(100)]


def test_only_the_ids_of_boundary_values_are_asked_for() -> None:
    """The ids of a large run never have to be in one place."""
    asked: list[float] = []

    def ids_at(value: float) -> list[str]:
        asked.append(value)
        return ["x"]

    deciles.boundaries(np.arange(1000, dtype=np.float64), ids_at)
    assert sorted(asked) == [999.0 - 100 * k for k in range(9, 0, -1)]
