"""What the features of a snapshot look like: one mergeable summary per split and column.

Bucket by bucket in the pass that makes the features, then added up and written beside them::

    customers of a bucket --of_table--> Statistics --merge--> statistics.json, statistics.pb

``statistics.json`` is for people and for adding snapshots up later, ``statistics.pb`` for tools that
read tensorflow-metadata (TensorFlow Data Validation and its Facets page).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transforms import schema, sketches, storage
from transforms.errors import UsageError
from transforms.schema import Type
from transforms.sketches import Numbers, Sketch, Texts

if TYPE_CHECKING:
    import pyarrow as pa

JSON_FILE, PROTO_FILE = "statistics.json", "statistics.pb"
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
DESCRIBED = schema.by_name((*schema.FEATURES, *schema.LABELS))
_FORMAT = 1
_DIGITS = 12  # float sums of differently cut buckets differ beyond


@dataclass(frozen=True)
class Split:
    """Some customers: how many, and a sketch of each of their columns by name."""

    rows: int
    columns: dict[str, Sketch]

    @classmethod
    def merge(cls, parts: Iterable[Split]) -> Split:
        """Of disjoint customers; a column that a part does not have is missing for all of its rows."""
        parts = list(parts)
        names = [name for name in DESCRIBED if any(name in part.columns for part in parts)]
        return cls(
            sum(part.rows for part in parts),
            {name: sketches.merge([part.column(name) for part in parts]) for name in names},
        )

    def column(self, name: str) -> Sketch:
        """The column's sketch: of nothing but missing values where there is none."""
        kind = Texts if DESCRIBED[name].type is Type.STRING else Numbers
        return self.columns.get(name, kind(missing=self.rows))


