"""The parts of the warehouse's preparation, one by one: they make what the whole makes, and say what is missing."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from orchestration import prepare
from pipelines import bigquery as bq
from pipelines.bigquery import Load
from tests import order_strategies
from tests.orchestration import test_prepare
from tests.orchestration.test_prepare import (
    DAY,
    NEXT_DAY,
    Upload,
    arguments,
    csv_text,
    emulated,
    expected_orders,
    letters_of,
    parquet,
    stored,
    table,
)  # fmt: skip
from tests.order_strategies import INPUTS, line
from transforms.cli import ArgumentParser

upload = test_prepare.upload

PLAIN = ["--dataset", "my-project.shop", "--loaded_on", "2012-03-01"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--orders is missing: accepted without it are --only dataset and --only clean"),
        (["--only", "load"], "--orders is missing"),
        (["--only", "dataset", "--print_sql"], "--print_sql with --only dataset, which has no statement: accepted is"),
    ],
)
def test_what_does_not_go_together(more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main([*PLAIN, *more]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ") and said in told


NO_ENGINES = """
import sys
sys.modules.update(dict.fromkeys(("apache_beam", "tensorflow", "tensorflow_transform")))  # importing one fails
from orchestration import {module} as command
sys.exit(command.main({argv}))
"""


def without_engines(module: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """A command in a process like Airflow's, which need have neither Beam nor TensorFlow."""
    script = NO_ENGINES.format(module=module, argv=argv)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


def only(part: str, uri: str | None, dataset: str, day: datetime.date = DAY, *more: str) -> dict[str, Any]:
    return prepare.run([*arguments(uri or "gs://nobody/reads.csv", dataset, day, *more), "--only", part])


