"""Orders in, one Parquet part of customers per bucket out, every line counted: from batches, or from BigQuery itself."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.pvalue import PCollection

from pipelines import order_files, scratch
from pipelines.order_files import OrderFiles
from pipelines.orders_source import OrdersSource
from transforms import activity, aggregate, buckets, dead_letters, progress, storage
from transforms.buckets import ACTIVITY_TAG, COUNTS_TAG, DEAD_LETTERS_TAG, STATISTICS_TAG
from transforms.customer_features import Snapshot
from transforms.statistics import Statistics

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.bigquery import Query
    from pipelines.bigquery_orders import BigQueryOrders
    from pipelines.keep_features import KeepFeatures
    from pipelines.order_files import OrdersFormat, Split
    from pipelines.read_bigquery import Rows


_CUSTOMERS_TAG = "customers"


class CustomerParts(NamedTuple):
    paths: PCollection[str]  # Parquet parts of schema.CUSTOMERS
    counts: PCollection[buckets.Count]
    statistics: PCollection[Statistics]  # one, of all customers
    activity: PCollection[pa.Table]  # one, of all customers: activity.COLUMNS
    dead_letters: PCollection[Any]  # complete once they are written
    keep: KeepFeatures | None = None  # for the end of the job


class Work(NamedTuple):
    """Where a job's customers and leftovers go."""

    step: str  # names BigQuery's jobs
    output: str  # the step's directory; gets dead_letters/
    parts: str  # the directory that gets the Parquet parts
    bucket_count: int
    bucket_directory: str | None  # of this machine, where the workers share its files; else None
    attempt: str

    def in_turn(self, elements: PCollection[Any], label: str) -> PCollection[Any]:
        """The elements, each only while the output is still this attempt's: the next step writes into it.

        A job on other machines may go on after another attempt has begun, and would mix its files, made from what a table
        held then, into the other's. Nothing is asked on this machine, or where the attempt has no name.
        """
        if self.bucket_directory is not None or not self.attempt:
            return elements
        return elements | label >> beam.Map(_require_turn, self.output, self.attempt)


def _require_turn(element: Any, output: str, attempt: str) -> Any:
    storage.require_attempt(output, attempt)
    return element


def customer_parts(pipeline: beam.Pipeline, source: OrdersSource, snapshot: Snapshot, work: Work) -> CustomerParts:
    """Adds reading, cleaning and aggregation of the orders to the pipeline."""
    if isinstance(source, OrderFiles):
        lines = (
            pipeline
            | "Splits" >> beam.Create(source.splits)
            | "SpreadSplits" >> beam.Reshuffle()
            | "ReadOrders" >> beam.ParDo(_ReadSplit(source.format, source.rows))
        )
        return _from_lines(lines, source, snapshot, work)
    from pipelines.bigquery_orders import BigQueryOrders

    assert isinstance(source, BigQueryOrders)
    if source.pushdown:
        return _pushed_down(pipeline, source, snapshot, work)
    return _table_parts(pipeline, source, snapshot, work)


class _ReadSplit(beam.DoFn):
    def __init__(self, how: OrdersFormat, total: int) -> None:
        self.how = how
        self.total = total

    def process(self, split: Split) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        for batch, malformed in order_files.read_split_with_malformed(split, self.how):
            yield batch, malformed
            progress.advance("lines", batch.num_rows + len(malformed), self.total)


def _table_parts(pipeline: beam.Pipeline, source: BigQueryOrders, snapshot: Snapshot, work: Work) -> CustomerParts:
    """The orders of a table, or of a query's result, read and aggregated here."""
    from pipelines import read_bigquery

    rows = read_bigquery.order_rows(pipeline, source, work.attempt, _labels(snapshot, work), source.schema.names)
    batches = read_bigquery.read(rows, "Orders", unit="lines", total=source.rows)
    lines = batches | "NoneMalformed" >> beam.Map(lambda batch: (batch, []))
    return _from_lines(lines, source, snapshot, work, read_bigquery.require_all(rows, batches, "Orders"))


