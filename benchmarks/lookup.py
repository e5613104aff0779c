"""What a lookup over HTTP costs beside Datastore's own answer, on one emulator in one run.

    python -m benchmarks.lookup --customers 100000 --rounds 3
    python -m benchmarks.lookup --emulator datastore --connections 1,8 --seconds 5

Starts an emulator of the Google Cloud SDK, publishes a generation of predictions, starts the service, and asks for
customers drawn at random, one and 100 at a time, on 1, 8 and 64 connections:

  raw     Google's channel and the plain protobuf classes, one Lookup a request: keys built, answer parsed
  store   the service, which remembers no row (--rows_kept 0): every row is read from Datastore
  memory  the service as it is by default, every customer having been asked for before
  floor   the same HTTP server, its answers ready: what HTTP alone costs, for context

Contestants take turns within a round, in an order that changes. Every connection has a thread that blocks, in the same
few client processes for all. The rows of 1,000 customers are compared with what was published before anything is timed;
in the timed part raw counts the entities, the others hold status, length and that nobody is missing; JSON is not decoded.

A ratio is of the medians over the rounds: p50 of the service by p50 of raw. "CPU s" is the service process's, of 1,000
requests. What it cannot show: a network, and a Datastore that is far away; there both cost less beside it. The last
line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import OutputsDiffer
from benchmarks.lookup_contestants import CONTESTANTS, FLOOR, MEMORY, RAW, STORE, Target
from benchmarks.lookup_load import Cell, Clients
from benchmarks.lookup_service import Connection, Service, post
from transforms.cli import ArgumentParser, number, whole_number
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tests.emulators.services import Datastore

NAME = "lookup"
FIRESTORE, DATASTORE = "firestore", "datastore"
PACKAGES = ("fastapi", "google-cloud-datastore", "grpcio", "httptools", "orjson", "protobuf", "uvicorn", "uvloop")
PROJECT = "test-project"
IDS = (1, 100)
MOST = {1: 1.5, 100: 2.0}
"""Ids a request -> the most that its p50 may be, as a multiple of raw's."""
ROWS_KEPT = 50_000
COMPARED = 1_000
_IDS_PER_WARMING = 1_000
# Java compiles what runs often: before that the emulator is several times slower.
_WARM_UP_CONNECTIONS, _WARM_UP_SECONDS = 8, 4.0


@dataclass(frozen=True)
class Figures:
    """One contestant under one load; ``service_cpu_seconds`` are of 1,000 requests, 0 where no service is asked."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    service_cpu_seconds: float

    @classmethod
    def typical(cls, rounds: Sequence[Figures]) -> Figures:
        """The median of each."""
        columns = {field.name: [getattr(each, field.name) for each in rounds] for field in fields(cls)}
        return cls(**{name: round(statistics.median(values), 4) for name, values in columns.items()})


Round = Mapping[tuple[str, Cell], Figures]


@dataclass(frozen=True)
class BenchmarkOptions:
    customers: int
    rounds: int
    seconds: float
    connections: tuple[int, ...]
    emulator: str
    seed: int

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        parser = ArgumentParser("python -m benchmarks.lookup", description=__doc__)
        parser.add_argument(
            "--customers", type=whole_number(max(IDS)), default=100_000,
            help=f"customers published; up to {ROWS_KEPT:,} of them are asked for, as many as the service remembers",
        )  # fmt: skip
        parser.add_argument("--rounds", type=whole_number(1), default=3, help="rounds of all contestants")
        parser.add_argument(
            "--seconds", type=number(0.05, 600, "seconds"), default=2.0, help="of each load in each round"
        )
        parser.add_argument(
            "--connections",
            type=_connections,
            default=(1, 8, 64),
            metavar="N,N",
            help="at once, one load after another",
        )
        parser.add_argument(
            "--emulator", choices=(FIRESTORE, DATASTORE), default=FIRESTORE, help="which of Google's is asked"
        )
        parser.add_argument("--seed", type=whole_number(0), default=1, help="same seed, same customers asked for")
        return cls(**vars(parser.parse_args(argv)))

    @property
    def cells(self) -> list[Cell]:
        return [Cell(ids, connections) for ids in IDS for connections in self.connections]


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: the contestants do not give the same, or not what was published.
      UsageError: an unusable argument, or the emulator is not installed.
    """
    from tests.emulators import services

    options = BenchmarkOptions.parse(argv)
    kinds = {FIRESTORE: services.FirestoreInDatastoreMode, DATASTORE: services.Datastore}
    try:
        with kinds[options.emulator]() as emulator:
            rounds = _measure(options, emulator)
    except services.EmulatorError as error:
        raise UsageError(str(error)) from error
    result = verdict(rounds)
    print_table(result["figures"])
    print_ratios(rounds, result)
    print(json.dumps(result))
    return result


