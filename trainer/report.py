"""The report: one HTML file a marketer can read, made from finished directories.

python -m trainer.report --model MODEL_DIR [--features DIR ...] [--predictions DIR] --output FILE.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transforms import storage
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.report_distributions import Compared
    from trainer.report_inputs import Inputs

_DESCRIPTION = """\
Writes one self-contained HTML file (about 5 MB, opens without a network) about a model: how good its
forecasts are beside simpler ones, whether money, purchases, probabilities and ranges come true and for whom,
who matters most, whether the customers are like those it learned from, what the model is made of and where
it ends (a model card), where the data went and which code and arguments made it all.

example:
  python -m trainer.report --model models/v3 --features snapshots/2011-06-01 snapshots/2011-09-01 \\
      --predictions predictions/2011-12-10 --output report.html
"""
_PURCHASES = "btyd"
_TOP_COLUMNS = [
    "customer_id", "predicted_value", "value_p10", "value_p90", "purchase_probability", "expected_orders",
]  # fmt: skip
_JUDGED_COLUMNS = [
    "future_value", "future_orders", "value_p50", *_TOP_COLUMNS,
]  # fmt: skip
# Earlier versions' evaluations lack them.
_MAY_BE_JUDGED = ["frequency", "days_since_last"]


@dataclass(frozen=True)
class Options:
    """The command's arguments; directories and the file are paths or URIs."""

    model: str
    features: tuple[str, ...]
    predictions: str | None
    output: str


def _parse(argv: Sequence[str] | None) -> Options:
    parser = ArgumentParser("python -m trainer.report", description=_DESCRIPTION)
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory that trainer.task finished")
    parser.add_argument(
        "--features", nargs="+", default=[], metavar="DIR",
        help="features directories the model was made from; shown in the data flow (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--predictions", metavar="DIR",
        help="predictions directory to describe (default: the forecasts of the model's own evaluation)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="FILE.html", help="file to write; replaced when it exists")
    known = parser.parse_args(argv)
    if not known.output.endswith((".html", ".htm")):
        raise rejected("--output", known.output, "a file name that ends in .html")
    return Options(known.model, tuple(known.features), known.predictions, known.output)


def _read_parquet(directory: str, files: list[str], columns: list[str]) -> pa.Table:
    """The named columns of Parquet files of one directory.

    Raises:
      UsageError: there is no file, no row, or a column is missing.
    """
    import pyarrow.dataset as ds

    if not files:
        raise UsageError(f"{directory} holds no Parquet file")
    source = ds.dataset(files, filesystem=storage.resolve(directory)[0], format="parquet")
    missing = [name for name in columns if name not in source.schema.names]
    if missing:
        raise UsageError(f"{directory} lacks the columns {', '.join(missing)}: it has {', '.join(source.schema.names)}")
    more = [name for name in source.schema.names if name.startswith("baseline_") or name in _MAY_BE_JUDGED]
    table = source.to_table(columns=[*columns, *more])
    if not table.num_rows:
        raise UsageError(f"{directory} holds no row")
    return table


def _read_evaluation(model: str) -> tuple[dict[str, Any], pa.Table]:
    import json

    for name in ("evaluation.json", "evaluation.parquet"):
        if not storage.exists(storage.join(model, name)):
            raise UsageError(f"--model {model!r} has no {name}: accepted is a model that was evaluated")
    evaluation = json.loads(storage.read_bytes(storage.join(model, "evaluation.json")))
    file = storage.resolve(storage.join(model, "evaluation.parquet"))[1]
    return evaluation, _read_parquet(model, [file], _JUDGED_COLUMNS)


def _read_compared(model: str, predictions: str) -> Compared | None:
    """What ``pipelines.predict`` compared; None where one side has nothing to show."""
    import json

    from trainer.report_distributions import Compared
    from transforms import statistics

    learned, served = (storage.join(directory, "statistics") for directory in (model, predictions))
    skew = storage.join(predictions, "skew.json")
    needed = (*(storage.join(directory, statistics.JSON_FILE) for directory in (learned, served)), skew)
    if not all(map(storage.exists, needed)):
        return None
    return Compared(statistics.read(learned), statistics.read(served), json.loads(storage.read_bytes(skew)))


def _read_fitted(model: str, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The buy-till-you-die member's parameters; none where it is no member."""
    from trainer import fitted_json

    weights = (evaluation.get("training") or {}).get("choice", {}).get("weights", {})
    files = ("purchases.json", "spend.json") if _PURCHASES in weights else ()
    return [fitted_json.read(storage.join(model, _PURCHASES, name)) for name in files]


def load(options: Options) -> Inputs:
    """Reads everything the sections need.

    Raises:
      UsageError: a directory is missing, half-written, of another kind, or without rows.
    """
    from trainer.report_inputs import Inputs

    model = storage.read_manifest(options.model, "model")
    features = [storage.read_manifest(directory, "features") for directory in options.features]
    evaluation, judged = _read_evaluation(options.model)
    predictions, predicted, compared = None, judged, None
    if options.predictions is not None:
        predictions = storage.read_manifest(options.predictions, "predictions")
        files = storage.list_files(options.predictions, ".parquet")
        predicted = _read_parquet(options.predictions, files, _TOP_COLUMNS)
        compared = _read_compared(options.model, options.predictions)
    fitted = _read_fitted(options.model, evaluation)
    return Inputs(model, evaluation, judged, features, predictions, predicted.select(_TOP_COLUMNS), compared, fitted)


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Writes the report and returns {"output", "bytes", "customers"}."""
    options = _parse(argv)
    inputs = load(options)
    from trainer import report_page, report_sections

    title = f"Customer value forecast, model {inputs.model['model_version']}"
    content = report_page.page(title, *report_sections.all_sections(inputs)).encode()
    storage.write_bytes(options.output, content)
    print(f"report: {options.output} ({len(content) / 1e6:.1f} MB)")
    return {"output": options.output, "bytes": len(content), "customers": inputs.predicted.num_rows}


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
