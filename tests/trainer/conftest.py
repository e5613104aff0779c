"""Fixtures of tests/trainer: nothing heavy is imported before a test asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.trainer.trained_models import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Snapshots of simulated customers, and a model trained by the command line."""
    from tests.trainer import trained_models

    return trained_models.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def retrained(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of ``world`` made anew by another process; what it was made from is gone."""
    from tests.trainer import trained_models

    return trained_models.retrained(world, tmp_path_factory.mktemp("retrained"))


@pytest.fixture
def quick_vertex(monkeypatch: pytest.MonkeyPatch, emulator_environment: pytest.MonkeyPatch) -> None:
    """``trainer.vertex`` waits for less than minutes, and its places are those of the emulators."""
    from tests.trainer import vertex_runs

    vertex_runs.hurry(monkeypatch)
