"""The part that features and predict share: orders in, one Parquet row a customer out, every line accounted for."""

from __future__ import annotations

import atexit
import hashlib
import inspect
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from pipelines import orders_source, run_job
from transforms import aggregate, progress, schema, storage
from transforms.customer_features import Snapshot
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.orders_source import OrdersFormat, OrdersSource, Split

# Scratch space inside the output, of one attempt; removed before the manifest is written.
_BUCKETS, _TEMP = "_buckets", "_temp"

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
    attempt: str,
) -> CustomerParts:
    """Adds reading, cleaning and aggregation of the orders to the pipeline.

    Args:
      output: the step's directory; gets ``dead_letters/`` and, on one machine, the travelling buckets.
      attempt: names this attempt's scratch space.
      raw: directory that gets the Parquet parts.
      local: whether the workers share this machine's files.
    """
    statements = aggregate.Statements.compile(source.schema, snapshot, buckets)
    bucket_directory = None
    if local:
        bucket_directory = _local_directory(scratch(output, _BUCKETS, attempt))
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


def scratch(output: str, name: str, attempt: str) -> str:
    # Named by the attempt, so that one which is overtaken does not clear what the next one works with.
    return storage.join(output, f"{name}-{attempt}" if attempt else name)


def temp(output: str, attempt: str) -> str:
    """A directory for the workers of this attempt, wherever the output is."""
    return scratch(output, _TEMP, attempt)


def _local_directory(uri: str) -> str:
    """A local directory: inside a local output, on the same disk and gone with it."""
    if not storage.is_local(uri):
        directory = tempfile.mkdtemp(prefix="clv-buckets-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return directory
    directory = str(storage.resolve(uri)[1])
    os.makedirs(directory, exist_ok=True)
    return directory


def clear_scratch(output: str, attempt: str) -> None:
    for name in (_BUCKETS, _TEMP):
        storage.delete_directory(scratch(output, name, attempt))


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

    def __init__(
        self, output: str, kind: str, arguments: dict[str, Any], content: dict[str, Any], attempt: str
    ) -> None:
        self.output, self.kind, self.attempt = output, kind, attempt
        self.arguments, self.content = arguments, content

    def process(
        self, _: None, counts: list[aggregate.Count], parts: list[dict[str, Any]], *written: list[Any]
    ) -> Iterator[dict[str, Any]]:
        ledger = Ledger.of(counts)
        rows = sum(ledger.customers.values())
        if sum(part["rows"] for part in parts) != rows:
            raise RuntimeError(f"{rows} customers were counted, but the parts hold others: {parts}")
        content = {"rows": rows, "lines": ledger.lines(), "splits": ledger.customers, **self.content}
        content["parts"] = sorted(parts, key=lambda part: part["name"])
        if ledger.dead_letters:
            content["dead_letter_examples"] = _examples(storage.join(self.output, "dead_letters"))
        if self.kind == "features" and "transform_fingerprint" not in content:
            content["transform_fingerprint"] = _transform_fingerprint(storage.join(self.output, "transform_fn"))
        clear_scratch(self.output, self.attempt)
        yield storage.finish(self.output, self.kind, self.arguments, content, self.attempt)


def _transform_fingerprint(directory: str) -> str:
    """Equal for equal statistics and code. TensorFlow numbers the nodes of a graph differently each time it is
    built, so the graph's own bytes do not count: what was analysed and the source of the function do."""
    from transforms import preprocessing

    analysed = storage.fingerprint(directory, leave_out=("saved_model.pb", "fingerprint.pb"))
    return hashlib.sha256((analysed + inspect.getsource(preprocessing)).encode()).hexdigest()[:16]


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
    attempt: str, counts: PCollection[aggregate.Count], parts: PCollection[dict[str, Any]], *written: PCollection[Any],
) -> PCollection[dict[str, Any]]:  # fmt: skip
    """Completes the directory once its ``parts`` (see ``storage.write_parquet``) and all that is ``written`` are there."""
    return (
        pipeline
        | "Last" >> beam.Create([None])
        | "WriteManifest"
        >> beam.ParDo(
            _WriteManifest(output, kind, arguments, content, attempt),
            AsList(counts),
            AsList(parts),
            *map(AsList, written),
        )
    )


def make(output: str, kind: str, arguments: dict[str, Any], build: Callable[[str], beam.Pipeline]) -> dict[str, Any]:
    """Runs the job that ``build`` makes for an attempt, unless its output is there already; returns the manifest.

    Raises:
      UsageError: the output holds something else, or the orders turn out unusable on the way.
    """
    attempt = uuid.uuid4().hex[:12]
    manifest = storage.begin(output, kind, arguments, attempt)
    if manifest:
        print(f"{kind}: {output} is already complete", file=sys.stderr)
        return manifest
    try:
        run_job.execute(build(attempt), kind)
    finally:
        clear_scratch(output, attempt)
    manifest = storage.read_manifest(output, kind)
    report(kind, manifest, output)
    return manifest


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
