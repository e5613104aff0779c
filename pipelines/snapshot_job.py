"""The part that features and predict share: orders in, one Parquet row a customer out, every line accounted for."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from pipelines import customers, dataflow_options, run_job, scratch
from pipelines.customers import CustomerParts, Work
from transforms import activity, schema, skew, statistics, storage, version
from transforms.buckets import Count, bucket_count
from transforms.customer_features import Snapshot
from transforms.errors import UsageError
from transforms.skew_thresholds import Thresholds
from transforms.statistics import Statistics

if TYPE_CHECKING:
    import pyarrow as pa
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.keep_features import KeepFeatures
    from pipelines.orders_source import OrdersSource
    from transforms.skew import Comparison

STATISTICS, SKEW = "statistics", "skew.json"  # in the output

_ROWS = {"interactions": "interactions"}  # what a directory has a row for, where it is no customer

# Read from each file of dead letters for the examples in the manifest.
_EXAMPLE_BYTES = 1 << 20


def arguments_of(source: OrdersSource, snapshot: Snapshot) -> dict[str, Any]:
    """What decides an output's content: kept in its manifest, compared when the step runs again."""
    return {
        **source.identity,
        "cutoff": str(snapshot.cutoff),
        "horizon_days": snapshot.horizon_days,
        "history_days": snapshot.history_days,
        "schema_fingerprint": schema.fingerprint(schema.CUSTOMERS),
    }


def content_of(source: OrdersSource) -> dict[str, Any]:
    """What a manifest says of the orders and of the launching code beyond the arguments."""
    # The commit is known where the job is launched; workers have an installed package.
    return {"code_version": version.code_version(), "data_end": str(source.end), "source": source.provenance}


def work(
    output: str, kind: str, parts: str, source: OrdersSource, buckets: int | None, *, local: bool, attempt: str
) -> Work:
    """Where a step's customers go.

    Args:
      parts: the directory that gets their Parquet parts.
      buckets: how many there are to be; by default as many as the source's lines need.
      local: whether the workers share this machine's files.
    """
    directory = customers.local_directory(scratch.buckets(output, attempt)) if local else None
    return Work(kind, output, parts, buckets or bucket_count(source.rows), directory, attempt)


@dataclass(frozen=True)
class Ledger:
    """What became of every line: read = used + the excluded + the dead letters."""

    read: int
    used: int
    excluded: dict[str, int]
    dead_letters: dict[str, int]
    customers: dict[str, int]

    @classmethod
    def of(cls, counts: list[Count]) -> Ledger:
        """Sums the counts and reconciles them.

        Raises:
          RuntimeError: a line is missing or was counted twice: a defect of this system, never of the data.
          UsageError: no line could be used.
        """

        def kind(name: str) -> dict[str, int]:
            return {key: n for (k, key), n in sorted(counts) if k == name and n}

        totals = {name: sum(kind(name).values()) for name in ("read", "used", "routed")}
        ledger = cls(totals["read"], totals["used"], kind("excluded"), kind("dead_letters"), kind("customers"))
        if sum(ledger.dead_letters.values()) != sum(kind("letters").values()):
            raise RuntimeError(f"{ledger.dead_letters} are dead letters, but {kind('letters')} were written")
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


@dataclass(frozen=True)
class DataSchema:
    """A data schema's file and, where there is one already, what it says (tensorflow-metadata's Schema)."""

    uri: str
    wanted: Any


@dataclass(frozen=True)
class Completion:
    """What the last step of a job writes, and holds its output against before.

    ``lines`` is the number of lines to be read, None where it may change. ``data_schema`` is what
    customers have to look like. ``training`` and ``thresholds`` are given where customers are to be like those a model
    learned from.
    """

    output: str
    kind: str
    arguments: dict[str, Any]
    content: dict[str, Any]
    attempt: str
    lines: int | None
    data_schema: DataSchema | None = None
    training: Statistics | None = None
    thresholds: Thresholds | None = None


