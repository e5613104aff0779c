"""Buckets, bundles, shuffling and the way the rows travel change nothing: the DoFns on the awkward orders."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam import pvalue
from apache_beam.utils.windowed_value import WindowedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force, order_strategies
from tests.order_strategies import CUTOFF, HISTORY_DAYS, HORIZON_DAYS, Row
from tests.pipelines.features_data import expected_activity, expected_customers, expected_lines, numbers
from transforms import activity, aggregate, dead_letters, schema
from transforms import buckets as bucketing
from transforms.buckets import ACTIVITY_TAG, COUNTS_TAG, DEAD_LETTERS_TAG, ROUTED_ROWS, STATISTICS_TAG, bucket_count
from transforms.customer_features import Snapshot
from transforms.statistics import Statistics

ROWS = order_strategies.awkward_orders()
SCHEMA = order_strategies.to_table(ROWS).schema
SNAPSHOT = Snapshot(CUTOFF, HORIZON_DAYS, HISTORY_DAYS)


# Compiling costs half a second.
@functools.cache
def statements(buckets: int) -> aggregate.Statements:
    return aggregate.Statements.compile(SCHEMA, SNAPSHOT, buckets)


class Outputs:
    """What DoFns emitted, by tag."""

    def __init__(self) -> None:
        self.main: list[Any] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.letters: list[dead_letters.DeadLetter] = []
        self.statistics: list[Statistics] = []
        self.activity: list[pa.Table] = []

    def take(self, outputs: Iterable[Any] | None) -> None:
        for output in outputs or ():
            value = output.value if isinstance(output, WindowedValue) else output
            tag, value = (value.tag, value.value) if isinstance(value, pvalue.TaggedOutput) else (None, value)
            value = value.value if isinstance(value, WindowedValue) else value
            if tag == COUNTS_TAG:
                self.counts[value[0]] += value[1]
            elif tag == DEAD_LETTERS_TAG:
                self.letters.append(value)
            elif tag == STATISTICS_TAG:
                self.statistics.append(value)
            elif tag == ACTIVITY_TAG:
                self.activity.append(value)
            else:
                self.main.append(value)


def run_bundles(dofn: Any, bundles: Iterable[list[Any]], outputs: Outputs) -> None:
    dofn.setup()
    for bundle in bundles:
        dofn.start_bundle()
        for element in bundle:
            outputs.take(dofn.process(element))
        outputs.take(dofn.finish_bundle())
    dofn.teardown()


def run_job(
    bundles: Iterable[list[list[Row]]], buckets: int, directory: Path, *, as_files: bool
) -> tuple[pa.Table, Outputs]:
    """Customers (sorted) and the other outputs of bundles of batches of rows, as a runner would drive the DoFns."""
    moving, raw = directory / "buckets", directory / "raw"
    moving.mkdir(parents=True)
    outputs = Outputs()
    batches = ([(batch_of(rows), []) for rows in bundle] for bundle in bundles)
    run_bundles(aggregate.CleanAndRoute(statements(buckets), str(moving) if as_files else None), batches, outputs)
    parts: dict[int, list[Any]] = {}
    for bucket, part in outputs.main:
        parts.setdefault(bucket, []).append(part)
    assert parts.keys() <= set(range(buckets))
    assert bool(list(moving.iterdir())) == (as_files and bool(parts))
    outputs.main = []
    run_bundles(aggregate.AggregateBucket(statements(buckets), str(raw), buckets), [list(parts.items())], outputs)
    tables = [pq.ParquetFile(path).read() for path in outputs.main]
    return pa.concat_tables(tables).sort_by("customer_id"), outputs


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    table = pa.Table.from_pylist(rows, SCHEMA).combine_chunks()
    return table.to_batches()[0] if rows else pa.RecordBatch.from_pylist([], SCHEMA)


def bundles_of(rows: list[Row], cuts: list[int]) -> Iterator[list[list[Row]]]:
    """The rows cut into batches; every other batch begins a new bundle."""
    edges = [0, *sorted(cuts), len(rows)]
    batches = [rows[start:end] for start, end in itertools.pairwise(edges)]
    for start in range(0, len(batches), 2):
        yield batches[start : start + 2]


def lines_of(counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    def kind(name: str) -> dict[str, int]:
        return {key: n for (k, key), n in counts.items() if k == name and n}

    return {
        "read": counts["read", ""],
        "used": counts["used", ""],
        "excluded": kind("excluded"),
        "dead_letters": kind("dead_letters"),
    }


EXPECTED = expected_customers(ROWS, history_days=HISTORY_DAYS)
EXPECTED_LINES = expected_lines(ROWS, history_days=HISTORY_DAYS)
EXPECTED_ACTIVITY = expected_activity(ROWS, history_days=HISTORY_DAYS)


def activity_of(outputs: Outputs) -> dict[str, list[Any]]:
    return numbers(activity.by_day(activity.merge(outputs.activity)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """One bucket, one batch, one file."""
    return run_job([[ROWS]], 1, tmp_path_factory.mktemp("reference"), as_files=True)[0]


def test_one_bucket_equals_the_brute_force(reference: pa.Table) -> None:
    brute_force.assert_equal(EXPECTED, reference)
    assert reference.schema == schema.arrow_schema(schema.CUSTOMERS)


@pytest.mark.parametrize("buckets", [1, 7, 64])
@pytest.mark.parametrize("as_files", [True, False], ids=["files", "bytes"])
def test_neither_buckets_nor_transport_matter(
    tmp_path: Path, buckets: int, as_files: bool, reference: pa.Table
) -> None:
    rows = random.Random(buckets).sample(ROWS, len(ROWS))
    customers, outputs = run_job(bundles_of(rows, [20, 21, 60]), buckets, tmp_path, as_files=as_files)
    # A shuffle may move the last bits of order_value_std, which brute_force.assert_equal allows for; nothing else.
    brute_force.assert_equal({row["customer_id"]: row for row in reference.to_pylist()}, customers)
    assert lines_of(outputs.counts) == EXPECTED_LINES
    assert activity_of(outputs) == EXPECTED_ACTIVITY
    assert Counter(letter.reason for letter in outputs.letters) == EXPECTED_LINES["dead_letters"]


@settings(max_examples=15)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.integers(0, len(ROWS)), max_size=6),
    st.sampled_from((1, 1, 7)),
    st.booleans(),
    st.sampled_from((1, 25, ROUTED_ROWS)),
)
def test_no_shuffle_and_no_cut_matters(
    tmp_path_factory: pytest.TempPathFactory, reference: pa.Table, randomness: random.Random, cuts: list[int], buckets: int,
    as_files: bool, routed_rows: int,
) -> None:  # fmt: skip
    rows = randomness.sample(ROWS, len(ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucketing, "ROUTED_ROWS", routed_rows)
        customers, outputs = run_job(bundles_of(rows, cuts), buckets, tmp_path_factory.mktemp("job"), as_files=as_files)
    brute_force.assert_equal({row["customer_id"]: row for row in reference.to_pylist()}, customers)
    assert lines_of(outputs.counts) == EXPECTED_LINES
    assert activity_of(outputs) == EXPECTED_ACTIVITY


def test_a_customer_is_in_one_bucket_only(tmp_path: Path) -> None:
    outputs = Outputs()
    bundles = [[(batch_of(ROWS), [])], [(batch_of(ROWS[::-1]), [])]]
    run_bundles(aggregate.CleanAndRoute(statements(64), None), bundles, outputs)
    places: dict[str, set[int]] = {}
    for bucket, part in outputs.main:
        for customer in pa.ipc.open_stream(part).read_all()["customer_id"].to_pylist():
            places.setdefault(customer, set()).add(bucket)
    assert all(len(buckets) == 1 for buckets in places.values())
    assert len(set.union(*places.values())) > 10


def test_malformed_lines_are_counted_and_kept() -> None:
    outputs = Outputs()
    run_bundles(
        aggregate.CleanAndRoute(statements(1), None),
        [[(batch_of([]), ["a,b", "c"]), (batch_of(ROWS[:1]), [])]],
        outputs,
    )
    assert outputs.counts["read", ""] == 3 and outputs.counts["dead_letters", "malformed_line"] == 2
    assert [letter.payload for letter in outputs.letters] == [{"line": "a,b"}, {"line": "c"}]


def test_no_part_is_written_for_a_bucket_without_customers(tmp_path: Path) -> None:
    nobody = [row for row in ROWS if row["customer_id"] in ("only-returns", "only-zero", "only-later")]
    outputs = Outputs()
    run_bundles(aggregate.CleanAndRoute(statements(1), None), [[(batch_of(nobody), [])]], outputs)
    parts, outputs.main = outputs.main, []
    run_bundles(
        aggregate.AggregateBucket(statements(1), str(tmp_path / "raw"), 1),
        [[(b, [part]) for b, part in parts]],
        outputs,
    )
    assert not outputs.main and not (tmp_path / "raw").exists()
    assert activity_of(outputs) == {}
    assert outputs.counts["excluded", "no_order_before_cutoff"] == len(nobody) and not outputs.counts["used", ""]


@pytest.mark.parametrize(("lines", "buckets"), [(0, 1), (1, 1), (250_000, 1), (250_001, 2), (10_000_000, 40)])
def test_the_number_of_buckets_follows_the_lines(lines: int, buckets: int) -> None:
    assert bucket_count(lines) == buckets
