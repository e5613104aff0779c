"""The benchmark of reading BigQuery: what it aggregates, what it compares, and the whole run on emulators."""

from __future__ import annotations

import collections
import datetime
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bigquery_emulators, bigquery_read, bigquery_table, order_file, spend
from benchmarks.bigquery_read import AGGREGATES, OURS, PEERS, Reading
from benchmarks.harness import OutputsDiffer
from tests.emulators import services

LINES = 4_000
ORDERS = pa.schema(
    [("customer_id", pa.string()), ("ordered_at", pa.timestamp("us", "UTC")), ("amount", pa.decimal128(38, 9))]
)
NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)


def brute_force(rows: list[dict[str, Any]], aggregate: str) -> dict[tuple, tuple]:
    """Key -> (lines, amount, last time), from loops over plain rows."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in spend.KEYS[aggregate])].append(row)
    return {
        key: (len(group), sum(row["amount"] for row in group), max(row["ordered_at"] for row in group))
        for key, group in groups.items()
    }


def by_key(result: pa.Table, aggregate: str) -> dict[tuple, tuple]:
    """As ``brute_force``; a key that comes twice fails."""
    assert result.schema.equals(spend.schema(aggregate))
    keys = len(spend.KEYS[aggregate])
    rows = [tuple(row.values()) for row in result.to_pylist()]
    found = {row[:keys]: row[keys:] for row in rows}
    assert len(found) == len(rows)
    return found


class TestSpend:
    rows = st.lists(
        st.fixed_dictionaries(
            {
                "customer_id": st.sampled_from(["a", "b", "ä"]),
                "ordered_at": st.datetimes(
                    datetime.datetime(1900, 1, 1), datetime.datetime(2199, 12, 31), timezones=st.just(datetime.UTC)
                ),
                "amount": st.decimals(-(10**15), 10**15, places=9),
            }
        ),
        min_size=1,
        max_size=30,
    )

    @pytest.mark.parametrize("aggregate", AGGREGATES)
    @given(rows, st.integers(1, 30))
    def test_batches_and_rows_give_what_loops_give(
        self, aggregate: str, rows: list[dict[str, Any]], batch_rows: int
    ) -> None:
        expected = brute_force(rows, aggregate)
        batches = pa.Table.from_pylist(rows, ORDERS).to_batches(max_chunksize=batch_rows)
        combine = spend.CombineParts(aggregate)
        halves = [combine.create_accumulator(), combine.create_accumulator()]
        for number, batch in enumerate(batches):
            combine.add_input(halves[number % 2], spend.of_batch(batch, aggregate))
        merged = combine.merge_accumulators([combine.compact(half) for half in halves])
        assert by_key(combine.extract_output(merged), aggregate) == expected

        of_rows = spend.SpendOfRows()
        pairs = []
        for key in expected:
            group = [row for row in rows if tuple(row[name] for name in spend.KEYS[aggregate]) == key]
            accumulators = [of_rows.create_accumulator() for _ in range(3)]
            for number, row in enumerate(group):
                accumulators[number % 2] = of_rows.add_input(accumulators[number % 2], row)
            pairs.append((key, of_rows.extract_output(of_rows.merge_accumulators(accumulators))))
        results = [(key[0], result) if key else result for key, result in pairs]
        assert by_key(spend.of_rows(results, aggregate), aggregate) == expected


def result(**changes: Any) -> pa.Table:
    row = {"customer_id": "b", "lines": 3, "amount": Decimal("1.5"), "last_ordered_at": NOON, **changes}
    other = {"customer_id": "a", "lines": 2, "amount": Decimal(7), "last_ordered_at": NOON}
    return pa.Table.from_pylist([row, other], spend.schema("per_customer"))


class TestComparison:
    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        bigquery_read.assert_same({OURS: result(), "export": result().take([1, 0])}, lines=5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"amount": Decimal("1.500000001")}, "amount of row 1 is 1.500000000 for ours and 1.500000001 for export"),
            ({"lines": 4}, "lines of row 1 is 3 for ours and 4 for export"),
            ({"last_ordered_at": NOON.replace(microsecond=1)}, "last_ordered_at of row 1"),
            ({"customer_id": "c"}, "customer_id of row 1 is b for ours and c for export"),
        ],
    )
    def test_one_changed_cell_is_found(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(OutputsDiffer, match=message):
            bigquery_read.assert_same({OURS: result(), "export": result(**changes)}, lines=5)

    def test_a_missing_row_is_found(self) -> None:
        with pytest.raises(OutputsDiffer, match=r"export has 1 rows of .*, ours 2 of"):
            bigquery_read.assert_same({OURS: result(), "export": result().slice(1)}, lines=5)

    def test_lines_that_all_contestants_lost_are_found(self) -> None:
        with pytest.raises(OutputsDiffer, match="ours counted 5 lines of 6"):
            bigquery_read.assert_same({OURS: result(), "export": result()}, lines=6)


def a_round(ours: float, direct_read: float, export: float) -> bigquery_read.Round:
    """Seconds of reading; half of them CPU, and a job of twice as many."""
    readings = {}
    for reader, seconds in zip((OURS, *PEERS), (ours, direct_read, export), strict=True):
        reading = Reading(100 / seconds, seconds, seconds / 2, 2 * seconds, 0.1, 3 * seconds, seconds, 250.0)
        readings |= {(reader, aggregate): reading for aggregate in AGGREGATES}
    return readings


class TestVerdict:
    def test_a_ratio_is_against_the_faster_peer_of_the_same_round_and_the_median_counts(self) -> None:
        rounds = [a_round(1, 8, 9), a_round(2, 30, 28), a_round(1, 40, 6)]
        verdict = bigquery_read.verdict(rounds)
        assert set(verdict) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
        assert set(verdict["ratios"].values()) == {8.0}
        assert verdict["figures"]["direct_read, total"]["read_seconds"] == 30
        assert verdict["aim_met"]
        assert not bigquery_read.verdict([a_round(1, 6.9, 9)])["aim_met"]

    def test_processor_time_and_whole_jobs_have_ratios_of_their_own(self) -> None:
        readings = dict(a_round(1, 8, 8))
        readings[OURS, "total"] = replace(readings[OURS, "total"], read_cpu_seconds=0.25, job_seconds=4.0)
        ratios = bigquery_read.ratios(readings)
        assert (ratios["total"], ratios["total_cpu"], ratios["total_job"]) == (8, 16, 4)

    def test_typical_is_the_median_of_each_figure(self) -> None:
        one, two, three = (a_round(seconds, 1, 1)[OURS, "total"] for seconds in (1, 2, 4))
        assert asdict(Reading.typical([three, one, two])) == asdict(two)


class TestCommand:
    def test_help_is_quick_and_names_what_it_needs(self) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "benchmarks.bigquery_read", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "make emulators" in done.stdout and "--page_rows" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"apache_beam", "pyarrow", "numpy", "google"}

    @pytest.mark.parametrize("argument", ["--lines=9", "--rounds=0", "--page_rows=0"])
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert bigquery_read.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line and "accepted is a whole number" in line

    def test_without_the_emulators_it_says_what_makes_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(services, "ENVIRONMENT", tmp_path / ".venv-emulators")
        assert bigquery_read.main([f"--workdir={tmp_path}"]) == 2
        assert capsys.readouterr().err.splitlines() == [
            "error: the emulators are not installed in .venv-emulators: run `make emulators`"
        ]


def test_the_table_has_exact_cents_and_text_ids() -> None:
    lines = pa.table(
        {
            "customer_id": ["c"] * 3,
            "ordered_at": pa.array([NOON] * 3, pa.timestamp("us", "UTC")),
            "amount": [123456789.1, -0.07, 1.15],
            "order_id": [1, 22, 333],
            "item_id": ["i"] * 3,
            "country": [None, "L00", "L01"],
        }
    )
    typed = bigquery_table.typed(lines)
    assert typed["amount"].to_pylist() == [Decimal("123456789.1"), Decimal("-0.07"), Decimal("1.15")]
    assert typed["order_id"].to_pylist() == ["1", "22", "333"]
    assert typed.schema.names == list(bigquery_table.FIELDS)


@pytest.mark.emulators
class TestOnEmulators:
    def test_all_contestants_agree_and_the_last_line_is_the_agreed_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [f"--lines={LINES}", "--rounds=1", "--page_rows=300", f"--workdir={tmp_path}"]
        assert bigquery_read.main(arguments) == 0
        captured = capsys.readouterr()
        assert f"the results agree for all {LINES:,} lines" in captured.err
        verdict = json.loads(captured.out.splitlines()[-1])
        assert set(verdict) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
        assert set(verdict["figures"]) == {f"{reader}, {each}" for reader in (OURS, *PEERS) for each in AGGREGATES}
        for figure in verdict["figures"].values():
            assert figure["rows_per_second"] == pytest.approx(LINES / figure["read_seconds"], rel=0.02)
            assert 0 < figure["read_seconds"] < figure["job_seconds"] < figure["wall_seconds"]
            assert 0 < figure["read_cpu_seconds"] < figure["cpu_seconds"]
            assert figure["emulator_cpu_seconds"] > 0
        assert verdict["aim_met"] == (verdict["ratios"]["total"] >= verdict["aim"]["total"])
        assert not list(tmp_path.glob("run-*")), "results are deleted"

    @pytest.fixture(scope="class")
    @staticmethod
    def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pa.Table]:
        """The orders in the table of emulators with pages of 300 rows, to which this process is pointed."""
        from pipelines import bigquery

        orders = order_file.order_file(str(tmp_path_factory.mktemp("orders")), LINES // 10, LINES, seed=1)
        caches = (bigquery.client, bigquery.storage_client)
        with bigquery_emulators.started(300) as emulators, pytest.MonkeyPatch.context() as patch:
            for name, value in emulators.environment.items():
                patch.setenv(name, value)
            for cache in caches:
                cache.cache_clear()
            arguments = ["--orders", orders, "--table", bigquery_read.TABLE, "--bucket", bigquery_read.BUCKET]
            assert bigquery_table.run(arguments) == LINES
            yield bigquery_table.typed(pq.read_table(orders))
        for cache in caches:
            cache.cache_clear()

    def test_pages_are_no_larger_than_asked_for_and_hold_each_row_once(self, loaded: pa.Table) -> None:
        from pipelines import bigquery, read_bigquery

        rows = read_bigquery.Rows(bigquery.Table.parse("--table", bigquery_read.TABLE), services.PROJECT)
        session = read_bigquery.open_session(rows)
        client = bigquery.storage_client()
        pages = [page.to_arrow() for stream in session.streams for page in client.read_rows(stream.name).rows().pages]
        assert max(page.num_rows for page in pages) == 300
        assert _sorted(pa.Table.from_batches(pages)).equals(_sorted(loaded))

    def test_an_avro_export_is_whole(self, loaded: pa.Table) -> None:
        import fastavro
        from google.cloud import bigquery as google
        from google.cloud import storage

        from pipelines import bigquery

        config = google.ExtractJobConfig(destination_format="AVRO", use_avro_logical_types=True)
        uri = f"gs://{bigquery_read.BUCKET}/whole/*.avro"
        bigquery.client(services.PROJECT).extract_table(bigquery_read.TABLE, uri, job_config=config).result()
        with storage.Client.create_anonymous_client() as client:
            blobs = client.list_blobs(bigquery_read.BUCKET, prefix="whole/")
            records = [row for blob in blobs for row in fastavro.reader(io.BytesIO(blob.download_as_bytes()))]
        assert _sorted(pa.Table.from_pylist(records, loaded.schema)).equals(_sorted(loaded))


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in ("order_id", "item_id", "amount")])
