"""The whole deployment into Cloud Storage's emulator, its templates made by the real gcloud."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration import deploy_dags
from templates.parameters import TEMPLATES
from tests.emulators.services import HOST, CloudStorage
from tests.orchestration.test_deploy import REGISTRY, ROOT, SETTINGS, TAG
from tests.templates import gcloud
from transforms import storage


class Images(http.server.BaseHTTPRequestHandler):
    """Artifact Registry, as far as gcloud asks it whether an image is there."""

    there: set[str] = set()
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = re.fullmatch(r"/v1/(projects/.*/packages/(\w+))/tags(\?.*)?", self.path)
        tags = [name.partition(":")[2] for name in self.there if found and name.startswith(f"{found[2]}:")]
        if found and tags:
            version = f"{found[1]}/versions/sha256:{'0' * 64}"
            self.answer(200, {"tags": [{"name": f"{found[1]}/tags/{tag}", "version": version} for tag in tags]})
        elif re.fullmatch(r"/v1/projects/[^/]+/locations/[^/]+/repositories/\w+(\?.*)?", self.path):
            self.answer(200, {"name": self.path.split("?")[0].removeprefix("/v1/"), "format": "DOCKER"})
        else:
            self.answer(
                404, {"error": {"code": 404, "message": "Requested entity was not found.", "status": "NOT_FOUND"}}
            )

    def answer(self, code: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Images, "there", {f"{name}:{tag}" for name in TEMPLATES for tag in (TAG, "old")})
    monkeypatch.setattr(Images, "asked", [])
    with http.server.ThreadingHTTPServer((HOST, 0), Images) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{server.server_port}/"
        server.shutdown()


@pytest.mark.emulators
class TestCloud:
    @pytest.fixture
    def environment(self, cloud_storage: CloudStorage, images: str, tmp_path: Path) -> dict[str, str]:
        found = gcloud.environment(tmp_path / "gcloud", cloud_storage.url)
        return {**found, "CLOUDSDK_API_ENDPOINT_OVERRIDES_ARTIFACTREGISTRY": images}

    @pytest.fixture
    def composer(self, cloud_storage: CloudStorage, bucket: str) -> str:
        """The bucket of a Composer environment, and of everything else."""
        return f"gs://{bucket}"

    @pytest.fixture
    def settings(self, tmp_path: Path, composer: str) -> Path:
        path = tmp_path / "shop.toml"
        path.write_text(SETTINGS.format(bucket=composer + "/clv", composer=composer, registry=REGISTRY))
        return path

    def run(self, settings: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestration.deploy", "--deployment", str(settings), "--yes", *more],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def test_everything_and_then_nothing(self, settings: Path, composer: str, environment: dict[str, str]) -> None:
        done = self.run(settings, environment)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in TEMPLATES:
            spec = json.loads(storage.read_bytes(f"{composer}/clv/templates/{TAG}/{name}.json"))
            assert spec["image"] == f"{REGISTRY}/{name}:{TAG}"
        found = {path.partition("/")[2] for path in storage.list_files(composer)}
        (version,) = deploy_dags.entries(storage.read_bytes(f"{composer}/dags/clv_pipelines.py"))
        directory = version["directory"]
        assert f"dags/clv_versions/{directory}/orchestration/dags/build_train_deploy.py" in found
        (wheel,) = (path for path in found if path.endswith(".whl"))
        assert wheel == f"clv/packages/{directory}/clv_pipelines-0.1.0-py3-none-any.whl"
        again = self.run(settings, environment)
        assert again.returncode == 0 and "nothing is to be done" in again.stdout, again.stdout + again.stderr
        assert "make " not in again.stdout and "replace " not in again.stdout

    def test_an_image_that_is_missing(self, settings: Path, composer: str, environment: dict[str, str]) -> None:
        Images.there.discard(f"predict:{TAG}")
        done = self.run(settings, environment, "--only", "templates")
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr == (
            f"error: {REGISTRY}/predict:{TAG}: no such image; accepted are images that exist (--image), or --build, which "
            "makes them\n"
        )
        assert not storage.list_files(composer)

    def test_only_images_that_are_missing_are_built(self, settings: Path, environment: dict[str, str]) -> None:
        Images.there.discard(f"predict:{TAG}")
        planned = self.run(settings, environment, "--only", "templates", "--build", "--print_only")
        assert planned.returncode == 0, planned.stderr
        builds = [line for line in planned.stdout.splitlines() if "gcloud builds submit" in line]
        assert len(builds) == 1 and f"_IMAGE={REGISTRY}/predict:{TAG}" in builds[0]
        assert planned.stdout.count("it is there and stays") == len(TEMPLATES) - 1

    def test_a_template_of_another_content_is_replaced(
        self, settings: Path, composer: str, environment: dict[str, str]
    ) -> None:
        place = f"{composer}/clv/templates/{TAG}/publish.json"
        storage.write_bytes(place, b'{"image": "another"}')
        done = self.run(settings, environment, "--only", "templates")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"replace  {place}" in done.stdout
        assert json.loads(storage.read_bytes(place))["image"] == f"{REGISTRY}/publish:{TAG}"
