"""The contestants of benchmarks.lookup: ways to get the rows of some customers, as one thread of a client calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness import OutputsDiffer
from benchmarks.lookup_service import Connection, get, post

RAW, FLOOR, STORE, MEMORY = "raw", "floor", "store", "memory"
CONTESTANTS = (RAW, FLOOR, STORE, MEMORY)
Ask = Callable[[Sequence[str]], object]
"""Asks for these customers, all of whom there are, and holds the answer to their number."""


@dataclass(frozen=True)
class Target:
    """Who is asked.

    Attributes:
      contestant: one of ``CONTESTANTS``.
      port: of the service or the floor; 0 for raw.
      host: ``host:port`` of the emulator.
      project, namespace: where the rows are in it.
    """

    contestant: str
    port: int
    host: str
    project: str
    namespace: str

    def open(self) -> Ask:
        """For one thread, with a connection of its own; the threads of a process share a channel, as they do in Google's client."""
        return _raw(self) if self.contestant == RAW else _http(self)

    def row(self, customer_id: str) -> dict[str, Any]:
        """One customer's row as this contestant gives it, dates as text."""
        if self.contestant == RAW:
            return _raw_row(raw_lookup(self)([customer_id]).found[0].entity)
        return dict(Connection(self.port).ask(get(customer_id)).json())

    def rows(self, customer_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The same of several, in no particular order."""
        if self.contestant == RAW:
            return [_raw_row(result.entity) for result in raw_lookup(self)(customer_ids).found]
        return list(Connection(self.port).ask(post(customer_ids)).json()["found"])


def raw_lookup(target: Target) -> Callable[[Sequence[str]], Any]:
    """One Lookup of Datastore with the plain protobuf classes: keys built, sent, the answer parsed, nothing else."""
    from google.cloud.datastore_v1 import types

    from serving.entity_bytes import KIND

    Request, call = types.LookupRequest.pb(), _stub(target.host)
    project, namespace = target.project, target.namespace

    def lookup(customer_ids: Sequence[str]) -> Any:
        request = Request(project_id=project)
        for customer_id in customer_ids:
            key = request.keys.add()
            key.partition_id.project_id, key.partition_id.namespace_id = project, namespace
            element = key.path.add()
            element.kind, element.name = KIND, customer_id
        return call(request, timeout=20.0)

    return lookup


@functools.cache
def _stub(host: str) -> Any:
    import grpc
    from google.cloud.datastore_v1 import types
    from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    channel = DatastoreGrpcTransport(channel=grpc.insecure_channel(host, options)).grpc_channel
    return channel.unary_unary(
        "/google.datastore.v1.Datastore/Lookup",
        request_serializer=types.LookupRequest.pb().SerializeToString,
        response_deserializer=types.LookupResponse.pb().FromString,
    )


def _raw(target: Target) -> Ask:
    lookup = raw_lookup(target)

    def ask(customer_ids: Sequence[str]) -> None:
        if len(lookup(customer_ids).found) != len(customer_ids):
            raise OutputsDiffer(f"raw did not find all of {', '.join(customer_ids)}")

    return ask


def _http(target: Target) -> Ask:
    connection = Connection(target.port)

    def ask(customer_ids: Sequence[str]) -> None:
        one = len(customer_ids) == 1
        answer = connection.ask(get(customer_ids[0]) if one else post(customer_ids))
        if answer.status != 200 or not (one or answer.body.endswith(b'"missing":[]}')):
            raise OutputsDiffer(f"{target.contestant} answered {answer.status}: {answer.body[-300:]!r}")

    return ask


def _raw_row(entity: Any) -> dict[str, Any]:
    """An entity's properties, read without any code of serving's."""
    row = {}
    for name, value in entity.properties.items():
        kind = value.WhichOneof("value_type")
        row[name] = getattr(value, kind)
        if kind == "timestamp_value":
            row[name] = datetime.fromtimestamp(value.timestamp_value.seconds, UTC).date().isoformat()
    return row
