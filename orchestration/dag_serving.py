"""What predict_serve asks of the registry and of the serving store: which model, what is served."""

from __future__ import annotations

import datetime
import logging
from typing import Any

from orchestration.dag_plans import ALWAYS, NEVER


def model(registry: str, version: str | None, moment: datetime.datetime) -> dict[str, Any]:
    """``version`` and ``model``, its directory: the one asked for, or the champion of that time.

    Raises:
      UsageError: there is none.
    """
    from trainer.registry_store import Registry

    known = Registry(registry)
    if version is None:
        version = known.champion_at(moment).version
    else:
        known.entry(version)  # complete, or refused
    return {"version": version, "model": known.model_directory(version)}


def is_to_be_served(store: str, day: datetime.date, wanted: str, log: logging.Logger) -> bool:
    """Whether predictions as of a day go to the store: not over those of a later day, unless somebody says so."""
    if wanted in (ALWAYS, NEVER):
        log.info("publish: %s", wanted)
        return wanted == ALWAYS
    current = _current(store)
    if current is None or current.as_of <= day:
        return True
    log.info("not published: %s is served, of a later day than %s", current.described(), day)
    return False


def served(store: str) -> dict[str, Any]:
    """The current generation's figures.

    Raises:
      UsageError: there is none.
    """
    from transforms.errors import UsageError

    current = _current(store)
    if current is None:
        raise UsageError(f"{store} serves nothing after a publish")
    return {
        "generation": current.name, "as_of": str(current.as_of), "model_version": current.model_version,
        "customers": current.content.rows, "total_value": float(current.content.total_value),
        "dead_letters": dict(current.dead_letters),
    }  # fmt: skip


def _current(store: str) -> Any:
    from serving.store import open_store

    with open_store(store) as opened:
        return opened.current()
