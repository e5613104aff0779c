"""What is in the lookup service's image: it answers as its Dockerfile starts it, with what is locked and nothing else."""

from __future__ import annotations

import re
import signal
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulators.services import FirestoreInDatastoreMode
from tests.serving import page_service
from tests.serving.google_keys import AUDIENCE, EMAIL, GoogleKeys
from tests.serving.image_process import content, ended, own, python, read_only, started
from tests.serving.service import publish
from tests.serving.store_contract import prediction
from tests.templates import environment
from tests.templates.dockerfile import Copy, instructions
from tests.templates.environment import SERVICE, Container, Environment

ROOT = environment.CONTEXT
LOCK = ROOT / "serving" / "requirements.lock"
CODE = "0.1.0-0123456789ab+dirty"
MOST_BYTES = 160 * 2**20  # 126 MB were measured; NumPy and Arrow alone would be 200 more
PATHS = ("/", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready", "/v1/generation")


def pins(path: Path) -> dict[str, set[str]]:
    """Each package with its versions: some have one for older and one for newer Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==([^ \\;]+)", path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


# --- The recipe and the lock ----------------------------------------------------------------------------------------


def test_the_lock_is_the_projects_without_what_the_service_does_not_need() -> None:
    whole, locked = pins(ROOT / "requirements.lock"), pins(LOCK)
    assert locked.keys() <= whole.keys()
    for name, versions in locked.items():
        assert versions <= whole[name], f"{name}: `make lock` makes both anew"
    assert not {"apache-beam", "tensorflow", "pyarrow", "numpy", "pytest", "uv"} & locked.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {re.match(r"[\w.-]+", line)[0] for line in project["dependency-groups"]["service"]}  # type: ignore[index]
    assert declared <= locked.keys()


def test_the_lock_is_pinned_by_hash_and_names_no_host() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text).strip())
    assert len(requirements) > 30
    for requirement in requirements:
        assert re.match(r"[\w.\[\]-]+==", requirement) and "--hash=sha256:" in requirement, requirement


def test_the_recipe() -> None:
    text = (ROOT / SERVICE.dockerfile).read_text()
    found = instructions(text)
    base = [each.value for each in found if each.keyword == "FROM"]
    template = instructions((ROOT / "templates" / "Dockerfile").read_text())
    assert base == [template[0].value], "one Python for all images"
    runs = [each.value for each in found if each.keyword == "RUN"]
    (install,) = (run for run in runs if run.startswith("pip install "))
    assert (
        "--require-hashes" in install and "--no-deps" in install and install.endswith("-r /service/requirements.lock")
    )
    assert runs.index("pip check") > runs.index(install)
    assert [each.value for each in found if each.keyword == "ARG"] == ["CODE_VERSION"]
    uploaded = (ROOT / ".gcloudignore").read_text().splitlines()
    copies = [copied for each in found if each.keyword == "COPY" and (copied := Copy.parse(each))]
    assert all(f"!/{source.split('/')[0]}" in uploaded for copied in copies for source in copied.sources)
    lines = text.splitlines()
    for line, before in zip(lines[1:], lines, strict=False):
        assert not line.startswith("RUN") or before.startswith(("# ", "COPY ")), f"{line}: what is it for?"


def test_cloud_build_builds_it() -> None:
    recipe = (ROOT / "serving" / "cloudbuild.yaml").read_text()
    assert "--file=serving/Dockerfile" in recipe
    assert "--tag=${_IMAGE}" in recipe and 'images: ["${_IMAGE}"]' in recipe
    assert "--build-arg=CODE_VERSION=${_CODE_VERSION}" in recipe
    # What has no default, Cloud Build would insist on.
    assert re.search(r'(?m)^substitutions:\n  _CODE_VERSION: ""', recipe)


# --- What is installed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> Environment:
    return environment.make(recipe=SERVICE)


@pytest.fixture(scope="module")
def container(made: Environment) -> Container:
    return made.container({"CODE_VERSION": CODE})


@pytest.fixture(scope="module")
def uri(container: Container) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite://{folder}/serving.db"
        publish(uri, "g1", [prediction("c1", 7.0), prediction("c2")])
        own(Path(folder), container)
        yield uri


@pytest.mark.templates
@pytest.mark.parametrize(
    "module",
    ["apache_beam", "tensorflow", "keras", "pyarrow", "numpy", "scipy", "pandas", "duckdb", "lightgbm", "pytest",
     "hypothesis", "pipelines", "trainer", "orchestration", "templates", "benchmarks", "tests"],
)  # fmt: skip
def test_nothing_else_is_importable(container: Container, module: str) -> None:
    done = python(container, "-c", f"import {module}")
    assert done.returncode == 1
    assert done.stderr.endswith(f"ModuleNotFoundError: No module named '{module}'\n")


@pytest.mark.templates
def test_what_is_installed_is_what_is_locked(container: Container) -> None:
    listed = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
    lines = python(container, "-I", "-c", listed).stdout.splitlines()
    found = {re.sub("[-_.]+", "-", name).lower(): version for name, version in (line.split(" ", 1) for line in lines)}
    locked = pins(LOCK)
    assert found.keys() - locked.keys() <= {"pip", "setuptools"}, "the base image's"
    assert locked.keys() <= found.keys()
    assert [name for name in locked if found[name] not in locked[name]] == []


@pytest.mark.templates
def test_nothing_is_missing(container: Container) -> None:
    done = python(container, "-m", "pip", "--disable-pip-version-check", "check")
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n"), done.stderr


@pytest.mark.templates
def test_the_folder_holds_what_was_copied_and_its_bytecode(made: Environment) -> None:
    assert {path.name for path in made.folder.iterdir()} == {"requirements.lock", "transforms", "serving"}
    for package in ("transforms", "serving"):
        sources = {path.relative_to(made.folder) for path in (made.folder / package).rglob("*.py")}
        assert sources == {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        compiled = {path.name.split(".")[0] for path in (made.folder / package / "__pycache__").iterdir()}
        assert compiled == {path.stem for path in sources if path.parent == Path(package)}
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(SERVICE.home)}))
    assert (libraries / "fastapi" / "__pycache__").is_dir()


@pytest.mark.templates
def test_it_is_small(made: Environment) -> None:
    size = sum(path.lstat().st_size for path in SERVICE.home.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < MOST_BYTES, f"{size / 2**20:.0f} MB"


@pytest.mark.templates
def test_it_knows_which_code_it_is(made: Environment, container: Container) -> None:
    assert python(container, "-m", "transforms.version").stdout == f"{CODE}\n"
    assert python(made.container({}), "-m", "transforms.version").stdout == "0.1.0\n"


# --- How it starts --------------------------------------------------------------------------------------------------


@pytest.mark.templates
def test_the_entry_point_alone_listens_to_everybody_and_then_wants_tokens(container: Container, uri: str) -> None:
    assert container.command == ("python", "-m", "serving.app", "--host", "0.0.0.0")
    assert container.user is not None, "nothing needs to be root"
    done = ended(container, "--serving", uri, "--no_auth")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --no_auth with --host '0.0.0.0' is not usable"), done.stderr


@pytest.mark.templates
def test_customers_and_pages_of_a_file(container: Container, uri: str) -> None:
    with started(container, "--serving", uri, "--no_auth") as service:
        row = service.client.value("c1").json()
        assert (row["customer_id"], row["predicted_value"], row["as_of"]) == ("c1", 7.0, "2011-12-10")
        both = service.client.look_up(["c2", "nobody"]).json()
        assert ([row["customer_id"] for row in both["found"]], both["missing"]) == (["c2"], ["nobody"])
        assert service.client.value("nobody").code == "no_prediction"
        assert {path: service.client.get(path).status for path in PATHS} == dict.fromkeys(PATHS, 200)
        assert b"swagger" in service.client.get("/docs").body
        assert b"clv_http_request" in service.client.get("/metrics").body
        service.process.terminate()
        assert service.process.wait(20) in (0, -signal.SIGTERM)
        assert service.log.read_text().count("\n") == 1, "nothing to complain of"


@pytest.mark.templates
def test_customers_of_datastore(
    container: Container, emulator_environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FirestoreInDatastoreMode() as datastore:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", datastore.host)
        publish("datastore://test-image", "g1", [prediction("c1", 7.0)])
        found = {"DATASTORE_EMULATOR_HOST": datastore.host}
        with started(container, "--serving", "datastore://test-image", "--no_auth", **found) as service:
            assert service.client.value("c1").json()["predicted_value"] == 7.0
            assert service.client.look_up(["c1", "nobody"]).json()["missing"] == ["nobody"]
            assert service.client.get("/health/ready").status == 200


@pytest.mark.templates
def test_callers_show_a_token(container: Container, uri: str) -> None:
    """Google's keys are fetched and read by what is in the image."""
    entry, module, *rest = container.command[0], container.command[1:3], *container.command[3:]
    assert module == ("-m", "serving.app")
    with GoogleKeys() as google:
        keyed = replace(container, command=(entry, "-c", page_service.WITH_KEYS_OF, google.url, *rest))
        access = ("--audience", AUDIENCE, "--caller", EMAIL)
        with started(keyed, "--serving", uri, *access) as service:
            assert service.client.value("c1").status == 401
            assert service.client.value("c1", Authorization=f"Bearer {google.token()}").json()["predicted_value"] == 7.0
            other = google.token("somebody@shop.iam.gserviceaccount.com")
            assert service.client.value("c1", Authorization=f"Bearer {other}").status == 403
            assert google.requests == 1


@pytest.mark.templates
def test_nothing_is_written(container: Container, uri: str) -> None:
    """Neither where the image's folder is, which its user may only read, nor beside the libraries."""
    with read_only(container) as locked:
        for place in (locked.folder, locked.folder / "serving"):
            done = python(locked, "-c", f"open({str(place / 'new')!r}, 'w')")
            assert "PermissionError" in done.stderr, "else this test would see nothing"
        folders = (locked.folder, SERVICE.home / "lib")
        before = content(folders)
        with started(locked, "--serving", uri, "--no_auth") as service:
            assert service.client.value("c1").status == 200
            assert {service.client.get(path).status for path in PATHS} == {200}
        assert content(folders) == before
