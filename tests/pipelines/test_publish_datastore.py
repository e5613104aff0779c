"""Publishing to Datastore and BigQuery, whole: the real command against Google's emulators, disturbed in every way."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pyarrow as pa
import pytest

from pipelines import publish, publish_conclude
from serving.store import PointerMoved, open_store
from tests.emulators.datastore_proxy import DatastoreProxy, refused, reply_lost, slow
from tests.emulators.services import Datastore
from tests.pipelines.cloud import Cloud, assert_serves, split
from tests.pipelines.publishing import TOLERANT, customers, table_of, unusable
from tests.serving.store_contract import AS_OF, prediction

pytestmark = pytest.mark.emulators

CODES = grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
def many(datastore_emulator: Datastore) -> int:
    """As many customers as an emulator takes in reasonable time: the older one answers 300 keys a query, each in O(n)."""
    return 5_000 if datastore_emulator.name == "datastore" else 50_000


def test_everything_arrives_everywhere(whole_cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    table = customers(3_000)
    directory = whole_cloud.predictions("p", *split(table, 3))
    name = whole_cloud.publish(directory)["generation"]
    assert_serves(whole_cloud, name, table)
    ((namespace, entities),) = whole_cloud.entities().items()
    assert (namespace, len(entities)) == (f"{name}.1", 3_000)
    rows = whole_cloud.query(f"SELECT * FROM `{whole_cloud.table}_current` ORDER BY customer_id")
    assert rows == [row | {"generation": name} for row in table.sort_by("customer_id").to_pylist()]
    assert whole_cloud.tables() == sorted(
        ["predictions", "predictions_current", f"predictions_staged_{name.replace('-', '_')}_1"]
    )
    capsys.readouterr()
    again = whole_cloud.publish(directory)
    assert (again["already_current"], again["switched"]) == (True, False)
    assert f"publish {name}: is the current generation already" in capsys.readouterr().err


def test_commands_on_datastore_and_bigquery(whole_cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """One life: two days, a dead letter mended, a rollback within the day, a purge."""
    monday, tuesday = AS_OF - timedelta(days=1), AS_OF
    first = whole_cloud.publish(whole_cloud.predictions("1", customers(50, monday), as_of=monday))["generation"]
    bad = prediction("late", 7.0, decile=11)
    second = whole_cloud.publish(
        whole_cloud.predictions("2", customers(50, tuesday), table_of([bad])), "--ttl_days", "30"
    )["generation"]
    third = whole_cloud.publish(whole_cloud.predictions("3", customers(50, tuesday, seed=2)))["generation"]
    letters = whole_cloud.root / "dl" / second
    for path in letters.glob("*.jsonl"):
        path.write_text(path.read_text().replace('"decile": 11', '"decile": 10'))
    assert publish.main(["replay", *whole_cloud.places(), "--dead_letters", str(letters)]) == 0
    held = f"SELECT COUNT(*) AS n, MIN(generation) AS g FROM `{whole_cloud.table}_current`"
    assert whole_cloud.query(held) == [{"n": 50, "g": third}]
    assert publish.main(["rollback", *whole_cloud.places(), "--to", second, "--reason", "a test"]) == 0
    assert whole_cloud.served_rows(["late"])["late"] == bad | {"decile": 10, "generation": second}
    assert whole_cloud.query(held) == [{"n": 51, "g": second}]
    assert publish.main(["rollback", *whole_cloud.places(), "--to", first, "--reason", "a test"]) == 0
    assert whole_cloud.query(held) == [{"n": 50, "g": first}]
    capsys.readouterr()
    assert publish.main(["status", "--serving", whole_cloud.serving, "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], each["current"], each["content"]["rows"]) for each in said] == [
        (third, False, 50), (second, False, 51), (first, True, 50),
    ]  # fmt: skip
    assert publish.main(["purge", *whole_cloud.places(), "--keep", "1"]) == 0
    assert sorted(whole_cloud.entities()) == sorted([f"{first}.1", f"{second}.1"])  # second was current after third
    assert not [table for table in whole_cloud.tables() if third.replace("-", "_") in table]


def test_a_dry_run_sees_what_is_served_and_writes_nothing(cloud: Cloud, proxy: DatastoreProxy) -> None:
    current = cloud.publish(cloud.predictions("p", customers(1_000)))["generation"]
    before = proxy.counts["mutations"]
    directory = cloud.predictions("next", customers(1_100, seed=2))
    planned = publish.run([*cloud.arguments(directory)[:-2], "--dry_run", "--ramp", "50/50/5"])
    assert proxy.counts["mutations"] == before
    assert planned["outcome"].startswith(f"would switch from {current} to 2011-12-10-")
    assert (planned["store"]["writes"], planned["store"]["seconds"]) == (1_100, 22.0)


def test_bad_rows_are_dead_letters_and_every_good_one_is_served(cloud: Cloud, many: int) -> None:
    good, bad = customers(many), unusable(1_900)
    twice = [prediction(f"twice{i:03d}", value) for i in range(50) for value in (1.0, 2.0)]
    mixed = pa.concat_tables([good, table_of([row for _, row in bad]), table_of(twice)])
    shuffled = mixed.take(random.Random(1).sample(range(mixed.num_rows), mixed.num_rows))
    result = cloud.publish(cloud.predictions("p", *split(shuffled, 5)), *TOLERANT, "--override", "missing=a test")
    reasons = Counter(reason for reason, _ in bad) + Counter(duplicate_customer_id=100)
    assert (result["rows"], result["dead_letters"]) == (many, dict(reasons))
    assert_serves(cloud, result["generation"], good)
    ((_, entities),) = cloud.entities().items()
    assert len(entities) == many
    files = (cloud.root / "dl" / result["generation"]).glob("*.jsonl")
    letters = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    known = {row["customer_id"]: reason for reason, row in bad if str(row["customer_id"]).startswith("bad")}
    assert len(letters) == 2_000
    assert all(known.get(each["payload"]["customer_id"], each["reason"]) == each["reason"] for each in letters)
    assert {each["payload"]["customer_id"] for each in letters} >= known.keys()


def test_what_only_the_store_finds_out_is_a_dead_letter_too(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own check of it taken away, the store's refusal of one entity must not cost its neighbours."""
    from serving import checks

    original = checks.rules
    monkeypatch.setattr(checks, "rules", lambda c: [r for r in original(c) if r.reason != "customer_id_too_long"])
    table = pa.concat_tables([customers(1_300), table_of([prediction("x" * 1501)])])
    result = cloud.publish(cloud.predictions("p", table))
    assert (result["rows"], result["dead_letters"]) == (1_300, {"refused_by_store": 1})
    assert_serves(cloud, result["generation"], customers(1_300))
    (letter,) = [
        json.loads(line)
        for file in (cloud.root / "dl" / result["generation"]).glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert (letter["stage"], letter["payload"]["customer_id"]) == ("store", "x" * 1501)


def test_of_two_publishes_at_once_one_wins_and_the_other_says_who(cloud: Cloud) -> None:
    directories = [cloud.predictions(f"p{seed}", customers(600, seed=seed)) for seed in (1, 2)]
    barrier, original = threading.Barrier(2), publish_conclude.guard

    def together(*arguments: Any) -> Any:
        judged = original(*arguments)
        barrier.wait(60)
        return judged

    def run(directory: str) -> Any:
        try:
            return cloud.publish(directory)
        except PointerMoved as lost:
            return lost

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(publish_conclude, "guard", together)
        results = list(pool.map(run, directories))
    (won,) = [each for each in results if isinstance(each, dict)]
    (lost,) = [each for each in results if isinstance(each, PointerMoved)]
    assert f"generation {won['generation']} (as of 2011-12-10, published" in str(lost)
    assert {row["generation"] for row in cloud.served_rows(["c000001", "c000599"]).values()} == {won["generation"]}


def test_a_store_that_fails_now_and_then(cloud: Cloud, proxy: DatastoreProxy, many: int) -> None:
    proxy.faults = (
        refused(0.05, *CODES), reply_lost(0.05, *CODES), slow(0.05, 0.3),
    )  # fmt: skip
    for seed in range(4):
        table = customers(many // 5, seed=seed)
        name = cloud.publish(cloud.predictions(f"p{seed}", *split(table, 4)), "--keep_generations", "1")["generation"]
        assert_serves(cloud, name, table)
    assert min(proxy.counts[fault] for fault in ("refused", "reply_lost", "slow")) > 3
    proxy.faults = ()
    assert {len(entities) for entities in cloud.entities().values()} == {many // 5}
    assert len(cloud.entities()) == 2


def test_thirty_seconds_of_resource_exhausted(cloud: Cloud, proxy: DatastoreProxy) -> None:
    table = customers(5_000)
    timer = threading.Timer(0.2, lambda: proxy.exhaust(30))
    directory = cloud.predictions("p", table)
    timer.start()
    begun = time.monotonic()
    name = cloud.publish(directory)["generation"]
    assert time.monotonic() - begun > 25
    assert proxy.counts["exhausted"] > 3
    assert_serves(cloud, name, table)


def test_readers_never_see_two_generations_nor_a_miss(cloud: Cloud) -> None:
    ids = [f"c{i:06d}" for i in range(0, 2_000, 97)]
    cloud.publish(cloud.predictions("p0", customers(2_000, seed=0)))
    stop, answers, wrong = threading.Event(), Counter[str](), list[Any]()

    def read() -> None:
        with open_store(cloud.serving) as store:
            while not stop.is_set():
                found = store.lookup_many(ids)
                generations = {row["generation"] for row in found.values()}
                if len(found) != len(ids) or len(generations) != 1:
                    wrong.append((len(found), generations))
                answers[min(generations, default="none")] += 1

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        names = [
            cloud.publish(cloud.predictions(f"p{seed}", customers(2_000, seed=seed)))["generation"]
            for seed in range(1, 11)
        ]
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(answers.keys() & set(names)) >= 8, answers
    assert sum(answers.values()) > 100
