"""What the data have to look like, as a tensorflow-metadata schema in a text file that a person reviews.

Inferred once from statistics and the contract of ``transforms/schema.py``, kept, and held against every
other snapshot::

    write(uri, infer(statistics))          # does nothing when the file is there
    anomalies(statistics, read(uri))       # one line each
    is_reviewed(read(uri))                 # whether they are errors; else they are warnings
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transforms import schema, storage
from transforms.errors import UsageError
from transforms.schema import Role, Type
from transforms.sketches import Numbers, Sketch, Texts
from transforms.statistics import DESCRIBED, Statistics

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

TRAINING, SERVING = "TRAINING", "SERVING"
MIN_DOMAIN_MASS = 0.95
"""A few customers from a new country are no anomaly; a twentieth of all is a new way of writing them."""
# What a shop sells in is a list of tens; more, or nearly a value a customer, change by themselves from day to day.
MOST_LISTED, MOST_LISTED_OF_CUSTOMERS = 100, 0.05
# What one snapshot shows says nothing of seasons: nobody is refused by it before a person has looked at it.
NOT_REVIEWED = "NOT_REVIEWED"
# Sums of amounts and their trends may be negative: returns. The rest follows from the formulas.
LOWER_BOUNDS: dict[str, int] = {
    **dict.fromkeys(("lines", "orders", "order_days", "age_days", "days_since_last", "gap_days_mean"), 1),
    **dict.fromkeys(("frequency", "recency_days", "gap_days_std"), 0),
    **dict.fromkeys(("order_value_total", "order_value_mean", "order_value_std", "order_value_max"), 0),
    **dict.fromkeys(("order_value_first", "order_value_last"), 0),
    **{f"orders_{days}d": 0 for days in schema.RECENT_WINDOWS_DAYS},
    **dict.fromkeys(("orders_year_ago", "return_lines", "return_value", "return_share", "distinct_items"), 0),
    **dict.fromkeys(("future_value", "future_orders"), 0),
}
_HEADER = """\
# What the features have to look like. Inferred from the first snapshot and the contract, and never overwritten.
# Review and edit it, then delete the annotation NOT_REVIEWED at the end: customers that differ are a warning
# until then, and an error from then on. The message is tensorflow.metadata.v0.Schema.
"""


def infer(statistics: Statistics) -> schema_pb2.Schema:
    """Names, types, presence and lower bounds from the contract; the values of categories as seen.

    Labels are expected in the environment TRAINING only. A text column gets a list of values if it has at most
    MOST_LISTED, and at most MOST_LISTED_OF_CUSTOMERS of the number of customers. The schema is marked NOT_REVIEWED.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    found = schema_pb2.Schema(default_environment=[TRAINING, SERVING])
    found.annotation.tag.append(NOT_REVIEWED)
    seen = statistics.whole()
    for column in DESCRIBED.values():
        feature = found.feature.add(name=column.name)
        feature.shape.dim.add(size=1)
        if column.role is Role.LABEL:
            feature.not_in_environment.append(SERVING)
        # A label's nulls are those of a snapshot without labels: where it is expected it is complete.
        if column.role is Role.LABEL or not column.nullable:
            feature.presence.min_fraction, feature.presence.min_count = 1.0, 1
        else:
            feature.presence.min_count = 0
        sketch = seen.column(column.name)
        if isinstance(sketch, Texts):
            feature.type = schema_pb2.BYTES
            if sketch.count and _is_listed(sketch):
                feature.string_domain.value.extend(sorted(sketch.counts))
                feature.distribution_constraints.min_domain_mass = MIN_DOMAIN_MASS
            continue
        whole = column.type is Type.INT
        feature.type = schema_pb2.INT if whole else schema_pb2.FLOAT
        if column.name in LOWER_BOUNDS:
            (feature.int_domain if whole else feature.float_domain).min = LOWER_BOUNDS[column.name]
    return found


def _is_listed(sketch: Texts) -> bool:
    most = min(MOST_LISTED, MOST_LISTED_OF_CUSTOMERS * sketch.rows)
    return not sketch.truncated and len(sketch.counts) <= most


def is_reviewed(wanted: schema_pb2.Schema) -> bool:
    """Whether a person has looked at it and deleted the mark NOT_REVIEWED."""
    return NOT_REVIEWED not in wanted.annotation.tag


