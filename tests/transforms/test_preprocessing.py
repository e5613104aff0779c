"""The transform on awkward customers: against NumPy, at odd batch sizes, and on what never varied in training."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.trainer import features_fixture
from transforms import preprocessing, record_batches, schema
from transforms.schema import Scale

ROWS = 4_200
# Rows a batch -> rows transformed: one row at a time is slow, and 1,000 rows are enough to see it.
BATCHES = {1: 1_000, 37: ROWS, 4095: ROWS, 4096: ROWS}
COUNTRIES = 40
CONSTANT_IN_TRAINING = "return_share"
MISSING_IN_TRAINING = "gap_days_mean"
PRESENT_IN_TRAINING = "value_year_ago"


def replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    array = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), array)


def awkward_customers() -> pa.Table:
    """Huge, tiny, negative, zero and missing values; three features that never vary in the train split."""
    rng = np.random.default_rng(0)
    table = features_fixture.simulate(ROWS, seed=11)
    train = np.asarray(pc.equal(table["split"], "train"))
    awkward = [Decimal(text) for text in ("1e20", "-1e20", "0", "1e-9", "-1e-9", "123456789.123456789", "-0.1", "1e15")]
    money = [awkward[i % 8] if i % 3 == 0 else v for i, v in enumerate(table["value_total"].to_pylist())]
    table = replace(table, "value_total", money)
    table = replace(
        table, "order_value_mean", np.exp(np.clip(rng.normal(0, 30, ROWS), -85, 85)) * rng.choice([-1, 0, 1], ROWS)
    )
    table = replace(table, "distinct_items", [None if i % 5 == 0 else i**4 for i in range(ROWS)])
    table = replace(table, CONSTANT_IN_TRAINING, np.where(train, 0.1, rng.normal(size=ROWS)))
    table = replace(table, MISSING_IN_TRAINING, pa.array(rng.normal(size=ROWS) * 9, mask=train))
    present = [Decimal(i) if is_train else None for i, is_train in enumerate(train)]
    table = replace(table, PRESENT_IN_TRAINING, present)
    # A term's frequency falls with its number, clearly enough for an exact ranking.
    ranks = np.minimum(rng.geometric(0.08, ROWS), COUNTRIES)
    return replace(table, "country", pa.array([f"Z{r:02d}" for r in ranks], mask=rng.random(ROWS) < 0.05))


@pytest.fixture(scope="module")
def customers() -> pa.Table:
    return awkward_customers()


@pytest.fixture(scope="module")
def transform_output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("transform") / "output")


@pytest.fixture(scope="module")
def transformed(customers: pa.Table, transform_output: str) -> list[pa.Table]:
    """By Beam, one table for each of BATCHES; the last has every row."""
    jobs = [(customers.slice(0, rows), batch_rows) for batch_rows, rows in BATCHES.items()]
    return features_fixture.analyze_and_transform(customers, jobs, transform_output)


def in_bits(table: pa.Table, rows: int) -> dict[str, bytes]:
    return {name: table[name].to_numpy()[:rows].tobytes() for name in table.schema.names[4:]}


def test_bits_do_not_depend_on_the_batch_size_in_beam(transformed: list[pa.Table]) -> None:
    for (batch_rows, rows), table in zip(BATCHES.items(), transformed, strict=True):
        found, expected = in_bits(table, rows), in_bits(transformed[-1], rows)
        assert set(found) == {*preprocessing.numeric_outputs(), "country"}
        differing = [name for name in expected if found[name] != expected[name]]
        assert not differing, f"at {batch_rows} rows a batch"


@pytest.mark.parametrize(("batch_rows", "rows"), BATCHES.items())
def test_bits_of_the_exported_model_are_those_of_beam(
    batch_rows: int, rows: int, customers: pa.Table, transformed: list[pa.Table], exported: Any
) -> None:
    expected = in_bits(transformed[-1], rows)
    inputs = record_batches.dense(customers.slice(0, rows))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in expected}
    for start in range(0, rows, batch_rows):
        answer = exported.signatures["transform"](
            **{name: _tensor(values[start : start + batch_rows]) for name, values in inputs.items()}
        )
        for name, values in parts.items():
            values.append(answer[name].numpy())
    differing = [name for name in expected if np.concatenate(parts[name]).tobytes() != expected[name]]
    assert not differing


def _tensor(values: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.constant(values)


@pytest.fixture(scope="module")
def exported(transformed: list[pa.Table], transform_output: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SavedModel as the trainer exports it; its network is untrained."""
    import tensorflow as tf

    from trainer import export, network

    scales = network.Scales(1.0, 1.0, 1.0)
    model = network.build(np.zeros(network.LOGITS, np.float32))
    directory = str(tmp_path_factory.mktemp("exported") / "saved_model")
    export.export(network.Training(model, scales, 64, [0.0], 1), transform_output, directory)
    return tf.saved_model.load(directory)


def expected_scores(customers: pa.Table, column: schema.Column) -> np.ndarray:
    """z-scores by NumPy in float64, two passes; 0 where missing. [rows]"""
    x = record_batches.float32(customers[column.name]).astype(np.float64)
    if column.model_input in (Scale.LOG, Scale.DURATION):
        x = np.sign(x) * np.log1p(np.abs(x))
    seen = x[np.asarray(pc.equal(customers["split"], "train")) & ~np.isnan(x)]
    if column.model_input is Scale.LOG:
        x = np.clip(x, seen.min(), seen.max()) if len(seen) else x
    z = (x - seen.mean()) / seen.std() if len(set(seen)) > 1 else np.zeros_like(x)
    return np.where(np.isnan(x), 0, np.clip(z, -preprocessing.CLIP, preprocessing.CLIP))


