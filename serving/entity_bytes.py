"""Predictions as Datastore mutations in protobuf's wire format, without Python per row.

Rows that agree in the byte length of their id and in every column that is not a float serialise to records of one
length, which differ only in the id's bytes and in the eight of each float. So the protobuf library serialises one
such entity a group, with placeholders; where they lie is found by changing one and looking which bytes change; and
NumPy stamps the template with the rows' bytes. Nothing of the wire format is written by hand here.

A record is a ``CommitRequest`` of nothing but one mutation: serialised messages of one type merge when their bytes
are joined, so a commit is ``header`` and any number of records, one after the other.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from serving.datastore_client import message
from transforms.schema import CUSTOMER_ID, PREDICTIONS, Type, arrow_schema, names

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

KIND = "CustomerValue"
EXPIRE_AT = "expire_at"
# Of a process: what varies is the length of ids and the decile, so this is far more than a job needs.
TEMPLATES_KEPT = 4096
# Two values each of which no byte is the same; the floats are finite.
_TEXTS = ("a", "b")
_FLOATS = tuple(struct.unpack("<d", byte * 8)[0] for byte in (b"\1", b"\2"))


@dataclass(frozen=True)
class Records:
    """Mutations one after the other, not in the order of their rows.

    Attributes:
      data: uint8, all records.
      offsets: int64 of shape [records + 1]: record i is ``data[offsets[i]:offsets[i + 1]]``.
      rows: int64 of shape [records]: the row of the input that record i was made of.
    """

    data: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Namespace:
    """Where the entities of one attempt at a generation live; ``database`` is empty for the default one."""

    project: str
    database: str
    name: str


def header(project: str, database: str) -> bytes:
    """What a commit begins with, before its records: not a transaction, since no two records share a key."""
    request = message("CommitRequest")()
    request.project_id = project
    request.database_id = database
    request.mode = request.NON_TRANSACTIONAL
    return bytes(request.SerializeToString(deterministic=True))


def upserts(batch: pa.RecordBatch, namespace: Namespace, expire_at: datetime) -> Records:
    """One upsert a row of ``schema.PREDICTIONS``: every column, and ``expire_at``, all excluded from indexes.

    Raises:
      ValueError: a column is missing, of another type, or holds a null.
    """
    import numpy as np

    columns = batch.select(names(PREDICTIONS)).cast(arrow_schema(PREDICTIONS))
    for name, column in zip(columns.schema.names, columns.columns, strict=True):
        if column.null_count:
            raise ValueError(f"predictions are to have no nulls, and column {name} has {column.null_count}")
    floats = {column.name: np.asarray(columns[column.name]) for column in PREDICTIONS if column.type is Type.FLOAT}
    others = [name for name in columns.schema.names if name not in {*floats, CUSTOMER_ID.name}]

    def template(row: int, id_bytes: int) -> _Template:
        same = tuple((name, columns[name][row].as_py()) for name in others)
        return _upsert_template(namespace, expire_at, id_bytes, same)

    return _records(columns[CUSTOMER_ID.name], _groups(columns, others), template, floats)


def deletes(customer_ids: pa.StringArray, namespace: Namespace) -> Records:
    """One deletion an id. Deleting what is not there is fine for Datastore.

    Raises:
      ValueError: an id is null.
    """
    import numpy as np
    import pyarrow as pa

    if customer_ids.null_count:
        raise ValueError("a null is no customer's id")
    codes = np.zeros(len(customer_ids), np.int64)
    return _records(
        customer_ids.cast(pa.string()), codes, lambda _, id_bytes: _delete_template(namespace, id_bytes), {}
    )


@dataclass(frozen=True)
class _Template:
    """A record with placeholders: its bytes, and where the id and each float begin in them."""

    data: bytes
    id_starts: tuple[int, ...]
    float_starts: Mapping[str, int]


def _records(
    customer_ids: pa.StringArray,
    groups: np.ndarray,
    template: Callable[[int, int], _Template],
    floats: Mapping[str, np.ndarray],
) -> Records:
    """Stamps every group's template with its rows.

    Args:
      groups: a number for each row; rows of one group agree in all that is neither id nor float.
      template: for one row of a group and the byte length of its id.
      floats: the float columns by name.
    """
    import numpy as np
    import pyarrow.compute as pc

    lengths = np.asarray(pc.binary_length(customer_ids)).astype(np.int64)
    order, starts = _sorted_groups(groups, lengths)
    texts = customer_ids.take(order)  # fresh and in order: the ids of a group lie one after the other
    text_starts = np.frombuffer(texts.buffers()[1], np.int32, len(order) + 1) if len(order) else np.zeros(1, np.int32)
    text_bytes = texts.buffers()[2]
    templates = [template(int(order[start]), int(lengths[order[start]])) for start in starts[:-1]]
    sizes = np.repeat(np.array([len(each.data) for each in templates], np.int64), np.diff(starts))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    data = np.empty(offsets[-1], np.uint8)
    for each, start, end in zip(templates, starts[:-1], starts[1:], strict=True):
        first, rows = int(offsets[start]), order[start:end]
        data[first : int(offsets[end])].reshape(len(rows), -1)[:] = np.frombuffer(each.data, np.uint8)
        if each.id_starts:
            width = int(lengths[rows[0]])
            ids = np.frombuffer(text_bytes, f"V{width}", len(rows), int(text_starts[start]))
            for at in each.id_starts:
                _stamp(data, first + at, len(each.data), ids)
        for name, at in each.float_starts.items():
            _stamp(data, first + at, len(each.data), floats[name][rows].astype("<f8", copy=False))
    return Records(data, offsets, order)


def _stamp(data: np.ndarray, first: int, step: int, values: np.ndarray) -> None:
    """Puts each value's bytes ``step`` bytes behind the one before it."""
    import numpy as np

    np.ndarray(len(values), values.dtype, data.data, first, (step,))[:] = values


