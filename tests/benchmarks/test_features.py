"""The benchmark of pipelines.features: its input, its check that the outputs are equal, its closing line."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks import features, harness, order_file, plain_features, same_features
from benchmarks.harness import Measurement, OutputsDiffer

CUSTOMERS, ORDERS = 1_000, 10_000


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def orders(workdir: Path) -> str:
    return order_file.order_file(str(workdir), CUSTOMERS, ORDERS, seed=1)


@pytest.fixture(scope="module")
def plain(workdir: Path, orders: str) -> Path:
    """A directory the plain peer made, in this process."""
    output = workdir / "plain"
    plain_features.run(features.plain_command(orders, str(output))[2:])
    return output


def arguments(workdir: Path) -> list[str]:
    return [f"--customers={CUSTOMERS}", f"--orders={ORDERS}", "--memory_baseline_orders=5000", f"--workdir={workdir}"]


def test_the_whole_command_agrees_and_ends_in_the_agreed_line(
    workdir: Path, orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert features.main(arguments(workdir)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
    assert {"processor", "cores", "memory_gb", "python", "packages"} == set(result["machine"])
    for figure in result["figures"].values():
        assert set(figure) == {"cpu_seconds", "wall_seconds", "peak_rss_mb"}
        assert min(figure.values()) > 0
    ours, plain = (result["figures"][name] for name in (features.OURS, features.PLAIN))
    assert result["ratios"]["cpu"] == pytest.approx(ours["cpu_seconds"] / plain["cpu_seconds"], abs=1e-3)
    assert result["aim_met"] == all(result["ratios"][ratio] <= most for ratio, most in result["aim"].items())
    assert f"{_customers_with_an_order(orders):,} customers" in captured.err
    assert not list(workdir.glob("run-*")), "outputs are deleted"


def _customers_with_an_order(orders: str) -> int:
    """The population, counted without any of the system's code."""
    query = f"""SELECT count(DISTINCT customer_id) FROM (
        SELECT customer_id, order_id, sum(CAST(amount AS DECIMAL(18, 2))) AS value FROM '{orders}'
        WHERE ordered_at < TIMESTAMPTZ '{order_file.CUTOFF} 00:00:00+00' GROUP BY ALL) WHERE value > 0"""
    ((count,),) = duckdb.connect().execute(query).fetchall()
    return int(count)


def test_a_contestant_that_computes_something_else_leaves_no_figures(
    workdir: Path, orders: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The injected fault: "ours" forgets the returns.
    def faulty(path: str, output: str) -> list[str]:
        command = features.plain_command(path, output)
        script = Path(f"{output}.sql")
        text = script.read_text()
        assert text.count("]);") == 1, "the end of the view of the order file"
        script.write_text(text.replace("]);", "]) WHERE amount > 0;"))
        return command

    monkeypatch.setattr(features, "ours_command", faulty)
    assert features.main(arguments(workdir)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the outputs differ" in captured.err.splitlines()[-1]


def test_a_directory_is_the_same_as_itself(plain: Path) -> None:
    assert same_features.assert_same(str(plain), str(plain)) > 0


@pytest.mark.parametrize(
    ("part", "column", "change", "agrees"),
    [
        ("raw", "order_value_mean", lambda mean: mean * (1 + 1e-12), True),
        ("raw", "order_value_mean", lambda mean: mean * (1 + 1e-7), False),
        ("raw", "basket_size_mean", lambda _: None, False),
        ("raw", "value_total", lambda money: money + Decimal("1e-9"), False),
        ("raw", "frequency", lambda count: count + 1, False),
        ("raw", "country", lambda _: "elsewhere", False),
        ("raw", "country", lambda _: None, False),
        ("transformed", "value_90d", lambda score: score + 1e-5, True),
        ("transformed", "value_90d", lambda score: score + 1e-2, False),
        ("transformed", "country", lambda index: index + 1, False),
        ("transformed", "split", lambda _: "other", False),
    ],
)
def test_one_changed_cell_is_found(
    tmp_path: Path, plain: Path, part: str, column: str, change: Callable[[Any], Any], agrees: bool
) -> None:
    tables = {name: pq.read_table(plain / name) for name in ("raw", "transformed")}
    whole = tables[part]
    cells = whole[column].to_pylist()
    row = next(i for i, cell in enumerate(cells) if cell is not None)
    cells[row] = change(cells[row])
    field = whole.schema.field(column)
    tables[part] = whole.set_column(whole.schema.get_field_index(column), field, pa.array(cells, field.type))
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "part.parquet")
    if agrees:
        same_features.assert_same(str(tmp_path), str(plain))
    else:
        with pytest.raises(OutputsDiffer, match=f"{part}/{column} differs for 1 of .* {whole['customer_id'][row]}:"):
            same_features.assert_same(str(tmp_path), str(plain))


@pytest.mark.parametrize("fault", ["missing", "twice", "other"])
def test_other_customers_are_found(tmp_path: Path, plain: Path, fault: str) -> None:
    for name in ("raw", "transformed"):
        table = pq.read_table(plain / name)
        if fault == "missing":
            table = table.slice(1)
        elif fault == "twice":
            table = pa.concat_tables([table, table.slice(0, 1)])
        else:
            first = pa.array([True] + [False] * (len(table) - 1))
            ids = pc.replace_with_mask(table["customer_id"], first, pa.array(["new"]))
            table = table.set_column(table.schema.get_field_index("customer_id"), "customer_id", ids)
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "part.parquet")
    with pytest.raises(OutputsDiffer, match=r"^raw/"):
        same_features.assert_same(str(tmp_path), str(plain))


