"""What Google's own TensorFlow container is to serve has to be a SavedModel, where there is a Cloud Storage to look at."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dataflow.discovery import Refused
from tests.vertex.artifacts import require_artifacts
from transforms import storage

TENSORFLOW = "europe-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest"


def model(folder: str, image: str = TENSORFLOW) -> dict[str, Any]:
    return {"artifactUri": folder, "containerSpec": {"imageUri": image}}


@pytest.mark.emulators
def test_a_saved_model_is_looked_for(bucket: str) -> None:
    folder = f"gs://{bucket}/model"
    with pytest.raises(
        Refused, match=r"expected to contain exactly one of: saved_model.pb, saved_model.pbtxt"
    ) as refused:
        require_artifacts(model(folder))
    assert refused.value.status == 400
    require_artifacts(model(folder, "europe-docker.pkg.dev/shop/clv/serving:1"))
    storage.write_bytes(f"{folder}/saved_model.pb", b"x")
    for uri in (folder, f"{folder}/"):
        require_artifacts(model(uri))


def test_without_an_emulator_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    require_artifacts(model("gs://no-such-bucket/model"))
