"""The Beam graph of a publish: every row of the predictions is staged or becomes a dead letter.

    files -> customer ids -> hashes seen twice -----.
    files -> batches -> check -> rows of such ids --|--> together -> check -.
                          `-> the other rows -----------------------------> write -> read back -> counts
                          `-> dead letters

A batch is written to the store, a sample of it is read back, and what the store took is kept as one Parquet part for
the warehouse. Every file has a name that follows from the input, so that a bundle which the runner repeats changes
nothing. The counts travel as data and end in the manifest of the dead letters, whichever machine wrote them.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam import pvalue

from pipelines import publish_input, publish_plan, repeated_customers, run_job
from pipelines.publish_input import Predictions
from pipelines.warehouse import with_generation
from serving import checks
from serving.checks import Constants
from serving.store import Content, Generation, State, Store, Superseded, Writing, Written, open_store
from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import JobFailed, UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.publish_conclude import Conclusion

KIND = "dead_letters"
MENDED = "mended-"  # begins the names of files of rows that pipelines.publish_replay adds
SAMPLE_ROWS = 100  # of a batch, read back from the store
_REPEATED_TAG = "repeated"


@dataclass(frozen=True)
class Target:
    """Where one attempt writes; without ``serving`` the rows are only checked, counted and measured."""

    generation: str
    attempt: int = 0
    serving: str | None = None
    writing: Writing = field(default_factory=Writing)
    dead_letters: str = ""
    parts: str | None = None


@dataclass(frozen=True)
class Staged:
    """What became of a batch's rows, or of all rows.

    Attributes:
      content: the rows staged.
      dead_letters: the others, by reason.
      parts: the warehouse's Parquet files: name, rows, sha256.
      figures: what writing cost, see ``serving.store.Written``.
    """

    content: Content = field(default_factory=Content)
    dead_letters: dict[str, int] = field(default_factory=dict)
    parts: tuple[dict[str, Any], ...] = ()
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.content.rows + sum(self.dead_letters.values())

    @classmethod
    def total(cls, batches: Iterable[Staged]) -> Staged:
        """The same whatever order the batches come in: floating point sums are exact until the last rounding."""
        batches = list(batches)
        letters = sum((Counter(batch.dead_letters) for batch in batches), Counter[str]())
        figures: dict[str, list[float]] = {}
        for batch in batches:
            for name, value in batch.figures.items():
                figures.setdefault(name, []).append(value)
        content = Content(
            sum(batch.content.rows for batch in batches),
            exact_sum(batch.content.total_value for batch in batches),
            sum(batch.content.zeros for batch in batches),
        )
        parts = sorted((part for batch in batches for part in batch.parts), key=lambda part: str(part["name"]))
        sums = {name: max(values) if name.startswith("max_") else math.fsum(values) for name, values in figures.items()}
        return cls(content, dict(sorted(letters.items())), tuple(parts), dict(sorted(sums.items())))


def content_of(rows: pa.RecordBatch) -> Content:
    import pyarrow.compute as pc

    values = rows.column("predicted_value")
    return Content(rows.num_rows, exact_sum(values.to_numpy()), pc.sum(pc.equal(values, 0.0)).as_py() or 0)


def exact_sum(values: Iterable[float]) -> float:
    """Rounded once, whatever the order; infinite beyond the largest float, which no guard accepts."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


