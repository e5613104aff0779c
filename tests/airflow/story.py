"""One day by both DAGs, and what it leaves: what a disturbed day has to leave too."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from serving.store import open_store
from tests.airflow.airflow_home import Run
from tests.airflow.cloud import REGION
from tests.airflow.installation import BUILD, SERVE, Installation, rows
from trainer.registry_store import Registry


@dataclass(frozen=True)
class Left:
    """What a day leaves behind, without the names that differ from one installation or run to the next."""

    versions: list[str]  # of our registry
    moves: list[tuple[str, str]]  # of its champion: action and version
    aliases: dict[str, list[str]]  # of Vertex AI's model, by its version
    predictions: list[dict[str, Any]]
    generations: list[tuple[Any, ...]]  # of the serving store


@dataclass(frozen=True)
class Story:
    installation: Installation
    build: Run
    serve: Run
    left: Left

    @property
    def day(self) -> datetime.date:
        return self.installation.shop.first_file


def at(day: datetime.date, hour: int = 3) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time(hour), datetime.UTC)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def told(installation: Installation) -> Story:
    """Runs both DAGs for the shop's first day; they have to succeed."""
    build, output = installation.run(BUILD, now())
    print(build)
    assert build.state == "success", output[-20_000:]
    serve, output = installation.run(SERVE, now())
    print(serve)
    assert serve.state == "success", output[-20_000:]
    return Story(installation, build, serve, left(installation, serve))


def left(installation: Installation, serve: Run) -> Left:
    registry = Registry(installation.registry)
    with open_store(installation.store) as store:
        generations = [
            (each.as_of, each.model_version, each.content.rows, each.content.total_value)
            for each in store.generations()
        ]
    return Left(
        versions=[str(each["model_version"]) for each in registry.versions()],
        moves=[(move.action, move.version) for move in registry.champions().moves],
        aliases=vertex_aliases(installation),
        predictions=predictions(installation, serve).to_pylist(),
        generations=generations,
    )


def vertex_aliases(installation: Installation) -> dict[str, list[str]]:
    """Of the versions of the one model that the installation has at Vertex AI."""
    from trainer.vertex_client import Vertex

    vertex = Vertex(installation.project, REGION, installation.cloud.vertex.url)
    (model,) = vertex.models.list_models(parent=vertex.parent)
    found = vertex.models.list_model_versions(name=model.name)
    return {each.version_id: sorted(each.version_aliases) for each in found}


def predictions(installation: Installation, serve: Run) -> pa.Table:
    """The Parquet rows of a run of predict_serve."""
    return rows(installation.home.xcom(serve, "predict")["output"])
