"""Writes ``docs/data_contract.md`` from ``transforms/schema.py`` (and the activity's columns).

    python -m transforms.data_contract > docs/data_contract.md

A test holds the committed page to the schema, so neither can change alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from transforms import activity, schema

PREAMBLE = """\
# Data contract

Generated from `transforms/schema.py` by `python -m transforms.data_contract`; do not edit by hand.
The tests' brute-force implementation is written from this page, not from the code.

## Terms

- **C** is the cutoff, a date, 00:00 UTC (in a prediction: `as_of`). **H** is `horizon_days`. `[a, b)` is a half-open
  range of UTC days. All day arithmetic is on whole UTC days, whatever the machine's time zone.
- A **line** is one usable order line (table *Orders*). Returns are lines with a negative amount. Equal lines are
  kept: two identical lines are two lines.
- In the table *Features* "lines" are the customer's lines with `order_day < C` (and `order_day >= C - history_days`
  when `--history_days` is given). Nothing on or after C is ever seen.
- **order key**: `order_id`, or the empty text where it is null. An **order group** is the lines of one customer with
  the same non-null `order_id`; lines without `order_id` form one group per customer and `order_day`. Its **order
  value** is the sum of their amounts, its **order time** the smallest `ordered_at` among them, its **order day** the
  UTC day of the order time. An **order** is an order group whose order value is > 0.
- **order days** are the distinct order days of a customer's orders. First and last order day are the smallest and
  the largest of them.
- **Population**: the customers with at least one order among these lines. Nobody else gets a row.
- Sums, maxima and single amounts of money are exact decimals. A mean, ratio or deviation is computed in float64 from
  exact sums, each operand converted once.
- A window without lines has value 0 and 0 orders. Exactly the nulls stated below exist.
"""

ORDERS = """\
## Orders

After cleaning. Empty text in any column counts as null, and so does a `customer_id` that is NaN. Text and numbers are
compared and ordered by Unicode code points and by value; nothing is trimmed.

- A number given as text matches `[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]+)?` as a whole. A float counts as its
  shortest decimal text. Rounding comes first, limits are checked after it.
- A time given as text is a date `YYYY-MM-DD`, or a date, `T` or a blank, `HH:MM` or `HH:MM:SS` or `HH:MM:SS.` with 1 to 6
  digits, and then nothing, `Z` or an offset `+HH:MM` or `-HH:MM` of at most 14:00. No 24:00, no second 60.
- `amount` wins: where it is given, `unit_price` is not looked at; `quantity` is kept and must be usable all the same.

"""

ACTIVITY = f"""\
## Activity

What the customers of the population did on each UTC day, in a manifest as `activity`:
`{{"2011-08-08": [order_days, first_days, "value"], ...}}`, money as decimal text. Their lines in `[C, C+H)` are in it where
there are labels. A day on which none of them has a line is not named; of more than {activity.MOST_DAYS:,} days the last are kept, and
`activity_days_left_out` says how many there are before them.

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(columns: Iterable[schema.Column], *, model: bool = False) -> str:
    head = ["name", "type", "unit", "formula", "nulls"] + (["model input"] if model else [])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for c in columns:
        cells = [f"`{c.name}`", c.type.bigquery, c.unit, c.formula, c.nulls]
        if model:
            cells.append(c.model_input.value if c.model_input else "")
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _reasons(reasons: Iterable[schema.Reason]) -> str:
    lines = ["| reason | to blame | accepted |", "| --- | --- | --- |"]
    lines += [f"| `{r.name}` | `{r.column}` | {_cell(r.accepted)} |" for r in reasons]
    return "\n".join(lines)


def page() -> str:
    """The whole page as Markdown."""
    sections = [
        PREAMBLE,
        ORDERS + _table(schema.ORDERS),
        "## Lines that are not used\n\n"
        "Lines in = used + excluded + dead letters; every manifest holds the three and the equation is asserted.\n"
        "A line gets the first reason that applies: `no_customer`, then the dead letters in this order, then the\n"
        "other exclusions.\n\n### Excluded\n\n"
        + _reasons(schema.EXCLUDED)
        + "\n\n### Dead letters\n\n"
        + _reasons(schema.DEAD_LETTERS),
        "## Features\n\nOne row a customer of the population.\n\n" + _table(schema.FEATURES, model=True),
        "## Labels\n\nOver all lines of the customer in `[C, C+H)`, orders or not.\n\n" + _table(schema.LABELS),
        ACTIVITY + _table(activity.COLUMNS),
        "## Split\n\n" + _table([schema.SPLIT]),
        "## Predictions\n\nOne row a customer of the population as of `as_of`.\n\n" + _table(schema.PREDICTIONS),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


if __name__ == "__main__":
    print(page(), end="")
