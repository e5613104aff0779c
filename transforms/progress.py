"""How far a step on this machine is, as bars on the terminal.

Work calls ``advance``; ``shown`` draws what is reported while a step runs. The in-process runner's
workers are threads of the launching process and reach the same bars; on a distributed runner nobody
listens and a call costs nothing: the engine's own pages show progress there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

_listener: Callable[[str, int, int | None], None] | None = None


def advance(what: str, count: int, total: int | None = None) -> None:
    """``count`` more of ``what`` ("lines", "customers", ...) are done; ``total`` when it is known."""
    if _listener is not None:
        _listener(what, count, total)


@contextlib.contextmanager
def shown(name: str) -> Iterator[None]:
    """Draws a bar on stderr for everything ``advance`` reports inside, and one with the elapsed time.

    A file or a pipe gets none: there the steps' own lines tell what happened. Inside another ``shown``
    the bars are the outer one's.
    """
    global _listener
    if _listener is not None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bars.add_task(name, total=None)
        tasks = {}
        lock = threading.Lock()  # workers are threads

        def draw(what: str, count: int, total: int | None) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = bars.add_task(f"  {what}", total=total)
                bars.advance(tasks[what], count)

        _listener = draw
        try:
            yield
        finally:
            _listener = None
