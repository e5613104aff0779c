"""The emulators do what the tests elsewhere rely on, and what BigQuery, Cloud Storage and Datastore do."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as google_bigquery
from google.cloud import bigquery_storage, datastore, storage
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from tests import engine_runs, order_strategies
from tests.emulators import services
from tests.order_strategies import CUTOFF, HORIZON_DAYS
from tests.templates import gcloud
from transforms import storage as our_storage
from transforms.customer_features import Snapshot

pytestmark = pytest.mark.emulators

BIGQUERY_TYPES = {
    pa.string(): "STRING",
    pa.int64(): "INT64",
    pa.float64(): "FLOAT64",
    pa.date32(): "DATE",
    pa.decimal128(38, 9): "NUMERIC",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
}
AS_OF = datetime.date(2024, 1, 2)


@pytest.fixture
def client(bigquery: services.BigQuery) -> Iterator[google_bigquery.Client]:
    with google_bigquery.Client(services.PROJECT, AnonymousCredentials()) as client:
        yield client


def _schema(table: pa.Table) -> list[google_bigquery.SchemaField]:
    return [google_bigquery.SchemaField(field.name, BIGQUERY_TYPES[field.type]) for field in table.schema]


def _load(client: google_bigquery.Client, table: pa.Table, name: str) -> None:
    content = io.BytesIO()
    pq.write_table(table, content)
    config = google_bigquery.LoadJobConfig(
        source_format="PARQUET", schema=_schema(table), write_disposition="WRITE_TRUNCATE"
    )
    client.load_table_from_file(content, name, rewind=True, job_config=config).result()


def _query(client: google_bigquery.Client, sql: str, **config: object) -> list[tuple]:
    job = client.query(sql, job_config=google_bigquery.QueryJobConfig(**config))
    return [tuple(row.values()) for row in job.result()]


def _read(name: str, streams: int = 1, at: datetime.datetime | None = None, **options: object) -> list[pa.Table]:
    """The table's rows through the Storage API, a table for each stream of the session."""
    project, dataset, table = name.split(".")
    channel = grpc.insecure_channel(
        os.environ["BIGQUERY_STORAGE_EMULATOR_HOST"], options=[("grpc.max_receive_message_length", -1)]
    )
    with channel, bigquery_storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel)) as reader:
        session = reader.create_read_session(
            parent=f"projects/{project}",
            read_session={
                "table": f"projects/{project}/datasets/{dataset}/tables/{table}",
                "data_format": "ARROW",
                "read_options": options,
                "table_modifiers": {"snapshot_time": at},
            },
            max_stream_count=streams,
        )
        schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
        return [pa.Table.from_batches(_batches(reader, stream.name, schema), schema) for stream in session.streams]


def _batches(reader: bigquery_storage.BigQueryReadClient, stream: str, schema: pa.Schema) -> list[pa.RecordBatch]:
    pages = [response.arrow_record_batch.serialized_record_batch for response in reader.read_rows(stream)]
    return [pa.ipc.read_record_batch(pa.py_buffer(page), schema) for page in pages]


def _rows(client: google_bigquery.Client, name: str) -> list[tuple]:
    return _query(client, f"SELECT * FROM `{name}` ORDER BY 1, 2")


def _every_type() -> pa.Table:
    instant = datetime.datetime(2011, 8, 8, 23, 59, 59, 999999, datetime.UTC)
    return pa.table(
        {
            "text": pa.array(["ä \n'\"\\", "", None]),
            "whole": pa.array([-(2**63), 2**63 - 1, None]),
            "real": pa.array([0.1, -1e300, None]),
            "day": pa.array([datetime.date(1900, 1, 1), datetime.date(2199, 12, 31), None]),
            "money": pa.array([decimal.Decimal("-0.123456789"), decimal.Decimal(10**15), None], pa.decimal128(38, 9)),
            "instant": pa.array([instant, instant.replace(year=1900), None], pa.timestamp("us", "UTC")),
        }
    )


