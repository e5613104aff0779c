"""The contract in memory, and how a ledger is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.refresh.dynamodb_ledger import DynamoLedger
from orchestration.refresh.ledger import Ledger, open_ledger
from orchestration.refresh.sqlite_ledger import SqliteLedger
from tests.orchestration.refresh.ledger_contract import DAY, LedgerContract, new_record
from tests.orchestration.refresh.memory_ledger import MemoryLedger
from transforms.errors import UsageError


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return MemoryLedger()


def test_sqlite_is_opened_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_record()
    ledger = open_ledger(f"sqlite://{tmp_path}/refresh.db")
    assert isinstance(ledger, SqliteLedger)
    record = ledger.write(record)
    ledger.close()
    monkeypatch.chdir(tmp_path)
    assert open_ledger("sqlite://refresh.db").record("shop", DAY) == record


def test_dynamodb_is_opened_by_its_table_without_connecting() -> None:
    assert isinstance(open_ledger("dynamodb://refresh_ledger"), DynamoLedger)
    assert isinstance(open_ledger("dynamodb://refresh_ledger?region=eu-central-1"), DynamoLedger)


@pytest.mark.parametrize(
    "uri",
    [
        "", "sqlite://", "refresh.db", "dynamodb://", "dynamodb:///table", "dynamodb://table/x", "dynamodb://table?zone=1",
        "dynamodb://ab", "dynamodb://a table", "dynamodb://table?region=Frankfurt am Main", "postgres://host/table",
    ],
)  # fmt: skip
def test_what_is_no_address_is_told_in_one_line(uri: str) -> None:
    with pytest.raises(UsageError, match=r"the ledger.* is not usable: accepted is ") as caught:
        open_ledger(uri)
    assert "\n" not in str(caught.value)