def _measure(options: BenchmarkOptions, emulator: Datastore) -> list[Round]:
    from benchmarks.publish import predictions

    table = predictions(options.customers, options.seed)
    _progress(f"publishing {options.customers:,} customers")
    namespace, expected = _publish(table, emulator.host)
    asked = table["customer_id"].to_pylist()[:ROWS_KEPT]
    with _services(emulator.host, next(iter(expected.values()))) as services, Clients(asked) as clients:
        targets = {
            each: Target(each, services[each].port if each in services else 0, emulator.host, PROJECT, namespace)
            for each in CONTESTANTS
        }
        for each in (RAW, STORE, MEMORY):
            assert_as_published(targets[each], expected)
        _progress(f"the rows of {len(expected):,} customers are as published")
        _remember(services[MEMORY], asked)
        asked_before = services[MEMORY].metric("clv_customers_total", source="store")
        _progress("warming the emulator up")
        for ids in IDS:
            clients.run(targets[RAW], Cell(ids, _WARM_UP_CONNECTIONS), _WARM_UP_SECONDS, "warm-up", lambda: None)
        rounds = []
        for number in range(options.rounds):
            _progress(f"round {number + 1} of {options.rounds}")
            rounds.append(_round(options, number, clients, targets, services))
        _hold_to_their_roles(services, asked_before)
    return rounds


