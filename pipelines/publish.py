"""Publishes a predictions directory: stage beside what is served, check, then switch in one step.

    predictions/*.parquet -> read -> check -> stage      the Beam graph; the old generation is served
                                       `-> dead letters
    guards -> switch the pointer -> copy to the warehouse -> expire old generations

Every phase may be killed and the command run again: a sealed generation is not staged twice, a
half-staged one starts anew, and a switch asserts what was current when the command started.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.options import directory, positive
from serving.store import KEEP_GENERATIONS
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pipeline import Pipeline

    from pipelines.warehouse import Warehouse
    from serving.checks import Constants
    from serving.store import Generation, Store

DESCRIPTION = """\
Publishes a predictions directory to the serving store, and to the warehouse when one is given.

Every row is checked; rows that cannot be served become dead letters. The others are staged as a new
generation, and only when all of it is there does the store switch to it, in one transaction: readers
see the old predictions or the new ones, never a mixture. Running the command again is safe: it
finishes what was interrupted, or says that the generation is current already. Predictions as of an
earlier day than those being served are refused.

example:
  python -m pipelines.publish --predictions work/predictions --serving sqlite://work/serving.db \\
      --warehouse work/warehouse --dead_letters work/dead_letters

Arguments not listed here go to Apache Beam, such as --runner DirectRunner (default: FnApiRunner)."""

# Rows checked and staged at a time: some 10 MB of Arrow, and one transaction of the store.
BATCH_ROWS = 65_536
_USABLE = "usable"


@dataclass(frozen=True)
class Options:
    predictions: str
    serving: str
    dead_letters: str
    warehouse: str | None
    keep_generations: int


@dataclass(frozen=True)
class Predictions:
    """A complete predictions directory; ``generation`` depends on nothing but its manifest."""

    directory: str
    paths: tuple[str, ...]
    rows: int
    constants: Constants
    generation: str


@dataclass(frozen=True)
class Staging:
    """Where one attempt writes."""

    serving: str
    generation: str
    attempt: int
    dead_letters: str


def parse(argv: list[str] | None) -> tuple[Options, list[str]]:
    parser = ArgumentParser("python -m pipelines.publish", description=DESCRIPTION)
    parser.add_argument(
        "--predictions", required=True, metavar="DIR", help="what pipelines.predict wrote (with its manifest.json)"
    )
    parser.add_argument(
        "--serving", required=True, metavar="URI",
        help="the serving store, made when missing: sqlite:///absolute/path.db or sqlite://relative/path.db",
    )  # fmt: skip
    parser.add_argument(
        "--dead_letters", required=True, metavar="DIR", type=directory,
        help="rows that cannot be served, as JSON Lines in DIR/GENERATION: stage, reason, detail, payload",
    )  # fmt: skip
    parser.add_argument(
        "--warehouse", metavar="DIR",
        help="also replace DIR/predictions/as_of=YYYY-MM-DD/predictions.parquet, sorted by customer_id",
    )  # fmt: skip
    parser.add_argument(
        "--keep_generations", type=positive, metavar="N", default=KEEP_GENERATIONS,
        help="former generations kept for a rollback; older ones are deleted",
    )  # fmt: skip
    known, beam_arguments = parser.parse_known_args(argv)
    return Options(**vars(known)), beam_arguments


def open_predictions(directory: str) -> Predictions:
    """Reads the manifest and every file's footer.

    Raises:
      UsageError: the directory is half-written, has other columns than predictions have, other row
        counts than its manifest says, or no row at all.
    """
    from datetime import date

    import pyarrow.parquet as pq

    from serving.checks import Constants
    from transforms import storage
    from transforms.schema import PREDICTIONS, arrow_schema

    manifest = storage.read_manifest(directory, "predictions")
    missing = {"rows", "as_of", "horizon_days", "model_version", "parts"} - manifest.keys()
    if missing:
        raise UsageError(f"--predictions {directory!r}: its manifest says nothing about {', '.join(sorted(missing))}")
    filesystem, _ = storage.resolve(directory)
    paths = storage.list_parts(directory, manifest)
    expected, rows = arrow_schema(PREDICTIONS), 0
    for path in paths:
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            found = parquet.schema_arrow.remove_metadata()
            if found != expected:
                raise UsageError(f"--predictions {directory!r}: {path} {_difference(found, expected)}")
            rows += parquet.metadata.num_rows
    if rows != manifest["rows"]:
        raise UsageError(
            f"--predictions {directory!r} has {rows} rows in its files, but its manifest says {manifest['rows']}"
        )
    if not rows:
        raise UsageError(
            f"--predictions {directory!r} has no rows: publishing it would leave every customer without one"
        )
    constants = Constants(
        date.fromisoformat(manifest["as_of"]), int(manifest["horizon_days"]), str(manifest["model_version"])
    )
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    return Predictions(directory, tuple(paths), rows, constants, f"{constants.as_of}-{digest}")  # fmt: skip


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for field in expected:
        if field.name not in found.names:
            return f"lacks the column {field.name}"
        if found.field(field.name).type != field.type:
            return f"has {field.name} as {found.field(field.name).type}, accepted is {field.type}"
    extra = [name for name in found.names if name not in expected.names]
    return f"has the columns {extra} too" if extra else f"has its columns in another order than {expected.names}"


def read_batches(directory: str, source: tuple[int, str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Batches of one file, each with a name that is the same whenever the file is read."""
    import pyarrow.parquet as pq

    from transforms import storage

    index, path = source
    with storage.resolve(directory)[0].open_input_file(path) as file:
        for number, batch in enumerate(pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS)):
            batch.validate(full=True)  # Parquet lets text pass that is not UTF-8
            yield f"part-{index:05d}-{number:05d}", batch


