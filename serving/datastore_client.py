"""A Datastore database: raw protocol buffers through the channel of Google's own client, with calls that are retried.

Messages are the plain protobuf classes (``message``): the proto-plus ones around them, which Google's client
hands out, cost four times as much CPU to read. ``DATASTORE_EMULATOR_HOST`` (host:port, as Google's own) leads
everything to a local emulator, without credentials.
"""

from __future__ import annotations

import functools
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from serving.store import DATASTORE, StoreFailed
from transforms.errors import UsageError, one_line

if TYPE_CHECKING:
    import grpc

T = TypeVar("T")
KEYS_PER_LOOKUP = 1000  # Datastore's limit
ENTITIES_PER_PAGE = 5000  # the service ends a page sooner as it sees fit, the emulators never do
CALL_SECONDS = 20.0  # an answer this late is lost
COUNT_SECONDS = 70.0  # an aggregation ends within 60 s or not at all (Datastore's limit), and its answer has to travel
ROLL_BACK_TRIES = 4
_SERVICE = "/google.datastore.v1.Datastore/"
# gRPC's own pauses before it connects anew grow to two minutes, long after the other side is back. And a connection that
# was cut off without a word is noticed only by asking: without that calls fail until the operating system gives it up.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
# Google's advice for these is to try again; UNKNOWN is what a proxy on the way makes of a broken answer.
RETRYABLE = frozenset(
    {"ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"}
)
_OVER = re.compile(r"transaction.*(expired|no longer valid|closed)|invalid transaction", re.IGNORECASE | re.DOTALL)
# What a person can do about an error, by its code. {0} is the database.
_HINTS = {
    "UNAUTHENTICATED": "accepted are working credentials: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "PERMISSION_DENIED": "accepted is an account with the role Cloud Datastore User (roles/datastore.user; for lookups alone Viewer), in a project "
    "whose Cloud Datastore API is enabled",
    "NOT_FOUND": "accepted is a database that exists: `gcloud firestore databases create --type=datastore-mode` makes one",
    "FAILED_PRECONDITION": "accepted is a database in Datastore mode: one in Firestore's native mode is no Datastore",
}


@functools.cache
def message(name: str) -> Any:
    """The plain protobuf class of ``google.datastore.v1.{name}``."""
    from google.cloud.datastore_v1 import types

    return getattr(types, name).pb()


@dataclass(frozen=True)
class Patience:
    """How long a failing call is tried again.

    Attributes:
      deadline_seconds: from the first try; then StoreFailed is raised.
      first_pause_seconds, longest_pause_seconds: pauses are random between 0 and a bound that doubles.
    """

    deadline_seconds: float = 300.0
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 20.0

    def pause(self, tries: int) -> float:
        """Seconds to wait after so many failed tries: full jitter, so that many who failed together spread out."""
        return random.uniform(0.0, min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(tries, 30)))


def connect(project: str, database: str = "", patience: Patience | None = None) -> Connection:
    """The process's connection to a database; "" and "(default)" name the default one.

    Raises:
      UsageError: no credentials.
    """
    host = os.environ.get("DATASTORE_EMULATOR_HOST", "")
    # A channel does not survive a fork, and an emulator may follow another on the same machine.
    return _connect(project, "" if database == "(default)" else database, patience or PATIENT, host, os.getpid())


@functools.cache
def _connect(project: str, database: str, patience: Patience, host: str, pid: int) -> Connection:
    return Connection(project, database, patience)


PATIENT = Patience()


