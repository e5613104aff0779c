"""Customers that an engine has aggregated make the same parts, however they come: in any batches, bundles or order."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force, order_strategies
from tests.order_strategies import CUTOFF, HORIZON_DAYS
from tests.transforms import test_aggregate, test_pushdown
from tests.transforms.test_aggregate import Outputs, run_bundles
from transforms import buckets as bucketing
from transforms import collect_customers, schema
from transforms.collect_customers import CollectBucket, RouteCustomers
from transforms.customer_features import Snapshot
from transforms.pushdown import LINES, ROUTED, UNKNOWN
from transforms.statistics import Statistics

ROWS = order_strategies.awkward_orders()
SNAPSHOT = Snapshot(CUTOFF, HORIZON_DAYS, order_strategies.HISTORY_DAYS)


@functools.cache
def aggregated() -> pa.Table:
    """What a stream gives of a pushed-down query: the customers' rows alone."""
    return test_pushdown.customers_and_fates(ROWS, SNAPSHOT)[0]


def batches_of(rows: pa.Table, cuts: Iterable[int]) -> list[pa.RecordBatch]:
    edges = [0, *sorted(cuts), rows.num_rows]
    tables = [rows.slice(start, end - start) for start, end in itertools.pairwise(edges)]
    return [table.combine_chunks().to_batches()[0] for table in tables if table.num_rows]


def collect(
    batches: list[pa.RecordBatch], buckets: int, directory: Path, *, as_files: bool
) -> tuple[dict[str, pa.Table], Outputs]:
    """The parts by name and the other outputs; every other batch begins a new bundle."""
    moving, raw = directory / "buckets", directory / "raw"
    moving.mkdir(parents=True)
    outputs = Outputs()
    bundles = [batches[start : start + 2] for start in range(0, len(batches), 2)]
    run_bundles(RouteCustomers(buckets, str(moving) if as_files else None), bundles, outputs)
    assert bool(list(moving.iterdir())) == (as_files and bool(outputs.main))
    parts: dict[int, list[Any]] = {}
    for bucket, part in outputs.main:
        parts.setdefault(bucket, []).append(part)
    outputs.main = []
    run_bundles(CollectBucket(str(raw), buckets, "a snapshot"), [list(parts.items())], outputs)
    return {Path(path).name: pq.ParquetFile(path).read() for path in outputs.main}, outputs


@pytest.mark.parametrize("buckets", [1, 7])
@pytest.mark.parametrize("as_files", [True, False], ids=["files", "bytes"])
def test_the_parts_are_those_of_the_way_through_buckets(tmp_path: Path, buckets: int, as_files: bool) -> None:
    found, outputs = collect(batches_of(aggregated(), [3, 20]), buckets, tmp_path / "pushed", as_files=as_files)
    _, other = test_aggregate.run_job([[ROWS]], buckets, tmp_path / "here", as_files=as_files)
    expected = {Path(path).name: pq.ParquetFile(path).read() for path in other.main}
    assert found.keys() == expected.keys()
    for name, part in found.items():
        assert part.schema == schema.arrow_schema(schema.CUSTOMERS)
        assert part["customer_id"].to_pylist() == expected[name]["customer_id"].to_pylist()
        brute_force.assert_equal({row["customer_id"]: row for row in expected[name].to_pylist()}, part)
    for kind in ("used", "customers"):
        assert {k: n for k, n in outputs.counts.items() if k[0] == kind} == {
            k: n for k, n in other.counts.items() if k[0] == kind
        }
    described = functools.reduce(lambda a, b: Statistics.merge([a, b]), outputs.statistics)
    assert described.rows == aggregated().num_rows == sum(part.num_rows for part in found.values())


@settings(max_examples=15)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.integers(0, 40), max_size=5),
    st.sampled_from((1, 7)),
    st.booleans(),
    st.sampled_from((1, 10, bucketing.ROUTED_ROWS)),
)
def test_no_shuffle_and_no_cut_matters(
    tmp_path_factory: pytest.TempPathFactory, randomness: random.Random, cuts: list[int], buckets: int, as_files: bool,
    routed_rows: int,
) -> None:  # fmt: skip
    rows = aggregated()
    shuffled = rows.take(randomness.sample(range(rows.num_rows), rows.num_rows))
    expected, _ = collect(batches_of(rows, []), buckets, tmp_path_factory.mktemp("whole"), as_files=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucketing, "ROUTED_ROWS", routed_rows)
        found, outputs = collect(batches_of(shuffled, cuts), buckets, tmp_path_factory.mktemp("cut"), as_files=as_files)
    assert found == expected  # the same bytes of every float too: they were computed before
    assert outputs.counts["used", ""] == pc.sum(rows[LINES]).as_py()


def test_a_batch_without_rows_does_nothing(tmp_path: Path) -> None:
    empty = pa.RecordBatch.from_pylist([], aggregated().schema)
    found, outputs = collect([empty], 2, tmp_path, as_files=True)
    assert not found and not any(outputs.counts.values())


def test_fates_are_counted_once() -> None:
    fates = [(ROUTED, 10), (UNKNOWN, 4), ("after_window", 2), ("no_customer", 1), ("bad_amount", 3)]
    counts: Counter[tuple[str, str]] = Counter()
    for key, lines in collect_customers.count_fates(fates):
        counts[key] += lines
    # The lines of unknown customers are among the routed ones.
    assert counts == {
        ("read", ""): 16, ("routed", ""): 10, ("excluded", UNKNOWN): 4, ("excluded", "after_window"): 2,
        ("excluded", "no_customer"): 1, ("dead_letters", "bad_amount"): 3,
    }  # fmt: skip
