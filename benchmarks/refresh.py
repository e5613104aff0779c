"""What the personalization refresh costs: calls to the service, writes to the ledger, and CPU, of many campaigns.

    python -m benchmarks.refresh --campaigns 1000
    python -m benchmarks.refresh --campaigns 200 --ledger dynamodb

The local Amazon Personalize answers over HTTP to boto3, in another process than the contestant's. Ours
(orchestration.refresh: a worker and its ledger) and the way that it succeeds ("seed": a poller that describes import,
version and campaign each time and rewrites its flags) each begin a refresh of every campaign, look at all of them while
the trainings go on ("idle"), and finish them. Idle is what a refresh is for hours, each minute: there ours has to make
exactly one request a look and no write, counted by the service and by a counting ledger, and at the end both have to have
every campaign serve the version of that refresh; else there are no figures and the exit code is 1.

CPU is the contestant's own, of the loop alone: imports, the client and the connections are made before. Of the idle rounds
the median counts. DynamoDB is moto's, which takes longer for an answer than the service, but of another process's time.
The last line is one JSON object.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import harness
from benchmarks.harness import OutputsDiffer
from transforms.cli import ArgumentParser, whole_number

NAME = "refresh"
OURS, SEED = "ours", "seed"
PHASES = ("begin", "idle", "finish")
AIM = {"idle_cpu": 0.5, "idle_calls": 0.34}  # at most
PACKAGES = ("boto3", "botocore")
TABLE = "refresh"
# The second contestant's refreshes are of a later date, so that the service takes them for others.
DATES = {OURS: datetime.date(2026, 11, 1), SEED: datetime.date(2026, 11, 8)}
_TRAINING_SECONDS = 3_600
_BEGIN = 1_793_500_000.0


@dataclass(frozen=True)
class Cost:
    """Of one contestant: milliseconds, calls and writes of one look at an idle refresh, and of a whole refresh without those."""

    idle_cpu_ms: float
    idle_wall_ms: float
    idle_calls: float
    idle_writes: float
    refresh_cpu_ms: float
    refresh_calls: Mapping[str, float]
    refresh_writes: Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkOptions:
    campaigns: int
    rounds: int
    ledger: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        parser = ArgumentParser("python -m benchmarks.refresh", description=__doc__)
        parser.add_argument("--campaigns", type=whole_number(1), default=1_000, help="each with a refresh")
        parser.add_argument("--rounds", type=whole_number(1), default=3, help="looks at each idle refresh")
        parser.add_argument("--ledger", choices=["sqlite", "dynamodb"], default="sqlite", help="where the records are")
        return cls(**vars(parser.parse_args(argv)))


class Service:
    """The local Amazon Personalize with a shop for each campaign, whose time stands still unless it is moved on."""

    def __init__(self, campaigns: int) -> None:
        from orchestration.refresh.local_personalize.client import Client
        from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize, Quotas
        from orchestration.refresh.local_personalize.resources import create_shop

        self.now = _BEGIN
        # A training takes its time; everything else is done as soon as it is asked for.
        durations = Durations(0, _TRAINING_SECONDS, 0, 0, 0, 0)
        quotas = Quotas(imports=campaigns + 1, trainings=campaigns + 1)
        self.local = LocalPersonalize(lambda: self.now, durations=durations, quotas=quotas)
        client = Client(self.local)
        shops = [create_shop(client, f"shop{number}", wait=self.train) for number in range(campaigns)]
        self.resources = {
            f"shop{number}": {
                "dataset_arn": shop.dataset_arn, "solution_arn": shop.solution_arn, "campaign_arn": shop.campaign_arn,
                "role_arn": shop.role_arn,
            }
            for number, shop in enumerate(shops)
        }  # fmt: skip

    def train(self, _: float = 0) -> None:
        """Lets the time pass in which trainings end."""
        self.now += 2 * _TRAINING_SECONDS

    def served(self) -> dict[str, str]:
        """The name of the version that each campaign serves, by the campaign's name."""
        versions = self.local.versions
        return {str(each.name): str(versions[each.solution_version_arn].name) for each in self.local.campaigns.values()}


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: an idle look of ours was more than one call, or a campaign does not serve what it should.
    """
    from orchestration.refresh.local_personalize.server import Server

    options = BenchmarkOptions.parse(argv)
    _progress(f"making {options.campaigns:,} campaigns")
    service = Service(options.campaigns)
    costs = {}
    with Server(service.local) as server, tempfile.TemporaryDirectory(prefix="clv-refresh-") as directory:
        with open(os.path.join(directory, "campaigns.json"), "w", encoding="utf8") as file:
            json.dump(service.resources, file)
        with ledger_of(options.ledger, directory) as (uri, environment):
            environment |= {"AWS_ENDPOINT_URL_PERSONALIZE": server.url}
            for who in (OURS, SEED):
                costs[who] = _contest(who, service, options, directory, uri, environment)
    result = verdict(costs)
    print_table(costs)
    harness.print_verdict(result)
    return result


@contextmanager
def ledger_of(kind: str, directory: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address, and the environment that it needs."""
    environment = {
        **harness.ONE_THREAD, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }  # fmt: skip
    if kind == "sqlite":
        yield f"sqlite://{os.path.join(directory, 'ledger.db')}", environment
        return
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        url = "http://{}:{}".format(*moto.get_host_and_port())
        client = boto3.session.Session("test", "test", region_name="eu-central-1").client("dynamodb", endpoint_url=url)
        keys = {"campaign_name": "HASH", "base_date": "RANGE"}
        client.create_table(
            TableName=TABLE, BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
        )  # fmt: skip
        yield f"dynamodb://{TABLE}", {**environment, "AWS_ENDPOINT_URL_DYNAMODB": url}
    finally:
        moto.stop()


