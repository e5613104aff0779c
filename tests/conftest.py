"""What every test shares."""

from __future__ import annotations

import os
import signal

from hypothesis import Phase, settings

pytest_plugins = ["tests.emulators.fixtures"]

# A shell ignores SIGINT for what it starts in the background, and children inherit that: those that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shrinking a failure of a slow property takes minutes: `pytest --hypothesis-profile shrink` when it is wanted.
settings.register_profile("quick", deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
settings.register_profile("shrink", deadline=None)
# Every run draws examples of its own, and has found real defects by that; but whether a change lands must depend on
# the change. A build server (which sets CI) draws the same ones each time.
settings.register_profile("repeatable", settings.get_profile("quick"), derandomize=True, database=None)
settings.load_profile("repeatable" if os.environ.get("CI") else "quick")
