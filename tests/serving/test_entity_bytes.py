"""Stamped records against entities that the protobuf library builds one by one."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest
from google.cloud.datastore_v1 import types
from hypothesis import given
from hypothesis import strategies as st

from serving.entity_bytes import Namespace, Records, deletes, header, upserts
from transforms import schema

NAMESPACE = Namespace("a-project", "a-database", "2011-12-10-0a1b2c3d4e5f.2")
EXPIRE_AT = datetime.datetime(2012, 2, 8, 3, 4, 5, 678901, tzinfo=datetime.UTC)

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=1500).filter(lambda text: len(text.encode()) <= 1500)
values: dict[schema.Type, st.SearchStrategy] = {
    schema.Type.STRING: st.sampled_from(["", "m1", "m2", "größer"]),
    schema.Type.INT: st.sampled_from([0, 1, 10, 127, 128, -1, 2**63 - 1, -(2**63)]),
    schema.Type.FLOAT: st.floats(allow_nan=False),
    schema.Type.DATE: st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)),
}
rows = st.fixed_dictionaries({column.name: values[column.type] for column in schema.PREDICTIONS} | {"customer_id": ids})


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema.arrow_schema(schema.PREDICTIONS))


def key(customer_id: str) -> types.Key:
    partition = types.PartitionId(
        project_id=NAMESPACE.project, database_id=NAMESPACE.database, namespace_id=NAMESPACE.name
    )
    element = types.Key.PathElement(kind="CustomerValue", name=customer_id)
    return types.Key(partition_id=partition, path=[element])


def upsert(row: dict[str, Any]) -> Any:
    """The mutation of one row, by the client library's own classes."""
    midnight = datetime.datetime.combine(row["as_of"], datetime.time(), datetime.UTC)
    properties = {
        "as_of": types.Value(timestamp_value=midnight),
        "expire_at": types.Value(timestamp_value=EXPIRE_AT),
        **{name: types.Value(string_value=row[name]) for name in ("customer_id", "model_version")},
        **{name: types.Value(integer_value=row[name]) for name in ("horizon_days", "decile")},
    }
    for name in row.keys() - properties.keys():
        properties[name] = types.Value(double_value=row[name])
    for value in properties.values():
        value.exclude_from_indexes = True
    return types.Mutation.pb(types.Mutation(upsert=types.Entity(key=key(row["customer_id"]), properties=properties)))


def exact(mutation: Any) -> bytes:
    """Every bit: -0.0 equals 0.0, but not here."""
    return bytes(mutation.SerializeToString(deterministic=True))


def mutations(records: Records) -> dict[int, bytes]:
    """The only mutation of each record, by the row it says it was made of."""
    pb = types.CommitRequest.pb()
    found = {}
    for record, row in enumerate(records.rows.tolist()):
        message = pb.FromString(records.data[records.offsets[record] : records.offsets[record + 1]].tobytes())
        (mutation,) = message.mutations
        del message.mutations[:]
        assert not message.ByteSize()
        found[row] = exact(mutation)
    assert len(found) == len(records) == len(records.offsets) - 1
    return found


class TestUpserts:
    @given(st.lists(rows, max_size=12))
    def test_every_record_is_what_the_library_makes_of_its_row(self, rows: list[dict[str, Any]]) -> None:
        expected = {number: exact(upsert(row)) for number, row in enumerate(rows)}
        assert mutations(upserts(batch_of(rows), NAMESPACE, EXPIRE_AT)) == expected

    def test_ids_up_to_the_longest_and_the_strangest_floats(self) -> None:
        row = {c.name: {"string": "m", "int64": 3, "double": 0.0, "date32[day]": datetime.date(2011, 12, 10)}[str(c.type.arrow)] for c in schema.PREDICTIONS}  # fmt: skip
        strange = [0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, float("inf"), 0.1, 7.748604185489348e-304]
        texts = ["", "a", "b", "\0", "x" * 1500, "ü" * 750, "\U0001f600" * 375, "a"]
        made = [
            row | {"customer_id": text, "value_p50": x, "value_p90": -x} for text, x in zip(texts, strange, strict=True)
        ]
        expected = {number: exact(upsert(row)) for number, row in enumerate(made)}
        assert mutations(upserts(batch_of(made), NAMESPACE, EXPIRE_AT)) == expected

    @given(st.lists(rows, min_size=3, max_size=8), st.data())
    def test_a_slice_of_a_batch_is_its_rows_only(self, rows: list[dict[str, Any]], data: st.DataObject) -> None:
        first = data.draw(st.integers(1, len(rows) - 1))
        expected = {number: exact(upsert(row)) for number, row in enumerate(rows[first:])}
        assert mutations(upserts(batch_of(rows).slice(first), NAMESPACE, EXPIRE_AT)) == expected

    @given(st.lists(rows, min_size=1, max_size=8))
    def test_a_header_and_records_joined_are_one_commit(self, rows: list[dict[str, Any]]) -> None:
        records = upserts(batch_of(rows), NAMESPACE, EXPIRE_AT)
        request = types.CommitRequest.pb().FromString(header("a-project", "a-database") + records.data.tobytes())
        assert (request.project_id, request.database_id) == ("a-project", "a-database")
        assert types.CommitRequest.Mode(request.mode) is types.CommitRequest.Mode.NON_TRANSACTIONAL
        assert [exact(m) for m in request.mutations] == [exact(upsert(rows[row])) for row in records.rows]

    @pytest.mark.parametrize("column", schema.names(schema.PREDICTIONS))
    def test_a_null_is_refused_by_name(self, column: str) -> None:
        batch = batch_of([dict.fromkeys(schema.names(schema.PREDICTIONS))])
        filled = [pa.array([1], field.type) if field.type != pa.string() else pa.array(["a"]) for field in batch.schema if field.type != pa.date32()]  # fmt: skip
        whole = dict(zip([f.name for f in batch.schema if f.type != pa.date32()], filled, strict=True))
        whole["as_of"] = pa.array([datetime.date(2011, 12, 10)])
        columns = [whole[name] if name != column else batch.column(name) for name in batch.schema.names]
        with pytest.raises(ValueError, match=f"column {column} has 1"):
            upserts(pa.RecordBatch.from_arrays(columns, schema=batch.schema), NAMESPACE, EXPIRE_AT)


class TestDeletes:
    @given(st.lists(ids, max_size=12))
    def test_every_record_is_what_the_library_makes_of_its_id(self, ids: list[str]) -> None:
        expected = {n: exact(types.Mutation.pb(types.Mutation(delete=key(text)))) for n, text in enumerate(ids)}
        assert mutations(deletes(pa.array(ids, pa.string()), NAMESPACE)) == expected

    def test_a_null_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a null is no customer's id"):
            deletes(pa.array(["a", None]), NAMESPACE)
