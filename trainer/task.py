"""Features directories -> a model directory: trained, judged on customers and days it never saw.

    python -m trainer.task --features features/2011-04-07 features/2011-03-10 features/2011-02-10 \\
        --evaluation features/2011-08-08 --output model/

By default (--model auto) a network, a buy-till-you-die model and boosted trees learn from the --features snapshots, the
latest of which is held out once to see which of them to mix; evaluation.json says which and why. The model is judged on
--evaluation: on all its customers when its cutoff lies a full horizon after every training cutoff ("out of time"), or
on its test split only when it is itself one of the --features ("by customer", for histories too short for more).
The model directory holds blend.json, a directory for each member (saved_model/ with the transform inside, btyd/,
boosting/), evaluation.json, evaluation.parquet and, written last, manifest.json; nothing else is needed to predict.
Running the same command again does nothing; a half-written directory is made anew.

With --tune 20 the network's settings are searched for first, on the window held out of --features (docs/tuning.md).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainer import settings, snapshots, tune_report
from trainer.settings import Settings
from trainer.snapshots import Snapshot
from transforms import storage
from transforms.cli import MOST_SEED, ArgumentParser, exit_code, say, whole_number
from transforms.errors import rejected

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.training import Learned
    from trainer.tune import Search

KIND = "model"
MODELS = {
    "auto": "the members that did best on an earlier window, mixed in equal parts",
    "blend": "all the members that the data carry, mixed in equal parts",
    "ziln": "the network: a zero-inflated lognormal value and a hurdle Poisson number of order days",
    "boosting": "boosted trees",
    "pareto": "Pareto/NBD and Gamma-Gamma",
    "mbgnbd": "MBG/NBD and Gamma-Gamma",
    "bgnbd": "BG/NBD and Gamma-Gamma",
}
# What ``evaluation.parquet`` tells of a customer beside id, labels and forecasts.
RECENCY_FREQUENCY = ("frequency", "recency_days", "age_days", "days_since_last")
MODELS_WITH_NETWORK = ("auto", "blend", "ziln")
MOST_TRIALS = 200  # TensorFlow keeps some 10 MB of each network that was trained
# So many customers tell as much about a model as all do.
MOST_JUDGED = 1_000_000
DEFAULT_EPOCHS = 100


@dataclass(frozen=True)
class TaskOptions:
    features: tuple[str, ...]
    evaluation: str
    output: str
    model: str
    seed: int
    epochs: int
    hidden_units: tuple[int, ...]
    members: int
    learning_rate: float
    weight_decay: float
    tune: int | None
    tune_storage: str

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
            "--model", choices=list(MODELS), default="auto",
            help="; ".join(f"{name}: {text}" for name, text in MODELS.items()) + " (default: auto)",
        )  # fmt: skip
        parser.add_argument(
            "--seed", type=whole_number(0, MOST_SEED), default=0, metavar="N",
            help="of initial weights, shuffling and bootstrap: the same seed gives the same model",
        )  # fmt: skip
        parser.add_argument(
            "--epochs", type=whole_number(1), default=DEFAULT_EPOCHS, metavar="N",
            help="passes over the data at most; training stops earlier once the validation loss does not fall",
        )  # fmt: skip
        settings.add_arguments(parser)
        parser.add_argument(
            "--tune", type=whole_number(1, MOST_TRIALS), metavar="N",
            help="search for the network's settings in N trials, the first of which is the settings given, and train with "
            f"the best; with --model {', '.join(MODELS_WITH_NETWORK)}; needs Optuna: pip install 'clv-pipelines[tune]'",
        )  # fmt: skip
        parser.add_argument(
            "--tune_storage", metavar="URI",
            help="directory of the finished trials, local or gs://: a search that was interrupted, or is asked for more "
            "trials, goes on where it was (default: <output>.tuning)",
        )  # fmt: skip
        values = vars(parser.parse_args(argv))
        if values["tune"] and values["model"] not in MODELS_WITH_NETWORK:
            with_network = f"one with a network to tune: {', '.join(MODELS_WITH_NETWORK)}"
            raise rejected(f"--tune {values['tune']} with --model", values["model"], with_network)
        layers = settings.hidden_units_of(values["hidden_units"])
        place = values["tune_storage"] or values["output"].rstrip("/") + ".tuning"
        return cls(**{**values, "features": tuple(values["features"]), "hidden_units": layers, "tune_storage": place})

    @property
    def search(self) -> Search | None:
        if self.tune is None:
            return None
        from trainer.tune import Search

        return Search(self.tune, self.tune_storage, say)


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
    if options.search:
        options.search.check(options.output)
    arguments = _arguments(options, training, evaluation)
    attempt = uuid.uuid4().hex[:12]
    if finished := storage.begin(options.output, KIND, arguments, attempt):
        say(f"{options.output} is already complete: {finished['model_version']}")
    manifest = finished or _Task(options, arguments, attempt, training, evaluation, judged_by).run()
    tune_report.report(manifest, say)
    return manifest


def _arguments(options: TaskOptions, training: Sequence[Snapshot], evaluation: Snapshot) -> dict[str, Any]:
    """What decides the model's content; the inputs' hashes too, so that changed inputs cannot pass for the old."""
    places = ("output", "tune_storage")
    arguments = {name: value for name, value in asdict(options).items() if name not in places}
    hashes = {snapshot.uri: snapshot.manifest_hash for snapshot in (*training, evaluation)}
    return {**arguments, "features": list(options.features), "input_manifests": hashes}


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
        learned = self._learn()
        self._describe()
        facts = self._facts(learned)
        say(f"judging {facts['model_version']} {self.judged_by} on {self.evaluation.uri}")
        judgement = self._judge(learned, facts)
        manifest = storage.finish(
            self.options.output, KIND, self.arguments,
            {**facts, "metrics": judgement["models"]["model"], "verdict": judgement["verdict"]}, self.attempt,
        )  # fmt: skip
        say(f"{self.options.output} is complete, {time.monotonic() - started:.0f} s")
        return manifest

    def _learn(self) -> Learned:
        """Trains, and writes the members."""
        from trainer.predictor import NETWORK
        from trainer.training import Plan, Training

        latest_first = sorted(self.training, key=lambda snapshot: snapshot.cutoff, reverse=True)
        plan = Plan(
            self.options.model, latest_first, self.evaluation, self.judged_by == snapshots.BY_CUSTOMER,
            self.options.epochs, self.options.seed, Settings.of(asdict(self.options)),
            self.options.search.run if self.options.search else None,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as local:
            learned = Training(plan, local, say).run()
            learned.save(self.options.output)
            if NETWORK in learned.members:
                storage.copy_directory(os.path.join(local, NETWORK), storage.join(self.options.output, NETWORK))
        say(f"mix: {learned.facts['choice']['why']}")
        return learned

    def _describe(self) -> None:
        """Writes the statistics of all the customers learned from: what those to forecast are compared with."""
        from transforms import statistics

        learned = [statistics.read(storage.join(snapshot.uri, "statistics")) for snapshot in self.training]
        statistics.write(storage.join(self.options.output, "statistics"), statistics.Statistics.merge(learned))

    def _facts(self, learned: Learned) -> dict[str, Any]:
        """What the manifest and ``evaluation.json`` tell of the training."""
        latest = max(snapshot.cutoff for snapshot in self.training)
        fingerprint = learned.fingerprint(self.training[0].transform_fingerprint)
        return {
            "model": learned.kind,
            # Equal models have equal versions.
            "model_version": f"{learned.kind}-{latest}-{fingerprint}",
            "horizon_days": self.evaluation.horizon_days,
            "history_days": self.evaluation.history_days,
            "training_cutoffs": [snapshot.cutoff.isoformat() for snapshot in self.training],
            "evaluation_cutoff": self.evaluation.cutoff.isoformat(),
            "split": self.judged_by,
            "transform_fingerprint": self.training[0].transform_fingerprint,
            "schema_fingerprint": self.training[0].schema_fingerprint,
            "seed": self.options.seed,
            **learned.facts,
            "notes": learned.notes,
        }

    def _judge(self, learned: Learned, facts: dict[str, Any]) -> dict[str, Any]:
        """Scores the evaluation customers with the model as written, writes ``evaluation.{json,parquet}``."""
        from trainer import baselines, evaluate, fitted_baselines, tracking

        evaluation, horizon_days = self.evaluation, self.evaluation.horizon_days
        splits = ("test",) if self.judged_by == snapshots.BY_CUSTOMER else None
        customers = snapshots.read_customers(evaluation, splits, most_rows=MOST_JUDGED)
        predictions = _score(self.options, facts, customers, evaluation)
        say("fitting the baselines")
        training = [snapshots.read_customers(s, most_rows=MOST_JUDGED // len(self.training)) for s in self.training]
        fitted = fitted_baselines.forecasts(training, customers, horizon_days, self.options.seed)
        judgement = {
            **evaluate.evaluate(
                customers, predictions, horizon_days=horizon_days, seed=self.options.seed, forecasts=fitted.forecasts,
                cutoff=evaluation.cutoff,
            ),
            "split": self.judged_by,
            "training": facts,
        }  # fmt: skip
        if self.judged_by == snapshots.OUT_OF_TIME:
            judgement |= tracking.judge(evaluation, customers, predictions, learned.members)
        judgement["warnings"] += [*fitted.notes, *learned.notes]
        text = json.dumps(judgement, indent=2, ensure_ascii=False)
        storage.write_bytes(storage.join(self.options.output, "evaluation.json"), text.encode())
        compared = {**baselines.baseline_forecasts(customers, horizon_days), **fitted.forecasts}
        storage.write_parquet(
            _evaluation_table(customers, predictions, compared), storage.join(self.options.output, "evaluation.parquet")
        )
        return judgement


def _score(options: TaskOptions, facts: dict[str, Any], customers: pa.Table, evaluation: Snapshot) -> pa.Table:
    import pyarrow as pa

    from trainer import predictor

    loaded = predictor.load_unfinished(options.output, facts)
    return pa.Table.from_batches([loaded.predict(customers, evaluation.cutoff)])


def _evaluation_table(customers: pa.Table, predictions: pa.Table, baselines: dict[str, Any]) -> pa.Table:
    """customer_id, recency and frequency, labels, forecasts, and ``baseline_<name>`` for every baseline; one row a judged customer."""
    import pyarrow as pa

    columns = {name: customers[name] for name in ("customer_id", *RECENCY_FREQUENCY, "future_value", "future_orders")}
    columns |= {name: predictions[name] for name in predictions.schema.names if name != "customer_id"}
    return pa.table({**columns, **{f"baseline_{name}": pa.array(values) for name, values in baselines.items()}})


if __name__ == "__main__":
    sys.exit(main())
