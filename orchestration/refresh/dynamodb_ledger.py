"""The ledger in a DynamoDB table, for any number of machines.

Keys: ``campaign_name`` (hash) and ``base_date`` (range), both text. Each field of a row is an attribute of its own, in
DynamoDB's own types; ``write_id`` is a new one with every write. Every read is consistent.

An item holds up to 400 KB, of which a refresh needs about 3. Its history grows by up to 10 transitions, of 100 bytes to
1 KB, each time that a person has it done again or undone; a head keeps a bounded number of deployments. A write that is too
large is refused (JobFailed), and the row stays as it was.
"""

from __future__ import annotations

import contextlib
import re
import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from orchestration.refresh.dynamodb_errors import told
from orchestration.refresh.ledger import Conflict, Ledger, Row
from orchestration.refresh.service import Busy, Lost
from transforms.errors import UsageError, rejected

HASH_KEY, RANGE_KEY, WRITE_ID = "campaign_name", "base_date", "write_id"
_NOT_OURS = (HASH_KEY, RANGE_KEY, WRITE_ID)
_TABLE = re.compile(r"[a-zA-Z0-9_.-]{3,255}")  # what DynamoDB accepts
_REGION = re.compile(r"[a-z0-9-]{1,63}")
# Three tries of at most 15 s and the pauses between them: far less than the margin of a lease.
_CONNECT_SECONDS, _READ_SECONDS, _TRIES = 5, 10, 3
_CONNECTIONS = 50  # as many threads may use one client without connecting anew


class DynamoLedger(Ledger):
    """A ledger in a table that exists; ``create_table`` makes one.

    One instance, and with it one client, is for all threads of a process. Nothing is connected before the first use.

    Args:
      region: by default the AWS settings', as for credentials. The endpoint is theirs too (AWS_ENDPOINT_URL_DYNAMODB).
      client: of boto3, to be used instead of an own one.

    Raises:
      UsageError: no such name can be a table's or a region's; later: there is no such table, or it has another key.
      Busy, Lost, NoAccess, JobFailed: from every method, see ``service``. A write that is Lost may have been done.
    """

    def __init__(self, table: str, region: str | None = None, client: Any = None) -> None:
        if not _TABLE.fullmatch(table):
            raise rejected("the ledger's table", table, "3 to 255 of the characters a-z, A-Z, 0-9, _, . and -")
        if region is not None and not _REGION.fullmatch(region):
            raise rejected("the ledger's region", region, "an AWS region's name, such as eu-central-1")
        self._table, self._region, self._own_client = table, region, client
        self._lock = threading.Lock()

    def _read(self, campaign: str, key: str) -> Row | None:
        item = self._item(campaign, key)
        return None if item is None else _row(item)

    def _item(self, campaign: str, key: str) -> dict[str, Any] | None:
        found = self._call("get_item", Key=_key(campaign, key), ConsistentRead=True)
        return found.get("Item")

    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        request = {
            "KeyConditionExpression": "#campaign = :campaign",
            "ExpressionAttributeNames": {"#campaign": HASH_KEY},
            "ExpressionAttributeValues": {":campaign": {"S": campaign}},
            "ConsistentRead": True,
        }
        for item in self._pages("query", request):
            yield item[RANGE_KEY]["S"], _row(item)

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        mine = uuid.uuid4().hex
        request: dict[str, Any] = {
            "Item": _key(campaign, key) | _item_of(row, f"{campaign} {key}") | {WRITE_ID: {"S": mine}}
        }
        if expected:
            request |= {
                "ConditionExpression": "#revision = :expected",
                "ExpressionAttributeNames": {"#revision": "revision"},
                "ExpressionAttributeValues": {":expected": {"N": str(expected)}},
            }
        else:
            request |= {
                "ConditionExpression": "attribute_not_exists(#key)",
                "ExpressionAttributeNames": {"#key": HASH_KEY},
            }
        try:
            self._call("put_item", **request)
        except (Conflict, Lost) as error:
            self._find_out(campaign, key, mine, expected, error)

    def _find_out(self, campaign: str, key: str, mine: str, expected: int, error: Conflict | Lost) -> None:
        """Whether a write is done that ended in an error: the row tells.

        A write whose answer is lost is tried again by boto3, and its second try finds what its first has written. Rows
        of two workers can be equal but for the id of the write, so nothing else tells whose it is.

        Raises:
          Conflict: it is not, and will not be. Lost: it may still come to pass, or the row cannot be read.
        """
        try:
            item = self._item(campaign, key)
        except Busy as busy:
            raise Lost(str(busy)) from error
        if item is not None and item.get(WRITE_ID) == {"S": mine}:
            return
        found = _row(item)["revision"] if item else 0
        if isinstance(error, Lost) and found == expected:
            raise error
        raise Conflict(f"{campaign} {key} has not the revision {expected}") from error

    def campaigns(self) -> list[str]:
        request = {
            "ProjectionExpression": "#campaign",
            "ExpressionAttributeNames": {"#campaign": HASH_KEY},
            "ConsistentRead": True,
        }
        return sorted({item[HASH_KEY]["S"] for item in self._pages("scan", request)})

    def close(self) -> None:
        with self._lock:
            if self._own_client is not None:
                self._own_client.close()

    def _pages(self, operation: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """All items: an answer has at most 1 MB of them."""
        while True:
            page = self._call(operation, **request)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            request = request | {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        with told(self._table, self._region):
            return getattr(self._client(), operation)(TableName=self._table, **request)

    def _client(self) -> Any:
        with self._lock:
            if self._own_client is None:
                self._own_client = connect(self._region)
            return self._own_client


def connect(region: str | None = None) -> Any:
    """boto3's client with this ledger's patience. Raises: UsageError where boto3 is not installed."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise UsageError(
            f"a ledger at dynamodb:// needs boto3 ({error}): install it with pip install 'clv-pipelines[aws]'"
        ) from error
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _TRIES, "mode": "standard"},
        max_pool_connections=_CONNECTIONS,
    )
    # A session of its own: the default one is not for several threads at once.
    return boto3.session.Session().client("dynamodb", region_name=region, config=config)


def create_table(client: Any, table: str) -> None:
    """Makes a ledger's table, paid by request, and waits until it can be used; one that exists is taken as it is."""
    with contextlib.suppress(client.exceptions.ResourceInUseException):
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": HASH_KEY, "KeyType": "HASH"},
                {"AttributeName": RANGE_KEY, "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": HASH_KEY, "AttributeType": "S"},
                {"AttributeName": RANGE_KEY, "AttributeType": "S"},
            ],
        )
    client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def _key(campaign: str, key: str) -> dict[str, Any]:
    return {HASH_KEY: {"S": campaign}, RANGE_KEY: {"S": key}}