class TestCloudStorage:
    def test_round_trip_with_google_s_client_and_with_ours(self, bucket: str) -> None:
        content = bytes(range(256)) * 5000
        uri = f"gs://{bucket}/a folder/é/object.bin"
        with storage.Client(services.PROJECT, AnonymousCredentials()) as client:
            our_storage.write_bytes(uri, content)
            blob = client.bucket(bucket).blob("a folder/é/object.bin")
            assert blob.download_as_bytes() == content
            blob.upload_from_string(content[::-1])
            assert our_storage.read_bytes(uri) == content[::-1]
            assert our_storage.list_files(f"gs://{bucket}") == [f"{bucket}/a folder/é/object.bin"]
            blob.delete()
        assert not our_storage.exists(uri)

    def test_a_finished_directory_is_recognised(self, bucket: str) -> None:
        directory = f"gs://{bucket}/features"
        assert our_storage.begin(directory, "features", {"cutoff": "2011-08-08"}) is None
        part = our_storage.write_parquet(_every_type(), our_storage.join(directory, "raw/part-0.parquet"))
        manifest = our_storage.finish(directory, "features", {"cutoff": "2011-08-08"}, {"parts": [part]})
        assert our_storage.begin(directory, "features", {"cutoff": "2011-08-08"}) == manifest
        (path,) = our_storage.list_parts(our_storage.join(directory, "raw"), manifest)
        assert our_storage.read_parquet(f"gs://{path}").equals(_every_type())

    def test_gcloud_writes_a_template_s_file(
        self, cloud_storage: services.CloudStorage, bucket: str, tmp_path: Path
    ) -> None:
        """Its uploads have a boundary between single quotes."""
        metadata = tmp_path / "metadata.json"
        parameter = {"name": "orders", "label": "Orders", "helpText": "é 'quoted'\r\n--=\r\n", "regexes": ["[^;]+"]}
        metadata.write_text(json.dumps({"name": "t", "description": "d", "parameters": [parameter]}))
        template = f"gs://{bucket}/templates/a template.json"
        command = ["dataflow", "flex-template", "build", template, "--image", "host/project/image:1"]
        command += ["--sdk-language", "PYTHON", "--metadata-file", str(metadata)]
        environment = gcloud.environment(tmp_path / "gcloud", cloud_storage.url)
        done = gcloud.run(command, environment)
        assert done.returncode == 0, done.stderr
        spec = json.loads(our_storage.read_bytes(template))
        printed = gcloud.run([*command, "--print-only", "--format=json"], environment).stdout
        assert spec == json.loads(json.loads(printed))
        assert spec["metadata"]["parameters"] == [parameter] and spec["image"] == "host/project/image:1"
        with storage.Client(services.PROJECT, AnonymousCredentials()) as client:
            blob = client.bucket(bucket).get_blob("templates/a template.json")
            assert blob is not None and blob.content_type == "application/json"


