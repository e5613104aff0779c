"""Runs of ``trainer.vertex`` against the Vertex AI of ``tests.vertex``: the commands, quick clocks, and our image."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow.flex_templates import Image
from tests.trainer import registry_models
from tests.vertex.stub import VertexStub
from trainer import vertex, vertex_client, vertex_models
from trainer.vertex_models import Deployment
from transforms import storage

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "europe-west1-docker.pkg.dev/test-project/clv/publish:2026-11-22"
PROJECT, REGION = "test-project", "europe-west1"
TASK = ("--features", "gs://shop/features/1", "--evaluation", "gs://shop/features/2", "--output", "gs://shop/model")


def our_image(python: str = sys.executable, **variables: str) -> Image:
    """What is in our image: this interpreter, this checkout's code, and the way to the emulated Cloud Storage."""
    kept = ("STORAGE_EMULATOR_HOST", "NO_GCE_CHECK", "CLOUDSDK_CONFIG", "NO_PROXY", "no_proxy", "OMP_NUM_THREADS")
    known = {name: os.environ[name] for name in kept if name in os.environ}
    return Image(
        python, {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **known, **variables}
    )


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for minutes here."""
    patch.setattr(vertex, "POLL_SECONDS", 0.05)
    patch.setattr(vertex_client, "FIRST_PAUSE_SECONDS", 0.1)
    patch.setattr(vertex_client, "LONGEST_PAUSE_SECONDS", 0.3)
    patch.setattr(vertex_client, "RETRY_SECONDS", 3.0)
    patch.setattr(vertex_models, "POLL_SECONDS", 0.05)
    patch.setattr(vertex_models, "LOST_UPLOAD_SECONDS", 5.0)
    patch.setattr(vertex_models, "UPLOAD_SECONDS", 20.0)


def place(service: VertexStub) -> list[str]:
    return ["--project", PROJECT, "--region", REGION, "--api_endpoint", service.url]


def submit(service: VertexStub, *more: str, task: tuple[str, ...] = TASK) -> int:
    return vertex.main(["submit", *place(service), "--image", IMAGE, *more, "--", *task])


def last_json(out: str) -> dict[str, Any]:
    """The last line of a command's output."""
    return dict(json.loads(out.strip().splitlines()[-1]))


def upload(local: str, uri: str) -> str:
    return str(storage.copy_directory(local, uri))


def promote(registry: str, folder: Path, version: str, network: bool = True) -> None:
    """Makes a champion that nothing can load, with or without a network."""
    model = registry_models.small(folder / version, version)
    if network:
        storage.write_bytes(storage.join(model, "saved_model", "saved_model.pb"), b"graph")
    assert registry_models.promote(registry, model, *registry_models.FORCED) == 0


def deploy(service: VertexStub, registry: str, *more: str) -> int:
    return vertex.main(["deploy", *place(service), "--registry", registry, *more])


def deployment(service: VertexStub, registry: str) -> Deployment:
    return Deployment(vertex_client.Vertex(PROJECT, REGION, service.url), registry)


def versions(service: VertexStub) -> dict[str, dict[str, Any]]:
    """By their numbers, as the service has them."""
    return {number: v for record in service.models.records.values() for number, v in record.versions.items()}


def aliases(service: VertexStub) -> dict[str, list[str]]:
    return {number: version["versionAliases"] for number, version in versions(service).items()}
