"""Which code made an output: the release and the commit, for manifests and for the images.

An image holds no repository. It is told when it is built, and says it by the variable CLV_CODE_VERSION.

example, as an image is told:
  docker build --file serving/Dockerfile --build-arg CODE_VERSION="$(python -m transforms.version)" --tag NAME .
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from transforms.cli import ArgumentParser, exit_code

VERSION = "0.1.0"
PACKAGES = ("transforms", "trainer", "pipelines", "serving")  # what decides the content of an output
VARIABLE = "CLV_CODE_VERSION"
_ROOT = Path(__file__).resolve().parent.parent


def source_fingerprint() -> str:
    """A short hash of the packages' source files: changes with every edit, committed or not."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The release, and where the code runs from its repository the commit, '+dirty' when changed since.

    Elsewhere what the image was told; where that is nothing, the release alone.
    """
    if not (_ROOT / ".git").exists():
        return os.environ.get(VARIABLE, "").strip() or VERSION
    try:
        # No tag: its name may hold what a shell, gcloud's --substitutions or a label takes for its own.
        described = subprocess.run(
            ["git", "-C", str(_ROOT), "describe", "--always", "--exclude=*", "--dirty=+dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}-{described.stdout.strip()}"


def main(argv: list[str] | None = None) -> int:
    def run() -> None:
        ArgumentParser("python -m transforms.version", description=__doc__).parse_args(argv)
        print(code_version())

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
