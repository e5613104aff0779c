"""The real gcloud against services of this machine: without an account, and without its user's configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.emulators.services import HOST, PROJECT

_SECONDS = 120.0


def environment(folder: Path, storage: str, dataflow: str = "") -> dict[str, str]:
    """Variables that lead gcloud, and what starts it, to these URLs.

    Args:
      folder: for gcloud's own files; made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    endpoints = {"STORAGE": f"{storage}/storage/v1/"} | ({"DATAFLOW": f"{dataflow}/"} if dataflow else {})
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "NO_PROXY": f"{HOST},localhost",
        "STORAGE_EMULATOR_HOST": storage,
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_AUTH_ACCESS_TOKEN": "nobody",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}": url for name, url in endpoints.items()},
    }


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["gcloud", *arguments], env=dict(environment), capture_output=True, text=True, timeout=_SECONDS, check=False
    )
