"""docs/refresh.md says what the code does, where that can be read off both."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from orchestration.refresh.options import Options
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import State
from orchestration.refresh.settings import read_settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/refresh.md").read_text()
CODE = ROOT / "orchestration/refresh"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def statements() -> dict[str, dict[str, Any]]:
    policy = next(json.loads(block) for block in blocks("json") if '"Version"' in block)
    return {each["Sid"]: each for each in policy["Statement"]}


def test_the_permissions_are_exactly_what_is_asked_for(statements: dict[str, dict[str, Any]]) -> None:
    asked = set(re.findall(r'(?:_ask|_list)\(\s*"(\w+)"', (CODE / "personalize.py").read_text()))
    assert asked and set(statements["Service"]["Action"]) == {f"personalize:{each}" for each in asked}
    ledger = re.findall(r'_(?:call|pages)\(\s*"(\w+)"', (CODE / "dynamodb_ledger.py").read_text())
    # A scan is how all campaigns of a table are found, which no command asks for: the settings name them.
    used = {"".join(word.capitalize() for word in each.split("_")) for each in ledger} - {"Scan"}
    assert set(statements["Ledger"]["Action"]) == {f"dynamodb:{each}" for each in used} and len(used) == 3


def test_every_state_and_every_rule_of_the_policy_is_explained() -> None:
    assert [state for state in State if state not in PAGE] == []
    rows = dict(re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", PAGE, re.MULTILINE))
    found = {}
    for names, defaults in rows.items():
        keys = re.findall(r"`(\w+)`", names)
        values = [value.strip().strip("`") for value in defaults.split(", ")]
        if len(keys) == len(values):
            found |= dict(zip(keys, values, strict=True))
    for each in dataclasses.fields(Policy):
        default = each.default
        shown = (
            str(default).lower()
            if isinstance(default, bool)
            else f"{default:g}"
            if isinstance(default, float)
            else str(default)
        )
        assert found.get(each.name) == shown, each.name


def test_the_settings_are_usable(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    assert tomllib.loads(block)
    path = tmp_path / "refresh.toml"
    path.write_text(block)
    assert list(read_settings(path).campaigns) == ["shop"]


def test_the_commands_are_commands() -> None:
    import shlex

    commands = re.findall(r"^ *(?:\.venv/bin/)?python -m orchestration\.refresh ([^#\n]+)", PAGE, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        assert Options.parse(shlex.split(command)).command
