"""Which code made an output: in a repository the commit, in an image what its build was told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transforms import storage, version
from transforms.version import VARIABLE, VERSION

ROOT = Path(__file__).resolve().parents[2]


class Checkout:
    """A folder with the package alone, in which it says its version as a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "transforms", root / "transforms", ignore=shutil.ignore_patterns("__pycache__"))

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.root), "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def says(self, told: str | None = None, path: str = os.environ["PATH"]) -> str:
        environment = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | ({} if told is None else {VARIABLE: told})
        done = subprocess.run(
            [sys.executable, "-m", "transforms.version"],
            cwd=self.root, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.removesuffix("\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_where_there_is_no_repository_it_is_what_was_told(checkout: Checkout) -> None:
    assert checkout.says() == VERSION
    assert checkout.says("") == VERSION, "an image built without the argument"
    assert checkout.says("0.1.0-0123456789ab+dirty") == "0.1.0-0123456789ab+dirty"


def test_in_a_repository_it_is_the_commit_whatever_was_told(checkout: Checkout) -> None:
    checkout.git("init", "--quiet")
    checkout.git("add", ".")
    checkout.git("commit", "--quiet", "--message", "one")
    commit = f"{VERSION}-{checkout.git('rev-parse', '--short=12', 'HEAD')}"
    assert checkout.says() == checkout.says("other") == commit
    (checkout.root / "transforms" / "version.py").open("a").write("\n")
    assert checkout.says() == f"{commit}+dirty"
    assert checkout.says(path="") == VERSION, "no git here"


def test_a_tag_does_not_take_the_commits_place(checkout: Checkout) -> None:
    """Its name may hold a comma, which separates gcloud's substitutions."""
    checkout.git("init", "--quiet")
    checkout.git("add", ".")
    checkout.git("commit", "--quiet", "--message", "one")
    checkout.git("tag", "--annotate", "--message", "first", "v,_IMAGE=$x")
    assert re.fullmatch(rf"{re.escape(VERSION)}-[0-9a-f]{{12}}", checkout.says())


def test_manifests_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "_ROOT", tmp_path)
    monkeypatch.setenv(VARIABLE, "0.1.0-0123456789ab")
    output = str(tmp_path / "output")
    storage.begin(output, "features", {})
    assert storage.finish(output, "features", {}, {})["code_version"] == "0.1.0-0123456789ab"


def test_help_has_an_example_and_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        version.main(["--help"])
    assert "--build-arg CODE_VERSION=" in capsys.readouterr().out
    assert version.main(["--commit"]) == 2
    assert capsys.readouterr().err.startswith("error: unrecognized arguments: --commit")
