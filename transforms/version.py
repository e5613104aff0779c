"""Which code made an output."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

VERSION = "0.1.0"
PACKAGES = ("transforms", "trainer", "pipelines", "serving")  # what decides the content of an output


def source_fingerprint() -> str:
    """A short hash of the packages' source files: changes with every edit, committed or not."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The release, and where the code runs from its repository the commit, '+dirty' when changed since."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return VERSION
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}-{described.stdout.strip()}"