class _Complete(beam.DoFn):
    """The last element of every job: reconciles the counts, judges the statistics and completes the directory."""

    def __init__(self, completion: Completion, keep: KeepFeatures | None = None) -> None:
        self.completion, self.keep = completion, keep

    def process(
        self,
        _: None,
        counts: list[Count],
        parts: list[dict[str, Any]],
        described: list[Statistics],
        days: list[pa.Table],
        *written: list[Any],
    ) -> Iterator[dict[str, Any]]:
        this = self.completion
        is_repeat = storage.exists(storage.join(this.output, storage.MANIFEST))
        if not is_repeat:
            self._require_attempt()  # one that was overtaken writes nothing into the directory of the next
        ledger = Ledger.of(counts)
        require_lines(this.arguments["orders"], this.lines, ledger.read)
        rows = sum(ledger.customers.values())
        if sum(part["rows"] for part in parts) != rows or sum(split.rows for split in described) != rows:
            raise RuntimeError(f"{rows} customers were counted, but the parts or the statistics hold others: {parts}")
        (daily,) = days
        if (first_days := sum(daily["first_days"].to_pylist())) != rows:
            raise RuntimeError(f"{rows} customers were counted, but {first_days} first days")
        (customers,) = described
        content = {"rows": rows, "lines": ledger.lines(), "splits": ledger.customers, **this.content}
        content["parts"] = sorted(parts, key=lambda part: part["name"])
        if ledger.dead_letters:
            content["dead_letter_examples"] = _examples(storage.join(this.output, "dead_letters"))
        if this.kind == "features" and "transform_fingerprint" not in content:
            content["transform_fingerprint"] = _transform_fingerprint(storage.join(this.output, "transform_fn"))
        scratch.clear(this.output, this.attempt)
        if not is_repeat:
            self._require_attempt()
            scratch.clear_all(this.output)
            statistics.write(storage.join(this.output, STATISTICS), customers)
        if this.data_schema:
            content["anomalies"] = require_schema(customers, this.data_schema, labels=this.kind == "features")
        comparison = (
            skew.compare(this.training, customers, this.thresholds) if this.training and this.thresholds else None
        )
        if comparison:
            content["skew"] = comparison.lines()
        content |= _activity(daily)  # last: it is long
        if not is_repeat:
            self._write(customers, comparison)
        # What another attempt has completed meanwhile is left as it is: ``finish`` compares, as it does for a repeat.
        yield storage.finish(this.output, this.kind, this.arguments, content, this.attempt)

    def _write(self, customers: Statistics, comparison: Comparison | None) -> None:
        """What the judgements leave beside the manifest.

        Raises:
          UsageError: the customers are too unlike those the model learned from.
        """
        this = self.completion
        if comparison:
            write_comparison(comparison, this.output)
        if this.data_schema and this.data_schema.wanted is None:
            _infer_schema(customers, this.data_schema.uri)
        if self.keep:
            self._require_attempt()
            self.keep.run()

    def _require_attempt(self) -> None:
        """Raises: UsageError where another attempt has begun since; this one's scratch goes."""
        try:
            storage.require_attempt(self.completion.output, self.completion.attempt)
        except UsageError:
            scratch.clear(self.completion.output, self.completion.attempt)
            raise


def require_lines(orders: str, expected: int | None, read: int) -> None:
    """Raises: UsageError where other lines were read than there were when the job began (None: they may change)."""
    if expected is not None and read != expected:
        raise UsageError(
            f"{orders} had {expected} lines when the job began, and {read} when it read them: "
            "orders must not change meanwhile; run the step again"
        )


def _activity(daily: pa.Table) -> dict[str, Any]:
    content: dict[str, Any] = {"activity": activity.by_day(daily)}
    if daily.num_rows > activity.MOST_DAYS:
        content["activity_days_left_out"] = daily.num_rows - activity.MOST_DAYS
    return content


def _infer_schema(customers: Statistics, uri: str) -> None:
    from transforms import data_schema

    data_schema.write(uri, data_schema.infer(customers))


def open_data_schema(uri: str | None) -> DataSchema | None:
    """The file's schema, read before anything is spent.

    Raises:
      UsageError: the file is no schema.
    """
    from transforms import data_schema

    if uri is None:
        return None
    return DataSchema(uri, data_schema.read(uri) if storage.exists(uri) else None)


def require_schema(customers: Statistics, held: DataSchema, *, labels: bool) -> list[str]:
    """Holds the customers against the schema and returns how they differ, where nobody has reviewed it yet.

    Raises:
      UsageError: they differ from a reviewed one; the first differences, and how many there are.
    """
    from transforms import data_schema

    if held.wanted is None:
        return []
    environment = data_schema.TRAINING if labels else data_schema.SERVING
    found = data_schema.anomalies(customers, held.wanted, environment)
    if found and data_schema.is_reviewed(held.wanted):
        raise UsageError(
            f"the customers are not as --data_schema {held.uri} says: {_first(found)}; mend the orders, or edit that file"
        )
    return found


def write_comparison(comparison: Comparison, output: str) -> None:
    """Writes ``skew.json``: how the customers compare with those the model learned from.

    Raises:
      UsageError: a difference is beyond what is to be forecast from.
    """
    text = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    storage.write_bytes(storage.join(output, SKEW), text.encode())
    if comparison.failed:
        raise UsageError(
            f"the customers are not like those the model learned from: {_first(comparison.lines())}; all of it is in "
            f"{storage.join(output, SKEW)}; mend the orders, train anew, or say what is accepted by --skew_thresholds"
        )


