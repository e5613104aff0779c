"""How fast predictions are written to Datastore: ours, Beam's own sink and a bare loop, on one emulator in one run.

    python -m benchmarks.publish --customers 200000 --rounds 3

Starts the Datastore emulator of the Google Cloud SDK, makes one table of predictions, and writes it with three
contestants, each in a process and a namespace of its own, in an order that changes from round to round: ours
(serving.datastore_writer: stamped bytes, commits on threads, retries), Beam's WriteToDatastore (throttle off,
in-process runner), and a bare loop on the plain protobuf classes with as many threads and neither retries nor
anything else ("raw"). Every entity that each of them stored is read back in every round; where one is missing or
differs there are no figures: the first difference is named and the exit code is 1.

Entities/s and "CPU s" count from opening the Parquet file to the last answer; imports and start-up are left out. A
ratio is of one round's figures, and the median over the rounds counts. What it cannot show: a network, and a service
of many machines. The emulator takes both cores of a small machine, so that ours and raw mostly measure how fast it
is; what they leave to others shows in the CPU ratios. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import OutputsDiffer
from benchmarks.publish_writers import BEAM, OURS, RAW
from transforms.cli import ArgumentParser, whole_number
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tests.emulators.services import Datastore

NAME = "publish"
WRITERS = (OURS, BEAM, RAW)
AIM = {"beam": 5.0, "raw": 0.8}  # at least
PACKAGES = ("apache-beam", "google-cloud-datastore", "grpcio", "protobuf", "pyarrow")
PROJECT = "test-project"
_WARM_UP_ROWS = 20_000


@dataclass(frozen=True)
class Writing:
    """What one contestant took; ``cpu_seconds`` and what follows are of the whole process, imports included."""

    entities_per_second: float
    write_seconds: float
    write_cpu_seconds: float
    cpu_seconds: float
    wall_seconds: float
    peak_rss_mb: float

    @classmethod
    def typical(cls, writings: Sequence[Writing]) -> Writing:
        """The median of each."""
        columns = {field.name: [getattr(writing, field.name) for writing in writings] for field in fields(cls)}
        return cls(**{name: round(statistics.median(values), 3) for name, values in columns.items()})


Round = Mapping[str, Writing]


@dataclass(frozen=True)
class BenchmarkOptions:
    customers: int
    rounds: int
    in_flight: int
    seed: int

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        parser = ArgumentParser("python -m benchmarks.publish", description=__doc__)
        parser.add_argument("--customers", type=whole_number(1), default=200_000, help="entities to write")
        parser.add_argument(
            "--rounds", type=whole_number(1), default=3, help="rounds of all contestants; the median counts"
        )
        parser.add_argument(
            "--in_flight", type=whole_number(1), default=4, metavar="N", help="commits at once of ours and raw"
        )
        parser.add_argument("--seed", type=whole_number(0), default=1, help="same seed, same predictions")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: the contestants did not store the same.
      UsageError: the emulator is not installed.
    """
    from tests.emulators import services

    options = BenchmarkOptions.parse(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="clv-publish-") as directory, services.Datastore() as emulator:
            rounds = _rounds(options, emulator, directory)
    except services.EmulatorError as error:
        raise UsageError(str(error)) from error
    result = verdict(rounds)
    print_table(result["figures"])
    print_ratios(rounds)
    print(json.dumps(result))
    return result


def predictions(customers: int, seed: int) -> pa.Table:
    """Rows of ``schema.PREDICTIONS`` in no order of their ids, with values that are spread as a shop's are."""
    import datetime

    import numpy as np
    import pyarrow as pa

    from transforms import schema

    draw = np.random.default_rng(seed)
    value = draw.lognormal(4, 1.5, customers)
    rank = np.empty(customers, np.int64)
    rank[np.argsort(-value)] = np.arange(customers)
    columns = {
        "customer_id": pa.array(draw.permutation(customers * 7)[:customers]).cast(pa.string()),
        "as_of": pa.array([datetime.date(2011, 12, 10)] * customers),
        "horizon_days": np.full(customers, 90),
        "model_version": pa.array(["20111210-0a1b2c3d4e5f"] * customers),
        "predicted_value": value,
        "value_p10": value * 0.1,
        "value_p50": value * 0.7,
        "value_p90": value * 2.3,
        "purchase_probability": draw.random(customers),
        "expected_orders": draw.gamma(1, 3, customers),
        "decile": 1 + 10 * rank // customers,
    }
    return pa.table(columns, schema=schema.arrow_schema(schema.PREDICTIONS))


