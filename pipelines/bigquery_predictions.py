"""Published predictions in BigQuery: a table of daily partitions, each replaced in one step, and a view of the current one.

    gs://STAGING/TABLE/GENERATION/attempt-1/*.parquet
        | load job
    TABLE_staged_GENERATION_1      of the attempt's own, expires; no reader knows of it
        | copy job, free and atomic, once the store has switched
    TABLE, partition as_of
        | predictions of one day alone
    TABLE_current                  a view

Publishing reconciles, it does not remember: the partition is asked what it holds and the store what became current
last, and copies are made until the two agree. A copy cannot be taken back once it is under way, so that of two
publishes of one day the slower, or one that was killed after it had asked for its copy, could undo the other's. Hence
job ids follow from the generation and the time it became current, and whoever copies the last generation first closes
the ids of the earlier ones: their copies have ended, or will never begin (``bigquery.close``). That needs one project
for the jobs of all who publish into a table.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

from pipelines import bigquery, bigquery_tables
from pipelines.bigquery import Copy, Load, Query, Table
from pipelines.bigquery_tables import Layout
from pipelines.warehouse import COLUMNS, Published, became_current, gone, require_content
from serving.store import TTL, Clock, utc_now
from transforms import schema, storage
from transforms.errors import JobFailed, UsageError, one_line, rejected

if TYPE_CHECKING:
    from google.cloud import bigquery as google

    from serving.store import Generation

_LOG = logging.getLogger(__name__)
LAYOUT = Layout(COLUMNS, "as_of", ("decile",), "Customers' predicted values as published: one generation a day")
_LABELS = {"step": "publish"}
_PARQUET = {"source_format": "PARQUET"}
_FIELDS = tuple((f["name"], f["type"], f["description"]) for f in LAYOUT.fields())
_ROUNDS = 20  # of reconciling: each but the last means that another publish came in between
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _patient(
    method: Callable[Concatenate[BigQueryWarehouse, _P], _R],
) -> Callable[Concatenate[BigQueryWarehouse, _P], _R]:
    """A method that ends in JobFailed where BigQuery fails for the time being."""

    @functools.wraps(method)
    def patient(self: BigQueryWarehouse, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        with bigquery.patience(self._about):
            return method(self, *arguments, **named)

    return patient


class BigQueryWarehouse:
    """A ``pipelines.warehouse.Warehouse``; rows of a generation that is not published expire."""

    MOST_PARTS: ClassVar[int] = 10_000  # URIs of one load job

    def __init__(
        self, table: Table, staging: str, ttl: timedelta = TTL, project: str | None = None, clock: Clock = utc_now
    ) -> None:
        """
        Args:
          table: what analysts read, made when missing; its dataset must exist.
          staging: a directory in Cloud Storage, near the dataset, for Parquet files on their way.
          ttl: how long after its staging a generation can be published, or rolled back to.
          project: what runs the jobs, the table's own unless given.

        Raises:
          UsageError: ``staging`` is not in Cloud Storage.
        """
        if not staging.startswith("gs://") or not staging.removeprefix("gs://").strip("/"):
            raise rejected("--staging", staging, "a directory in Cloud Storage, such as gs://my-bucket/staging")
        self._table, self._staging, self._ttl, self._clock = table, staging, ttl, clock
        self._project = project or table.project
        self._about = f"--bigquery_table {table}"

    @property
    def name(self) -> str:
        return f"{bigquery.SCHEME}{self._table}"

    @property
    def view(self) -> Table:
        """Of the predictions that are served: ``predictions_current`` beside ``predictions``."""
        return self._table.beside("_current")

    def staged(self, generation: Generation) -> Table:
        """The table of the generation's attempt: one that was overtaken cannot write into another's."""
        return self._table.beside(f"_staged_{generation.name.replace('-', '_')}_{generation.attempt}")

    @_patient
    def check(self) -> None:
        found = self._get(self._table)
        if found:
            bigquery_tables.require(found, self._table, LAYOUT, self._about)
            with bigquery.explained(self._about):  # what may not be read cannot be published into either
                bigquery.dry_run(self._held_query(date(2000, 1, 1)))
        self._require_view(self._get(self.view))
        self._require_bucket()

    def parts(self, generation: str, attempt: int) -> str:
        return storage.join(self._parts_of(generation), f"attempt-{attempt}")

    @_patient
    def stage(self, generation: Generation, parts: Sequence[str], rows: int) -> None:
        if len(parts) > self.MOST_PARTS:
            raise UsageError(f"{self._about}: {len(parts)} parts are too many: accepted are {self.MOST_PARTS}")
        made = self._make_staged(self.staged(generation))
        loaded = self._run_load(self._load("stage", generation, parts, made)) if parts else 0
        self._require_rows(loaded, generation, rows)

    @_patient
    def append(self, generation: Generation, part: str, rows: int) -> None:
        found = self._get(self.staged(generation))
        if found is None:
            raise gone(self._about, generation, self._ttl)
        loaded = self._run_load(self._load("append", generation, [part], found, extends=True))
        self._require_rows(loaded, generation, rows)

    @_patient
    def can_publish(self, generation: Generation) -> None:
        found = self._get(self._table)
        if found:
            bigquery_tables.require(found, self._table, LAYOUT, self._about)
        self._require_view(self._get(self.view))
        self._holds(generation, made=found is not None)

    @_patient
    def publish(self, generation: Generation, generations: Published) -> bool:
        bigquery_tables.ensure(self._project, self._table, LAYOUT, self._about)
        latest = self._reconcile(generation.as_of, generations)
        self._point_view(generation.as_of, generations)
        return latest.name == generation.name

    @_patient
    def discard(self, generation: Generation) -> None:
        with bigquery.explained(self._about):
            for attempt in range(1, generation.attempt + 1):
                staged = self.staged(replace(generation, attempt=attempt))
                bigquery.client(self._project).delete_table(staged.reference, not_found_ok=True)
        with self._staging_explained():
            storage.delete_directory(self._parts_of(generation.name))

    # --- Staging ------------------------------------------------------------------------------------------------------

    def _parts_of(self, generation: str) -> str:
        return storage.join(self._staging, str(self._table), generation)

    def _make_staged(self, table: Table) -> google.Table:
        """The attempt's own table, empty or not; it expires ``ttl`` from now."""
        from google.api_core.exceptions import Conflict
        from google.cloud import bigquery as google

        client = bigquery.client(self._project)
        made = google.Table(table.reference, [google.SchemaField.from_api_repr(field) for field in LAYOUT.fields()])
        made.description = f"Staged for {self._table}; not to be read"
        made.time_partitioning = google.TimePartitioning(field=LAYOUT.partitioned_by)
        made.clustering_fields = list(LAYOUT.clustered_by)
        made.labels = _LABELS
        made.expires = self._clock() + self._ttl  # before there are rows: whatever is killed leaves nothing for ever
        with bigquery.explained(f"{self._about}: staging in {table}"):
            try:
                found = client.create_table(made)
            except Conflict:
                found = client.get_table(table.reference)
                found.expires = made.expires
                found = client.update_table(found, ["expires"])
            partitioning = found.time_partitioning
            if partitioning and partitioning.expiration_ms:  # the dataset's default: an older day would go at once
                partitioning.expiration_ms = None
                found.time_partitioning = partitioning
                found = client.update_table(found, ["time_partitioning"])
        return found

    def _load(
        self, step: str, generation: Generation, parts: Sequence[str], into: google.Table, extends: bool = False
    ) -> Load:
        directory = self.parts(generation.name, generation.attempt)
        # The time the table was made is part of the name: in a table made anew nothing has been loaded yet.
        name = self._name(step, generation, f"{generation.attempt}-{_microseconds(into.created)}")
        return Load(
            name, self._project, tuple(storage.join(directory, part) for part in parts), self.staged(generation),
            _FIELDS, _PARQUET, self._location, _LABELS, extends, self._about,
        )  # fmt: skip

    def _run_load(self, load: Load) -> int:
        """The number of rows loaded."""
        return int(bigquery.run_load(load).output_rows or 0)

    def _require_rows(self, loaded: int, generation: Generation, rows: int) -> None:
        if loaded != rows:
            raise UsageError(
                f"{self._about}: generation {generation.name} was staged with {loaded} rows, expected are {rows}"
            )

    # --- Publishing ---------------------------------------------------------------------------------------------------

    def _reconcile(self, as_of: date, generations: Published) -> Generation:
        """Has the day's partition hold the generation of that day that became current last, and returns it."""
        copies: Counter[tuple[Any, ...]] = Counter()
        for _ in range(_ROUNDS):
            published = became_current(generations(), as_of)
            if not published:
                raise UsageError(f"{self._about}: no generation as of {as_of} has been current: nothing to publish")
            latest, *earlier = published
            if self._holds(latest):
                return latest
            for each in earlier:
                self._close_copies(each)
            key = (latest.name, latest.published_at)
            bigquery.run_copy(self._copy(latest, copies[key]))
            copies[key] += 1
        raise JobFailed(f"{self._about}: the partition as of {as_of} did not come to rest: other publishes replace it")

    def _holds(self, generation: Generation, made: bool = True) -> bool:
        """Whether the partition is exactly what is staged of the generation, mended rows with it.

        Args:
          made: whether there is a table to hold it.

        Raises:
          UsageError: as ``can_publish``.
        """
        require_content(self._about, generation)
        staged = self._get(self.staged(generation))
        rows = generation.content.rows if staged is None else int(staged.num_rows)
        if rows < generation.content.rows:
            raise UsageError(
                f"{self._about}: {self.staged(generation)} holds {rows} rows, expected are {generation.content.rows}"
            )
        if made and self._held(generation.as_of) == {generation.name: rows}:
            return True
        if staged is None:
            raise gone(self._about, generation, self._ttl)
        return False

    def _held(self, as_of: date) -> dict[str, int]:
        """The number of rows in a day's partition by generation."""
        job = bigquery.run(self._held_query(as_of))
        with bigquery.explained(self._about):
            return {row["generation"]: row["customers"] for row in job.result()}

    def _held_query(self, as_of: date) -> Query:
        # A name of its own each time: the answer of an earlier one is not what the partition holds now.
        name = f"clv-publish-held-{uuid.uuid4().hex}"
        return Query(name, self._project, held_sql(self._table, as_of), self._location, _LABELS, about=self._about)

    def _copy(self, generation: Generation, number: int) -> Copy:
        """The copy that a generation's becoming current asks for; the first is number 0."""
        assert generation.published_at is not None
        day = generation.as_of
        return Copy(
            self._name("copy", generation, f"{_microseconds(generation.published_at)}-{number}"), self._project,
            replace(self.staged(generation), partition=day), replace(self._table, partition=day),
            self._location, _LABELS, self._about,
        )  # fmt: skip

    def _close_copies(self, generation: Generation) -> None:
        """No copy that an earlier generation's becoming current asks for is under way or will begin."""
        for number in itertools.count():
            if bigquery.close(self._copy(generation, number)):
                return

    def _point_view(self, as_of: date, generations: Published) -> None:
        """Has the view select the day's predictions, if the current generation is of that day.

        Read, ask the store, write if unchanged (by its etag): of several publishes the last one's day stays.
        """
        from google.api_core.exceptions import Conflict, NotFound, PreconditionFailed

        for _ in range(_ROUNDS):
            found = self._get(self.view)
            self._require_view(found)
            if became_current(generations())[0].as_of != as_of:
                return  # its own publish will point there, once its partition is complete
            sql = view_sql(self._table, as_of)
            if found and found.view_query == sql:
                return
            with bigquery.explained(f"{self._about}: the view {self.view}"):
                try:
                    self._write_view(found, sql)
                    return
                except (Conflict, NotFound, PreconditionFailed):
                    continue
        raise JobFailed(f"{self._about}: the view {self.view} did not come to rest: other publishes replace it")

    def _write_view(self, found: google.Table | None, sql: str) -> None:
        from google.cloud import bigquery as google

        client = bigquery.client(self._project)
        if found:
            found.view_query = sql
            client.update_table(found, ["view_query"])
            return
        view = google.Table(self.view.reference)
        view.view_query = sql
        view.description = f"The predictions that are served: one day of {self._table}"
        view.labels = _LABELS
        client.create_table(view)

    # --- What is there ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _location(self) -> str:
        """Where the dataset is: jobs are found again only by id and place."""
        with bigquery.explained(self._about):
            dataset = bigquery.client(self._project).get_dataset(f"{self._table.project}.{self._table.dataset}")
        return str(dataset.location)

    def _get(self, table: Table) -> google.Table | None:
        from google.api_core.exceptions import NotFound

        with bigquery.explained(self._about):
            try:
                return bigquery.client(self._project).get_table(table.reference)
            except NotFound:
                self._location  # noqa: B018 - the table may be missing, its dataset may not
                return None

    def _require_view(self, found: google.Table | None) -> None:
        if found and (found.table_type != "VIEW" or f"FROM {self._table.sql}" not in (found.view_query or "")):
            raise UsageError(
                f"{self._about} is not usable: {self.view}, where the view of the current predictions belongs, is "
                "something else: accepted is that view, or nothing by that name"
            )

    def _require_bucket(self) -> None:
        from pyarrow import fs

        with self._staging_explained():
            filesystem, path = storage.resolve(self._staging)
            found = filesystem.get_file_info(path.split("/")[0])
        if found.type == fs.FileType.NotFound:
            raise rejected("--staging", self._staging, "a directory in a bucket that exists")

    @contextmanager
    def _staging_explained(self) -> Iterator[None]:
        """Raises: UsageError for what Cloud Storage does not do, also for the time being: Arrow has tried long."""
        try:
            yield
        except OSError as error:
            raise UsageError(f"--staging {self._staging!r} is not usable: {one_line(str(error))}") from error

    def _name(self, step: str, generation: Generation, number: str) -> str:
        table = hashlib.sha256(str(self._table).encode()).hexdigest()[:8]
        return f"clv-publish-{step}-{table}-{generation.name}-{number}"


def held_sql(table: Table, as_of: date) -> str:
    """How many rows of each generation a day's partition has: one generation's, unless somebody wrote into it."""
    return f"SELECT generation, COUNT(*) AS customers FROM {table.sql} WHERE as_of = DATE '{as_of}' GROUP BY generation"


def view_sql(table: Table, as_of: date) -> str:
    """One day's predictions.

    Not one generation's: a generation replaces another of its day in the table, and would be missing here meanwhile.
    """
    names = ", ".join(f"`{name}`" for name in schema.names(COLUMNS))
    return f"SELECT {names} FROM {table.sql} WHERE as_of = DATE '{as_of}'"


def _microseconds(instant: Any) -> int:
    return int(instant.timestamp() * 1_000_000)
