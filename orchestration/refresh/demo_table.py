"""What the demo shows: the story's lines, and below them a table that follows the ledger.

In a terminal the table is drawn again in place. Where nobody looks at a terminal each change of a refresh is one line.
"""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from orchestration.refresh.record import FAILURES, Head, Record, State

_WIDTH = 100
_ARN = re.compile(r"arn:aws:personalize:[a-z0-9-]+:\d{12}:[a-z-]+/")


class Shown:
    """A context in which the table is kept up to date."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_WIDTH)  # nobody's window is to be kept to
        self.live = Live(console=self.console, refresh_per_second=12) if self.console.is_terminal else None
        self.seen: dict[datetime.date, int] = {}

    def __enter__(self) -> Shown:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The table stays as it is now; what is said later comes below it."""
        if self.live:
            self.live.stop()

    def say(self, text: str, style: str = "") -> None:
        """A paragraph of the story."""
        width = min(_WIDTH, self.console.width)
        self.console.print(textwrap.fill(text, width, break_on_hyphens=False), style=style or None, markup=False)

    def command(self, text: str) -> None:
        """What a person types: in one line, however long."""
        self.console.print(f"  $ python -m orchestration.refresh {text}", markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """What a command says."""
        self.console.print(f"  {_short(text)}", style="dim", markup=False, soft_wrap=True)

    def chapter(self, title: str) -> None:
        self.console.print()
        self.say(title, "bold")

    def show(self, records: Sequence[Record], head: Head) -> None:
        """What the ledger says now; refreshes in any order."""
        ordered = sorted(records, key=lambda record: record.base_date)
        if self.live:
            self.live.update(_table(ordered, head))
            return
        for record in ordered:
            for step in record.history[self.seen.get(record.base_date, 0) :]:
                print(f"  {record.base_date}  {step.state:<22}  {_short(step.reason)}", flush=True)
            self.seen[record.base_date] = len(record.history)


def _table(records: Sequence[Record], head: Head) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"the ledger; the campaign serves {served(head)}", title_justify="left", expand=True)
    for name, options in (("base_date", {"no_wrap": True}), ("state", {"no_wrap": True, "min_width": 22}), ("why", {})):
        table.add_column(name, **options)
    for record in records:
        style = "red" if record.state in FAILURES else "green" if record.state == State.DEPLOYMENT_ACTIVE else ""
        if not record.state.is_end:
            style = "yellow"
        why = _short(record.note or record.reason)
        table.add_row(str(record.base_date), Text(str(record.state), style=style), Text(why, overflow="ellipsis"))
    return table


def _short(reason: str) -> str:
    """Without what all ARNs of an account have in common."""
    return _ARN.sub("", reason)


def served(head: Head) -> str:
    """In a person's words."""
    if head.serving is None:
        return "what a person deployed"
    return f"the version of {head.serving.base_date or 'before the ledger'}"
