"""BigQuery inside a job: which jobs run, what the features table gets, and reads that break, end early or fail."""

from __future__ import annotations

import datetime
import decimal
import re
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import bigquery as google

from pipelines import bigquery as bq
from pipelines import features, read_bigquery
from pipelines.bigquery import Table
from pipelines.read_bigquery import Rows
from tests import order_strategies
from tests.order_strategies import CUTOFF
from tests.pipelines import bigquery_data
from tests.pipelines.bigquery_faults import PROJECT, ROWS_A_MESSAGE, Rest, RpcError, Storage
from tests.pipelines.features_data import refused, shop_orders
from tests.pipelines.test_bigquery_parity import customers_of
from transforms import storage
from transforms.errors import UsageError

UNAVAILABLE = RpcError(grpc.StatusCode.UNAVAILABLE, "the connection broke")
EXPIRED = (
    RpcError(grpc.StatusCode.FAILED_PRECONDITION, "request failed: session expired\n at 2026-01-01"),
    RpcError(grpc.StatusCode.NOT_FOUND, "request failed: session not found"),
)
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


@pytest.fixture
def orders(bigquery: Any, dataset: str, bucket: str) -> str:
    """The awkward orders, dead letters among them."""
    bigquery_data.load(bucket, f"{dataset}.orders", order_strategies.to_table(order_strategies.awkward_orders()))
    return f"{dataset}.orders"


@pytest.fixture
def numbers(bigquery: Any, dataset: str) -> Rows:
    """Eleven rows: six messages of the broken streams."""
    bigquery_data.query(
        f"CREATE TABLE `{dataset}.numbers` AS SELECT n, n * 2 AS twice FROM UNNEST(GENERATE_ARRAY(1, 11)) AS n"
    )
    return Rows(Table.parse("a", f"{dataset}.numbers"), PROJECT, (("n", "number"),))


def read_all(rows: Rows) -> list[int]:
    (stream,) = read_bigquery.open_session(rows).streams
    batches = list(read_bigquery.read_stream(rows, stream.name))
    assert {tuple(batch.schema.names) for batch in batches} == {("number",)}
    return [number for batch in batches for number in batch["number"].to_pylist()]


# --- Streams --------------------------------------------------------------------------------------------------------


