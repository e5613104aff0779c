"""The part that features and predict share: orders in, one Parquet row a customer out, every line accounted for."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from pipelines import orders_source
from transforms import aggregate, progress, schema, storage
from transforms.customer_features import Snapshot
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.orders_source import OrdersFormat, OrdersSource, Split

# Scratch space inside the output; removed before the manifest is written.
BUCKETS_DIRECTORY, TEMP_DIRECTORY = "_buckets", "_temp"

# Read from each file of dead letters for the examples in the manifest.
_EXAMPLE_BYTES = 1 << 20


class CustomerParts(NamedTuple):
    paths: PCollection[str]  # Parquet parts of schema.CUSTOMERS
    counts: PCollection[aggregate.Count]
    dead_letters: PCollection[Any]  # complete once they are written


class _ReadSplit(beam.DoFn):
    def __init__(self, how: OrdersFormat, total: int) -> None:
        self.how = how
        self.total = total

    def process(self, split: Split) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        for batch, malformed in orders_source.read_split_with_malformed(split, self.how):
            yield batch, malformed
            progress.advance("lines", batch.num_rows + len(malformed), self.total)


def open_source(uri: str, columns: str | None, csv_delimiter: str, csv_encoding: str) -> OrdersSource:
    how = orders_source.OrdersFormat(orders_source.parse_columns(columns), csv_delimiter, csv_encoding)
    return orders_source.inspect(uri, how)


def arguments_of(source: OrdersSource, snapshot: Snapshot) -> dict[str, Any]:
    """What decides an output's content: kept in its manifest, compared when the step runs again."""
    how = source.format
    return {
        "orders": source.uri,
        "files": list(source.files),
        "columns": how.columns,
        "csv": {"delimiter": how.csv_delimiter, "encoding": how.csv_encoding},
        "cutoff": str(snapshot.cutoff),
        "horizon_days": snapshot.horizon_days,
        "history_days": snapshot.history_days,
        "schema_fingerprint": schema.fingerprint(schema.CUSTOMERS),
    }


def customer_parts(
    pipeline: beam.Pipeline,
    source: OrdersSource,
    snapshot: Snapshot,
    *,
    output: str,
    raw: str,
    buckets: int,
    local: bool,
) -> CustomerParts:
    """Adds reading, cleaning and aggregation of the orders to the pipeline.

    Args:
      output: the step's directory; gets ``dead_letters/`` and, on one machine, the travelling buckets.
      raw: directory that gets the Parquet parts.
      local: whether the workers share this machine's files.
    """
    statements = aggregate.Statements.compile(source.schema, snapshot, buckets)
    bucket_directory = None
    if local:
        bucket_directory = _scratch(output, BUCKETS_DIRECTORY)
    routed = (
        pipeline
        | "Splits" >> beam.Create(source.splits)
        | "SpreadSplits" >> beam.Reshuffle()
        | "ReadOrders" >> beam.ParDo(_ReadSplit(source.format, source.rows))
        | "CleanAndRoute"
        >> beam.ParDo(aggregate.CleanAndRoute(statements, bucket_directory)).with_outputs(
            aggregate.DEAD_LETTERS_TAG, aggregate.COUNTS_TAG, main="parts"
        )
    )
    customers = (
        routed.parts
        | "GroupBuckets" >> beam.GroupByKey()
        | "AggregateBucket"
        >> beam.ParDo(aggregate.AggregateBucket(statements, raw, buckets)).with_outputs(
            aggregate.COUNTS_TAG, main="paths"
        )
    )
    counts = (
        (routed[aggregate.COUNTS_TAG], customers[aggregate.COUNTS_TAG])
        | "AllCounts" >> beam.Flatten()
        | "SumCounts" >> beam.CombinePerKey(sum)
    )
    letters = (
        routed[aggregate.DEAD_LETTERS_TAG]
        | "LetterToJson" >> beam.Map(lambda letter: letter.to_json())
        | "WriteDeadLetters"
        >> beam.io.WriteToText(
            storage.join(output, "dead_letters", "part"), file_name_suffix=".jsonl", skip_if_empty=True
        )
    )
    return CustomerParts(customers.paths, counts, letters)


