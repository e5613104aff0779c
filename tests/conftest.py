"""What every test shares."""

from __future__ import annotations

from hypothesis import Phase, settings

pytest_plugins = ["tests.emulators.fixtures"]

# Shrinking a failure of a slow property takes minutes: `pytest --hypothesis-profile shrink` when it is wanted.
settings.register_profile("quick", deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
settings.register_profile("shrink", deadline=None)
settings.load_profile("quick")