def stage_batch(staging: Staging, constants: Constants, named: tuple[str, pa.RecordBatch]) -> Counter[str]:
    """Stages a batch's usable rows, writes the others as dead letters, and counts both."""
    from serving import checks
    from serving.store import open_store
    from transforms import storage

    name, batch = named
    usable, letters = checks.split(batch, checks.rules(constants))
    if letters:
        lines = "".join(letter.to_json() + "\n" for letter in letters)
        storage.write_bytes(storage.join(staging.dead_letters, f"{name}.jsonl"), lines.encode())
    if usable.num_rows:
        with open_store(staging.serving, create=True) as store:
            store.write(staging.generation, staging.attempt, usable)
    return Counter({_USABLE: usable.num_rows}) + Counter(letter.reason for letter in letters)


def _total(counts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter())


def _write_counts(staging: Staging, counts: Counter[str]) -> None:
    """Ends the dead letters' directory; read back by the launcher, whichever machine wrote it."""
    from transforms import storage

    reasons = {reason: number for reason, number in sorted(counts.items()) if reason != _USABLE}
    content = {"kind": "dead_letters", "generation": staging.generation, "usable": counts[_USABLE], "reasons": reasons}
    uri = storage.join(staging.dead_letters, storage.MANIFEST)
    storage.write_bytes(uri, json.dumps(content, indent=2).encode())


def build_pipeline(pipeline: Pipeline, predictions: Predictions, staging: Staging) -> None:
    """Read, check and stage; ends with the counts in the dead letters' manifest."""
    import apache_beam as beam

    (
        pipeline
        | "Files" >> beam.Create(list(enumerate(predictions.paths)))
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(partial(read_batches, predictions.directory))
        | "CheckAndStage" >> beam.Map(partial(stage_batch, staging, predictions.constants))
        | "Count" >> beam.CombineGlobally(_total)
        | "WriteCounts" >> beam.Map(partial(_write_counts, staging))
    )


def stage(predictions: Predictions, staging: Staging, beam_options: PipelineOptions) -> tuple[int, dict[str, int]]:
    """Runs the graph to its end: the number of usable rows, and of dead letters by reason."""
    import apache_beam as beam

    from pipelines import run_job
    from transforms import storage

    storage.delete_directory(staging.dead_letters)  # of an attempt that was interrupted
    pipeline = beam.Pipeline(options=beam_options)
    build_pipeline(pipeline, predictions, staging)
    run_job.execute(pipeline, "publish")
    counts = storage.read_manifest(staging.dead_letters, "dead_letters")
    counted = counts["usable"] + sum(counts["reasons"].values())
    if counted != predictions.rows:
        raise UsageError(
            f"--predictions {predictions.directory!r} gave {counted} rows, its manifest says {predictions.rows}"
        )
    return counts["usable"], counts["reasons"]


def ensure_sealed(
    store: Store, predictions: Predictions, options: Options, beam_options: PipelineOptions
) -> Generation:
    """Stages and seals the generation unless that is done already.

    Raises:
      UsageError: a customer occurs twice among the usable rows.
      Superseded: another publish of the same predictions took over.
    """
    from serving import store as stores
    from transforms import storage

    name = predictions.generation
    attempt = store.begin(stores.Generation(name, **vars(predictions.constants)))
    if attempt is None:
        _say(f"{name}: all rows are staged already")
    else:
        staging = Staging(stores.resolve(options.serving), name, attempt, storage.join(options.dead_letters, name))
        anew = f", attempt {attempt}: the one before was interrupted" if attempt > 1 else ""
        _say(f"{name}: staging {predictions.rows} rows from {len(predictions.paths)} files{anew}")
        usable, dead_letters = stage(predictions, staging, beam_options)
        try:
            store.seal(name, attempt, usable, dead_letters)
        except stores.RowCountMismatch:
            _refuse_duplicates(predictions, store)
            raise
        _say(f"{name}: {usable} rows staged, {_described(dead_letters)}")
    sealed = store.find(name)
    if sealed is None:
        raise stores.Superseded(name, attempt or 0, None)
    return sealed


