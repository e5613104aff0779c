"""kill -9 of a publish at random moments, and the same command once more: nothing is lost, nothing is doubled."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import time
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines import publish
from tests.emulators.datastore_proxy import DatastoreProxy
from tests.emulators.services import Datastore
from tests.pipelines.cloud import Cloud, assert_serves, split
from tests.pipelines.publishing import customers, table_of
from tests.serving.store_contract import AS_OF, prediction

pytestmark = pytest.mark.emulators

CUSTOMERS = 1_200


def publish_in_child(environment: dict[str, str], arguments: list[str]) -> None:
    os.environ.update(environment)
    os._exit(publish.main(arguments))


def start(arguments: list[str]) -> Any:
    """A publish in a process of its own, forked where everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.publish", "apache_beam", "pyarrow.parquet", "google.cloud.bigquery"])
    followed = {name: value for name, value in os.environ.items() if name.endswith("_EMULATOR_HOST")}
    child = context.Process(target=publish_in_child, args=(followed, arguments))
    child.start()
    return child


def assert_undisturbed(cloud: Cloud, name: str, before: str | None, table: pa.Table, as_of: date) -> None:
    """Exactly what a publish that nobody killed leaves: worked out from the input alone."""
    entities = cloud.entities()
    held = {namespace.rsplit(".", 1)[0]: rows for namespace, rows in entities.items()}
    assert held.keys() == {name, before} - {None}
    assert len(held) == len(entities)  # no namespace of a dead attempt
    assert held[name].keys() == set(table["customer_id"].to_pylist())
    assert_serves(cloud, name, table)
    rows = cloud.query(f"SELECT * FROM `{cloud.table}` WHERE as_of = DATE '{as_of}' ORDER BY customer_id")
    assert rows == [row | {"generation": name} for row in table.sort_by("customer_id").to_pylist()]
    (viewed,) = cloud.query(f"SELECT COUNT(*) AS n, MIN(generation) AS g FROM `{cloud.table}_current`")
    assert viewed == {"n": table.num_rows, "g": name}
    # Of dead attempts a staged table may be left until its generation goes, of other generations none.
    staged = [table for table in cloud.tables() if table not in ("predictions", "predictions_current")]
    assert {table.rsplit("_", 1)[0] for table in staged} == {
        f"predictions_staged_{each.replace('-', '_')}" for each in (name, before) if each
    }


def test_killed_at_twenty_random_moments(
    whole_cloud: Cloud, proxy: DatastoreProxy, datastore_emulator: Datastore
) -> None:
    """Every day's publish is killed once, some twice; the next run of the same command leaves what it should."""
    kills = 20 if datastore_emulator.name == "firestore" else 5
    drawn, before, duration = random.Random(5), None, 0.0
    killed, day = 0, 0
    while killed < kills:
        assert day < 4 * kills, "most publishes are over before they can be killed"
        as_of = AS_OF + timedelta(days=day)
        good = customers(CUSTOMERS, as_of, seed=day)
        bad = table_of([prediction("bad", -1.0, as_of)])
        directory = whole_cloud.predictions(f"p{day}", *split(pa.concat_tables([good, bad]), 3), as_of=as_of)
        arguments = whole_cloud.arguments(directory, "--keep_generations", "1")
        for _ in range(1 + day % 2):
            seen, child = proxy.counts["calls"], start(arguments)
            while proxy.counts["calls"] == seen and child.is_alive():
                time.sleep(0.002)
            begun = time.monotonic()
            child.join(drawn.uniform(0, duration) if duration else None)  # the first one shows how long it takes
            child.kill()
            child.join()
            assert child.exitcode in (0, -signal.SIGKILL)
            if child.exitcode:
                killed += 1
            else:  # on a machine that was busy at first it takes less and less
                duration = min(duration or math.inf, time.monotonic() - begun)
        result = whole_cloud.publish(directory, "--keep_generations", "1")
        assert (result["rows"], result["dead_letters"]) == (CUSTOMERS, {"negative": 1})
        assert_undisturbed(whole_cloud, result["generation"], before, good, as_of)
        before, day = result["generation"], day + 1