@pytest.mark.emulators
def test_a_broken_stream_goes_on_where_it_broke(numbers: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Storage(monkeypatch)
    faults.ends = [(2, UNAVAILABLE), (0, UNAVAILABLE), (1, RpcError(grpc.StatusCode.INTERNAL, "Received RST_STREAM"))]
    assert sorted(read_all(numbers)) == list(range(1, 12))
    assert faults.offsets == [0, 2 * ROWS_A_MESSAGE, 2 * ROWS_A_MESSAGE, 3 * ROWS_A_MESSAGE]


@pytest.mark.emulators
@pytest.mark.parametrize("messages", [0, 2])
@pytest.mark.parametrize("error", EXPIRED, ids=["FailedPrecondition", "NotFound"])
def test_an_ended_session_is_one_line(
    numbers: Rows, monkeypatch: pytest.MonkeyPatch, messages: int, error: RpcError
) -> None:
    Storage(monkeypatch).ends = [(messages, error)]
    with pytest.raises(UsageError) as raised:
        read_all(numbers)
    line = str(raised.value)
    assert line.startswith(f"reading {numbers.table}: its read session has ended") and "run the step again" in line
    assert error.details().split("\n")[0] in line and len(line.splitlines()) == 1


@pytest.mark.emulators
def test_a_session_is_asked_for_again(numbers: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Storage(monkeypatch)
    faults.no_session = [UNAVAILABLE]
    assert len(read_all(numbers)) == 11 and faults.sessions == 2


@pytest.mark.emulators
def test_who_may_not_read_is_told(numbers: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Storage(monkeypatch)
    denied = RpcError(grpc.StatusCode.PERMISSION_DENIED, "the user does not have 'bigquery.readsessions.create'")
    faults.no_session = [denied]
    faults.ends = [(1, denied)]
    for _ in range(2):
        with pytest.raises(UsageError, match=f"^reading {numbers.table}: .*readsessions.create.*Read Session User"):
            read_all(numbers)
    assert faults.sessions == 2 and faults.streams == 1


@pytest.mark.emulators
@pytest.mark.parametrize(
    "status", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED]
)
def test_what_may_pass_is_for_beam_to_repeat(
    numbers: Rows, monkeypatch: pytest.MonkeyPatch, status: grpc.StatusCode
) -> None:
    Storage(monkeypatch).ends = [(1, RpcError(status, "later"))]
    with pytest.raises(GoogleAPICallError) as raised:
        read_all(numbers)
    assert raised.value.grpc_status_code == status


@pytest.mark.emulators
def test_a_missing_table_is_one_line(bigquery: Any, dataset: str) -> None:
    with pytest.raises(UsageError, match=f"^reading {dataset}.nothing: "):
        read_bigquery.open_session(Rows(Table.parse("a", f"{dataset}.nothing"), PROJECT))


@pytest.mark.emulators
def test_streams_hold_every_row_once(bigquery: Any, dataset: str, bucket: str) -> None:
    ids = pa.table({"customer_id": pa.array(range(250_000))})
    bigquery_data.load(bucket, f"{dataset}.many", ids)
    rows = Rows(Table.parse("a", f"{dataset}.many"), PROJECT)
    with beam.Pipeline() as pipeline:
        batches = read_bigquery.read(pipeline | beam.Create([rows]), "Many")
        found = batches | beam.Map(lambda b: (b.num_rows, pc.sum(b["customer_id"]).as_py())) | beam.combiners.ToList()
        _ = found | beam.Map(_hold_250_000)
    assert len(read_bigquery.open_session(rows).streams) == 3


def _hold_250_000(batches: list[tuple[int, int]]) -> None:
    assert sum(n for n, _ in batches) == 250_000 and sum(s for _, s in batches) == sum(range(250_000))


@pytest.mark.parametrize(
    ("count", "read", "fits"), [(3, 3, True), (0, 0, True), (None, 7, True), (3, 2, False), (2, 3, False)]
)
def test_all_rows_are_required(count: int | None, read: int, fits: bool) -> None:
    rows = Rows(Table("my-project", "shop", "result"), PROJECT, count=count)
    if fits:
        assert read_bigquery._require_all(rows, read) == []
        return
    with pytest.raises(UsageError, match=f"reading my-project.shop.result: {read} of its {count} rows"):
        read_bigquery._require_all(rows, read)


def test_bignumeric_becomes_text() -> None:
    """BigQuery's own have 76 digits (the emulator's 38), for which DuckDB has no type."""
    values = [decimal.Decimal("0.0000000005"), decimal.Decimal("-123456789.000000001"), None]
    found = read_bigquery._plain(pa.array(values, pa.decimal256(76, 38)))
    assert found.type == pa.string()
    assert [value and decimal.Decimal(value) for value in found.to_pylist()] == values


# --- Which jobs run -------------------------------------------------------------------------------------------------


def jobs_of(table: str, since: datetime.datetime) -> dict[str, google.QueryJob]:
    """Our query jobs over a table's dataset, and those over none, by the beginning of their ids."""
    dataset = table.split(".")[1]
    jobs = {}
    for job in bigquery_data.client().list_jobs(min_creation_time=since):
        ours = job.job_id.startswith("clv-") and isinstance(job, google.QueryJob) and not job.dry_run
        if ours and (dataset in job.query or "FROM" not in job.query):
            name = re.sub(r"(-[0-9a-f]{12}|-a)?-[0-9a-f]{12}$", "", job.job_id)
            assert name not in jobs, f"{name} ran twice"
            jobs[name] = bigquery_data.client().get_job(job.job_id)
    return jobs


@pytest.mark.emulators
@pytest.mark.parametrize("dead", [True, False])
def test_one_job_scans_the_orders(orders: str, tmp_path: Path, dead: bool) -> None:
    if not dead:
        bigquery_data.query(f"CREATE OR REPLACE TABLE `{orders}` AS SELECT 'a' AS customer_id, d AS ordered_at, 1 AS amount "
                            "FROM UNNEST([DATE '2012-02-01', DATE '2012-05-01']) AS d")  # fmt: skip
    started = datetime.datetime.now(datetime.UTC)
    customers_of(tmp_path, "--orders", f"bigquery://{orders}", "--maximum_bytes_billed", "1000000000")
    jobs = jobs_of(orders, started)
    assert set(jobs) == {"clv-now", "clv-extent", "clv-customers", *(["clv-dead-letters"] if dead else [])}
    for name, job in jobs.items():
        assert job.labels["step"] == ("orders" if name in ("clv-now", "clv-extent") else "test")
        assert job.labels.get("cutoff") == (None if name in ("clv-now", "clv-extent") else str(CUTOFF))
        assert all(_LABEL.fullmatch(k) and _LABEL_VALUE.fullmatch(v) for k, v in job.labels.items())
        assert job.maximum_bytes_billed == (None if name == "clv-now" else 1_000_000_000)
        assert job.query.count("FOR SYSTEM_TIME AS OF") == (0 if name == "clv-now" else 1)


@pytest.mark.emulators
def test_without_pushdown_no_job_scans_all_of_a_table(orders: str, tmp_path: Path) -> None:
    started = datetime.datetime.now(datetime.UTC)
    customers_of(tmp_path, "--orders", f"bigquery://{orders}", "--no_pushdown")
    assert set(jobs_of(orders, started)) == {"clv-now", "clv-extent"}


@pytest.mark.emulators
def test_a_repeated_bundle_finds_its_job(orders: str, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = Rest(monkeypatch)
    query = bq.Query(f"clv-orders-{dataset.rpartition('_')[2]}", PROJECT, f"SELECT * FROM `{orders}`")
    (first,), (second,) = (list(read_bigquery.RunQuery().process(query)) for _ in range(2))
    assert first == second and first.count == len(order_strategies.awkward_orders())
    assert rest.inserted == [query.job_id(0)] * 2


# --- Whole steps ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(bigquery: Any, dataset: str, bucket: str) -> str:
    """A shop's orders: enough customers for every split."""
    bigquery_data.load(bucket, f"{dataset}.shop", shop_orders(60))
    return f"{dataset}.shop"


def shop_step(directory: Path, table: str, *more: str, cutoff: str = "2011-05-01") -> list[str]:
    return [
        "--orders", f"bigquery://{table}", "--cutoff", cutoff, "--horizon_days", "30", "--output", str(directory), *more
    ]  # fmt: skip


BREAKS = {
    "expired": ([(1, EXPIRED[0])], "read session has ended"),
    "early": ([(1, None)], "of its .* rows came|had .* lines when the job began, and"),
}


@pytest.mark.emulators
@pytest.mark.parametrize("way", [[], ["--no_pushdown"]], ids=["pushdown", "no pushdown"])
@pytest.mark.parametrize("fault", BREAKS)
def test_a_read_that_is_not_complete_leaves_no_manifest(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: list[str], fault: str
) -> None:  # fmt: skip
    ends, says = BREAKS[fault]
    faults = Storage(monkeypatch)
    # Pushed down, the first stream holds the fates and is read whole.
    faults.ends = list(ends) if way else [(10**6, None), *ends]
    output = tmp_path / "features"
    error = refused(capsys, features.main, shop_step(output, shop, *way))
    assert re.search(says, error) and error.startswith(("reading ", f"bigquery://{shop} "))
    assert not faults.ends and not (output / storage.MANIFEST).exists()


@pytest.mark.emulators
def test_a_view_s_rows_are_counted_too(orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not pinned may have other lines than at the beginning: its result must come whole all the same."""
    bigquery_data.query(f"CREATE VIEW `{orders}_view` AS SELECT * FROM `{orders}`")
    faults = Storage(monkeypatch)
    faults.ends = [(3, None)]
    with pytest.raises(Exception, match=f"{3 * ROWS_A_MESSAGE} of its {len(order_strategies.awkward_orders())} rows"):
        customers_of(tmp_path, "--orders", f"bigquery://{orders}_view", "--no_pushdown")
