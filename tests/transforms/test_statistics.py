"""Statistics of real features against pyarrow and pandas over the same rows, and the two files they are kept in."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import statistics_pb2

from tests.transforms import simulated_customers
from transforms import schema, sketches, statistics, storage
from transforms.errors import UsageError
from transforms.schema import Type
from transforms.sketches import Numbers, Texts
from transforms.statistics import Split, Statistics

N = 3000
NUMERIC = [name for name, column in statistics.DESCRIBED.items() if column.type is not Type.STRING]


@pytest.fixture(scope="module")
def customers():
    return simulated_customers.customers(N)


@pytest.fixture(scope="module")
def stats(customers):
    return statistics.of_table(customers, "2012-03-01")


@pytest.fixture(scope="module")
def frames(customers):
    """The same rows as pandas sees them: by split, in float64."""
    frame = customers.to_pandas()
    for name in NUMERIC:
        frame[name] = frame[name].astype("float64")
    return dict(list(frame.groupby("split")))


def test_every_split_and_column_is_described(stats, frames):
    assert list(stats.splits) == list(schema.SPLITS)
    assert stats.snapshots == {"2012-03-01": stats.rows}
    for name, split in stats.splits.items():
        assert split.rows == len(frames[name])
        assert list(split.columns) == [c.name for c in (*schema.FEATURES, *schema.LABELS)]
        assert {sketch.rows for sketch in split.columns.values()} == {split.rows}
    assert {type(stats.splits["train"].columns[name]) for name in NUMERIC} == {Numbers}


def test_figures_equal_pandas(stats, frames):
    varied = 0
    for name, frame in frames.items():
        for column in NUMERIC:
            sketch, values = stats.splits[name].columns[column], frame[column].dropna()
            assert (sketch.count, sketch.missing) == (len(values), frame[column].isna().sum())
            assert (sketch.zeros, sketch.negatives) == ((values == 0).sum(), (values < 0).sum())
            if len(values):
                assert (sketch.minimum, sketch.maximum) == pytest.approx((values.min(), values.max()), rel=1e-14)
                assert sketch.mean == pytest.approx(values.mean(), rel=1e-12)
                assert sketch.std == pytest.approx(values.std(ddof=0), rel=1e-9, abs=1e-12)
                varied += sketch.std > 0
        assert stats.splits[name].columns["country"].counts == frame["country"].value_counts().to_dict()
        assert stats.splits[name].columns["channel"] == Texts(missing=len(frame))
    assert varied > 3 * 30


def test_quantiles_equal_numpy_and_are_whole_where_the_column_is(stats, frames):
    for column in NUMERIC:
        values = frames["train"][column].dropna()
        if not len(values):
            continue
        exact = np.quantile(values, statistics.QUANTILES, method="lower")
        sketch = stats.splits["train"].columns[column]
        assert sketch.quantiles(statistics.QUANTILES) == pytest.approx(exact, rel=0.01, abs=0)
        shown = statistics.quantiles(column, sketch, statistics.QUANTILES)
        if statistics.DESCRIBED[column].type is Type.INT:
            assert all(value == int(value) for value in shown)
            assert [value for value in shown if value < 50] == [value for value in exact.tolist() if value < 50]


@settings(max_examples=15)
@given(st.lists(st.integers(0, N), max_size=5), st.randoms(use_true_random=False), st.booleans())
def test_any_parts_in_any_order_give_the_same_bytes(tmp_path_factory, cuts, random, chunked):
    table = simulated_customers.customers(N)
    ends = sorted({0, table.num_rows, *(min(cut, table.num_rows) for cut in cuts)})
    tables = [table.slice(a, b - a) for a, b in pairwise(ends)]
    parts = [statistics.of_table(part if chunked else part.combine_chunks(), "s") for part in tables]
    shuffled = random.sample(parts, len(parts))
    one, other = Statistics.merge(parts), sum(map(pickle.loads, map(pickle.dumps, shuffled)), Statistics())
    assert one == other
    root = tmp_path_factory.mktemp("written")
    for name, found in (("one", one), ("other", other), ("whole", statistics.of_table(table, "s"))):
        statistics.write(str(root / name), found)
    for file in (statistics.JSON_FILE, statistics.PROTO_FILE):
        assert (root / "one" / file).read_bytes() == (root / "other" / file).read_bytes()
    # Cut otherwise, the exact sums differ in the last digits of the rounding errors they hold; no figure does.
    whole, cut = (json.loads((root / name / statistics.JSON_FILE).read_bytes()) for name in ("whole", "one"))
    for content in (whole, cut):
        for split in content["splits"].values():
            for summary in split["columns"].values():
                for key in ("total", "squares"):
                    summary.get("sketch", {}).pop(key, None)
    assert whole == cut


def test_what_is_written_is_read(stats, tmp_path):
    statistics.write(str(tmp_path), stats)
    assert statistics.read(str(tmp_path)) == stats
    later = statistics.of_table(simulated_customers.customers(N, seed=2), "2012-06-01")
    both = statistics.read(str(tmp_path)) + later
    assert both.snapshots == {"2012-03-01": stats.rows, "2012-06-01": later.rows}
    assert both.rows == both.whole().rows == stats.rows + later.rows


def test_the_summary_is_what_a_person_asks_for(stats, frames, tmp_path):
    statistics.write(str(tmp_path), stats)
    summary = json.loads((tmp_path / statistics.JSON_FILE).read_text())["splits"]["train"]
    values = frames["train"]["value_total"]
    shown = summary["columns"]["value_total"]
    assert (summary["rows"], shown["type"], shown["unit"]) == (len(values), "MONEY", "money")
    assert shown["mean"] == pytest.approx(values.mean(), rel=1e-11)
    assert list(shown["quantiles"]) == ["1%", "5%", "10%", "25%", "50%", "75%", "90%", "95%", "99%"]
    assert shown["quantiles"]["50%"] == pytest.approx(values.median(), rel=0.03)
    assert len(repr(shown["std"]).replace(".", "")) <= 13
    country = summary["columns"]["country"]
    assert next(iter(country["values"])) == "United Kingdom"
    assert (country["distinct"], country["other_values"]) == (4, 0)


def test_a_table_without_rows_or_without_labels():
    table = simulated_customers.customers(N)
    assert statistics.of_table(table.slice(0, 0)) == Statistics()
    without = statistics.of_table(table.drop_columns(["future_value"]))
    assert "future_value" not in without.splits["train"].columns
    # Merged with a part that has it, the column is missing for the rows that did not.
    both = without + statistics.of_table(table)
    assert both.whole().columns["future_value"].missing == table.num_rows
    assert Statistics.merge([]) == Statistics()
    assert Split(3, {}).column("country") == Texts(missing=3)


def test_nan_and_infinities_count_as_missing():
    table = simulated_customers.customers(N).slice(0, 4)
    shares = pa.array([math.nan, math.inf, 0.5, None])
    found = statistics.of_table(simulated_customers.replaced(table, "return_share", shares)).whole()
    assert (found.columns["return_share"].count, found.columns["return_share"].missing) == (1, 3)


def test_truncated_texts_survive_the_file(tmp_path):
    table = simulated_customers.customers(40_000)
    many = pa.array([f"item {i}" for i in range(table.num_rows)])
    found = statistics.of_table(simulated_customers.replaced(table, "category", many))
    statistics.write(str(tmp_path), found)
    again = statistics.read(str(tmp_path))
    assert again == found
    sketch = again.splits["train"].columns["category"]
    assert sketch.truncated and len(sketch.counts) == sketches.KEPT_TEXTS
    assert not again.splits["test"].columns["category"].truncated
    summary = json.loads((tmp_path / statistics.JSON_FILE).read_text())["splits"]["train"]["columns"]["category"]
    assert summary["distinct"] is None
    assert summary["other_values"] == sketch.count - sketches.KEPT_TEXTS


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "has no statistics.json"), (b"{", "damaged"), (b"[]", "damaged"), (b'{"format": 99}', "another version"),
     (b'{"format": 99, "quantile_accuracy": 0.01}', "format 99")],
)  # fmt: skip
def test_unusable_files_are_refused_in_one_line(content, expected, tmp_path):
    if content is not None:
        (tmp_path / statistics.JSON_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=expected) as error:
        statistics.read(str(tmp_path))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


# --- the standard form


@pytest.fixture(scope="module")
def proto(stats, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("proto"))
    statistics.write(directory, stats)
    content = storage.read_bytes(storage.join(directory, statistics.PROTO_FILE))
    return statistics_pb2.DatasetFeatureStatisticsList.FromString(content)


def by_name(dataset):
    return {feature.path.step[0]: feature for feature in dataset.features}


def test_the_proto_holds_a_data_set_a_split(proto, frames):
    assert [dataset.name for dataset in proto.datasets] == list(schema.SPLITS)
    for dataset in proto.datasets:
        assert dataset.num_examples == len(frames[dataset.name])
        features = by_name(dataset)
        assert list(features) == list(statistics.DESCRIBED)
        kinds = {name: statistics_pb2.FeatureNameStatistics.Type.Name(f.type) for name, f in features.items()}
        assert (kinds["orders"], kinds["value_total"], kinds["return_share"]) == ("INT", "FLOAT", "FLOAT")
        assert kinds["country"] == "STRING"


def test_the_protos_numbers_equal_pyarrow(proto, customers):
    for dataset in proto.datasets:
        rows = customers.filter(pc.equal(customers["split"], dataset.name))
        features = by_name(dataset)
        for name in NUMERIC:
            found, values = features[name].num_stats, rows[name].cast(pa.float64())
            common, present = found.common_stats, values.drop_null()
            assert (common.num_non_missing, common.num_missing) == (len(present), values.null_count)
            assert common.tot_num_values == len(present)
            if not len(present):
                continue
            assert (common.min_num_values, common.max_num_values, common.avg_num_values) == (1, 1, 1)
            assert found.mean == pytest.approx(pc.mean(present).as_py(), rel=1e-9)
            assert found.std_dev == pytest.approx(pc.stddev(present).as_py(), rel=1e-8, abs=1e-9)
            assert (found.min, found.max) == pytest.approx(tuple(pc.min_max(present).as_py().values()), rel=1e-14)
            assert found.num_zeros == pc.sum(pc.equal(present, 0)).as_py()
            assert found.median == pytest.approx(np.quantile(present, 0.5, method="lower"), rel=0.01)


def test_the_protos_histograms_hold_every_value(proto, frames):
    for dataset in proto.datasets:
        for name, feature in by_name(dataset).items():
            if name not in NUMERIC or not feature.num_stats.common_stats.num_non_missing:
                continue
            values = frames[dataset.name][name].dropna().to_numpy()
            standard, equal = feature.num_stats.histograms
            assert (standard.type, equal.type) == (standard.STANDARD, standard.QUANTILES)
            for histogram in (standard, equal):
                assert len(histogram.buckets) == 10
                assert sum(bucket.sample_count for bucket in histogram.buckets) == pytest.approx(len(values))
                ends = (histogram.buckets[0].low_value, histogram.buckets[-1].high_value)
                assert ends == pytest.approx((values.min(), values.max()), rel=1e-14)
                ends = [bucket.high_value for bucket in histogram.buckets]
                assert ends == sorted(ends)
            near = np.quantile(values, np.arange(1, 10) / 10, method="lower")
            assert [bucket.high_value for bucket in equal.buckets[:-1]] == pytest.approx(near, rel=0.015, abs=0.5)


def test_the_standard_histogram_is_numpys_up_to_its_accuracy(proto, frames):
    values = frames["train"]["value_total"].to_numpy()
    (found,) = [h for h in by_name(proto.datasets[0])["value_total"].num_stats.histograms if h.type == h.STANDARD]
    edges = [bucket.low_value for bucket in found.buckets] + [found.buckets[-1].high_value]
    assert edges == pytest.approx(np.linspace(values.min(), values.max(), 11))
    # Only values within the accuracy of an edge may be counted on its other side.
    unsure = sum((abs(values - edge) <= 0.0201 * abs(edge)).sum() for edge in edges)
    off = np.array([bucket.sample_count for bucket in found.buckets]) - np.histogram(values, edges)[0]
    assert abs(off).sum() <= 2 * unsure < 0.2 * len(values)


def test_the_protos_texts_equal_pandas(proto, frames):
    for dataset in proto.datasets:
        country = by_name(dataset)["country"].string_stats
        counts = frames[dataset.name]["country"].value_counts()
        assert country.unique == len(counts)
        assert {v.value: v.frequency for v in country.top_values} == counts.to_dict()
        assert [b.sample_count for b in country.rank_histogram.buckets] == sorted(counts, reverse=True)
        assert [b.low_rank for b in country.rank_histogram.buckets] == list(range(len(counts)))
        assert country.avg_length == pytest.approx(frames[dataset.name]["country"].str.len().mean(), rel=1e-6)


def test_writing_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from transforms import statistics, data_schema, skew; from transforms.statistics import Statistics\n"
        "statistics.write(sys.argv[1], Statistics())\n"
        "print(sorted({'tensorflow', 'apache_beam', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