def _labels(snapshot: Snapshot, work: Work) -> dict[str, str]:
    return {"step": work.step, "cutoff": str(snapshot.cutoff)}


def _from_lines(
    lines: PCollection[tuple[pa.RecordBatch, list[str]]], source: OrdersSource, snapshot: Snapshot, work: Work,
    *counts: PCollection[buckets.Count],
) -> CustomerParts:  # fmt: skip
    statements = aggregate.Statements.compile(source.schema, snapshot, work.bucket_count)
    routed = lines | "CleanAndRoute" >> beam.ParDo(
        aggregate.CleanAndRoute(statements, work.bucket_directory)
    ).with_outputs(DEAD_LETTERS_TAG, COUNTS_TAG, main="parts")
    writer = aggregate.AggregateBucket(statements, work.parts, work.bucket_count, str(snapshot.cutoff))
    made = _made(routed.parts, "AggregateBucket", writer, work)
    return _written(made, made[ACTIVITY_TAG], routed[DEAD_LETTERS_TAG], work, routed[COUNTS_TAG], *counts)


def _pushed_down(pipeline: beam.Pipeline, source: BigQueryOrders, snapshot: Snapshot, work: Work) -> CustomerParts:
    """One query makes the customers; a second one, over the dead letters, runs only where there are some."""
    from pipelines import read_bigquery
    from pipelines.keep_features import KeepFeatures
    from transforms import collect_customers

    labels = _labels(snapshot, work)
    staged = source.features_table.beside(f"_staged_{work.attempt}") if source.features_table else None
    query = source.query(f"clv-customers-{work.attempt}", source.customers_sql(snapshot), labels, destination=staged)
    dead = source.query(f"clv-dead-letters-{work.attempt}", source.dead_lines_sql(), labels)
    rows = pipeline | "Query" >> beam.Create([query]) | "RunQuery" >> beam.ParDo(read_bigquery.RunQuery())
    fates = rows | "Fates" >> beam.ParDo(_Fates(dead)).with_outputs(
        COUNTS_TAG, ACTIVITY_TAG, _CUSTOMERS_TAG, main="dead"
    )
    batches = read_bigquery.read(fates[_CUSTOMERS_TAG], "Customers", unit="customers")
    routed = batches | "RouteCustomers" >> beam.ParDo(
        collect_customers.RouteCustomers(work.bucket_count, work.bucket_directory)
    ).with_outputs(COUNTS_TAG, main="parts")
    dead_rows = fates.dead | "RunDeadLetters" >> beam.ParDo(read_bigquery.RunQuery())
    dead_batches = read_bigquery.read(dead_rows, "DeadLetters")
    checked = (
        read_bigquery.require_all(fates[_CUSTOMERS_TAG], batches, "Customers"),
        read_bigquery.require_all(dead_rows, dead_batches, "DeadLetters"),
    )
    letters = dead_batches | "ToLetters" >> beam.FlatMap(_letters)
    writer = collect_customers.CollectBucket(work.parts, work.bucket_count, str(snapshot.cutoff))
    counts = (fates[COUNTS_TAG], routed[COUNTS_TAG], *checked)
    made = _made(routed.parts, "CollectBucket", writer, work)
    parts = _written(made, fates[ACTIVITY_TAG], letters, work, *counts)
    return parts._replace(
        keep=KeepFeatures.of(query, source.features_table, snapshot) if source.features_table else None
    )


class _Fates(beam.DoFn):
    """The rows of a pushdown's result -> its counts, its activity, those of its rows that are customers, and the query
    for the dead letters where it has some."""

    def __init__(self, dead: Query) -> None:
        self.dead = dead

    def process(self, rows: Rows) -> Iterator[Any]:
        from pipelines import read_bigquery
        from transforms import collect_customers, pushdown, schema

        others = read_bigquery.read_others(rows)
        assert rows.count is not None
        columns = tuple((name, name) for name in (*schema.names(schema.CUSTOMERS), pushdown.LINES))
        count = rows.count - others.num_rows
        customers = replace(rows, columns=columns, restriction=f"{pushdown.FATE} IS NULL", count=count)
        yield pvalue.TaggedOutput(_CUSTOMERS_TAG, customers)
        yield pvalue.TaggedOutput(ACTIVITY_TAG, collect_customers.activity_of(others))
        counts = list(collect_customers.count_fates(collect_customers.fates_of(others)))
        for count in counts:
            yield pvalue.TaggedOutput(COUNTS_TAG, count)
        if any(kind == "dead_letters" for (kind, _), _ in counts):
            yield self.dead