class Staging(beam.DoFn):
    """A DoFn that stages batches, through one store for all of them: what writing learnt of it goes on."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.store: Store | None = None

    def setup(self) -> None:
        if self.target.serving:
            self.store = open_store(self.target.serving, create=True, writing=self.target.writing)

    def teardown(self) -> None:
        if self.store:
            self.store.close()

    def stage(self, name: str, rows: pa.RecordBatch, letters: list[DeadLetter]) -> Staged:
        """Writes rows that passed the checks, and beside them those that did not."""
        if self.store is None:
            figures = asdict(publish_plan.sizes(rows, self.target.generation))
            return Staged(content_of(rows), _by_reason(letters), (), figures)
        written = Written()
        if rows.num_rows:
            written = self.store.write(self.target.generation, self.target.attempt, rows)
            rows = without(rows, written)
            read_back(self.store, self.target.generation, rows, seed=name)
        letters = [*letters, *written.refused]
        if letters:
            write_letters(storage.join(self.target.dead_letters, f"{name}.jsonl"), letters)
        staged = Staged(content_of(rows), _by_reason(letters), self._part(name, rows), dict(written.figures))
        _count(staged)
        return staged

    def _part(self, name: str, rows: pa.RecordBatch) -> tuple[dict[str, Any], ...]:
        if not self.target.parts or not rows.num_rows:
            return ()
        uri = storage.join(self.target.parts, f"{name}.parquet")
        return (storage.write_parquet(with_generation(rows, self.target.generation), uri),)


class StageBatch(Staging):
    """Stages the usable rows of a batch, but those of customers that may occur twice: these are tagged."""

    def __init__(self, target: Target, constants: Constants) -> None:
        super().__init__(target)
        self.constants = constants

    def process(self, named: tuple[str, pa.RecordBatch], repeated: Any) -> Iterator[Staged | pvalue.TaggedOutput]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        name, batch = named
        readable, unreadable = checks.split_readable(batch)
        usable, letters = checks.split(readable, checks.rules(self.constants))
        if len(repeated) and usable.num_rows:
            again = pa.array(np.isin(repeated_customers.hashes_of(usable), repeated))
            if again.true_count:
                yield pvalue.TaggedOutput(_REPEATED_TAG, (0, usable.filter(again)))
            usable = usable.filter(pc.invert(again))
        yield self.stage(name, usable, [*unreadable, *letters])


class StageRepeated(Staging):
    """Stages those customers of the batches that are left with one row, or with equal ones."""

    def process(self, grouped: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Staged]:
        import pyarrow as pa

        (rows,) = pa.Table.from_batches(list(grouped[1])).combine_chunks().to_batches()
        yield self.stage("part-repeated", *checks.split_repeated(rows))


def _by_reason(letters: Iterable[DeadLetter]) -> dict[str, int]:
    return dict(Counter(letter.reason for letter in letters))


def without(rows: pa.RecordBatch, written: Written) -> pa.RecordBatch:
    """The rows that the store took."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not written.refused:
        return rows
    refused = pa.array([letter.payload["customer_id"] for letter in written.refused], pa.string())
    return rows.filter(pc.invert(pc.is_in(rows.column("customer_id"), value_set=refused)))


def write_letters(uri: str, letters: Iterable[DeadLetter]) -> None:
    storage.write_bytes(uri, "".join(letter.to_json() + "\n" for letter in letters).encode())


def read_back(store: Store, generation: str, rows: pa.RecordBatch, seed: str) -> None:
    """Compares what the store gives with what was written: every column of a sample of the customers.

    Args:
      seed: the same customers are drawn for the same seed.

    Raises:
      JobFailed: they differ; one line with an example.
    """
    drawn = sorted(random.Random(seed).sample(range(rows.num_rows), min(SAMPLE_ROWS, rows.num_rows)))
    wanted = rows.take(drawn).to_pylist()
    found = store.read_back(generation, [row["customer_id"] for row in wanted])
    for row in wanted:
        got = found.get(row["customer_id"])
        if got != row | {"generation": generation}:
            raise JobFailed(f"generation {generation} was not staged as it was written: {row} came back as {got}")


def _count(staged: Staged) -> None:
    """Beam's counters, which Dataflow's page of the job shows."""
    for name, value in {"rows": staged.content.rows, **staged.figures}.items():
        beam.metrics.Metrics.counter("publish", name).inc(round(value))
    for reason, number in staged.dead_letters.items():
        beam.metrics.Metrics.counter("publish.dead_letters", reason).inc(number)


def build_pipeline(
    pipeline: beam.Pipeline, predictions: Predictions, target: Target, shards: int, output: str
) -> pvalue.PCollection[Staged]:
    """Reads, checks and stages; ends with a manifest in ``output`` and the total that it holds.

    Args:
      shards: how many workers write at a time at most, each with its share of the rate.
    """
    sources = list(enumerate(predictions.paths))
    repeated = (
        pipeline
        | "Files" >> beam.Create(sources)
        | "SpreadFiles" >> beam.Reshuffle()
        | "HashIds" >> beam.FlatMap(partial(repeated_customers.id_hashes, predictions))
        | "Hashes" >> beam.GroupByKey()
        | "SeenTwice" >> beam.Map(repeated_customers.seen_twice)
        | "Repeated" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
        | "AllRepeated" >> beam.Map(repeated_customers.together)
    )
    staged = (
        pipeline
        | "Shards" >> beam.Create([(index % shards, source) for index, source in enumerate(sources)])
        | "Shard" >> beam.GroupByKey()
        | "Read" >> beam.FlatMap(partial(_read_shard, predictions))
        | "Stage"
        >> beam.ParDo(StageBatch(target, predictions.constants), pvalue.AsSingleton(repeated)).with_outputs(
            _REPEATED_TAG, main="staged"
        )
    )
    together = (
        staged[_REPEATED_TAG] | "Together" >> beam.GroupByKey() | "StageRepeated" >> beam.ParDo(StageRepeated(target))
    )
    return (
        (staged.staged, together)
        | "All" >> beam.Flatten()
        | "ToList" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
        | "Total" >> beam.Map(_total, predictions.directory, predictions.rows)
        | "Manifest" >> beam.Map(write_manifest, output, target)
    )