@dataclass(frozen=True)
class Statistics:
    """Splits by name. ``snapshots`` counts customers by the name of the snapshot they were seen in.

    Adding is commutative, and associative for numbers and for texts of up to ``sketches.MOST_TEXTS`` distinct values:
    the result depends on the rows alone. The counts of rare texts of a column with more depend on what met first.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def merge(cls, parts: Iterable[Statistics]) -> Statistics:
        parts = list(parts)
        names = sorted({name for part in parts for name in part.splits}, key=_split_order)
        splits = {name: Split.merge(part.splits[name] for part in parts if name in part.splits) for name in names}
        snapshots: dict[str, int] = {}
        for part in parts:
            for name, rows in part.snapshots.items():
                snapshots[name] = snapshots.get(name, 0) + rows
        return cls(splits, dict(sorted(snapshots.items())))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics.merge([self, other])

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits.values())

    def whole(self) -> Split:
        """All splits as one."""
        return Split.merge(self.splits.values())


def of_table(customers: pa.Table, snapshot: str = "") -> Statistics:
    """Statistics of customers, such as those of one bucket.

    Args:
      customers: columns of ``schema.CUSTOMERS`` in its types, ``split`` among them; others are not looked at.
      snapshot: what tells these customers from those of another cutoff, such as the cutoff.
    """
    import numpy as np

    if not customers.num_rows:
        return Statistics()
    split = customers["split"].combine_chunks().dictionary_encode()
    codes = split.indices.to_numpy().astype(np.int16)  # a handful of splits, and NumPy sorts small integers faster
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes)).tolist()
    slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    columns = {
        name: (_texts if column.type is Type.STRING else _numbers)(customers[name], order, slices)
        for name, column in DESCRIBED.items()
        if name in customers.column_names
    }
    splits = {
        name: Split(part.stop - part.start, {column: parts[index] for column, parts in columns.items()})
        for index, (name, part) in enumerate(zip(split.dictionary.to_pylist(), slices, strict=True))
    }
    return Statistics({name: splits[name] for name in sorted(splits, key=_split_order)}, {snapshot: customers.num_rows})


def _split_order(name: str) -> tuple[int, str]:
    """The contract's order, then any other's names."""
    return (schema.SPLITS.index(name) if name in schema.SPLITS else len(schema.SPLITS), name)


def _numbers(column: pa.ChunkedArray, order: Any, slices: list[slice]) -> list[Sketch]:
    import pyarrow as pa

    values = column.cast(pa.float64()).to_numpy()[order]
    return [Numbers.of(values[part]) for part in slices]


def _texts(column: pa.ChunkedArray, order: Any, slices: list[slice]) -> list[Sketch]:
    import numpy as np

    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(names)).to_numpy()[order]
    found: list[Sketch] = []
    for part in slices:
        counted = np.bincount(codes[part], minlength=len(names) + 1).tolist()
        present = {name: count for name, count in zip(names, counted[:-1], strict=True) if count}
        found.append(Texts.of(present, counted[-1]))
    return found


def write(directory: str, statistics: Statistics) -> None:
    """Writes ``statistics.json`` and ``statistics.pb``: equal statistics, the same bytes."""
    from transforms import statistics_proto

    text = json.dumps(to_json(statistics), indent=1, ensure_ascii=False, allow_nan=False)
    storage.write_bytes(storage.join(directory, JSON_FILE), f"{text}\n".encode())
    content = statistics_proto.of(statistics).SerializeToString(deterministic=True)
    storage.write_bytes(storage.join(directory, PROTO_FILE), content)


def read(directory: str) -> Statistics:
    """What ``write`` wrote.

    Raises:
      UsageError: there is no such file, it is damaged or of another version.
    """
    uri = storage.join(directory, JSON_FILE)
    if not storage.exists(uri):
        raise UsageError(f"{directory} holds no statistics: it has no {JSON_FILE}")
    try:
        return from_json(json.loads(storage.read_bytes(uri)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{uri} is damaged or of another version: {type(error).__name__} {error}") from error


def to_json(statistics: Statistics) -> dict[str, Any]:
    """For each split and column the figures a person asks for, and the sketch they come from."""
    return {
        "format": _FORMAT,
        "quantile_accuracy": sketches.ACCURACY,
        "snapshots": statistics.snapshots,
        "splits": {
            name: {
                "rows": split.rows,
                "columns": {column: _summary(column, sketch) for column, sketch in split.columns.items()},
            }
            for name, split in statistics.splits.items()
        },
    }


def from_json(content: Mapping[str, Any]) -> Statistics:
    if (content["format"], content["quantile_accuracy"]) != (_FORMAT, sketches.ACCURACY):
        raise ValueError(f"format {content['format']} with accuracy {content['quantile_accuracy']}")
    splits = {
        name: Split(split["rows"], {column: _sketch(summary) for column, summary in split["columns"].items()})
        for name, split in content["splits"].items()
    }
    return Statistics(splits, dict(content["snapshots"]))


def _summary(name: str, sketch: Sketch) -> dict[str, Any]:
    column = DESCRIBED[name]
    head = {"type": column.type.name, "unit": column.unit, "count": sketch.count, "missing": sketch.missing}
    if isinstance(sketch, Texts):
        texts = {"distinct": None if sketch.truncated else len(sketch.counts), "other_values": sketch.others}
        return {**head, **texts, "values": dict(sketch.most_frequent())}
    figures: dict[str, Any] = {"zeros": sketch.zeros, "negatives": sketch.negatives}
    figures |= {"mean": rounded(sketch.mean), "std": rounded(sketch.std)}
    # Exact, so that what is read equals what was written.
    figures |= {"min": sketch.minimum, "max": sketch.maximum} if sketch.count else {"min": None, "max": None}
    at = quantiles(name, sketch, QUANTILES)
    shown = {f"{share:.0%}": rounded(value) for share, value in zip(QUANTILES, at, strict=True)}
    return {**head, **figures, "quantiles": shown, "sketch": sketch.to_json()}


def quantiles(name: str, sketch: Numbers, shares: Sequence[float]) -> list[float]:
    """The column's values at these shares of its customers; whole numbers where it has no others."""
    found = sketch.quantiles(shares)
    whole = DESCRIBED[name].type is Type.INT and sketch.count
    return [float(round(value)) for value in found] if whole else found


def _sketch(summary: dict[str, Any]) -> Sketch:
    return Numbers.from_json(summary) if "sketch" in summary else Texts.from_json(summary)


def rounded(value: float) -> float | None:
    """For a file: 12 significant digits, None for what JSON has no number for."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
