"""The limits of a publish and its prices: the shipped file, what a person's file changes, and that a mistake is named."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from pathlib import Path

import pytest

from pipelines import publish_toml
from pipelines.publish_toml import GUARDS, Limit
from transforms.errors import UsageError


def written(folder: Path, text: str) -> str:
    (folder / "guards.toml").write_text(text)
    return str(folder / "guards.toml")


def test_the_shipped_file_says_everything() -> None:
    tables = tomllib.loads(publish_toml.DEFAULTS.read_text())
    assert {name: tuple(limits) for name, limits in tables["guards"].items()} == GUARDS
    settings = publish_toml.read()
    assert settings.guards.limits == {
        name: Limit(**limits) for name, limits in tables["guards"].items() if name != "model_version"
    }
    assert settings.guards.accepted == "registered"
    assert vars(settings.prices) == tables["prices"]


def test_a_file_states_only_what_it_changes(tmp_path: Path) -> None:
    shipped = publish_toml.read()
    changed = publish_toml.read(written(tmp_path, """
        [guards]
        customers = { max = 3 }
        zeros = { max = 1 }
        total_value = { min = 0, max = inf }
        model_version = { accepted = "champion" }
        [prices]
        datastore_usd_per_100k_writes = 0.09
        stated_on = 2026-12-01
    """))  # fmt: skip
    assert changed.guards.limits == {
        **shipped.guards.limits,
        "customers": Limit(max=3, min=shipped.guards.limits["customers"].min),
        "zeros": Limit(1),
        "total_value": Limit(min=0, max=math.inf),
    }
    assert changed.guards.accepted == "champion"
    same = dataclasses.replace(
        changed.prices,
        datastore_usd_per_100k_writes=shipped.prices.datastore_usd_per_100k_writes,
        stated_on=shipped.prices.stated_on,
    )
    assert same == shipped.prices != changed.prices
    assert publish_toml.read(written(tmp_path, "")) == shipped


def test_the_operators_page_states_the_shipped_limits() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "publishing.md").read_text()
    stated = dict(re.findall(r"(?m)^\| `(\w+)` \| .* \| ([^|]+) \|$", page.split("## Guards")[1].split("## ")[0]))
    assert list(stated) == list(GUARDS)
    settings = publish_toml.read().guards
    shares = ("dead_letters", "missing", "zeros")
    spoken = {
        name: limit.spoken(100, "%") if name in shares else limit.spoken() for name, limit in settings.limits.items()
    }
    assert stated == {**spoken, "model_version": settings.accepted}


def test_limits_include_their_ends_and_nothing_else_passes() -> None:
    assert [Limit(min=0.8, max=1.5).accepts(x) for x in (0.79, 0.8, 1.0, 1.5, 1.51, math.nan)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip
    assert Limit(0).accepts(-30)
    spoken = {
        Limit(0.05): "at most 5%",
        Limit(1.5, 0.8): "80% to 150%",
        Limit(math.inf, 0.8): "at least 80%",
        Limit(1.5, 0): "at most 150%",
        Limit(math.inf, 0): "any",
    }
    assert {limit: limit.spoken(100, "%") for limit in spoken} == spoken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[guards", "is not TOML"),
        ("[guard]", "guard = {} is not known: accepted is guards, prices"),
        ("guards = 3", "guards = 3 is not usable: accepted is a table with dead_letters, missing"),
        ("[guards]\ncustomer = {}", "guards.customer = {} is not known: accepted is dead_letters,"),
        ("[guards]\nzeros = 0.1", "guards.zeros = 0.1 is not usable: accepted is a table with max"),
        ("[guards]\nzeros = { min = 0 }", "guards.zeros.min = 0 is not known: accepted is max"),
        ("[guards]\nzeros = { max = '1' }", "guards.zeros.max = '1' is not usable: accepted is a number of at least 0"),
        ("[guards]\nzeros = { max = true }", "guards.zeros.max = True is not usable"),
        ("[guards]\nzeros = { max = nan }", "guards.zeros.max = nan is not usable"),
        ("[guards]\nzeros = { max = -1 }", "guards.zeros.max = -1 is not usable"),
        ("[guards]\ncustomers = { min = inf }", "guards.customers.min = inf is not usable"),
        ("[guards]\ncustomers = { max = 0.5 }", "guards.customers.min = 0.8 is not usable: accepted is at most max, 0.5"),
        ("[guards]\ntotal_value = { min = 3, max = 2 }", "guards.total_value.min = 3 is not usable: accepted is at most"),
        ("[guards]\nmodel_version = { accepted = 'any' }", "accepted = 'any' is not usable: accepted is \"registered\" or"),
        ("[guards]\nmodel_version = { accepted = ['champion'] }", "is not usable: accepted is \"registered\" or"),
        ("[guards]\nmodel_version = { max = 1 }", "guards.model_version.max = 1 is not known: accepted is accepted"),
        ("[prices]\nstated_on = '2026-12-01'", "prices.stated_on = '2026-12-01' is not usable: accepted is a date such as"),
        ("[prices]\nstated_on = 2026-12-01T00:00:00", "prices.stated_on = datetime"),
        ("[prices]\nregion = 1", "prices.region = 1 is not usable: accepted is a text"),
        ("[prices]\ndatastore_usd_per_gib_month = -1", "is not usable: accepted is a number of at least 0, in US dollars"),
        ("[prices]\ndatastore_usd_per_gib_month = inf", "prices.datastore_usd_per_gib_month = inf is not usable"),
        ("[prices]\nusd = 1", "prices.usd = 1 is not known: accepted is stated_on, region"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, expected: str, tmp_path: Path) -> None:
    uri = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        publish_toml.read(uri)
    assert str(error.value).startswith(uri)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--guards .*none.toml' does not exist: accepted is a TOML file"):
        publish_toml.read(str(tmp_path / "none.toml"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "guards.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        publish_toml.read(str(tmp_path / "guards.toml"))
