"""This checkout's code for a job on Vertex AI whose image holds older one: a source distribution in Cloud Storage."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line, rejected
from transforms.version import code_version

_ROOT = Path(__file__).resolve().parent.parent
_BESIDE = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@dataclass(frozen=True)
class Package:
    """A source distribution: where it lies, and which code it is."""

    uri: str
    code_version: str


def ship(directory: str, root: Path = _ROOT) -> Package:
    """Builds the source distribution and puts it below ``directory``, in a folder named by its content.

    The same code is uploaded once, whoever does it.

    Raises:
      UsageError: not gs://, not a checkout, or nothing here builds one.
      JobFailed: it could not be built.
    """
    if not directory.startswith("gs://"):
        raise rejected("--package", directory, "gs://bucket/directory, where the job fetches it from")
    if not (root / "pyproject.toml").exists():
        raise UsageError("--package needs the repository, and this is an installed package: run it from a checkout")
    with tempfile.TemporaryDirectory() as folder:
        archive = build(root, Path(folder))
        uri = storage.join(directory, content_hash(archive), archive.name)
        if not storage.exists(uri):
            # Whoever was first has put the same content there.
            storage.compare_and_set(uri, archive.read_bytes(), None)
    return Package(uri, code_version())


def build(root: Path, folder: Path) -> Path:
    """The source distribution of a checkout. Built from a copy: what lies about in the tree stays out of it."""
    source = folder / "source"
    source.mkdir()
    project = tomllib.loads((root / "pyproject.toml").read_text())
    for name in _BESIDE:
        if (root / name).exists():
            shutil.copy(root / name, source)
    for package in sorted({name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}):
        shutil.copytree(root / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--outdir",
        str(folder / "dist"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named build" in done.stderr:
        raise UsageError("--package needs the package build here: pip install build setuptools")
    if done.returncode:
        raise JobFailed(f"the source distribution was not built: {one_line((done.stderr or done.stdout)[-600:])}")
    (archive,) = (folder / "dist").iterdir()
    return archive


def content_hash(archive: Path) -> str:
    """16 hex digits of the files in it, the same whenever it was packed."""
    digest = hashlib.sha256()
    with tarfile.open(archive) as packed:
        for member in sorted(packed.getmembers(), key=lambda each: each.name):
            if (content := packed.extractfile(member)) is not None:
                digest.update(f"{member.name}\n{member.size}\n".encode() + content.read())
    return digest.hexdigest()[:16]