def _letters(lines: pa.RecordBatch) -> list[dead_letters.DeadLetter]:
    from transforms.clean_orders import RAW_PREFIX

    raw = lines.drop_columns(["reason"])
    raw = raw.rename_columns([name.removeprefix(RAW_PREFIX) for name in raw.schema.names])
    return dead_letters.of_lines(raw, lines["reason"].to_pylist())


def _made(routed: PCollection[tuple[int, Any]], label: str, writer: buckets.WriteBucket, work: Work) -> Any:
    """What the writer makes of each bucket, by tag; the paths of the parts are ``paths``."""
    tags = (COUNTS_TAG, STATISTICS_TAG, ACTIVITY_TAG)
    grouped = work.in_turn(routed | "GroupBuckets" >> beam.GroupByKey(), "InTurn")
    return grouped | label >> beam.ParDo(writer).with_outputs(*tags, main="paths")


def _written(
    made: Any, days: PCollection[pa.Table], letters: PCollection[dead_letters.DeadLetter], work: Work,
    *counts: PCollection[buckets.Count],
) -> CustomerParts:  # fmt: skip
    """The common end of every way: counts, statistics and activity summed, letters written.

    Args:
      made: as ``_made`` gives it.
      days: the activity, in as many parts as there are.
      counts: what was counted before; empty ones are only waited for.
    """
    return CustomerParts(
        made.paths,
        _summed(*counts, made[COUNTS_TAG], _counted(letters)),
        _merged(made[STATISTICS_TAG]),
        days | "MergeActivity" >> beam.CombineGlobally(activity.merge).without_defaults(),
        _write_letters(letters, work),
    )


def _summed(*counts: PCollection[buckets.Count]) -> PCollection[buckets.Count]:
    return counts | "AllCounts" >> beam.Flatten() | "SumCounts" >> beam.CombinePerKey(sum)


def _counted(letters: PCollection[dead_letters.DeadLetter]) -> PCollection[buckets.Count]:
    """How many letters are written, to be held against how many lines are to be letters."""
    return (
        letters | "CountLetters" >> beam.combiners.Count.Globally() | beam.Map(lambda count: (("letters", ""), count))
    )


def _merged(statistics: PCollection[Statistics]) -> PCollection[Statistics]:
    return statistics | "MergeStatistics" >> beam.CombineGlobally(Statistics.merge).without_defaults()


def _write_letters(letters: PCollection[dead_letters.DeadLetter], work: Work) -> PCollection[Any]:
    """Beam's sink replaces what it finds where it writes, so it writes into the attempt's own space."""
    written = storage.join(scratch.temp(work.output, work.attempt), "dead_letters")
    files = (
        letters
        | "LetterToJson" >> beam.Map(lambda letter: letter.to_json())
        | "WriteDeadLetters"
        >> beam.io.WriteToText(storage.join(written, "part"), file_name_suffix=".jsonl", skip_if_empty=True)
    )
    # One element once all are written, and also where there is none.
    whole = (
        letters.pipeline
        | "DeadLetters" >> beam.Create([written])
        | "AllDeadLetters" >> beam.Map(lambda directory, _: directory, pvalue.AsList(files))
    )
    return work.in_turn(whole, "DeadLettersInTurn") | "KeepDeadLetters" >> beam.Map(
        storage.copy_directory, storage.join(work.output, "dead_letters")
    )


def local_directory(uri: str) -> str:
    """A local directory: inside a local output, on the same disk and gone with it."""
    if not storage.is_local(uri):
        directory = tempfile.mkdtemp(prefix="clv-buckets-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return directory
    directory = str(storage.resolve(uri)[1])
    os.makedirs(directory, exist_ok=True)
    return directory