def _item_of(row: Row, whose: str) -> dict[str, Any]:
    return {name: _attribute(value, f"{whose}: {name}") for name, value in row.items()}


def _attribute(value: Any, where: str) -> dict[str, Any]:
    """A value in DynamoDB's types; a float has all its digits. Raises: UsageError for what no ledger can keep."""
    if value is None:
        return {"NULL": True}
    if isinstance(value, str):
        return {"S": _text(value, where)}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"N": _number(value, where)}
    if isinstance(value, list):
        return {"L": [_attribute(each, where) for each in value]}
    if isinstance(value, dict):
        return {"M": {_text(name, where): _attribute(each, f"{where}.{name}") for name, each in value.items()}}
    raise TypeError(f"{where} is a {type(value).__name__}, which is not in a ledger's rows")


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} cannot be kept in the ledger: {value!r}; accepted is UTF-8 text") from error
    return value


_LEAST, _MOST = Decimal("1E-130"), Decimal("1E+126")  # DynamoDB's range of numbers, of 38 digits
_WHOLE = 2**53  # up to here a whole number is the same whether it was one or a float


def _number(value: int | float, where: str) -> str:
    number = Decimal(repr(value))
    kept = number.is_finite() and (not number or _LEAST <= abs(number) < _MOST)
    if not kept or (isinstance(value, int) and abs(value) > _WHOLE):
        raise UsageError(
            f"{where} cannot be kept in the ledger: {value!r}; accepted are finite numbers, 0 or from 1e-130 to 1e126, "
            "and whole ones up to 2^53"
        )
    return str(number)


def _row(item: dict[str, Any]) -> Row:
    return {name: _value(value) for name, value in item.items() if name not in _NOT_OURS}


def _value(attribute: dict[str, Any]) -> Any:
    """The inverse of ``_attribute``; a float without a fraction may come back as the whole number that equals it."""
    ((kind, value),) = attribute.items()
    if kind == "N":
        number = Decimal(value)
        whole = abs(number) <= _WHOLE and number == number.to_integral_value()
        return int(number) if whole else float(number)
    if kind == "L":
        return [_value(each) for each in value]
    if kind == "M":
        return {name: _value(each) for name, each in value.items()}
    return None if kind == "NULL" else value
