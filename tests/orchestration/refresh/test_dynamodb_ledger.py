"""The ledger in DynamoDB: the contract, what is in the table, and everything that can come between."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from orchestration.refresh.dynamodb_errors import create_command
from orchestration.refresh.dynamodb_ledger import DynamoLedger, connect, create_table
from orchestration.refresh.ledger import Conflict, Ledger
from orchestration.refresh.record import Head, State, Transition
from orchestration.refresh.service import Busy, Lost, NoAccess
from tests.orchestration.refresh.dynamodb import REGION, TABLE, Fault, Proxy, moto, point_at
from tests.orchestration.refresh.ledger_contract import DAY, NOW, LedgerContract, fresh, new_record
from transforms.errors import JobFailed, UsageError


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[str]:
    with moto() as url, pytest.MonkeyPatch.context() as patch:
        point_at(patch, url)
        client = connect()
        create_table(client, TABLE)
        client.close()
        yield url


@pytest.fixture(scope="module")
def shared(dynamodb: str) -> Ledger:
    return DynamoLedger(TABLE)


@pytest.fixture
def proxy(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(dynamodb) as proxy:
        point_at(monkeypatch, proxy.url)
        yield proxy


@pytest.fixture
def ledger(proxy: Proxy) -> Iterator[Ledger]:
    ledger = DynamoLedger(TABLE)
    yield ledger
    ledger.close()


class TestDynamoLedger(LedgerContract):
    atomic = False  # moto checks a condition, then writes, and other threads come in between

    @pytest.fixture
    def ledger(self, shared: Ledger) -> Ledger:
        return shared


def _item(key: str, campaign: str) -> dict[str, Any]:
    return connect().get_item(TableName=TABLE, Key={"campaign_name": {"S": campaign}, "base_date": {"S": key}})["Item"]


def test_the_table_reads_without_this_code(shared: Ledger) -> None:
    campaign = fresh()
    record = replace(
        new_record(campaign), metrics={"precision_at_5": 0.1 + 0.2, "coverage": 1.0}, data_rows=12_345, lease_until=NOW
    )
    shared.write(record)
    item = _item("2026-07-01", campaign)
    assert item["history"] == {
        "L": [{"M": {"at": {"S": "2026-07-01T04:05:06.000789Z"}, "state": {"S": "started"}, "reason": {"S": "a test"}}}]
    }
    metrics = item["metrics"]["M"]
    assert metrics["precision_at_5"] == {"N": "0.30000000000000004"}
    assert Decimal(metrics["coverage"]["N"]) == 1
    expected = {
        "campaign_name": {"S": campaign}, "base_date": {"S": "2026-07-01"}, "revision": {"N": "1"}, "state": {"S": "started"},
        "data_rows": {"N": "12345"}, "data_until": {"NULL": True}, "note": {"S": ""}, "overrides": {"M": {}},
        "lease_until": {"S": "2026-07-01T04:05:06.000789Z"},
    }  # fmt: skip
    assert {name: item[name] for name in expected} == expected
    shared.write_head(Head(campaign, open=(DAY,)))
    assert _item("head", campaign)["open"] == {"L": [{"S": "2026-07-01"}]}


def test_the_command_that_is_told_makes_the_table(dynamodb: str) -> None:
    """Its arguments are read as AWS's command reads them, which is not installed here."""
    words = create_command("made_by_command", REGION).split()
    assert words[:3] == ["aws", "dynamodb", "create-table"]
    options: dict[str, list[str]] = {}
    for word in words[3:]:
        if word.startswith("--"):
            values = options.setdefault(word, [])
        else:
            values.append(word)
    lists = {name: [dict(part.split("=") for part in each.split(",")) for each in options[name]]
             for name in ("--key-schema", "--attribute-definitions")}  # fmt: skip
    connect(options["--region"][0]).create_table(
        TableName=options["--table-name"][0], BillingMode=options["--billing-mode"][0],
        KeySchema=lists["--key-schema"], AttributeDefinitions=lists["--attribute-definitions"],
    )  # fmt: skip
    ledger = DynamoLedger("made_by_command", REGION)
    assert ledger.write(new_record()).revision == 1
    create_table(connect(), "made_by_command")  # again: it stays as it is
    assert ledger.campaigns() == ["shop"]


@pytest.mark.parametrize("kind", ["lost_reply", "lost_request"])
def test_a_lost_answer_that_boto3_tries_again_is_no_conflict(proxy: Proxy, ledger: Ledger, kind: str) -> None:
    record = new_record(fresh())
    for revision in (1, 2):
        proxy.faults = [Fault("PutItem", kind)]
        proxy.requests.clear()
        record = ledger.write(record)
        assert record.revision == revision
        assert proxy.requests.count("PutItem") == 2
    assert ledger.record(record.campaign, DAY) == record


