"""The benchmark of the personalization refresh: what it counts, how it judges, and the whole run on a few campaigns."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import refresh, refresh_contestant
from benchmarks.harness import OutputsDiffer
from benchmarks.refresh import OURS, SEED, Cost
from benchmarks.refresh_contestant import Counting
from orchestration.refresh.record import Head, Record, State, Transition
from orchestration.refresh.sqlite_ledger import SqliteLedger

NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
SOME = Cost(1.0, 2.0, 1.0, 0.0, 10.0, {"DescribeCampaign": 3.0}, {"head": 2.0, "record": 4.0})


class TestVerdict:
    def test_ratios_are_ours_to_the_seeds(self) -> None:
        seed = replace(SOME, idle_cpu_ms=4.0, idle_calls=3.0, refresh_cpu_ms=5.0, refresh_calls={"a": 1.0, "b": 1.0})
        result = refresh.verdict({OURS: SOME, SEED: seed})
        assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
        assert result["ratios"] == {"idle_cpu": 0.25, "idle_calls": 0.333, "refresh_cpu": 2.0, "refresh_calls": 1.5}
        assert result["figures"][OURS]["refresh_writes"] == {"head": 2.0, "record": 4.0}
        assert result["aim_met"]

    @pytest.mark.parametrize("seed", [{"idle_cpu_ms": 1.9, "idle_calls": 3.0}, {"idle_cpu_ms": 9.0, "idle_calls": 2.0}])
    def test_either_aim_can_be_missed(self, seed: dict[str, float]) -> None:
        assert not refresh.verdict({OURS: SOME, SEED: replace(SOME, **seed)})["aim_met"]

    def test_a_cost_is_of_one_look_and_of_one_refresh(self) -> None:
        def said(*cpu: float, **writes: int) -> dict[str, Any]:
            return {"rounds": [{"cpu_seconds": each, "wall_seconds": 2 * each} for each in cpu], "writes": writes}

        took = {
            "begin": said(0.3, 0.1, record=6),
            "idle": said(0.02, 0.05, 0.03, record=2),
            "finish": said(0.2, head=1),
        }
        calls = {"begin": {"a": 2}, "idle": {"a": 6}, "finish": {"a": 1, "b": 4}}
        found = refresh.cost(took, calls, campaigns=2)
        assert (found.idle_cpu_ms, found.idle_wall_ms) == pytest.approx((15, 30))
        assert (found.idle_calls, found.idle_writes) == pytest.approx((1, 1 / 3))
        assert found.refresh_cpu_ms == pytest.approx(300)
        assert (found.refresh_calls, found.refresh_writes) == ({"a": 1.5, "b": 2.0}, {"head": 0.5, "record": 3.0})

    @pytest.mark.parametrize(
        ("calls", "writes"),
        [
            ({"DescribeSolutionVersion": 7}, {}),
            ({"DescribeSolutionVersion": 5}, {}),
            ({"DescribeSolutionVersion": 6, "DescribeCampaign": 1}, {}),
            ({"DescribeSolutionVersion": 6}, {"record": 1}),
        ],
    )
    def test_an_idle_look_is_one_call_and_no_write(self, calls: dict[str, int], writes: dict[str, int]) -> None:
        refresh.assert_quiet({"DescribeSolutionVersion": 6}, {}, 6)
        with pytest.raises(OutputsDiffer, match="6 idle looks of ours"):
            refresh.assert_quiet(calls, writes, 6)

    def test_every_campaign_has_to_serve_its_refresh(self) -> None:
        refresh.assert_served(OURS, {"a": "a-20261101", "b": "b-20261101"})
        with pytest.raises(OutputsDiffer, match="after the refreshes of seed, b serves b-20261101"):
            refresh.assert_served(SEED, {"a": "a-20261108", "b": "b-20261101"})


def test_the_counting_ledger_counts_what_is_written(tmp_path: Path) -> None:
    ledger = Counting(SqliteLedger(str(tmp_path / "ledger.db")))
    record = Record("shop", NOW.date(), "data", (Transition(NOW, State.STARTED, "a test"),))
    written = ledger.write(ledger.write(record))
    ledger.write_head(Head("shop"))
    assert ledger.writes == {"record": 2, "head": 1}
    assert ledger.records("shop") == [written] and ledger.campaigns() == ["shop"]
    ledger.ledger.close()


class TestCommand:
    @pytest.mark.parametrize("module", ["benchmarks.refresh", "benchmarks.refresh_contestant"])
    def test_help_is_quick(self, module: str) -> None:
        command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "--ledger" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"apache_beam", "pyarrow", "numpy", "boto3", "botocore", "moto"}

    @pytest.mark.parametrize("argument", ["--campaigns=0", "--rounds=x", "--ledger=redis"])
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert refresh.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line

    @pytest.mark.parametrize("ledger", ["sqlite", pytest.param("dynamodb", marks=pytest.mark.refresh)])
    def test_the_whole_run(self, ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert refresh.main(["--campaigns=3", "--rounds=2", f"--ledger={ledger}"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        ours, seed = result["figures"][OURS], result["figures"][SEED]
        assert (ours["idle_calls"], ours["idle_writes"]) == (1, 0)
        assert (seed["idle_calls"], seed["idle_writes"]) == (3, 1)
        for each in (ours, seed):
            calls = each["refresh_calls"]
            assert [calls[name] for name in ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign")] == [
                1
            ] * 3
        assert ours["idle_cpu_ms"] > 0 and result["ratios"]["idle_calls"] == 0.333

    def test_figures_of_a_contestant_that_writes_while_it_waits_are_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        measure = refresh.harness.measure
        # The poller in the place of ours.
        monkeypatch.setattr(
            refresh.harness, "measure", lambda command, environment: measure([each if each != OURS else SEED for each in command], environment)
        )  # fmt: skip
        assert refresh.main(["--campaigns=2", "--rounds=1"]) == 1
        captured = capsys.readouterr()
        assert "2 idle looks of ours made the calls" in captured.err and not captured.out


def test_a_refresh_that_is_not_in_training_is_no_idle_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "campaigns.json").write_text("{}")
    given = [
        "--who=ours",
        "--base_date=2026-11-01",
        f"--campaigns={tmp_path}/campaigns.json",
        f"--output={tmp_path}/cost.json",
    ]
    assert refresh_contestant.main([*given, "--phase=idle", f"--ledger=sqlite://{tmp_path}/l.db"]) == 0
    assert json.loads((tmp_path / "cost.json").read_text())["writes"] == {}
    assert refresh_contestant.main([*given, "--phase=idle", "--ledger=redis://x"]) == 2
    assert "accepted is sqlite://PATH" in capsys.readouterr().err
