"""The whole cycle on a small shop through ``orchestration.run_local``: complete, resumable, and on the documented dates."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from orchestration import local_checks, local_plan, run_local
from orchestration.local_plan import Plan
from orchestration.run_local import Cycle
from orchestration.steps import BuildTrainDeploy
from serving import lookup
from tests.pipelines import features_data
from tests.pipelines.features_data import SHOP_END, SHOP_FIRST_DAY, SHOP_HORIZON_DAYS, read_rows, refused, stamps
from transforms import storage
from transforms.errors import UsageError

HORIZON = datetime.timedelta(days=SHOP_HORIZON_DAYS)


@pytest.fixture(scope="module")
def cycle() -> Cycle:
    return features_data.shop_cycle()


def work_of(cycle: Cycle) -> dict[str, int]:
    """The run's files and when they were written; but for the report, a page that is drawn anew each time."""
    found = stamps(cycle.build.directory)
    del found[cycle.serve.report]
    return found


# --- The cycle ------------------------------------------------------------------------------------------------------


def test_every_step_s_output_is_there(cycle: Cycle) -> None:
    for cutoff in (*cycle.build.training_cutoffs, cycle.build.cutoff):
        assert storage.read_manifest(cycle.build.features(cutoff), "features")["rows"]
    assert storage.read_manifest(cycle.serve.model, "model")["split"] == "out of time"
    assert storage.read_manifest(cycle.serve.predictions, "predictions")["rows"] == 600
    assert "<html" in Path(cycle.serve.report).read_text()[:1000].lower()
    assert list(Path(cycle.plan.warehouse).rglob("*.parquet"))


def test_the_dates_are_the_documented_ones(cycle: Cycle) -> None:
    assert (cycle.serve.as_of, cycle.build.cutoff) == (SHOP_END, SHOP_END - HORIZON)
    assert cycle.build.training_cutoffs == (SHOP_END - 2 * HORIZON,)
    model = storage.read_manifest(cycle.serve.model, "model")
    assert model["training_cutoffs"] == [str(SHOP_END - 2 * HORIZON)]
    assert model["evaluation_cutoff"] == str(SHOP_END - HORIZON)


def test_what_is_served_is_what_was_predicted(cycle: Cycle, capsys: pytest.CaptureFixture[str]) -> None:
    predicted = {row["customer_id"]: row for row in read_rows(cycle.serve.predictions).to_pylist()}
    asked = ["C00000", "C00599"]
    assert lookup.main(["--serving", cycle.plan.serving, *asked]) == 0
    served = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [row["customer_id"] for row in served] == asked
    for row in served:
        wanted = predicted[row["customer_id"]]
        assert {name: row[name] for name in wanted} == {**wanted, "as_of": str(wanted["as_of"])}


# --- Running again --------------------------------------------------------------------------------------------------


def test_a_second_call_redoes_nothing(cycle: Cycle, capsys: pytest.CaptureFixture[str]) -> None:
    before = work_of(cycle)
    assert run_local.run(features_data.shop_arguments()) == cycle
    assert work_of(cycle) == before
    printed = capsys.readouterr()
    assert printed.err.count("already complete") == 4
    assert printed.err.count("decided before, by ") == 1
    steps = [*cycle.build.steps(), *cycle.serve.steps()]
    for number, step in enumerate(steps, 1):
        assert f"[{number}/{len(steps)}] {step.name}\n  {step.command}\n" in printed.err
    assert f"served:  {cycle.decision['champion']}, champion of " in printed.out and "refused:" not in printed.out
    assert f"report:  {cycle.serve.report}" in printed.out and "python -m serving.lookup" in printed.out


