"""One fit of one library, in a process of its own: what ``benchmarks.btyd_fit`` measures.

    python -m benchmarks.btyd_contestant --library lifetimes --model bgnbd --customers customers.parquet --output fit.json

Reads a Parquet file with frequency, recency_days and age_days, fits by weeks, and writes a JSON object with the
parameters and the CPU seconds from the columns in memory to the fitted model, collapsing included, imports and reading not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transforms.cli import ArgumentParser, exit_code, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

OURS, PEER, PEER_COLLAPSED = "ours", "lifetimes", "lifetimes_collapsed"
MODELS = ("bgnbd", "pareto")
WEEK_DAYS = 7


@dataclass(frozen=True)
class ContestantOptions:
    library: str
    model: str
    customers: str
    rows: int | None
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> ContestantOptions:
        parser = ArgumentParser("python -m benchmarks.btyd_contestant", description=__doc__)
        parser.add_argument("--library", required=True, choices=(OURS, PEER, PEER_COLLAPSED), help="who fits")
        parser.add_argument("--model", required=True, choices=MODELS, help="what is fitted")
        parser.add_argument("--customers", required=True, metavar="FILE", help="Parquet, one row a customer")
        parser.add_argument("--rows", type=whole_number(1), metavar="N", help="only the first N customers")
        parser.add_argument("--output", required=True, metavar="FILE", help="where the JSON object goes")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Fits, and returns what it wrote: ``{"params", "fit_cpu_seconds"}``."""
    import pyarrow.parquet as pq

    options = ContestantOptions.parse(argv)
    customers = pq.read_table(options.customers).slice(0, options.rows).combine_chunks()
    fit = _ours(options.model) if options.library == OURS else _peer(options.model, options.library == PEER_COLLAPSED)
    started = time.process_time()
    params = fit(customers)
    result = {"params": params, "fit_cpu_seconds": time.process_time() - started}
    with open(options.output, "w", encoding="utf8") as file:
        json.dump(result, file)
    return result


Fit = Callable[["pa.Table"], dict[str, float]]


def _ours(model: str) -> Fit:
    from trainer import btyd, btyd_counts

    chosen = btyd.make(model, WEEK_DAYS)
    return lambda customers: chosen.fit(btyd_counts.collapse(customers)).params_


def _peer(model: str, collapsed: bool) -> Fit:
    import numpy as np
    from lifetimes import BetaGeoFitter, ParetoNBDFitter  # type: ignore[import-untyped]

    from trainer import btyd_counts

    np.random.seed(0)  # its Pareto/NBD begins somewhere at random
    chosen = {"bgnbd": BetaGeoFitter, "pareto": ParetoNBDFitter}[model]()

    def fit(customers: pa.Table) -> dict[str, float]:
        table = btyd_counts.collapse(customers) if collapsed else customers
        frame = table.to_pandas()
        weights = frame["customers"] if collapsed else None
        chosen.fit(frame["frequency"], frame["recency_days"] / WEEK_DAYS, frame["age_days"] / WEEK_DAYS, weights)
        return {name: float(value) for name, value in chosen.params_.items()}

    return fit


if __name__ == "__main__":
    sys.exit(main())
