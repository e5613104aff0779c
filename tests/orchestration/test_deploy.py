"""Deploying: nothing without a yes, nothing twice, no half version ever loaded, no version deleted that is in use."""

from __future__ import annotations

import datetime
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import deploy, deploy_dags, deploy_loader, deployment
from orchestration.deploy_package import Version
from transforms import storage
from transforms.errors import JobFailed, UsageError

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
TAG = "2026-11-22"
SETTINGS = """\
project = "test-project"
region = "europe-west1"
bucket = "{bucket}"
dataset = "test-project.shop"
image = "{registry}/features:2026-11-22"   # the tag of the day
composer_bucket = "{composer}"
[orders]
files = "gs://shop-orders/{{date}}/*.parquet"
[serving]
store = "datastore://test-project"
"""
REGISTRY = "europe-west1-docker.pkg.dev/test-project/clv"


@pytest.fixture
def airflow(tmp_path: Path) -> Path:
    """The directory of an Airflow of one's own."""
    (tmp_path / "airflow").mkdir()
    return tmp_path / "airflow"


@pytest.fixture
def file(tmp_path: Path, airflow: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(SETTINGS.format(bucket="gs://shop", composer=airflow, registry=REGISTRY))
    return path


def deployed(file: Path, *more: str, now: datetime.datetime = NOW) -> None:
    deploy.run(["--deployment", str(file), "--only", "dags", *more], clock=lambda: now)


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file, with the inode that a rewrite would change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def loaded(airflow: Path) -> str:
    """The version that the loader names first."""
    return deploy_dags.entries((airflow / "dags" / deploy_dags.LOADER).read_bytes())[0]["directory"]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yess\n"])
def test_nothing_is_done_without_a_yes(
    answer: str, file: Path, airflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert deploy.main(["--deployment", str(file), "--only", "dags"]) == 1
    said = capsys.readouterr()
    assert f"switch   {airflow}/dags/clv_pipelines.py to " in said.out and "do this? [y/N]" in said.out
    assert said.err == "error: nothing was done: the answer was not yes\n"
    assert not list(airflow.iterdir())


def test_a_plan_alone_changes_nothing(file: Path, airflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy.main(["--deployment", str(file), "--only", "dags", "--print_only"]) == 0
    assert "files" in capsys.readouterr().out and not list(airflow.iterdir())


def test_a_yes_deploys_and_again_does_nothing(
    file: Path, airflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    deployed(file)
    version = loaded(airflow)
    root = airflow / "dags" / deploy_loader.FOLDER / version
    assert f"done: dags {airflow}/dags: {version}" in capsys.readouterr().out
    assert deploy_loader.complete(root)
    assert (root / "deployment.toml").read_text() == file.read_text()
    # The packages as they are here, with what is not Python, and nothing else.
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "orchestration", "pipelines", "serving", "templates", "trainer", "transforms"
    }  # fmt: skip
    for path in ("orchestration/dags/predict_serve.py", "templates/publish/metadata.json", "pipelines/publish.toml"):
        assert (root / path).read_bytes() == (ROOT / path).read_bytes()
    assert (airflow / "dags" / deploy_loader.FOLDER / ".airflowignore").read_bytes() == deploy_dags.EVERYTHING
    before = written(airflow)
    deployed(file, "--yes", now=NOW + datetime.timedelta(days=9))
    assert "nothing is to be done" in capsys.readouterr().out
    assert written(airflow) == before


def test_another_image_is_written_into_the_version_s_settings(file: Path, airflow: Path) -> None:
    deployed(file, "--yes", "--image", "2026-12-24")
    root = airflow / "dags" / deploy_loader.FOLDER / loaded(airflow)
    assert deployment.read(root / "deployment.toml").image == f"{REGISTRY}/features:2026-12-24"
    assert "# the tag of the day" in (root / "deployment.toml").read_text()
    assert f"{REGISTRY}/features:{TAG}" in file.read_text()


def test_a_whole_image(file: Path) -> None:
    _, found = deploy.settings(file, "gcr.io/shop/trainer:7")
    assert found.template_image("publish") == "gcr.io/shop/publish:7"
    assert found.template("publish") == "gs://shop/templates/7/publish.json"
    file.write_text(file.read_text().replace("image =", "'image' ="))
    with pytest.raises(UsageError, match="--image finds no line"):
        deploy.settings(file, "8")


def test_an_image_that_may_be_another_one_tomorrow(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy.main(["--deployment", str(file), "--image", "latest", "--only", "dags"]) == 2
    said = capsys.readouterr().err
    assert "image 'europe-west1-docker.pkg.dev/test-project/clv/features:latest' is not usable" in said
    assert said.count("\n") == 1


# --- Versions --------------------------------------------------------------------------------------------------------

DAG_FILE = "import pipelines.part\nprint({name!r}, pipelines.part.NAME)\n"


def version(name: str) -> Version:
    """A version that says its name when it is loaded."""
    files = {f"orchestration/dags/{dag}.py": DAG_FILE.format(name=dag).encode() for dag in deploy_loader.DAGS}
    files |= {f"{package}/__init__.py": b"" for package in ("orchestration", "orchestration/dags", "pipelines")}
    files["pipelines/part.py"] = f"import os\nNAME = '{name} ' + os.environ['CLV_CODE_VERSION']\n".encode()
    return Version(f"1.0-{name}", f"1.0+{name}", files, ("", b""))


def into(airflow: Path, name: str, now: datetime.datetime = NOW) -> deploy_dags.Plan:
    plan = deploy_dags.planned(str(airflow), version(name), now)
    deploy_dags.carry_out(plan)
    return plan


def says(airflow: Path, before: str = "") -> str:
    """What a parser gets that executes the loader, as Airflow does by its path."""
    program = f"{before}\nimport runpy; runpy.run_path({str(airflow / 'dags' / deploy_dags.LOADER)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=airflow, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout or done.stderr.strip().splitlines()[-1]


def both(name: str) -> str:
    return f"build_train_deploy {name} 1.0+{name}\npredict_serve {name} 1.0+{name}\n"


def test_a_new_version_takes_the_old_one_s_place(airflow: Path) -> None:
    into(airflow, "a")
    assert says(airflow) == both("a")
    assert into(airflow, "b").before == "1.0-a"
    assert says(airflow) == both("b")
    into(airflow, "a")  # back again
    assert says(airflow) == both("a")


def test_what_an_old_version_left_in_the_process_is_not_used(airflow: Path) -> None:
    into(airflow, "a")
    into(airflow, "b")
    old = airflow / "dags" / deploy_loader.FOLDER / "1.0-a"
    imported = (
        f"import os, sys; os.environ['CLV_CODE_VERSION'] = ''; sys.path.insert(0, {str(old)!r}); import pipelines.part"
    )
    assert says(airflow, imported) == both("b")
    # And a second parse in one process registers the DAGs again.
    loader = str(airflow / "dags" / deploy_dags.LOADER)
    assert says(airflow, f"import runpy; runpy.run_path({loader!r})") == both("b") * 2


@pytest.mark.parametrize("lost", ["pipelines/part.py", "version.json"])
def test_a_version_that_has_not_all_arrived_is_not_loaded(lost: str, airflow: Path) -> None:
    """A bucket's files come to a machine in any order, the loader perhaps first."""
    into(airflow, "a")
    into(airflow, "b")
    path = airflow / "dags" / deploy_loader.FOLDER / "1.0-b" / lost
    content = path.read_bytes()
    path.unlink()
    assert says(airflow) == both("a")
    path.write_bytes(content[:-1])
    assert says(airflow) == both("a")
    path.write_bytes(content)
    assert says(airflow) == both("b")
    (airflow / "dags" / deploy_loader.FOLDER / "1.0-a" / lost).unlink()
    path.unlink()
    assert "is complete (1.0-b, 1.0-a)" in says(airflow)


@pytest.mark.parametrize("writes", [0, 1, 3, 6, 7])
def test_killed_in_the_middle_the_old_version_stays(
    writes: int, airflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into(airflow, "a")
    left, write = [writes], storage.write_bytes

    def until_killed(uri: str, content: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(uri, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", until_killed)
        patch.setattr(deploy_dags, "_AT_A_TIME", 1)
        with pytest.raises(KeyboardInterrupt):
            into(airflow, "b")
    assert says(airflow) == both("a")
    begun = airflow / "dags" / deploy_loader.FOLDER / "1.0-b"
    kept = written(begun)
    assert len(kept) == max(0, writes - 1)  # the first write is .airflowignore
    into(airflow, "b")
    assert says(airflow) == both("b")
    assert kept.items() <= written(begun).items()  # what was there is not written again


def test_versions_are_kept_while_a_task_may_need_them(airflow: Path) -> None:
    for hours, name in enumerate("abc"):
        into(airflow, name, NOW + datetime.timedelta(hours=hours))
    folder = airflow / "dags" / deploy_loader.FOLDER
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1.0-a", "1.0-b", "1.0-c"}
    # a was replaced by b at hour 1, b by c at hour 2: of both the time has come, but b is the one before.
    plan = into(airflow, "c", NOW + deploy_dags.KEPT + datetime.timedelta(hours=1))
    assert plan.retired == ("1.0-a",) and not plan.missing
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1.0-b", "1.0-c"}
    assert says(airflow) == both("c")
    assert deploy_dags.planned(str(airflow), version("c"), NOW + deploy_dags.KEPT * 2).is_done


def test_what_a_killed_deployment_left_goes_when_it_is_old(airflow: Path) -> None:
    into(airflow, "a")
    lost = airflow / "dags" / deploy_loader.FOLDER / "1.0-lost" / "pipelines"
    lost.mkdir(parents=True)
    (lost / "part.py").write_text("")
    since = datetime.datetime.now(datetime.UTC)
    assert deploy_dags.planned(str(airflow), version("a"), since + datetime.timedelta(days=1)).is_done
    late = deploy_dags.planned(str(airflow), version("a"), since + datetime.timedelta(days=3))
    assert late.retired == ("1.0-lost",)
    deploy_dags.carry_out(late)
    assert not lost.parent.exists() and says(airflow) == both("a")


def test_of_two_deployments_at_once_one_is_loaded(airflow: Path) -> None:
    into(airflow, "a")
    mine, other = (deploy_dags.planned(str(airflow), version(name), NOW) for name in "bc")
    deploy_dags.carry_out(other)
    with pytest.raises(JobFailed, match="changed by another deployment meanwhile"):
        deploy_dags.carry_out(mine)
    assert says(airflow) == both("c")


def test_a_file_that_is_not_ours_is_not_replaced(airflow: Path) -> None:
    (airflow / "dags").mkdir()
    (airflow / "dags" / deploy_dags.LOADER).write_text("from airflow import DAG\n")
    with pytest.raises(UsageError, match="was not written by this command: move it away"):
        deploy_dags.planned(str(airflow), version("a"), NOW)


def test_a_directory_that_is_not_there(file: Path, airflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    airflow.rmdir()
    assert deploy.main(["--deployment", str(file), "--only", "dags", "--yes"]) == 2
    assert f"composer_bucket '{airflow}' is not usable: there is no such directory" in capsys.readouterr().err


def test_the_ignore_file_means_everything_in_both_of_airflow_s_languages() -> None:
    import fnmatch

    pattern = deploy_dags.EVERYTHING.decode().strip()
    for directory in ("0.1.0-4f2a9c1b7d3e-12ab34cd56", "v1", "_x", "X"):
        assert fnmatch.fnmatchcase(directory, pattern) and re.search(pattern, f"clv_versions/{directory}")


def test_airflow_takes_the_loader_for_a_dag_file() -> None:
    """It looks for these two words before it executes anything."""
    text = deploy_dags.loader([]).lower()
    assert b"airflow" in text and b"dag" in text


# --- What Composer installs ------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gcloud that notes its arguments, and ends with the number that beside it is written."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gcloud").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/said\nexit $(cat {folder}/code)\n')
    (folder / "gcloud").chmod(0o755)
    (folder / "code").write_text("0")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_composer_installs_packages_only_when_it_is_told_to(
    file: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    composer = 'composer_bucket = "gs://composer"\ncomposer_environment = "clv"'
    file.write_text(re.sub("composer_bucket = .*", composer, file.read_text()))
    given = ["--deployment", str(file), "--only", "packages", "--yes"]
    assert deploy.main(given) == 0
    shown = capsys.readouterr().out
    assert "not installed (--install)" in shown and not (program / "said").exists()
    assert deploy.main([*given, "--install"]) == 0
    said = (program / "said").read_text().splitlines()
    assert said[:6] == [
        "composer", "environments", "update", "clv", "--location=europe-west1", "--project=test-project"
    ]  # fmt: skip
    # One by one: from a file gcloud would remove everything that is not in it.
    assert said[6:] == [f"--update-pypi-package={name}" for name in deploy.requirements()] and len(said) > 7
    (program / "code").write_text("3")
    assert deploy.main([*given, "--install"]) == 1
    assert "gcloud composer environments update ended with 3" in capsys.readouterr().err


def test_where_packages_cannot_be_installed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--deployment", str(file), "--only", "packages", "--yes", "--install"]
    assert deploy.main(given) == 2
    assert "run pip install -r orchestration/requirements-composer.txt where Airflow runs" in capsys.readouterr().err
    file.write_text(re.sub("composer_bucket = .*", 'composer_bucket = "gs://composer"', file.read_text()))
    assert deploy.main(given) == 2
    assert "--install needs the setting composer_environment" in capsys.readouterr().err


def test_composer_gets_what_the_project_declares() -> None:
    """A lower bound of its own may be lower, so that it fits what Composer has; names and upper bounds are the same."""
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=]", requirement)[0]: requirement.rpartition("<")[2] for requirement in declared}
    for requirement in deploy.requirements():
        assert names[re.split(r"[\[<>=]", requirement)[0]] == requirement.rpartition("<")[2]
