"""What is deployed: this checkout's wheel, and the directory of one version that Airflow loads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestration.deploy_loader import DAGS
from transforms.errors import JobFailed, UsageError, one_line

DEPLOYMENT = "deployment.toml"
# What setuptools reads besides the packages.
_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
# Of the zip's entries, so that the same code is the same wheel, byte for byte. Zip begins at 1980.
_EPOCH = "315532800"


@dataclass(frozen=True)
class Version:
    """One version of code and settings.

    Attributes:
      directory: its name, which follows from the content: CODE_VERSION-HASH.
      files: by path, what Airflow needs: the packages and the settings.
      wheel: the wheel's name and content.
    """

    directory: str
    code_version: str
    files: Mapping[str, bytes]
    wheel: tuple[str, bytes]

    @property
    def inventory(self) -> bytes:
        """The file that is written after all others, for ``deploy_loader.complete``."""
        sizes = {path: len(content) for path, content in sorted(self.files.items())}
        return json.dumps({"code_version": self.code_version, "files": sizes}, indent=1).encode()


def make(root: Path, code_version: str, settings: str, folder: Path) -> Version:
    """Builds the wheel and unpacks it.

    Args:
      root: the repository.
      settings: the content of deployment.toml.
      folder: an empty one, for what is temporary.

    Raises:
      UsageError: there is no repository, or it does not package the DAGs.
      JobFailed: the wheel cannot be built.
    """
    wheel = _build(root, folder)
    files = {DEPLOYMENT: settings.encode()}
    with zipfile.ZipFile(wheel) as archive:
        for path in archive.namelist():
            if not path.partition("/")[0].endswith(".dist-info") and not path.endswith("/"):
                files[path] = archive.read(path)
    for name in DAGS:
        if f"orchestration/dags/{name}.py" not in files:
            raise UsageError(f"orchestration/dags/{name}.py is not packaged: accepted is a checkout whose wheel has it")
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\n{len(content)}\n".encode() + content)
    # A plus means a space to whoever takes a name for a part of a URL.
    directory = f"{code_version.replace('+', '.')}-{digest.hexdigest()[:10]}"
    return Version(directory, code_version, files, (wheel.name, wheel.read_bytes()))


def _build(root: Path, folder: Path) -> Path:
    if not (root / "pyproject.toml").is_file():
        raise UsageError(f"{root} is no repository, and deploying needs one: run it from a checkout")
    # A copy: setuptools takes what an earlier build left beside the sources for part of them.
    source = folder / "source"
    source.mkdir()
    for name in _FILES:
        if (root / name).exists():
            shutil.copy(root / name, source)
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in sorted({name.partition(".")[0] for name in packages}):
        shutil.copytree(root / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise JobFailed(f"the wheel cannot be built: {one_line(said[-600:]) or 'no reason was given'}")
    (wheel,) = folder.glob("*.whl")
    return wheel
