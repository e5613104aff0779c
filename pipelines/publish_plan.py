"""What a publish would do, how long it would take and what it would cost: ``--dry_run``.

``plan`` is a dict that JSON can hold, ``describe`` the same for a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.entity_bytes import EXPIRE_AT, KIND
from transforms.schema import PREDICTIONS, Type

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.publish_guards import Judgement
    from pipelines.publish_toml import Prices
    from serving.rate_budget import Ramp
    from serving.store import Content, Generation

GIB = 2**30
_PRICED_PER = 100_000  # entities


@dataclass(frozen=True)
class Sizes:
    """What rows are billed as, in bytes: as entities of Datastore, and as rows of a BigQuery table."""

    entities: int = 0
    table: int = 0

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.entities + other.entities, self.table + other.table)


def sizes(batch: pa.RecordBatch, generation: str) -> Sizes:
    """The sizes of usable rows (no null among them) of ``schema.PREDICTIONS``, staged under this name.

    Sources: cloud.google.com/datastore/docs/concepts/storage-size (a text takes its UTF-8 bytes + 1, every other
    value here 8; a key its namespace, kind and name + 16; an entity 32 besides; nothing here is indexed) and
    cloud.google.com/bigquery/pricing#data (a text takes its UTF-8 bytes + 2, every other type here 8).
    """
    import pyarrow.compute as pc

    texts = [column.name for column in PREDICTIONS if column.type is Type.STRING]
    numbers = len(PREDICTIONS) - len(texts)
    lengths = {name: pc.sum(pc.binary_length(batch.column(name)), min_count=0).as_py() for name in texts}
    text_bytes = sum(lengths.values())
    names = sum(len(column.name) + 1 for column in PREDICTIONS) + len(EXPIRE_AT) + 1
    namespace = f"{generation}.1"  # and of the first attempt; the tenth's is a byte longer
    key = len(namespace) + 1 + len(KIND) + 1 + 1 + 16
    entity = key + names + len(texts) + 8 * (numbers + 1) + 32
    row = 2 * len(texts) + 8 * numbers + 2 + len(generation)  # whose name is a column of the table
    return Sizes(
        entities=batch.num_rows * entity + lengths["customer_id"] + text_bytes,
        table=batch.num_rows * row + text_bytes,
    )


@dataclass(frozen=True)
class Destination:
    """Where a publish writes, and how.

    Attributes:
      serving: the store's URI; rows and bytes of one that is not Datastore cost nothing.
      ramp: as ``serving.store.Writing``.
      table: the BigQuery table, None for none.
      staged: all rows are in the store already, from an earlier run.
      stage_only: the switch is left to a later run.
    """

    serving: str
    ramp: Ramp | None = None
    table: str | None = None
    staged: bool = False
    stage_only: bool = False

    @property
    def is_datastore(self) -> bool:
        return self.serving.startswith("datastore://")


def plan(
    new: Generation, current: Generation | None, judgement: Judgement, measured: Sizes, to: Destination, prices: Prices
) -> dict[str, Any]:
    """What a publish of the new generation would do now.

    Args:
      new: with its content and dead letters counted, as if it were sealed.
      measured: the sizes of all its rows.
    """
    rejected = dict(sorted(new.dead_letters.items()))
    return {
        "generation": new.name,
        "input": {
            "rows": new.content.rows + sum(rejected.values()),
            "usable": new.content.rows,
            "dead_letters": rejected,
        },
        "store": _store(new.content, measured, to),
        "bigquery": {"table": to.table, "bytes": measured.table} if to.table else None,
        "new": _facts(new),
        "current": _facts(current) if current else None,
        "guards": [verdict.to_json() for verdict in judgement.verdicts],
        "guard_lines": judgement.lines(),
        "notes": judgement.notes,
        "costs": list(_costs(new.content.rows, measured, to, prices)),
        "prices": {"stated_on": str(prices.stated_on), "region": prices.region, "source": prices.source},
        "outcome": _outcome(new, current, judgement, to),
    }


def _facts(generation: Generation) -> dict[str, Any]:
    content = generation.content
    return {
        "generation": generation.name,
        "as_of": str(generation.as_of),
        "horizon_days": generation.horizon_days,
        "model_version": generation.model_version,
        "customers": content.rows,
        "total_value": content.total_value,
        "mean_value": content.total_value / content.rows if content.rows else None,
    }


def _store(content: Content, measured: Sizes, to: Destination) -> dict[str, Any]:
    """``seconds``: what the ramp alone takes; None where the store's own speed decides."""
    writes = 0 if to.staged else content.rows
    ramp = to.ramp if to.is_datastore else None
    return {
        "serving": to.serving,
        "writes": writes,
        "bytes": measured.entities if to.is_datastore else None,
        "bytes_per_entity": measured.entities / content.rows if to.is_datastore and content.rows else None,
        "ramp": str(ramp) if ramp else None,
        "seconds": ramp.seconds_for(writes) if ramp else None,
    }


