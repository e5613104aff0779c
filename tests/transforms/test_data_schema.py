"""The schema: what it demands of real features, and that each kind of fault is one readable line."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from tests.transforms import simulated_customers
from tests.transforms.simulated_customers import emptied, replaced
from transforms import data_schema, schema, statistics
from transforms.errors import UsageError
from transforms.schema import Type
from transforms.sketches import Texts
from transforms.statistics import Split, Statistics

N = 3000


@pytest.fixture(scope="module")
def customers():
    return simulated_customers.customers(N)


@pytest.fixture(scope="module")
def inferred(customers):
    return data_schema.infer(statistics.of_table(customers))


def problems(table, inferred, environment=data_schema.TRAINING):
    return data_schema.anomalies(statistics.of_table(table), inferred, environment)


def test_it_follows_the_contract(inferred):
    features = {feature.name: feature for feature in inferred.feature}
    assert list(features) == list(statistics.DESCRIBED)
    kinds = {
        Type.STRING: schema_pb2.BYTES,
        Type.INT: schema_pb2.INT,
        Type.FLOAT: schema_pb2.FLOAT,
        Type.MONEY: schema_pb2.FLOAT,
    }
    for name, column in statistics.DESCRIBED.items():
        assert features[name].type == kinds[column.type]
    assert features["orders"].int_domain.min == 1
    assert features["return_share"].float_domain.min == 0
    assert features["orders"].presence.min_fraction == 1
    assert features["gap_days_mean"].presence.min_fraction == 0
    assert not features["value_total"].HasField("float_domain"), "returns may exceed what was bought in a history"
    assert features["future_value"].not_in_environment == [data_schema.SERVING]
    assert list(features["country"].string_domain.value) == ["France", "Germany", "Norway", "United Kingdom"]
    assert features["country"].distribution_constraints.min_domain_mass == 0.95
    assert not features["channel"].HasField("string_domain")


def test_lower_bounds_name_columns_of_the_contract_and_hold_on_other_customers(inferred):
    assert data_schema.LOWER_BOUNDS.keys() < statistics.DESCRIBED.keys()
    others = simulated_customers.customers(N, seed=5)
    for name, bound in data_schema.LOWER_BOUNDS.items():
        smallest = pc.min(others[name].cast(pa.float64())).as_py()
        assert smallest is None or smallest >= bound, name
    assert problems(others, inferred) == []


def test_what_a_prediction_lacks_is_expected(customers, inferred):
    for label in schema.names(schema.LABELS):
        customers = emptied(customers, label, 1.1)
    assert problems(customers, inferred, data_schema.SERVING) == []
    assert len(problems(customers, inferred)) == 2


def test_each_fault_is_one_line(customers, inferred):
    new = pc.if_else(pc.equal(customers["country"], "Germany"), "Deutschland", customers["country"])
    negative = pc.if_else(pc.equal(customers["orders"], 1), -3, customers["orders"])
    for table, expected in (
        (emptied(customers, "value_total", 1.1), [f"value_total: has a value for 0.00% of {customers.num_rows:,} customers, accepted is at least 100.00%"]),
        (customers.drop_columns(["lines"]), ["lines: the column is not there, accepted is a column that is"]),
        (customers.drop_columns(["channel"]), []),
        (replaced(customers, "orders", negative), ["orders: smallest value is -3, accepted is at least 1"]),
        (replaced(customers, "country", new), [None]),
        (customers.slice(0, 0), ["customers: there is none, accepted is at least one"]),
    ):  # fmt: skip
        found = problems(table, inferred)
        if expected == [None]:
            (line,) = found
            share = pc.mean(pc.equal(new, "Deutschland").cast(pa.float64())).as_py()
            assert line == (
                f"country: {share:.2%} of the values are not in its list, such as 'Deutschland', accepted are at most 5.00%"
            )
        else:
            assert found == expected


def test_a_few_new_values_are_fine(customers, inferred):
    new = pa.array(["Iceland"] * 100).cast(pa.string())
    countries = pa.concat_arrays([new, customers["country"].combine_chunks().slice(100)])
    assert problems(replaced(customers, "country", countries), inferred) == []


def test_a_kind_and_a_column_that_changed(customers, inferred):
    stats = statistics.of_table(customers)
    changed = schema_pb2.Schema()
    changed.CopyFrom(inferred)
    for feature in changed.feature:
        if feature.name == "orders":
            feature.type = schema_pb2.BYTES
        if feature.name == "lines":
            feature.int_domain.max = 4
    del changed.feature[-1]
    assert data_schema.anomalies(stats, changed) == [
        f"lines: largest value is {pc.max(customers['lines']).as_py()}, accepted is at most 4",
        "orders: is a number, accepted is text",
        "future_orders: the column is new, accepted is one of the schema's",
    ]


@pytest.mark.parametrize(("values", "listed"), [(4, True), (100, True), (101, False)])
def test_only_a_short_list_of_values_is_one(customers, values, listed):
    texts = pa.array([f"k{row % values}" for row in range(customers.num_rows)])
    found = {f.name: f for f in data_schema.infer(statistics.of_table(replaced(customers, "category", texts))).feature}
    assert found["category"].HasField("string_domain") == listed


def test_few_customers_make_no_list(customers):
    """Ten of forty customers' categories say nothing of the next forty's."""
    few = customers.slice(0, 40)
    few = replaced(few, "category", pa.array([f"k{row % 10}" for row in range(40)]))
    few = replaced(few, "country", pa.array(["Norway", "Italy"] * 20))
    found = {feature.name: feature for feature in data_schema.infer(statistics.of_table(few)).feature}
    assert not found["category"].HasField("string_domain")
    assert list(found["country"].string_domain.value) == ["Italy", "Norway"]


def of_categories(counts):
    sketch = Texts.of(counts, 0)
    return Statistics({"train": Split(sketch.count, {"category": sketch})})


def listing(values):
    wanted = schema_pb2.Schema()
    feature = wanted.feature.add(name="category", type=schema_pb2.BYTES)
    feature.string_domain.value.extend(values)
    feature.distribution_constraints.min_domain_mass = 0.95
    return wanted


def test_values_that_were_not_kept_may_be_in_the_list():
    names = [f"k{index:05d}" for index in range(12_000)]
    seen = of_categories(dict.fromkeys(names, 3))
    assert seen.whole().columns["category"].others == 7000 * 3
    assert data_schema.anomalies(seen, listing(names)) == []
    (line,) = data_schema.anomalies(seen, listing(names[:5000]))  # those that were kept: the others are unknown
    assert line.startswith(f"category: {7000 / 12_000:.2%} of the values are not in its list")
    (line,) = data_schema.anomalies(seen, listing(["a", "b"]))  # two of the 7,000 that were not kept might be these
    assert line.startswith(f"category: {11_998 / 12_000:.2%} of the values are not in its list")


def test_it_is_not_reviewed_until_somebody_deletes_the_mark(inferred, tmp_path):
    uri = tmp_path / "schema.pbtxt"
    data_schema.write(str(uri), inferred)
    assert not data_schema.is_reviewed(data_schema.read(str(uri)))
    text = uri.read_text()
    mark = 'annotation {\n  tag: "NOT_REVIEWED"\n}\n'
    assert text.endswith(mark) and "at the end" in text.partition("feature {")[0]
    uri.write_text(text.removesuffix(mark))
    assert data_schema.is_reviewed(data_schema.read(str(uri)))


def test_too_many_texts_get_no_list():
    table = simulated_customers.customers(40_000)
    ids = replaced(table, "category", table["customer_id"])
    found = {feature.name: feature for feature in data_schema.infer(statistics.of_table(ids)).feature}
    assert not found["category"].HasField("string_domain")


def test_a_reviewed_schema_is_kept(inferred, tmp_path):
    uri = str(tmp_path / "schema.pbtxt")
    assert data_schema.write(uri, inferred)
    assert data_schema.read(uri) == inferred
    text = (tmp_path / "schema.pbtxt").read_text()
    assert text.startswith("# What the features")
    (tmp_path / "schema.pbtxt").write_text(text.replace("min_domain_mass: 0.95", "min_domain_mass: 0.5"))
    assert not data_schema.write(uri, inferred)
    country = next(feature for feature in data_schema.read(uri).feature if feature.name == "country")
    assert country.distribution_constraints.min_domain_mass == 0.5


def test_what_is_no_schema_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        data_schema.read(str(tmp_path / "none.pbtxt"))
    for content in (b"feature { nam: 'x' }", b"\xff\xfe"):
        (tmp_path / "s.pbtxt").write_bytes(content)
        with pytest.raises(UsageError, match="is not a schema"):
            data_schema.read(str(tmp_path / "s.pbtxt"))


def test_statistics_without_a_column_infer_it_from_the_contract():
    found = data_schema.infer(Statistics({"train": Split(3, {})}))
    assert len(found.feature) == len(statistics.DESCRIBED)
