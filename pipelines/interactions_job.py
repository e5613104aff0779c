"""The job that exports interactions: pieces of the lines in, CSV files and one manifest out, every line accounted for.

    pieces --Export--> CSV files, dead letters, a summary a piece --merge--> check --> schema.avsc, manifest.json

A piece (a CSV file, some row groups, a stream of BigQuery's) is read and written by one worker, so that nothing has to
be shuffled: only the summaries travel.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from pipelines import order_files, snapshot_job
from pipelines.interactions_output import counted, failing_in_one_line
from pipelines.order_files import OrderFiles, OrdersFormat, Split
from transforms import dead_letters, interactions, interactions_files, interactions_lines, progress, storage
from transforms.dead_letters import DeadLetter
from transforms.errors import UsageError
from transforms.interactions import EXCLUDED, Wanted
from transforms.interactions_checks import Limits, Times, require_passed, validate
from transforms.interactions_files import Letters, Parts
from transforms.interactions_lines import Statements
from transforms.interactions_summary import Summary

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from pipelines.orders_source import OrdersSource
    from pipelines.read_bigquery import Rows

KIND = "interactions"
FILES, SCHEMA, DEAD_LETTERS = "interactions", "schema.avsc", "dead_letters"  # in the output
# Lines that one statement makes: fewer, and DuckDB's planning (10 ms a statement) shows; twice as many were no faster and
# took 120 MB more.
STATEMENT_LINES = 524_288
_ORDER_COLUMNS = ("customer_id", "ordered_at", "amount", "quantity", "unit_price", "item_id")
_MOST_DETAIL = 200  # characters of an example in the manifest


@dataclass(frozen=True)
class Export:
    """What every piece's worker has to know.

    Attributes:
      attempt: names this run of the job; "" where the output is nobody else's.
      names: our names of the columns that are read.
      lines: how many there are, for the progress display.
      part_rows: rows of a CSV file.
    """

    output: str
    attempt: str
    wanted: Wanted
    statements: Statements
    names: tuple[str, ...]
    lines: int
    part_rows: int = interactions_files.PART_ROWS

    def require_turn(self) -> None:
        """Raises: UsageError where another attempt has begun the output since: its files are not to be mixed with ours."""
        if self.attempt:
            storage.require_attempt(self.output, self.attempt)


def column_names(source: OrdersSource, wanted: Wanted) -> tuple[str, ...]:
    """Our names of those of the source's columns that an interaction is made of."""
    if wanted.events:
        return tuple(source.schema.names)
    return tuple(name for name in source.schema.names if name in (*_ORDER_COLUMNS, *wanted.context))


class _ExportPiece(beam.DoFn):
    """A piece of the lines -> its files, and a summary of it."""

    def __init__(self, export: Export) -> None:
        self.export = export

    def setup(self) -> None:
        from transforms import engines

        self.connection = engines.duckdb_connection()

    def teardown(self) -> None:
        self.connection.close()

    def name(self, piece: Any) -> str:
        """The piece's name in those of its files: the same whoever reads it."""
        raise NotImplementedError

    def batches(self, piece: Any) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        """Its lines, and the text of those that have no columns."""
        raise NotImplementedError

    def process(self, piece: Any) -> Iterator[Summary]:
        export, name = self.export, self.name(piece)
        turn = export.require_turn
        parts = Parts(
            storage.join(export.output, FILES), name, export.statements.header, turn, part_rows=export.part_rows
        )
        letters = Letters(storage.join(export.output, DEAD_LETTERS), name, turn)
        summary = Summary()
        for table, malformed in _gathered(self.batches(piece)):
            with failing_in_one_line(export.output):
                _export(self.connection, export, table, malformed, parts, letters, summary)
            progress.advance("lines", table.num_rows + len(malformed), export.lines)
        with failing_in_one_line(export.output):
            parts.close()
            letters.close()
        summary.counts["letters", ""] += letters.count
        summary.files = parts.files
        summary.letter_files = [letters.path] if letters.count else []
        yield summary


class _ExportSplit(_ExportPiece):
    """``(number, split)`` of files."""

    def __init__(self, export: Export, how: OrdersFormat) -> None:
        super().__init__(export)
        self.how = how

    def name(self, piece: tuple[int, Split]) -> str:
        return f"{piece[0]:05d}"

    def batches(self, piece: tuple[int, Split]) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        return order_files.read_split_with_malformed(piece[1], self.how, self.export.names)


class _ExportStream(_ExportPiece):
    """``(rows, stream)`` of BigQuery's Storage Read API, which gives a stream's rows in the same order each time."""

    def name(self, piece: tuple[Rows, str]) -> str:
        return hashlib.sha256(piece[1].encode()).hexdigest()[:12]

    def batches(self, piece: tuple[Rows, str]) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        from pipelines import read_bigquery

        for batch in read_bigquery.plain_batches(*piece):
            yield batch, []