@pytest.mark.parametrize("name", [c.name for c in preprocessing.numeric_inputs()])
def test_scores_are_those_of_numpy(name: str, customers: pa.Table, transformed: list[pa.Table]) -> None:
    column = schema.by_name(schema.FEATURES)[name]
    np.testing.assert_allclose(transformed[-1][name], expected_scores(customers, column), rtol=1e-5, atol=1e-5)


def test_missing_is_flagged_only_where_training_saw_both(customers: pa.Table, transformed: list[pa.Table]) -> None:
    nullable = [c.name for c in preprocessing.numeric_inputs() if c.nullable]
    train = pc.equal(customers["split"], "train")
    varying = 0
    for name in nullable:
        missing = np.asarray(customers[name].is_null())
        in_training = missing[np.asarray(train)]
        varied = in_training.any() and not in_training.all()
        varying += varied
        np.testing.assert_array_equal(transformed[-1][name + "_missing"], missing * varied)
    assert 0 < varying < len(nullable)


def test_what_never_varied_in_training_carries_nothing(transformed: list[pa.Table]) -> None:
    for name in (
        CONSTANT_IN_TRAINING,
        MISSING_IN_TRAINING,
        MISSING_IN_TRAINING + "_missing",
        PRESENT_IN_TRAINING + "_missing",
    ):
        assert not transformed[-1][name].to_numpy().any(), name


def test_the_vocabulary_is_the_most_frequent_terms_of_the_train_split(
    customers: pa.Table, transformed: list[pa.Table]
) -> None:
    counts = Counter(customers.filter(pc.equal(customers["split"], "train"))["country"].drop_null().to_pylist())
    assert len(counts) > preprocessing.VOCABULARY_SIZE
    # Larger terms first among equally frequent ones.
    ranked = sorted(counts, key=lambda term: (counts[term], term), reverse=True)[: preprocessing.VOCABULARY_SIZE]
    index = {term: i for i, term in enumerate(ranked, start=preprocessing.FIRST_VOCABULARY_INDEX)}
    expected = [
        preprocessing.MISSING_INDEX if term is None else index.get(term, preprocessing.OUT_OF_VOCABULARY_INDEX)
        for term in customers["country"].to_pylist()
    ]
    assert transformed[-1]["country"].to_pylist() == expected
    assert set(expected) == set(range(preprocessing.INDEX_COUNT))


def test_a_train_split_of_identical_customers_silences_everything(tmp_path: Any) -> None:
    one = features_fixture.simulate(50, seed=3).slice(0, 1)
    alike = pa.concat_tables([replace(replace(one, "split", ["train"]), "customer_id", [f"T{i}"]) for i in range(3)])
    others = replace(features_fixture.simulate(50, seed=4), "split", ["test"] * 50)
    (table,) = features_fixture.analyze_and_transform(alike, [(others, 16)], str(tmp_path / "output"))
    assert not any(table[name].to_numpy().any() for name in [*preprocessing.numeric_outputs(), "country"])


def test_beyond_the_training_range(tmp_path: Any) -> None:
    """Customers of a later snapshot: money and counts end at the train split's range, durations do not.

    What is missing in all of the train split has no range: present later, it has no effect.
    """
    unknown = "value_year_ago"
    train = replace(features_fixture.simulate(60, seed=5), "split", ["train"] * 60)
    train = replace(train, unknown, [None] * 60)
    columns = [c for c in preprocessing.numeric_inputs() if c.name != unknown and pc.max(train[c.name]).as_py()]
    of = {scale: [c.name for c in columns if c.model_input is scale] for scale in (Scale.LOG, Scale.DURATION)}
    assert len(of[Scale.LOG]) > 5 and len(of[Scale.DURATION]) > 2

    def later(factor: int, value: Decimal | None) -> pa.Table:
        """One customer with each column's largest value of the train split, so many times."""
        table = train.slice(0, 1)
        for column in columns:
            table = replace(table, column.name, [pc.max(train[column.name]).as_py() * factor])
        return replace(table, unknown, [value])

    jobs = [
        (later(factor, value), 1) for factor, value in ((1, None), (3, None), (1, Decimal("1e6")), (1, Decimal(-3)))
    ]
    largest, beyond, *known = features_fixture.analyze_and_transform(train, jobs, str(tmp_path / "output"))
    score = {name: (largest[name][0].as_py(), beyond[name][0].as_py()) for name in largest.schema.names[4:]}
    for name in of[Scale.LOG]:
        assert score[name][0] == score[name][1] > 0, name
    for name in of[Scale.DURATION]:
        assert score[name][0] + 0.1 < score[name][1] < preprocessing.CLIP, name
    for table in known:
        assert table.equals(largest)
    assert score[unknown] == score[unknown + "_missing"] == (0.0, 0.0)


def test_labels_split_and_ids_are_not_inputs() -> None:
    spec = preprocessing.raw_feature_spec()
    assert set(spec) == {column.name for column in schema.FEATURES if column.model_input}
    assert not record_batches.PASSTHROUGH_KEYS & set(spec)
