"""Model directories for tests of the registry: altered copies of a trained one, and small ones nobody forecasts with."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pkgutil
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from trainer import registry
from trainer.registry_store import Registry
from transforms import storage


@dataclasses.dataclass
class FixedClock:
    """Stands still until it is told to go, forwards or backwards."""

    now: datetime = datetime(2012, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, **by: float) -> None:
        self.now += timedelta(**by)


def variant(
    model: str, target: Path | str, version: str, *, evaluation: dict[str, Any] | None = None, **changes: Any
) -> str:
    """A copy of a model directory under another version, its manifest and evaluation.json changed."""
    shutil.copytree(model, target)
    for name, change in (
        ("manifest.json", {"model_version": version, **changes}),
        ("evaluation.json", evaluation or {}),
    ):
        path = Path(target, name)
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return str(target)


def small(target: Path | str, version: str, buyers: int = 100, training: str = "2011-05-01") -> str:
    """A finished model directory with all that the registry reads, and weights that nothing can load."""
    arguments = {
        "features": ["features/gone"],
        "evaluation": f"{target}-evaluation-gone",
        "seed": 0,
        "input_manifests": {},
    }
    directory = str(target)
    storage.begin(directory, "model", arguments)
    storage.write_bytes(storage.join(directory, "saved_model", "variables", "weights"), version.encode() * 1000)
    verdict = "The model ranks customers better." if buyers else "Nobody bought in the evaluation window."
    storage.write_bytes(
        storage.join(directory, "evaluation.json"), json.dumps({"buyers": buyers, "verdict": verdict}).encode()
    )
    facts = {
        "model": "ziln", "model_version": version, "horizon_days": 90, "history_days": None,
        "training_cutoffs": [training], "evaluation_cutoff": "2011-08-01", "split": "out of time",
        "schema_fingerprint": "f", "metrics": {"normalised_gini": 0.8, "decile_mape": 0.1, "rmse_capped": 1234.5},
        "verdict": verdict,
    }  # fmt: skip
    storage.finish(directory, "model", arguments, facts)
    return directory


FORCED = ("--force", "--reason", "a test")


def promote(registry_uri: str, model: str, *more: str) -> int:
    return registry.main(["promote", "--registry", registry_uri, "--model", model, *more])


def champion_content(registry_uri: str) -> bytes | None:
    path = Registry(registry_uri).champion_file
    return storage.read_bytes(path) if storage.exists(path) else None


def moves(registry_uri: str) -> list[dict[str, Any]]:
    return list(json.loads(champion_content(registry_uri) or b'{"moves": []}')["moves"])


# --- Several processes ----------------------------------------------------------------------------------------------


def _promote_together(registry_uri: str, models: list[str], ready: Barrier, results: Any) -> None:
    """Promotes each model at the moment when every other process has seen the same champion as this one."""
    plain = Registry.move

    def together(*arguments: Any, **named: Any) -> Any:
        ready.wait(120)
        return plain(*arguments, **named)

    Registry.move = together  # type: ignore[method-assign]
    for model in models:
        ready.wait(120)  # the move before is over, whoever made it
        results.put((model, promote(registry_uri, model, *FORCED)))


def race(registry_uri: str, models: list[list[str]]) -> dict[str, int]:
    """{model: exit code} of as many processes as there are lists, each promoting its own models one after the other."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(len(models)), context.Queue()
    processes = [context.Process(target=_promote_together, args=(registry_uri, own, ready, results)) for own in models]
    for process in processes:
        process.start()
    codes = dict(results.get(timeout=120) for own in models for _ in own)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return codes


def _run_and_die(function: str, after: int, action: Callable[[], Any]) -> None:
    where, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(where)
    plain, calls = getattr(owner, name), iter(range(after))

    def deadly(*arguments: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            os._exit(9)
        return plain(*arguments, **named)

    setattr(owner, name, deadly)
    action()


def killed(function: str, after: int, action: Callable[[], Any]) -> int:
    """The exit code of a process that runs ``action`` and dies in the function's call number ``after``, from 0."""
    process = multiprocessing.get_context("spawn").Process(target=_run_and_die, args=(function, after, action))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode
