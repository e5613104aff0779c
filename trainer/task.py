"""Features directories -> a model directory: a trained network, judged on customers and days it never saw.

    python -m trainer.task --features features/2011-03-01 features/2011-05-01 \\
        --evaluation features/2011-08-08 --output model/

The network learns from the train split of every --features snapshot, stops early on their validation split, and
is judged on --evaluation: on all its customers when its cutoff lies a full horizon after every training
cutoff ("out of time"), or on its test split only when it is itself one of the --features ("by customer", for
histories too short for more). The model directory holds saved_model/ (the transform inside), evaluation.json,
evaluation.parquet and, written last, manifest.json; nothing else is needed to predict. Running the same command
again does nothing; a half-written directory is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainer import predictor, snapshots
from trainer.snapshots import Snapshot
from transforms import quiet_tensorflow, storage
from transforms.cli import MOST_SEED, ArgumentParser, exit_code, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer import network

KIND = "model"
MODELS = ("ziln",)
DEFAULT_EPOCHS = 100


@dataclass(frozen=True)
class TaskOptions:
    features: tuple[str, ...]
    evaluation: str
    output: str
    model: str
    seed: int
    epochs: int

    @classmethod
    def parse(cls, argv: list[str] | None) -> TaskOptions:
        parser = ArgumentParser("python -m trainer.task", description=__doc__)
        parser.add_argument(
            "--features", nargs="+", required=True, metavar="DIR",
            help="features directories to learn from, all of one horizon, history and transform "
            "(pipelines.features --reuse_transform), local or gs://",
        )  # fmt: skip
        parser.add_argument("--evaluation", required=True, metavar="DIR", help="the features directory to be judged on")
        parser.add_argument(
            "--output", required=True, metavar="DIR", help="the model directory to make, local or gs://"
        )
        parser.add_argument(
            "--model", choices=MODELS, default=MODELS[0],
            help="ziln: a network for a zero-inflated lognormal value and a hurdle Poisson number of order days",
        )  # fmt: skip
        parser.add_argument(
            "--seed", type=whole_number(0, MOST_SEED), default=0, metavar="N",
            help="of initial weights, shuffling and bootstrap: the same seed gives the same model",
        )  # fmt: skip
        parser.add_argument(
            "--epochs", type=whole_number(1), default=DEFAULT_EPOCHS, metavar="N",
            help="passes over the data at most; training stops earlier once the validation loss does not fall",
        )  # fmt: skip
        values = vars(parser.parse_args(argv))
        return cls(**{**values, "features": tuple(values["features"])})


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: print(evaluation_table(run(argv), TaskOptions.parse(argv).output)))


def evaluation_table(manifest: dict[str, Any], model: str) -> str:
    """The model's evaluation as a person reads it on a terminal."""
    from trainer import evaluate

    evaluation = json.loads(storage.read_bytes(storage.join(model, "evaluation.json")))
    return f"{manifest['model_version']}, judged {manifest['split']}\n{evaluate.format_table(evaluation)}"


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Trains, judges and exports; returns the model's manifest.

    Raises:
      UsageError: the snapshots cannot be used together, or the output holds something else.
    """
    options = TaskOptions.parse(argv)
    training = [snapshots.open_snapshot(uri) for uri in options.features]
    evaluation = snapshots.open_snapshot(options.evaluation)
    judged_by = snapshots.judged_by(training, evaluation)
    arguments = _arguments(options, training, evaluation)
    attempt = uuid.uuid4().hex[:12]
    if finished := storage.begin(options.output, KIND, arguments, attempt):
        _say(f"{options.output} is already complete: {finished['model_version']}")
        return finished
    return _Task(options, arguments, attempt, training, evaluation, judged_by).run()


def _arguments(options: TaskOptions, training: Sequence[Snapshot], evaluation: Snapshot) -> dict[str, Any]:
    """What decides the model's content; the inputs' hashes too, so that changed inputs cannot pass for the old."""
    arguments = {name: value for name, value in asdict(options).items() if name != "output"}
    hashes = {snapshot.uri: snapshot.manifest_hash for snapshot in (*training, evaluation)}
    return {**arguments, "features": list(options.features), "input_manifests": hashes}


def model_version(kind: str, trained: network.Training, training: Sequence[Snapshot]) -> str:
    """<kind>-<latest training cutoff>-<8 hex digits of what was learned>: equal models have equal versions."""
    digest = hashlib.sha256(f"{training[0].transform_fingerprint} {asdict(trained.scales)}".encode())
    for weights in trained.model.get_weights():
        digest.update(weights.tobytes())
    return f"{kind}-{max(snapshot.cutoff for snapshot in training)}-{digest.hexdigest()[:8]}"


@dataclass(frozen=True)
class _Task:
    """One training: checked arguments and inputs."""

    options: TaskOptions
    arguments: dict[str, Any]
    attempt: str
    training: Sequence[Snapshot]
    evaluation: Snapshot
    judged_by: str

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as local:
            trained, rows = _train(self.options, self.training, local)
            storage.copy_directory(os.path.join(local, "saved_model"), storage.join(self.options.output, "saved_model"))
        self._describe()
        version = model_version(self.options.model, trained, self.training)
        facts = self._facts(trained, rows, version)
        _say(f"judging {version} {self.judged_by} on {self.evaluation.uri}")
        judgement = self._judge(facts)
        manifest = storage.finish(
            self.options.output, KIND, self.arguments,
            {**facts, "metrics": judgement["models"]["model"], "verdict": judgement["verdict"]}, self.attempt,
        )  # fmt: skip
        _say(f"{self.options.output} is complete, {time.monotonic() - started:.0f} s")
        return manifest

    def _describe(self) -> None:
        """Writes the statistics of all the customers learned from: what those to forecast are compared with."""
        from transforms import statistics

        learned = [statistics.read(storage.join(snapshot.uri, "statistics")) for snapshot in self.training]
        statistics.write(storage.join(self.options.output, "statistics"), statistics.Statistics.merge(learned))

    def _facts(self, trained: network.Training, rows: dict[str, int], version: str) -> dict[str, Any]:
        """What the manifest and ``evaluation.json`` tell of the training."""
        return {
            "model": self.options.model,
            "model_version": version,
            "horizon_days": self.evaluation.horizon_days,
            "history_days": self.evaluation.history_days,
            "training_cutoffs": [snapshot.cutoff.isoformat() for snapshot in self.training],
            "evaluation_cutoff": self.evaluation.cutoff.isoformat(),
            "split": self.judged_by,
            "transform_fingerprint": self.training[0].transform_fingerprint,
            "schema_fingerprint": self.training[0].schema_fingerprint,
            "seed": self.options.seed,
            "training_rows": rows["train"],
            "validation_rows": rows["validation"],
            "batch_size": trained.batch_size,
            "epochs_run": len(trained.history),
            "best_epoch": trained.best_epoch,
            "validation_loss": trained.history[trained.best_epoch - 1],
            "scales": asdict(trained.scales),
        }

    def _judge(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Scores the evaluation customers with the model as exported, writes ``evaluation.{json,parquet}``."""
        from trainer import baselines, evaluate

        customers = snapshots.read_customers(
            self.evaluation, "test" if self.judged_by == snapshots.BY_CUSTOMER else None
        )
        predictions = _score(self.options, facts, customers, self.evaluation)
        horizon_days = self.evaluation.horizon_days
        judgement = {
            **evaluate.evaluate(customers, predictions, horizon_days=horizon_days, seed=self.options.seed),
            "split": self.judged_by,
            "training": facts,
        }
        text = json.dumps(judgement, indent=2, ensure_ascii=False)
        storage.write_bytes(storage.join(self.options.output, "evaluation.json"), text.encode())
        storage.write_parquet(
            _evaluation_table(customers, predictions, baselines.baseline_forecasts(customers, horizon_days)),
            storage.join(self.options.output, "evaluation.parquet"),
        )
        return judgement