def test_a_lost_answer_does_not_hide_a_real_conflict(proxy: Proxy, ledger: Ledger) -> None:
    """Even where the other's row is the same: two workers who write the same intent must not both take it for theirs."""
    record = ledger.write(new_record(fresh()))
    others = ledger.write(record)
    proxy.faults = [Fault("PutItem", "lost_request")]
    with pytest.raises(Conflict):
        ledger.write(record)
    assert ledger.record(record.campaign, DAY) == others


def test_where_every_answer_is_lost_the_row_tells_whether_it_is_done(proxy: Proxy, ledger: Ledger) -> None:
    record = new_record(fresh())
    proxy.faults = [Fault("PutItem", "lost_request", 2), Fault("PutItem", "lost_reply")]
    record = ledger.write(record)
    proxy.faults = [Fault("PutItem", "lost_request", 3)]
    with pytest.raises(Lost, match=f"'dynamodb://{TABLE}': Connection was closed"):
        ledger.write(record)
    assert ledger.record(record.campaign, DAY) == record


def test_where_every_answer_is_lost_and_somebody_else_was_faster_it_is_a_conflict(proxy: Proxy, ledger: Ledger) -> None:
    record = ledger.write(new_record(fresh()))
    ledger.write(record)
    proxy.faults = [Fault("PutItem", "lost_request", 3)]
    with pytest.raises(Conflict):
        ledger.write(record)


def test_where_nothing_answers_any_more_it_is_lost(proxy: Proxy, ledger: Ledger) -> None:
    record = ledger.write(new_record(fresh()))
    for answers in ([Fault("PutItem", "lost_reply", 3)], [Fault("PutItem", "lost_reply")]):
        # The row is written; whether it is ours cannot be read: by a cut, or by throttling after a conflict.
        proxy.faults = [*answers, Fault("GetItem", "ThrottlingException", 3)]
        with pytest.raises(Lost):
            ledger.write(record)
        proxy.faults = []
        found = ledger.record(record.campaign, DAY)
        assert found is not None
        assert found.revision == record.revision + 1
        record = found


def test_a_throttled_answer_after_a_lost_one_is_not_taken_for_not_done(proxy: Proxy, ledger: Ledger) -> None:
    record = new_record(fresh())
    proxy.faults = [Fault("PutItem", "lost_reply"), Fault("PutItem", "ThrottlingException", 2)]
    assert ledger.write(record) == ledger.record(record.campaign, DAY)


@pytest.mark.parametrize(
    ("kind", "status", "operations"),
    [
        ("ThrottlingException", 400, ["PutItem"]),
        ("ProvisionedThroughputExceededException", 400, ["GetItem"]),
        ("RequestLimitExceeded", 400, ["Scan"]),
        ("InternalServerError", 500, ["PutItem", "GetItem", "Query", "Scan"]),
        ("ServiceUnavailable", 503, ["PutItem", "Query"]),
        ("lost_request", 0, ["PutItem", "GetItem", "Query", "Scan"]),
    ],
)
def test_what_may_pass_is_tried_again_and_then_busy(
    proxy: Proxy, ledger: Ledger, kind: str, status: int, operations: list[str]
) -> None:
    campaign = fresh()
    record = ledger.write(new_record(campaign))
    ask: dict[str, Callable[[], object]] = {
        "GetItem": lambda: ledger.record(campaign, DAY),
        "Query": lambda: ledger.records(campaign),
        "Scan": ledger.campaigns,
        "PutItem": lambda: ledger.write(record),
    }
    for operation in operations:
        proxy.faults = [Fault(operation, kind, 3, status=status)]
        with pytest.raises(Busy, match=f"the ledger 'dynamodb://{TABLE}': "):
            ask[operation]()
        assert proxy.faults[0].times == 0  # that is all tries there are
        proxy.faults = [Fault(operation, kind, 1, status=status)]
        ask[operation]()
    assert ledger.records(campaign)[0].revision == (2 if "PutItem" in operations else 1)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**60)])
def test_a_whole_number_that_would_not_come_back_is_refused(shared: Ledger, value: int) -> None:
    with pytest.raises(UsageError, match=r"data_rows cannot be kept .* whole ones up to 2\^53"):
        shared.write(new_record(fresh(), data_rows=value))


