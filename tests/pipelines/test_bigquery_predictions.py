"""Predictions in BigQuery: readers see a day's old rows or its new, whatever is lost, killed, repeated or slow."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import google.api_core.exceptions
import pytest
import requests
from google.cloud import bigquery as google_bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from pipelines import bigquery as bq
from pipelines import bigquery_predictions, bigquery_tables, warehouse
from pipelines.bigquery import Copy, Table
from pipelines.bigquery_predictions import LAYOUT, BigQueryWarehouse
from serving.store import Generation
from tests.emulators.services import BigQuery
from tests.googlesql.service import GoogleSql, unavailable_reason
from tests.pipelines import bigquery_data
from tests.pipelines.bigquery_faults import PROJECT, Answering, Killed, Requests, Rest, failed, lost
from tests.pipelines.published import EARLIER, Records, rows_of, stage, write_part
from tests.serving.store_contract import AS_OF
from transforms import schema, storage
from transforms.errors import JobFailed, UsageError

NOW = datetime(2126, 1, 1, tzinfo=UTC)  # whatever the year the tests run in, nothing has expired
TTL = timedelta(days=60)
JOBS = r"/jobs(\?|$)"


@pytest.fixture(scope="module")
def googlesql() -> Iterator[GoogleSql]:
    if reason := unavailable_reason():
        pytest.skip(reason)
    with GoogleSql() as engine:
        yield engine


class Place:
    """A table of predictions that does not exist yet, the store's records, and what analysts find."""

    def __init__(self, dataset: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bq, "_PAUSES_SECONDS", (0.01, 0.01, 0.01))
        self.table = Table.parse("--bigquery_table", f"{dataset}.predictions")
        self.bucket, self.records = bucket, Records()
        self.warehouse = self.another()

    def another(self) -> BigQueryWarehouse:
        return BigQueryWarehouse(self.table, f"gs://{self.bucket}/staging", TTL, clock=lambda: NOW)

    def stage(self, name: str, rows: list[dict[str, Any]]) -> Generation:
        generation = self.records.add(name, len(rows), rows[0]["as_of"])
        stage(self.warehouse, generation, rows)
        return generation

    def publish(self, name: str) -> bool:
        """The generation becomes current and is published."""
        return self.warehouse.publish(self.records.switch(name), self.records)

    def again(self, name: str) -> bool:
        return self.warehouse.publish(self.records[name], self.records)

    def refused_alike(self, name: str, says: str, generation: Generation | None = None) -> None:
        """The check before the switch and the publish after it say the same."""
        with pytest.raises(UsageError, match=says) as early:
            self.warehouse.can_publish(generation or self.records[name])
        with pytest.raises(UsageError) as late:
            self.publish(name)
        assert str(early.value) == str(late.value)
        assert len(str(early.value).splitlines()) == 1

    def rows(self, of: Table | None = None) -> list[dict[str, Any]]:
        """What a table holds, by day and customer."""
        return bigquery_data.query(f"SELECT * FROM {(of or self.table).sql} ORDER BY as_of, customer_id")

    def current(self) -> list[dict[str, Any]]:
        return self.rows(self.warehouse.view)

    def found(self, table: Table) -> google_bigquery.Table:
        return bigquery_data.client().get_table(table.reference)

    def exists(self, table: Table) -> bool:
        try:
            self.found(table)
        except google.api_core.exceptions.NotFound:
            return False
        return True


