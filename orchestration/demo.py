"""The whole cycle on real orders: CDNOW, 69,659 orders of 23,570 customers, 1997-01 to 1998-06.

    python -m orchestration.demo [--workdir work/demo]

The data set (Fader and Hardie) ships inside the PyPI package lifetimes; its file is read, the package
is not imported. Ends with one customer's prediction as the serving store gives it, the evaluation and
the path of the report. A second run reuses every finished step.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from transforms.cli import ArgumentParser, exit_code

if TYPE_CHECKING:
    import pyarrow as pa

TRAINING_SNAPSHOTS = 6  # half the default: somebody is waiting to see it
HORIZON_DAYS = 91  # a quarter: the data hold its season of the year before


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("python -m orchestration.demo", description=__doc__)
    parser.add_argument("--workdir", default="work/demo", help="the local directory that gets everything")
    options = parser.parse_args(argv)

    from orchestration import run_local
    from serving import lookup

    orders = os.path.join(options.workdir, "cdnow_orders.parquet")
    if not os.path.exists(orders):
        write_orders(orders)
    cycle = run_local.run([
        "--orders", orders, "--horizon_days", str(HORIZON_DAYS), "--training_snapshots", str(TRAINING_SNAPSHOTS),
        "--workdir", options.workdir,
    ])  # fmt: skip
    customer = best_customer(cycle.serve.predictions)
    print(f"\nthe customer with the highest forecast, as served:  {customer}")
    lookup.run(["--serving", cycle.plan.serving, customer])


def write_orders(path: str) -> None:
    """CDNOW_master.txt (customer, date, number of CDs, dollars) as an orders file."""
    import pyarrow.parquet as pq

    os.makedirs(os.path.dirname(path), exist_ok=True)
    pq.write_table(cdnow_orders(), f"{path}.writing")
    os.replace(f"{path}.writing", path)


def cdnow_orders() -> pa.Table:
    """Columns customer_id, ordered_at (date), quantity, amount; 69,659 rows."""
    import datetime
    import decimal
    import importlib.metadata

    import pyarrow as pa

    file = importlib.metadata.distribution("lifetimes").locate_file("lifetimes/datasets/CDNOW_master.txt")
    with open(str(file)) as lines:
        next(lines)
        rows = [line.split() for line in lines if line.strip()]
    return pa.table(
        {
            "customer_id": [row[0] for row in rows],
            "ordered_at": [datetime.datetime.strptime(row[1], "%Y%m%d").date() for row in rows],
            "quantity": [int(row[2]) for row in rows],
            "amount": pa.array([decimal.Decimal(row[3]) for row in rows], pa.decimal128(12, 2)),
        }
    )


def best_customer(predictions: str) -> str:
    import pyarrow.dataset as ds

    table = ds.dataset(predictions, format="parquet", exclude_invalid_files=True).to_table(
        columns=["customer_id", "predicted_value"]
    )
    ordered = table.sort_by([("predicted_value", "descending"), ("customer_id", "ascending")])
    return str(ordered["customer_id"][0].as_py())


if __name__ == "__main__":
    sys.exit(main())
