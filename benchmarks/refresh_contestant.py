"""Moves the refreshes of many campaigns on in one of two ways: one contestant of benchmarks.refresh, in one phase.

    python -m benchmarks.refresh_contestant --who ours --phase idle --campaigns campaigns.json --base_date 2026-11-01 \\
        --ledger sqlite://ledger.db --rounds 3 --output cost.json

Follows AWS_ENDPOINT_URL_PERSONALIZE. ``begin`` goes on until every training is in progress, ``idle`` looks at each refresh
so many times, ``finish`` goes on until every campaign is updated. "seed" is the poller that this system succeeds, written
down anew: it describes import, version and campaign each time, makes the next step's call when the step before is ACTIVE,
and rewrites its flags. Both have the same client and the same kind of ledger. Writes to OUTPUT what it took.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestration.refresh.ledger import HEAD, Ledger, Row, open_ledger
from transforms.cli import ArgumentParser, exit_code, whole_number
from transforms.errors import JobFailed

if TYPE_CHECKING:
    from orchestration.refresh.interactions_data import Data
    from orchestration.refresh.personalize import Resources

OURS, SEED = "ours", "seed"
BEGIN, IDLE, FINISH = "begin", "idle", "finish"
_MOST_ROUNDS = 20  # of begin and finish; the seed needs 4


@dataclass(frozen=True)
class ContestantOptions:
    who: str
    phase: str
    campaigns: str
    base_date: datetime.date
    ledger: str
    rounds: int
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> ContestantOptions:
        parser = ArgumentParser("python -m benchmarks.refresh_contestant", description=__doc__)
        parser.add_argument("--who", required=True, choices=[OURS, SEED], help="orchestration.refresh, or the poller")
        parser.add_argument("--phase", required=True, choices=[BEGIN, IDLE, FINISH], help="what to do")
        parser.add_argument(
            "--campaigns", required=True, metavar="FILE", help="JSON: the resources of each campaign, by its name"
        )
        parser.add_argument(
            "--base_date", required=True, type=datetime.date.fromisoformat, metavar="DATE", help="of the refreshes"
        )
        parser.add_argument("--ledger", required=True, metavar="URI", help="sqlite://PATH or dynamodb://TABLE")
        parser.add_argument("--rounds", type=whole_number(1), default=3, help="looks at each refresh, where idle")
        parser.add_argument("--output", required=True, metavar="FILE", help="the JSON file of what it took")
        return cls(**vars(parser.parse_args(argv)))


class Counting(Ledger):
    """A ledger that counts what is written to another: records, and heads."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.writes = ledger, Counter[str]()

    def _read(self, campaign: str, key: str) -> Row | None:
        return self.ledger._read(campaign, key)

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        self.writes["head" if key == HEAD else "record"] += 1
        self.ledger._write(campaign, key, row, expected)

    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        return self.ledger._rows(campaign)

    def campaigns(self) -> list[str]:
        return self.ledger.campaigns()


class Contestant(Protocol):
    """One campaign's refresh."""

    def start(self) -> None: ...

    def look(self) -> str:
        """Does what can be done now; whether it is "training", "done" or elsewhere."""


class Ours:
    def __init__(self, name: str, resources: Resources, ledger: Ledger, base_date: datetime.date) -> None:
        from orchestration.refresh.personalize import connect
        from orchestration.refresh.policy import Policy
        from orchestration.refresh.worker import Worker

        self.base_date = base_date
        policy = Policy(least_metric_ratio=0)
        self.worker = Worker(ledger, name, connect(resources), policy, read=_data, log=lambda content: None)

    def start(self) -> None:
        self.worker.start(self.base_date, f"s3://interactions/{self.worker.campaign}/{self.base_date}", "a benchmark")

    def look(self) -> str:
        from orchestration.refresh.record import State

        ticked = self.worker.tick(self.base_date)
        assert ticked is not None
        names = {State.TRAINING_IN_PROGRESS: "training", State.DEPLOYMENT_ACTIVE: "done"}
        if ticked.record.state.is_end and ticked.record.state not in names:
            raise JobFailed(f"{self.worker.campaign} is {ticked.record.state}: {ticked.record.reason}")
        return names.get(ticked.record.state, "elsewhere")