def _read_shard(
    predictions: Predictions, shard: tuple[int, Iterable[tuple[int, str]]]
) -> Iterator[tuple[str, pa.RecordBatch]]:
    for source in sorted(shard[1]):
        yield from publish_input.read_batches(predictions.directory, source, predictions.digests[source[0]])


def _total(batches: list[Staged], directory: str, rows: int) -> Staged:
    """Raises: JobFailed where rows were lost or came twice on the way."""
    staged = Staged.total(batches)
    if staged.rows != rows:
        raise JobFailed(f"--predictions {directory!r} gave {staged.rows} rows, its manifest says {rows}")
    return staged


def write_manifest(staged: Staged, directory: str, target: Target) -> Staged:
    """Ends the directory of a generation's dead letters, unless it has the manifest of this attempt or a later one.

    That one stays: this step may be repeated, and replays may have changed the manifest since.

    Returns:
      ``staged``, for the next step.
    """
    uri = storage.join(directory, storage.MANIFEST)
    content = {"kind": KIND, "generation": target.generation, "attempt": target.attempt, **asdict(staged)}
    text, found = json.dumps(content, indent=2).encode(), None
    while not storage.compare_and_set(uri, text, found):
        found = storage.read_bytes(uri)
        if json.loads(found).get("attempt", 0) >= target.attempt:
            break
    return staged


def read_manifest(directory: str, target: Target) -> Staged:
    """What ``write_manifest`` wrote.

    Raises:
      Superseded: the directory is another attempt's by now.
    """
    try:
        found = storage.read_manifest(directory, KIND)
    except UsageError:
        require_staging(target)
        raise
    if found["attempt"] != target.attempt:
        raise Superseded(target.generation, target.attempt, _record(target))
    content = Content(**found["content"])
    return Staged(content, found["dead_letters"], tuple(found["parts"]), found["figures"])


def clear_letters(directory: str, target: Target) -> None:
    """Deletes what an earlier attempt left, right after the store was asked whether this one is the latest.

    Raises:
      Superseded: it is not, and what is there may be the other's.
      UsageError: rows that somebody mended would be lost.
    """
    require_staging(target)
    mended = [path for path in storage.list_files(directory, ".parquet") if os.path.basename(path).startswith(MENDED)]
    if mended:
        raise UsageError(
            f"{directory} holds rows that were mended and published into a generation which is not there any more: move the "
            "directory away, publish, put it back in the new one's place and replay"
        )
    if _attempt_of(directory) > target.attempt:
        # Somebody was here since, or a generation of this name was purged, and its attempts are counted anew.
        require_staging(target)
    storage.delete_directory(directory)


def _attempt_of(directory: str) -> int:
    """The attempt that a directory's manifest names; 0 where there is none."""
    uri = storage.join(directory, storage.MANIFEST)
    return int(json.loads(storage.read_bytes(uri)).get("attempt", 0)) if storage.exists(uri) else 0


def require_staging(target: Target) -> None:
    """Raises: Superseded unless the store says that this attempt is being staged. Without a store nothing is asked."""
    if target.serving is None:
        return
    found = _record(target)
    if found is None or (found.state, found.attempt) != (State.STAGED, target.attempt):
        raise Superseded(target.generation, target.attempt, found)


def _record(target: Target) -> Generation | None:
    if target.serving is None:
        return None
    with open_store(target.serving) as store:
        return store.find(target.generation)


def run(predictions: Predictions, target: Target, shards: int, beam_options: PipelineOptions, output: str) -> Staged:
    """Runs the graph to its end.

    Raises:
      UsageError: a worker met unusable input.
      Superseded: another attempt took over.
      JobFailed: rows were lost or came twice on the way.
    """
    clear_letters(output, target)
    pipeline = beam.Pipeline(options=beam_options)
    build_pipeline(pipeline, predictions, target, shards, output)
    run_job.execute(pipeline, "publish")
    return read_manifest(output, target)


def submit(
    predictions: Predictions, target: Target | None, shards: int, beam_options: PipelineOptions, conclusion: Conclusion
) -> None:  # fmt: skip
    """Sends a job on its way that stages, unless there is no target, and then concludes the publish by itself.

    Raises:
      UsageError, JobFailed: as ``clear_letters`` and ``run_job.execute``.
    """
    pipeline = beam.Pipeline(options=beam_options)
    if target:
        clear_letters(target.dead_letters, target)
        staged = build_pipeline(pipeline, predictions, target, shards, target.dead_letters)
    else:
        staged = pipeline | "Sealed" >> beam.Create([None])
    staged | "Conclude" >> beam.Map(conclusion.run)
    run_job.execute(pipeline, "publish")
