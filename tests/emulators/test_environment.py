"""The emulators' environment: what it is made from, and what is said when it is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.emulators import services

pytest_plugins = ["pytester"]
HERE = Path(__file__).parent


def test_the_lock_is_pinned_by_hash_names_no_host_and_holds_what_is_asked_for() -> None:
    lock = (HERE / "requirements.lock").read_text()
    assert "://" not in lock
    requirements = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"(?m)^\s*#.*\n", "", lock).strip())
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    locked = {requirement.split()[0] for requirement in requirements}
    for line in (HERE / "requirements.in").read_text().splitlines() + (HERE / "overrides.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name = re.match(r"[\w-]+", line)[0]  # type: ignore[index]
            assert line in locked if "==" in line else any(pin.startswith(f"{name}==") for pin in locked), line


def test_a_missing_environment_fails_and_says_what_makes_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(services, "ENVIRONMENT", tmp_path / ".venv-emulators")
    pytester.makeconftest("from tests.emulators.fixtures import *")
    pytester.makepyfile("def test_nothing(bucket): pass\ndef test_nothing_else(dataset): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*not installed in .venv-emulators: run `make emulators`*"])
    with pytest.raises(services.EmulatorError, match="make emulators"), services.CloudStorage():
        pytest.fail("it cannot be running")
