"""What ``publish.toml`` says, and files in its form: limits of the guards and prices."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from transforms.errors import UsageError

DEFAULTS = Path(__file__).with_name("publish.toml")
MODEL_VERSION = "model_version"
REGISTERED, CHAMPION = "registered", "champion"
# What may be said of each guard, in the order in which they judge.
GUARDS: dict[str, tuple[str, ...]] = {
    "dead_letters": ("max",),
    "missing": ("max",),
    "zeros": ("max",),
    "customers": ("min", "max"),
    "total_value": ("min", "max"),
    "as_of": ("max",),
    MODEL_VERSION: ("accepted",),
}


@dataclass(frozen=True)
class Limit:
    """Figures from ``min`` to ``max``, both accepted themselves."""

    max: float
    min: float = -math.inf

    def accepts(self, figure: float) -> bool:
        """NaN is never accepted."""
        return self.min <= figure <= self.max

    def spoken(self, scale: float = 1, unit: str = "") -> str:
        low, high = f"{scale * self.min:g}{unit}", f"{scale * self.max:g}{unit}"
        if self.max == math.inf:
            return f"at least {low}" if self.min > 0 else "any"
        return f"{low} to {high}" if self.min > 0 else f"at most {high}"


@dataclass(frozen=True)
class Thresholds:
    """The limits by guard, and which of a registry's versions are accepted: REGISTERED or CHAMPION."""

    limits: Mapping[str, Limit]
    accepted: str


@dataclass(frozen=True)
class Prices:
    """US dollars; a GiB is 2^30 bytes."""

    stated_on: date
    region: str
    source: str
    datastore_usd_per_100k_writes: float
    datastore_usd_per_100k_deletes: float
    datastore_usd_per_gib_month: float
    bigquery_usd_per_gib_month: float


@dataclass(frozen=True)
class Settings:
    guards: Thresholds
    prices: Prices


def read(uri: str | None = None) -> Settings:
    """What ships with this package, with what a TOML file says in its place, key by key.

    Raises:
      UsageError: the file is missing, is no TOML, or says something that has no meaning here.
    """
    guards, prices = _tables(str(DEFAULTS), DEFAULTS.read_bytes())
    if uri is not None:
        from transforms import storage

        if not storage.exists(uri):
            raise UsageError(f"--guards {uri!r} does not exist: accepted is a TOML file such as pipelines/publish.toml")
        changed, changed_prices = _tables(uri, storage.read_bytes(uri))
        guards = {name: {**limits, **changed.get(name, {})} for name, limits in guards.items()}
        prices = {**prices, **changed_prices}
        _require_order(uri, guards)
    limits = {name: Limit(**values) for name, values in guards.items() if name != MODEL_VERSION}
    return Settings(Thresholds(limits, guards[MODEL_VERSION]["accepted"]), Prices(**prices))


def _tables(uri: str, content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The tables [guards] and [prices] of a file, each value checked by itself."""
    try:
        tables = tomllib.loads(content.decode())
    except ValueError as error:
        raise UsageError(f"{uri} is not TOML: {error}") from error
    _require_table(uri, "", tables, ("guards", "prices"))
    guards, prices = tables.get("guards", {}), tables.get("prices", {})
    _require_table(uri, "guards", guards, tuple(GUARDS))
    for name, limits in guards.items():
        _require_table(uri, f"guards.{name}", limits, GUARDS[name])
        for key, value in limits.items():
            _require_limit(uri, f"guards.{name}.{key}", key, value)
    _require_table(uri, "prices", prices, tuple(field.name for field in dataclasses.fields(Prices)))
    for key, value in prices.items():
        _require_price(uri, key, value)
    return guards, prices


def _require_table(uri: str, key: str, table: Any, accepted: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise _unusable(uri, key, table, f"a table with {', '.join(accepted)}")
    for name, value in table.items():
        if name not in accepted:
            path = f"{key}.{name}" if key else name
            raise UsageError(f"{uri}: {path} = {value!r} is not known: accepted is {', '.join(accepted)}")


def _require_limit(uri: str, path: str, key: str, value: Any) -> None:
    if key == "accepted":
        if value not in (REGISTERED, CHAMPION):
            raise _unusable(uri, path, value, f'"{REGISTERED}" or "{CHAMPION}"')
    elif not _is_number(value) or (key == "min" and value == math.inf):
        raise _unusable(uri, path, value, "a number of at least 0")


def _require_price(uri: str, key: str, value: Any) -> None:
    path = f"prices.{key}"
    if key == "stated_on":
        # An instant is a date to Python.
        if type(value) is not date:
            raise _unusable(uri, path, value, "a date such as 2026-11-30, without quotes")
    elif key in ("region", "source"):
        if not isinstance(value, str):
            raise _unusable(uri, path, value, "a text")
    elif not _is_number(value) or value == math.inf:
        raise _unusable(uri, path, value, "a number of at least 0, in US dollars")


def _is_number(value: Any) -> bool:
    """Whether it is at least 0. A truth value is a whole number to Python; nothing is ever beyond a NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _require_order(uri: str, guards: dict[str, dict[str, Any]]) -> None:
    for name, limits in guards.items():
        if "min" in limits and limits["min"] > limits["max"]:
            raise _unusable(uri, f"guards.{name}.min", limits["min"], f"at most max, {limits['max']:g}")


def _unusable(uri: str, key: str, value: Any, accepted: str) -> UsageError:
    return UsageError(f"{uri}: {key} = {value!r} is not usable: accepted is {accepted}")