def _costs(rows: int, measured: Sizes, to: Destination, prices: Prices) -> Iterable[dict[str, Any]]:
    """Every item with its quantity, its price in US dollars, and whether that is once or a month.

    Left out: the reads of the verification (a count is one read per 1,000 rows) and of the pointer.
    """

    def item(name: str, quantity: int, unit: str, usd: float, per: str) -> dict[str, Any]:
        return {"item": name, "quantity": quantity, "unit": unit, "usd": usd, "per": per}

    if to.is_datastore:
        writes = 0 if to.staged else rows
        write, delete = prices.datastore_usd_per_100k_writes, prices.datastore_usd_per_100k_deletes
        stored = prices.datastore_usd_per_gib_month * measured.entities / GIB
        yield item("Datastore writes", writes, "entities", write * writes / _PRICED_PER, "publish")
        yield item("Datastore deletes, when it expires", rows, "entities", delete * rows / _PRICED_PER, "publish")
        yield item("Datastore storage of this generation", measured.entities, "bytes", stored, "month")
    if to.table:
        twice = 2 * measured.table
        stored = prices.bigquery_usd_per_gib_month * twice / GIB
        yield item("BigQuery load and copy", 2, "jobs", 0.0, "publish")
        yield item("BigQuery storage, staged and partition", twice, "bytes", stored, "month")


def _outcome(new: Generation, current: Generation | None, judgement: Judgement, to: Destination) -> str:
    if current and current.name == new.name:
        return f"generation {new.name} is current already: nothing to do"
    if not new.content.rows:
        return "would be refused: no row is usable"
    if judgement.standing:
        guards = ", ".join(verdict.guard for verdict in judgement.standing)
        return f"would be refused by guard {guards}: {_stays(current)}"
    if to.stage_only:
        return f"would be staged and left there: {_stays(current)}"
    passed_over = f", passing over guard {', '.join(judgement.notes)}" if judgement.notes else ""
    before = f"from {current.name}" if current else "from nothing"
    return f"would switch {before} to {new.name}{passed_over}"


def _stays(current: Generation | None) -> str:
    return f"{current.name} stays current" if current else "nothing is current, and nothing would be"


# --- For a person ---------------------------------------------------------------------------------------------------


def describe(planned: Mapping[str, Any]) -> list[str]:
    """The plan as lines of aligned text."""
    return [
        *_aligned([["generation", planned["generation"]], ["input", _input(planned["input"])], *_places(planned)]),
        "",
        *_aligned(_difference(planned["new"], planned["current"]), numbers_from=1),
        "",
        "guards:",
        *(f"  {line}" for line in planned["guard_lines"]),
        *_bill(planned["costs"], planned["prices"]),
        "",
        f"outcome: {planned['outcome']}",
    ]


def _input(counted: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in counted["dead_letters"].items())
    rejected = sum(counted["dead_letters"].values())
    said = f" ({reasons})" if reasons else ""
    return f"{counted['rows']:,} rows: {counted['usable']:,} usable, {rejected:,} dead letters{said}"


def _places(planned: Mapping[str, Any]) -> list[list[str]]:
    store, bigquery, usable = planned["store"], planned["bigquery"], planned["input"]["usable"]
    if not store["writes"] and usable:
        said = "all rows are staged already"
    elif store["bytes"] is None:
        said = f"{store['writes']:,} rows"
    else:
        each = f" of {store['bytes_per_entity']:.0f} bytes" if usable else ""
        said = f"{store['writes']:,} entities{each}, {_bytes(store['bytes'])}"
        said += (
            f"; the ramp {store['ramp']} takes {_duration(store['seconds'])}" if store["ramp"] else "; without a ramp"
        )
    rows = [["serving", f"{store['serving']}: {said}"]]
    if bigquery:
        as_of = planned["new"]["as_of"]
        rows.append(
            ["bigquery", f"{bigquery['table']}: {_bytes(bigquery['bytes'])} loaded, then copied over as_of={as_of}"]
        )
    return rows


def _difference(new: Mapping[str, Any], current: Mapping[str, Any] | None) -> list[list[str]]:
    head = ["", "new", "current", "change"] if current else ["", "new"]
    return [head, *([name, *_cells(name, new, current)] for name in new)]


def _cells(name: str, new: Mapping[str, Any], current: Mapping[str, Any] | None) -> list[str]:
    if current is None:
        return [_cell(new[name])]
    return [_cell(new[name]), _cell(current[name]), _change(name, new[name], current[name])]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _change(name: str, new: Any, current: Any) -> str:
    """In percent for amounts; whether or not for the rest."""
    if name in ("customers", "total_value", "mean_value") and new is not None and current:
        return f"{100 * (new / current - 1):+.1f}%"
    return "" if new == current else "changed"


def _bill(costs: Iterable[Mapping[str, Any]], prices: Mapping[str, str]) -> list[str]:
    items = [
        [f"  {cost['item']}", _quantity(cost), _dollars(cost["usd"]) + (" a month" if cost["per"] == "month" else "")]
        for cost in costs
    ]
    if not items:
        return []
    stated = f"  list prices of {prices['stated_on']} for {prices['region']}; check them at {prices['source']}"
    return ["", "costs in US dollars:", *_aligned(items), stated]


def _quantity(cost: Mapping[str, Any]) -> str:
    if cost["unit"] == "bytes":
        return _bytes(cost["quantity"])
    return f"{cost['quantity']:,} {cost['unit']}"


def _dollars(usd: float) -> str:
    return "free" if not usd else "below 0.01" if usd < 0.01 else f"{usd:,.2f}"


def _bytes(number: int) -> str:
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.1f} {units[0]}" if units[0] != "bytes" else f"{number} bytes"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _aligned(rows: list[list[str]], numbers_from: int | None = None) -> list[str]:
    """Columns of equal width; those from ``numbers_from`` on are set flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def set_(cell: str, index: int) -> str:
        right = numbers_from is not None and index >= numbers_from
        return cell.rjust(widths[index]) if right else cell.ljust(widths[index])

    return ["  ".join(set_(cell, index) for index, cell in enumerate(row)).rstrip() for row in rows]