class TestBigQuery:
    def test_a_load_from_the_bucket_keeps_every_type_exactly(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        table = _every_type()
        uris = [f"gs://{bucket}/part-{i}.parquet" for i in range(2)]
        our_storage.write_parquet(table.slice(0, 1), uris[0])
        our_storage.write_parquet(table.slice(1), uris[1])
        config = google_bigquery.LoadJobConfig(source_format="PARQUET", schema=_schema(table))
        job = client.load_table_from_uri(uris, f"{dataset}.t", job_config=config).result()
        assert (job.output_rows, job.input_files) == (3, 2)
        (read,) = _read(f"{dataset}.t")
        assert read.sort_by("whole").equals(table.sort_by("whole"))

    def test_our_statements_mean_what_they_mean_on_duckdb(self, client: google_bigquery.Client, dataset: str) -> None:
        lines = order_strategies.awkward_orders()
        raw = order_strategies.to_table(lines)
        _load(client, raw, f"{dataset}.raw")
        _query(
            client,
            engine_runs.clean_sql(raw.schema, "bigquery"),
            default_dataset=dataset,
            destination=f"{dataset}.lines",
        )
        (cleaned,) = _read(f"{dataset}.lines")
        expected = engine_runs.cleaned(lines)
        assert cleaned.schema.equals(expected.schema)
        assert sorted(map(repr, cleaned.to_pylist())) == sorted(map(repr, expected.to_pylist()))

        _load(client, engine_runs.usable(cleaned), f"{dataset}.orders")
        snapshot = Snapshot(CUTOFF, HORIZON_DAYS)
        features = f"{dataset}.features"
        _query(client, engine_runs.features_sql(snapshot, "bigquery"), default_dataset=dataset, destination=features)
        (customers,) = _read(features)
        assert customers.sort_by("customer_id").equals(engine_runs.features(lines, snapshot).sort_by("customer_id"))

    @pytest.mark.parametrize(
        ("left", "right", "product"),
        [
            ("9999999999.999999999", "9999999999.999999999", "99999999999999999980.000000000"),
            ("0.000000001", "0.5", "0E-9"),  # ties to even: down
            ("0.000000003", "0.5", "2E-9"),  # and up
            ("-123.456789012", "7.000000001", "-864.197523207"),
        ],
    )
    def test_products_of_money_are_exact(
        self, client: google_bigquery.Client, left: str, right: str, product: str
    ) -> None:
        sql = "SELECT CAST(ROUND(CAST(@l AS BIGNUMERIC) * CAST(@r AS BIGNUMERIC), 9, 'ROUND_HALF_EVEN') AS NUMERIC)"
        parameters = [
            google_bigquery.ScalarQueryParameter(name, "NUMERIC", decimal.Decimal(value))
            for name, value in (("l", left), ("r", right))
        ]
        assert _query(client, sql, query_parameters=parameters) == [(decimal.Decimal(product),)]

    def test_several_streams_give_each_row_once(self, client: google_bigquery.Client, dataset: str) -> None:
        numbers = pa.table({"n": pa.array(range(250_000)), "word": pa.array([f"w{i % 7}" for i in range(250_000)])})
        _load(client, numbers, f"{dataset}.numbers")
        streams = _read(f"{dataset}.numbers", 3, selected_fields=["n"], row_restriction="word = 'w3' OR n < 7")
        assert len(streams) == 1, "a stream is for 100,000 rows"
        assert sorted(streams[0]["n"].to_pylist()) == [i for i in range(250_000) if i % 7 == 3 or i < 7]
        streams = _read(f"{dataset}.numbers", 3)
        assert len(streams) == 3 and all(stream.num_rows for stream in streams)
        assert pa.concat_tables(streams).sort_by("n").equals(numbers)

    def test_time_travel(self, client: google_bigquery.Client, dataset: str) -> None:
        name = f"{dataset}.t"
        _load(client, pa.table({"n": [1, 2]}), name)
        time.sleep(0.05)
        before = datetime.datetime.now(datetime.UTC)
        time.sleep(0.05)
        _load(client, pa.table({"n": [3]}), name)
        at = f"FOR SYSTEM_TIME AS OF TIMESTAMP '{before.isoformat()}'"
        assert _query(client, f"SELECT n FROM `{name}` {at} ORDER BY n") == [(1,), (2,)]
        assert _query(client, f"SELECT n FROM `{name}`") == [(3,)]
        assert sorted(_read(name, at=before)[0]["n"].to_pylist()) == [1, 2]
        assert _read(name, at=before, row_restriction="n > 1")[0]["n"].to_pylist() == [2]
        assert _read(name)[0]["n"].to_pylist() == [3]

    def test_a_job_id_runs_once(self, client: google_bigquery.Client, dataset: str) -> None:
        job_id = f"clv-{dataset.replace('.', '-')}"
        config = google_bigquery.QueryJobConfig(labels={"step": "features"}, destination=f"{dataset}.t")
        client.query("SELECT 1 AS n", job_id=job_id, job_config=config).result()
        with pytest.raises(exceptions.Conflict):
            client.query("SELECT 2 AS n", job_id=job_id, job_config=config)
        assert client.get_job(job_id).labels == {"step": "features"}
        assert _query(client, f"SELECT * FROM `{dataset}.t`") == [(1,)]


class TestPartitions:
    """``table$YYYYMMDD`` is one day of the table: what local-bigquery is taught in bigquery_partitions."""

    @pytest.fixture
    def table(self, client: google_bigquery.Client, dataset: str) -> str:
        fields = [google_bigquery.SchemaField("as_of", "DATE"), google_bigquery.SchemaField("id", "STRING")]
        table = google_bigquery.Table(f"{dataset}.predictions", fields)
        table.time_partitioning = google_bigquery.TimePartitioning(field="as_of")
        client.create_table(table)
        _query(client, f"INSERT `{dataset}.predictions` VALUES ('2024-01-01', 'a'), ('2024-01-02', 'b'), (NULL, 'n')")
        return f"{dataset}.predictions"

    def _write(self, client: google_bigquery.Client, destination: str, disposition: str, day: datetime.date) -> list:
        config = google_bigquery.QueryJobConfig(
            destination=destination,
            write_disposition=disposition,
            query_parameters=[google_bigquery.ScalarQueryParameter("day", "DATE", day)],
        )
        return [
            tuple(row.values()) for row in client.query("SELECT @day AS as_of, 'c' AS id", job_config=config).result()
        ]

    @pytest.mark.parametrize(("disposition", "then"), [("WRITE_TRUNCATE", ["c"]), ("WRITE_APPEND", ["b", "c"])])
    def test_a_query_writes_its_day_alone(
        self, client: google_bigquery.Client, table: str, disposition: str, then: list[str]
    ) -> None:
        assert self._write(client, f"{table}$20240102", disposition, AS_OF) == [(AS_OF, id_) for id_ in then]
        days = [(None, "n"), (datetime.date(2024, 1, 1), "a"), *((AS_OF, id_) for id_ in then)]
        assert _rows(client, table) == days
        assert client.get_table(f"{table}$20240102").num_rows == len(then)
        assert client.get_table(table).num_rows == len(days)
        assert [item.table_id for item in client.list_tables(table.rpartition(".")[0])] == ["predictions"]

    @pytest.mark.parametrize(
        ("disposition", "day", "error"),
        [
            ("WRITE_EMPTY", AS_OF, exceptions.Conflict),
            ("WRITE_TRUNCATE", datetime.date(2024, 1, 3), exceptions.BadRequest),
        ],
        ids=["not empty", "another day"],
    )
    def test_what_is_refused_changes_nothing(
        self, client: google_bigquery.Client, table: str, disposition: str, day: datetime.date, error: type[Exception]
    ) -> None:
        before = _rows(client, table)
        with pytest.raises(error):
            self._write(client, f"{table}$20240102", disposition, day)
        assert _rows(client, table) == before

    def test_a_table_is_copied_over_a_day_and_a_day_out_of_it(
        self, client: google_bigquery.Client, table: str, dataset: str
    ) -> None:
        _query(
            client,
            f"CREATE TABLE `{dataset}.staged` AS SELECT DATE '2024-01-02' AS as_of, x AS id FROM UNNEST(['d', 'e']) x",
        )
        truncate = google_bigquery.CopyJobConfig(write_disposition="WRITE_TRUNCATE")
        for _ in range(2):  # as often as one likes
            client.copy_table(f"{dataset}.staged", f"{table}$20240102", job_config=truncate).result()
        assert _rows(client, table) == [(None, "n"), (datetime.date(2024, 1, 1), "a"), (AS_OF, "d"), (AS_OF, "e")]
        client.copy_table(f"{table}$20240101", f"{dataset}.kept").result()
        assert _rows(client, f"{dataset}.kept") == [(datetime.date(2024, 1, 1), "a")]
        _query(client, f"CREATE TABLE `{dataset}.other` AS SELECT DATE '2024-01-02' AS as_of, 1 AS id")
        with pytest.raises(exceptions.BadRequest, match="field id of type INTEGER is not in the table"):
            client.copy_table(f"{dataset}.other", f"{table}$20240102", job_config=truncate).result()

    def test_a_day_is_loaded_and_deleted(self, client: google_bigquery.Client, table: str) -> None:
        _load(client, pa.table({"as_of": [AS_OF], "id": ["x"]}), f"{table}$20240102")
        client.delete_table(f"{table}$20240101")
        assert _rows(client, table) == [(None, "n"), (AS_OF, "x")]

    def test_a_table_without_partitions_has_none(self, client: google_bigquery.Client, dataset: str) -> None:
        _query(client, f"CREATE TABLE `{dataset}.plain` AS SELECT DATE '2024-01-02' AS as_of, 'a' AS id")
        for name in ("plain$20240102", "plain$20241332"):
            with pytest.raises(exceptions.BadRequest):
                self._write(client, f"{dataset}.{name}", "WRITE_TRUNCATE", AS_OF)
        with pytest.raises(exceptions.NotFound):
            self._write(client, f"{dataset}.absent$20240102", "WRITE_TRUNCATE", AS_OF)


class TestPublishing:
    """The jobs of a publish: load into a staged table, copy its day, point a view at it, delete what is old."""

    DESCRIPTIONS = {"customer_id": "Whose", "as_of": "Day", "decile": 'A "tenth", é', "predicted_value": "Mean"}
    TYPES = {"customer_id": "STRING", "as_of": "DATE", "decile": "INTEGER", "predicted_value": "FLOAT"}

    def _schema(self, mode: str = "NULLABLE", **changes: str) -> list[google_bigquery.SchemaField]:
        texts = self.DESCRIPTIONS | changes
        return [
            google_bigquery.SchemaField(name, kind, mode, description=texts[name]) for name, kind in self.TYPES.items()
        ]

    def _table(self, name: str, mode: str = "NULLABLE") -> google_bigquery.Table:
        table = google_bigquery.Table(name, self._schema(mode))
        table.time_partitioning = google_bigquery.TimePartitioning("DAY", field="as_of")
        table.clustering_fields = ["decile"]
        return table

    def _parts(self, bucket: str, parts: int = 3, value: float = 1.0) -> list[str]:
        """The URIs of Parquet files of 1,000 rows each."""
        uris = [f"gs://{bucket}/predictions/{value}/part {number}.parquet" for number in range(parts)]
        for number, uri in enumerate(uris):
            rows = {
                "customer_id": [f"c{number}-{i}" for i in range(1000)],
                "as_of": [AS_OF] * 1000,
                "decile": [i % 10 + 1 for i in range(1000)],
                "predicted_value": [value] * 1000,
            }
            our_storage.write_parquet(pa.table(rows), uri)
        return uris

    def _load_parts(
        self, client: google_bigquery.Client, uris: list[str], name: str, job_id: str, **changes: str
    ) -> google_bigquery.LoadJob:
        config = google_bigquery.LoadJobConfig(
            source_format="PARQUET",
            schema=self._schema(**changes),
            time_partitioning=google_bigquery.TimePartitioning("DAY", field="as_of"),
            clustering_fields=["decile"],
            write_disposition="WRITE_TRUNCATE",
            labels={"step": "publish"},
        )
        return client.load_table_from_uri(uris, name, job_id=job_id, job_config=config).result()

    def _copy(self, client: google_bigquery.Client, source: str, target: str, **options: str) -> object:
        config = google_bigquery.CopyJobConfig(write_disposition="WRITE_TRUNCATE")
        return client.copy_table(source, target, job_config=config, **options).result()

    @pytest.mark.parametrize("day", ["", "$20240102"], ids=["table", "partition"])
    def test_one_job_loads_several_files_into_a_table_with_all_it_is_told(
        self, client: google_bigquery.Client, bucket: str, dataset: str, day: str
    ) -> None:
        uris = self._parts(bucket)
        job = self._load_parts(client, uris, f"{dataset}.staged{day}", f"load-{bucket}")
        assert (job.output_rows, job.source_uris) == (3000, uris)
        table = client.get_table(f"{dataset}.staged")
        assert table.num_rows == 3000
        assert {field.name: field.description for field in table.schema} == self.DESCRIPTIONS
        assert {field.name: field.field_type for field in table.schema} == self.TYPES
        assert table.time_partitioning == google_bigquery.TimePartitioning("DAY", field="as_of")
        assert table.clustering_fields == ["decile"]
        assert [item.table_id for item in client.list_tables(dataset)] == ["staged"]
        assert _query(client, f"SELECT COUNT(DISTINCT customer_id), SUM(decile) FROM `{dataset}.staged`") == [
            (3000, 16500)
        ]

    def test_a_load_s_id_runs_once_and_its_job_is_found(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        uris = self._parts(bucket, 1)
        self._load_parts(client, uris, f"{dataset}.staged", f"load-{bucket}")
        with pytest.raises(exceptions.Conflict, match="Already Exists"):
            self._load_parts(client, uris, f"{dataset}.staged", f"load-{bucket}")
        job = client.get_job(f"load-{bucket}")
        assert (job.state, job.output_rows, job.labels) == ("DONE", 1000, {"step": "publish"})
        # Those that failed as well.
        with pytest.raises(exceptions.GoogleAPICallError):
            self._load_parts(client, [f"gs://{bucket}/none.parquet"], f"{dataset}.other", f"failed-{bucket}")
        with pytest.raises(exceptions.Conflict):
            self._load_parts(client, uris, f"{dataset}.other", f"failed-{bucket}")
        assert client.get_job(f"failed-{bucket}").error_result
        with pytest.raises(exceptions.NotFound):
            client.get_table(f"{dataset}.other")

    def test_a_second_load_replaces_rows_and_descriptions_and_keeps_expiry_and_labels(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        expires = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=7)
        table = self._table(f"{dataset}.staged")
        table.expires, table.labels, table.description = expires, {"generation": "g1"}, "Staged"
        client.create_table(table)
        for value in (1.0, 2.0):
            uris = self._parts(bucket, 2, value)
            self._load_parts(client, uris, f"{dataset}.staged", f"load-{bucket}-{int(value)}", decile=f"Tenth {value}")
        table = client.get_table(f"{dataset}.staged")
        assert (table.expires, table.labels, table.description) == (expires, {"generation": "g1"}, "Staged")
        assert {field.name: field.description for field in table.schema} == self.DESCRIPTIONS | {"decile": "Tenth 2.0"}
        assert _query(client, f"SELECT SUM(predicted_value) FROM `{dataset}.staged`") == [(4000.0,)]

    def test_a_table_expires(self, client: google_bigquery.Client, dataset: str) -> None:
        table = self._table(f"{dataset}.staged")
        table.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        client.create_table(table)
        assert client.get_table(table).table_id == "staged"
        time.sleep(1.1)
        with pytest.raises(exceptions.NotFound):
            client.get_table(table)

    def test_a_day_is_copied_over_another_table_s_and_readers_see_the_old_or_the_new(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        for name, value in (("one", 1.0), ("two", 2.0)):
            self._load_parts(client, self._parts(bucket, 2, value), f"{dataset}.{name}", f"load-{name}-{bucket}")
        client.create_table(self._table(f"{dataset}.predictions"))
        _query(client, f"INSERT `{dataset}.predictions` VALUES ('before', '2024-01-01', 1, 0.5)")
        self._copy(client, f"{dataset}.one$20240102", f"{dataset}.predictions$20240102")
        seen = set()
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                sql = f"SELECT COUNT(*), SUM(predicted_value) FROM `{dataset}.predictions`"
                seen.update(_query(client, sql))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for name in ("two", "one") * 4:
            self._copy(client, f"{dataset}.{name}$20240102", f"{dataset}.predictions$20240102")
        over.set()
        for reader in readers:
            reader.join()
        assert seen == {(2001, 2000.5), (2001, 4000.5)}
        assert client.get_table(f"{dataset}.predictions$20240102").num_rows == 2000
        table = client.get_table(f"{dataset}.predictions")
        assert {field.name: field.description for field in table.schema} == self.DESCRIPTIONS
        assert table.clustering_fields == ["decile"]

    def test_a_copy_s_id_runs_once_and_what_it_needs_must_exist(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        self._load_parts(client, self._parts(bucket, 1), f"{dataset}.staged", f"load-{bucket}")
        staged, target = f"{dataset}.staged$20240102", f"{dataset}.predictions$20240102"
        with pytest.raises(exceptions.NotFound, match="predictions"):
            self._copy(client, staged, target, job_id=f"early-{bucket}")
        client.create_table(self._table(f"{dataset}.predictions"))
        for _ in range(2):
            with pytest.raises(exceptions.NotFound, match="absent"):
                self._copy(client, f"{dataset}.absent$20240102", target)
        self._copy(client, staged, target, job_id=f"copy-{bucket}")
        with pytest.raises(exceptions.Conflict):
            self._copy(client, staged, target, job_id=f"copy-{bucket}")
        job = client.get_job(f"copy-{bucket}")
        assert (job.job_type, job.state, job.error_result) == ("copy", "DONE", None)
        assert (job.sources[0].table_id, job.destination.table_id) == ("staged$20240102", "predictions$20240102")

    def test_what_may_be_null_is_not_copied_over_what_may_not(
        self, client: google_bigquery.Client, bucket: str, dataset: str
    ) -> None:
        self._load_parts(client, self._parts(bucket, 1), f"{dataset}.staged", f"load-{bucket}")
        client.create_table(self._table(f"{dataset}.strict", "REQUIRED"))
        with pytest.raises(exceptions.BadRequest, match="changed mode from REQUIRED to NULLABLE"):
            self._copy(client, f"{dataset}.staged$20240102", f"{dataset}.strict$20240102")
        assert client.get_table(f"{dataset}.strict").num_rows == 0

    def test_a_view_is_created_updated_and_queried(self, client: google_bigquery.Client, dataset: str) -> None:
        client.create_table(self._table(f"{dataset}.predictions"))
        _query(
            client, f"INSERT `{dataset}.predictions` VALUES ('a', '2024-01-01', 1, 0.5), ('b', '2024-01-02', 1, 0.5)"
        )
        view = google_bigquery.Table(f"{dataset}.predictions_current")
        view.description = "The day that is served"
        for day, action in (("2024-01-01", "create"), ("2024-01-02", "update")):
            view.view_query = f"SELECT * FROM `{dataset}.predictions` WHERE as_of = DATE '{day}'"
            client.create_table(view) if action == "create" else client.update_table(view, ["view_query"])
            expected = "a" if action == "create" else "b"
            assert _query(client, f"SELECT customer_id FROM `{dataset}.predictions_current`") == [(expected,)]
        found = client.get_table(view)
        assert (found.table_type, found.view_query, found.description) == ("VIEW", view.view_query, view.description)
        with pytest.raises(exceptions.Conflict):
            client.create_table(view)

    def test_a_change_of_what_another_changed_is_refused(self, client: google_bigquery.Client, dataset: str) -> None:
        client.create_table(self._table(f"{dataset}.predictions"))
        mine, theirs = (client.get_table(f"{dataset}.predictions") for _ in range(2))
        theirs.labels, mine.labels = {"generation": "theirs"}, {"generation": "mine"}
        client.update_table(theirs, ["labels"])
        with pytest.raises(exceptions.PreconditionFailed):
            client.update_table(mine, ["labels"])
        assert client.get_table(f"{dataset}.predictions").labels == {"generation": "theirs"}

    def test_tables_are_deleted(self, client: google_bigquery.Client, dataset: str) -> None:
        name = f"{dataset}.staged"
        client.create_table(self._table(name))
        client.delete_table(name)
        with pytest.raises(exceptions.NotFound):
            client.delete_table(name)
        client.delete_table(name, not_found_ok=True)
        assert list(client.list_tables(dataset)) == []
        client.create_table(self._table(name))  # its name is free again


class TestDatastore:
    def _client(self, uri: str, **options: str) -> datastore.Client:
        return datastore.Client(uri.removeprefix("datastore://"), **options)

    def _put(self, client: datastore.Client, names: list[str], parent: datastore.Key | None = None) -> None:
        client.put_multi([datastore.Entity(client.key("K", name, parent=parent)) for name in names])

    def _names(self, client: datastore.Client, ancestor: datastore.Key | None = None) -> list[str]:
        query = client.query(kind="K", ancestor=ancestor)
        query.keys_only()
        return sorted(entity.key.name for entity in query.fetch())

    def test_projects_and_namespaces_are_apart(self, datastore_uri: str) -> None:
        places: list[dict[str, str]] = [{}, {"namespace": "2011-12-10-0a1b2c3d4e5f.1"}]
        for number, options in enumerate(places):
            self._put(self._client(datastore_uri, **options), [f"n{number}"])
        assert [self._names(self._client(datastore_uri, **options)) for options in places] == [["n0"], ["n1"]]
        assert self._names(self._client(datastore_uri + "x")) == []

    @pytest.mark.parametrize("number", range(2))
    def test_each_test_has_a_project_of_its_own(self, datastore_uri: str, number: int) -> None:
        client = self._client(datastore_uri)
        assert self._names(client) == []
        self._put(client, [f"n{number}"])

    def test_queries_see_what_was_just_written(self, datastore_uri: str) -> None:
        client = self._client(datastore_uri)
        parent = client.key("Root", "r")
        for number in range(30):
            self._put(client, [f"n{number:02}"])
            self._put(client, [f"of-r{number:02}"], parent)
            found = self._names(client)
            assert len(found) == 2 * (number + 1)
            assert self._names(client, parent) == found[number + 1 :]

    def test_of_two_transactions_that_change_what_both_have_read_one_fails(self, datastore_uri: str) -> None:
        one, other = self._client(datastore_uri), self._client(datastore_uri)
        key = one.key("Root", "r")
        one.put(datastore.Entity(key))
        outcome = []
        with contextlib.suppress(exceptions.Aborted):
            with one.transaction() as first:
                mine = one.get(key, transaction=first)
                with contextlib.suppress(exceptions.Aborted):
                    with other.transaction() as second:
                        theirs = other.get(key, transaction=second)
                        theirs["by"] = "other"
                        second.put(theirs)
                    outcome.append("other")
                mine["by"] = "one"
                first.put(mine)
            outcome.append("one")
        assert [one.get(key)["by"]] == outcome

    def test_reset(self, datastore_emulator: services.Datastore, datastore_uri: str) -> None:
        client = self._client(datastore_uri)
        self._put(client, ["a"])
        datastore_emulator.reset()
        assert self._names(client) == []

    def test_a_bad_entity_is_refused_in_words(self, datastore_uri: str) -> None:
        client = self._client(datastore_uri)
        with pytest.raises(exceptions.InvalidArgument):
            self._put(client, ["__reserved__"])


class TestProcesses:
    def test_nothing_of_our_environment_reaches_a_server_and_it_ends_with_its_block(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret.json")
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        with services.CloudStorage() as storage_service, services.BigQuery(storage_service) as service:
            processes = [storage_service.pid, service.pid]
            assert "Uvicorn running" in service.log()
            for pid in processes if sys.platform == "linux" else []:
                with open(f"/proc/{pid}/environ") as environ:
                    assert not {"GOOGLE", "PYTHONPATH"} & {name[:10] for name in environ.read().split("\0")}
        assert not any(_alive(pid) for pid in processes)

    @pytest.mark.parametrize("kind", ["CloudStorage", "Datastore"])
    def test_a_killed_run_leaves_no_server(self, kind: str) -> None:
        code = (
            f"import time; from tests.emulators.services import {kind}\n"
            f"with {kind}() as service: print(service.port, flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            port = int(run.stdout.readline())
            assert _listens(port)
            run.send_signal(signal.SIGKILL)
        until = time.monotonic() + 10
        while _listens(port) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _listens(port)

    @pytest.mark.parametrize("kind", [services.Datastore, services.FirestoreInDatastoreMode])
    def test_java_ends_with_the_block_and_takes_nothing_of_our_environment(
        self, kind: type[services.Datastore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret.json")
        with kind() as service:
            group = service.pid
            assert _listens(service.port)
            assert "-Xmx" in service.log()
            assert "/secret.json" not in _environments(group)
        assert _environments(group) == ""
        assert not _listens(service.port)

    def test_what_is_missing_is_named_with_what_installs_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def refusal() -> str:
            with pytest.raises(services.EmulatorError) as refused, services.Datastore():
                pytest.fail("it is not running")
            return str(refused.value)

        install = "gcloud components install cloud-datastore-emulator cloud-firestore-emulator"
        monkeypatch.setattr(services, "java", lambda: None)
        assert refusal() == "the datastore emulator needs Java: install version 17 or newer"
        monkeypatch.setattr(services, "sdk_root", lambda: tmp_path)
        assert refusal() == f"the datastore emulator is not in the Google Cloud SDK in {tmp_path}: run `{install}`"
        monkeypatch.undo()
        monkeypatch.setenv("PATH", str(tmp_path))
        services.sdk_root.cache_clear()
        try:
            assert "needs the Google Cloud SDK: install it" in refusal() and install in refusal()
        finally:
            services.sdk_root.cache_clear()

    def test_a_server_that_ends_at_once_is_told_with_its_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services.CloudStorage, "command", lambda self: ["gcp_storage_emulator", "no-such-command"])
        with pytest.raises(services.EmulatorError, match=r"exit code 2(?s:.*)invalid choice"), services.CloudStorage():
            pytest.fail("it is not running")

    def test_a_server_that_never_answers_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "_READY_SECONDS", 0.3)
        monkeypatch.setattr(services.CloudStorage, "ready_path", "/storage/v1/b/no-such-bucket")
        service = services.CloudStorage()
        with pytest.raises(services.EmulatorError, match=r"not ready after 0\.3 s"), service:
            pytest.fail("it is not ready")
        assert not _alive(service.pid)


def _environments(group: int) -> str:
    """What the processes of a group, the launcher's Java among them, have in their environments (Linux)."""
    found = ""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((directory / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found += (directory / "environ").read_text()
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((services.HOST, port)) == 0


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