@emulated
@pytest.mark.parametrize("kind", ["csv", "foreign.csv", "parquet", "typed.parquet"])
@pytest.mark.parametrize("replaced", [False, True])
def test_the_parts_make_what_the_whole_makes(
    kind: str, replaced: bool, upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = order_strategies.awkward_orders()
    more = ["--replace"] if replaced else []
    content = csv_text(rows)
    if kind == "foreign.csv":
        foreign = ("Customer ID", "date", "Date", "Menge", "_TABLE_", "", "é`", "country", "channel", "category")
        content = csv_text(rows, foreign, ";")
        pairs = zip(INPUTS, foreign[:5], strict=False)
        more += ["--columns", ",".join(f"{ours}={theirs}" for ours, theirs in pairs), "--csv_delimiter", ";"]
    elif kind == "parquet":
        content = parquet(order_strategies.to_table(rows))
    elif kind == "typed.parquet":
        content = parquet(typed_orders())
        more += ["--columns", "customer_id=Customer ID"]
    uri = upload(f"in/orders.{kind}", content)
    parts, whole = f"{dataset}_parts", f"{dataset}_whole"
    expected = prepare.run(arguments(uri, whole, DAY, *more))

    capsys.readouterr()
    first = only("dataset", None, parts, DAY, *more)
    head = {"dataset": parts, "location": "US", "loaded_on": str(DAY)}
    tables = {name: table.replace(whole, parts) for name, table in expected["tables"].items()}
    assert first == head | {"tables": tables}
    for again in range(2):  # each may run again, with its successor or alone
        loaded = only("load", uri, parts, DAY, *more)
        assert set(loaded) == {*first, "files", "rows_loaded", "bytes_loaded", "job_ids"}
        assert loaded["files"] == expected["files"] and loaded["rows_loaded"] == expected["rows_loaded"]
        for _ in range(2 - again):
            # The raw table knows which columns are ours.
            cleaned = only("clean", None, parts, DAY, *(["--replace"] if replaced else []))
            printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert printed[-1] == cleaned
            counts = ("rows_loaded", "orders", "excluded", "dead_letters")
            assert {name: cleaned[name] for name in counts} == {name: expected[name] for name in counts}
            assert set(cleaned) == {*first, *counts, "snapshot_time", "bytes_processed", "job_ids"}
            assert set(cleaned["job_ids"]) == {"account", "dead_letters", "orders", "written"}
            assert stored(parts) == stored(whole)
            assert letters_of(table(parts, "order_dead_letters")) == letters_of(table(whole, "order_dead_letters"))
    assert set(expected) == {*first, *loaded, *cleaned}


def typed_orders() -> pa.Table:
    """One line for every type that BigQuery loads, some of them unusable."""
    instants = [datetime.datetime(2012, 2, 2, 23, 30), datetime.datetime(1899, 12, 31), None, None]
    return pa.table(
        {
            "Customer ID": pa.array([12346, 7, None, 8]),
            "ordered_at": pa.array(instants, pa.timestamp("ms", "Europe/Berlin")),
            "amount": pa.array([Decimal("19.9900000005"), None, None, Decimal("-1")], pa.decimal128(20, 10)),
            "quantity": pa.array([Decimal(1), Decimal("1.5"), None, None], pa.decimal128(4, 1)),
            "unit_price": pa.array([0.1, float("nan"), 3.0, None]),
            "country": pa.array(["DE", "", None, ""]).dictionary_encode(),
            "channel": pa.nulls(4),
            "not ours": pa.array([1, 2, 3, 4]),
        }
    )


@emulated
def test_a_part_says_what_has_to_run_before(upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    fresh = f"{dataset}_fresh"

    def refused(part: str, day: datetime.date = DAY, *more: str) -> str:
        capsys.readouterr()
        assert prepare.main([*arguments(uri, fresh, day, *more), "--only", part]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        return told

    for part in ("load", "clean"):
        assert (
            f"--dataset {fresh} is not there: accepted is to run python -m orchestration.prepare --only dataset"
            in refused(part)
        )
    bq.client("test-project").create_dataset(fresh)
    only("load", uri, fresh)
    assert (
        f"table {fresh}.orders is not there: accepted is to run python -m orchestration.prepare --only dataset"
        in refused("clean")
    )
    only("dataset", uri, fresh)
    assert f"raw table {fresh}.raw_orders_20120302 is not there: accepted is to run" in refused("clean", NEXT_DAY)
    assert "--only load" in refused("clean", NEXT_DAY)
    assert "is not where --dataset" in refused("load", DAY, "--location", "EU")
    bq.client("test-project").query(f"CREATE TABLE `{fresh}.theirs_20120301` AS SELECT 'a' AS customer_id").result()
    assert "theirs_20120301 is no raw table, or of an older version" in refused("clean", DAY, "--raw_table", "theirs")
    assert only("clean", None, fresh)["orders"] == 1


@emulated
def test_clean_takes_the_columns_that_were_loaded(
    upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = upload("orders.csv", b"who,ordered_at,amount,gross\na,2012-02-02,1,2\n")
    only("dataset", None, dataset)
    only("load", uri, dataset, DAY, "--columns", "customer_id=who")
    only("clean", None, dataset, DAY, "--columns", "customer_id=who")
    for other in ("amount=gross", "channel=who"):
        assert prepare.main([*arguments(uri, dataset, DAY, "--columns", other), "--only", "clean"]) == 2
        assert f"--columns '{other}' is not usable: accepted is " in capsys.readouterr().err
    upload("orders.csv", b"who,ordered_at,amount\na,2012-02-30,1\n")
    only("load", uri, dataset, DAY, "--columns", "customer_id=who")
    assert prepare.main(["--loaded_on", str(DAY), "--dataset", dataset, "--only", "clean"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"raw table {dataset}.raw_orders_20120301 has 1 lines, none of them usable (bad_ordered_at 1; see" in told


@emulated
def test_another_days_lines_are_never_cleaned(upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = upload("1.csv", csv_text([line("a", "2012-02-02", "1")]))
    second = upload("2.csv", csv_text([line("b", "2012-02-03", "1")]))
    only("dataset", None, dataset)
    for day, uri in ((DAY, first), (NEXT_DAY, second)):  # a raw table each
        only("load", uri, dataset, day)
    only("clean", None, dataset, DAY)
    assert {row[0] for row in stored(dataset)} == {"a"}
    for day, uri in ((DAY, first), (NEXT_DAY, second)):  # one for all
        only("load", uri, dataset, day, "--replace")
    assert prepare.main([*arguments(first, dataset, DAY, "--replace"), "--only", "clean"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"raw table {dataset}.raw_orders holds the lines of 2012-03-02, not of --loaded_on 2012-03-01" in told
    only("clean", None, dataset, NEXT_DAY, "--replace")
    assert {row[0] for row in stored(dataset)} == {"b"}


@emulated
def test_the_days_lines_loaded_anew_while_they_are_cleaned_end_it_with_1(
    upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    only("dataset", None, dataset)
    only("load", uri, dataset)
    run_query = bq.run

    def after_a_load(query: bq.Query) -> Any:
        if "-account-" in query.name:
            upload("orders.csv", csv_text([line("a", "2012-02-02", "1")] * 3))
            only("load", uri, dataset)
        return run_query(query)

    monkeypatch.setattr(bq, "run", after_a_load)
    assert prepare.main(["--loaded_on", str(DAY), "--dataset", dataset, "--only", "clean"]) == 1
    assert "1 lines were loaded, 3 accounted for" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(bq, "run", run_query)
    assert only("clean", None, dataset)["orders"] == 3


@emulated
@pytest.mark.parametrize("parts", [(None,), ("dataset", "load", "clean")])
def test_the_snapshot_time_is_that_of_the_orders_written(
    parts: tuple[str | None, ...], upload: Upload, dataset: str
) -> None:
    from pipelines import orders_arguments

    rows = order_strategies.awkward_orders()
    uri = upload("orders.csv", csv_text(rows))
    for part in parts:
        result = prepare.run([*arguments(uri, dataset), *(["--only", part] if part else [])])
    prepare.run(arguments(upload("more.csv", csv_text([line("z", "2012-02-02", "1")] * 5)), dataset, NEXT_DAY))
    parser = ArgumentParser("test")
    orders_arguments.add(parser)

    def lines(*more: str) -> int:
        given = parser.parse_args(["--orders", f"bigquery://{dataset}.orders", *more])
        return orders_arguments.open_orders(orders_arguments.OrdersArguments.take(given)).rows

    assert lines("--snapshot_time", result["snapshot_time"]) == result["orders"] == lines() - 5


@emulated
def test_print_sql_of_the_cleaning_alone(upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = order_strategies.awkward_orders()
    for name, content in (("1.csv", csv_text(rows)), ("1.parquet", parquet(order_strategies.to_table(rows)))):
        uri = upload(name, content)
        prepare.run(arguments(uri, dataset))
        capsys.readouterr()
        whole = prepare.run([*arguments(uri, dataset), "--print_sql"])
        assert prepare.run(["--loaded_on", str(DAY), "--dataset", dataset, "--only", "clean", "--print_sql"]) == whole


@emulated
def test_descriptions_that_a_load_leaves_out_are_made_up_for(
    upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_load = bq.run_load

    def without_descriptions(load: Load) -> Any:
        """As BigQuery might do where files have a schema of their own."""
        return run_load(replace(load, fields=tuple(field[:2] for field in load.fields)))

    monkeypatch.setattr(bq, "run_load", without_descriptions)
    rows = order_strategies.awkward_orders()
    only("dataset", None, dataset)
    only("load", upload("orders.parquet", parquet(order_strategies.to_table(rows))), dataset)
    only("clean", None, dataset)
    assert stored(dataset) == expected_orders(rows, DAY)


@emulated
def test_the_command_needs_neither_beam_nor_tensorflow(upload: Upload, dataset: str) -> None:
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    done = without_engines("prepare", arguments(uri, dataset))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["orders"] == 1