@pytest.fixture
def place(bigquery: BigQuery, dataset: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(dataset, bucket, monkeypatch)


@pytest.fixture
def rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> Rest:
    return Rest(monkeypatch)


def copies(rest: Rest) -> list[str]:
    return [job_id for job_id in rest.inserted if "-copy-" in job_id]


# --- What is said and asked -------------------------------------------------------------------------------------------


def test_the_statements_are_googlesql(googlesql: GoogleSql) -> None:
    table = Table("my-project", "shop", "predictions")
    rows = [row for as_of in (AS_OF, EARLIER) for row in rows_of(f"g-{as_of}", 3, as_of=as_of)]
    import pyarrow as pa

    content = {str(table): pa.Table.from_pylist(rows, schema.arrow_schema(warehouse.COLUMNS))}
    for as_of in (AS_OF, EARLIER):
        statements = (bigquery_predictions.held_sql(table, as_of), bigquery_predictions.view_sql(table, as_of))
        for sql in statements:
            googlesql.analyze(sql, {name: held.schema for name, held in content.items()})
        held, view = (googlesql.evaluate(sql, content).to_pylist() for sql in statements)
        assert held == [{"generation": f"g-{as_of}", "customers": 3}]
        assert sorted(view, key=lambda row: row["customer_id"]) == rows_of(f"g-{as_of}", 3, as_of=as_of)


@pytest.mark.parametrize("staging", ["", "work/staging", "gs://", "s3://bucket/x"])
def test_staging_elsewhere_is_refused(staging: str) -> None:
    with pytest.raises(UsageError, match=r"--staging .* accepted is a directory in Cloud Storage"):
        BigQueryWarehouse(Table("my-project", "shop", "predictions"), staging)


def test_names() -> None:
    place = BigQueryWarehouse(Table("my-project", "shop", "predictions"), "gs://b/tmp/")
    generation = Records().add("2011-12-10-0a1b2c3d4e5f", 1, attempt=2)
    assert str(place.staged(generation)) == "my-project.shop.predictions_staged_2011_12_10_0a1b2c3d4e5f_2"
    assert place.name == "bigquery://my-project.shop.predictions"
    assert str(place.view) == "my-project.shop.predictions_current"
    assert place.parts("g", 2) == "gs://b/tmp/my-project.shop.predictions/g/attempt-2"


def test_more_parts_than_a_load_takes_are_refused() -> None:
    warehouse = BigQueryWarehouse(Table("my-project", "shop", "predictions"), "gs://b/tmp")
    names = [f"part-{number:05d}.parquet" for number in range(warehouse.MOST_PARTS + 1)]
    with pytest.raises(UsageError, match="10001 parts are too many: accepted are 10000"):
        warehouse.stage(Records().add("g-1", len(names)), names, len(names))


@pytest.mark.emulators
def test_what_does_not_fit_is_refused_before_anything_is_staged(place: Place) -> None:
    place.warehouse.check()
    assert not place.exists(place.table) and not place.exists(place.warehouse.view)

    def refused(other: BigQueryWarehouse) -> str:
        with pytest.raises(UsageError) as raised:
            other.check()
        assert len(str(raised.value).splitlines()) == 1
        return str(raised.value)

    nowhere = Table(place.table.project, "no_such_dataset", "predictions")
    assert "no_such_dataset" in refused(BigQueryWarehouse(nowhere, f"gs://{place.bucket}/x"))
    assert "a bucket that exists" in refused(BigQueryWarehouse(place.table, "gs://no-such-bucket-0a1b/x"))
    view = place.warehouse.view
    for sql in (f"CREATE TABLE {view.sql} AS SELECT 1 AS a", f"CREATE VIEW {view.sql} AS SELECT 1 AS a"):
        bigquery_data.query(sql)
        assert "predictions_current, where the view of the current predictions belongs, is something" in refused(
            place.warehouse
        )
        bigquery_data.client().delete_table(view.reference)
    bigquery_data.query(f"CREATE TABLE {place.table.sql} AS SELECT 1 AS a")
    assert "no daily partitions by as_of" in refused(place.warehouse)


# --- One publish after the other --------------------------------------------------------------------------------------


@pytest.mark.emulators
def test_staged_rows_are_nobody_s_until_they_are_published(place: Place, rest: Rest) -> None:
    rows = rows_of("g-1", 25)
    place.stage("g-1", rows)
    staged = place.warehouse.staged(place.records["g-1"])
    assert place.rows(staged) == rows
    assert not place.exists(place.table) and not place.exists(place.warehouse.view)
    assert place.publish("g-1")
    assert place.rows() == place.current() == rows
    assert (
        len(copies(rest)) == 1 and len(rest.inserted) == 4
    )  # a load, a copy, and the partition asked before and after
    jobs = [bigquery_data.client().get_job(job_id) for job_id in rest.inserted]
    assert {(job.labels["step"], job.location) for job in jobs} == {("publish", "US")}


@pytest.mark.emulators
def test_both_tables_have_the_layout_and_only_the_staged_one_expires(place: Place) -> None:
    place.stage("g-1", rows_of("g-1", 5))
    place.publish("g-1")
    staged = place.found(place.warehouse.staged(place.records["g-1"]))
    assert staged.expires == NOW + TTL
    kept = place.found(place.table)
    assert kept.expires is None
    for found in (staged, kept):
        assert bigquery_tables._differences_of_columns(found, LAYOUT) == []
        assert (found.time_partitioning.type_, found.time_partitioning.field) == ("DAY", "as_of")
        assert found.time_partitioning.expiration_ms is None
        assert found.clustering_fields == ["decile"]
        described = {field.name: (field.field_type, field.description) for field in found.schema}
        old = {"INT64": "INTEGER", "FLOAT64": "FLOAT"}
        assert described == {
            column["name"]: (old.get(column["type"], column["type"]), column["description"])
            for column in schema.bigquery_schema(warehouse.COLUMNS)
        }


@pytest.mark.emulators
def test_an_old_day_stays_in_a_dataset_whose_tables_go(place: Place) -> None:
    client = bigquery_data.client()
    found = client.get_dataset(f"{place.table.project}.{place.table.dataset}")
    found.default_partition_expiration_ms = found.default_table_expiration_ms = 60 * 86_400_000
    client.update_dataset(found, ["default_partition_expiration_ms", "default_table_expiration_ms"])
    place.stage("g-1", rows_of("g-1", 5))
    assert place.publish("g-1")
    for table, expires in ((place.warehouse.staged(place.records["g-1"]), NOW + TTL), (place.table, None)):
        found_table = place.found(table)
        assert (found_table.expires, found_table.time_partitioning.expiration_ms) == (expires, None)


@pytest.mark.emulators
def test_publishing_again_copies_nothing(place: Place, rest: Rest) -> None:
    place.stage("g-1", rows_of("g-1", 5))
    place.publish("g-1")
    view, table = place.found(place.warehouse.view), place.found(place.table)
    before = len(copies(rest))
    for _ in range(2):
        stage(place.warehouse, place.records["g-1"], rows_of("g-1", 5))
        assert place.again("g-1")
    assert len(copies(rest)) == before
    assert place.found(place.warehouse.view).modified == view.modified
    assert place.found(place.table).modified == table.modified


@pytest.mark.emulators
def test_days_follow_one_another_and_a_rollback_shows_the_older_one(place: Place, rest: Rest) -> None:
    old, new = rows_of("g-1", 4, 1.0, EARLIER), rows_of("g-2", 5, 2.0)
    place.stage("g-1", old)
    place.publish("g-1")
    place.stage("g-2", new)
    assert place.current() == place.rows() == old
    place.publish("g-2")
    assert (place.current(), place.rows()) == (new, old + new)
    done = len(copies(rest))
    for name, shown in (("g-1", old), ("g-2", new)):
        assert place.publish(name)
        assert (place.current(), place.rows()) == (shown, old + new)
    assert len(copies(rest)) == done  # each day holds its generation already


@pytest.mark.emulators
def test_generations_of_one_day_replace_one_another_there_and_back(place: Place) -> None:
    first, second = rows_of("g-1", 6, 1.0), rows_of("g-2", 4, 2.0)
    place.stage("g-1", first)
    place.stage("g-2", second)
    for name, shown in (("g-1", first), ("g-2", second), ("g-1", first), ("g-2", second)):
        assert place.publish(name)
        assert place.rows() == place.current() == shown
    assert not place.again("g-1")
    assert place.rows() == place.current() == second


@pytest.mark.emulators
def test_mended_rows_are_added_once_before_and_after_the_switch(place: Place) -> None:
    rows = rows_of("g-1", 9)
    generation = place.stage("g-1", rows[:5])
    directory = place.warehouse.parts("g-1", 1)
    early, late = (
        write_part(directory, name, mended) for name, mended in (("m0.parquet", rows[5:7]), ("m1.parquet", rows[7:]))
    )
    for _ in range(2):
        place.warehouse.append(generation, early, 2)
    place.publish("g-1")
    assert place.rows() == rows[:7]
    for _ in range(2):
        place.warehouse.append(place.records["g-1"], late, 2)
        assert place.again("g-1")
        assert place.rows() == place.current() == rows
    description = {
        field.name: field.description for field in place.found(place.warehouse.staged(place.records["g-1"])).schema
    }
    assert description["generation"].startswith("the published set of predictions")
    with pytest.raises(UsageError, match="was staged with 2 rows, expected are 3"):
        place.warehouse.append(place.records["g-1"], late, 3)


@pytest.mark.emulators
def test_an_attempt_that_was_overtaken_changes_nothing_of_the_next_one_s(place: Place) -> None:
    rows = rows_of("g-1", 4)
    overtaken = place.records.add("g-1", 9)
    place.records.add("g-1", 4, attempt=2)
    stage(place.warehouse, place.records["g-1"], rows)
    stage(place.warehouse, overtaken, rows_of("g-1", 9, 7.0))
    assert place.publish("g-1")
    assert place.rows() == place.current() == rows
    place.warehouse.discard(place.records["g-1"])
    assert not any(map(place.exists, map(place.warehouse.staged, (overtaken, place.records["g-1"]))))
    assert not storage.list_files(f"gs://{place.bucket}/staging")


@pytest.mark.emulators
def test_a_generation_without_rows_is_staged_but_not_published(place: Place) -> None:
    place.warehouse.stage(place.records.add("g-1", 0), [], 0)
    place.refused_alike("g-1", "generation g-1 has no row")
    assert place.rows(place.warehouse.staged(place.records["g-1"])) == []
    part = write_part(place.warehouse.parts("g-1", 1), "mended.parquet", rows_of("g-1", 2))
    place.warehouse.append(place.records["g-1"], part, 2)
    place.records.add("g-1", 2)
    assert place.publish("g-1")
    assert place.rows() == rows_of("g-1", 2)


@pytest.mark.emulators
def test_what_can_be_published_is_known_before_the_switch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = place.stage("g-1", rows_of("g-1", 4)), place.stage("g-2", rows_of("g-2", 5))
    place.warehouse.can_publish(first)
    assert not place.exists(place.table) and not place.exists(place.warehouse.view)
    place.records.add("g-1", 6)
    place.refused_alike("g-1", "holds 4 rows, expected are 6")
    place.records.add("g-1", 4)
    assert place.publish("g-1")
    assert place.publish("g-2")
    for generation in (first, second):
        place.warehouse.discard(generation)
    place.warehouse.can_publish(second)  # the partition holds it
    place.refused_alike("g-1", "nothing staged of generation g-1 any more")
    place.refused_alike("g-3", "nothing staged of generation g-3 any more", place.records.add("g-3", 1, EARLIER))
    assert place.rows() == place.current() == rows_of("g-2", 5)


@pytest.mark.emulators
def test_a_view_of_somebody_else_s_is_refused_before_the_switch(place: Place) -> None:
    generation = place.stage("g-1", rows_of("g-1", 4))
    bigquery_data.query(f"CREATE VIEW {place.warehouse.view.sql} AS SELECT 1 AS a")
    with pytest.raises(UsageError, match="where the view of the current predictions belongs, is something else"):
        place.warehouse.can_publish(generation)


@pytest.mark.emulators
def test_rows_are_counted(place: Place) -> None:
    rows = rows_of("g-1", 4)
    generation = place.records.add("g-1", 4)
    write_part(place.warehouse.parts("g-1", 1), "part-0.parquet", rows)
    with pytest.raises(UsageError, match="g-1 was staged with 4 rows, expected are 5"):
        place.warehouse.stage(generation, ["part-0.parquet"], 5)
    place.records.add("g-1", 6)
    with pytest.raises(UsageError, match="holds 4 rows, expected are 6"):
        place.publish("g-1")


@pytest.mark.emulators
def test_a_load_that_failed_runs_again_when_its_reason_is_mended(place: Place) -> None:
    generation = place.records.add("g-1", 4)
    with pytest.raises(UsageError, match="load clv-publish-stage"):
        place.warehouse.stage(generation, ["part-0.parquet"], 4)
    write_part(place.warehouse.parts("g-1", 1), "part-0.parquet", rows_of("g-1", 4))
    place.warehouse.stage(generation, ["part-0.parquet"], 4)
    assert place.rows(place.warehouse.staged(place.records["g-1"])) == rows_of("g-1", 4)


@pytest.mark.emulators
def test_a_staged_table_that_is_gone_matters_only_where_it_is_needed(place: Place) -> None:
    for name in ("g-1", "g-2"):
        place.stage(name, rows_of(name, 4))
        place.publish(name)
    for _ in range(2):
        place.warehouse.discard(place.records["g-1"])
        place.warehouse.discard(place.records["g-2"])
    assert not place.exists(place.warehouse.staged(place.records["g-1"]))
    assert not storage.list_files(f"gs://{place.bucket}/staging")
    assert place.again("g-2")
    with pytest.raises(UsageError) as raised:
        place.publish("g-1")
    assert "nothing staged of generation g-1 any more (it expires 60 days after its staging)" in str(raised.value)
    assert "predictions made and published anew" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(UsageError, match="nothing staged of generation g-1"):
        place.warehouse.append(place.records["g-1"], "m.parquet", 1)
    assert place.rows() == place.current() == rows_of("g-2", 4)
    stage(place.warehouse, place.records["g-1"], rows_of("g-1", 4))  # in a table made anew nothing has been loaded
    assert place.again("g-1")
    assert place.rows() == place.current() == rows_of("g-1", 4)


# --- A service that is not there --------------------------------------------------------------------------------------

AWAY = Table("away-project", "shop", "predictions")
CALLS: dict[str, Callable[[BigQueryWarehouse, Generation], Any]] = {
    "check": lambda warehouse, _: warehouse.check(),
    "stage": lambda warehouse, generation: warehouse.stage(generation, ["part-0.parquet"], 1),
    "append": lambda warehouse, generation: warehouse.append(generation, "mended.parquet", 1),
    "can_publish": lambda warehouse, generation: warehouse.can_publish(generation),
    "publish": lambda warehouse, generation: warehouse.publish(generation, lambda: [generation]),
    "discard": lambda warehouse, generation: warehouse.discard(generation),
}


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """BigQuery and Cloud Storage that answer everything with a status; a retry gives up almost at once."""
    with Answering() as service:
        for name in ("BIGQUERY_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"):
            monkeypatch.setenv(name, service.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setattr(DEFAULT_RETRY, "_timeout", 0.1)
        bq.client.cache_clear()
        yield service
    bq.client.cache_clear()


@pytest.mark.parametrize("call", CALLS)
def test_a_service_that_fails_for_the_time_being_is_one_line(away: Answering, call: str) -> None:
    away.status = 503
    generation = Records().add("g-1", 1)
    with pytest.raises(JobFailed) as raised:
        CALLS[call](BigQueryWarehouse(AWAY, "gs://bucket/staging"), generation)
    said = str(raised.value)
    assert said.startswith("--bigquery_table away-project.shop.predictions: BigQuery did not do as asked: ")
    assert "out to lunch" in said and said.endswith("; running the command again goes on")
    assert len(said.splitlines()) == 1 and raised.value.exit_code == 1


def test_a_service_that_cannot_be_reached_is_one_line(away: Answering) -> None:
    warehouse = BigQueryWarehouse(AWAY, "gs://bucket/staging")
    away.close()
    with pytest.raises(
        JobFailed, match=r"BigQuery did not do as asked: .*refused.*; running the command again goes on"
    ):
        warehouse.check()


def test_what_is_refused_for_good_stays_a_usage_error(away: Answering) -> None:
    away.status = 403
    with pytest.raises(UsageError, match="out to lunch"):
        BigQueryWarehouse(AWAY, "gs://bucket/staging").check()


def test_a_bucket_that_may_not_be_read_names_its_argument(away: Answering) -> None:
    away.status = 403
    warehouse = BigQueryWarehouse(AWAY, "gs://bucket/staging")
    none_begun = Records().add("g-1", 1, attempt=0)  # no table to ask for first
    for call in (warehouse._require_bucket, lambda: warehouse.discard(none_begun)):
        with pytest.raises(
            UsageError, match=r"^--staging 'gs://bucket/staging' is not usable: .*out to lunch"
        ) as raised:
            call()
        assert len(str(raised.value).splitlines()) == 1


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.emulators
@pytest.mark.parametrize("job", ["-stage-", "-copy-", "-held-"])
def test_a_lost_answer_starts_no_second_job(place: Place, rest: Rest, job: str) -> None:
    rows = rows_of("g-1", 5)
    rest.tamper(job, lost)
    place.stage("g-1", rows)
    assert place.publish("g-1")
    assert place.rows() == place.current() == rows
    tampered = [job_id for job_id in rest.inserted if job in job_id]
    assert len(tampered) == len(set(tampered)) + 1


@pytest.mark.emulators
@pytest.mark.parametrize("job", ["-stage-", "-copy-"])
def test_a_job_that_failed_for_a_while_runs_again(place: Place, rest: Rest, job: str) -> None:
    rows = rows_of("g-1", 5)
    rest.tamper(job, failed("backendError", "Error encountered during execution."), 2)
    place.stage("g-1", rows)
    assert place.publish("g-1")
    assert place.rows() == place.current() == rows


@pytest.mark.emulators
def test_killed_between_any_two_requests_and_run_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round a new generation of one of two days, killed a request later than the one before, until one gets through."""
    held = {AS_OF: rows_of("g-first", 3)}
    place.stage("g-first", held[AS_OF])
    place.publish("g-first")
    shown, made = held[AS_OF], Requests(monkeypatch)
    for number in range(15):
        name, as_of = f"g-{number}", (EARLIER, AS_OF)[number % 2]
        rows = rows_of(name, 4, float(number), as_of)
        generation = place.records.add(name, len(rows), as_of)
        made.kill(number)
        try:
            stage(place.warehouse, generation, rows)
            place.publish(name)
        except Killed:
            assert place.current() in (shown, rows)
            stage(place.another(), generation, rows)
            if place.records[name].published_at is None:
                place.records.switch(name)
            assert place.another().publish(place.records[name], place.records)
        made.leave()
        shown = held[as_of] = rows
        assert place.current() == rows
        assert place.rows() == [row for day in sorted(held) for row in held[day]]
        if not made.reached:
            break
        place.records.keep(name)
    assert not made.reached and number >= 5  # a table, its load, a question, a copy, a question


# --- Two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.emulators
def test_a_slow_publish_does_not_undo_a_later_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of the slow one's requests in turn, the fast one becomes current and is published whole."""
    rows = {name: rows_of(name, 4, value) for name, value in (("slow", 1.0), ("fast", 2.0))}
    for name in rows:
        place.stage(name, rows[name])
    made = Requests(monkeypatch)
    for number in range(30):
        place.records.switch("slow")
        made.meanwhile(number, lambda: place.publish("fast"))
        last = place.another().publish(place.records["slow"], place.records)
        made.leave()
        if not made.reached:
            assert last and place.current() == rows["slow"]
            break
        assert place.rows() == place.current() == rows["fast"]
    assert not made.reached and number >= 4


@pytest.mark.emulators
def test_one_killed_on_the_way_to_its_copy_cannot_undo_a_later_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is on its way: it arrives when the later publish is over, and nobody is there any more to look."""
    rows = {name: rows_of(name, 4, value) for name, value in (("slow", 1.0), ("fast", 2.0))}
    for name in rows:
        place.stage(name, rows[name])
    sent: list[Callable[[], requests.Response]] = []
    made = Requests(monkeypatch)
    made.hold("-copy-", sent)
    place.records.switch("slow")
    with pytest.raises(Killed):
        place.again("slow")
    assert place.publish("fast")
    (late,) = sent
    answer = late()
    assert answer.status_code == 409  # its id is taken
    assert place.rows() == place.current() == rows["fast"]


@pytest.mark.emulators
def test_many_at_once_end_with_the_last_one_s_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four publishers of two days; the store's order decides, not that of their jobs."""
    session, lock = bq.client(PROJECT)._http, threading.Lock()
    request = session.request

    def one_by_one(*arguments: Any, **named: Any) -> requests.Response:
        with lock:  # the emulator fails what two change at once
            return request(*arguments, **named)

    monkeypatch.setattr(session, "request", one_by_one)
    days = {"g-0": AS_OF, "g-1": EARLIER, "g-2": AS_OF, "g-3": AS_OF}
    rows = {name: rows_of(name, 4, float(i), as_of) for i, (name, as_of) in enumerate(days.items())}
    for name in rows:
        place.stage(name, rows[name])
    barrier = threading.Barrier(len(rows))
    problems: list[BaseException] = []

    def one(name: str) -> None:
        try:
            barrier.wait(30)
            place.another().publish(place.records.switch(name), place.records)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not problems
    last = {as_of: warehouse.became_current(place.records(), as_of)[0].name for as_of in (EARLIER, AS_OF)}
    assert place.rows() == rows[last[EARLIER]] + rows[last[AS_OF]]
    assert place.current() == rows[warehouse.became_current(place.records())[0].name]


@pytest.mark.emulators
def test_a_view_is_left_to_the_day_that_became_current_meanwhile(place: Place) -> None:
    old, new = rows_of("g-1", 4, 1.0, EARLIER), rows_of("g-2", 5, 2.0)
    place.stage("g-1", old)
    place.stage("g-2", new)
    place.records.switch("g-1")
    asked = 0

    def generations() -> Sequence[Generation]:
        """Once the view has been read, and the store was asked, another day becomes current and is published."""
        nonlocal asked
        asked += 1
        found = place.records()
        if asked == 3:
            assert place.publish("g-2")
        return found

    assert place.warehouse.publish(place.records["g-1"], generations)
    assert asked == 4  # the partition before and after its copy, then the view, twice
    assert (place.current(), place.rows()) == (new, old + new)


# --- Copies and their ids ---------------------------------------------------------------------------------------------


@pytest.mark.emulators
def test_a_copy_runs_once_or_is_closed(place: Place, rest: Rest) -> None:
    rows = rows_of("g-1", 4)
    place.stage("g-1", rows)
    bigquery_tables.ensure(PROJECT, place.table, LAYOUT, "--bigquery_table")
    made, closed = (
        Copy(
            f"{name}-{place.bucket}",
            PROJECT,
            place.warehouse.staged(place.records["g-1"]),
            place.table.beside(f"_{name}"),
            "US",
        )
        for name in ("made", "closed")
    )
    for copy in (made, closed):
        bigquery_tables.ensure(PROJECT, copy.destination, LAYOUT, "--bigquery_table")
    assert [bq.run_copy(made), bq.run_copy(made), bq.close(made)] == [True, True, False]
    assert place.rows(made.destination) == rows
    assert [bq.close(closed), bq.close(closed), bq.run_copy(closed)] == [True, True, False]
    assert place.rows(closed.destination) == []
    jobs = {job.job_id for job in bigquery_data.client().list_jobs() if place.bucket in job.job_id}
    assert jobs == {made.job_id(0), closed.job_id(0)}


@pytest.mark.emulators
def test_a_copy_is_closed_behind_its_attempts_that_failed(place: Place, rest: Rest) -> None:
    source, destination = place.table.beside("_source"), place.table.beside("_destination")
    copy = Copy(f"fails-{place.bucket}", PROJECT, source, destination, "US")
    with pytest.raises(UsageError, match=re.escape("_source")):
        bq.run_copy(copy)
    for table in (source, destination):
        bigquery_tables.ensure(PROJECT, table, LAYOUT, "--bigquery_table")
    assert bq.close(copy)
    assert not bq.run_copy(copy)
