"""The object of ``status`` as a table: one line a refresh where the terminal is wide, two where it is not."""

from __future__ import annotations

import datetime
import os
import re
import sys
from typing import Any

_WIDE = 140  # columns from which on a refresh is one line
_ARN = re.compile(r"arn:aws[^\s;,/]*(?:/[^\s;,/]*)*/(?=[^\s;,/])")  # all but its last part, which tells ours apart
_PIPED = 160  # of what nobody sees: a line that is searched in must not be broken


def show(found: dict[str, Any]) -> None:
    """Prints it, in colour where stdout is a terminal (unless NO_COLOR is set)."""
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, markup=False, emoji=False, width=None if known else _PIPED)
    (_wide if console.width >= _WIDE else _narrow)(console, found["campaigns"])
    console.print(_summary(found["campaigns"]), style="dim")


def _wide(console: Any, campaigns: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("campaign", "base_date", "state", "for", "version", "metric"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("for", "metric") else "left")
    table.add_column("why, or what it waits for", ratio=1, overflow="fold")
    table.add_column("served", no_wrap=True)
    for campaign in campaigns:
        for number, refresh in enumerate(campaign["refreshes"] or [None]):
            name, served = (campaign["campaign"], _served(campaign)) if number == 0 else ("", "")
            if refresh is None:
                table.add_row(name, "", "", "", "", "", "no refresh yet", served)
            else:
                table.add_row(name, *_cells(refresh), _why(refresh), served, style=_style(refresh))
    console.print(table)


def _narrow(console: Any, campaigns: list[dict[str, Any]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for campaign in campaigns:
        console.print(Text.assemble((campaign["campaign"], "bold"), f"  serves {_served(campaign)}"))
        if not campaign["refreshes"]:
            console.print("  no refresh yet")
        for refresh in campaign["refreshes"]:
            day, state, since, version, metric = _cells(refresh)
            figures = f"  {metric} {version}" if metric else f"  {version}" if version else ""
            console.print(f"  {day}  {state}, for {since}{figures}", style=_style(refresh))
            console.print(Padding(Text(_why(refresh)), (0, 0, 0, 14)))


def _cells(refresh: dict[str, Any]) -> tuple[str, str, str, str, str]:
    state = f"FAILED {refresh['state']}" if refresh["failed"] else refresh["state"]
    metric = f"{refresh['metric']['value']:.4f}" if refresh["metric"] else ""
    return refresh["base_date"], state, spoken(refresh["seconds"]), _short(refresh["version"]), metric


def _why(refresh: dict[str, Any]) -> str:
    if refresh["ended"]:
        # A command that mends something is to be copied as it is.
        return refresh["reason"] if "aws " in refresh["reason"] else _short(refresh["reason"])
    until = f", not before {_clock(refresh['until'])}" if refresh["until"] else ""
    return f"waits for {_short(refresh['waits_for'])}{until}; fails at {_clock(refresh['deadline'])}"


def _style(refresh: dict[str, Any]) -> str:
    if refresh["failed"]:
        return "bold red"
    if not refresh["ended"]:
        return "yellow"
    return "green" if refresh["state"] == "deployment_active" else ""


def _served(campaign: dict[str, Any]) -> str:
    serving = campaign["serving"]
    if serving is None:
        return "unknown"
    return serving["base_date"] or f"{_short(serving['version'])}, of no refresh"


def _summary(campaigns: list[dict[str, Any]]) -> str:
    failed = sum(campaign["failed"] for campaign in campaigns)  # as --fail_on_failed counts
    running = sum(len(campaign["open"]) for campaign in campaigns)
    many = f"{len(campaigns)} campaign{'s' if len(campaigns) != 1 else ''}"
    return f"{many}, {failed} FAILED: {running} open refresh{'es' if running != 1 else ''}"


def _short(text: str) -> str:
    """With the end of each ARN alone; the whole is in the object."""
    return _ARN.sub("", text)


def _clock(instant: str) -> str:
    """To the minute, or to the second where that is today's."""
    at = datetime.datetime.fromisoformat(instant)
    same_day = at.date() == datetime.datetime.now(datetime.UTC).date()
    return f"{at:%H:%M:%S} UTC" if same_day else f"{at:%Y-%m-%d %H:%M} UTC"


def spoken(seconds: int) -> str:
    """A time in its two largest units."""
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds % 60}s" if minutes else f"{seconds}s"