class Connection:
    """A channel to one database. Its threads may share it, its process's forks may not."""

    def __init__(self, project: str, database: str = "", patience: Patience = PATIENT) -> None:
        """Opens the channel; nothing is sent yet.

        Raises:
          UsageError: no credentials.
        """
        from google.api_core.gapic_v1 import routing_header
        from google.cloud.datastore_v1.services.datastore.transports.base import DEFAULT_CLIENT_INFO

        self.project, self.database, self.patience = project, database, patience
        self._channel = _channel(self.uri)
        self._metadata = (
            routing_header.to_grpc_metadata((("project_id", project), ("database_id", database))),
            DEFAULT_CLIENT_INFO.to_grpc_metadata(),
        )
        self._commit = self._channel.unary_unary(f"{_SERVICE}Commit")  # bytes in, bytes out
        self._stubs: dict[str, Callable[..., Any]] = {}

    @property
    def uri(self) -> str:
        return f"{DATASTORE}://{self.project}" + (f"/{self.database}" if self.database else "")

    def close(self) -> None:
        self._channel.close()

    def partition(self, namespace: str = "") -> Any:
        """The PartitionId of a namespace."""
        return message("PartitionId")(
            project_id=self.project, database_id=self.database, namespace_id=namespace
        )  # fmt: skip

    def key(self, *path: str, namespace: str = "") -> Any:
        """The Key of a path: kind, name, kind, name, ..."""
        key = message("Key")(partition_id=self.partition(namespace))
        for kind, name in zip(path[::2], path[1::2], strict=True):
            key.path.add(kind=kind, name=name)
        return key

    def commit(self, request: bytes, timeout: float) -> bytes:
        """Sends one serialised CommitRequest, once; returns the serialised CommitResponse.

        Raises:
          grpc.RpcError: as it comes.
        """
        answer: bytes = self._commit(request, timeout=timeout, metadata=self._metadata)
        return answer

    def lookup(self, keys: Iterable[Any], transaction: bytes = b"") -> Iterator[Any]:
        """The entities that exist of these keys, in no particular order. ``Raises`` as ``call``, at every page."""
        remaining = iter(keys)
        while wanted := list(islice(remaining, KEYS_PER_LOOKUP)):
            while wanted:
                answer = self.call("Lookup", self._read(keys=wanted, transaction=transaction), once=bool(transaction))
                yield from (result.entity for result in answer.found)
                wanted = list(answer.deferred)  # left out because the answer was long enough

    def query(self, query: Any, namespace: str = "", limit: int | None = None) -> Iterator[list[Any]]:
        """The entities a Query finds, page by page, none of them empty. ``Raises`` as ``call``, at every page."""
        results = message("QueryResultBatch")
        page = message("Query")()
        page.CopyFrom(query)
        left = sys.maxsize if limit is None else limit
        while left > 0:
            page.limit.value = min(left, ENTITIES_PER_PAGE)
            batch = self.call("RunQuery", self._read("RunQuery", namespace, query=page)).batch
            if batch.entity_results:
                yield [result.entity for result in batch.entity_results]
            full = len(batch.entity_results) > 0 and batch.more_results == results.MORE_RESULTS_AFTER_LIMIT
            if not full and batch.more_results != results.NOT_FINISHED:
                return
            page.start_cursor = batch.end_cursor
            left -= len(batch.entity_results)

    def count(self, query: Any, namespace: str = "") -> int:
        """How many entities a Query finds, counted by Datastore. ``Raises`` as ``call``."""
        aggregation = message("AggregationQuery")(nested_query=query)
        aggregation.aggregations.add(alias="rows").count.SetInParent()
        request = self._read("RunAggregationQuery", namespace, aggregation_query=aggregation)
        try:
            (result,) = self.call("RunAggregationQuery", request).batch.aggregation_results
        except UsageError as error:
            if code_of(error.__cause__) != "UNIMPLEMENTED":
                raise
            # The SDK's Datastore emulator has no aggregations; the service and the Firestore emulator have.
            return sum(len(page) for page in self.query(query, namespace))
        return int(result.aggregate_properties["rows"].integer_value)

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in a transaction and commits what it left in it, until that is known to have succeeded.

        ``work`` runs again when others changed what it read, and also when the answer to its commit was lost: it
        must recognise what an earlier run of it did.

        Raises:
          StoreFailed: it did not succeed within the deadline.
          UsageError: what a person has to mend; anything that ``work`` raises passes as it is.
        """
        return self._until_done(
            "a transaction", lambda left: self._transact(work, min(left, CALL_SECONDS)), _begins_anew
        )

    def call(self, method: str, request: Any, once: bool = False) -> Any:
        """Sends a request that changes nothing, again and again until it is answered; returns the answer.

        Args:
          once: send it once, for callers that begin anew as a whole.

        Raises:
          grpc.RpcError: as it comes, with ``once``.
          StoreFailed: it was not answered within the deadline.
          UsageError: what a person has to mend.
        """
        if once:
            return self._send(method, request, CALL_SECONDS)
        most = COUNT_SECONDS if method == "RunAggregationQuery" else CALL_SECONDS
        return self._until_done(method, lambda left: self._send(method, request, min(left, most)), may_pass)

    def _send(self, method: str, request: Any, timeout: float) -> Any:
        stub = self._stubs.get(method)
        if stub is None:
            stub = self._stubs[method] = self._channel.unary_unary(
                f"{_SERVICE}{method}",
                request_serializer=message(f"{method}Request").SerializeToString,
                response_deserializer=message(f"{method}Response").FromString,
            )
        return stub(request, timeout=timeout, metadata=self._metadata)

    def _until_done(self, what: str, once: Callable[[float], T], again: Callable[[grpc.RpcError], bool]) -> T:
        import grpc

        began, tries = time.monotonic(), 0
        while True:
            left = began + self.patience.deadline_seconds - time.monotonic()
            try:
                return once(max(left, min(1.0, self.patience.deadline_seconds)))
            except grpc.RpcError as error:
                if not again(error):
                    raise explained(error, self.uri) from error
                tries, left = tries + 1, began + self.patience.deadline_seconds - time.monotonic()
                pause = self.patience.pause(tries)
                if pause >= left:
                    raise StoreFailed(
                        f"{self.uri} did not do {what} in {self.patience.deadline_seconds:g} s and {tries} tries; "
                        f"the last answer was {described(error)}"
                    ) from error
            time.sleep(pause)

    def _transact(self, work: Callable[[Transaction], T], timeout: float) -> T:
        transaction = Transaction(self, self._begin(timeout))
        try:
            result = work(transaction)
            if transaction.mutations:
                request = self._request("Commit", transaction=transaction.id, mutations=transaction.mutations)
                request.mode = request.TRANSACTIONAL
                self._send("Commit", request, timeout)
                return result
        except BaseException:
            self._roll_back(transaction.id)
            raise
        self._roll_back(transaction.id)
        return result

    def _begin(self, timeout: float) -> bytes:
        request = self._request("BeginTransaction")
        request.transaction_options.read_write.SetInParent()
        return bytes(self._send("BeginTransaction", request, timeout).transaction)

    def _roll_back(self, transaction: bytes) -> None:
        """Gives up the transaction's locks, which others, and our own next try, would wait for; it may be over already.

        Datastore ends a forgotten one by itself, but not for a minute: hence several tries, and no more.
        """
        import grpc

        for tries in range(ROLL_BACK_TRIES):
            try:
                self._send("Rollback", self._request("Rollback", transaction=transaction), CALL_SECONDS)
                return
            except grpc.RpcError as error:
                if not may_pass(error):
                    return
            time.sleep(self.patience.pause(tries))

    def _request(self, method: str, **fields: Any) -> Any:
        return message(f"{method}Request")(project_id=self.project, database_id=self.database, **fields)

    def _read(
        self, method: str = "Lookup", namespace: str | None = None, transaction: bytes = b"", **fields: Any
    ) -> Any:
        request = self._request(method, **fields)
        if namespace is not None:
            request.partition_id.CopyFrom(self.partition(namespace))
        if transaction:
            request.read_options.transaction = transaction
        return request

    def __reduce__(self) -> tuple[Any, ...]:
        return connect, (self.project, self.database, self.patience)


class Transaction:
    """What a transaction has read stays true until it commits."""

    def __init__(self, connection: Connection, id: bytes) -> None:
        self.connection, self.id = connection, id
        self.mutations: list[Any] = []

    def lookup(self, keys: Iterable[Any]) -> Iterator[Any]:
        return self.connection.lookup(keys, self.id)

    def put(self, entity: Any) -> None:
        self.mutations.append(message("Mutation")(upsert=entity))

    def delete(self, key: Any) -> None:
        self.mutations.append(message("Mutation")(delete=key))


def _channel(uri: str) -> grpc.Channel:
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    if emulator := os.environ.get("DATASTORE_EMULATOR_HOST"):
        return _emulator_channel(emulator)
    from google.cloud.datastore_v1.services.datastore import DatastoreClient

    try:
        client: Any = DatastoreClient(transport=_transport)
        return client.transport.grpc_channel
    except DefaultCredentialsError as error:
        raise UsageError(f"{uri}: no Google Cloud credentials found: {_HINTS['UNAUTHENTICATED']}") from error
    except GoogleAuthError as error:
        raise UsageError(
            f"{uri}: the Google Cloud credentials do not work: {one_line(str(error))}; {_HINTS['UNAUTHENTICATED']}"
        ) from error


def _transport(**settings: Any) -> Any:
    """Google's own transport, its channel with our options beside theirs."""
    from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

    def channel(host: str, **others: Any) -> Any:
        others["options"] = [*(others.get("options") or ()), *_CHANNEL_OPTIONS]
        return DatastoreGrpcTransport.create_channel(host, **others)

    return DatastoreGrpcTransport(**settings | {"channel": channel})


