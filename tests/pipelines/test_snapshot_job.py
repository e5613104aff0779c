"""The last step of features and predict: every line accounted for, and nothing completed before it is written."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from pipelines import features, options, orders_arguments, predict, run_job, snapshot_job
from pipelines.snapshot_job import Completion, Ledger, _Complete
from tests.pipelines import features_data
from transforms import activity, skew_thresholds, storage, transform_customers
from transforms.customer_features import Snapshot
from transforms.errors import UsageError
from transforms.statistics import Split, Statistics

# --- The ledger -----------------------------------------------------------------------------------------------------

HONEST = {
    ("read", ""): 10, ("routed", ""): 7, ("used", ""): 6,
    ("excluded", "after_window"): 2, ("excluded", "no_order_before_cutoff"): 1, ("dead_letters", "bad_amount"): 1,
    ("letters", ""): 1, ("customers", "train"): 3, ("customers", "test"): 1,
}  # fmt: skip


def ledger(**changes: int) -> Ledger:
    """The ledger of HONEST with counts changed, each named by its kind or, within a kind, by its reason."""
    counts = {key: changes.get(key[1] or key[0], count) for key, count in HONEST.items()}
    return Ledger.of(list(counts.items()))


def test_lines_that_add_up_are_told_by_what_became_of_them() -> None:
    assert ledger().lines() == {
        "read": 10,
        "used": 6,
        "excluded": {"after_window": 2, "no_order_before_cutoff": 1},
        "dead_letters": {"bad_amount": 1},
    }
    assert ledger().customers == {"train": 3, "test": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"read": 11},  # lost on the way to cleaning
        {"read": 9},  # read once, there twice
        {"routed": 8, "used": 7},  # in two buckets
        {"routed": 6, "used": 5},  # lost on the way to its bucket
        {"routed": 6},  # used, but in no bucket
        {"used": 5},  # in its bucket, but not aggregated
        {"used": 7},  # aggregated twice
        {"bad_amount": 2, "letters": 2},  # two dead letters of one line
        {"after_window": 1},
        {"no_order_before_cutoff": 0},
    ],
    ids=str,
)
def test_a_line_lost_or_counted_twice_is_a_defect(changes: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match="lines do not add up"):
        ledger(**changes)


@pytest.mark.parametrize("written", [0, 2])
def test_a_dead_letter_that_is_not_written_or_twice_is_a_defect(written: int) -> None:
    with pytest.raises(
        RuntimeError, match=f"bad_amount': 1.* are dead letters, but .*{written or '{}'}.* were written"
    ):
        ledger(letters=written)


def test_no_customer_at_all_is_bad_input_and_no_defect() -> None:
    nobody = {"train": 0, "test": 0, "used": 0, "no_order_before_cutoff": 7}
    with pytest.raises(UsageError, match="no customer has a usable order before the cutoff: 10 lines read"):
        ledger(**nobody)


# --- What the last step holds against what -----------------------------------------------------------------------------


def described(rows: int) -> Statistics:
    return Statistics({"train": Split(rows, {})}, {"2011-01-01": rows})


def daily(first_days: int, days: int = 1) -> pa.Table:
    """The activity of ``first_days`` customers who came on the first of the days, and were back on each of them."""
    first, counts = datetime.date(2000, 1, 1), pa.array([first_days] * days)
    return pa.table({
        "day": [first + datetime.timedelta(day) for day in range(days)], "order_days": counts,
        "first_days": [first_days] + [0] * (days - 1), "value": pa.array([Decimal("1.5")] * days, pa.decimal128(38, 9)),
    })  # fmt: skip


def complete(
    directory: Path,
    *,
    lines: int = 10,
    parts: tuple[int, ...] = (3, 1),
    rows: int = 4,
    first_days: int = 4,
    days: int = 1,
    training: Statistics | None = None,
) -> dict[str, Any]:
    """The last step with an honest ledger, its parts holding these numbers of rows."""
    output = str(directory / "out")
    storage.begin(output, "predictions", {"orders": "o.csv"}, "a")
    completion = Completion(
        output, "predictions", {"orders": "o.csv"}, {}, "a", lines, None, training, skew_thresholds.read()
    )
    counts = [count for count in HONEST.items() if count[0] != ("dead_letters", "bad_amount")]
    counts += [(("excluded", "no_customer"), 1)]
    counts = [((key, 0) if key == ("letters", "") else (key, count)) for key, count in counts]
    listed = [{"name": f"part-{i}", "rows": n, "sha256": ""} for i, n in enumerate(parts)]
    (manifest,) = _Complete(completion).process(None, counts, listed, [described(rows)], [daily(first_days, days)])
    return manifest


def test_an_honest_job_is_completed(tmp_path: Path) -> None:
    assert complete(tmp_path)["rows"] == 4


@pytest.mark.parametrize(
    ("tampered", "error", "said"),
    [
        ({"lines": 11}, UsageError, "o.csv had 11 lines when the job began, and 10 when it read them"),
        ({"parts": (3,)}, RuntimeError, "4 customers were counted"),
        ({"parts": (3, 1, 1)}, RuntimeError, "4 customers were counted"),
        ({"rows": 3}, RuntimeError, "4 customers were counted"),
        ({"first_days": 5}, RuntimeError, "4 customers were counted, but 5 first days"),
    ],
    ids=str,
)
def test_what_does_not_add_up_is_not_completed(
    tmp_path: Path, tampered: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        complete(tmp_path, **tampered)
    assert not (tmp_path / "out" / storage.MANIFEST).exists()


def test_a_long_activity_loses_its_first_days_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = complete(tmp_path / "short", days=activity.MOST_DAYS)
    assert len(short["activity"]) == activity.MOST_DAYS and "activity_days_left_out" not in short
    long = complete(tmp_path / "long", days=activity.MOST_DAYS + 3)
    assert list(long["activity"])[:2] == ["2000-01-04", "2000-01-05"] and len(long["activity"]) == activity.MOST_DAYS
    assert long["activity_days_left_out"] == 3 and long["activity"]["2000-01-04"] == [4, 0, "1.5"]
    snapshot_job.report("features", long, "out")
    assert "activity: the first 3 days are left out" in capsys.readouterr().err


# --- What the manifest waits for ------------------------------------------------------------------------------------


def steps_before(pipeline: Any, last: str) -> tuple[set[str], set[str]]:
    """(all steps, those whose elements reach the step ``last``, as its input or a side input): full names."""
    graph = pipeline.to_runner_api().components
    steps = {
        step.unique_name: step
        for step in graph.transforms.values()
        # Neither composites nor what only hands its input on.
        if not step.subtransforms and not set(step.outputs.values()) & set(step.inputs.values())
    }
    maker = {made: name for name, step in steps.items() for made in step.outputs.values()}
    (at,) = [name for name in steps if last in name.split("/")]
    reached: set[str] = set()
    open_ends = [at]
    while open_ends:
        for collection in steps[open_ends.pop()].inputs.values():
            if maker[collection] not in reached:
                reached.add(maker[collection])
                open_ends.append(maker[collection])
    return set(steps), reached


def build(module: Any, directory: Path, *arguments: Any) -> Any:
    """The graph of the command on the shop, not run."""
    argv = ["--orders", features_data.shop_file(), "--output", str(directory), *map(str, arguments)]
    parse = module.FeaturesOptions.parse if module is features else module.PredictOptions.parse
    parsed, beam_arguments = parse(argv)
    source = orders_arguments.open_orders(parsed.orders)
    cutoff = datetime.date(2011, 1, 1)
    snapshot = Snapshot(cutoff, features_data.SHOP_HORIZON_DAYS, labels=module is features)
    beam_options = options.pipeline_options(beam_arguments)
    return module.build_pipeline(parsed, beam_options, source, snapshot, {"model_version": "m", "orders": "shop"})


WINDOW = ("--cutoff", "2011-01-01", "--horizon_days", features_data.SHOP_HORIZON_DAYS)


def analysed() -> str:
    """The features directory of the shop whose transform is its own."""
    cycle = features_data.shop_cycle()
    return cycle.build.features(cycle.build.training_cutoffs[0])


@pytest.mark.parametrize(
    ("command", "writers"),
    [
        ("features", ["AggregateBucket", "WriteDeadLetters", "WriteTransform", "WriteTransformed"]),
        ("features again", ["AggregateBucket", "WriteDeadLetters", "WriteTransformed"]),
        ("predict", ["AggregateBucket", "WriteDeadLetters", "Score", "AddDeciles"]),
    ],
)
def test_the_manifest_waits_for_every_writer(command: str, writers: list[str], tmp_path: Path) -> None:
    if command == "predict":
        pipeline = build(predict, tmp_path, "--model", features_data.shop_cycle().serve.model)
    else:
        reuse = ("--reuse_transform", analysed()) if command == "features again" else ()
        pipeline = build(features, tmp_path, *WINDOW, *reuse)
    steps, reached = steps_before(pipeline, "Complete")
    for writer in writers:
        of_writer = {name for name in steps if writer in name.split("/")}
        assert of_writer, f"no step is called {writer}"
        assert of_writer <= reached, f"the manifest does not wait for {sorted(of_writer - reached)}"


# --- Scratch space --------------------------------------------------------------------------------------------------


def names(directory: str | Path) -> set[str]:
    return {path.name for path in Path(directory).iterdir()}


def scratch(directory: str | Path) -> set[str]:
    """The kinds of scratch space in an output: ``_buckets`` and ``_temp``, of whatever attempt."""
    return {name.split("-")[0] for name in names(directory) if name.startswith("_")} - {storage.STARTED}


def test_scratch_space_is_gone_after_success() -> None:
    cycle = features_data.shop_cycle()
    for directory in (
        *map(cycle.build.features, (*cycle.build.training_cutoffs, cycle.build.cutoff)),
        cycle.serve.predictions,
    ):
        assert storage.MANIFEST in names(directory)
        assert not scratch(directory)


@pytest.mark.parametrize("command", ["features", "predict"])
def test_scratch_space_is_gone_after_a_failure(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while everything but the manifest is written."""
    cycle, output = features_data.shop_cycle(), tmp_path / "out"
    before: list[set[str]] = []

    def full(counts: Any) -> Ledger:
        before.append(scratch(output))
        raise OSError("No space left on device")

    monkeypatch.setattr(Ledger, "of", full)
    argv = ["--orders", features_data.shop_file(), "--output", str(output)]
    with pytest.raises(Exception, match="No space left on device"):
        if command == "features":
            features.run([*argv, *map(str, WINDOW), "--reuse_transform", analysed()])
        else:
            predict.run([*argv, "--model", cycle.serve.model])
    # tf.Transform needs its space only to analyse.
    expected = {"_buckets"} if command == "features" else {"_buckets", "_temp"}
    assert before and all(expected <= seen for seen in before)
    assert storage.STARTED in names(output) and storage.MANIFEST not in names(output)
    assert not scratch(output)


