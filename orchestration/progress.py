"""A step's progress on the terminal: a bar while it works; nothing where nobody is watching."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from transforms import progress as steps_progress


@contextlib.contextmanager
def shown(name: str) -> Iterator[None]:
    """Shows every ``transforms.progress.advance`` of the step as a bar on stderr.

    A file or a pipe gets no bars: there the steps' own lines tell what happened.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        whole = bars.add_task(name, total=None)
        tasks: dict[str, int] = {}
        lock = threading.Lock()  # workers are threads

        def advance(what: str, count: int, total: int | None) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = bars.add_task(f"  {what}", total=total)
                bars.advance(tasks[what], count)  # type: ignore[arg-type]

        steps_progress.listener = advance
        try:
            yield
        finally:
            steps_progress.listener = None
            bars.remove_task(whole)
