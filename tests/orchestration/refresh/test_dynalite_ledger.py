"""The ledger in a DynamoDB whose conditional writes are atomic: the contract, its races included."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from orchestration.refresh.dynamodb_ledger import DynamoLedger, connect, create_table
from orchestration.refresh.ledger import Ledger
from tests.orchestration.refresh.dynamodb import TABLE, Dynalite, Fault, Proxy, point_at
from tests.orchestration.refresh.ledger_contract import DAY, LedgerContract, fresh, new_record, only_winner

pytestmark = pytest.mark.refresh


@pytest.fixture(scope="module")
def dynalite() -> Iterator[str]:
    with Dynalite() as server, pytest.MonkeyPatch.context() as patch:
        point_at(patch, server.url)
        create_table(connect(), TABLE)
        yield server.url


@pytest.fixture(scope="module")
def shared(dynalite: str) -> Ledger:
    return DynamoLedger(TABLE)


class TestDynamoLedgerOnDynalite(LedgerContract):
    @pytest.fixture
    def ledger(self, shared: Ledger) -> Ledger:
        return shared

    def another(self, ledger: Ledger) -> Ledger:
        return ledger


def test_of_all_who_write_one_does_though_answers_are_lost(dynalite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the first answers are lost, so that boto3 writes again: the winner must know its own row, and nobody else's."""
    with Proxy(dynalite) as proxy:
        point_at(monkeypatch, proxy.url)
        ledger = DynamoLedger(TABLE)
        record = ledger.write(new_record(fresh()))
        for revision in range(2, 12):
            proxy.faults = [Fault("PutItem", "lost_reply", 8)]
            only_winner(16, lambda _, record=record: ledger.write(record))
            found = ledger.record(record.campaign, DAY)
            assert found is not None
            assert found.revision == revision
            record = found


def test_it_ends_with_its_block() -> None:
    with Dynalite() as server:
        assert server.answers()
    until = time.monotonic() + 5
    while server.answers() and time.monotonic() < until:
        time.sleep(0.05)
    assert not server.answers()
