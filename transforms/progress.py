"""How far a step on this machine is: work calls ``advance``, whoever wants to show it sets ``listener``.

The in-process runner's workers are threads of the launching process and reach the same listener; on a
distributed runner nobody listens and a call costs nothing. The engine's own pages show progress there.
"""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str, int, int | None], None] | None = None


def advance(what: str, count: int, total: int | None = None) -> None:
    """``count`` more of ``what`` ("lines", "customers", "epochs") are done; ``total`` when it is known."""
    if listener is not None:
        listener(what, count, total)