def test_an_interrupted_run_resumes_where_it_was(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions half-written, then a run cut off in publish: only what is not complete is done, once."""
    before, customers = work_of(cycle), read_rows(cycle.serve.predictions)
    manifest = Path(cycle.serve.predictions) / storage.MANIFEST
    started = manifest.read_text()  # it too names the kind and the arguments
    manifest.unlink()
    (Path(cycle.serve.predictions) / storage.STARTED).write_text(started)
    (Path(cycle.serve.predictions) / "part-00009-of-00010.parquet").write_bytes(b"half")

    def power_cut(argv: list[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.publish.run", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run_local.run(features_data.shop_arguments())
    assert read_rows(cycle.serve.predictions).equals(customers)
    interrupted = work_of(cycle)
    changed = {path for path in before.keys() | interrupted.keys() if before.get(path) != interrupted.get(path)}
    assert changed and all(path.startswith(cycle.serve.predictions + "/") for path in changed)
    run_local.run(features_data.shop_arguments())
    assert work_of(cycle) == interrupted


def test_finished_steps_do_not_open_their_orders(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of last month cannot be read as it was; what was made of it is still there."""
    for module in ("pipelines.features", "pipelines.predict", "trainer.task"):
        monkeypatch.setattr(f"{module}.run", None)  # called, it would fail
    steps = [*cycle.build.features_steps(), cycle.build.train_step(), cycle.serve.predict_step()]
    for step in steps:
        run_local.run_step(step, "1/1")


def at_moment(cycle: Cycle, directory: Path, age: datetime.timedelta) -> BuildTrainDeploy:
    """Its build in a directory of its own, begun on a table some time ago."""
    moment = datetime.datetime.now(datetime.UTC) - age
    storage.write_bytes(str(directory / "snapshot_time"), moment.isoformat().encode())
    return dataclasses.replace(cycle.build, directory=str(directory))


def test_a_run_older_than_bigquery_remembers_says_what_to_delete(cycle: Cycle, tmp_path: Path) -> None:
    local_checks.require_readable(cycle.build)  # files: there is no such time
    local_checks.require_readable(at_moment(cycle, tmp_path / "a", datetime.timedelta(days=5, hours=23)))
    old = at_moment(cycle, tmp_path / "b", datetime.timedelta(days=6, hours=1))
    with pytest.raises(UsageError, match=f"unfinished run in {tmp_path}/b .* delete that directory"):
        local_checks.require_readable(old)


def test_an_old_run_is_refused_only_where_it_has_orders_to_read(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = Path(cycle.build.directory) / "snapshot_time"
    moment.write_text("2020-01-01T00:00:00+00:00")
    before = cycle.serve.predictions
    try:
        monkeypatch.setattr("pipelines.publish.run", lambda argv: None)
        assert run_local.run(features_data.shop_arguments()) == cycle
        os.rename(before, before + "-aside")
        with pytest.raises(UsageError, match="unfinished run in "):
            run_local.run(features_data.shop_arguments())
    finally:
        moment.unlink()
        os.rename(before + "-aside", before)


def test_a_shop_of_ten_customers_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = features_data.shop_orders()
    few = orders.filter(pc.less(orders["customer_id"], "C00006"))
    path = features_data.write_parquet(tmp_path / "orders.parquet", few)
    argv = ["--orders", path, "--horizon_days", "90", "--training_snapshots", "1", "--workdir", str(tmp_path / "w")]
    assert run_local.main(argv) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: there are too few customers to learn from: of ") and "--features" not in message


def test_a_refusal_for_skew_has_a_way_out(tmp_path: Path, cycle: Cycle, capsys: pytest.CaptureFixture[str]) -> None:
    """Stricter thresholds refuse what was half done; the same run goes on at predicting under others."""
    strict, argv = tmp_path / "strict.toml", features_data.shop_arguments()
    strict.write_text("[default]\nrows_gained = { fail = 0.0 }\nzeros = { fail = 0.0001 }\n")
    os.rename(cycle.serve.predictions, tmp_path / "aside")
    before = work_of(cycle)
    try:
        assert run_local.main([*argv, "--skew_thresholds", str(strict)]) == 2
        assert "the customers are not like those the model learned from" in capsys.readouterr().err.splitlines()[-1]
        assert run_local.main(argv) == 0
        assert storage.read_manifest(cycle.serve.predictions, "predictions")["rows"] == 600
    finally:
        storage.delete_directory(cycle.serve.predictions)
        os.rename(tmp_path / "aside", cycle.serve.predictions)
    after = work_of(cycle)
    assert all(after[path] == stamp for path, stamp in before.items())


def test_a_failing_step_ends_the_run(
    cycle: Cycle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Later steps do not run on what an earlier one did not deliver; bad input is code 2 and one last line."""

    def refuse(argv: list[str]) -> None:
        raise UsageError("the guards do not pass")

    seen: list[str] = []
    monkeypatch.setattr("trainer.report.run", refuse)
    monkeypatch.setattr("pipelines.publish.run", lambda argv: seen.append("publish"))
    assert run_local.main(features_data.shop_arguments()) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: the guards do not pass"
    assert not seen


def test_two_runs_do_not_share_a_workdir(tmp_path: Path) -> None:
    workdir = str(tmp_path)
    with run_local._alone(workdir), pytest.raises(UsageError, match="in use by another run"), run_local._alone(workdir):
        pass
    with run_local._alone(workdir):
        pass


# --- The plan -------------------------------------------------------------------------------------------------------


def plan(*more: Any, orders: str | None = None, workdir: str = "w") -> Plan:
    argv = [
        "--orders",
        orders or features_data.shop_file(),
        "--horizon_days",
        str(SHOP_HORIZON_DAYS),
        "--workdir",
        workdir,
    ]
    options: argparse.Namespace = run_local._parser().parse_args([*argv, *map(str, more)])
    return local_plan.plan(options)


def test_a_year_of_training_snapshots_where_the_history_has_it() -> None:
    planned = plan()
    latest = SHOP_END - 2 * HORIZON
    assert planned.build.training_cutoffs == tuple(latest - datetime.timedelta(days=28 * i) for i in range(13))
    assert (planned.build.cutoff, planned.as_of) == (SHOP_END - HORIZON, SHOP_END)


def test_models_that_cannot_be_compared_have_champions_of_their_own() -> None:
    registries = [plan(*more).build.registry for more in ((), ("--history_days", 200), ("--seed", 1))]
    assert [os.path.basename(place) for place in registries] == ["90d", "90d-200d", "90d"]


def test_a_cutoff_of_one_s_own() -> None:
    planned = plan("--cutoff", "2011-01-01", "--history_days", 200)
    assert planned.build.cutoff == datetime.date(2011, 1, 1) and planned.build.history_days == 200
    assert planned.build.training_cutoffs[0] == planned.build.cutoff - HORIZON
    assert planned.as_of == SHOP_END


def test_a_short_history_is_split_by_customer() -> None:
    third = HORIZON // 3
    planned = plan("--cutoff", SHOP_FIRST_DAY + HORIZON + third - datetime.timedelta(days=1))
    assert planned.build.training_cutoffs == ()
    assert plan("--cutoff", SHOP_FIRST_DAY + HORIZON + third).build.training_cutoffs == (SHOP_FIRST_DAY + third,)


def test_a_short_history_is_judged_by_customer_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A horizon so long that no training snapshot fits before the evaluation's."""
    monkeypatch.setattr("trainer.task.DEFAULT_EPOCHS", 2)
    argv = ["--orders", features_data.shop_file(), "--horizon_days", "270", "--workdir", str(tmp_path / "w")]
    short = run_local.run(argv)
    assert short.build.training_cutoffs == () and len(short.build.steps()) == 3
    model = storage.read_manifest(short.serve.model, "model")
    assert (model["split"], model["training_cutoffs"]) == ("by customer", [model["evaluation_cutoff"]])
    assert storage.read_manifest(short.serve.predictions, "predictions")["rows"] == 600
    assert os.path.exists(short.serve.report)


def test_equal_arguments_find_their_run_again_and_others_do_not(tmp_path: Path) -> None:
    first = plan()
    assert plan() == first
    assert plan(workdir="elsewhere").build.directory.split("/runs/")[1] == first.build.directory.split("/runs/")[1]
    others = [
        plan("--seed", 1),
        plan("--cutoff", "2011-01-01"),
        plan("--history_days", 100),
        plan("--training_snapshots", 1),
    ]
    copy = features_data.write_parquet(tmp_path / "orders.parquet", features_data.shop_orders().slice(1))
    runs = {planned.build.directory for planned in (first, *others, plan(orders=copy))}
    assert len(runs) == len(others) + 2


def test_other_code_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of the code before an edit must not pass for those of the code after it."""
    before = plan()
    monkeypatch.setattr("transforms.version.source_fingerprint", lambda: "edited")
    after = plan()
    assert after.build.directory != before.build.directory
    assert plan() == after


def test_only_what_was_given_is_handed_on() -> None:
    assert plan().build.orders == ("--orders", features_data.shop_file())
    assert plan("--buckets", 7, "--csv_encoding", "latin-1").build.orders[2:] == (
        "--csv_encoding",
        "latin-1",
        "--buckets",
        "7",
    )


def test_paths_do_not_depend_on_where_a_step_runs() -> None:
    planned = plan(workdir="relative/w")
    for path in (
        planned.build.directory,
        planned.build.registry,
        planned.warehouse,
        planned.dead_letters,
        planned.serving.removeprefix("sqlite://"),
    ):
        assert os.path.isabs(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--horizon_days", "600"], "--horizon_days 600 with --cutoff 2010-01-01 leaves no orders on one side: the orders reach from 2010-01-01 to 2011-08-23"),
        (["--cutoff", "2011-08-24"], "--cutoff 2011-08-24 leaves no orders on one side"),
        (["--cutoff", "2011-08-01"], "--horizon_days 90 from --cutoff 2011-08-01 reaches past the last order day 2011-08-23: accepted is at most 23"),
        (["--training_snapshots", "0"], "argument --training_snapshots: '0' is not usable: accepted is a whole number"),
        (["--seed", "x"], "argument --seed: 'x' is not usable: accepted is a whole number from 0"),
        (["--skew_thresholds", "absent.toml"], "absent.toml does not exist: accepted is a TOML file of thresholds"),
        (["--horizon", "9"], "unrecognized arguments: --horizon 9"),
        (["--orders", "absent.csv"], "--orders 'absent.csv' is not usable"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_bad_argument_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], said: str
) -> None:
    argv = ["--orders", features_data.shop_file(), "--horizon_days", "90", "--workdir", str(tmp_path / "w"), *more]
    assert said in refused(capsys, run_local.main, argv)
    assert not (tmp_path / "w").exists()