class Seed:
    """The poller. Its row has the ARNs of what it made, and a flag for each step."""

    def __init__(self, name: str, resources: Resources, ledger: Ledger, base_date: datetime.date) -> None:
        from orchestration.refresh.personalize import connect
        from orchestration.refresh.record import job_name

        self.name, self.resources, self.ledger, self.base_date = name, resources, ledger, base_date
        self.job, self.client = job_name(name, base_date), connect(resources).client

    def start(self) -> None:
        arn = self.client.create_dataset_import_job(
            jobName=self.job, datasetArn=self.resources.dataset_arn, roleArn=self.resources.role_arn, importMode="FULL",
            dataSource={"dataLocation": f"s3://interactions/{self.name}/{self.base_date}/"},
        )["datasetImportJobArn"]  # fmt: skip
        self._write({"revision": 0, "import_job": arn, "version": ""})

    def look(self) -> str:
        row = self.ledger._read(self.name, self.base_date.isoformat())
        assert row is not None
        described = self.client.describe_dataset_import_job(datasetImportJobArn=row["import_job"])
        imported = described["datasetImportJob"]["status"] == "ACTIVE"
        trained = False
        if row["version"]:
            described = self.client.describe_solution_version(solutionVersionArn=row["version"])
            trained = described["solutionVersion"]["status"] == "ACTIVE"
        campaign = self.client.describe_campaign(campaignArn=self.resources.campaign_arn)["campaign"]
        deployed = bool(row["version"]) and campaign["solutionVersionArn"] == row["version"]
        if imported and not row["version"]:
            row["version"] = self.client.create_solution_version(
                name=self.job, solutionArn=self.resources.solution_arn
            )["solutionVersionArn"]
        elif trained and not deployed:
            self.client.update_campaign(campaignArn=self.resources.campaign_arn, solutionVersionArn=row["version"])
        self._write({**row, "imported": int(imported), "trained": int(trained), "deployed": int(deployed)})
        return "done" if deployed else "training" if row["version"] and not trained else "elsewhere"

    def _write(self, row: Row) -> None:
        expected = row["revision"]
        self.ledger._write(self.name, self.base_date.isoformat(), {**row, "revision": expected + 1}, expected)


def _data(directory: str) -> Data:
    from orchestration.refresh.interactions_data import Data

    until = datetime.date.fromisoformat(directory.rpartition("/")[2])
    return Data(f"{directory}/", "FULL", 5_000, 300, f"of {until}", None, until)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Returns what OUTPUT says: per look of each round its CPU and wall seconds, and what was written.

    Raises:
      JobFailed: a refresh did not come to where the phase ends.
    """
    from orchestration.refresh.personalize import Resources

    options = ContestantOptions.parse(argv)
    with open(options.campaigns, encoding="utf8") as file:
        campaigns = json.load(file)
    ledger = Counting(open_ledger(options.ledger))
    make: Callable[..., Contestant] = Ours if options.who == OURS else Seed
    contestants = [make(name, Resources(**each), ledger, options.base_date) for name, each in campaigns.items()]
    ledger.campaigns()  # connects
    rounds = _timed(contestants, options)
    cost = {"rounds": rounds, "writes": dict(ledger.writes)}
    with open(options.output, "w", encoding="utf8") as file:
        json.dump(cost, file)
    return cost


def _timed(contestants: list[Contestant], options: ContestantOptions) -> list[dict[str, float]]:
    rounds = []
    wanted = "done" if options.phase == FINISH else "training"
    open_ = contestants
    for number in range(options.rounds if options.phase == IDLE else _MOST_ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        if options.phase == BEGIN and number == 0:
            for each in open_:
                each.start()
        seen = [each.look() for each in open_]
        rounds.append({"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall})
        left = [each for each, found in zip(open_, seen, strict=True) if found != wanted]
        if options.phase == IDLE:
            if left:
                raise JobFailed(f"{len(left)} refreshes of {options.who} are not in training")
            continue
        if not left:
            return rounds
        open_ = left
    if options.phase != IDLE:
        raise JobFailed(f"{len(open_)} refreshes of {options.who} are not {wanted} after {_MOST_ROUNDS} rounds")
    return rounds


if __name__ == "__main__":
    sys.exit(main())
