"""Code shipped to a job: built from the checkout, kept by its content, and run instead of the image's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from tests.trainer import vertex_runs
from tests.trainer.trained_models import World
from tests.trainer.vertex_runs import IMAGE, ROOT, submit
from tests.vertex.stub import VertexStub
from trainer import vertex_package
from transforms import storage
from transforms.errors import UsageError

BESIDE = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this one that a test may change."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in BESIDE:
        shutil.copy(ROOT / name, root)
    for package in ("pipelines", "transforms", "trainer", "serving", "orchestration", "templates"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def built(root: Path, folder: Path) -> Path:
    folder.mkdir()
    return vertex_package.build(root, folder)


def test_the_package_is_the_code_and_named_by_it_alone(checkout: Path, tmp_path: Path) -> None:
    one = built(checkout, tmp_path / "one")
    with tarfile.open(one) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"trainer/task.py", "transforms/skew.toml", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("tests")]
    (checkout / "trainer" / "__pycache__").mkdir()
    (checkout / "trainer" / "__pycache__" / "old.pyc").write_bytes(b"old")
    (checkout / "notes.txt").write_text("mine")
    assert vertex_package.content_hash(built(checkout, tmp_path / "two")) == vertex_package.content_hash(one)
    with open(checkout / "trainer" / "task.py", "a") as file:
        file.write("# changed\n")
    assert vertex_package.content_hash(built(checkout, tmp_path / "three")) != vertex_package.content_hash(one)


def test_without_a_checkout_there_is_nothing_to_ship(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run it from a checkout"):
        vertex_package.ship("gs://b/code", tmp_path)


@pytest.mark.emulators
def test_the_same_code_is_uploaded_once(bucket: str, checkout: Path) -> None:
    first = vertex_package.ship(f"gs://{bucket}/code", checkout)
    content = storage.read_bytes(first.uri)
    assert vertex_package.ship(f"gs://{bucket}/code", checkout).uri == first.uri
    assert storage.read_bytes(first.uri) == content


@pytest.mark.emulators
@pytest.mark.parametrize("mistake", [
    ("--tune", "2", "--parallel_trials", "3"),
    ("--parallel_trials", "3"),
    ("--accelerator_type", "T4", "--accelerator_count", "1"),
    ("--tune", "2", "--", "--learning_rate", "0.1"),
    ("--tune", "2", "--", "--tune", "3"),
    ("--", "--seed", "x"),
], ids=" ".join)  # fmt: skip
def test_nothing_is_uploaded_before_all_is_judged(bucket: str, mistake: tuple[str, ...]) -> None:
    own, _, behind = " ".join(mistake).partition("-- ")
    with VertexStub() as service:
        package = ("--package", f"gs://{bucket}/code")
        assert submit(service, *package, *own.split(), task=(*vertex_runs.TASK, *behind.split())) == 2
        assert not service.requests
    assert not storage.exists(f"gs://{bucket}/code")


@pytest.mark.emulators
def test_a_job_runs_the_shipped_code_and_not_the_images(
    world: World, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image has all libraries, pip, and an older trainer that cannot train."""
    vertex_runs.hurry(monkeypatch)
    venv.create(tmp_path / "image", with_pip=True)
    site = next((tmp_path / "image" / "lib").iterdir()) / "site-packages"
    subprocess.run(["rm", "-rf", str(site / "setuptools"), str(site / "pkg_resources")], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "trainer").mkdir()
    (site / "trainer" / "__init__.py").write_text("")
    (site / "trainer" / "task.py").write_text("raise SystemExit('the image\\'s own trainer')")
    image = vertex_runs.our_image(str(tmp_path / "image" / "bin" / "python"), PYTHONPATH="", CLV_CODE_VERSION="old")
    training = vertex_runs.upload(world.training, f"gs://{bucket}/features/training")
    evaluation = vertex_runs.upload(world.evaluation, f"gs://{bucket}/features/evaluation")
    task = ("--features", training, "--evaluation", evaluation, "--output", f"gs://{bucket}/model", "--model", "pareto")
    with VertexStub(images={IMAGE: image}, polls=1, seconds=0.1) as service:
        assert submit(service, "--key", "image", task=task) == 1
        assert "the image's own trainer" in service.jobs[0].output
        assert submit(service, "--package", f"gs://{bucket}/code", task=task) == 0, service.jobs[-1].output
    manifest = json.loads(storage.read_bytes(f"gs://{bucket}/model/manifest.json"))
    assert manifest["model"] in ("pareto", "mbgnbd")
    assert manifest["code_version"] == vertex_package.code_version() != "old"
    assert sys.executable not in capsys.readouterr().err
