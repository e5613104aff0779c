"""What ships: the source distribution that Beam's --setup_file makes for the workers, and the lock."""

from __future__ import annotations

import re
import tarfile
import tomllib
from pathlib import Path

import pytest
from apache_beam.runners.portability.stager import Stager

from pipelines.options import pipeline_options

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("setup_file", ["setup.py", str(ROOT / "setup.py"), None], ids=["bare", "absolute", "default"])
def test_beam_stages_our_packages(setup_file: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam builds the distribution that Dataflow's workers install; tests and benchmarks stay at home."""
    monkeypatch.chdir(ROOT)
    given = [] if setup_file is None else ["--setup_file", setup_file]
    options = pipeline_options(
        [
            "--runner",
            "DataflowRunner",
            "--project",
            "p-12345",
            "--region",
            "r",
            "--temp_location",
            "gs://bucket/temp",
            *given,
        ]
    )
    Stager.create_job_resources(options, str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {"/".join(name.split("/")[1:]) for name in tar.getnames()}
    assert {
        "transforms/schema.py",
        "pipelines/features.py",
        "trainer/predictor.py",
        "serving/store.py",
        "pipelines/publish.toml",
        "transforms/skew.toml",
        "templates/publish/metadata.json",
        "serving/page/index.html",
        "orchestration/dags/predict_serve.py",
        "orchestration/deployment.example.toml",
        "orchestration/requirements-composer.txt",
    } <= names
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)


LOCKS = (
    "requirements.lock",
    "orchestration/requirements-airflow.lock",
    "orchestration/requirements-airflow-oldest.lock",
)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_pinned_by_hash_and_names_no_host(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert "://" not in lock
    requirements = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"(?m)^\s*#.*\n", "", lock).strip())
    for requirement in requirements:
        assert re.match(r"[\w.\[\]-]+==", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


@pytest.mark.parametrize(("variable", "suffix"), [("AIRFLOW", ""), ("AIRFLOW_OLDEST", "-oldest")])
def test_airflow_s_locks_hold_the_versions_that_the_makefile_names(variable: str, suffix: str) -> None:
    version = re.search(rf"(?m)^{variable} := (\S+)$", (ROOT / "Makefile").read_text())
    assert version
    lock = (ROOT / f"orchestration/requirements-airflow{suffix}.lock").read_text()
    assert re.findall(r"(?m)^apache-airflow==(\S+)", lock) == [version[1]]
    asked = (ROOT / "orchestration/requirements-composer.txt").read_text()
    names = set(re.findall(r"(?m)^([\w.-]+)", asked))
    assert names and names <= set(re.findall(r"(?m)^([\w.-]+)==", lock))
    assert not re.search(r"(?m)^(tensorflow|keras)\b", lock)  # a scheduler must not load it


def test_the_lock_holds_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    dev = [requirement for requirement in groups["dev"] if isinstance(requirement, str)]
    declared = project["project"]["dependencies"] + dev + groups["service"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in declared}  # type: ignore[index]
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (ROOT / "requirements.lock").read_text()))
    assert names <= locked