def _train(options: TaskOptions, training: Sequence[Snapshot], local: str) -> tuple[network.Training, dict[str, int]]:
    """Trains on the snapshots and exports to ``local``/saved_model; also returns the rows of each split."""
    quiet_tensorflow.import_tensorflow()
    from trainer import export, network

    examples = {
        split: network.Examples.of(snapshots.read_transformed(training, split)) for split in ("train", "validation")
    }
    rows = {split: len(of) for split, of in examples.items()}
    _say(
        f"training on {rows['train']:,} rows of {len(training)} snapshot(s), {rows['validation']:,} rows for validation"
    )
    trained = network.train(
        examples["train"], examples["validation"],
        horizon_days=training[0].horizon_days, epochs=options.epochs, seed=options.seed, progress=_say,
    )  # fmt: skip
    _say(f"best of {len(trained.history)} epochs is {trained.best_epoch}")
    transform = os.path.join(local, "transform")
    storage.copy_directory(storage.join(training[0].uri, "transform_fn"), transform)
    export.export(trained, transform, os.path.join(local, "saved_model"))
    return trained, rows


def _score(options: TaskOptions, facts: dict[str, Any], customers: pa.Table, evaluation: Snapshot) -> pa.Table:
    import pyarrow as pa

    loaded = predictor.load_unfinished(options.output, facts)
    return pa.Table.from_batches([loaded.predict(customers, evaluation.cutoff)])


def _evaluation_table(customers: pa.Table, predictions: pa.Table, baselines: dict[str, Any]) -> pa.Table:
    """customer_id, labels, forecasts, and ``baseline_<name>`` for every baseline; one row a judged customer."""
    import pyarrow as pa

    columns = {name: customers[name] for name in ("customer_id", "future_value", "future_orders")}
    columns |= {name: predictions[name] for name in predictions.schema.names if name != "customer_id"}
    return pa.table({**columns, **{f"baseline_{name}": pa.array(values) for name, values in baselines.items()}})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