@pytest.mark.parametrize(
    "kind",
    ["AccessDeniedException", "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"],
)
def test_who_may_not_is_told_so(proxy: Proxy, ledger: Ledger, kind: str) -> None:
    proxy.faults = [Fault("GetItem", kind), Fault("PutItem", kind)]
    for ask in (lambda: ledger.head("shop"), lambda: ledger.write(new_record(fresh()))):
        with pytest.raises(NoAccess, match=kind):
            ask()


def test_without_credentials_it_is_told_so(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(NoAccess, match="Unable to locate credentials"):
        DynamoLedger(TABLE).head("shop")


def test_without_a_region_it_is_told_so(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="specify a region"):
        DynamoLedger(TABLE).head("shop")
    assert DynamoLedger(TABLE, REGION).head("nobody").revision == 0


def test_where_nothing_listens_it_is_busy(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")
    with pytest.raises(Busy, match="Could not connect"):
        DynamoLedger(TABLE).head("shop")


@pytest.mark.parametrize(("name", "value", "told"), [
    ("AWS_ENDPOINT_URL_DYNAMODB", "not a url", "Invalid endpoint: not a url"),
    ("AWS_PROFILE", "nobody", "profile .nobody. could not be found"),
])  # fmt: skip
def test_wrong_settings_are_told_in_one_line(
    dynamodb: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told) as caught:
        DynamoLedger(TABLE).head("shop")
    assert "\n" not in str(caught.value)


def test_without_a_table_the_command_that_makes_it_is_told(dynamodb: str) -> None:
    ledger = DynamoLedger("no_such_table", REGION)
    for ask in (lambda: ledger.head("shop"), ledger.campaigns, lambda: ledger.write(new_record())):
        with pytest.raises(
            UsageError, match=r"this makes it: aws dynamodb create-table --table-name no_such_table .*central-1$"
        ):
            ask()


def test_a_table_with_another_key_is_told(dynamodb: str) -> None:
    connect().create_table(
        TableName="another_key", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    ledger = DynamoLedger("another_key")
    for ask in (lambda: ledger.head("shop"), lambda: ledger.records("shop"), lambda: ledger.write(new_record())):
        with pytest.raises(UsageError, match="its keys are not a ledger's; this makes a table with them: aws dynamodb"):
            ask()


def test_a_row_that_is_too_large_is_refused_and_stays(shared: Ledger) -> None:
    record = shared.write(new_record(fresh()))
    history = (Transition(NOW, State.STARTED, "x" * 1000),) * 420
    with pytest.raises(JobFailed, match=r"[Ii]tem size .*exceeded the maximum"):
        shared.write(replace(record, history=history))
    assert shared.record(record.campaign, DAY) == record


@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_a_number_that_dynamodb_has_not_is_refused(shared: Ledger, value: float) -> None:
    with pytest.raises(UsageError, match=r"metrics.gain cannot be kept .* from 1e-130 to 1e126"):
        shared.write(replace(new_record(fresh()), metrics={"gain": value}))


def test_all_threads_share_one_client(proxy: Proxy, ledger: Ledger) -> None:
    campaigns = [fresh() for _ in range(32)]
    with ThreadPoolExecutor(16) as pool:
        written = list(pool.map(lambda campaign: ledger.write(new_record(campaign)), campaigns))
    assert [ledger.record(each.campaign, DAY) for each in written] == written


def test_reads_are_consistent(dynamodb: str) -> None:
    """moto's reads always are; the real service's only where they are asked to be."""
    client = connect()
    asked: list[tuple[str, bool]] = []
    client.meta.events.register(
        "provide-client-params.dynamodb.*",
        lambda params, model, **_: asked.append((model.name, params.get("ConsistentRead", False))),
    )
    ledger = DynamoLedger(TABLE, client=client)
    ledger.head("shop"), ledger.record("shop", datetime.date(2026, 1, 1)), ledger.records("shop"), ledger.campaigns()
    assert set(asked) == {("GetItem", True), ("Query", True), ("Scan", True)}


def test_its_patience_is_less_than_a_lease_s_margin() -> None:
    from orchestration.refresh.policy import Policy

    config = connect("eu-central-1").meta.config
    tries = config.retries["total_max_attempts"]
    assert config.retries["mode"] == "standard"
    longest = tries * (config.connect_timeout + config.read_timeout) + (tries - 1) * 20  # botocore's longest pause
    assert 2 * longest < Policy().margin_seconds  # a write, and a read of what became of it


def test_naming_it_does_not_import_boto3() -> None:
    script = (
        "import sys; from orchestration.refresh.ledger import open_ledger; open_ledger('dynamodb://refresh_ledger'); "
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False).returncode == 0


def test_without_boto3_it_is_told_how_to_get_it(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"needs boto3 .*clv-pipelines\[aws\]"):
        DynamoLedger(TABLE).head("shop")
