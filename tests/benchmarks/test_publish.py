"""The benchmark of writing to Datastore: what it compares, how it judges, and the whole run on the emulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from benchmarks import publish
from benchmarks.harness import OutputsDiffer
from benchmarks.publish import PROJECT, WRITERS, Round, Writing
from benchmarks.publish_writers import BEAM, EXPIRE_AT, OURS, RAW
from tests.emulators import services
from transforms import schema

if TYPE_CHECKING:
    from tests.emulators.services import Datastore


def a_round(ours: float, beam: float, raw: float) -> Round:
    """Seconds of writing; half of them CPU."""
    seconds = {OURS: ours, BEAM: beam, RAW: raw}
    return {writer: Writing(100 / each, each, each / 2, 2 * each, 3 * each, 250.0) for writer, each in seconds.items()}


class TestVerdict:
    def test_a_ratio_is_of_one_round_and_the_median_counts(self) -> None:
        result = publish.verdict([a_round(1, 6, 1), a_round(2, 20, 1.8), a_round(1, 5, 0.7)])
        assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
        assert result["ratios"] == {"beam": 6, "beam_cpu": 6, "raw": 0.9, "raw_cpu": 0.9}
        assert result["figures"][RAW]["write_seconds"] == 1
        assert result["aim_met"]

    @pytest.mark.parametrize("seconds", [(1, 4.9, 1), (1, 6, 0.79)])
    def test_either_aim_can_be_missed(self, seconds: tuple[float, float, float]) -> None:
        assert not publish.verdict([a_round(*seconds)])["aim_met"]


def test_the_predictions_are_a_whole_run_of_distinct_customers() -> None:
    table = publish.predictions(1_000, seed=1)
    assert table.schema.equals(schema.arrow_schema(schema.PREDICTIONS))
    assert len(set(table["customer_id"].to_pylist())) == 1_000
    assert Counter(table["decile"].to_pylist()) == dict.fromkeys(range(1, 11), 100)
    best = table.sort_by([("predicted_value", "descending")])["decile"].to_pylist()
    assert best == sorted(best)
    assert table.equals(publish.predictions(1_000, seed=1))
    assert not table.equals(publish.predictions(1_000, seed=2))


class TestCommand:
    def test_help_is_quick_and_names_what_it_needs(self) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "benchmarks.publish", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Google Cloud SDK" in done.stdout and "--in_flight" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"apache_beam", "pyarrow", "numpy", "google", "grpc"}

    @pytest.mark.parametrize("argument", ["--customers=0", "--rounds=0", "--in_flight=x"])
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert publish.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line and "accepted is a whole number" in line

    def test_without_the_emulator_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(services, "sdk_root", lambda: None)
        assert publish.main(["--customers=10"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "gcloud components install" in line


@pytest.mark.emulators
class TestOnEmulator:
    def test_all_contestants_agree_and_the_last_line_is_the_agreed_one(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert publish.main(["--customers=1200", "--rounds=1"]) == 0
        captured = capsys.readouterr()
        assert "all 1,200 entities are the same" in captured.err
        result = json.loads(captured.out.splitlines()[-1])
        assert set(result["figures"]) == set(WRITERS)
        for figure in result["figures"].values():
            assert figure["entities_per_second"] == pytest.approx(1200 / figure["write_seconds"], rel=0.02)
            assert 0 < figure["write_seconds"] < figure["wall_seconds"]
            assert 0 < figure["write_cpu_seconds"] < figure["cpu_seconds"]
        assert result["aim_met"] == all(result["ratios"][name] >= end for name, end in result["aim"].items())

    @pytest.mark.parametrize("datastore_emulator", ["datastore"], indirect=True)
    def test_one_missing_or_changed_entity_is_found(self, datastore_emulator: Datastore) -> None:
        from serving.datastore_client import Connection
        from serving.datastore_writer import Writer
        from serving.entity_bytes import Namespace, deletes, upserts
        from serving.rate_budget import RateBudget
        from serving.store import utc_now

        (batch,) = publish.predictions(700, seed=1).to_batches()
        writer = Writer(Connection(PROJECT), RateBudget(None, utc_now()))
        spaces = {each: Namespace(PROJECT, "", each) for each in WRITERS}
        ids = batch["customer_id"].to_pylist()

        def compare() -> None:
            publish.assert_same({each: publish.stored(datastore_emulator.host, each, ids) for each in WRITERS}, ids)

        for space in spaces.values():
            writer.write(upserts(batch, space, EXPIRE_AT))
        compare()
        one = batch.slice(650, 1)
        other = one.set_column(batch.schema.get_field_index("decile"), "decile", pa.array([11]))
        writer.write(upserts(other, spaces[RAW], EXPIRE_AT))
        with pytest.raises(OutputsDiffer, match=f"raw stored customer {ids[650]} otherwise than ours"):
            compare()
        writer.write(deletes(batch["customer_id"].slice(3, 1), spaces[BEAM]))
        with pytest.raises(OutputsDiffer, match=f"beam did not store customer {ids[3]}"):
            compare()