# --- Overtaken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["features", "predict"])
def test_a_job_that_was_overtaken_writes_no_part(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Workers elsewhere go on when another attempt has begun; here from the moment at which the job is submitted."""
    monkeypatch.setattr("pipelines.options.is_local", lambda _: False)
    output, execute = tmp_path / "out", run_job.execute

    def overtaken(pipeline: Any, name: str) -> bool:
        started = storage.read_bytes(str(output / storage.STARTED))
        storage.write_bytes(str(output / storage.STARTED), started.replace(b'"attempt": "', b'"attempt": "later-'))
        return execute(pipeline, name)

    monkeypatch.setattr(run_job, "execute", overtaken)
    argv = ["--orders", features_data.shop_file(), "--output", str(output)]
    with pytest.raises(UsageError, match="was begun anew by another run: this one does not finish it"):
        if command == "features":
            features.run([*argv, *map(str, WINDOW), "--reuse_transform", analysed()])
        else:
            predict.run([*argv, "--model", features_data.shop_cycle().serve.model])
    assert not [path for path in output.rglob("*") if path.suffix == ".parquet" or path.name == storage.MANIFEST]
    assert not scratch(output)


def test_a_job_that_was_overtaken_leaves_what_the_next_one_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers elsewhere transform the first batch of customers when another attempt begins, and completes the output."""
    monkeypatch.setattr("pipelines.options.is_local", lambda _: False)
    orders = tmp_path / "orders.csv"
    csv.write_csv(pq.read_table(features_data.shop_file()), orders)
    orders.write_text(orders.read_text() + "no,line\n")
    output, completed = tmp_path / "out", dict[str, tuple[int, bytes]]()
    argv = ["--orders", str(orders), "--output", str(output), "--buckets", "3", *map(str, WINDOW)]
    write = transform_customers._WriteTransformed.process

    def contents() -> dict[str, tuple[int, bytes]]:
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*") if path.is_file()}

    def overtaken(*arguments: Any) -> Any:
        made = list(write(*arguments))
        if not completed:
            monkeypatch.setattr(transform_customers._WriteTransformed, "process", write)
            assert features.main(argv) == 0
            completed.update(contents())
        yield from made

    monkeypatch.setattr(transform_customers._WriteTransformed, "process", overtaken)
    with pytest.raises(UsageError, match="was begun anew by another run: this one does not finish it"):
        features.run(argv)
    assert contents() == completed
    assert [path for path in completed if "/dead_letters/" in path]


def test_a_last_step_that_comes_after_another_attempts_writes_nothing(tmp_path: Path) -> None:
    """Its customers are others, as those of a table that changed meanwhile."""
    complete(tmp_path)
    output = tmp_path / "out"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="was finished by another run meanwhile"):
        complete(tmp_path, days=2, training=described(8))
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*") if path.is_file()
    } == before


def test_a_manifest_written_into_the_next_attempts_output_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write = str(tmp_path / "out"), storage.write_bytes
    storage.begin(output, "features", {}, "first")

    def meanwhile(uri: str, content: bytes) -> None:
        monkeypatch.undo()
        storage.begin(output, "features", {}, "second")
        write(uri, content)

    monkeypatch.setattr(storage, "write_bytes", meanwhile)
    with pytest.raises(UsageError, match="was begun anew by another run"):
        storage.finish(output, "features", {}, {"rows": 1}, "first")
    assert names(output) == {storage.STARTED}
    assert storage.finish(output, "features", {}, {"rows": 2}, "second")["rows"] == 2