def _scratch(output: str, name: str) -> str:
    """A local directory: inside a local output, on the same disk and gone with it."""
    if not storage.is_local(output):
        directory = tempfile.mkdtemp(prefix=f"clv{name}-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return directory
    directory = os.path.join(storage.resolve(output)[1], name)
    os.makedirs(directory, exist_ok=True)
    return directory


def clear_scratch(output: str) -> None:
    for name in (BUCKETS_DIRECTORY, TEMP_DIRECTORY):
        storage.delete_directory(storage.join(output, name))


@dataclass(frozen=True)
class Ledger:
    """What became of every line: read = used + the excluded + the dead letters."""

    read: int
    used: int
    excluded: dict[str, int]
    dead_letters: dict[str, int]
    customers: dict[str, int]

    @classmethod
    def of(cls, counts: list[aggregate.Count]) -> Ledger:
        """Sums the counts and reconciles them.

        Raises:
          RuntimeError: a line is missing or was counted twice: a defect of this system, never of the data.
          UsageError: no line could be used.
        """

        def kind(name: str) -> dict[str, int]:
            return {key: n for (k, key), n in sorted(counts) if k == name and n}

        totals = {name: sum(kind(name).values()) for name in ("read", "used", "routed")}
        ledger = cls(totals["read"], totals["used"], kind("excluded"), kind("dead_letters"), kind("customers"))
        aside = sum(ledger.excluded.values()) + sum(ledger.dead_letters.values())
        before_buckets = aside - ledger.excluded.get("no_order_before_cutoff", 0)
        if ledger.read != ledger.used + aside or ledger.read != totals["routed"] + before_buckets:
            raise RuntimeError(f"lines do not add up: {ledger} with {totals['routed']} routed")
        if not ledger.customers:
            raise UsageError(
                f"no customer has a usable order before the cutoff: {ledger.read} lines read, "
                f"excluded {ledger.excluded}, dead letters {ledger.dead_letters}"
            )
        return ledger

    def lines(self) -> dict[str, Any]:
        return {"read": self.read, "used": self.used, "excluded": self.excluded, "dead_letters": self.dead_letters}


class _WriteManifest(beam.DoFn):
    """The last element of every job: reconciles the counts and completes the directory."""

    def __init__(self, output: str, kind: str, arguments: dict[str, Any], content: dict[str, Any]) -> None:
        self.output, self.kind = output, kind
        self.arguments, self.content = arguments, content

    def process(self, _: None, counts: list[aggregate.Count], *written: list[Any]) -> Iterator[dict[str, Any]]:
        ledger = Ledger.of(counts)
        rows = sum(ledger.customers.values())
        content = {"rows": rows, "lines": ledger.lines(), "splits": ledger.customers, **self.content}
        if ledger.dead_letters:
            content["dead_letter_examples"] = _examples(storage.join(self.output, "dead_letters"))
        if self.kind == "features" and "transform_fingerprint" not in content:
            content["transform_fingerprint"] = storage.fingerprint(storage.join(self.output, "transform_fn"))
        clear_scratch(self.output)
        yield storage.finish(self.output, self.kind, self.arguments, content)


def _examples(directory: str) -> dict[str, str]:
    """The first dead letter's detail for each reason: what a person wants to see before opening files."""
    examples: dict[str, str] = {}
    filesystem, _ = storage.resolve(directory)
    for path in storage.list_files(directory, ".jsonl"):
        with filesystem.open_input_stream(path) as stream:
            head = stream.read(_EXAMPLE_BYTES)
        for letter in map(json.loads, head[: head.rfind(b"\n") + 1].splitlines()):
            detail = letter["detail"]
            examples.setdefault(letter["reason"], detail if len(detail) <= 200 else detail[:197] + "...")
    return examples


def write_manifest(
    pipeline: beam.Pipeline, output: str, kind: str, arguments: dict[str, Any], content: dict[str, Any],
    counts: PCollection[aggregate.Count], *written: PCollection[Any],
) -> PCollection[dict[str, Any]]:  # fmt: skip
    """Completes the directory once every collection in ``written`` is complete."""
    return (
        pipeline
        | "Last" >> beam.Create([None])
        | "WriteManifest"
        >> beam.ParDo(_WriteManifest(output, kind, arguments, content), AsList(counts), *map(AsList, written))
    )


def report(kind: str, manifest: dict[str, Any], output: str) -> None:
    """One paragraph on stderr: what a person asks first after a run."""
    lines = manifest["lines"]
    print(
        f"{kind}: {manifest['rows']:,} customers from {lines['used']:,} of {lines['read']:,} lines -> {output}",
        file=sys.stderr,
    )
    for name in ("excluded", "dead_letters"):
        for reason, count in lines[name].items():
            print(f"  {name.replace('_', ' ')}: {count:,} {reason}", file=sys.stderr)
    for reason, detail in manifest.get("dead_letter_examples", {}).items():
        print(f"    {reason}, such as {detail}", file=sys.stderr)


def bucket_count(source: OrdersSource, wanted: int | None) -> int:
    return wanted or aggregate.bucket_count(source.rows)