def _gathered(batches: Iterable[tuple[pa.RecordBatch, list[str]]]) -> Iterator[tuple[pa.Table, list[str]]]:
    """Batches put together until there are enough lines for a statement."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    texts: list[str] = []
    for batch, malformed in batches:
        held.append(batch)
        texts += malformed
        if sum(each.num_rows for each in held) + len(texts) >= STATEMENT_LINES:
            yield pa.Table.from_batches(held), texts
            held, texts = [], []
    if held:
        yield pa.Table.from_batches(held), texts


def _export(
    connection: duckdb.DuckDBPyConnection, export: Export, raw: pa.Table, malformed: list[str], parts: Parts,
    letters: Letters, summary: Summary,
) -> None:  # fmt: skip
    lines = interactions_lines.read_lines(connection, export.statements, raw)
    if lines.num_rows != raw.num_rows:
        raise RuntimeError(f"{raw.num_rows} lines gave {lines.num_rows}")
    summary.counts["read", ""] += raw.num_rows + len(malformed)
    if lines["reason"].null_count < lines.num_rows:
        _add_letters(_set_aside(raw, lines, export.wanted, summary), letters, summary)
    if malformed:
        found = dead_letters.of_malformed(malformed)
        summary.counts["dead_letters", "malformed_line"] += len(found)
        _add_letters(found, letters, summary)
    summary.add(lines)
    for chunk in lines["line"].chunks:
        parts.write(chunk)


def _set_aside(raw: pa.Table, lines: pa.Table, wanted: Wanted, summary: Summary) -> list[DeadLetter]:
    """Counts what is no interaction, by reason, and returns the dead letters among it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    excluded = [reason.name for reason in EXCLUDED]
    reason = lines["reason"]
    for row in pc.value_counts(reason).to_pylist():
        if row["values"] is not None:
            summary.counts["excluded" if row["values"] in excluded else "dead_letters", row["values"]] += row["counts"]
    dead = pc.and_(pc.is_valid(reason), pc.invert(pc.is_in(reason, pa.array(excluded))))
    rules = {rule.name: rule for rule in wanted.letters()}
    rows = raw.filter(dead).to_pylist()
    return [_letter(rules[name], row, wanted) for name, row in zip(reason.filter(dead).to_pylist(), rows, strict=True)]


def _letter(rule: Any, row: dict[str, Any], wanted: Wanted) -> DeadLetter:
    shown = f"{rule.column}={row.get(rule.column)!r}"
    if rule.column == "context":
        shown = ", ".join(f"{name}={row.get(name)!r}" for name in wanted.context)
    return DeadLetter("clean_interactions", rule.name, f"{shown}: accepted is {rule.accepted}", row)


def _add_letters(found: list[DeadLetter], letters: Letters, summary: Summary) -> None:
    letters.write(found)
    for letter in found:
        detail = letter.detail
        shown = detail if len(detail) <= _MOST_DETAIL else detail[: _MOST_DETAIL - 3] + "..."
        summary.examples[letter.reason] = min(summary.examples.get(letter.reason, shown), shown)


def summaries(
    pipeline: beam.Pipeline, source: OrdersSource, export: Export
) -> tuple[PCollection[Summary], PCollection[Any] | None]:
    """Adds reading and writing to the pipeline.

    Returns:
      The summaries of the pieces, and what has to be waited for besides.
    """
    if isinstance(source, OrderFiles):
        pieces = pipeline | "Splits" >> beam.Create(list(enumerate(source.splits))) | "SpreadSplits" >> beam.Reshuffle()
        return pieces | "Export" >> beam.ParDo(_ExportSplit(export, source.format)), None
    from pipelines import read_bigquery
    from pipelines.bigquery_orders import BigQueryOrders

    assert isinstance(source, BigQueryOrders)
    rows = read_bigquery.order_rows(pipeline, source, export.attempt, {"step": KIND}, export.names)
    done = read_bigquery.streams(rows, "Orders") | "Export" >> beam.ParDo(_ExportStream(export))
    # A summary has the number of its lines as a batch has it.
    return done, read_bigquery.require_all(rows, done, "Orders")


@dataclass(frozen=True)
class Completion:
    """What the last step of the job holds the interactions against, and writes.

    ``lines`` is the number of lines to be read, None where it may change.
    """

    arguments: dict[str, Any]
    content: dict[str, Any]
    lines: int | None
    limits: Limits
    times: Times


def complete(
    merged: PCollection[Summary], checked: PCollection[Any] | None, export: Export, completion: Completion
) -> PCollection[dict[str, Any]]:
    """Completes the directory once all pieces are there."""
    completed = (
        merged.pipeline
        | "Last" >> beam.Create([None])
        | "Complete" >> beam.ParDo(_Complete(export, completion), AsList(merged), AsList(checked) if checked else [])
    )
    snapshot_job.report_at_end(completed, KIND, export.output)
    return completed