def write(uri: str, found: schema_pb2.Schema) -> bool:
    """Writes the schema as text unless the file exists; whether it did."""
    from google.protobuf import text_format  # type: ignore[import-untyped]

    if storage.exists(uri):
        return False
    storage.write_bytes(uri, (_HEADER + text_format.MessageToString(found, as_utf8=True)).encode())
    return True


def read(uri: str) -> schema_pb2.Schema:
    """A schema as ``write`` wrote it or a person changed it.

    Raises:
      UsageError: there is no such file, or it is no schema.
    """
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    if not storage.exists(uri):
        raise UsageError(f"{uri} does not exist: accepted is a schema as text (.pbtxt)")
    try:
        return text_format.Parse(storage.read_bytes(uri).decode(), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{uri} is not a schema: {error}; accepted is one as text, as it is made where there is none"
        ) from error


def anomalies(statistics: Statistics, wanted: schema_pb2.Schema, environment: str = TRAINING) -> list[str]:
    """What does not fit, one line each: the feature, what, its value and what is accepted."""
    if not statistics.rows:
        return ["customers: there is none, accepted is at least one"]
    seen = statistics.whole()
    lines: list[str] = []
    for feature in wanted.feature:
        if environment in feature.not_in_environment:
            continue
        if feature.name not in seen.columns:
            if feature.presence.min_count:
                lines.append(f"{feature.name}: the column is not there, accepted is a column that is")
            continue
        lines += [f"{feature.name}: {problem}" for problem in _problems(seen.columns[feature.name], feature)]
    known = {feature.name for feature in wanted.feature}
    lines += [f"{name}: the column is new, accepted is one of the schema's" for name in seen.columns.keys() - known]
    return lines


def _problems(sketch: Sketch, feature: schema_pb2.Feature) -> Iterator[str]:
    text = feature.type == _bytes_type()
    if text != isinstance(sketch, Texts):
        yield f"is {'text' if not text else 'a number'}, accepted is {'text' if text else 'a number'}"
        return
    share = sketch.count / sketch.rows
    if share < feature.presence.min_fraction:
        yield (
            f"has a value for {share:.2%} of {sketch.rows:,} customers, "
            f"accepted is at least {feature.presence.min_fraction:.2%}"
        )
    if not sketch.count:
        return
    if isinstance(sketch, Numbers):
        yield from _out_of_range(sketch, feature)
    elif feature.HasField("string_domain"):
        yield from _out_of_domain(sketch, feature)


def _bytes_type() -> Any:
    from tensorflow_metadata.proto.v0 import schema_pb2

    return schema_pb2.BYTES


def _out_of_range(sketch: Numbers, feature: schema_pb2.Feature) -> Iterator[str]:
    kind = feature.WhichOneof("domain_info")
    if kind not in ("int_domain", "float_domain"):
        return
    domain = getattr(feature, kind)
    if domain.HasField("min") and sketch.minimum < domain.min:
        yield f"smallest value is {sketch.minimum:,.15g}, accepted is at least {domain.min:g}"
    if domain.HasField("max") and sketch.maximum > domain.max:
        yield f"largest value is {sketch.maximum:,.15g}, accepted is at most {domain.max:g}"


def _out_of_domain(sketch: Texts, feature: schema_pb2.Feature) -> Iterator[str]:
    domain = set(feature.string_domain.value)
    # No constraint means that every value has to be in the domain, as TensorFlow Data Validation reads it.
    constraints = feature.distribution_constraints
    accepted = constraints.min_domain_mass if constraints.HasField("min_domain_mass") else 1.0
    new = [(text, count) for text, count in sketch.most_frequent() if text not in domain]
    # Among the values that were not kept may be some of the list, none of them more frequent than the rarest that was.
    listed = min(sketch.others, len(domain - sketch.counts.keys()) * min(sketch.counts.values()))
    unknown = (sum(count for _, count in new) + sketch.others - listed) / sketch.count
    if unknown > 1 - accepted + 1e-12:
        example = f", such as {new[0][0]!r}" if new else ""
        yield f"{unknown:.2%} of the values are not in its list{example}, accepted are at most {1 - accepted:.2%}"
