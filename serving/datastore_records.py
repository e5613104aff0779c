"""What Datastore knows of generations: one entity each, and the pointer to the current one, all in one entity group.

    CustomerValueServing "predictions"                 the pointer
      +-- CustomerValueGeneration "2011-12-10-..."     a record

One group, so that a query below the pointer sees one moment of them all, in every mode of Datastore. A deleted
generation's record stays for a while as a tombstone: its attempts' numbers, and with them the namespaces of their
rows, are never used again, and whoever still believes in them can neither write nor delete another attempt's rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from serving.datastore_client import Connection, Transaction, message
from serving.entity_bytes import Namespace, set_value
from serving.store import DATASTORE, Content, Generation, State
from transforms.errors import UsageError

T = TypeVar("T")
ROOT = ("CustomerValueServing", "predictions")
RECORD_KIND = "CustomerValueGeneration"
# Of pointer and records. To be raised when an older version would misread them; a new property alone does not matter.
LAYOUT = 1


@dataclass(frozen=True)
class Pointer:
    """Which generation is current.

    Attributes:
      attempt: the attempt whose rows are served.
      token: of the switch that set it.
      expires_at: when those rows cease to be served.
    """

    generation: str
    attempt: int
    token: str
    expires_at: datetime


@dataclass(frozen=True)
class Record:
    """One generation.

    Attributes:
      token: of whoever began or switched to it last, to be recognised when the answer was lost.
      gone_at: when its deletion ended; None while it exists.
    """

    generation: Generation
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
    for name, value in (properties | {"layout": LAYOUT}).items():
        if value is not None:
            set_value(entity.properties[name], value)
    return entity


def _split(entities: Any) -> tuple[Pointer | None, dict[str, Record]]:
    pointer, records = None, {}
    for entity in entities:
        if len(entity.key.path) == 1:
            pointer = _pointer(entity)
        else:
            records[entity.key.path[-1].name] = _record(entity)
    return pointer, records


def _pointer(entity: Any) -> Pointer:
    return _read(entity, _POINTER_PROPERTIES, lambda values: Pointer(**values))


def _record(entity: Any) -> Record:
    return _read(entity, _RECORD_PROPERTIES, lambda values: _record_of(entity.key.path[-1].name, values))


def _record_of(name: str, values: dict[str, Any]) -> Record:
    content = Content(**{figure: values.pop(figure) for figure in _CONTENT_PROPERTIES})
    own = {attribute: values.pop(attribute, None) for attribute in ("token", "gone_at")}
    values |= {
        "as_of": values["as_of"].date(),
        "state": State(values["state"]),
        "dead_letters": json.loads(values["dead_letters"]),
        "notes": json.loads(values["notes"]),
    }
    return Record(Generation(name, content=content, **values), **own)


def _read(entity: Any, known: frozenset[str], make: Callable[[dict[str, Any]], T]) -> T:
    """What is made of an entity's known properties; a later version may have added others.

    Raises:
      UsageError: an entity of a later layout, or not one of ours.
    """
    partition, path = entity.key.partition_id, entity.key.path[-1]
    uri = f"{DATASTORE}://{partition.project_id}" + (f"/{partition.database_id}" if partition.database_id else "")
    what = f"{uri}: the entity {path.kind} {path.name!r}"
    layout = entity.properties["layout"].integer_value if "layout" in entity.properties else 0
    if layout > LAYOUT:
        raise UsageError(
            f"{what} was written by a newer version of this program: its layout is {layout}, accepted is up to {LAYOUT}"
        )
    present = known & set(entity.properties)
    try:
        if missing := known - present - _NOT_ALWAYS:
            raise KeyError(*missing)
        return make({name: read_value(entity.properties[name]) for name in present})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{what} was not written by this program: accepted is a database without it") from error


_CONTENT_PROPERTIES = tuple(field.name for field in fields(Content))
_NOT_ALWAYS = frozenset({"sealed_at", "published_at", "warehouse", "gone_at"})  # None otherwise
_POINTER_PROPERTIES = frozenset(field.name for field in fields(Pointer))
_RECORD_PROPERTIES = frozenset(
    {field.name for field in (*fields(Generation), *fields(Record))} - {"name", "content", "generation"}
) | {*_CONTENT_PROPERTIES}
