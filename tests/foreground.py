"""For children that a test interrupts."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """As ``preexec_fn``: a child has SIGINT as a terminal gives it, also where the tests run in a shell's background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
