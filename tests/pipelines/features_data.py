"""Orders as files, and the real commands on them: what the pipelines' and the orchestration's tests share."""

from __future__ import annotations

import csv
import datetime
import functools
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import brute_force
from tests.order_strategies import CUTOFF, HORIZON_DAYS, INPUTS, Row

if TYPE_CHECKING:
    from orchestration.run_local import Cycle

Command = Callable[[list[str]], int]

WINDOW = ["--cutoff", str(CUTOFF), "--horizon_days", str(HORIZON_DAYS)]


def csv_text(rows: Sequence[Row], *, names: dict[str, str] | None = None, delimiter: str = ",") -> str:
    """The rows as a CSV file's text; ``names`` gives our columns other names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow([(names or {}).get(name, name) for name in INPUTS])
    writer.writerows([["" if row[name] is None else row[name] for name in INPUTS] for row in rows])
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Row], *, encoding: str = "utf8", **how: Any) -> str:
    """Writes a CSV file, compressed when its name ends in .gz, and returns its path."""
    content = csv_text(rows, **how).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def write_parquet(path: Path, table: pa.Table, rows_per_group: int | None = None) -> str:
    pq.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def read_rows(directory: str | Path) -> pa.Table:
    """The Parquet parts of a folder as one table sorted by customer."""
    paths = sorted(Path(directory).glob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(path).read() for path in paths]).sort_by("customer_id")


def letters(directory: str | Path) -> list[dict[str, Any]]:
    """A step's dead letters."""
    paths = sorted((Path(directory) / "dead_letters").glob("*.jsonl"))
    # Not splitlines(): a payload may hold the line separators of Unicode.
    return [json.loads(line) for path in paths for line in path.read_text().split("\n") if line]


def stamps(directory: str | Path) -> dict[str, int]:
    """Every file below a directory with the time it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(directory).rglob("*")) if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], main: Command, arguments: list[str]) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and not printed.out, printed
    return lines[0].removeprefix("error: ")


def expected_lines(rows: list[Row], **options: Any) -> dict[str, Any]:
    """``manifest["lines"]`` by the brute force; reasons that no line has are left out, as in a manifest."""
    orders, rejected = brute_force.clean(rows)
    audit = brute_force.line_audit(orders, CUTOFF, HORIZON_DAYS, **options)
    excluded = {reason: count for reason, count in audit["excluded"].items() if count}
    dead: dict[str, int] = {}
    for reason, _ in rejected:
        counts = excluded if reason == "no_customer" else dead
        counts[reason] = counts.get(reason, 0) + 1
    return {"read": len(rows), "used": audit["used"], "excluded": excluded, "dead_letters": dead}


def expected_customers(rows: list[Row], **options: Any) -> dict[str, Row]:
    return brute_force.customer_features(brute_force.clean(rows)[0], CUTOFF, HORIZON_DAYS, **options)


def expected_activity(rows: list[Row], **options: Any) -> dict[str, list[Any]]:
    """``manifest["activity"]`` by the brute force, its money as numbers: see ``numbers``."""
    days = brute_force.daily_activity(brute_force.clean(rows)[0], CUTOFF, HORIZON_DAYS, **options)
    return {str(day): [days[day].order_days, days[day].first_days, days[day].value] for day in sorted(days)}


def numbers(activity: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A manifest's activity with its money as numbers, exactly as the text says."""
    return {day: [*counts, Decimal(value)] for day, (*counts, value) in activity.items()}


def assert_same_customers(left: pa.Table, right: pa.Table) -> None:
    """Equal tables of ``schema.CUSTOMERS``: floats within 1e-9 relative, everything else exactly."""
    brute_force.assert_equal({row["customer_id"]: row for row in left.to_pylist()}, right)


# --- A small shop ---------------------------------------------------------------------------------------------------

SHOP_FIRST_DAY = datetime.date(2010, 1, 1)
SHOP_DAYS = 600


@functools.cache
def shop_orders(customers: int = 600, seed: int = 7) -> pa.Table:
    """Simulated order lines: customers come over the whole time, buy at a rate of their own, and leave unseen.

    Columns customer_id, ordered_at (timestamp, UTC), quantity, unit_price, country.
    """
    rng = np.random.default_rng(seed)
    arrival = rng.uniform(0, SHOP_DAYS - 30, customers)
    stays = rng.exponential(400, customers)
    span = np.minimum(stays, SHOP_DAYS - arrival)
    lines = 1 + rng.poisson(rng.gamma(1.0, 1 / 40, customers) * span)
    who = np.repeat(np.arange(customers), lines)
    first = np.concatenate([[True], who[1:] != who[:-1]])
    day = arrival[who] + np.where(first, 0, rng.random(len(who)) * span[who])
    # The first instant and the last: what the data's days are is known.
    seconds = np.concatenate([[0], np.floor(day * 86_400), [SHOP_DAYS * 86_400 - 1]])
    who = np.concatenate([[0], who, [0]])
    start = np.datetime64(SHOP_FIRST_DAY, "us")
    price = np.round(np.exp(rng.normal(2.5, 0.7, len(who))), 2)
    country = np.where(np.arange(customers) % 4 == 0, "DE", "UK")
    return pa.table({
        "customer_id": [f"C{index:05d}" for index in who],
        "ordered_at": pa.array(start + (seconds * 1e6).astype("timedelta64[us]"), pa.timestamp("us", "UTC")),
        "quantity": pa.array(rng.integers(1, 5, len(who))),
        "unit_price": pa.array(price),
        "country": country[who],
    })  # fmt: skip


SHOP_END = SHOP_FIRST_DAY + datetime.timedelta(days=SHOP_DAYS)
SHOP_HORIZON_DAYS = 90

_folder = tempfile.TemporaryDirectory(prefix="clv-tests-")  # gone when the tests' process ends


@functools.cache
def shop_file() -> str:
    return write_parquet(Path(_folder.name) / "shop.parquet", shop_orders(), 1000)


def shop_arguments() -> list[str]:
    """``orchestration.run_local`` on the shop, with one training snapshot: enough to train, be judged and be served."""
    return [
        "--orders", shop_file(), "--horizon_days", str(SHOP_HORIZON_DAYS), "--training_snapshots", "1",
        "--workdir", f"{_folder.name}/work",
    ]  # fmt: skip


@functools.cache
def shop_cycle() -> Cycle:
    """The whole cycle on the shop, run once for all test modules."""
    from orchestration import run_local

    return run_local.run(shop_arguments())
