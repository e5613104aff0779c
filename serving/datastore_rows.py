"""The rows of one attempt at a generation: the entities of one kind in one namespace, read, counted and deleted."""

from __future__ import annotations

import functools
import itertools
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from serving.datastore_client import Connection, message
from serving.entity_bytes import EXPIRE_AT, KIND, Namespace, deletes
from serving.store import Row
from transforms.errors import UsageError
from transforms.schema import CUSTOMER_ID_MAX_BYTES, PREDICTIONS, Type

if TYPE_CHECKING:
    from serving.datastore_writer import Writer

# A count that takes a minute is cut off by Datastore; it counts some hundred thousand keys a second.
ROWS_PER_COUNT = 2_000_000
# Every 128th entity or so has a __scatter__; with so many a part, parts differ little in size.
SCATTERED_PER_PART = 32
PARTS_DELETED = 8  # at once: while the commits of one are under way, others look for their next keys
# How a column's value is kept. Asking each value for its kind would take half of the time that reading a row takes.
_KINDS = {
    column.name: {
        Type.STRING: "string_value", Type.INT: "integer_value", Type.FLOAT: "double_value", Type.DATE: "timestamp_value",
    }[column.type]
    for column in PREDICTIONS
} | {EXPIRE_AT: "timestamp_value"}  # fmt: skip
_DATES = [column.name for column in PREDICTIONS if column.type is Type.DATE]
_RESERVED = re.compile(r"__.*__", re.DOTALL)


def read_rows(connection: Connection, at: Namespace, customer_ids: Iterable[str]) -> Iterator[tuple[Row, datetime]]:
    """The rows that exist of these customers, without their generation, and when each expires.

    Ids that nothing can be stored under are passed over. Raises as ``Connection.lookup``.
    """
    template = connection.key(KIND, "", namespace=at.name)
    for entity in connection.lookup(_keys(template, customer_ids)):
        properties, row = entity.properties, {}
        for name, kind in _KINDS.items():
            value = properties[name]
            if not value.HasField(kind):
                raise UsageError(  # without the customer's id: this goes to logs
                    f"{connection.uri}: an entity {KIND} in {at.name} has no {name}, or none "
                    "that this program wrote: publish the predictions anew"
                )
            row[name] = getattr(value, kind)
        for name in _DATES:
            row[name] = _day(row[name].seconds)
        yield row, row.pop(EXPIRE_AT).ToDatetime(UTC)


@functools.lru_cache(maxsize=1024)
def _day(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def count_rows(connection: Connection, at: Namespace, expected: int) -> int:
    """How many rows there are. Datastore counts them, in several ranges of keys where about ``expected`` is many.

    Raises as ``Connection.call``.
    """
    return sum(
        connection.count(_keys_between(start, end), at.name)
        for start, end in ranges(connection, at, -(-expected // ROWS_PER_COUNT))
    )


def delete_rows(connection: Connection, at: Namespace, writer: Writer) -> None:
    """Deletes all rows, several ranges of keys at once. What a killed deletion left is deleted by the next one.

    Raises as ``Connection.call`` and ``Writer.write``.
    """
    import pyarrow as pa

    stop = threading.Event()

    def delete(start: Any, end: Any) -> None:
        for page in connection.query(_keys_between(start, end), at.name):
            ids = [entity.key.path[0].name for entity in page]
            writer.write(deletes(pa.array(ids, pa.string()), at))
            if stop.is_set():
                return

    parts = ranges(connection, at, PARTS_DELETED)
    with ThreadPoolExecutor(len(parts), "datastore-deleter") as pool:
        try:
            for done in as_completed([pool.submit(delete, *part) for part in parts]):
                done.result()
        finally:
            stop.set()  # after an error, or when interrupted, no further page is begun


def ranges(connection: Connection, at: Namespace, parts: int) -> list[tuple[Any, Any]]:
    """All keys as up to so many ranges [start, end) of about the same number of rows; None is open.

    Datastore gives a random sample of entities the property ``__scatter__``: ordered by it, the first ones
    are a sample of the keys. https://cloud.google.com/appengine/docs/legacy/standard/java/datastore/queryscatter
    """
    scattered: list[Any] = []
    if parts > 1:
        query = _keys_between(None, None)
        query.order.add().property.name = "__scatter__"
        pages = connection.query(query, at.name, parts * SCATTERED_PER_PART)
        scattered = sorted((e.key for page in pages for e in page), key=lambda key: key.path[0].name.encode())
    step = max(1, len(scattered) // max(parts, 1))
    bounds = [None, *scattered[step::step][: parts - 1], None]
    return list(itertools.pairwise(bounds))


def _keys_between(start: Any, end: Any) -> Any:
    """A query of the keys of all rows in [start, end)."""
    query = message("Query")()
    query.kind.add(name=KIND)
    query.projection.add().property.name = "__key__"
    composite = query.filter.composite_filter
    for bound, name in ((start, "GREATER_THAN_OR_EQUAL"), (end, "LESS_THAN")):
        if bound is not None:
            composite.op = composite.AND
            condition = composite.filters.add().property_filter
            condition.property.name, condition.op = "__key__", getattr(condition, name)
            condition.value.key_value.CopyFrom(bound)
    return query


def _keys(template: Any, customer_ids: Iterable[str]) -> Iterator[Any]:
    for customer_id in dict.fromkeys(customer_ids):
        if _storable(customer_id):
            key = message("Key")()
            key.CopyFrom(template)
            key.path[0].name = customer_id
            yield key


def _storable(customer_id: str) -> bool:
    """False for what cannot be a key's name, and for what no UTF-8 text can hold (lone surrogates)."""
    try:
        size = len(customer_id.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= CUSTOMER_ID_MAX_BYTES and not _RESERVED.fullmatch(customer_id)