def _rounds(options: BenchmarkOptions, emulator: Datastore, directory: str) -> list[Round]:
    import pyarrow.parquet as pq

    table = predictions(options.customers, options.seed)
    customer_ids = table["customer_id"].to_pylist()
    file, few = os.path.join(directory, "predictions.parquet"), os.path.join(directory, "few.parquet")
    pq.write_table(table, file)
    pq.write_table(table.slice(0, _WARM_UP_ROWS), few)
    _progress("warming the emulator up")
    for _ in range(2):
        _contest(options, emulator, RAW, few)
    rounds: list[Round] = []
    for number in range(options.rounds):
        _progress(f"round {number + 1} of {options.rounds}")
        writings, entities = {}, {}
        for writer in WRITERS[number % len(WRITERS) :] + WRITERS[: number % len(WRITERS)]:
            emulator.reset()  # what another one stored would take its memory and its time for collecting garbage
            writings[writer] = _contest(options, emulator, writer, file)
            entities[writer] = stored(emulator.host, writer, customer_ids)
        assert_same(entities, customer_ids)
        _progress(f"all {options.customers:,} entities are the same")
        rounds.append(writings)
    return rounds


def _contest(options: BenchmarkOptions, emulator: Datastore, writer: str, file: str) -> Writing:
    import pyarrow.parquet as pq

    cost_file = f"{file}.json"
    command = [
        "-m", "benchmarks.publish_contestant", "--writer", writer, "--predictions", file, "--project", PROJECT,
        "--namespace", writer, "--in_flight", str(options.in_flight), "--output", cost_file,
    ]  # fmt: skip
    environment = {**harness.ONE_THREAD, "DATASTORE_EMULATOR_HOST": emulator.host, "NO_GCE_CHECK": "true"}
    measured = harness.measure(command, environment)
    with open(cost_file, encoding="utf8") as cost:
        seconds = json.load(cost)
    return Writing(pq.read_metadata(file).num_rows / seconds["write_seconds"], **seconds, **asdict(measured))


def stored(host: str, namespace: str, customer_ids: Sequence[str]) -> dict[str, bytes]:
    """Of each of these customers that the emulator holds, a hash of the entity: all of it but the namespace."""
    import hashlib
    from unittest import mock

    from serving.datastore_client import Connection
    from serving.entity_bytes import KIND

    with mock.patch.dict(os.environ, DATASTORE_EMULATOR_HOST=host):
        connection = Connection(PROJECT)
    found = {}
    for entity in connection.lookup(connection.key(KIND, each, namespace=namespace) for each in customer_ids):
        entity.key.partition_id.Clear()
        content = entity.SerializeToString(deterministic=True)
        found[entity.key.path[0].name] = hashlib.blake2b(content, digest_size=16).digest()
    connection.close()
    return found


def assert_same(entities: Mapping[str, Mapping[str, bytes]], customer_ids: Sequence[str]) -> None:
    """Holds what each writer stored (see ``stored``) to what ours did, and all to the customers there are.

    Raises:
      OutputsDiffer: names writer and customer of the first difference.
    """
    for writer, found in entities.items():
        for customer_id in customer_ids:
            if customer_id not in found:
                raise OutputsDiffer(f"{writer} did not store customer {customer_id}")
            if found[customer_id] != entities[OURS].get(customer_id):
                raise OutputsDiffer(f"{writer} stored customer {customer_id} otherwise than {OURS}")


def ratios(writings: Round) -> dict[str, float]:
    """Ours against each peer: entities/s by wall clock, and entities per second of CPU (``_cpu``)."""
    ours, found = writings[OURS], {}
    for peer in (BEAM, RAW):
        found[peer] = writings[peer].write_seconds / ours.write_seconds
        found[f"{peer}_cpu"] = writings[peer].write_cpu_seconds / ours.write_cpu_seconds
    return found


def verdict(rounds: Sequence[Round]) -> dict[str, Any]:
    """The benchmark's result; the aim is met when no ratio falls below its aim."""
    of_rounds = [ratios(writings) for writings in rounds]
    median = {name: round(statistics.median(each[name] for each in of_rounds), 2) for name in of_rounds[0]}
    figures = {writer: Writing.typical([writings[writer] for writings in rounds]) for writer in WRITERS}
    return harness.verdict(NAME, PACKAGES, figures, median, AIM, at_least=True)


def print_table(figures: Mapping[str, Mapping[str, float]]) -> None:
    """One line a contestant."""
    print(f"{'':5}  {'entities/s':>10}  {'write s':>7}  {'CPU s':>7}  {'peak MiB':>8}")
    for name, figure in figures.items():
        print(
            f"{name:5}  {figure['entities_per_second']:10,.0f}  {figure['write_seconds']:7.2f}"
            f"  {figure['write_cpu_seconds']:7.2f}  {figure['peak_rss_mb']:8.1f}"
        )


def print_ratios(rounds: Sequence[Round]) -> None:
    """The ratios' medians and ranges over the rounds."""
    for name in ratios(rounds[0]):
        values = [ratios(writings)[name] for writings in rounds]
        aim = f" (aim: at least {AIM[name]:g})" if name in AIM else ""
        print(f"{name}: {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}{aim}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