def _publish(table: pa.Table, host: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The namespace of the rows, and some rows as they are to be answered."""
    from datetime import timedelta
    from unittest import mock

    from serving.store import Content, Generation, Writing, open_store

    name = "2011-12-10-5f4e3d2c1b0a"
    few = table.slice(0, COMPARED).to_pylist()
    expected = {row["customer_id"]: row | {"as_of": row["as_of"].isoformat(), "generation": name} for row in few}
    generation = Generation(name, few[0]["as_of"], few[0]["horizon_days"], few[0]["model_version"])
    with (
        mock.patch.dict(os.environ, DATASTORE_EMULATOR_HOST=host),
        open_store(f"datastore://{PROJECT}", create=True, writing=Writing(ttl=timedelta(days=1))) as store,
    ):
        attempt = store.begin(generation)
        assert attempt is not None, "the emulator is not a new one"
        for batch in table.to_batches(10_000):
            store.write(name, attempt, batch)
        store.seal(name, attempt, Content(table.num_rows), {})
        store.switch(name, None)
        found = {key: row | {"as_of": row["as_of"].isoformat()} for key, row in store.lookup_many(expected).items()}
    if found != expected:
        raise OutputsDiffer("the store does not give what was published")
    return f"{name}.{attempt}", expected


@contextlib.contextmanager
def _services(host: str, row: Mapping[str, Any]) -> Iterator[dict[str, Service]]:
    environment = {"DATASTORE_EMULATOR_HOST": host}
    arguments = ("--serving", f"datastore://{PROJECT}", "--no_auth", "--port", "0")
    row_bytes = len(json.dumps(row, separators=(",", ":")))
    with (
        Service("serving.app", *arguments, "--rows_kept", "0", environment=environment) as store,
        Service("serving.app", *arguments, "--rows_kept", str(ROWS_KEPT), environment=environment) as memory,
        Service("benchmarks.lookup_floor", "--row_bytes", str(row_bytes), "--rows", str(max(IDS))) as floor,
    ):
        yield {STORE: store, MEMORY: memory, FLOOR: floor}


def assert_as_published(target: Target, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Holds the rows of these customers, asked for one by one and a hundred at a time, to what was published.

    Raises:
      OutputsDiffer: names contestant and customer of the first difference.
    """
    names = list(expected)
    together = [row for start in range(0, len(names), max(IDS)) for row in target.rows(names[start : start + max(IDS)])]
    for row in (*map(target.row, names), *together):
        published = {**expected[row["customer_id"]]}
        if target.contestant == RAW:  # whose namespace it is in tells the generation, when it expires is the store's
            published["expire_at"] = row.get("expire_at")
            del published["generation"]
        if row != published:
            raise OutputsDiffer(f"{target.contestant} gives customer {row['customer_id']} otherwise than published")
    if len(together) != len(names):
        raise OutputsDiffer(f"{target.contestant} gives {len(together)} of {len(names)} customers")


def _remember(service: Service, customer_ids: Sequence[str]) -> None:
    """Has every customer asked for once."""
    with contextlib.closing(Connection(service.port)) as connection:
        for start in range(0, len(customer_ids), _IDS_PER_WARMING):
            answer = connection.ask(post(customer_ids[start : start + _IDS_PER_WARMING]))
            if answer.status != 200:
                raise OutputsDiffer(f"{MEMORY} answered {answer.status}: {answer.body!r}")


def _hold_to_their_roles(services: Mapping[str, Service], asked_before: float) -> None:
    """Raises: OutputsDiffer where "store" remembered a row, or "memory" asked the store for one while it was measured."""
    if services[STORE].metric("clv_customers_total", source="memory"):
        raise OutputsDiffer(f"{STORE} answered from memory")
    if services[MEMORY].metric("clv_customers_total", source="store") != asked_before:
        raise OutputsDiffer(f"{MEMORY} asked the store")


def _round(
    options: BenchmarkOptions,
    number: int,
    clients: Clients,
    targets: Mapping[str, Target],
    services: Mapping[str, Service],
) -> Round:
    found = {}
    for place, cell in enumerate(options.cells):
        first = (number + place) % len(CONTESTANTS)
        for contestant in CONTESTANTS[first:] + CONTESTANTS[:first]:
            figures = _figures(options, number, clients, targets[contestant], cell, services.get(contestant))
            found[contestant, cell] = figures
            _progress(f"  {_named(contestant, cell)}: p50 {figures.p50_ms:.3f} ms")
    return {(contestant, cell): found[contestant, cell] for cell in options.cells for contestant in CONTESTANTS}


def _figures(
    options: BenchmarkOptions, number: int, clients: Clients, target: Target, cell: Cell, service: Service | None
) -> Figures:
    cpu = [0.0]

    def began() -> None:
        cpu[0] = service.cpu_seconds() if service else 0.0

    load = clients.run(target, cell, options.seconds, f"{options.seed}.{number}", began)
    used = service.cpu_seconds() - cpu[0] if service else 0.0
    return Figures(load.requests_per_second, load.percentile(50), load.percentile(99), 1000 * used / len(load.seconds))


def ratios(figures: Mapping[tuple[str, Cell], Figures]) -> dict[str, float]:
    """By name, p50 of the service by p50 of raw."""
    return {
        _named(contestant, cell): of.p50_ms / figures[RAW, cell].p50_ms
        for (contestant, cell), of in figures.items()
        if contestant in (STORE, MEMORY)
    }


def aims(cells: Sequence[Cell]) -> dict[str, float]:
    """By name, the most that a ratio may be."""
    return {_named(contestant, cell): MOST[cell.ids] for contestant in (STORE, MEMORY) for cell in cells}


def verdict(rounds: Sequence[Round]) -> dict[str, Any]:
    """The benchmark's result; the aim is met when no ratio is above its aim."""
    typical = {key: Figures.typical([each[key] for each in rounds]) for key in rounds[0]}
    named = {_named(*key): figures for key, figures in typical.items()}
    return harness.verdict(NAME, PACKAGES, named, ratios(typical), aims([cell for _, cell in typical]))


def _named(contestant: str, cell: Cell) -> str:
    return f"{contestant}, {cell.ids} id{'s' * (cell.ids > 1)}, {cell.connections} connection{'s' * (cell.connections > 1)}"


def print_table(figures: Mapping[str, Mapping[str, float]]) -> None:
    """One line a contestant and load."""
    width = max(map(len, figures))
    print(f"{'':{width}}  {'requests/s':>10}  {'p50 ms':>8}  {'p99 ms':>8}  {'CPU s':>6}")
    for name, figure in figures.items():
        print(
            f"{name:{width}}  {figure['requests_per_second']:10,.0f}  {figure['p50_ms']:8.3f}  {figure['p99_ms']:8.3f}"
            f"  {figure['service_cpu_seconds']:6.3f}"
        )


def print_ratios(rounds: Sequence[Round], result: Mapping[str, Any]) -> None:
    """Each ratio beside its aim and its range over the rounds, and how many of each contestant's aims are met."""
    of_rounds = [ratios(each) for each in rounds]
    met = {name: value <= result["aim"][name] for name, value in result["ratios"].items()}
    for name, value in result["ratios"].items():
        values = [each[name] for each in of_rounds]
        print(
            f"{name}: {value:.2f} x raw, from {min(values):.2f} to {max(values):.2f} "
            f"(aim: at most {result['aim'][name]:g}, {'met' if met[name] else 'missed'})"
        )
    for contestant in (STORE, MEMORY):
        own = [is_met for name, is_met in met.items() if name.startswith(f"{contestant},")]
        print(f"{contestant}: {sum(own)} of {len(own)} aims met")


def _connections(text: str) -> tuple[int, ...]:
    """Numbers of connections; the service answers no more than 512 requests at a time."""
    import argparse

    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= 512 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not usable: accepted are numbers from 1 to 512 with commas between"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
