"""The files that a model's container needs, which the service looks for when a model is uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from tests.dataflow.discovery import Refused
from transforms import storage

_TENSORFLOW = re.compile(r"[a-z]+-docker\.pkg\.dev/vertex-ai(-restricted)?/prediction/tf[^/]*:.+")
_FILES = ("saved_model.pb", "saved_model.pbtxt")


def require_artifacts(model: Mapping[str, Any]) -> None:
    """Looks into the emulated Cloud Storage, where there is one (STORAGE_EMULATOR_HOST).

    Raises:
      Refused: Google's own container for TensorFlow is to serve what is no SavedModel (400).
    """
    image, uri = model.get("containerSpec", {}).get("imageUri", ""), model.get("artifactUri", "")
    if not uri or not _TENSORFLOW.fullmatch(image) or not os.environ.get("STORAGE_EMULATOR_HOST"):
        return
    if not any(storage.exists(storage.join(uri.rstrip("/"), name)) for name in _FILES):
        raise Refused(
            400,
            "FAILED_PRECONDITION",
            f"Model directory {uri} is expected to contain exactly one of: {', '.join(_FILES)}.",
        )
