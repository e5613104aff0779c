"""The demo's upstream job: a shop's orders, and what ``pipelines.interactions`` makes of them for each base_date.

    python -m orchestration.refresh.demo_orders --orders orders.parquet --data 's3://shop-interactions/{base_date}' 2025-02-24 2025-03-03

On AWS this is the Glue job whose success starts a refresh. All base_dates in one process, since it is Beam's start that
takes the time.
"""

from __future__ import annotations

import datetime
import os
import sys

from transforms.cli import ArgumentParser, exit_code

FIRST_DAY = datetime.date(2025, 2, 10)
END = datetime.date(2025, 3, 24)
_LINES_A_DAY = 160
_CUSTOMERS, _ITEMS = 400, 250
_SEED = 7


def write_orders(path: str) -> int:
    """Six weeks of orders in Parquet: customer_id, ordered_at, item_id, amount. The same ones each time.

    Returns:
      The number of lines.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(_SEED)
    days = (END - FIRST_DAY).days
    lines = days * _LINES_A_DAY
    # Of customers and items a few are seen often and most seldom, as in a shop.
    customers = (_CUSTOMERS * draw.beta(0.7, 1.6, lines)).astype(int)
    items = (_ITEMS * draw.beta(0.5, 2.0, lines)).astype(int)
    seconds = np.sort(draw.integers(0, days * 86_400, lines))
    table = pa.table(
        {
            "customer_id": [f"c{number:04d}" for number in customers],
            "ordered_at": pa.array(np.datetime64(FIRST_DAY, "s") + seconds.astype("timedelta64[s]")),
            "item_id": [f"i{number:03d}" for number in items],
            "amount": np.round(draw.lognormal(3.0, 0.6, lines), 2),
        }
    )
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    pq.write_table(table, f"{path}.writing")
    os.replace(f"{path}.writing", path)
    return lines


def run(argv: list[str] | None = None) -> None:
    """Raises: UsageError, JobFailed: as the pipeline."""
    parser = ArgumentParser("python -m orchestration.refresh.demo_orders", description=__doc__)
    parser.add_argument("base_dates", nargs="+", metavar="DATE", type=datetime.date.fromisoformat)
    parser.add_argument("--orders", required=True, metavar="URI", help="what the interactions are made of")
    parser.add_argument("--data", required=True, metavar="PATTERN", help="where they go, with {base_date}")
    options = parser.parse_args(argv)

    from pipelines import interactions

    for base_date in options.base_dates:
        output = options.data.format(base_date=base_date)
        interactions.run(["--orders", options.orders, "--until", str(base_date), "--output", output])


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
