"""What Datastore knows of generations: one entity each, and the pointer to the current one, all in one entity group.

    CustomerValueServing "predictions"                 the pointer
      +-- CustomerValueGeneration "2011-12-10-..."     a record

One group, so that a query below the pointer sees one moment of them all, in every mode of Datastore. A deleted
generation's record stays for a while as a tombstone: its attempts' numbers, and with them the namespaces of their
rows, are never used again, and whoever still believes in them can neither write nor delete another attempt's rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any

from serving.datastore_client import Connection, Transaction, message
from serving.entity_bytes import Namespace
from serving.store import Content, Generation, State

ROOT = ("CustomerValueServing", "predictions")
RECORD_KIND = "CustomerValueGeneration"


@dataclass(frozen=True)
class Pointer:
    """Which generation is current.

    Attributes:
      attempt: the attempt whose rows are served.
      token: of the switch that set it.
    """

    generation: str
    attempt: int
    token: str


@dataclass(frozen=True)
class Record:
    """One generation.

    Attributes:
      rows_expire_at: when its rows cease to be served.
      token: of whoever began or switched to it last, to be recognised when the answer was lost.
      gone_at: when its deletion ended; None while it exists.
    """

    generation: Generation
    rows_expire_at: datetime
    token: str
    gone_at: datetime | None = None

    def changed(self, token: str | None = None, **changes: Any) -> Record:
        """With other attributes of the generation."""
        return replace(self, generation=replace(self.generation, **changes), token=token or self.token)


def namespace(connection: Connection, name: str, attempt: int) -> Namespace:
    """Where the rows of one attempt live."""
    return Namespace(connection.project, connection.database, f"{name}.{attempt}")


def root_key(connection: Connection) -> Any:
    return connection.key(*ROOT)


def record_key(connection: Connection, name: str) -> Any:
    return connection.key(*ROOT, RECORD_KIND, name)


def read_pointer(connection: Connection) -> Pointer | None:
    """The pointer alone: all that a lookup needs."""
    return next(map(_pointer, connection.lookup([root_key(connection)])), None)


def read_record(connection: Connection, name: str) -> Record | None:
    """One generation, a tombstone too."""
    return next(map(_record, connection.lookup([record_key(connection, name)])), None)


def read_all(connection: Connection) -> tuple[Pointer | None, dict[str, Record]]:
    """The pointer and every record by name, tombstones too, of one moment."""
    query = message("Query")()
    below = query.filter.property_filter
    below.property.name, below.op = "__key__", below.HAS_ANCESTOR
    below.value.key_value.CopyFrom(root_key(connection))
    return _split(entity for page in connection.query(query) for entity in page)


def read_in(transaction: Transaction, name: str) -> tuple[Pointer | None, Record | None, Record | None]:
    """The pointer, the record it points to and the named one, in a transaction."""
    connection = transaction.connection
    keys = [root_key(connection), record_key(connection, name)]
    pointer, records = _split(transaction.lookup(keys))
    if pointer and pointer.generation not in records:
        records |= _split(transaction.lookup([record_key(connection, pointer.generation)]))[1]
    return pointer, records.get(pointer.generation) if pointer else None, records.get(name)


def put_pointer(transaction: Transaction, pointer: Pointer) -> None:
    transaction.put(_entity(root_key(transaction.connection), vars(pointer)))


def put_record(transaction: Transaction, record: Record) -> None:
    generation = record.generation
    properties = (
        vars(generation)
        | vars(generation.content)
        | {
            "state": generation.state.value,
            "dead_letters": json.dumps(dict(generation.dead_letters), sort_keys=True),
            "notes": json.dumps(dict(generation.notes), sort_keys=True),
            "rows_expire_at": record.rows_expire_at,
            "token": record.token,
            "gone_at": record.gone_at,
        }
    )
    del properties["name"], properties["content"]
    transaction.put(_entity(record_key(transaction.connection, generation.name), properties))


def read_value(value: Any) -> Any:
    """A property's value in Python: str, int, float, or an aware datetime of UTC."""
    kind = value.WhichOneof("value_type")
    if kind == "timestamp_value":
        return value.timestamp_value.ToDatetime(UTC)
    return getattr(value, kind)


def _entity(key: Any, properties: dict[str, Any]) -> Any:
    """An entity of whose properties none is indexed; those that are None it does not have."""
    entity = message("Entity")(key=key)
    for name, value in properties.items():
        if value is not None:
            _set(entity.properties[name], value)
    return entity


def _set(value: Any, given: str | int | float | date) -> None:
    value.exclude_from_indexes = True
    if isinstance(given, str):
        value.string_value = given
    elif isinstance(given, int):
        value.integer_value = given
    elif isinstance(given, float):
        value.double_value = given
    else:
        instant = given if isinstance(given, datetime) else datetime.combine(given, time(), UTC)
        value.timestamp_value.FromDatetime(instant)


def _split(entities: Any) -> tuple[Pointer | None, dict[str, Record]]:
    pointer, records = None, {}
    for entity in entities:
        if len(entity.key.path) == 1:
            pointer = _pointer(entity)
        else:
            records[entity.key.path[-1].name] = _record(entity)
    return pointer, records


def _pointer(entity: Any) -> Pointer:
    return Pointer(**{name: read_value(value) for name, value in entity.properties.items()})


def _record(entity: Any) -> Record:
    values = {name: read_value(value) for name, value in entity.properties.items()}
    content = Content(**{name: values.pop(name) for name in ("rows", "total_value", "zeros")})
    own = {name: values.pop(name, None) for name in ("rows_expire_at", "token", "gone_at")}
    values |= {
        "as_of": values["as_of"].date(),
        "state": State(values["state"]),
        "dead_letters": json.loads(values["dead_letters"]),
        "notes": json.loads(values["notes"]),
    }
    return Record(Generation(entity.key.path[-1].name, content=content, **values), **own)