def _first(lines: list[str], most: int = 3) -> str:
    more = f", and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def _transform_fingerprint(directory: str) -> str:
    """Equal for equal statistics and code. TensorFlow numbers the nodes of a graph differently each time it is
    built, so the graph's own bytes do not count: what was analysed and the source of the function do."""
    analysed = storage.fingerprint(directory, leave_out=("saved_model.pb", "fingerprint.pb"))
    # Read, not imported: that would bring TensorFlow into a stage that has no other use for it.
    spec = importlib.util.find_spec("transforms.preprocessing")
    assert spec and spec.origin
    return hashlib.sha256((analysed + Path(spec.origin).read_text()).encode()).hexdigest()[:16]


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


def complete(
    pipeline: beam.Pipeline, completion: Completion, customer_parts: CustomerParts, parts: PCollection[dict[str, Any]],
    *written: PCollection[Any],
) -> PCollection[dict[str, Any]]:  # fmt: skip
    """Completes the directory once its ``parts`` (see ``storage.write_parquet``) and all that is ``written`` are there."""
    completed = (
        pipeline
        | "Last" >> beam.Create([None])
        | "Complete"
        >> beam.ParDo(
            _Complete(completion, customer_parts.keep),
            AsList(customer_parts.counts),
            AsList(parts),
            AsList(customer_parts.statistics),
            AsList(customer_parts.activity),
            *map(AsList, (customer_parts.dead_letters, *written)),
        )
    )
    report_at_end(completed, completion.kind, completion.output)
    return completed


def report_at_end(completed: PCollection[dict[str, Any]], kind: str, output: str) -> None:
    """Has the job itself report its manifest where the command does not wait: the worker's log has what it would say."""
    if not dataflow_options.waits(completed.pipeline.options):
        completed | "Report" >> beam.Map(lambda manifest, kind, output: report(kind, manifest, output), kind, output)


def make(
    output: str, kind: str, arguments: dict[str, Any], build: Callable[[str], beam.Pipeline], beam_options: PipelineOptions
) -> dict[str, Any]:  # fmt: skip
    """Runs the job that ``build`` makes for an attempt, unless its output is there already.

    Returns:
      The manifest; an empty one where the job is to write it (``dataflow_options.waits``). Where nobody waits there is
      always a job: the launch of a template that made none would count as failed.

    Raises:
      UsageError: the output holds something else, or the orders turn out unusable on the way.
    """
    attempt = uuid.uuid4().hex[:12]
    interrupted = storage.exists(storage.join(output, storage.STARTED))
    manifest = storage.begin(output, kind, arguments, attempt)
    if manifest:
        print(f"{kind}: {output} is already complete", file=sys.stderr)
        if not dataflow_options.waits(beam_options):
            run_job.execute(_confirming(beam_options, output, kind, arguments), kind)
        return manifest
    if interrupted:
        print(f"{kind}: {output} held an attempt that did not end, and its scratch space: deleted", file=sys.stderr)
    with contextlib.ExitStack() as leaving:
        leaving.callback(scratch.clear, output, attempt)
        if not run_job.execute(build(attempt), kind):
            leaving.pop_all()  # the job works in it, and clears it in its last step
            print(f"{kind}: {output} is complete once it has a {storage.MANIFEST}", file=sys.stderr)
            return {}
    manifest = storage.read_manifest(output, kind)
    report(kind, manifest, output)
    return manifest


def _confirming(options: PipelineOptions, output: str, kind: str, arguments: dict[str, Any]) -> beam.Pipeline:
    """A job of one step for an output that is complete: looks at its manifest again."""
    pipeline = beam.Pipeline(options=options)
    pipeline | "Last" >> beam.Create([None]) | "Confirm" >> beam.Map(_confirm, output, kind, arguments)
    return pipeline


def _confirm(_: None, output: str, kind: str, arguments: dict[str, Any]) -> None:
    manifest = storage.read_manifest(output, kind)
    if manifest["arguments"] != json.loads(json.dumps(arguments, default=str)):
        raise UsageError(f"{output} was made anew with other arguments while this job was on its way")
    report(kind, manifest, output)


def report(kind: str, manifest: dict[str, Any], output: str) -> None:
    """One paragraph on stderr: what a person asks first after a run."""
    lines = manifest["lines"]
    print(
        f"{kind}: {manifest['rows']:,} {_ROWS.get(kind, 'customers')} from {lines['used']:,} of {lines['read']:,} lines -> {output}",
        file=sys.stderr,
    )
    for name in ("excluded", "dead_letters"):
        for reason, count in lines[name].items():
            print(f"  {name.replace('_', ' ')}: {count:,} {reason}", file=sys.stderr)
    if "activity_days_left_out" in manifest:
        print(f"  activity: the first {manifest['activity_days_left_out']:,} days are left out", file=sys.stderr)
    for line in manifest.get("anomalies", ()):
        print(f"  not as the data schema says: {line}", file=sys.stderr)
    for line in manifest.get("skew", ()):
        print(f"  {line}", file=sys.stderr)
    for reason, detail in manifest.get("dead_letter_examples", {}).items():
        print(f"    {reason}, such as {detail}", file=sys.stderr)
