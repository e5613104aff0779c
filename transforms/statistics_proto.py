"""Statistics as tensorflow-metadata's ``DatasetFeatureStatisticsList``, which TensorFlow Data Validation loads.

One ``DatasetFeatureStatistics`` a split. Histograms come from the sketches: their counts are exact
within a bucket of 1% of its value.
"""

from __future__ import annotations

import bisect
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from transforms import sketches, statistics
from transforms.schema import Type
from transforms.sketches import Numbers, Sketch, Texts
from transforms.statistics import Split, Statistics

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import statistics_pb2

# As many as TensorFlow Data Validation makes itself.
_BUCKETS = 10
_TOP_VALUES = 20
_RANKS = 1000


def of(stats: Statistics) -> statistics_pb2.DatasetFeatureStatisticsList:
    """One data set a split; ``FromString`` of the written bytes gives it back."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    found = statistics_pb2.DatasetFeatureStatisticsList()
    for name, split in stats.splits.items():
        _add_split(found.datasets.add(name=name, num_examples=split.rows), split)
    return found


def _add_split(dataset: Any, split: Split) -> None:
    for name, sketch in split.columns.items():
        feature = dataset.features.add()
        feature.path.step.append(name)
        if isinstance(sketch, Texts):
            feature.type = feature.STRING
            _common(feature.string_stats.common_stats, sketch)
            _texts(feature.string_stats, sketch)
        else:
            feature.type = feature.INT if statistics.DESCRIBED[name].type is Type.INT else feature.FLOAT
            _common(feature.num_stats.common_stats, sketch)
            if sketch.count:
                _numbers(feature.num_stats, name, sketch)


def _common(common: Any, sketch: Sketch) -> None:
    common.num_non_missing, common.num_missing = sketch.count, sketch.missing
    common.tot_num_values = sketch.count
    if sketch.count:
        common.min_num_values = common.max_num_values = 1
        common.avg_num_values = 1.0


def _texts(stats: Any, sketch: Texts) -> None:
    stats.unique, stats.avg_length = len(sketch.counts), sketch.mean_bytes
    ordered = sketch.most_frequent()
    for value, count in ordered[:_TOP_VALUES]:
        stats.top_values.add(value=value, frequency=count)
    for rank, (value, count) in enumerate(ordered[:_RANKS]):
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=value, sample_count=count)


def _numbers(stats: Any, name: str, sketch: Numbers) -> None:
    stats.mean, stats.std_dev = statistics.rounded(sketch.mean), statistics.rounded(sketch.std)
    stats.num_zeros, stats.min, stats.max = sketch.zeros, sketch.minimum, sketch.maximum
    (stats.median,) = statistics.quantiles(name, sketch, [0.5])
    width = (sketch.maximum - sketch.minimum) / _BUCKETS
    equal = [sketch.minimum + width * index for index in range(_BUCKETS)] + [sketch.maximum]
    histogram = stats.histograms.add(type="STANDARD")
    for (low, high), count in zip(pairwise(equal), _counts(sketch, equal), strict=True):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
    ends = statistics.quantiles(name, sketch, [index / _BUCKETS for index in range(_BUCKETS + 1)])
    ends[0], ends[-1] = sketch.minimum, sketch.maximum
    histogram = stats.histograms.add(type="QUANTILES")
    for low, high in pairwise(ends):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=sketch.count / _BUCKETS)


def _counts(sketch: Numbers, ends: list[float]) -> list[int]:
    """How many values lie in [ends[i], ends[i + 1]), the last range closed; all of a sketch's bucket in one."""
    ordered = sorted(sketch.histogram)
    middles = [min(max(sketches.value_of(key), sketch.minimum), sketch.maximum) for key in ordered]
    below = [0, *accumulate(sketch.histogram[key] for key in ordered)]
    cuts = [0, *(below[bisect.bisect_left(middles, end)] for end in ends[1:-1]), sketch.count]
    return [high - low for low, high in pairwise(cuts)]