def _emulator_channel(host: str) -> grpc.Channel:
    import grpc
    from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

    options = [
        *_CHANNEL_OPTIONS,
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_http_proxy", 0),  # it is on this machine, whatever the environment says of proxies
    ]
    return DatastoreGrpcTransport(channel=grpc.insecure_channel(host.removeprefix("http://"), options)).grpc_channel


def code_of(error: Any) -> str:
    """The error's code by name, such as "UNAVAILABLE"."""
    return str(error.code().name)


def described(error: grpc.RpcError) -> str:
    return f"{code_of(error)}: {one_line(error.details() or 'without a word')}"


def explained(error: grpc.RpcError, uri: str) -> UsageError:
    """An error that trying again does not mend, as one line that says what does."""
    code = code_of(error)
    hint = _HINTS["UNAUTHENTICATED"] if _refused_credentials(error) else _HINTS.get(code)
    return UsageError(f"{uri}: {described(error)}" + (f"; {hint}" if hint else ""))


def may_pass(error: grpc.RpcError) -> bool:
    """Whether the same call may succeed later."""
    return code_of(error) in RETRYABLE and not _refused_credentials(error)


def _begins_anew(error: grpc.RpcError) -> bool:
    """In a transaction one more thing is mended by the next try: that it took too long, and is over."""
    over = code_of(error) == "INVALID_ARGUMENT" and _OVER.search(error.details() or "")
    return bool(over) or may_pass(error)


def _refused_credentials(error: grpc.RpcError) -> bool:
    """gRPC says UNAVAILABLE of credentials that Google does not renew any more."""
    return code_of(error) == "UNAUTHENTICATED" or "RefreshError" in (error.details() or "")
