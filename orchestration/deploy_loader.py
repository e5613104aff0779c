"""The Airflow DAGs of clv-pipelines: those of the newest version below whose files have all arrived.

In a DAG folder this file is orchestration.deploy's, which writes it anew, last of all, whenever it deploys; change
clv_pipelines there, not here. The DAGs themselves are clv_versions/VERSION/orchestration/dags.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path

# Newest first: {"directory", "code_version", "since"}. In the repository there is none, and nothing is loaded.
VERSIONS: list[dict[str, str]] = []

DAGS = ("build_train_deploy", "predict_serve")
FOLDER = "clv_versions"
INVENTORY = "version.json"  # {"files": {path: bytes}}, written after all of them


def complete(root: Path) -> bool:
    """Whether every file of a version is there in full: what copies a bucket to a machine keeps no order."""
    try:
        files = json.loads((root / INVENTORY).read_text())["files"]
        return all((root / path).stat().st_size == size for path, size in files.items())
    except (OSError, ValueError):
        return False


def chosen(folder: Path) -> tuple[Path, dict[str, str]]:
    """The newest complete version, and what is known of it.

    Raises:
      ImportError: there is none.
    """
    for version in VERSIONS:
        root = folder / version["directory"]
        if complete(root):
            if version is not VERSIONS[0]:
                logging.getLogger(__name__).warning("%s is not all here yet", VERSIONS[0]["directory"])
            return root, version
    names = ", ".join(version["directory"] for version in VERSIONS)
    raise ImportError(f"no version in {folder} is complete ({names}): wait for its files, or run make deploy again")


def load(folder: Path) -> None:
    """Imports the DAG files of the chosen version; Airflow registers their DAGs as this file's."""
    root, version = chosen(folder)
    sys.path[:] = [str(root), *(path for path in sys.path if not Path(path).is_relative_to(folder))]
    ours = {path.name for path in root.iterdir() if path.is_dir()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # What another version left in this process; and a DAG file that is not executed again registers nothing.
        foreign = file is not None and not Path(file).is_relative_to(root)
        if name.partition(".")[0] in ours and (foreign or name.startswith("orchestration.dags.")):
            del sys.modules[name]
    importlib.invalidate_caches()
    os.environ["CLV_CODE_VERSION"] = version["code_version"]  # for the manifests: there is no repository here
    for name in DAGS:
        importlib.import_module(f"orchestration.dags.{name}")


if VERSIONS:
    load(Path(__file__).resolve().parent / FOLDER)
