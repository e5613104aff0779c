"""Order lines and events with everything that can be wrong with them, and their interactions in plain Python."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import strategies as st

Line = dict[str, Any]
COLUMNS = ("customer_id", "ordered_at", "amount", "quantity", "item_id")
NONE_NEEDED = (
    "minimum_rows = 0\nminimum_unique_interactions = 0\nminimum_users_with_two = 0\n"  # for tests of something else
)
NOW = datetime.datetime.now(datetime.UTC)


def no_limits(folder: Path) -> list[str]:
    path = folder / "limits.toml"
    path.write_text(NONE_NEEDED)
    return ["--limits", str(path)]


def write_csv(path: Path, lines: Sequence[Line], columns: Sequence[str] = COLUMNS) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if line.get(name) is None else line[name] for name in columns] for line in lines])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())
    return str(path)


def shop(rows: int = 1_500, users: int = 60) -> list[Line]:
    """Enough usable lines for a FULL import."""
    start = datetime.datetime(2024, 1, 1)
    return [
        {
            "customer_id": f"C{number % users}", "item_id": f"I{number % 37}", "amount": f"{number % 90 + 1}.25",
            "ordered_at": (start + datetime.timedelta(minutes=17 * number)).isoformat(sep=" "), "quantity": "1",
        }
        for number in range(rows)
    ]  # fmt: skip


ids = st.one_of(
    st.sampled_from(
        ["a", "b", 'say "hi"', "one,two", "two\nlines", "é", "", None, "x" * 256, "x" * 257, " ", "é" * 256]
    ),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6),
)
times = st.sampled_from(
    ["2024-02-29", "2024-03-01 12:00:01", "2024-03-01T12:00:01.999999Z", "2024-03-01T00:30:00+01:00", "1969-12-31 23:59:59",
     "1970-01-01", "yesterday", "", "2023-02-29"]
)  # fmt: skip
amounts = st.sampled_from(["1", "0", "-3.5", "19.99", "0.0000000001", "1e3", "abc", "", "123456.789", "1e15"])
order_lines = st.lists(
    st.fixed_dictionaries(
        {
            "customer_id": ids,
            "item_id": ids,
            "ordered_at": times,
            "amount": amounts,
            "quantity": st.sampled_from(["1", "-1", "0", "", "x"]),
        }
    ),
    min_size=1,
    max_size=25,
)


def instant(text: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def number(text: str) -> Decimal | None:
    """Nine decimals, half-even; None where it is none or too large."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        return None
    value = value.quantize(Decimal("1e-9"))
    return value if abs(value) < 10**15 else None


def fate(line: Line, since: datetime.date | None = None, until: datetime.date | None = None) -> str | list[str]:
    """Why an order line is no interaction, or the interaction: written from docs/interactions.md alone."""
    user, item = line["customer_id"] or None, line["item_id"] or None
    at, amount = instant(line["ordered_at"] or ""), number(line["amount"]) if line["amount"] else None
    quantity = number(line["quantity"]) if line["quantity"] else None
    if user is None:
        return "no_customer"
    if at is None:
        return "bad_ordered_at"
    if line["amount"] and amount is None:
        return "bad_amount"
    if line["quantity"] and quantity is None:
        return "bad_quantity"
    if amount is None:
        return "missing_amount"
    if len(user) > 256:
        return "customer_id_too_long"
    if item is None:
        return "no_item"
    if len(item) > 256:
        return "item_id_too_long"
    if amount <= 0 or (quantity is not None and quantity <= 0):
        return "return"
    if at < datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC):
        return "before_1970"
    if since and at.date() < since:
        return "before_since"
    if until and at.date() >= until:
        return "after_until"
    seconds = (at - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(seconds=1)
    return [user, item, str(seconds), "purchase", repr(float(amount))]


EXCLUDED = {"no_customer", "no_item", "no_event_type", "return", "before_1970", "before_since", "after_until"}


def expected_lines(lines: Iterable[Line], **window: Any) -> dict[str, Any]:
    """``manifest["lines"]``."""
    fates = [fate(line, **window) for line in lines]
    named = Counter(each for each in fates if isinstance(each, str))
    return {
        "read": len(fates),
        "used": sum(isinstance(each, list) for each in fates),
        "excluded": {name: count for name, count in sorted(named.items()) if name in EXCLUDED},
        "dead_letters": {name: count for name, count in sorted(named.items()) if name not in EXCLUDED},
    }


def expected_rows(lines: Iterable[Line], **window: Any) -> list[list[str]]:
    return sorted(each for each in (fate(line, **window) for line in lines) if isinstance(each, list))


def read_rows(output: str | Path) -> tuple[list[list[str]], list[list[str]]]:
    """The headers and the sorted rows of an export's files."""
    headers, rows = [], []
    for path in sorted((Path(output) / "interactions").iterdir()):
        found = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
        headers.append(found[0])
        rows += found[1:]
    return headers, sorted(rows)


def figures(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The manifest's counts of these rows."""
    distinct = {tuple(row) for row in rows}
    per_user = Counter(row[0] for row in distinct)
    return {
        "rows": len(rows),
        "users": len(per_user),
        "items": len({row[1] for row in rows}),
        "unique_interactions": len(distinct),
        "users_with_two": sum(count >= 2 for count in per_user.values()),
    }


def csv_line(row: Sequence[str]) -> bytes:
    """RFC 4180, with quotes only where they are needed."""
    cells = ['"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell for cell in row]
    return (",".join(cells) + "\n").encode()


def fingerprint(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As docs/interactions.md has it, of rows read back from the files, one after the other."""
    rows, total = list(rows), int.from_bytes(hashlib.md5(",".join(header).encode() + b"\n").digest(), "little")
    with duckdb.connect() as connection:
        for user, item, at, kind, *value in rows:
            found = connection.execute(
                "SELECT hash(hash(hash($1), hash($2), $3::BIGINT, $4" + (", $5::DOUBLE" if value else "") + "))",
                [user, item, int(at), kind, *map(float, value)],
            ).fetchall()
            total += found[0][0]
    return f"{len(rows)}-{total % 2**128:032x}-duckdb-{duckdb.__version__}"


def manifest_of(output: str | Path) -> dict[str, Any]:
    return dict(json.loads((Path(output) / "manifest.json").read_text()))