def _groups(columns: pa.RecordBatch, names: list[str]) -> np.ndarray:
    """A number for each row, int64: the same for rows that agree in these columns."""
    import numpy as np

    groups = np.zeros(columns.num_rows, np.int64)
    for name in names:
        encoded = columns[name].dictionary_encode()
        if len(encoded.dictionary) > 1:
            groups = _distinct(groups * len(encoded.dictionary) + np.asarray(encoded.indices))
    return groups


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """The same partition as small numbers, so that combining them with another column's never overflows."""
    import numpy as np

    return np.unique(numbers, return_inverse=True)[1]


def _sorted_groups(groups: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows in an order in which those of one group and one length are neighbours, and where each run of them starts."""
    import numpy as np

    both = groups * (lengths.max(initial=0) + 1) + lengths
    order = np.argsort(both, kind="stable")
    changes = np.flatnonzero(np.diff(both[order])) + 1
    return order, np.concatenate([[0], changes, [len(order)]]) if len(order) else np.zeros(1, np.int64)


@functools.lru_cache(TEMPLATES_KEPT)
def _upsert_template(
    namespace: Namespace, expire_at: datetime, id_bytes: int, same: tuple[tuple[str, Any], ...]
) -> _Template:
    floats = [column.name for column in PREDICTIONS if column.type is Type.FLOAT]

    def serialised(text: str, changed: str | None = None) -> bytes:
        values = {name: _FLOATS[name == changed] for name in floats}
        customer_id = {CUSTOMER_ID.name: text * id_bytes}
        return _upsert(namespace, text * id_bytes, {**customer_id, **dict(same), **values, EXPIRE_AT: expire_at})

    data = serialised(_TEXTS[0])
    starts = {name: _changed(data, serialised(_TEXTS[0], name), 8)[0] for name in floats}
    return _Template(data, _changed(data, serialised(_TEXTS[1]), id_bytes), starts)


@functools.lru_cache(TEMPLATES_KEPT)
def _delete_template(namespace: Namespace, id_bytes: int) -> _Template:
    data, other = (_delete(namespace, text * id_bytes) for text in _TEXTS)
    return _Template(data, _changed(data, other, id_bytes), {})


def _changed(one: bytes, other: bytes, width: int) -> tuple[int, ...]:
    """Where the values of ``width`` bytes begin in which the two, of one length, differ."""
    import numpy as np

    places = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
    return tuple(places[::width].tolist()) if width else ()


def _upsert(namespace: Namespace, customer_id: str, properties: Mapping[str, Any]) -> bytes:
    request = message("CommitRequest")()
    entity = request.mutations.add().upsert
    _set_key(entity.key, namespace, customer_id)
    for name, value in properties.items():
        set_value(entity.properties[name], value)
    # Deterministic: a map's order would otherwise differ from one serialisation to the next.
    return bytes(request.SerializeToString(deterministic=True))


def _delete(namespace: Namespace, customer_id: str) -> bytes:
    request = message("CommitRequest")()
    _set_key(request.mutations.add().delete, namespace, customer_id)
    return bytes(request.SerializeToString(deterministic=True))


def _set_key(key: Any, namespace: Namespace, customer_id: str) -> None:
    key.partition_id.project_id = namespace.project
    key.partition_id.database_id = namespace.database
    key.partition_id.namespace_id = namespace.name
    element = key.path.add()
    element.kind = KIND
    element.name = customer_id


def set_value(value: Any, given: str | int | float | date | datetime) -> None:
    """Makes it a property's value, not indexed; a date is its midnight in UTC, an instant must be aware."""
    value.exclude_from_indexes = True
    if isinstance(given, str):
        value.string_value = given
    elif isinstance(given, int):
        value.integer_value = given
    elif isinstance(given, float):
        value.double_value = given
    elif isinstance(given, datetime):
        value.timestamp_value.FromDatetime(given)
    else:
        value.timestamp_value.FromDatetime(datetime(given.year, given.month, given.day, tzinfo=UTC))