class _Complete(beam.DoFn):
    """The last element of the job: reconciles the counts, checks the interactions and completes the directory."""

    def __init__(self, export: Export, completion: Completion) -> None:
        self.export, self.completion = export, completion

    def process(self, _: None, merged: list[Summary], checked: list[Any]) -> Iterator[dict[str, Any]]:
        with failing_in_one_line(self.export.output):
            manifest = self._finish(merged)
        yield manifest

    def _finish(self, merged: list[Summary]) -> dict[str, Any]:
        export, arguments = self.export, self.completion.arguments
        is_repeat = storage.exists(storage.join(export.output, storage.MANIFEST))
        if not is_repeat:
            export.require_turn()
        summary = Summary.merge(merged)
        named = arguments["events" if export.wanted.events else "orders"]
        snapshot_job.require_lines(named, self.completion.lines, summary.num_rows)
        content = _content(summary, export, self.completion) | self.completion.content
        if not is_repeat:
            export.require_turn()
            _tidy(summary, export)
        return storage.finish(export.output, KIND, arguments, content, export.attempt)


def _tidy(summary: Summary, export: Export) -> None:
    """Leaves in the output what the summary knows of, and writes the schema beside it."""
    for folder, known in ((FILES, [file["path"] for file in summary.files]), (DEAD_LETTERS, summary.letter_files)):
        interactions_files.delete_others(storage.join(export.output, folder), known)
    avro = json.dumps(interactions.avro_schema(export.statements.fields), indent=2)
    storage.write_bytes(storage.join(export.output, SCHEMA), avro.encode())


def _content(summary: Summary, export: Export, completion: Completion) -> dict[str, Any]:
    """What the manifest tells of the interactions.

    Raises:
      UsageError: an import would not take them.
    """
    wanted, fields = export.wanted, export.statements.fields
    lines = _account(summary)
    figures = summary.figures()
    if not figures["rows"]:
        raise UsageError(
            f"no line is an interaction: {lines['read']:,} read; excluded: {counted(lines['excluded'])}; "
            f"dead letters: {counted(lines['dead_letters'])}"
        )
    first, last = _instant(summary.first), _instant(summary.last)
    files = sorted(summary.files, key=lambda file: file["path"])
    size = sum(file["bytes"] for file in files)
    types = len(summary.event_types) if wanted.events else 1
    checks = validate(figures, size, len(fields), types, last, completion.times, completion.limits, wanted.mode)
    require_passed(checks, wanted.mode)
    return {
        "mode": wanted.mode,
        **figures,
        "lines": lines,
        "first_at": first.isoformat(),
        "last_at": last.isoformat(),
        "since": wanted.since and str(wanted.since),
        "until": wanted.until and str(wanted.until),
        "columns": [field.name for field in fields],
        "event_types": sorted(summary.event_types) if wanted.events else [wanted.event_type],
        "bytes": size,
        "files": files,
        "data": storage.join(export.output, FILES),
        "fingerprint": fingerprint(summary, export.statements.header),
        "validation": [vars(check) for check in checks],
        **({"dead_letter_examples": dict(sorted(summary.examples.items()))} if summary.examples else {}),
    }


def fingerprint(summary: Summary, header: bytes) -> str:
    """Of the rows and the columns, ``ROWS-HASH-ENGINE``: the engine's name is there because another version may hash in
    another way, so that its fingerprints may be unequal for equal rows, but never the other way round."""
    import duckdb

    of_header = int.from_bytes(hashlib.md5(header, usedforsecurity=False).digest(), "little")
    return f"{summary.rows}-{(summary.hash_sum + of_header) % (1 << 128):032x}-duckdb-{duckdb.__version__}"


def _instant(seconds: int | None) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds or 0, datetime.UTC)


def _account(summary: Summary) -> dict[str, Any]:
    """What became of every line.

    Raises:
      RuntimeError: a line is missing or was counted twice: a defect of this system, never of the data.
    """

    def kind(name: str) -> dict[str, int]:
        return {key: n for (k, key), n in sorted(summary.counts.items()) if k == name and n}

    excluded, dead, used = kind("excluded"), kind("dead_letters"), summary.counts["used", ""]
    written = sum(file["rows"] for file in summary.files)
    whole = used + sum(excluded.values()) + sum(dead.values())
    if summary.num_rows != whole or written != used or sum(dead.values()) != summary.counts["letters", ""]:
        raise RuntimeError(f"lines do not add up: {dict(summary.counts)} with {written} rows in the files")
    return {"read": summary.num_rows, "used": used, "excluded": excluded, "dead_letters": dead}
