"""The arguments that name orders: what goes with what, what is passed on, and --print_sql, which runs nothing."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import features, orders_arguments
from pipelines.orders_arguments import OrdersArguments
from tests.order_strategies import CUTOFF
from tests.pipelines.features_data import WINDOW, refused, shop_file
from transforms.errors import UsageError

TABLE = "bigquery://my-project.shop.orders"
MAKE = [*WINDOW, "--output", "never-made"]


def parse(argv: list[str]) -> OrdersArguments:
    parser = argparse.ArgumentParser(exit_on_error=False)
    orders_arguments.add(parser)
    return OrdersArguments.take(parser.parse_args(argv))


# --- Passing on -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "columns": TEXT,
        "csv_delimiter": st.characters(codec="ascii", exclude_characters="\x00"),
        "csv_encoding": TEXT,
        "buckets": st.integers(1, 2**16 - 1),
        "snapshot_time": st.datetimes(timezones=st.sampled_from((datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=45))))),
        "maximum_bytes_billed": st.integers(1, 2**63),
        "no_pushdown": st.just(True),
        "features_table": TEXT,
    },
)  # fmt: skip


@given(st.sampled_from(("orders", "orders_query")), TEXT, GIVEN)
def test_what_was_given_is_passed_on(name: str, value: str, given: dict[str, Any]) -> None:
    argv = [f"--{name}={value}"] + [f"--{key}" if v is True else f"--{key}={v}" for key, v in given.items()]
    arguments = parse(argv)
    assert parse(arguments.given()) == arguments
    assert all(getattr(arguments, key) == value for key, value in given.items())


def test_nothing_but_the_orders_is_passed_on() -> None:
    assert parse(["--orders", TABLE]).given() == ["--orders", TABLE]


@pytest.mark.parametrize("text", ["2011-12-09T22:00:00", "2011-12-09 22:00:00Z", "2011-12-10T03:45+05:45"])
def test_a_time_without_zone_is_utc(text: str) -> None:
    assert orders_arguments.instant(text) == datetime.datetime(2011, 12, 9, 22, tzinfo=datetime.UTC)


# --- What goes with what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("snapshot_time", "2026-01-01"),
        ("maximum_bytes_billed", "10"),
        ("no_pushdown", None),
        ("features_table", "p.d.t"),
    ],
)
def test_what_is_about_bigquery_is_refused_with_files(
    capsys: pytest.CaptureFixture[str], name: str, value: str | None
) -> None:
    given = [f"--{name}", *([value] if value else [])]
    error = refused(capsys, features.main, ["--orders", shop_file(), *given, *MAKE])
    assert f"--{name} is about orders in BigQuery" in error and "shop.parquet" in error


@pytest.mark.parametrize(
    ("orders", "named"),
    [
        (["--orders", TABLE, "--orders_query", "orders.sql"], "--orders_query"),
        ([], "--orders --orders_query"),
    ],
)
def test_orders_come_from_one_place(capsys: pytest.CaptureFixture[str], orders: list[str], named: str) -> None:
    assert named in refused(capsys, features.main, [*orders, *MAKE])


@pytest.mark.parametrize(
    ("argument", "value", "accepted"),
    [
        ("--snapshot_time", "yesterday", "a time such as 2011-12-09T22:00:00Z"),
        ("--maximum_bytes_billed", "0", "a whole number of at least 1"),
        ("--maximum_bytes_billed", "10GB", "a whole number of at least 1"),
    ],
)
def test_a_bad_value_is_named(capsys: pytest.CaptureFixture[str], argument: str, value: str, accepted: str) -> None:
    error = refused(capsys, features.main, ["--orders", TABLE, argument, value, *MAKE])
    assert argument in error and value in error and accepted in error


def test_a_snapshot_time_to_come_is_refused_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    error = refused(capsys, features.main, ["--orders", TABLE, "--snapshot_time", tomorrow.isoformat(), *MAKE])
    assert error.startswith("--snapshot_time") and str(tomorrow) in error and "a time that is past" in error


def test_the_features_table_comes_of_the_pushed_down_query(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(
        capsys, features.main, ["--orders", TABLE, "--no_pushdown", "--features_table", "my-project.shop.f", *MAKE]
    )
    assert "--features_table" in error and "--no_pushdown" in error


def test_print_sql_is_about_bigquery(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--print_sql is about" in refused(capsys, features.main, ["--orders", shop_file(), "--print_sql", *WINDOW])


@pytest.mark.parametrize("output", [[], ["--output", "x"]])
def test_only_print_sql_does_without_an_output(output: list[str], tmp_path: Path) -> None:
    window = ["--cutoff", str(CUTOFF), "--horizon_days", "3"]
    options, _ = features.FeaturesOptions.parse(["--orders", TABLE, *window, *output, "--print_sql"])
    assert options.print_sql
    if not output:
        with pytest.raises(UsageError, match="--output"):
            features.FeaturesOptions.parse(["--orders", TABLE, *window])