def test_orders_are_as_described(orders: str) -> None:
    lines = pq.read_table(orders)
    assert lines.num_rows == ORDERS
    assert pc.count_distinct(lines["customer_id"]).as_py() == CUSTOMERS
    amounts = lines["amount"]
    assert pc.all(pc.equal(pc.round(amounts, 2), amounts)).as_py()
    returns = pc.sum(pc.less(amounts, 0)).as_py() / ORDERS
    assert returns == pytest.approx(order_file.RETURN_SHARE, abs=0.005)
    assert pc.all(pc.greater_equal(lines["ordered_at"][1:], lines["ordered_at"][:-1])).as_py()
    assert pc.max(lines["order_id"]).as_py() == pc.count_distinct(lines["order_id"]).as_py()
    for column in ("customer_id", "ordered_at"):
        values = lines.group_by("order_id").aggregate([(column, "count_distinct")])
        assert pc.max(values[f"{column}_count_distinct"]).as_py() == 1


def test_same_seed_same_orders(tmp_path: Path, orders: str) -> None:
    again = pq.read_table(order_file.order_file(str(tmp_path), CUSTOMERS, ORDERS, seed=1))
    other = pq.read_table(order_file.order_file(str(tmp_path), CUSTOMERS, ORDERS, seed=2))
    assert again.equals(pq.read_table(orders))
    assert not other.equals(again)


def test_the_documented_size_is_accepted() -> None:
    options = features.BenchmarkOptions.parse(["--customers", "1000000", "--orders", "10000000"])
    assert (options.customers, options.orders) == (1_000_000, 10_000_000)


def test_too_few_orders_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert features.main(["--customers=1000", "--orders=3999", f"--workdir={tmp_path}"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --orders 3999 is not usable with --customers 1000: accepted is at least 4 a customer"
    ]


def test_a_measurement_sees_cpu_time_and_memory_of_children() -> None:
    worker = "x = bytearray(b'1') * (200 << 20)\nfor _ in range(2_000_000): pass\nimport time; time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], check=True)"
    idle = harness.measure(["-c", "pass"])
    busy = harness.measure(["-c", parent])
    assert busy.peak_rss_mb > idle.peak_rss_mb + 200
    assert busy.cpu_seconds > idle.cpu_seconds


def test_a_contestant_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3:\nlast words"):
        harness.measure(["-c", "import sys; print('last words'); sys.exit(3)"])


def test_typical_is_the_median_time_and_the_largest_peak() -> None:
    runs = [Measurement(3.0, 9.0, 10.0), Measurement(1.0, 7.0, 30.0), Measurement(2.0, 8.0, 20.0)]
    assert Measurement.typical(runs) == Measurement(2.0, 8.0, 30.0)
