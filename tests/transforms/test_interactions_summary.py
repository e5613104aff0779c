"""Counts by the smallest hashes: exact below what is kept, within their error beyond, whatever the order of adding."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import interactions_summary
from transforms.interactions_summary import Distinct, Summary, sum_of

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=60)


def spread(numbers: Sequence[int]) -> np.ndarray:
    """Different 64-bit hashes for different numbers, uniform (the finaliser of MurmurHash3)."""
    x = np.asarray(numbers, np.uint64) + np.uint64(1)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(33))


def distinct(found: Sequence[tuple[int, int]], kept: int) -> Distinct:
    counted = Distinct(kept)
    counted.add(spread([key for key, _ in found]), spread([1000 + mark for _, mark in found]))
    return counted


def kept_state(counted: Distinct) -> tuple[list[int], list[int], list[int], bool]:
    assert counted.count >= 0 and counted.least is not None and counted.greatest is not None
    return counted.hashes.tolist(), counted.least.tolist(), counted.greatest.tolist(), counted.dropped


@given(st.lists(pairs, min_size=1, max_size=4))
def test_exact_while_all_are_kept(parts: list[list[tuple[int, int]]]) -> None:
    total = Distinct(1000)
    for part in parts:
        total.merge(distinct(part, 1000))
    found = set(itertools.chain(*parts))
    users = [user for user, _ in found]
    assert total.exact
    assert total.count == len(set(users))
    assert total.count_with_two == sum(users.count(user) >= 2 for user in set(users))


@given(st.lists(pairs, min_size=2, max_size=4), st.integers(2, 12))
def test_parts_add_up_to_the_whole_in_any_order(parts: list[list[tuple[int, int]]], kept: int) -> None:
    """The smallest hashes with the least and the greatest of their marks, as one look at everything has them."""
    states = []
    for order in (parts, parts[::-1]):
        total = Distinct(kept)
        for part in order:
            total.merge(pickle.loads(pickle.dumps(distinct(part, kept))))
        states.append(kept_state(total))
    assert states[0] == states[1] == kept_state(distinct(list(itertools.chain(*parts)), kept))


@pytest.mark.parametrize("count", [4_096, 4_097, 50_000, 400_000])
def test_the_error_of_estimates(count: int) -> None:
    total = Distinct(4_096)
    for start in range(0, count, 30_000):
        part = Distinct(4_096)
        numbers = np.arange(start, min(start + 30_000, count))
        twice = numbers[numbers % 5 == 0]
        part.add(spread(np.concatenate([numbers, twice])), spread(np.concatenate([numbers, twice + 10**9])))
        total.merge(part)
    assert total.exact == (count <= 4_096)
    assert total.count == (count if total.exact else pytest.approx(count, rel=4 / 64))
    assert total.count_with_two == pytest.approx(len(range(0, count, 5)), rel=0 if total.exact else 8 / 64)


def test_a_stream_that_never_ends_keeps_no_more() -> None:
    counted = Distinct(100)
    for start in range(0, 100_000, 1_000):
        counted.add(spread(range(start, start + 1_000)), spread(range(start, start + 1_000)))
    assert counted.count and len(counted.hashes) == 100
    assert len(pickle.dumps(counted)) < 5_000


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_sums_of_hashes(numbers: list[int]) -> None:
    assert sum_of(np.array(numbers, np.uint64)) == sum(numbers)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=30))
def test_lines_with_a_reason_are_not_summed(found: list[int | None]) -> None:
    """None is a line with a reason; its hashes are something all the same."""
    hashes = pa.array(spread([99 if each is None else each for each in found]))
    lines = pa.table(
        {
            "reason": pa.array(["return" if each is None else None for each in found], pa.string()),
            "row_hash": hashes, "user_hash": hashes, "item_hash": hashes, "seconds": pa.array([7] * len(found), pa.int64()),
            "event_type": pa.array([str(each) for each in found], pa.string()),
        }
    )  # fmt: skip
    summary, used = Summary(), [each for each in found if each is not None]
    summary.add(lines)
    assert summary.rows == summary.counts["used", ""] == len(used)
    assert summary.hash_sum == sum(int(spread([each])[0]) for each in used)
    assert summary.users.count == summary.items.count == summary.interactions.count == len(set(used))
    assert summary.event_types == {str(each) for each in used}
    assert (summary.first, summary.last) == ((7, 7) if used else (None, None))


def test_nothing_is_nothing() -> None:
    total = Summary.merge([Summary(), Summary()])
    assert total.figures() == {
        "rows": 0, "users": 0, "items": 0, "unique_interactions": 0, "users_with_two": 0, "estimates": [],
        "estimates_standard_error": 0.0,
    }  # fmt: skip
    assert total.first is None and total.num_rows == 0


def test_event_types_are_bounded() -> None:
    parts = [Summary(event_types={f"{number:04d}"}) for number in range(500)]
    assert len(Summary.merge(parts).event_types) == interactions_summary.MOST_EVENT_TYPES