def _refuse_duplicates(predictions: Predictions, store: Store) -> None:
    example = duplicate_customer(predictions)
    if example is not None:
        store.delete(predictions.generation)
        raise UsageError(
            f"--predictions {predictions.directory!r} has customer {example!r} more than once: accepted is one row a "
            "customer, since nobody can say which is right"
        )


def duplicate_customer(predictions: Predictions) -> str | None:
    """The smallest customer id that occurs more than once, if any does. Holds all ids in memory."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from transforms import storage

    filesystem, _ = storage.resolve(predictions.directory)
    tables = [pq.read_table(path, filesystem=filesystem, columns=["customer_id"]) for path in predictions.paths]
    counts = pa.concat_tables(tables).group_by("customer_id").aggregate([("customer_id", "count")])
    repeated = counts.filter(pc.field("customer_id_count") > 1).column("customer_id")
    smallest: str | None = pc.min(repeated).as_py()
    return smallest


def guard(predictions: Predictions, current: Generation | None) -> None:
    """Refuses predictions that would take readers back in time."""
    if current and predictions.constants.as_of < current.as_of:
        raise UsageError(
            f"--predictions {predictions.directory!r} is as of {predictions.constants.as_of}: accepted is "
            f"{current.as_of} or later, what {current.described()} serves"
        )


def guard_rows(predictions: Predictions, sealed: Generation) -> None:
    """Refuses a generation that would answer for nobody."""
    if not sealed.rows:
        raise UsageError(
            f"--predictions {predictions.directory!r} has no usable row ({_described(sealed.dead_letters)}): "
            "what was current stays current"
        )


def switch(store: Store, name: str, previous: str | None) -> None:
    """Moves the pointer from ``previous``; fine as well when another run of the same publish just did.

    Raises:
      PointerMoved: a publish of something else won.
    """
    from serving.store import PointerMoved

    try:
        store.switch(name, previous)
    except PointerMoved as lost:
        if lost.winner is None or lost.winner.name != name:
            raise


def usable_batches(predictions: Predictions) -> Iterator[pa.RecordBatch]:
    from serving import checks

    rules = checks.rules(predictions.constants)
    for source in enumerate(predictions.paths):
        for _, batch in read_batches(predictions.directory, source):
            yield checks.split(batch, rules)[0]


def copy_to_warehouse(predictions: Predictions, store: Store, warehouse: Warehouse) -> bool:
    """Copies the usable rows to the partition of their ``as_of``; False when it holds them already."""
    as_of, name = predictions.constants.as_of, predictions.generation
    if warehouse.holds(as_of, name):
        return False
    replaced = warehouse.replace(as_of, name, usable_batches(predictions), lambda: _is_latest(store, as_of, name))
    _say(f"{name}: warehouse partition as_of={as_of} " + ("replaced" if replaced else "left to a later publish"))
    return replaced


def _is_latest(store: Store, as_of: Any, name: str) -> bool:
    published = [(g.published_at, g.name) for g in store.generations() if g.published_at and g.as_of == as_of]
    return bool(published) and max(published)[1] == name


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Publishes; returns ``generation, previous, rows, dead_letters`` (by reason) and ``already_current``.

    ``previous`` is the generation that was current when the command started, None for the first one.

    Raises:
      UsageError: unusable arguments or predictions, or another publish won; what was current stays current.
    """
    from pipelines.options import pipeline_options
    from pipelines.warehouse import LocalWarehouse
    from serving.store import open_store

    options, beam_arguments = parse(argv)
    beam_options = pipeline_options(beam_arguments)
    _refuse_remote_workers(options, beam_options)
    warehouse = LocalWarehouse(options.warehouse) if options.warehouse else None
    predictions = open_predictions(options.predictions)
    name = predictions.generation
    with open_store(options.serving, create=True) as store:
        current = store.current()
        guard(predictions, current)
        previous = current.name if current else None
        sealed = ensure_sealed(store, predictions, options, beam_options)
        guard_rows(predictions, sealed)
        if name == previous:
            _say(f"{name}: is the current generation already")
        else:
            switch(store, name, previous)
            _say(f"{name}: is current now; previous generation: {previous or 'none'}")
        if warehouse:
            copy_to_warehouse(predictions, store, warehouse)
        for expired in store.expire(options.keep_generations):
            _say(f"{expired}: expired")
    return {
        "generation": name,
        "previous": previous,
        "rows": sealed.rows,
        "dead_letters": dict(sealed.dead_letters),
        "already_current": name == previous,
    }


def _refuse_remote_workers(options: Options, beam_options: PipelineOptions) -> None:
    from apache_beam.options.pipeline_options import StandardOptions

    from pipelines.options import is_local

    if not is_local(beam_options):
        runner = beam_options.view_as(StandardOptions).runner
        raise rejected("--runner", runner, f"a runner on this machine, where --serving {options.serving} is")


def _described(dead_letters: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(dead_letters.items()))
    return f"{sum(dead_letters.values())} dead letters" + (f" ({reasons})" if reasons else "")


def _say(line: str) -> None:
    print(f"publish {line}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
