"""From when on a difference between training and serving is an alarm: ``skew.toml`` and files in its form."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms import schema, storage
from transforms.errors import UsageError
from transforms.schema import Type

DEFAULTS = Path(__file__).with_name("skew.toml")
OF_ROWS = ("rows_lost", "rows_gained")
OF_NUMBERS, OF_TEXTS = ("missing", "zeros", "divergence"), ("missing", "categories")
OF_MONEY = (*OF_NUMBERS, "mean")
METRICS = (*OF_ROWS, *OF_MONEY, "categories")
_FEATURES = schema.by_name(schema.FEATURES)


def measured(feature: str) -> tuple[str, ...]:
    """The measures of a feature."""
    column = _FEATURES[feature]
    if column.type is Type.STRING:
        return OF_TEXTS
    return OF_MONEY if column.unit.startswith("money") else OF_NUMBERS


@dataclass(frozen=True)
class Limit:
    """Values above ``warn`` and above ``fail`` are alarms; None: none ever is."""

    warn: float | None = None
    fail: float | None = None

    def level(self, value: float) -> str:
        """ "fail", "warn" or "ok"."""
        if self.fail is not None and value > self.fail:
            return "fail"
        return "warn" if self.warn is not None and value > self.warn else "ok"


@dataclass(frozen=True)
class Thresholds:
    """Limits by metric, and by feature and metric, which win."""

    default: dict[str, Limit]
    exceptions: dict[tuple[str, str], Limit]

    def of(self, feature: str, metric: str) -> Limit:
        return self.exceptions.get((feature, metric)) or self.default.get(metric, Limit())

    def __or__(self, other: Thresholds) -> Thresholds:
        """These with the other's in their place, where it has some; exceptions stay exceptions under a new default."""
        return Thresholds({**self.default, **other.default}, {**self.exceptions, **other.exceptions})


def read(uri: str | None = None) -> Thresholds:
    """The thresholds that ship with this package, with those of a TOML file over them.

    Raises:
      UsageError: the file is missing, is no TOML, or says something that has no meaning here.
    """
    shipped = _parse(str(DEFAULTS), DEFAULTS.read_bytes())
    if uri is None:
        return shipped
    if not storage.exists(uri):
        raise UsageError(f"{uri} does not exist: accepted is a TOML file of thresholds such as transforms/skew.toml")
    return shipped | _parse(uri, storage.read_bytes(uri))


def _parse(uri: str, content: bytes) -> Thresholds:
    try:
        tables = tomllib.loads(content.decode())
    except ValueError as error:
        raise UsageError(f"{uri} is not TOML: {error}") from error
    _require_keys(uri, "", tables, ("default", "exception"))
    default, exceptions = tables.get("default", {}), tables.get("exception", [])
    if not isinstance(default, dict):
        raise _unusable(uri, "default", default, "a table [default]")
    if not isinstance(exceptions, list) or not all(isinstance(table, dict) for table in exceptions):
        raise _unusable(uri, "exception", exceptions, "tables [[exception]]")
    _require_keys(uri, "default.", default, METRICS)
    limits = {metric: _limit(uri, f"default.{metric}", value) for metric, value in default.items()}
    return Thresholds(limits, dict(entry for table in exceptions for entry in _exception(uri, table)))


def _exception(uri: str, table: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Limit]]:
    _require_keys(uri, "exception.", table, ("features", *OF_MONEY, "categories"))
    features = table.get("features")
    if not isinstance(features, list) or not features:
        raise _unusable(uri, "exception.features", features, "a list of names of features")
    for feature in features:
        if not isinstance(feature, str) or feature not in _FEATURES:
            raise _unusable(uri, "exception.features", feature, f"one of {', '.join(_FEATURES)}")
        _require_keys(uri, f"exception for {feature}: ", table, ("features", *measured(feature)))
        for metric in table.keys() - {"features"}:
            yield (feature, metric), _limit(uri, f"exception for {feature}: {metric}", table[metric])


def _limit(uri: str, key: str, value: Any) -> Limit:
    if not isinstance(value, dict):
        raise _unusable(uri, key, value, "a table such as { warn = 0.1, fail = 0.3 }")
    _require_keys(uri, f"{key}.", value, ("warn", "fail"))
    for name, number in value.items():
        # A truth value is a whole number to Python; a NaN is never exceeded; both are mistakes here.
        if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
            raise _unusable(uri, f"{key}.{name}", number, "a number of at least 0")
    limit = Limit(**{name: float(number) for name, number in value.items()})
    if limit.warn is not None and limit.fail is not None and limit.warn > limit.fail:
        raise _unusable(uri, f"{key}.warn", limit.warn, f"at most fail, {limit.fail:g}")
    return limit


def _require_keys(uri: str, prefix: str, table: dict[str, Any], accepted: tuple[str, ...]) -> None:
    for key in table:
        if key not in accepted:
            raise UsageError(f"{uri}: {prefix}{key} = {table[key]!r} is not known: accepted is {', '.join(accepted)}")


def _unusable(uri: str, key: str, value: Any, accepted: str) -> UsageError:
    return UsageError(f"{uri}: {key} = {value!r} is not usable: accepted is {accepted}")