def _contest(
    who: str, service: Service, options: BenchmarkOptions, directory: str, ledger: str, environment: Mapping[str, str]
) -> Cost:
    took, calls = {}, {}
    for phase in PHASES:
        _progress(f"{who}: {phase}")
        before, output = len(service.local.calls), os.path.join(directory, "cost.json")
        harness.measure(
            [
                "-m", "benchmarks.refresh_contestant", "--who", who, "--phase", phase, "--ledger", ledger,
                "--campaigns", os.path.join(directory, "campaigns.json"), "--base_date", DATES[who].isoformat(),
                "--rounds", str(options.rounds), "--output", output,
            ],
            environment,
        )  # fmt: skip
        with open(output, encoding="utf8") as file:
            took[phase] = json.load(file)
        calls[phase] = Counter(call.operation for call in service.local.calls[before:])
        if phase == "idle":
            service.train()
    if who == OURS:
        assert_quiet(calls["idle"], took["idle"]["writes"], options.campaigns * options.rounds)
    assert_served(who, service.served())
    return cost(took, calls, options.campaigns)


def assert_quiet(calls: Mapping[str, int], writes: Mapping[str, int], looks: int) -> None:
    """Raises: OutputsDiffer: so many idle looks were not one question each, and nothing else."""
    if calls != {"DescribeSolutionVersion": looks} or writes:
        raise OutputsDiffer(f"{looks} idle looks of {OURS} made the calls {dict(calls)} and the writes {dict(writes)}")


def assert_served(who: str, served: Mapping[str, str]) -> None:
    """Raises: OutputsDiffer: names a campaign that does not serve the version of the contestant's refresh."""
    from orchestration.refresh.record import job_name

    for campaign, version in served.items():
        if version != job_name(campaign, DATES[who]):
            raise OutputsDiffer(f"after the refreshes of {who}, {campaign} serves {version}")


def cost(took: Mapping[str, Any], calls: Mapping[str, Mapping[str, int]], campaigns: int) -> Cost:
    """Args: took, calls: by phase: what a contestant said, and the service's count of its calls by operation."""
    idle = took["idle"]["rounds"]
    looks = campaigns * len(idle)
    whole_calls, whole_writes = Counter[str](), Counter[str]()
    cpu = 0.0
    for phase in ("begin", "finish"):
        whole_calls.update(calls[phase])
        whole_writes.update(took[phase]["writes"])
        cpu += sum(each["cpu_seconds"] for each in took[phase]["rounds"])
    return Cost(
        1000 * statistics.median(each["cpu_seconds"] for each in idle) / campaigns,
        1000 * statistics.median(each["wall_seconds"] for each in idle) / campaigns,
        sum(calls["idle"].values()) / looks,
        sum(took["idle"]["writes"].values()) / looks,
        1000 * cpu / campaigns,
        {name: count / campaigns for name, count in sorted(whole_calls.items())},
        {name: count / campaigns for name, count in sorted(whole_writes.items())},
    )


def verdict(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The closing JSON object; ratios are ours to the seed's."""
    ours, seed = costs[OURS], costs[SEED]
    ratios = {
        "idle_cpu": ours.idle_cpu_ms / seed.idle_cpu_ms,
        "idle_calls": ours.idle_calls / seed.idle_calls,
        "refresh_cpu": ours.refresh_cpu_ms / seed.refresh_cpu_ms,
        "refresh_calls": sum(ours.refresh_calls.values()) / sum(seed.refresh_calls.values()),
    }
    return harness.verdict(NAME, PACKAGES, costs, ratios, AIM)


def print_table(costs: Mapping[str, Cost]) -> None:
    """What a look and a refresh cost, then a refresh's calls and writes by kind."""
    print(
        f"{'':6}  {'idle CPU ms':>11}  {'wall ms':>8}  {'calls':>6}  {'writes':>6}  {'refresh CPU ms':>14}  {'calls':>6}  {'writes':>6}"
    )
    for who, each in costs.items():
        whole = f"{sum(each.refresh_calls.values()):6.1f}  {sum(each.refresh_writes.values()):6.1f}"
        print(
            f"{who:6}  {each.idle_cpu_ms:11.2f}  {each.idle_wall_ms:8.2f}  {each.idle_calls:6.2f}  {each.idle_writes:6.2f}"
            f"  {each.refresh_cpu_ms:14.1f}  {whole}"
        )
    for kind in ("refresh_calls", "refresh_writes"):
        print(f"{kind.partition('_')[2]} of a refresh:")
        for name in sorted({name for each in costs.values() for name in asdict(each)[kind]}):
            print(
                f"  {name:26}"
                + "".join(f"  {who} {asdict(each)[kind].get(name, 0):5.1f}" for who, each in costs.items())
            )


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
