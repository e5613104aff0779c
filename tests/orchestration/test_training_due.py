"""Whether a training is due: the decision by itself, the query on GoogleSQL, the command against the emulators."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration import prepare, training_due
from orchestration.training_due import Orders, Rule, decide
from pipelines import bigquery as bq
from pipelines.bigquery import Table
from tests.googlesql.service import GoogleSql, unavailable_reason
from tests.orchestration import test_prepare
from tests.orchestration.test_prepare import Upload
from tests.orchestration.test_prepare_parts import without_engines
from tests.trainer.registry_models import small
from trainer import registry
from transforms import storage

Day = datetime.date
LAST, NOW = Day(2011, 10, 30), datetime.datetime(2011, 11, 8, tzinfo=datetime.UTC)
SINCE = "have come since the training on 2011-10-30"
FIELDS = ["due", "reason", "new_orders", "last_trained_on", "first_day", "snapshot_time"]


def orders(lines: int, new: int = 0) -> Orders:
    return Orders(lines, new, Day(2011, 1, 1) if lines else None, NOW)


@pytest.mark.parametrize(
    ("rule", "last", "found", "due", "reason"),
    [
        (Rule(LAST, 7), None, orders(0), False, "no order is loaded up to 2011-10-30"),
        (Rule(LAST, 7), Day(2011, 1, 1), orders(0), False, "no order is loaded up to 2011-10-30"),
        (Rule(LAST, 7), None, orders(1, 1), True, "no version of this horizon is registered yet"),
        (Rule(Day(2011, 11, 5), 7), LAST, orders(9), False, "6 of 7 days have passed since the training on 2011-10-30"),
        (Rule(Day(2011, 11, 6), 7), LAST, orders(9), True, "7 of 7 days have passed since the training on 2011-10-30"),
        (Rule(LAST, 1), LAST, orders(9), False, "0 of 1 days have passed since the training on 2011-10-30"),
        (
            Rule(Day(2011, 11, 1), 7, 1000), LAST, orders(9999, 999), False,
            f"2 of 7 days {SINCE.replace('come', 'passed')}, and 999 of 1,000 new orders {SINCE}",
        ),
        (
            Rule(Day(2011, 11, 1), 7, 1000), LAST, orders(9999, 1000), True,
            f"1,000 of 1,000 new orders {SINCE}",
        ),
        (
            Rule(Day(2011, 10, 29), 1, 1), LAST, orders(9, 9), False,
            "the last training was on 2011-10-30, after 2011-10-29",
        ),
    ],
)  # fmt: skip
def test_the_decision(rule: Rule, last: Day | None, found: Orders, due: bool, reason: str) -> None:
    assert decide(rule, last, found) == (due, reason)


days = st.dates(Day(2011, 1, 1), Day(2011, 3, 1))


@given(
    on=days, last=st.none() | days, every=st.integers(1, 40), after=st.none() | st.integers(1, 20),
    lines=st.integers(0, 30), new=st.integers(0, 30), later=st.integers(0, 40), more=st.integers(0, 20),
)  # fmt: skip
def test_time_and_orders_only_bring_a_training_nearer(
    on: Day, last: Day | None, every: int, after: int | None, lines: int, new: int, later: int, more: int
) -> None:
    new = lines if last is None else min(new, lines)
    due, _ = decide(Rule(on, every, after), last, orders(lines, new))
    then, _ = decide(Rule(on + datetime.timedelta(later), every, after), last, orders(lines + more, new + more))
    assert then or not due
    # A training on the day itself, or beyond it, is the answer to every reason there was.
    for trained in (on, on + datetime.timedelta(later)):
        assert not decide(Rule(on, every, after), trained, orders(lines, 0))[0]
    within_a_cycle, _ = decide(Rule(on, 10**4, None), last, orders(lines, new))
    assert within_a_cycle == (last is None and lines > 0)


def test_the_newest_version_of_the_horizon_counts() -> None:
    versions = [
        {"horizon_days": 90, "evaluation_cutoff": "2011-08-01"},
        {"horizon_days": 90, "evaluation_cutoff": "2011-07-01"},  # registered after it: trained for an earlier day
        {"horizon_days": 30, "evaluation_cutoff": "2011-12-01"},
    ]
    assert training_due.last_trained_on(versions, 90) == Day(2011, 10, 30)
    assert training_due.last_trained_on(versions, 30) == Day(2011, 12, 31)
    assert training_due.last_trained_on(versions, 60) is None


# --- The query, on Google's own analyser and evaluator ---------------------------------------------------------------


@pytest.fixture(scope="module")
def googlesql() -> Iterator[GoogleSql]:
    if reason := unavailable_reason():
        pytest.skip(reason)
    with GoogleSql() as engine:
        yield engine


ORDERS = Table("my-project", "shop", "orders")


@pytest.mark.parametrize(
    ("on", "last", "expected"),
    [
        (Day(2011, 11, 3), Day(2011, 11, 1), (4, 2, Day(2010, 12, 1))),
        (Day(2011, 11, 3), None, (4, 4, Day(2010, 12, 1))),
        (Day(2011, 11, 1), Day(2011, 11, 1), (2, 0, Day(2011, 1, 5))),
        (Day(2011, 10, 1), None, (0, 0, None)),
    ],
)
def test_the_query_on_googlesql(googlesql: GoogleSql, on: Day, last: Day | None, expected: tuple[Any, ...]) -> None:
    loaded_on = [Day(2011, 11, 1), Day(2011, 11, 1), Day(2011, 11, 2), Day(2011, 11, 3), Day(2011, 11, 4)]
    first = [Day(2011, 1, 5), Day(2011, 11, 1), Day(2010, 12, 1), Day(2011, 11, 3), Day(2009, 1, 1)]
    table = pa.table({"loaded_on": loaded_on, "order_day": first})
    sql = training_due.count_sql(ORDERS, on, last)
    (row,) = googlesql.evaluate(sql, {str(ORDERS): table}).to_pylist()
    assert (row["order_lines"], row["new_lines"], row["first_day"]) == expected
    assert row["counted_at"].tzinfo


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--orders_table": "orders"}, "--orders_table 'orders' is not usable: accepted is project.dataset.table"),
        ({"--registry": "s3://b/r"}, "--registry 's3://b/r' is not usable: accepted is a local directory or gs://"),
        ({"--every_days": "0"}, "accepted is a whole number of at least 1"),
        ({"--after_new_orders": "few"}, "accepted is a whole number of at least 1"),
        ({"--horizon_days": "0"}, "accepted is a whole number from 1 to"),
        ({"--on": "today"}, "accepted is a date such as 2011-08-08"),
        ({"--evry_days": "1"}, "did --evry_days mean --every_days?"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(
    changed: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**dict(zip(BASE[::2], BASE[1::2], strict=True)), "--orders_table": f"bigquery://{ORDERS}", **changed}
    assert training_due.main([part for pair in {"--registry": "registry", **given}.items() for part in pair]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ") and said in told


def test_help_teaches_at_once() -> None:
    script = (
        "import sys\nfrom orchestration import training_due\ntry: training_due.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'google.cloud.bigquery', 'pyarrow', 'ibis', 'apache_beam', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--every_days 7 --after_new_orders 100000" in done.stdout, done.stderr


emulated = pytest.mark.emulators
BASE = ["--horizon_days", "90", "--on", "2011-11-03", "--every_days", "30"]
upload = test_prepare.upload


@pytest.fixture
def prepared(upload: Upload, dataset: str) -> str:
    """A table of two days of orders, 3 lines and then 2, by the command that makes such tables."""
    for day, dates in (("2011-10-30", ("10-01", "09-15", "10-29")), ("2011-11-02", ("11-01", "11-02"))):
        lines = "".join(f"c,2011-{date},1\n" for date in dates)
        uri = upload(f"{day}/orders.csv", f"customer_id,ordered_at,amount\n{lines}".encode())
        prepare.run(["--orders", uri, "--dataset", dataset, "--loaded_on", day])
    return f"bigquery://{dataset}.orders"


def due(table: str, place: str, *more: str) -> dict[str, Any]:
    answer = training_due.run(["--orders_table", table, "--registry", place, *BASE, *more])
    assert list(answer) == FIELDS
    return answer


@emulated
def test_a_registry_and_orders(prepared: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"gs://{bucket}/registry"
    first = due(prepared, place)
    assert first.pop("snapshot_time").endswith("Z")
    assert first == {
        "due": True, "reason": "no version of this horizon is registered yet", "new_orders": 5, "last_trained_on": None,
        "first_day": "2011-09-15",
    }  # fmt: skip
    # Judged on a snapshot of 2011-08-01, 90 days before 2011-10-30; nobody made it champion.
    registry.run(["register", "--registry", place, "--model", small(tmp_path / "v1", "v1")])
    answer = due(prepared, place, "--after_new_orders", "3")
    capsys.readouterr()
    assert (answer["due"], answer["new_orders"], answer["last_trained_on"]) == (False, 2, "2011-10-30")
    for more, expected in (
        (("--after_new_orders", "2"), True),
        (("--every_days", "4"), True),
        (("--every_days", "5"), False),
        (("--on", "2011-11-01", "--after_new_orders", "1"), False),  # the two lines came a day later
        (("--horizon_days", "30"), True),  # nobody trained for that one
        (("--on", "2011-10-01", "--horizon_days", "30"), False),  # no order yet
    ):
        assert training_due.main(["--orders_table", prepared, "--registry", place, *BASE, *more]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["due"] is expected, (more, answer)
    client = bq.client("test-project")
    pinned = f"SELECT COUNT(*) AS n FROM `{prepared.removeprefix('bigquery://')}` FOR SYSTEM_TIME AS OF "
    (row,) = client.query(f"{pinned}TIMESTAMP '{answer['snapshot_time']}'").result()
    assert row["n"] == 5
    assert (answer["reason"], answer["first_day"]) == ("no order is loaded up to 2011-10-01", None)


@emulated
def test_a_version_that_was_cut_off_was_not_trained(prepared: str, tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    registry.run(["register", "--registry", place, "--model", small(tmp_path / "v1", "v1")])
    assert not due(prepared, place)["due"]
    Path(place, "models", "v1", storage.MANIFEST).unlink()
    assert due(prepared, place)["due"]


@emulated
def test_what_is_no_table_of_prepared_orders_is_refused(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = bq.client("test-project")
    client.query(f"CREATE TABLE `{dataset}.plain` AS SELECT 'a' AS customer_id").result()
    client.query(f"CREATE TABLE `{dataset}.texts` AS SELECT '2011-11-01' AS loaded_on").result()
    for name, said in (
        ("plain", f"--orders_table {dataset}.plain has no column loaded_on: accepted is a table of"),
        ("texts", f"--orders_table {dataset}.texts has loaded_on as STRING: accepted is a table of"),
        ("none", f"--orders_table {dataset}.none: "),
    ):
        argv = ["--orders_table", f"bigquery://{dataset}.{name}", "--registry", str(tmp_path), *BASE]
        assert training_due.main(argv) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("error: ") and said in told


@emulated
def test_a_limit_of_bytes_and_labels_reach_the_query(prepared: str, tmp_path: Path) -> None:
    due(prepared, str(tmp_path), "--maximum_bytes_billed", "12345678", "--project", "other-project")
    (job,) = (j for j in bq.client("other-project").list_jobs() if j.job_id.startswith("clv-training-due-20111103-"))
    assert (job.maximum_bytes_billed, job.labels) == (12345678, {"step": "training_due"})


@emulated
def test_the_command_needs_neither_beam_nor_tensorflow(prepared: str, tmp_path: Path) -> None:
    argv = ["--orders_table", prepared, "--registry", str(tmp_path), *BASE]
    done = without_engines("training_due", argv)
    assert done.returncode == 0 and json.loads(done.stdout)["due"], done.stderr
